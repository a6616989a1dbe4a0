"""Scores of several forecasts on the start dates that all of them have, and how sure their differences are.

Dimensions: N start date, M moment.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.checkpoint.uses import commands_of
from kit.config.suggestions import near_names
from kit.io.errors import SettingsError
from kit.verification.archive import Archive
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_tables import tables_by_score, together
from kit.verification.scoring import lead_name, spacing_hours
from kit.verification.significance import Float64, Score, differences, overlap
from kit.verification.subjects import Subject, grid_of

Place = tuple[str, str, str]
"""Lead, region and channel."""
_SAME_POINTS = 1e-6
"""Relative difference of sums of area weights beyond which they are those of other grid points."""
_HIGHER = ("acc", "csi", "ets", "fss", "resolution", "roc")
_LOWER = ("rmse", "mae", "brier", "seeps", "crps", "energy", "reliability")
"""Kinds of scores that are better when they are higher, or lower; a bias is neither."""


@dataclass(frozen=True)
class PairedScore:
    """A score of all forecasts, and the difference of one of them from the first.

    Attributes:
        variable: Variable, on its level.
        lead: Lead, such as ``024h``.
        region: Region.
        score: Name of the score.
        run: Name of what is compared with the first.
        values: The score of everything that is compared, in order; None of what lacks it.
        difference: Score of ``run`` minus that of the first.
        low: Lower end of the interval of 95 %; None where there are too few start dates.
        high: Upper end.
        p_value: Of the test of Diebold and Mariano that the difference is zero; None where there is none.
        significant: Whether both say that there is a difference; None where there are too few start dates.
        dates: Number of start dates.
    """

    variable: str
    lead: str
    region: str
    score: str
    run: str
    values: tuple[float | None, ...]
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    significant: bool | None = None
    dates: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return one of ``scores`` of ``kit compare --json``."""
        return asdict(self)

    @property
    def verdict(self) -> Literal["better", "worse", "unsure", ""]:
        """Whether the run is better than the first; empty where the score knows no better, or nobody can tell."""
        kind = self.score.partition("_")[0]
        if self.significant is None or kind not in (*_HIGHER, *_LOWER):
            return ""
        if not self.significant:
            return "unsure"
        higher = kind in _HIGHER
        return "better" if (self.difference > 0) == higher else "worse"


@dataclass(frozen=True)
class PairedScores:
    """All scores of a comparison.

    Attributes:
        starts: Start dates that all have.
        rows: Scores.
        notes: What could not be compared, and why.
    """

    starts: npt.NDArray[np.datetime64]
    rows: tuple[PairedScore, ...]
    notes: tuple[str, ...]


def choose_archives(subjects: Sequence[Subject]) -> list[Archive]:
    """Choose the sums of each that are of the same data and of the same region as those of all others.

    Raises:
        SettingsError: one has none, they have none of the same data, or it is not clear which ones are meant.
    """
    truths = []
    for subject in subjects:
        if not subject.archives:
            raise SettingsError(_without_sums(subject))
        truths.append({_truth(archive) for archive in subject.archives})
    common = set.intersection(*truths)
    if not common:
        listed = "; ".join(f"{one.name}: {_listed(one.archives)}" for one in subjects)
        msg = (
            f"scores against different data are not compared, and no data were used for all: {listed}. Evaluate all "
            "on one store and region: kit evaluate --checkpoint ... --data.store STORE"
        )
        raise SettingsError(msg)
    chosen = []
    for subject in subjects:
        fitting = [archive for archive in subject.archives if _truth(archive) in common]
        if len(fitting) > 1:
            listed = ", ".join(str(archive.path) for archive in fitting)
            msg = f"{subject.name}: has several sums that could be compared; name one in its place: {listed}"
            raise SettingsError(msg)
        chosen += fitting
    return chosen


def _truth(archive: Archive) -> tuple[str, str]:
    return str(archive.attributes.get("store_fingerprint")), grid_of(archive)


def _listed(archives: Sequence[Archive]) -> str:
    found = []
    for archive in archives:
        fingerprint, grid = _truth(archive)
        found.append(f"{archive.attributes.get('store_name')} ({fingerprint[:12]}..., {grid})")
    return " and ".join(found)


