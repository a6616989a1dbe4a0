"""Embed the weights of a pretraining run as the tiny Aurora of the package."""

from __future__ import annotations

import sys
from pathlib import Path

from embed import embed
from kit.checkpoint.run_folder import RunFolder
from kit.models.weights.load import TENSORS

NAME = "aurora-tiny"
FILE = "aurora-tiny.safetensors"
LABELS: dict[str, str | bool] = {
    "licence": "MIT",
    "kind": "weights",
    "description": (
        "Tiny Aurora, upstream's own class with 3.5 million parameters, pretrained on an idealised planet whose land "
        "and climate are not those of era5-sample; knows nothing of real weather. Made by `nox -s pretrain`."
    ),
    "synthetic": True,
}


def main(run: Path) -> None:
    """Take the last weights, not the best: the validation states stay unseen."""
    embed(NAME, FILE, (RunFolder(run).last / TENSORS).read_bytes(), LABELS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
