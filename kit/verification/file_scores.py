"""Scores of forecasts in files beside persistence, against the analyses of a store."""

import logging
import math
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kit.data.dataset import Pairs, Selection
from kit.data.settings import Period
from kit.data.statistics import channel_key
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.io.hashes import new_sha256, sha256_of_file
from kit.registry.fetching import strictly
from kit.verification.archive import Archive, archive_name, archiving, read_archive, starts_of
from kit.verification.climatology import with_climatology
from kit.verification.ensemble_forecasts import EnsembleForecasts, EnsemblePlan
from kit.verification.ensemble_scores import ensemble_table
from kit.verification.evaluation import Forecasts, Observer, Scoring, regions_of, sum_up
from kit.verification.file_forecasts import FileForecasts
from kit.verification.forecast_files import ForecastFile, open_forecast
from kit.verification.leakage import find_leakage
from kit.verification.other_grid import OtherGrid, other_grid
from kit.verification.rain_thresholds import with_thresholds
from kit.verification.regions import ALL
from kit.verification.results import RainCard, Scorecard, old_row, units_of
from kit.verification.same_grid import SharedGrid, find_shared, shared_grid
from kit.verification.scoring import score_lead, score_table, spectra_table
from kit.verification.settings import EvaluateSettings
from kit.verification.sums import MODEL, PERSISTENCE, WIND_SPEED

_logger = logging.getLogger(__name__)

_HOUR = 3600


@dataclass(frozen=True)
class _Comparison:
    """What of a file is scored.

    Attributes:
        forecasts: Reader of its states.
        scoring: Start dates, steps and regions.
        period: From the first start date to the last state.
        left_out: Number of ``starts`` and of ``states`` of the file that the store has no analyses for.
        regridding: How the file is interpolated; None where it is not.
    """

    forecasts: FileForecasts
    scoring: Scoring
    period: Period
    left_out: dict[str, int]
    regridding: dict[str, Any] | None


def score_file(settings: EvaluateSettings) -> Scorecard:
    """Score every lead of the forecasts in a file against persistence.

    Args:
        settings: File, store, period, regions; what is about a model is without effect.

    Raises:
        KitError: the file or the store cannot be used, or they share no grid, variable or state.
        OSError: the folder of the sums cannot be written to.
    """
    path = settings.forecast_file
    assert path is not None
    with ExitStack() as stack:
        stack.enter_context(strictly(settings.registry.strict))
        store = open_store(str(settings.data.store))
        windows = dict(settings.window)
        file = stack.enter_context(open_forecast(path, store, settings.variables, settings.start, windows))
        compared = _compare(file, store, settings)
        usual = with_climatology(compared.scoring, settings.climatology, settings.climatology_period)
        scoring, of_climatology = stack.enter_context(usual)
        of_rain: dict[str, Any] = {}
        if not file.members:
            scoring, of_rain = with_thresholds(scoring, settings.thresholds)
        folder = settings.out
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-evaluate-")))
        made_of = _made_of(settings, store, compared) | of_climatology | of_rain
        rain = RainCard(scoring.thresholds_mm)
        observers: list[Observer] = [rain.update]
        axes, plan = scoring.axes([MODEL, PERSISTENCE, *scoring.usual]), None
        if file.members:
            plan = EnsemblePlan.of(compared.forecasts, scoring, settings.thresholds)
            axes = plan.axes(axes)
        synthetic = bool(store.attributes.get("synthetic"))
        with archiving(folder / archive_name(made_of), axes, made_of | {"synthetic": synthetic}) as writer:
            forecasts: Forecasts = compared.forecasts if plan is None else EnsembleForecasts(plan, writer)
            started = time.perf_counter()
            waited = sum_up(forecasts, scoring, writer, observers=observers)
            seconds = time.perf_counter() - started
        archive = read_archive(folder / archive_name(made_of))
        table, of_members = score_table(archive), _ensemble_results(archive, file.members)
        last = scoring.lead_hours(scoring.steps[-1])
        of_last = archive.of_lead(last, starts_of(scoring.times)).sel(forecast=[MODEL, PERSISTENCE])
        scores = score_lead(of_last, 1).get(ALL, {})
    return Scorecard(
        checkpoint=None,
        forecast_file=str(path),
        store=str(store.path),
        synthetic=synthetic,
        period=str(compared.period),
        samples=len(scoring.times),
        steps=len(scoring.steps),
        lead_hours=last,
        samples_per_second=len(scoring.times) / seconds,
        data_wait_fraction=waited / seconds,
        edge=None,
        rain=rain.results(),
        scores={key: old_row(row) for key, row in scores.items() if key in scoring.channels},
        forgetting={},
        leads=table.get(ALL, {}),
        spectra=spectra_table(archive) or None,
        neighbourhoods_km=scoring.neighbourhoods_km() or None,
        units=units_of(archive.coordinates["channel"], store),
        regions={name: leads for name, leads in table.items() if name != ALL},
        precision=None,
        left_out=compared.left_out,
        regridding=compared.regridding,
        leakage=find_leakage(None, scoring, synthetic=synthetic),
        **of_members,
    )


