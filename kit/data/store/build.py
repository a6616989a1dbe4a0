"""Stores from foreign data: building, estimating, and opening by folder or registry name."""

import dataclasses
import errno
import importlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import xarray as xr

from kit.config.suggestions import near_names
from kit.data.products import PRODUCTS
from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import Announcement, OpenSource, Request, SourceData
from kit.data.sources.crop_regrid import shaped, wanted_region
from kit.data.sources.levels import LevelRules
from kit.data.sources.resolve_path import locate
from kit.data.statics import with_statics
from kit.data.store.assemble import assemble
from kit.data.store.build_state import OtherPlanError
from kit.data.store.estimate import BuildEstimate, measure, unmeasured
from kit.data.store.executor import BuildProgressCallback, ExecutionOptions
from kit.data.store.finalize import StoreExistsError
from kit.data.store.format import STATIC_PREFIX, Times, times_of
from kit.data.store.reader import Store
from kit.data.store.writer import append_states, write_store
from kit.io.errors import StoreError
from kit.registry.fetching import strictly

_REFUSED = (
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
)  # fmt: skip
"""What a system says where a file cannot be made."""

_SOURCES = {
    "cds": "kit.data.sources.cds.source",
    "files": "kit.data.sources.files",
    "grib": "kit.data.sources.grib.source",
    "hrrr": "kit.data.sources.hrrr.source",
    "netcdf": "kit.data.sources.netcdf",
    "pickle": "kit.data.sources.pickle.source",
    "zarr": "kit.data.sources.zarr.source",
}
"""The module of each kind of source; imported when a build asks for it, because each needs packages of its own."""


def build_store(
    settings: BuildSettings | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
    watch: BuildProgressCallback | None = None,
    **keywords: Any,
) -> Store:
    """Build a store from files, archives or data stores, or add states to one with ``append``.

    Reads the data, brings variables, units, grid and times into the store's form, computes statistics of the training
    states, and writes everything as float32 with a hash of each file. An interrupted build is continued by the same
    call; several processes that make the same call share the work.

        build_store(source="netcdf", path="era5/", out="stores/europe", step="6h", region=(60, -10, 35, 30))

    Args:
        settings: Data to read, what to take of it, and folder of the store. Times are UTC, levels hPa, coordinates
            degrees north and east, steps whole hours.
        attributes: Attributes of the store, which take precedence over those that the data give.
        watch: Callback that receives the progress.
        **keywords: Fields of ``BuildSettings``, in place of ``settings``.

    Returns:
        The store, opened.

    Raises:
        TypeError: both settings and keywords are given.
        ValueError: the keywords are no valid settings (pydantic's ``ValidationError``).
        StoreExistsError: the folder of the store exists already; without ``append`` alone.
        StoreError: the data are absent, damaged, or cannot be reconciled. Nothing is left behind, unless blocks of
            states were written before: those are kept beside ``out``, and the same build goes on from there.
        UnavailableError: a source did not answer; what is done is kept in the same way.
        RegistryError: the path is a name of the registry, and a file of it cannot be had as it is described.
        SettingsError: a package that the source needs is not installed.
        OSError: the disk is full or the folder cannot be written; what is done is kept in the same way.
    """
    if settings is None:
        settings = BuildSettings(**keywords)
    elif keywords:
        msg = f"build_store takes settings or keywords, not both; got settings and {', '.join(keywords)}"
        raise TypeError(msg)
    if settings.append and not settings.out.exists():
        msg = f"{settings.out}: no such store to append to; leave --append out to build one"
        raise StoreError(msg)
    if settings.out.exists() and not settings.append:
        msg = f"{settings.out}: exists already; choose another folder with --out, or remove this one first"
        raise StoreExistsError(msg)
    how = ExecutionOptions(settings.workers, settings.scheduler, settings.restart, watch)
    with _prepared(settings) as (source, dataset, described):
        described.update(attributes or {})
        # Beside the hashes of the files, these are what the store follows from; without hashes, the place of the data
        # takes their part.
        asked = settings.asked()
        if not source.files or any("sha256" not in file for file in source.files):
            asked["path"] = settings.path
        if not settings.append:
            return write_store(
                dataset,
                settings.out,
                splits=_splits(times_of(dataset), settings),
                attributes=described,
                weights=settings.weights,
                codec=settings.codec,
                settings=asked,
                how=how,
            )
        # A default must not pass for a wish: those who give none of these take what the store has.
        given = settings.model_dump(include={"weights", "codec"}, exclude_unset=True)
        splits = _given_splits(settings)
        append_states(dataset, settings.out, splits=splits, attributes=described, settings=asked, how=how, **given)
    return Store.open(settings.out)


