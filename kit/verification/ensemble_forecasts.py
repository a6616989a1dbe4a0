"""Forecasts of an ensemble in a file: their mean is scored as a forecast is, and the members beside it.

In memory are all members of one state on as many levels as have room in a gibibyte, on one at least, and of the
channels that the energy score takes together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from aurora import Batch

from kit.data.statistics import channel_key
from kit.data.variables import WIND_SPEEDS
from kit.metrics.scores import persistence
from kit.models.transforms import PRECIPITATION
from kit.verification.archive import EXCEEDANCES, MEMBERS, RANKS, SPECTRA, ArchiveWriter, Axes
from kit.verification.ensemble_events import Exceedance, exceedances
from kit.verification.ensemble_sums import HEADLINES, EnsembleSums
from kit.verification.evaluation import Kept, LeadSums, Scoring, cropped, physical, write
from kit.verification.file_forecasts import FileForecasts, lead_of
from kit.verification.forecast_files import Moment
from kit.verification.spectra import MEMBER
from kit.verification.sums import DIRECTIONS, MODEL, States, wind_speeds, with_wind_speed
from kit.verification.threshold_settings import Thresholds

V = TypeVar("V")
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

ENERGY_CHANNELS = ("z_500", "t_850", "q_700", "2t", "10u", "10v", "msl", "tp")
"""Channels that the energy score takes together, as far as they are there."""
_RANKED_LEVELS = ("z_500", "t_850", "q_700", "ws_850")
"""Channels on levels whose ranks are kept; at the surface all are."""
_MOST_BYTES = 2**30
"""Bytes of members that are read together: a chunk of a file often has all levels, and is decoded once for them."""


@dataclass(frozen=True)
class EnsemblePlan:
    """What of an ensemble is scored.

    Attributes:
        forecasts: Reader of the file.
        scoring: Start dates, steps and regions.
        channels: Channels whose members are scored: all but directions.
        ranked: Those with ranks of what came among the members.
        thresholds: Thresholds that members are counted at.
        scales: Standard deviations of the channels that the energy score takes together; empty without it.
    """

    forecasts: FileForecasts
    scoring: Scoring
    channels: tuple[str, ...]
    ranked: tuple[str, ...]
    thresholds: tuple[Exceedance, ...]
    scales: dict[str, float]

    @classmethod
    def of(cls, forecasts: FileForecasts, scoring: Scoring, thresholds: Thresholds) -> "EnsemblePlan":
        """Plan the scores of an ensemble.

        Raises:
            SettingsError: a threshold is of no channel that is scored, or in another unit.
        """
        # A mean of angles has no distance from them that a score of members could take.
        channels = [name for name in scoring.axes([MODEL]).channels if name not in DIRECTIONS]
        rain = [name for name in PRECIPITATION if name in channels]
        on_levels = {
            channel_key(name, level)
            for name in (*scoring.pairs.selection.atmospheric, *WIND_SPEEDS)
            for level in scoring.pairs.selection.levels
        }
        ranked = [name for name in channels if name not in on_levels or name in _RANKED_LEVELS]
        known = scoring.pairs.store.statistics.variables
        scales = {}
        for name in ENERGY_CHANNELS:
            is_whole = name in channels and name not in forecasts.may_be_missing and name in known
            if is_whole and known[name].std > 0:
                scales[name] = known[name].std
        return cls(
            forecasts,
            scoring,
            tuple(channels),
            tuple(ranked),
            tuple(exceedances(thresholds, channels, rain)),
            scales if len(scales) > 1 else {},
        )

    def axes(self, axes: Axes) -> Axes:
        """Add what the sums of members will be of."""
        return replace(
            axes,
            members=self.forecasts.file.members,
            quantities=[*self.channels, HEADLINES] if self.scales else self.channels,
            ranked=self.ranked,
            exceedances=[one.name for one in self.thresholds],
        )


class EnsembleForecasts:
    """Means of an ensemble, one start date at a time; sums of its members are written as they are read.

    Attributes:
        may_be_missing: Variables of which the store lacks values.
        device: Device of the means.
    """

    device = torch.device("cpu")

    def __init__(self, plan: EnsemblePlan, writer: ArchiveWriter) -> None:
        """Prepare the sums.

        Args:
            plan: What is scored.
            writer: Writer into an archive with the plan's axes.
        """
        self.may_be_missing = plan.forecasts.may_be_missing
        self._plan = plan
        self._writer = writer
        self._sums = EnsembleSums(plan.scoring.regions, plan.forecasts.file.members)
        self._spectra = plan.scoring.spectra()
        self._indices = {plan.scoring.pairs.time(index): index for index in plan.scoring.starts}

    def predict(self, inputs: Batch, steps: Sequence[int]) -> Iterator[States]:
        """Read the means of one start date, speeds of the wind among them; see ``Forecasts``."""
        scoring = self._plan.scoring
        (start,) = inputs.metadata.time
        index = self._indices[start]
        last = cropped(persistence(inputs.surf_vars | inputs.atmos_vars), scoring.window)
        found: dict[Kept, LeadSums] = {}
        for step in steps:
            # What came is read here once more: members are let go before their mean is handed over.
            target = physical(scoring.pairs.target([scoring.places(index)[step]]))
            came = with_wind_speed(cropped(target, scoring.window))
            moment = start, lead_of(step, scoring.pairs.selection.timestep)
            mean, summed = self._sum_up(moment, came, last)
            for kept, sums in summed.items():
                found.setdefault(kept, {})[scoring.lead_hours(step)] = sums
            if step == steps[-1]:
                write(self._writer, scoring, [index], found)
            yield mean

    def _sum_up(self, moment: Moment, came: States, last: States) -> tuple[States, dict[Kept, dict[str, Float64]]]:
        """Sum the members of one state up: their mean, [1, H, W] and [1, C, H, W], and sums with a batch of one."""
        plan, sums = self._plan, self._sums
        moments: dict[str, Float64] = {}
        ranks: dict[str, Float64] = {}
        counts: dict[str, Float64] = {}
        power: dict[str, Float64] = {}
        means: dict[str, torch.Tensor] = {}
        together: dict[str, tuple[Float32, Float32]] = {}
        with_power = self._spectra.channels(plan.channels)
        for name, position, channel, members_MHW in self._read(moment):
            place = (0,) if position is None else (0, position)
            mean_HW = _mean(name, members_MHW)
            if name not in means:
                means[name] = torch.full_like(came[name], torch.nan, dtype=torch.float64)
            means[name][place] = torch.from_numpy(mean_HW)
            if channel not in plan.channels:
                continue
            target_HW: Float32 = came[name][place].numpy()
            present = None
            if name in self.may_be_missing:
                # Points that a single forecast is scored at.
                present = np.isfinite(target_HW) & np.isfinite(mean_HW) & np.isfinite(last[name][place].numpy())
            moments[channel], of_ranks = sums.of(members_MHW, target_HW, present)
            if channel in plan.ranked:
                ranks[channel] = of_ranks
            thresholds = [one for one in plan.thresholds if one.channel == channel]
            if thresholds:
                counts |= sums.exceeding(members_MHW, target_HW, thresholds, present)
            if channel in with_power:
                power[channel] = self._mean_power(channel, members_MHW)
            if channel in plan.scales:
                both = [
                    np.divide(values, plan.scales[channel], dtype=np.float32) for values in (members_MHW, target_HW)
                ]
                together[channel] = both[0], both[1]
        if plan.scales:
            moments[HEADLINES] = sums.energy(*zip(*together.values(), strict=True))
        summed = {
            (MEMBERS, MODEL): moments,
            (RANKS, MODEL): ranks,
            (EXCEEDANCES, MODEL): counts,
            (SPECTRA, MEMBER): power,
        }
        return means, {kept: {key: one[None] for key, one in of_kept.items()} for kept, of_kept in summed.items()}

    def _read(self, moment: Moment) -> Iterator[tuple[str, int | None, str, Float32]]:
        """Read the members of every channel: variable, position of the level, channel, and values, [M, H, W]."""
        forecasts = self._plan.forecasts
        selection, shared, file = forecasts.selection, forecasts.shared, forecasts.file
        surface = ((name, shared.take(name, file.read_members(name, moment))) for name in selection.targets)
        yield from _with_winds(surface, None, None)
        latitude, longitude = file.coordinates
        of_level = 4 * file.members * latitude.shape[0] * longitude.shape[-1] * max(1, len(selection.atmospheric))
        for block in _blocks(list(enumerate(selection.levels)), max(1, _MOST_BYTES // of_level)):
            fields: dict[str, dict[float, Float32]] = {}
            for name in selection.atmospheric:
                held = [level for _, level in block if level in file.levels(name)]
                if held:
                    fields[name] = dict(zip(held, file.read_levels(name, moment, held), strict=True))
            for position, level in block:
                there = [name for name, levels in fields.items() if level in levels]
                at_level = ((name, shared.take(name, fields[name][level])) for name in there)
                yield from _with_winds(at_level, position, level)

    def _mean_power(self, channel: str, members_MHW: Float32) -> Float64:
        """Average the members' power, [N, K]; one member at a time, in double precision."""
        total = sum(
            self._spectra.of({channel: torch.from_numpy(member_HW[None])})[channel][0] for member_HW in members_MHW
        )
        return np.asarray(total / len(members_MHW))


def _blocks(items: Sequence[V], size: int) -> Iterator[Sequence[V]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _with_winds(
    fields: Iterable[tuple[str, Float32]], position: int | None, level: float | None
) -> Iterator[tuple[str, int | None, str, Float32]]:
    """Yield the members of each variable of a level, and of the speed of the wind where both components are there."""
    components = {name for both in WIND_SPEEDS.values() for name in both}
    winds: dict[str, Float32] = {}
    for name, members in fields:
        yield name, position, name if level is None else channel_key(name, level), members
        if name in components:
            winds[name] = members
    for name in wind_speeds(winds):
        east, north = WIND_SPEEDS[name]
        channel = name if level is None else channel_key(name, level)
        yield name, position, channel, np.hypot(winds[east], winds[north])


def _mean(name: str, members_MHW: Float32) -> Float64:
    """Average members; directions as points on a circle."""
    if name not in DIRECTIONS:
        return np.asarray(members_MHW.mean(axis=0, dtype=np.float64))
    angles = np.radians(members_MHW.astype(np.float64))
    return np.asarray(np.degrees(np.arctan2(np.sin(angles).mean(axis=0), np.cos(angles).mean(axis=0))) % 360)
