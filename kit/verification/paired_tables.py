"""Sums that the scores of a comparison are computed from, of single forecasts and of ensembles alike.

A single forecast is an ensemble of one where scores of ensembles know what that is: its CRPS is the absolute error, its
probability of an event 0 or 1.

Dimensions: N start date, V variable (with its level), R region, M sum, the weight of the area first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.io.errors import SettingsError
from kit.metrics.contingency import OUTCOMES
from kit.verification.archive import EVENTS, EXCEEDANCES, MEMBERS, SUMS, TABLES, Archive
from kit.verification.ensemble_events import REACHES
from kit.verification.ensemble_probabilities import SCORES as PROBABILITY_SCORES
from kit.verification.ensemble_scores import MEMBER_SCORES, members_of, of_weight
from kit.verification.ensemble_sums import CRPS, MEMBER_MOMENTS
from kit.verification.event_scores import event_scores
from kit.verification.scoring import SCORES
from kit.verification.significance import Float64, Score
from kit.verification.sums import ABSOLUTE, MODEL, MOMENTS, WEIGHT

Dates = npt.NDArray[np.datetime64]
Reader = Callable[[Archive, float, Dates], xr.DataArray]
_, _MISS, _FALSE_ALARM = OUTCOMES
_LINEAR = ("brier", "brier_fair")
"""Scores of probabilities that are means over points, which ensembles of any number of members can be compared by."""
_OF_CLASSES = {name: score for name, score in PROBABILITY_SCORES.items() if name not in _LINEAR}


@dataclass(frozen=True)
class Table:
    """Scores that are computed from the same sums.

    Attributes:
        scores: Functions of sums, [..., M], by name.
        names: Names of tables that one archive or another has the sums in.
        reader: Function that reads the sums of a lead and some start dates from an archive that has one of these.
    """

    scores: Mapping[str, Score]
    names: tuple[str, ...]
    reader: Reader

    def read(self, archive: Archive, lead: float, starts: Dates) -> xr.DataArray | None:
        """Read a lead's sums: start, variable, region, sum; None where the archive has none.

        Raises:
            SettingsError: they cannot be read.
        """
        is_there = any(name in archive.arrays for name in self.names)
        if not is_there or lead not in archive.coordinates["lead"].tolist():
            return None
        try:
            return self.reader(archive, lead, starts)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            msg = f"{archive.path}: its sums cannot be read ({error}); take a copy, or evaluate anew"
            raise SettingsError(msg) from error


def together(asked: Sequence[str], known: Mapping[str, Table]) -> list[Table]:
    """Group scores that are computed from the same sums, so that these are read once."""
    found: dict[int, tuple[Table, dict[str, Score]]] = {}
    for score in asked:
        table = known[score]
        found.setdefault(id(table), (table, {}))[1][score] = table.scores[score]
    return [Table(scores, table.names, table.reader) for table, scores in found.values()]


def tables_by_score(archives: Sequence[Archive]) -> dict[str, Table]:
    """List the scores that all archives have the sums of, with these."""
    listed = [
        Table(SCORES, (SUMS,), partial(_held, SUMS, MOMENTS)),
        Table({"crps": of_weight}, (MEMBERS, SUMS), _crps),
    ]
    held = [archive.coordinates["event"].tolist() if EVENTS in archive.arrays else [] for archive in archives]
    events = [name for name in held[0] if name != WEIGHT and all(name in names for names in held)]
    if events:
        names = [WEIGHT, *events]
        listed.append(Table(event_scores(names), (EVENTS,), partial(_held, EVENTS, names)))
    if all(MEMBERS in archive.arrays for archive in archives):
        # The error of the mean is among the scores of single forecasts.
        of_members = {name: score for name, score in MEMBER_SCORES.items() if name not in ("crps", "rmse")}
        listed.append(Table(of_members, (MEMBERS,), partial(_held, MEMBERS, MEMBER_MOMENTS)))
    for label in _labels(archives):
        for name in _LINEAR:
            table = Table({f"{name}_{label}": of_weight}, (EXCEEDANCES, EVENTS), partial(_brier, name, label))
            listed.append(table)
        # These are of as many classes of probabilities as there are members.
        if len(set(map(members_of, archives))) == 1:
            classes = {f"{name}_{label}": partial(_of_counts, score) for name, score in _OF_CLASSES.items()}
            listed.append(Table(classes, (EXCEEDANCES,), partial(_counts, label)))
    return {name: table for table in listed for name in table.scores}


def _labels(archives: Sequence[Archive]) -> list[str]:
    """List the thresholds that an ensemble among the archives has probabilities of, and all others say something of."""
    if not any(EXCEEDANCES in archive.arrays for archive in archives):
        return []
    held = []
    for archive in archives:
        if EXCEEDANCES in archive.arrays:
            names = archive.coordinates["exceedance"].tolist()
            held.append([name.partition(REACHES)[2] for name in names])
        else:
            events = archive.coordinates["event"].tolist() if EVENTS in archive.arrays else []
            held.append([name.removeprefix(f"{_MISS}_") for name in events if name.startswith(f"{_MISS}_")])
    return [label for label in dict.fromkeys(held[0]) if all(label in labels for labels in held)]


# Readers: each gives the dimensions start, variable, region, sum, the weight being the first sum.


def _held(table: str, names: Sequence[str], archive: Archive, lead: float, starts: Dates) -> xr.DataArray:
    """Read some sums as they are held."""
    _, _, series, variable, region, last = TABLES[table]
    sums = archive.of_lead(lead, starts, table).sel({series: MODEL, last: list(names)})
    return sums.transpose("start", variable, region, last).rename({variable: "variable", last: "sum"})


def _crps(archive: Archive, lead: float, starts: Dates) -> xr.DataArray:
    if MEMBERS in archive.arrays:
        return _held(MEMBERS, [WEIGHT, CRPS], archive, lead, starts)
    return _held(SUMS, [WEIGHT, ABSOLUTE], archive, lead, starts)


def _counts(label: str, archive: Archive, lead: float, starts: Dates) -> xr.DataArray:
    """Read the number of members that reach a threshold, with the weight of all points before."""
    held = _held(EXCEEDANCES, archive.coordinates["outcome"].tolist(), archive, lead, starts)
    end = f"{REACHES}{label}"
    held = held.sel(variable=[name for name in held["variable"].values.tolist() if name.endswith(end)])
    held = held.assign_coords(variable=[name.removesuffix(end) for name in held["variable"].values.tolist()])
    weight = held.isel(sum=slice(0, held.sizes["sum"] // 2)).sum("sum", skipna=False)
    return xr.concat([weight.expand_dims(sum=[WEIGHT], axis=-1), held], "sum")


def _brier(name: str, label: str, archive: Archive, lead: float, starts: Dates) -> xr.DataArray:
    """Read the weight and the sum of squared errors of probabilities."""
    if EXCEEDANCES not in archive.arrays:
        table = _held(EVENTS, [WEIGHT, f"{_MISS}_{label}", f"{_FALSE_ALARM}_{label}"], archive, lead, starts)
        errors = table.isel(sum=[1, 2]).sum("sum", skipna=False)
        return xr.concat([table.isel(sum=[0]), errors.expand_dims(sum=[name], axis=-1)], "sum")
    counts = _counts(label, archive, lead, starts)
    weight = counts.isel(sum=[0])
    mean = weight.copy(data=PROBABILITY_SCORES[name](counts.values[..., 1:])[..., None])
    return xr.concat([weight, (mean * weight).assign_coords(sum=[name])], "sum")


def _of_counts(score: Score, sums: Float64) -> Float64:
    return score(sums[..., 1:])
