"""Mean errors at every grid point over the start dates of an evaluation: what maps of bias and RMSE are drawn from.

Errors and their squares are added up point by point, so that memory does not depend on the number of start dates. A
Zarr beside the sums holds their means, one for each evaluation: single dates cannot be told apart in it, and nothing
is ever added to one of another evaluation.

Dimensions: B start date, C level, H latitude, W longitude.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from kit.config.suggestions import near_names
from kit.data.statistics import channel_key
from kit.data.store.format import CURVILINEAR, GRID, compressors, consolidate
from kit.data.store.reader import Store
from kit.data.zarr_guard import open_group
from kit.io.atomic import move, remove_tree, scratch, sync_tree
from kit.io.errors import KitError, SettingsError
from kit.io.hashes import sha256_of_text
from kit.verification.archive import archive_name, starts_of
from kit.verification.evaluation import Scoring
from kit.verification.results import HEADLINE_HOURS, HEADLINE_VARIABLES, units_of
from kit.verification.sums import States, difference

HEADLINE, EVERYTHING = "headline", "all"
"""Words for the channels of ``HEADLINE_VARIABLES``, and for all."""
FOLDER = "maps"
"""Folder beside sums."""
BIAS, RMSE, DATES = "bias", "rmse", "dates"
_FORMAT = 1
_MOST_BYTES = 2**29
"""Bytes of sums up to which headline variables are mapped without being asked for."""
_ATTRIBUTES = ("channels", "checkpoint_sha256", "forecasts", "period", "starts", "sums", "synthetic")

Field = npt.NDArray[np.float64]


class ErrorMaps:
    """Sums of errors at every grid point.

    Attributes:
        leads: Leads that are summed up, in hours.
        channels: Variables at the surface and on levels.
    """

    def __init__(self, scoring: Scoring, channels: Sequence[str], leads: Sequence[float]) -> None:
        self.leads, self.channels = list(leads), list(channels)
        self._scoring = scoring
        self._shape = scoring.regions.weights.shape[1:]
        # By forecast, lead and channel: number of dates, sum of errors, sum of their squares, [3, H, W].
        self._sums: dict[tuple[str, float, str], Field] = {}

    def add(
        self,
        forecast: str,
        lead: float,
        values: States,
        target: States,
        levels: Sequence[float],
        may_be_missing: frozenset[str],
    ) -> None:
        """Add forecasts of one lead.

        Args:
            forecast: Name of the forecast.
            lead: Lead in hours; nothing is added at others than ``leads``.
            values: Values that were forecast, [B, H, W] and [B, C, H, W].
            target: Values that came, the same shapes.
            levels: Pressures of the C levels, hPa.
            may_be_missing: Variables of which points without a target are left out; elsewhere NaN shows.
        """
        if lead not in self.leads:
            return
        for name, came in target.items():
            on_levels = came.ndim == 4
            keys = [channel_key(name, level) for level in levels] if on_levels else [name]
            for position, key in enumerate(keys):
                if key not in self.channels:
                    continue
                ours, theirs = values[name], came
                if on_levels:
                    ours, theirs = ours[:, position], theirs[:, position]
                error_BHW = difference(name, ours.detach().cpu().double(), theirs.detach().cpu().double()).numpy()
                scored = np.ones_like(error_BHW)
                if name in may_be_missing:
                    scored = theirs.isfinite().cpu().numpy().astype(np.float64)
                    error_BHW[scored == 0] = 0.0
                place = forecast, lead, key
                if place not in self._sums:
                    self._sums[place] = np.zeros((3, *self._shape))
                self._sums[place] += np.stack([scored, error_BHW, error_BHW**2]).sum(axis=1)

    def write(self, folder: Path, made_of: Mapping[str, Any]) -> Path:
        """Write the means into a Zarr in a folder.

        Args:
            folder: Folder of the sums.
            made_of: What the sums are of.

        Raises:
            OSError: the disk is full, or refuses.
        """
        store, times = self._scoring.pairs.store, self._scoring.times
        starts = {"count": len(times), "first": times[0].isoformat(), "last": times[-1].isoformat()}
        forecasts = list(dict.fromkeys(forecast for forecast, _, _ in self._sums))
        # The same evaluation has the same name, and any other one another.
        dates = sha256_of_text(",".join(map(str, starts_of(times))))
        own = {"dates": dates, "leads": self.leads, "channels": self.channels, "forecasts": forecasts}
        path = folder / FOLDER / archive_name({**made_of, **own})
        attributes = {
            "format": _FORMAT,
            "sums": archive_name(made_of),
            "checkpoint_sha256": made_of["checkpoint_sha256"],
            "forecasts": forecasts,
            "channels": _described(self.channels, store),
            "starts": starts,
            "period": str(self._scoring.pairs.period),
            "synthetic": bool(store.attributes.get("synthetic")),
        }
        with scratch(path) as part:
            self._fill(zarr.create_group(part, zarr_format=3, attributes=attributes), forecasts)
            consolidate(part)
            sync_tree(part)
            if path.exists():
                remove_tree(path)
            move(part, path)
        return path

    def _fill(self, group: zarr.Group, forecasts: Sequence[str]) -> None:
        grid, store = self._scoring.pairs.selection.grid, self._scoring.pairs.store
        latitude, longitude = grid.scored_coordinates(store)
        dimensions = CURVILINEAR if latitude.ndim == 2 else GRID
        coordinates = {"latitude": latitude, "longitude": longitude}
        if "lsm" in store.static:
            coordinates["lsm"] = grid.read_static(store, "lsm")[self._scoring.window].astype(np.float64)
        for name, values in {"lead": np.asarray(self.leads, dtype=np.float64), **coordinates}.items():
            names = dimensions if values.ndim == 2 else (name,)
            group.create_array(name, data=values, chunks=values.shape, dimension_names=names)
        outer = (len(self.leads), len(forecasts), len(self.channels))
        for table in (BIAS, RMSE, DATES):
            array = group.create_array(
                table,
                shape=(*outer, *self._shape),
                chunks=(1, 1, 1, *self._shape),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=("lead", "forecast", "channel", *dimensions),
                compressors=compressors(),
            )
            for (forecast, lead, channel), (dates, errors, squares) in self._sums.items():
                place = self.leads.index(lead), forecasts.index(forecast), self.channels.index(channel)
                with np.errstate(divide="ignore", invalid="ignore"):
                    means = {BIAS: errors / dates, RMSE: np.sqrt(squares / dates), DATES: dates}
                # As the array has them.
                array[place] = means[table].astype(array.dtype)


def maps_of(scoring: Scoring, forecasts: int, asked: Sequence[str] | None) -> ErrorMaps | None:
    """Choose what errors are mapped of; None where that is nothing.

    Args:
        scoring: Start dates and grid.
        forecasts: Number of forecasts.
        asked: Channels, variables for all of their levels, ``headline`` or ``all``; None for no maps. Headline
            variables alone are left out where their sums would take more than 512 MiB.

    Raises:
        SettingsError: one of them is not scored.
    """
    if asked is None:
        return None
    known = list(scoring.axes([]).channels)
    headline = [name for name in HEADLINE_VARIABLES if name in known] or known[: len(HEADLINE_VARIABLES)]
    words = {HEADLINE: headline, EVERYTHING: known}
    channels: list[str] = []
    for name in asked:
        # A channel by its name, or all levels of a variable by the variable's.
        found = words.get(name) or [key for key in known if name in (key, key.rpartition("_")[0])]
        if not found:
            near = near_names(name, known) or known
            msg = f"maps: {name!r} is not scored; expected headline, all, none, or some of {', '.join(near[:12])}"
            raise SettingsError(msg)
        channels += [key for key in found if key not in channels]
    all_leads = [scoring.lead_hours(step) for step in scoring.steps]
    leads = [lead for lead in all_leads if lead in HEADLINE_HOURS or lead == all_leads[-1]]
    needed = 24 * math.prod(scoring.regions.weights.shape[1:]) * len(leads) * len(channels) * forecasts
    if tuple(asked) == (HEADLINE,) and needed > _MOST_BYTES:
        return None
    return ErrorMaps(scoring, channels, leads)


def _described(channels: Sequence[str], store: Store) -> list[dict[str, Any]]:
    """Describe channels for maps: variable, level, unit, and the hours over which it adds up."""
    units = units_of(np.asarray(channels), store)
    found = []
    for key in channels:
        variable, _, level = key.rpartition("_")
        held = variable in store.atmospheric or variable == "ws"
        described: dict[str, Any] = {"name": key, "variable": key, "level": None, "units": units[key]}
        if held and key not in store.surface:
            described |= {"variable": variable, "level": float(level)}
        elif key in store.surface:
            described["accumulation_hours"] = store.variable_attributes(key).get("accumulation_hours")
        found.append(described)
    return found


@dataclass(frozen=True)
class MeanErrors:
    """Mean errors of one evaluation that are kept.

    Attributes:
        path: Zarr that holds them.
        attributes: What they are of: ``starts`` (``count``, ``first``, ``last``), ``synthetic``, ``channels`` and more.
        leads: Leads in hours.
        latitude: Degrees north, [H] or [H, W].
        longitude: Degrees east, [W] or [H, W].
        land: Fraction of land, [H, W]; None where it is not known.
    """

    path: Path
    attributes: Mapping[str, Any]
    leads: Sequence[float]
    latitude: Field
    longitude: Field
    land: Field | None

    @property
    def forecasts(self) -> list[str]:
        """Names of the forecasts."""
        return list(self.attributes["forecasts"])

    @property
    def channels(self) -> dict[str, Mapping[str, Any]]:
        """Descriptions of the channels by name: ``variable``, ``level``, ``units``, ``accumulation_hours``."""
        return {described["name"]: described for described in self.attributes["channels"]}

    def read(self, table: str, lead: float, forecast: str, channel: str) -> Field:
        """Read a map, [H, W], in the variable's unit.

        Raises:
            SettingsError: it is damaged.
        """
        place = self.leads.index(lead), self.forecasts.index(forecast), list(self.channels).index(channel)
        try:
            array = open_group(self.path)[table]
            assert isinstance(array, zarr.Array)
            return np.asarray(array[place], dtype=np.float64)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise _damaged(self.path, error) from error


def read_mean_errors(path: Path) -> MeanErrors:
    """Open mean errors.

    Raises:
        SettingsError: they are damaged, or of a newer kit.
    """
    try:
        group = open_group(path)
        attributes: dict[str, Any] = dict(group.attrs)
        held = {name: np.asarray(group[name], dtype=np.float64) for name in ("lead", "latitude", "longitude")}
        land = np.asarray(group["lsm"], dtype=np.float64) if "lsm" in group else None
        missing = [name for name in _ATTRIBUTES if name not in attributes]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, KitError) as error:
        raise _damaged(path, error) from error
    if attributes.get("format") != _FORMAT or missing:
        msg = f"{path}: expected mean errors of format {_FORMAT}, found {attributes.get('format')}; evaluate anew"
        raise SettingsError(msg)
    return MeanErrors(path, attributes, held["lead"].tolist(), held["latitude"], held["longitude"], land)


def _damaged(path: Path, error: Exception) -> SettingsError:
    return SettingsError(f"{path}: expected the mean errors that `kit evaluate` keeps ({error}); evaluate anew")


def newest_maps(sums: Path, checkpoint_sha256: str) -> dict[tuple[str, float], MeanErrors]:
    """Find the mean errors of a checkpoint that were evaluated last, and others on the same data with other leads.

    Args:
        sums: Folder of the run's sums.
        checkpoint_sha256: Hash of the checkpoint's ``kit.json`` as it is now.

    Returns:
        By channel and lead those over the most start dates.

    Raises:
        SettingsError: some are damaged.
    """
    paths: Iterable[Path] = sorted((sums / FOLDER).glob("*.zarr"), key=lambda path: path.stat().st_mtime)
    of_checkpoint = [
        found for found in map(read_mean_errors, paths) if found.attributes["checkpoint_sha256"] == checkpoint_sha256
    ]
    best: dict[tuple[str, float], MeanErrors] = {}
    # What comes later wins where it has as many dates.
    for found in of_checkpoint:
        if found.attributes["sums"] != of_checkpoint[-1].attributes["sums"]:
            continue
        for channel in found.channels:
            for lead in found.leads:
                held = best.get((channel, lead))
                if held is None or _worth(found) >= _worth(held):
                    best[channel, lead] = found
    return dict(sorted(best.items(), key=lambda item: item[0][1]))


def _worth(found: MeanErrors) -> tuple[int, int]:
    return int(found.attributes["starts"]["count"]), len(found.forecasts)