def _without_sums(subject: Subject) -> str:
    if subject.folder is not None and any(subject.folder.sums.glob("*.zarr")):
        what = "its sums are of an earlier state of the checkpoint"
    else:
        what = "no sums of scores are kept of it"
    way = "kit evaluate --checkpoint FOLDER --out SUMS keeps some; name SUMS then"
    if subject.checkpoint is not None and subject.folder is not None:
        way = "; ".join(commands_of(subject.checkpoint, subject.description))
    return f"{subject.name}: {what}. Evaluate it: {way}; or compare without scores: --settings_only"


def _series(sums: xr.DataArray | None, region: str, variable: str) -> Float64 | None:
    """Return the sums of a region and a variable, [N, M]; None where there are none."""
    if sums is None or region not in sums["region"].values or variable not in sums["variable"].values:
        return None
    series = np.asarray(sums.sel({"region": region, "variable": variable}).values, dtype=np.float64)
    # What was never summed up on these dates is lacking too.
    return series if (series[:, 0] > 0).any() else None


def paired_scores(subjects: Sequence[Subject], archives: Sequence[Archive], settings: CompareSettings) -> PairedScores:
    """Score everything on the start dates that all have, and compare it with the first.

    Args:
        subjects: What is compared.
        archives: Sums of each, as ``choose_archives`` chooses them.
        settings: Scores, variables, leads and regions.

    Raises:
        SettingsError: there are no common start dates, a score, variable, lead or region is nowhere, or nothing is left
            to compare.
    """
    starts = archives[0].coordinates["start"]
    for archive in archives[1:]:
        starts = np.intersect1d(starts, archive.coordinates["start"])
    if not len(starts):
        listed = "; ".join(f"{one.name}: {_span(archive)}" for one, archive in zip(subjects, archives, strict=True))
        msg = f"there is no start date that all were evaluated on ({listed}); evaluate them on the same --data.test"
        raise SettingsError(msg)
    coordinates = [archive.coordinates for archive in archives]
    leads = chosen("leads", settings.leads, [held["lead"].tolist() for held in coordinates])
    regions = chosen("regions", settings.regions, [held["region"].tolist() for held in coordinates])
    of_each = [[*held["channel"].tolist(), *held["quantity"].tolist()] for held in coordinates]
    known = chosen("variables", settings.variables, of_each)
    pairing = _Pairing([subject.name for subject in subjects])
    spacing = spacing_hours(starts)
    of_scores = tables_by_score(archives)
    for table in together(chosen("scores", settings.scores, [list(of_scores)]), of_scores):
        for lead in leads:
            # One lead at a time: all of them would be gigabytes, of years of forecasts.
            held_sums = [table.read(archive, lead, starts) for archive in archives]
            of_table = {name for sums in held_sums if sums is not None for name in sums["variable"].values.tolist()}
            for region in regions:
                for variable in [name for name in known if name in of_table]:
                    series = [_series(sums, region, variable) for sums in held_sums]
                    pairing.add((lead_name(lead), region, variable), series, table.scores)
                pairing.judge(overlap(lead, spacing))
    notes = pairing.notes()
    if not pairing.rows:
        msg = f"nothing is left to compare: {'; '.join(notes) or 'none of the scores can be computed'}"
        raise SettingsError(msg)
    return PairedScores(starts, tuple(pairing.rows), notes)


@dataclass(frozen=True)
class _Unjudged:
    """A row whose difference is not judged yet, with the sums behind it, [N, M]."""

    row: int
    ours: Float64
    first: Float64


