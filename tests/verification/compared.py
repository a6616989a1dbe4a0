"""Sums of forecasts that were never made, with errors of choice."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.verification.archive import Axes, archiving
from kit.verification.sums import ABSOLUTE, ERROR, MODEL, MOMENTS, SQUARED, WEIGHT

START = datetime(2020, 1, 1, tzinfo=UTC)
WEIGHTS = 64.0
"""Area weights of a field, summed up."""


def write_sums(
    path: Path,
    errors: Mapping[str, npt.NDArray[np.float64]],
    *,
    leads: Sequence[float] = (24.0,),
    regions: Sequence[str] = ("all",),
    first: int = 0,
    weight: float = WEIGHTS,
    **attributes: Any,
) -> Path:
    """Write sums of forecasts whose error is the same at every grid point.

    Args:
        path: Zarr to be made.
        errors: Error of each start date, 6 h after the other, by channel.
        leads: Hours; the errors of all are the same.
        regions: Names of regions; likewise.
        first: Number of the first start date.
        weight: Area weights, summed up.
        attributes: What else the sums are of, in the place of those of one store and one checkpoint.
    """
    count = len(next(iter(errors.values())))
    starts = [START + timedelta(hours=6 * (first + number)) for number in range(count)]
    made_of = {
        "checkpoint": "given/checkpoints/best",
        "checkpoint_sha256": "0" * 64,
        "store_name": "store",
        "store_fingerprint": "f" * 64,
        "grid": {"region": None, "halo": 0.0},
        "precision": "fp32",
        "seed": None,
        **attributes,
    }
    axes = Axes(starts, leads, [MODEL], list(errors), regions)
    with archiving(path, axes, made_of) as writer:
        for number, start in enumerate(starts):
            of_lead = {name: moments(values[number], weight, len(regions)) for name, values in errors.items()}
            sums = dict.fromkeys(leads, of_lead)
            writer.write(start, MODEL, sums, regions)
    return path


def moments(error: float, weight: float, regions: int) -> npt.NDArray[np.float64]:
    """Sums of a field with one error everywhere, [R, M]; NaN of anomalies."""
    held = np.full((regions, len(MOMENTS)), np.nan)
    for name, value in ((WEIGHT, 1.0), (ERROR, error), (ABSOLUTE, abs(error)), (SQUARED, error**2)):
        held[:, MOMENTS.index(name)] = weight * value
    return held
