"""Scores of precipitation while a model trains: contingency tables by thresholds, and the error in millimetres.

Tables count grid points, each of which weighs the same; ``kit.verification.events`` has more scores, weighted by area.

Dimensions: B batch, H latitude, W longitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from kit.metrics.contingency import MM_PER_M, OUTCOMES, THRESHOLDS_MM, csi, events, frequency_bias, outcomes
from kit.metrics.scores import add_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class RainScores:
    """Scores of one variable; NaN where nothing can be said."""

    rmse_mm: float
    """Root of the mean squared error, every grid point weighing the same, in mm."""
    csi: Mapping[float, float]
    """Critical success index by threshold in mm; NaN where neither saw any."""
    bias: Mapping[float, float]
    """Frequency bias by threshold in mm; NaN where none was observed."""


class RainBoard:
    """Streaming scores of accumulated precipitation.

    Sums are kept on the device of the predictions and read back only by ``results``. A missing value makes all
    scores of its variable NaN: nothing is skipped quietly.
    """

    def __init__(self, thresholds_mm: Sequence[float] = THRESHOLDS_MM) -> None:
        """Start with no samples.

        Args:
            thresholds_mm: amounts per step from which on rain counts.
        """
        self._thresholds = tuple(thresholds_mm)
        self._sums: dict[str, Tensor] = {}
        """Squared error in m2, points, then hits, misses and false alarms of each threshold; [2 + 3 x N], float64."""

    @torch.no_grad()
    def update(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Add one batch.

        Args:
            predictions: precipitation in metres, [B, H, W] each.
            targets: the same variables, the same shapes.

        Raises:
            ValueError: names or shapes differ.
        """
        if predictions.keys() != targets.keys():
            msg = f"predictions hold {sorted(predictions)}, but targets hold {sorted(targets)}"
            raise ValueError(msg)
        for name, predicted in predictions.items():
            if predicted.shape != targets[name].shape:
                msg = f"{name}: {list(predicted.shape)} predicted, but {list(targets[name].shape)} as target"
                raise ValueError(msg)
            observed = targets[name].to(predicted.device)
            # Points weigh the same here, as in the counts beside it.
            squared = (predicted.double() - observed.double()).square().sum()
            sums = [squared, squared.new_tensor(predicted.numel())]
            for threshold in self._thresholds:
                counted = outcomes(events(predicted, threshold), events(observed, threshold))
                sums += [outcome.sum() for outcome in counted]
            add_sums(self._sums, [name], [torch.stack([value.double() for value in sums])])

    def results(self) -> dict[str, RainScores]:
        """Score everything added so far, by variable."""
        found = {}
        for name, sums in self._sums.items():
            squared, points, *counts = sums.cpu().numpy()
            # A missing value fails every comparison: in the counts alone it would pass for no rain.
            known = 1.0 if math.isfinite(squared) else math.nan
            tables = known * np.reshape(counts, (len(self._thresholds), len(OUTCOMES)))
            by_threshold = dict(zip(self._thresholds, tables, strict=True))
            found[name] = RainScores(
                MM_PER_M * math.sqrt(squared / points),
                {threshold: float(csi(*table)) for threshold, table in by_threshold.items()},
                {threshold: float(frequency_bias(*table)) for threshold, table in by_threshold.items()},
            )
        return found


def flattened(scores: Mapping[str, RainScores]) -> dict[str, float]:
    """Name scores as metrics of a run, such as ``tp_csi_0.1mm``; what cannot be said is left out."""
    found: dict[str, float] = {}
    for name, rain in scores.items():
        found[f"{name}_rmse_mm"] = rain.rmse_mm
        for kind, by_threshold in (("csi", rain.csi), ("bias", rain.bias)):
            for threshold, value in by_threshold.items():
                found[f"{name}_{kind}_{threshold:g}mm"] = value
    return {key: value for key, value in found.items() if math.isfinite(value)}
