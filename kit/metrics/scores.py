"""Area-weighted scores of predictions, accumulated in float64 batch by batch.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kit.data import grid as data_grid
from kit.data.statistics import channel_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy as np
    from torch import Tensor

    Coordinates = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True)
class Scores:
    """Scores of one channel, in the channel's unit."""

    rmse: float
    """Root of the mean squared error; the mean runs over area and samples together, the root comes last."""
    mae: float
    """Mean absolute error."""
    bias: float
    """Mean of prediction minus target."""
    count: int
    """Grid points scored, summed over samples; 0 makes the other scores NaN."""


def area_weights(lat: Coordinates, lon: Coordinates | None = None) -> Tensor:
    """Weight latitude rows, or the points of a curvilinear grid, by the area of the sphere that their cells cover.

    A cell reaches halfway to its neighbours, the outermost ones as far outwards as inwards but never beyond
    a pole; its area is the difference of the sines of its edges. A row on a pole is thus half a cell, not nothing.
    Cells of a curvilinear grid: ``kit.data.grid.cell_areas``, which gives the same for a regular grid.

    Args:
        lat: Row centres, degrees north, strictly decreasing, shape [H]; a regional box may hold any part. Or
            the latitudes of all points, decreasing along every column, [H, W].
        lon: Longitudes of all points, degrees east, [H, W]; without effect where latitudes are a vector.

    Returns:
        Dimensionless float64 weights of mean 1, shape [H] or [H, W], on the CPU.

    Raises:
        ValueError: ``lat`` is empty, beyond a pole, or not strictly decreasing, or longitudes do not fit it.
    """
    latitude = torch.as_tensor(lat, dtype=torch.float64, device="cpu").numpy()
    longitude = None if lon is None else torch.as_tensor(lon, dtype=torch.float64, device="cpu").numpy()
    return torch.from_numpy(data_grid.area_weights(latitude, longitude))


def skill(rmse: float, reference: float) -> float:
    """Compare an error with that of a reference: 1 is perfect, 0 as good as the reference, below 0 worse.

    Args:
        rmse: Error of the prediction.
        reference: Error of the reference, same unit.

    Returns:
        ``1 - rmse / reference``; NaN where the reference is exact (0) and nothing can be compared.
    """
    return math.nan if reference == 0 else 1 - rmse / reference