def _ensemble_results(archive: Archive, members: int) -> dict[str, Any]:
    """Score members, where there are several."""
    if not members:
        return {}
    by_region = ensemble_table(archive)
    everywhere = by_region.pop(ALL, {})
    return {"members": members, "ensemble": everywhere, "ensemble_regions": by_region}


def _compare(file: ForecastFile, store: Store, settings: EvaluateSettings) -> _Comparison:
    """Find what a file and a store have in common."""
    _check_windows(file, store)
    shared = _points_of(file, store, settings)
    levels = tuple(level for level in store.levels if any(level in file.levels(name) for name in file.arrays))
    atmospheric, surface = [], []
    for name in file.arrays:
        if not file.levels(name):
            surface.append(name)
        elif set(file.levels(name)) & set(levels):
            atmospheric.append(name)
        else:
            _logger.warning("%s: %s is not scored: the store has none of its levels", file.path, name)
    if not surface and not atmospheric:
        msg = f"{file.path}: on none of the levels of {store.path}: {', '.join(map(str, store.levels))} hPa"
        raise StoreError(msg)
    timestep = timedelta(seconds=math.gcd(*(round(lead * _HOUR) for _, lead in file.moments)))
    selection = Selection(
        inputs=tuple(surface),
        targets=tuple(surface),
        atmospheric=tuple(atmospheric),
        static=(),
        levels=levels,
        history=1,
        timestep=timestep,
        grid=shared.grid,
    )
    pairs = Pairs(store, selection, store.period, steps=0)
    chosen = _chosen(file, pairs, settings.data.test or store.period)
    missing = frozenset(name for name in (*surface, *atmospheric) if _is_missing_somewhere(store, name))
    scoring = Scoring(
        pairs, regions_of(pairs, settings.regions), chosen=chosen, left_out=_absent_channels(file, selection)
    )
    scored = {pairs.time(index): list(places) for index, places in chosen.items()}
    ends = [start + places[-1] * timestep for start, places in scored.items()]
    states = sum(map(len, scored.values()))
    left_out = {
        "starts": len({start for start, _ in file.moments}) - len(scored),
        "states": len(file.moments) - states,
    }
    forecasts = FileForecasts(file, selection, shared, missing)
    regridding = None
    if isinstance(shared, OtherGrid):
        regridding = shared.described([*surface, *atmospheric])
        _logger.warning("%s: interpolated from %s to %s", file.path, regridding["from"], regridding["to"])
    return _Comparison(forecasts, scoring, Period(min(scored), max(ends)), left_out, regridding)


def _points_of(file: ForecastFile, store: Store, settings: EvaluateSettings) -> SharedGrid | OtherGrid:
    """Find the points that are scored: those that both have, or where it is asked for, the store's."""
    if settings.regrid_method is None:
        return shared_grid(file.path, *file.coordinates, store)
    if find_shared(*file.coordinates, store) is not None:
        msg = f"regrid_method: has no effect: {file.path} is on the points of {store.path}; leave it out"
        raise SettingsError(msg)
    return other_grid(file.path, *file.coordinates, store, settings.regrid_method)