def estimate(settings: BuildSettings) -> BuildEstimate:
    """Estimate size, requests and time of a build from one block of states; nothing that is written stays.

    Of a source that fetches all before it opens anything, what is not fetched yet is only announced: nothing is asked.

    Raises:
        StoreError: as ``build_store``.
    """
    announce = getattr(_module(settings), "announce", None)
    if announce is not None:
        announced: Announcement | None = announce((settings.path,), _request(settings, sample=True))
        if announced is not None:
            return unmeasured(announced, settings.out, workers=settings.workers)
    with _prepared(settings, sample=True) as (source, dataset, _):
        # Splits that a build would refuse are refused here, too.
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
    """Yield the source, the dataset that is taken of it, and the attributes that describe both."""
    with strictly(settings.registry.strict):
        origin = locate(settings.path, settings.source)
    open_source: OpenSource = _module(settings).open_source
    # What is computed here is little; and no cluster that happens to be there is to be asked for it.
    with (
        strictly(settings.registry.strict),
        dask.config.set(scheduler="synchronous"),
        open_source(origin.paths, _request(settings, sample=sample, product=origin.product)) as opened,
    ):
        known = dataclasses.replace(opened, licence=origin.licence or opened.licence)
        source = with_statics(shaped(known, settings), settings.statics_from, settings.statics)
        notes = list(source.notes)
        dataset = assemble(source, settings, notes)
        described: dict[str, Any] = {
            "source": settings.source,
            "source_files": list(source.files),
            "licence": settings.licence or source.licence,
            "history": notes,
            "synthetic": source.synthetic,
        }
        if source.projection:
            described["projection"] = dict(source.projection)
        if source.regridding:
            described["regridding"] = dict(source.regridding)
        yield source, dataset, described | origin.attributes


def open_store(path_or_name: str | Path) -> Store:
    """Open a store by its folder, or by the name of a registry entry.

    A registry entry is fetched, verified and built into a store in the cache (``KIT_CACHE``) the first time; several
    processes may do so at once.

        store = open_store("era5-sample")
        store.read("2t", [0])  # [1, H, W], kelvin

    Args:
        path_or_name: Folder of a store, or name of an entry of the kind ``states`` (``kit data list``).

    Returns:
        The store: its variables, grid (degrees), levels (hPa) and times (UTC) are attributes.

    Raises:
        StoreError: it is neither, the folder is no store, or the cache cannot be written.
        RegistryError: the entry's file is absent or not the one that the registry describes.
    """
    path = Path(path_or_name)
    if path.exists():
        return Store.open(path)
    from kit import registry

    name = str(path_or_name)
    entries = {name: entry for name, entry in registry.entries().items() if entry.kind == "states"}
    if name not in entries:
        near = near_names(name, entries) or sorted(entries)
        msg = (
            f"data.store is {name!r}: there is no such folder, and the registry's data sets are "
            f"{', '.join(near)}; build a store with `kit data build`"
        )
        raise StoreError(msg)
    entry = entries[name]
    # The file is verified each time, also when the store that was built from it is there.
    file = registry.fetch(name)
    # Another version of the file is another store.
    out = registry.cache_dir() / "stores" / f"{name}-{str(entry.hash)[:12]}"
    settings = BuildSettings(source="pickle", path=str(file), out=out, licence=entry.licence)
    facts = {"registry": name, "registry_sha256": entry.hash, "synthetic": entry.synthetic}
    try:
        return _open_or_build(settings, facts)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        msg = (
            f"{out}: the store cannot be built in the cache ({error.strerror}): free some space there, or set "
            "KIT_CACHE to a folder that can be written"
        )
        raise StoreError(msg) from error


def _open_or_build(settings: BuildSettings, facts: Mapping[str, Any]) -> Store:
    if settings.out.exists():
        try:
            return Store.open(settings.out)
        except StoreError:
            # The cache is ours: a store that is damaged or of an older format is replaced.
            shutil.rmtree(settings.out)
    try:
        return build_store(settings, attributes=facts)
    except OtherPlanError:
        # An earlier version of the kit began this build, and its plan is another.
        return build_store(settings.model_copy(update={"restart": True}), attributes=facts)
    except StoreExistsError:
        # Another process was faster.
        return Store.open(settings.out)


def _module(settings: BuildSettings) -> ModuleType:
    return importlib.import_module(_SOURCES[settings.source])


def _request(settings: BuildSettings, *, sample: bool, product: str | None = None) -> Request:
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
        leads=settings.lead,
        levels_rules=LevelRules(settings.levels_are == "pressure", settings.at_level),
        windows=dict(settings.window),
        product=PRODUCTS.get(settings.product or product or ""),
        absent_chunks=frozenset(settings.absent_chunks),
        winds_are=settings.winds_are,
        left_out=frozenset(settings.leave_out),
        groups=settings.group,
    )


def _given_splits(settings: BuildSettings) -> dict[str, Period]:
    splits = {"train": settings.train, "valid": settings.valid, "test": settings.test}
    return {name: period for name, period in splits.items() if period is not None}


def _splits(times: Times, settings: BuildSettings) -> dict[str, Period]:
    splits = _given_splits(settings)
    if not splits:
        return default_splits(times)
    if "train" not in splits:
        msg = f"{', '.join(splits)} given without train; give --train as START/END too, or none of them"
        raise StoreError(msg)
    return splits


def default_splits(times: Times) -> dict[str, Period]:
    """Split states in the order of time: the first 70 % to train, the next 15 % to validate, the last 15 % to test.

    Args:
        times: Times of all states, ``datetime64``, UTC.

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
    # Each split has a state at least, however few there are.
    first = min(max(1, round(0.7 * count)), count - 2)
    second = min(max(first + 1, round(0.85 * count)), count - 1)
    edges = {"train": (0, first - 1), "valid": (first, second - 1), "test": (second, count - 1)}
    moments = [moment.replace(tzinfo=UTC) for moment in times.astype("datetime64[s]").tolist()]
    return {name: Period(moments[start], moments[end]) for name, (start, end) in edges.items()}
