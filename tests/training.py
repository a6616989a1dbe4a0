"""Whether a store can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kit.run.finetune import finetune
from kit.settings import Settings

__all__ = ["trains"]


def trains(store: Path, run_dir: Path, **more: Mapping[str, Any]) -> bool:
    """Take two steps from random weights; whether the losses are numbers.

    Args:
        store: that is trained on.
        run_dir: of the run.
        more: settings by section, ``data`` and ``model``.
    """
    sections = {
        "run": {"name": "first", "dir": run_dir},
        "data": {"store": str(store), **more.get("data", {})},
        "model": {"weights": "random", **more.get("model", {})},
        "train": {"steps": 2},
    }
    result = finetune(Settings.model_validate(sections))
    assert result.steps == 2
    losses = np.array([result.loss["first"], result.loss["last"]], dtype=float)
    return bool(np.isfinite(losses).all())