def _check_windows(file: ForecastFile, store: Store) -> None:
    for name, hours in file.windows.items():
        wanted = store.variable_attributes(name).get("accumulation_hours")
        if wanted is None or hours != {float(wanted)}:
            found = ", ".join(f"{value:g}" for value in sorted(hours))
            of_store = "does not say over how many" if wanted is None else f"over {float(wanted):g}"
            msg = (
                f"{file.path}: {name} adds up over {found} h, and that of {store.path} {of_store} h; only the same "
                "hours can be compared: leave it out by naming others with --variables, or build a store of these"
            )
            raise StoreError(msg)


def _chosen(file: ForecastFile, pairs: Pairs, period: Period) -> dict[int, dict[int, int]]:
    """Choose the states for which the store has analyses, of start dates for which it has one."""
    places = {moment: place for place, moment in enumerate(_moments_of(pairs.store))}
    indices = {moment: index for index, moment in enumerate(pairs.times)}
    seconds = pairs.selection.timestep.total_seconds()
    chosen: dict[int, dict[int, int]] = {}
    for start, lead in sorted(file.moments):
        valid = start + timedelta(seconds=round(lead * _HOUR))
        if start in indices and valid in places and period.start <= start and valid <= period.end:
            chosen.setdefault(indices[start], {})[round(lead * _HOUR / seconds)] = places[valid]
    if not chosen:
        starts = sorted({start for start, _ in file.moments})
        leads = sorted({lead for _, lead in file.moments})
        msg = (
            f"{file.path}: nothing to score: it forecasts from {len(starts)} initial times ({starts[0]:%Y-%m-%dT%H:%M} "
            f"to {starts[-1]:%Y-%m-%dT%H:%M}) {leads[0]:g} to {leads[-1]:g} h ahead, and {pairs.store.path} has no "
            f"states both of an initial time and of a lead in {period}; it holds {pairs.store.period}"
        )
        raise StoreError(msg)
    return chosen


def _moments_of(store: Store) -> list[datetime]:
    zone = store.period.start.tzinfo
    return [moment.replace(tzinfo=zone) for moment in store.times.tolist()]


def _absent_channels(file: ForecastFile, selection: Selection) -> frozenset[str]:
    """List the channels that the file lacks: variables on levels on which only others are."""
    absent = set()
    for name in selection.atmospheric:
        absent |= {channel_key(name, level) for level in selection.levels if level not in file.levels(name)}
    winds = {channel_key(WIND_SPEED, level) for level in selection.levels}
    for level in selection.levels:
        if not {channel_key("u", level), channel_key("v", level)} & absent:
            winds.discard(channel_key(WIND_SPEED, level))
    return frozenset(absent | winds)


def _is_missing_somewhere(store: Store, name: str) -> bool:
    known = store.statistics.variables
    return any(known[key].nan_fraction > 0 for key in store.statistics_keys(name) if key in known)


def _made_of(settings: EvaluateSettings, store: Store, compared: _Comparison) -> dict[str, Any]:
    """Describe what the sums are of: those of anything else are not added to them."""
    path, grid = compared.forecasts.file.path, compared.scoring.pairs.selection.grid
    made_of: dict[str, Any] = {"forecast_file": path.name, "store_name": store.path.name}
    if compared.regridding is not None:
        made_of["regridding"] = compared.regridding
    if settings.out is not None:
        made_of["forecast_sha256"] = _fingerprint(path)
        made_of["start"] = None if settings.start is None else settings.start.isoformat()
    return made_of | {"store_fingerprint": store.fingerprint(), "grid": grid.as_dict()}


def _fingerprint(path: Path) -> str:
    """Hash a file, or the names and hashes of all files in a folder."""
    if path.is_file():
        return sha256_of_file(path)
    hasher = new_sha256()
    for file in sorted(part for part in path.rglob("*") if part.is_file()):
        hasher.update(f"{file.relative_to(path).as_posix()} {sha256_of_file(file)}\n".encode())
    return hasher.hexdigest()
