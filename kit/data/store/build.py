"""Build a store from foreign data, or open one that is there."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import importlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import numpy as np
import xarray as xr

from kit.data.infill import filled
from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import Announcement, OpenSource, Place, Request, SourceData
from kit.data.sources.crop_regrid import shaped, wanted_region
from kit.data.sources.missing_variables import without_missing
from kit.data.sources.resolve_path import locate
from kit.data.statics import choose_statics, with_statics
from kit.data.store.append import append
from kit.data.store.build_state import OtherPlanError
from kit.data.store.estimate import Estimate, measure, unmeasured
from kit.data.store.executor import How, Watch
from kit.data.store.format import STATIC_PREFIX, Times, listed, period_indices
from kit.data.store.layout import times_of
from kit.data.store.reader import Store, StoreExistsError, write_store
from kit.data.variables import lookup
from kit.data.windows import at_step, trimmed
from kit.io.errors import StoreError

__all__ = ["build", "default_splits", "estimate", "open_store"]

_REFUSED = (
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
)  # fmt: skip
"""What a system says where a file cannot be made."""

_SOURCES = {
    "cds": "kit.data.sources.cds.source",
    "grib": "kit.data.sources.grib.source",
    "hrrr": "kit.data.sources.hrrr.source",
    "netcdf": "kit.data.sources.netcdf",
    "pickle": "kit.data.sources.pickle.source",
    "zarr": "kit.data.sources.zarr.source",
}
"""The module of each kind of source; imported when a build asks for it, because each needs packages of its own."""


def build(settings: BuildSettings, *, attributes: Mapping[str, Any] | None = None, watch: Watch | None = None) -> Store:
    """Read data, bring them into one form, and write them as a store.

    Args:
        settings: what is read and taken.
        attributes: added to the store's, over those that the data give.
        watch: is told how it goes.

    Raises:
        StoreError: the data are absent, damaged, or cannot be reconciled. Nothing is left behind, unless blocks of
            states were written before: those are kept beside ``out``, and the same build goes on from there.
        UnavailableError: a source did not answer; what is done is kept in the same way.
        RegistryError: the path is a name of the registry, and a file of it cannot be had as it is described.
        SettingsError: a package that the source needs is not installed.
        OSError: the disk is full or the folder cannot be written; what is done is kept in the same way.
    """
    if settings.append:
        return _appended(settings, attributes or {}, watch)
    if settings.out.exists():
        msg = f"{settings.out}: exists already; choose another folder with --out, or remove this one first"
        raise StoreExistsError(msg)
    with _prepared(settings) as (source, dataset, described):
        return write_store(
            dataset,
            settings.out,
            splits=_splits(times_of(dataset), settings),
            attributes={**described, **(attributes or {})},
            weights=settings.weights,
            codec=settings.codec,
            settings=_asked(settings, source),
            how=_how(settings, watch),
        )


def estimate(settings: BuildSettings) -> Estimate:
    """Say what a build will take: opens the data, reads one block of states, and writes nothing that stays.

    Of a source that fetches all before it opens anything, what is not fetched yet is only announced: nothing is asked.

    Raises:
        StoreError: as ``build``.
    """
    announce = getattr(_module(settings), "announce", None)
    if announce is not None:
        announced: Announcement | None = announce((settings.path,), _request(settings, sample=True))
        if announced is not None:
            return unmeasured(announced, settings.out, workers=settings.workers)
    with _prepared(settings, sample=True) as (source, dataset, _):
        _splits(times_of(dataset), settings)
        return measure(
            dataset,
            settings.out,
            codec=settings.codec,
            workers=settings.workers,
            requests=source.requests,
            download_bytes=source.download_bytes,
        )


@contextmanager
def _prepared(
    settings: BuildSettings, *, sample: bool = False
) -> Iterator[tuple[SourceData, xr.Dataset, dict[str, Any]]]:
    """The source, what is taken of it, and what the store says of both."""
    origin = locate(settings.path, settings.source)
    # What is computed here is little; and no cluster that happens to be there is to be asked for it.
    with (
        dask.config.set(scheduler="synchronous"),
        _open_source(settings, origin.paths, sample=sample) as opened,
    ):
        known = dataclasses.replace(opened, licence=origin.licence or opened.licence)
        source = with_statics(shaped(known, settings), settings.statics_from, settings.statics)
        notes = list(source.notes)
        dataset = _assemble(source, settings, notes)
        described = {
            "source": settings.source,
            "source_files": list(source.files),
            "licence": settings.licence or source.licence,
            "history": notes,
            "synthetic": source.synthetic,
            **({"projection": dict(source.projection)} if source.projection else {}),
            **({"regridding": dict(source.regridding)} if source.regridding else {}),
            **origin.attributes,
        }
        yield source, dataset, described


def _appended(settings: BuildSettings, attributes: Mapping[str, Any], watch: Watch | None) -> Store:
    if not settings.out.exists():
        msg = f"{settings.out}: no such store to append to; leave --append out to build one"
        raise StoreError(msg)
    given = {name: getattr(settings, name) for name in ("train", "valid", "test")}
    with _prepared(settings) as (source, dataset, described):
        append(
            dataset,
            settings.out,
            splits={name: period for name, period in given.items() if period is not None},
            attributes={**described, **attributes},
            weights=settings.weights if "weights" in settings.model_fields_set else None,
            codec=settings.codec if "codec" in settings.model_fields_set else None,
            settings=_asked(settings, source),
            how=_how(settings, watch),
        )
    return Store.open(settings.out)


def _how(settings: BuildSettings, watch: Watch | None) -> How:
    return How(settings.workers, settings.scheduler, settings.restart, watch)


def _asked(settings: BuildSettings, source: SourceData) -> dict[str, Any]:
    """What the store follows from, beside the hashes of the files; where there are none, the place of the data."""
    hashed = bool(source.files) and all("sha256" in file for file in source.files)
    return settings.asked() | ({} if hashed else {"path": settings.path})


def open_store(name_or_path: str) -> Store:
    """Open a store by its folder, or by the name of a registry entry.

    A registry entry is built into a store in the cache the first time; several processes may do so at once.

    Raises:
        StoreError: it is neither, or the folder is no store.
        RegistryError: the entry's file is absent or not the one that the registry describes.
    """
    path = Path(name_or_path)
    if path.exists():
        return Store.open(path)
    from kit import registry

    entries = {name: entry for name, entry in registry.entries().items() if entry.kind == "states"}
    if name_or_path not in entries:
        near = difflib.get_close_matches(name_or_path, entries, n=3) or sorted(entries)
        msg = (
            f"data.store is {name_or_path!r}: there is no such folder, and the registry's data sets are "
            f"{', '.join(near)}; build a store with `kit data build`"
        )
        raise StoreError(msg)
    entry = entries[name_or_path]
    # The file is verified each time, also when the store that was built from it is there.
    file = registry.fetch(name_or_path)
    out = registry.cache_dir() / "stores" / f"{name_or_path}-{str(entry.hash)[:12]}"
    settings = BuildSettings(source="pickle", path=str(file), out=out, licence=entry.licence)
    facts = {"registry": name_or_path, "registry_sha256": entry.hash, "synthetic": entry.synthetic}
    return _cached(settings, facts)


def _cached(settings: BuildSettings, facts: Mapping[str, Any]) -> Store:
    try:
        return _open_or_build(settings, facts)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        msg = (
            f"{settings.out}: the store cannot be built in the cache ({error.strerror}): free some space there, or set "
            "KIT_CACHE to a folder that can be written"
        )
        raise StoreError(msg) from error


def _open_or_build(settings: BuildSettings, facts: Mapping[str, Any]) -> Store:
    if settings.out.exists():
        try:
            return Store.open(settings.out)
        except StoreError:
            # The cache is ours: what is damaged or of an older format is made anew.
            shutil.rmtree(settings.out)
    try:
        return build(settings, attributes=facts)
    except OtherPlanError:
        # Of an earlier version of the kit.
        return build(settings.model_copy(update={"restart": True}), attributes=facts)
    except StoreExistsError:
        return Store.open(settings.out)


def _module(settings: BuildSettings) -> ModuleType:
    return importlib.import_module(_SOURCES[settings.source])


def _open_source(
    settings: BuildSettings, paths: Sequence[Place], *, sample: bool
) -> AbstractContextManager[SourceData]:
    opener: OpenSource = _module(settings).open_source
    return opener(paths, _request(settings, sample=sample))


def _request(settings: BuildSettings, *, sample: bool) -> Request:
    variables, statics = settings.variables, settings.statics
    return Request(
        None if variables is None else frozenset(variables),
        None if statics is None else frozenset(STATIC_PREFIX + name for name in statics),
        times=settings.times,
        levels=settings.levels,
        region=wanted_region(settings),
        step=settings.step,
        sample=sample,
        statics_elsewhere=settings.statics_from is not None,
        absent_chunks=frozenset(settings.absent_chunks),
    )


def _assemble(source: SourceData, settings: BuildSettings, notes: list[str]) -> xr.Dataset:
    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)

    source, settings = without_missing(source, settings, note)
    fields = _chosen(source, settings.variables)
    fields = {name: _on_levels(field, settings.levels) for name, field in fields.items()}
    fields = {
        name: at_step(field, accumulated=_is_accumulated(name, field), hours=settings.step, note=note)
        for name, field in fields.items()
    }
    fields = trimmed(fields, note)
    fields = {name: _in_times(field, settings.times) for name, field in fields.items()}
    _check_same_coordinates(fields)
    for where, on_levels in (("on pressure levels", True), ("at the surface", False)):
        if not any(("level" in field.dims) == on_levels for field in fields.values()):
            note(f"no variable {where}: Aurora needs at least one to train; give files of the same grid and times")
    statics = choose_statics(source.fields, next(iter(fields.values())), settings.statics, note, source.names)
    return filled(xr.Dataset({**fields, **statics}), settings.infill, note)


def _is_accumulated(name: str, field: xr.DataArray) -> bool:
    variable = None if "level" in field.dims else lookup(name, "surface")
    return "accumulation_hours" in field.attrs or (variable is not None and variable.accumulated)


def _chosen(source: SourceData, names: Sequence[str] | None) -> dict[str, xr.DataArray]:
    chosen = {name: field for name, field in source.fields.items() if not name.startswith(STATIC_PREFIX)}
    missing = [name for name in names or () if name not in chosen]
    if missing or not chosen:
        held = ", ".join(name for name in source.names if not name.startswith(STATIC_PREFIX)) or "none"
        wanted = ", ".join(missing) or "that the kit knows"
        msg = f"the data lack the variables {wanted}; they hold {held}. {' '.join(source.notes)}".rstrip()
        raise StoreError(msg)
    return chosen


def _on_levels(field: xr.DataArray, levels: Sequence[float] | None) -> xr.DataArray:
    if levels is None or "level" not in field.dims:
        return field
    held = field["level"].values.tolist()
    missing = [level for level in levels if level not in held]
    if missing:
        msg = f"{field.name} lacks the levels {listed(missing)} hPa; the data hold {listed(held)}"
        raise StoreError(msg)
    return field.isel(level=[held.index(level) for level in sorted(set(levels))])


def _in_times(field: xr.DataArray, period: Period | None) -> xr.DataArray:
    if period is None:
        return field
    times = field["time"].values.astype("datetime64[s]")
    inside = period_indices(times, period)
    if not inside.size:
        msg = f"{field.name}: no state in --times {period}; the data hold {_described(times)}"
        raise StoreError(msg)
    return field.isel(time=inside)


def _check_same_coordinates(fields: Mapping[str, xr.DataArray]) -> None:
    for coordinate in ("time", "level"):
        holders = [(name, f[coordinate].values) for name, f in fields.items() if coordinate in f.dims]
        for name, values in holders[1:]:
            if not np.array_equal(values, holders[0][1]):
                msg = (
                    f"{holders[0][0]} and {name} differ in their {coordinate}s: {_described(holders[0][1])}; "
                    f"{_described(values)}. Give both for the same ones, or choose with --levels, --variables or --step"
                )
                raise StoreError(msg)


def _described(values: Any) -> str:
    if np.issubdtype(values.dtype, np.datetime64):
        minutes = values.astype("datetime64[m]")
        return f"{len(values)} from {minutes[0]} to {minutes[-1]}"
    return f"{listed(values.tolist())} hPa"


def _splits(times: Times, settings: BuildSettings) -> dict[str, Period]:
    given = {name: getattr(settings, name) for name in ("train", "valid", "test")}
    splits: dict[str, Period] = {name: period for name, period in given.items() if period is not None}
    if not splits:
        return default_splits(times)
    if "train" not in splits:
        msg = f"{', '.join(splits)} given without train; give --train as START/END too, or none of them"
        raise StoreError(msg)
    return splits


def default_splits(times: Times) -> dict[str, Period]:
    """The first 70 % of the states to train, the next 15 % to validate, the last 15 % to test.

    Raises:
        StoreError: there are fewer than three states.
    """
    count = len(times)
    if count < 3:
        msg = (
            f"{count} state(s) cannot be split into train, valid and test; give more data, "
            "or --train START/END alone for a store that is not to be trained on"
        )
        raise StoreError(msg)
    first = min(max(1, round(0.7 * count)), count - 2)
    second = min(max(first + 1, round(0.85 * count)), count - 1)
    edges = {"train": (0, first - 1), "valid": (first, second - 1), "test": (second, count - 1)}
    moments = [moment.replace(tzinfo=UTC) for moment in times.astype("datetime64[s]").tolist()]
    return {name: Period(moments[start], moments[end]) for name, (start, end) in edges.items()}