class _Pairing:
    """Comparison of everything with the first, place by place."""

    def __init__(self, names: Sequence[str]) -> None:
        self.rows: list[PairedScore] = []
        self._names = names
        # By score and start dates: those of the same dates are judged together.
        self._unjudged: dict[tuple[str, bytes], tuple[Score, list[_Unjudged]]] = {}
        self._asked: set[Place] = set()
        # Places by name and by what stands in the way there.
        self._absent: dict[str, dict[str, set[Place]]] = {name: {} for name in names}

    def add(self, place: Place, series: Sequence[Float64 | None], scores: Mapping[str, Score]) -> None:
        """Compare the sums of one place, [N, M] each, the weights first."""
        self._asked.add(place)
        dates = None
        for name, one in zip(self._names, series, strict=True):
            if one is None:
                self._miss(name, "lacks", place)
            else:
                scored = one[:, 0] > 0
                dates = scored if dates is None else dates & scored
        first = series[0]
        if first is None or dates is None:
            return
        if not dates.any():
            for name in self._names[1:]:
                self._miss(name, "has no start date in common with all others in", place)
            return
        first = first[dates]
        kept: list[Float64 | None] = [first]
        for name, one in zip(self._names[1:], series[1:], strict=True):
            ours = None if one is None else one[dates]
            # Errors at other points are of other weather: another crop's, or those of other places with waves.
            if ours is not None and not np.allclose(ours[:, 0], first[:, 0], rtol=_SAME_POINTS, atol=0):
                self._miss(name, "was scored at other grid points in", place)
                ours = None
            kept.append(ours)
        for score, of_mean in scores.items():
            queue = self._unjudged.setdefault((score, dates.tobytes()), (of_mean, []))[1]
            queue += self._compare(place, score, of_mean, kept)

    def _compare(self, place: Place, score: str, of_mean: Score, kept: Sequence[Float64 | None]) -> Iterator[_Unjudged]:
        """Add the rows of a score, and yield what is needed to judge them."""
        lead, region, variable = place
        values: list[float | None] = []
        for one in kept:
            value = math.nan if one is None else float(of_mean(one.mean(axis=0)))
            values.append(value if math.isfinite(value) else None)
        first, reference = kept[0], values[0]
        if first is None or reference is None:
            return
        for name, one, ours in zip(self._names[1:], kept[1:], values[1:], strict=True):
            if one is None or ours is None:
                continue
            apart = ours - reference
            self.rows.append(PairedScore(variable, lead, region, score, name, tuple(values), apart, dates=len(one)))
            yield _Unjudged(len(self.rows) - 1, one, first)

    def judge(self, overlapping: int) -> None:
        """Find intervals and p-values of the rows that were added since the last time.

        Args:
            overlapping: Start dates, one after the other, whose forecasts overlap.
        """
        for of_mean, queue in self._unjudged.values():
            if not queue:
                continue
            ours = np.stack([one.ours for one in queue], axis=1)
            first = np.stack([one.first for one in queue], axis=1)
            for one, found in zip(queue, differences(of_mean, ours, first, overlapping) or (), strict=False):
                p_value = None if math.isnan(found.p_value) else found.p_value
                self.rows[one.row] = replace(
                    self.rows[one.row], low=found.low, high=found.high, p_value=p_value, significant=found.significant
                )
        self._unjudged.clear()

    def _miss(self, name: str, why: str, place: Place) -> None:
        self._absent[name].setdefault(why, set()).add(place)

    def notes(self) -> tuple[str, ...]:
        """Say what could not be compared: whole leads, regions and variables by name, and the rest by number."""
        found = []
        for name, reasons in self._absent.items():
            for why, places in reasons.items():
                found.append(f"{name} {why} {_summary(places, self._asked)}")
        return tuple(found)


def _summary(places: set[Place], asked: set[Place]) -> str:
    said, rest = [], set(places)
    for position, noun in enumerate(("lead", "region", "variable")):
        partial = {place[position] for place in asked - places}
        whole = {place[position] for place in places} - partial
        if whole and partial:
            said.append(f"{noun} {', '.join(sorted(whole))}")
            rest = {place for place in rest if place[position] not in whole}
    if rest:
        count = "all" if len(rest) == len(asked) else f"{len(rest)} of {len(asked)}"
        said.append(f"{count} combinations of lead, region and variable")
    return "; ".join(said)


def chosen(setting: str, asked: Sequence[Any] | None, held: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what is asked for, or all that anybody has, in order."""
    known = list(dict.fromkeys(value for values in held for value in values))
    if setting == "leads":
        known.sort()
    if asked is None:
        return known
    for value in asked:
        if value not in known:
            near = near_names(str(value), list(map(str, known))) or list(map(str, known))
            msg = f"{setting}: there is no {value!r} in what is compared; there are {', '.join(near[:12])}"
            raise SettingsError(msg)
    return list(dict.fromkeys(asked))


def _span(archive: Archive) -> str:
    starts = archive.coordinates["start"]
    return f"{starts[0]} to {starts[-1]}" if len(starts) else "no date"