class ScoreBoard:
    """Streaming RMSE, MAE and bias of every variable and level.

    Sums are taken in float64 on the device of the predictions and read back only by ``results``. A NaN in a
    prediction or a target makes its channel's scores NaN: nothing is skipped quietly. Only for variables named
    in ``may_be_missing`` are grid points left out where the target is not finite; a prediction that is NaN where
    the target is finite still shows.
    """

    def __init__(
        self, lat: Coordinates, lon: Coordinates | None = None, *, may_be_missing: Collection[str] = ()
    ) -> None:
        """Start with no samples.

        Args:
            lat: Latitudes of the rows, degrees north, strictly decreasing, shape [H], or of all points, [H, W].
            lon: Longitudes of all points, [H, W], where latitudes are of all points.
            may_be_missing: Variables whose targets are expected to hold missing values.
        """
        self._weights = area_weights(lat, lon)
        """[H], or [H, W] of a curvilinear grid."""
        self._may_be_missing = frozenset(may_be_missing)
        self._sums: dict[str, Tensor] = {}
        """For each channel: weight, weighted error, |error| and error squared, points; shape [5], float64."""

    def update(
        self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor], levels: Sequence[float] = ()
    ) -> None:
        """Add one batch.

        Args:
            predictions: Physical values by variable: [B, H, W] at the surface, [B, C, H, W] in the atmosphere.
            targets: The same variables, the same shapes.
            levels: Pressures of the C levels, hPa.

        Raises:
            ValueError: names or shapes differ between the two, or do not fit the levels or the grid.
        """
        if predictions.keys() != targets.keys():
            msg = f"predictions hold {sorted(predictions)}, but targets hold {sorted(targets)}"
            raise ValueError(msg)
        # All are checked before any is added: half a batch must not stay in the sums.
        for name, prediction in predictions.items():
            self._check_shape(name, prediction, targets[name], levels)
        for name, prediction in predictions.items():
            target = targets[name].to(prediction.device)
            keys, shape = [name], (len(target), 1, *target.shape[1:])
            if prediction.ndim == 4:
                keys, shape = [channel_key(name, level) for level in levels], target.shape
            masked = name in self._may_be_missing
            sums_C5 = self._channel_sums(prediction.reshape(shape), target.reshape(shape), masked=masked)
            add_sums(self._sums, keys, sums_C5)

    def results(self) -> dict[str, Scores]:
        """Score everything added so far.

        Returns:
            Scores by channel: the variable's name at the surface, ``NAME_LEVEL`` in the atmosphere.
        """
        found = {}
        for key, sums in self._sums.items():
            weight, error, absolute, squared, count = sums.tolist()
            # Nothing was observed: there is no score, which is not a perfect one.
            if count == 0:
                found[key] = Scores(math.nan, math.nan, math.nan, 0)
            else:
                found[key] = Scores(math.sqrt(squared / weight), absolute / weight, error / weight, int(count))
        return found

    def _check_shape(self, name: str, prediction: Tensor, target: Tensor, levels: Sequence[float]) -> None:
        grid, shape = list(self._weights.shape), list(prediction.shape)
        # Of a regular grid only the latitudes are known here, so that any number of columns will do.
        fits = prediction.ndim in (3, 4) and shape[-2:][: len(grid)] == grid
        fits = fits and (prediction.ndim == 3 or shape[1] == len(levels))
        sides = ", ".join(map(str, [*grid, "W"][:2]))
        if not fits or prediction.shape != target.shape:
            msg = (
                f"{name}: expected [B, {sides}] at the surface or [B, {len(levels)}, {sides}] on {len(levels)} "
                f"levels, got {shape} predicted and {list(target.shape)} as target"
            )
            raise ValueError(msg)

    def _channel_sums(self, prediction_BCHW: Tensor, target_BCHW: Tensor, *, masked: bool) -> Tensor:
        error = prediction_BCHW.detach().double() - target_BCHW.detach().double()
        scored = torch.ones_like(error)
        # A prediction that is NaN where the target is finite still shows.
        if masked:
            present = torch.isfinite(target_BCHW)
            scored, error = present.double(), error.where(present, 0.0)
        weights = self._weights.to(error.device)
        sums = []
        for moment in (scored, error, error.abs(), error.square()):
            # Columns are summed first where a row has one weight: fewer products.
            if weights.ndim == 1:
                sums.append(moment.sum((0, 3)) @ weights)
            else:
                sums.append(moment.sum(0).flatten(1) @ weights.flatten())
        return torch.stack([*sums, scored.sum((0, 2, 3))], dim=1)


def add_sums(held: dict[str, Tensor], keys: Sequence[str], sums: Iterable[Tensor]) -> None:
    """Add sums of a batch to those held, by channel; the first ones are kept as they are."""
    for key, added in zip(keys, sums, strict=True):
        held[key] = held[key] + added if key in held else added


def persistence(history: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Forecast that nothing changes: the last input state, at every lead time.

    Args:
        history: Input states by variable, the last being the initial time: [B, T, H, W] or [B, T, C, H, W].

    Returns:
        Views of the last state, [B, H, W] or [B, C, H, W].

    Raises:
        ValueError: a variable has no history dimension; names it and its shape.
    """
    for name, states in history.items():
        if states.ndim not in (4, 5) or states.shape[1] == 0:
            msg = f"{name}: expected a history [B, T, H, W] or [B, T, C, H, W] with T > 0, got {list(states.shape)}"
            raise ValueError(msg)
    return {name: states[:, -1] for name, states in history.items()}
