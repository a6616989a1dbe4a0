"""Sums that scores of ensembles are made of: of one start date, lead, channel and region each, weighted by area.

Dimensions: M member, E exceedance, R region, H latitude, W longitude, D grid point, V variable.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kit.verification.ensemble_events import Exceedance
from kit.verification.regions import Regions
from kit.verification.sums import WEIGHT

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

CRPS, VARIANCE, MEAN_SQUARED, ENERGY = "crps", "variance", "mean_squared", "energy"
EXPECTED_SQUARED = "expected_squared"
"""Squared error of the mean of members where what came could be one of them."""
MEMBER_MOMENTS = (WEIGHT, CRPS, VARIANCE, EXPECTED_SQUARED, MEAN_SQUARED, ENERGY)
HEADLINES = "headlines"
"""Name in the place of a channel under which the energy score of several channels is kept."""
_AT_ONCE = 2**22
"""Values of all members that are worked on together."""


def outcome_names(members: int) -> list[str]:
    """Name the sums of an event by the number of members that forecast it: all points, then those where it came."""
    counts = range(members + 1)
    return [*(f"forecast_{count}" for count in counts), *(f"observed_{count}" for count in counts)]


class EnsembleSums:
    """Sums of an ensemble over regions, of one state at a time.

    Missing values make sums NaN, but for those of points that ``present`` leaves out.
    """

    def __init__(self, regions: Regions, members: int) -> None:
        """Prepare the weights.

        Args:
            regions: Regions on the grid that is scored.
            members: Number of members, 2 or more.
        """
        self._weights = regions.weights.reshape(len(regions.names), -1)
        self._members = members
        # Ferro 2014, "Fair scores for ensemble forecasts", equation 8. The sum of all differences between members is
        # twice that of the sorted ones, each as often as more members lie below it than above.
        ranks = np.arange(1, members + 1)
        self._of_sorted = (2 * ranks - members - 1) / (members * (members - 1))

    def of(
        self, members: Float32, target: Float32, present: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Float64, Float64]:
        """Sum up one channel.

        Args:
            members: Values that were forecast, [M, H, W].
            target: Values that came, [H, W].
            present: Points that are scored, [H, W]; all by default.

        Returns:
            Sums as ``MEMBER_MOMENTS`` names them, [R, 6], that of the energy NaN; and the weight of the points whose
            target has each rank among the members, [R, M + 1]: 0 where it lies below all of them. Of a target that is
            equal to some members, each rank that it could have gets its share.
        """
        moments = np.zeros((len(self._weights), len(MEMBER_MOMENTS)))
        moments[:, MEMBER_MOMENTS.index(ENERGY)] = math.nan
        ranks = np.zeros((len(self._weights), self._members + 2))
        for chosen, values_DM, came_D, weights_RD in self._blocks(members, target, present):
            # In double precision before the difference: geopotential has ten digits.
            errors_DM = np.sort(values_DM.astype(np.float64) - came_D[:, None], axis=1)
            crps_D = np.abs(errors_DM).mean(axis=1) - errors_DM @ self._of_sorted
            variance_D = errors_DM.var(axis=1, ddof=1)
            # Fortin et al. 2014, "Why should ensemble spread match the RMSE of the ensemble mean?", equation 15.
            expected_D = (self._members + 1) / self._members * variance_D
            fields = [np.ones(len(chosen)), crps_D, variance_D, expected_D, errors_DM.mean(axis=1) ** 2]
            moments[:, : len(fields)] += weights_RD @ np.stack(fields, axis=1)
            below_D, equal_D = (errors_DM < 0).sum(axis=1), (errors_DM == 0).sum(axis=1)
            shares_RD = weights_RD / (equal_D + 1)
            for region, shares_D in enumerate(shares_RD):
                ranks[region] += np.bincount(below_D, shares_D, self._members + 2)
                ranks[region] -= np.bincount(below_D + equal_D + 1, shares_D, self._members + 2)
        # A share begins at the lowest rank and ends above the highest.
        counted = ranks.cumsum(axis=1)[:, :-1]
        missing = moments[:, MEMBER_MOMENTS.index(CRPS)] * 0
        return moments, counted + missing[:, None]

    def exceeding(
        self,
        members: Float32,
        target: Float32,
        thresholds: Sequence[Exceedance],
        present: npt.NDArray[np.bool_] | None = None,
    ) -> dict[str, Float64]:
        """Sum up how often thresholds of one channel are reached, by the number of members that reach them.

        Args:
            members: Values that were forecast, [M, H, W].
            target: Values that came, [H, W].
            thresholds: Thresholds of the channel.
            present: Points that are scored, [H, W]; all by default.

        Returns:
            Sums by name of the exceedance, as ``outcome_names`` names them, [R, 2 (M + 1)].
        """
        found = {one.name: np.zeros((len(self._weights), 2 * (self._members + 1))) for one in thresholds}
        for _, values_DM, came_D, weights_RD in self._blocks(members, target, present):
            # A missing value fails every comparison: it would pass for a small one.
            missing_R = weights_RD @ (values_DM.sum(axis=1, dtype=np.float64) * 0 + came_D * 0)
            for one in thresholds:
                # In the values' own precision, as of a single forecast.
                counts_D = (values_DM >= np.float32(one.value)).sum(axis=1)
                observed_D = came_D >= np.float32(one.value)
                for region, weights_D in enumerate(weights_RD):
                    forecast = np.bincount(counts_D, weights_D, self._members + 1)
                    observed = np.bincount(counts_D, weights_D * observed_D, self._members + 1)
                    found[one.name][region] += np.concatenate([forecast, observed]) + missing_R[region]
        return found

    def energy(self, members: Sequence[Float32], targets: Sequence[Float32]) -> Float64:
        """Sum up the energy score of several channels together.

        Gneiting et al. 2008, "Assessing probabilistic forecasts of multivariate quantities", equation 5, fair as
        the CRPS is: distances between members are averaged over all pairs of different ones.

        Args:
            members: Values of each of V channels, divided by what makes them comparable, each [M, H, W].
            targets: Values that came, likewise, each [H, W].

        Returns:
            Sums as ``MEMBER_MOMENTS`` names them, [R, 6]: those of single channels NaN.
        """
        moments = np.full((len(self._weights), len(MEMBER_MOMENTS)), math.nan)
        total = np.zeros((len(self._weights), 2))
        count = self._members
        for part in self._parts(members[0].shape[1] * members[0].shape[2], len(members)):
            values_VMD = np.stack([held.reshape(count, -1)[:, part] for held in members]).astype(np.float64)
            came_VD = np.stack([held.reshape(-1)[part] for held in targets])
            score_D = np.sqrt(((values_VMD - came_VD[:, None]) ** 2).sum(axis=0)).mean(axis=0)
            for member in range(count - 1):
                others = values_VMD[:, member + 1 :] - values_VMD[:, member : member + 1]
                apart_D = np.sqrt((others**2).sum(axis=0)).sum(axis=0)
                score_D -= apart_D / (count * (count - 1))
            total += self._weights[:, part] @ np.stack([np.ones_like(score_D), score_D], axis=1)
        moments[:, [MEMBER_MOMENTS.index(WEIGHT), MEMBER_MOMENTS.index(ENERGY)]] = total
        return moments

    def _parts(self, points: int, channels: int = 1) -> Iterator[slice]:
        size = max(1, _AT_ONCE // (self._members * channels))
        for first in range(0, points, size):
            yield slice(first, first + size)

    def _blocks(
        self, members: Float32, target: Float32, present: npt.NDArray[np.bool_] | None
    ) -> Iterator[tuple[npt.NDArray[np.int64], Float32, Float32, Float64]]:
        """Yield points that are scored: their positions, members, targets, and weights."""
        values_MD, came_D = members.reshape(self._members, -1), target.reshape(-1)
        for part in self._parts(came_D.size):
            chosen = np.arange(came_D.size)[part]
            if present is not None:
                chosen = chosen[present.reshape(-1)[part]]
            yield chosen, np.ascontiguousarray(values_MD[:, chosen].T), came_D[chosen], self._weights[:, chosen]
