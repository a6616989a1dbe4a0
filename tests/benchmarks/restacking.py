"""The way of starter codes, to compare with: all messages through pygrib's ``.values``, then every pair stacked anew.

Written after what Microsoft's vibe-kit does with ERA5 (``extract_data_from_grib.py`` of its Aurora fine-tuning code);
each state enters three pairs, twice as an input and once as a target. Saving is numpy's plainest.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pygrib

__all__ = ["restack"]

_STATIC = ("z", "lsm", "slt")


def restack(path: Path, out: Path) -> int:
    """Read a file of GRIB and save its pairs, one file each; returns how many."""
    states = _decoded(path)
    times = sorted(states)
    out.mkdir()
    for number, (earlier, now, later) in enumerate(zip(times, times[1:], times[2:], strict=False)):
        pair: dict[str, Any] = {name: np.stack([states[earlier][name], states[now][name]]) for name in states[now]}
        pair |= {f"target {name}": values[None] for name, values in states[later].items()}
        np.savez(out / f"{number}.npz", **pair)
    return len(times) - 2


def _decoded(path: Path) -> dict[Any, dict[str, npt.NDArray[np.float32]]]:
    """All fields by time: those on levels stacked."""
    found: dict[Any, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    with pygrib.open(str(path)) as messages:
        for message in messages:
            on_levels = message.typeOfLevel == "isobaricInhPa"
            if on_levels or message.shortName not in _STATIC:
                found[message.validDate][message.shortName][message.level if on_levels else 0] = message.values
    return {
        time: {
            name: np.stack([by_level[level] for level in sorted(by_level)]).astype("f4") for name, by_level in v.items()
        }
        for time, v in found.items()
    }
