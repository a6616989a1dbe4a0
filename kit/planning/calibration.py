"""Efficiencies of a card, from steps that were measured on it."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import lsq_linear

from kit.io.documents import DocumentError, read_json
from kit.io.errors import SettingsError
from kit.planning.cost import ASSUMED, Card, Cost, Efficiency

# Efficiencies that a fit may find: a rate above the data sheet's is an error, one far below it is of launches.
_LEAST, _MOST = 0.05, 1.0
# Share of all time below which a kind of kernel is not told from errors of the others.
_LEAST_SHARE = 0.02


class Calibration(BaseModel):
    """Efficiencies that were measured on a card, as a file of results holds them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    card: str = Field(max_length=100)
    bf16: float = Field(gt=0, le=1)
    tf32: float = Field(gt=0, le=1)
    fp32: float = Field(gt=0, le=1)
    traffic: float = Field(gt=0, le=1)


def calibrate_card(card: Card, costs: Sequence[Cost], seconds: Sequence[float]) -> Efficiency:
    """Fit a card's efficiencies to steps, by least squares of relative errors.

    Args:
        card: Card that the steps were taken on.
        costs: What each step costs.
        seconds: Time that it took.

    Returns:
        Efficiencies; of kinds that hardly occur, those that are assumed.
    """
    kinds = [field.name for field in fields(Efficiency)]
    best = np.array([[cost.best_seconds(card)[kind] for kind in kinds] for cost in costs])
    launches = np.array([cost.launch_seconds(card) for cost in costs])
    times = np.array(seconds)
    share = best.sum(0) / max(best.sum(), 1e-30)
    told = np.flatnonzero(share >= _LEAST_SHARE)
    left = np.flatnonzero(share < _LEAST_SHARE)
    assumed = np.array([getattr(ASSUMED, kind) for kind in kinds])
    rest = times - launches - best[:, left] @ (1 / assumed[left])
    fitted = lsq_linear(best[:, told] / times[:, None], rest / times, bounds=(1 / _MOST, 1 / _LEAST))
    found = dict(zip([kinds[place] for place in told], 1 / fitted.x, strict=True))
    return replace(ASSUMED, **{kind: float(value) for kind, value in found.items()})


def read_calibration(file: Path) -> tuple[str, Efficiency]:
    """Read a card's name and its efficiencies from results of ``kit bench card``.

    Raises:
        SettingsError: there is no such file, or no calibration in it.
    """
    try:
        found: Any = read_json(file)
        rows = found["suites"]["card"]["rows"]
        raw = next(row["calibration"] for row in rows if "calibration" in row)
        read = Calibration.model_validate(raw)
    except (OSError, DocumentError, KeyError, TypeError, StopIteration, ValidationError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        msg = f"calibration: {file}: expected results of kit bench card ({why}); run it on the card"
        raise SettingsError(msg) from None
    return read.card, Efficiency(read.bf16, read.tf32, read.fp32, read.traffic)
