"""Scores of precipitation: contingency tables by thresholds, and the error in millimetres.

A table counts grid points: hits (predicted and observed), misses (observed alone), false alarms (predicted
alone). The critical success index is hits / (hits + misses + false alarms), 1 at best; the frequency bias is
(hits + false alarms) / (hits + misses), above 1 where rain is predicted too often (Wilks 2011, "Statistical
Methods in the Atmospheric Sciences", section 8.2).

Dimensions: B batch, H latitude, W longitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kit.metrics.scores import add_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

THRESHOLDS_MM = (0.1, 1.0, 5.0, 10.0)
"""Amounts per step, in millimetres, from which on rain counts."""

_MM_PER_M = 1000


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
                # In the values' own precision: 0.1 mm in float32 is a little less than in float64.
                amount = threshold / _MM_PER_M
                forecast, event = predicted >= amount, observed >= amount
                sums += [(forecast & event).sum(), (~forecast & event).sum(), (forecast & ~event).sum()]
            add_sums(self._sums, [name], [torch.stack([value.double() for value in sums])])

    def results(self) -> dict[str, RainScores]:
        """Score everything added so far, by variable."""
        found = {}
        for name, sums in self._sums.items():
            squared, points, *counts = sums.tolist()
            csi, bias = dict.fromkeys(self._thresholds, math.nan), dict.fromkeys(self._thresholds, math.nan)
            for index, threshold in enumerate(self._thresholds):
                hits, misses, alarms = counts[3 * index : 3 * index + 3]
                # A missing value fails every comparison: in the counts alone it would pass for no rain.
                if math.isfinite(squared) and hits + misses + alarms:
                    csi[threshold] = hits / (hits + misses + alarms)
                if math.isfinite(squared) and hits + misses:
                    bias[threshold] = (hits + alarms) / (hits + misses)
            found[name] = RainScores(_MM_PER_M * math.sqrt(squared / points), csi, bias)
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
