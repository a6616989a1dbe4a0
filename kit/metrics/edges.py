"""Errors by distance from the edge of what a model sees.

What lies beyond a box's edge flows in unseen, and the attention windows of Aurora's backbone join the box's west to
its east. So errors grow towards the edge; how far in tells how wide a halo has to be.

Dimensions: B batch, C level, H latitude, W longitude, R ring.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kit.data.statistics import channel_key
from kit.metrics.scores import add_sums, area_weights

if TYPE_CHECKING:
    from torch import Tensor

    from kit.data.dataset import Pairs
    from kit.metrics.scores import Coordinates


class EdgeBoard:
    """Streaming RMSE of every variable and level in rings around the middle of a box.

    The first ring is one patch wide, as is the second; each further one is twice as wide as the one before it.
    """

    def __init__(
        self,
        lat: Coordinates,
        distance_HW: Tensor,
        patch: int,
        *,
        lon: Coordinates | None = None,
        scored_HW: Tensor | None = None,
        may_be_missing: Collection[str] = (),
    ) -> None:
        """Start with no samples.

        Args:
            lat: latitudes of the rows, degrees north, decreasing, [H]; or of all points, [H, W].
            distance_HW: whole grid points between each point and the nearest edge; 0 at the edge.
            patch: side of a patch in grid points.
            lon: longitudes of all points, [H, W], where latitudes are of all points.
            scored_HW: whether losses and scores are taken there; everywhere by default.
            may_be_missing: variables whose targets are expected to hold missing values.
        """
        farthest = int(distance_HW.max())
        starts = [0, patch]
        while 2 * starts[-1] <= farthest:
            starts.append(2 * starts[-1])
        # A patch may be wider than half the box.
        self._starts = [start for start in starts if start <= farthest]
        # A point belongs to the last ring that begins at its distance or before.
        self._ring_P = torch.bucketize(distance_HW.flatten(), torch.tensor(self._starts[1:]), right=True)
        weights = area_weights(lat, lon)
        # One weight for each row of a regular grid, for each point of a curvilinear one.
        if weights.ndim == 1:
            weights = weights[:, None]
        self._weight_P = weights.expand(distance_HW.shape).flatten()
        scored_P = torch.ones_like(self._weight_P)
        if scored_HW is not None:
            scored_P = scored_HW.flatten().double()
        self._points_R = self._summed(torch.ones_like(scored_P)[None])[0]
        self._scored_R = self._summed(scored_P[None])[0] / self._points_R
        self._may_be_missing = frozenset(may_be_missing)
        self._sums: dict[str, dict[str, Tensor]] = {"rmse": {}, "persistence_rmse": {}}
        """For each kind of error and channel: weight and weighted squared error, [2, R], float64."""

    @classmethod
    def of(cls, pairs: Pairs, patch: int, *, may_be_missing: Collection[str] = ()) -> EdgeBoard | None:
        """Rings of what is read for a model; None where it has no edge, as on the globe.

        Args:
            pairs: what is predicted.
            patch: side of a patch in grid points.
            may_be_missing: variables whose targets are expected to hold missing values.
        """
        grid = pairs.selection.grid
        distance = grid.distance(pairs.store)
        if distance is None:
            return None
        scored = torch.zeros(grid.shape)
        scored[grid.window or ...] = 1
        return cls(
            grid.latitude(pairs.store),
            torch.from_numpy(distance),
            patch,
            lon=grid.longitude(pairs.store),
            scored_HW=scored,
            may_be_missing=may_be_missing,
        )

    def update(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        last: Mapping[str, Tensor],
        levels: Sequence[float] = (),
    ) -> None:
        """Add one batch.

        Args:
            predictions: physical values by variable: [B, H, W] at the surface, [B, C, H, W] in the atmosphere.
            targets: the same variables, the same shapes.
            last: what persistence predicts; variables that are never read may be absent.
            levels: pressures of the C levels, hPa.
        """
        for name, target in targets.items():
            keys = [channel_key(name, level) for level in levels] if target.ndim == 4 else [name]
            for kind, states in (("rmse", predictions), ("persistence_rmse", last)):
                # Persistence has no state of what is never read.
                if name not in states:
                    continue
                error_BCP = (states[name].double() - target.double()).reshape(len(target), len(keys), -1)
                # Only where waves come and go is a missing target left out; any other NaN shows.
                present_BCP = torch.ones_like(error_BCP).bool()
                if name in self._may_be_missing:
                    present_BCP = torch.isfinite(target).reshape(error_BCP.shape)
                weight_P = self._weight_P.to(error_BCP.device)
                squared_CP = (error_BCP.where(present_BCP, 0).square() * weight_P).sum(0)
                sums_2CR = torch.stack([self._summed((present_BCP * weight_P).sum(0)), self._summed(squared_CP)])
                add_sums(self._sums[kind], keys, sums_2CR.unbind(1))

    def _summed(self, values_CP: Tensor) -> Tensor:
        """Sums over the points of each ring, [C, R]."""
        sums = values_CP.new_zeros(len(values_CP), len(self._starts))
        return sums.index_add_(1, self._ring_P.to(sums.device), values_CP)

    def results(self) -> list[dict[str, Any]]:
        """Errors from the edge inwards.

        Returns:
            For each ring ``distance``, grid points from the edge to its nearest point; ``points`` in it; ``scored``,
            the share of them that losses and scores are taken over; ``rmse`` and ``persistence_rmse`` by variable
            and level, in its unit, None where nothing is there.
        """
        rings = []
        for ring, start in enumerate(self._starts):
            points, scored = int(self._points_R[ring]), float(self._scored_R[ring])
            row: dict[str, Any] = {"distance": start, "points": points, "scored": scored}
            for kind, channels in self._sums.items():
                row[kind] = {key: _root(*sums_2R[:, ring].tolist()) for key, sums_2R in channels.items()}
            rings.append(row)
        return rings


def _root(weight: float, squared: float) -> float | None:
    """Return the root of a weighted mean; None where nothing is there, or an error is no number."""
    if not weight or not math.isfinite(squared):
        return None
    return math.sqrt(squared / weight)
