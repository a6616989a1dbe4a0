"""Time what comparing a checkpoint with its hashes takes: python ci/verification_time.py 5 (GiB), in a free folder.

Prints seconds: of writing a checkpoint of that size; of reading its tensors and doing nothing with them, as far as they
are in the page cache; of opening it, which compares them with their hash; of opening it again in the same process.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.io import hashes
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics
from kit.models.variants import variant_named

_TENSOR = 1 << 26
"""Values of a tensor, 256 MiB."""


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _read(file: Path) -> None:
    with file.open("rb") as stream:
        while stream.read(1 << 20):
            pass


def main(gib: float) -> None:
    """Write a checkpoint of so many GiB below the working directory, verify it, and delete it."""
    own = variant_named("small")
    spec = ModelSpec(
        variant=own.name, surface=own.surface, static=own.static, atmospheric=own.atmospheric, levels=(500,),
        history=2, timestep=own.timestep, statistics=Statistics({}),
    )  # fmt: skip
    # Random bytes: a disk may store zeros as nothing.
    tensors = {str(number): torch.rand(_TENSOR) for number in range(round(gib * 2**30 / 4 / _TENSOR))}
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place) / "last"
        description = {"kit_version": "0", "model": spec.as_dict()}
        found = {"write": _seconds(lambda: write_checkpoint(folder, tensors, description))}
        file = next(folder.glob("*.safetensors"))
        found["read alone"] = _seconds(lambda: _read(file))
        hashes._remembered.clear()
        found["open"] = _seconds(lambda: open_checkpoint(folder))
        found["open again"] = _seconds(lambda: open_checkpoint(folder))
    for what, seconds in found.items():
        sys.stdout.write(f"{what}: {seconds:.3f} s\n")


if __name__ == "__main__":
    main(float(sys.argv[1]))
