"""Area-weighted scores of predictions, accumulated in float64 batch by batch.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from kit.data import grid as data_grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from torch import Tensor

    Coordinates = Tensor | np.ndarray | Sequence[float]


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
