"""The checks on a store, as commands and training ask for them: kept until the store changes, with a page."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kit.checks import variant
from kit.checks.check import Examined, Expected
from kit.checks.results import Check, QualityReport, accept
from kit.checks.run import VERSION, examine, report_on
from kit.checks.store_reader import StoreReader, open_store_reader
from kit.data.store.format import REPORT_FILE, STATISTICS_FILE
from kit.io.atomic import write_atomically
from kit.io.errors import StoreError
from kit.io.hashes import new_sha256
from kit.io.sealed import read_sealed, write_sealed

_logger = logging.getLogger(__name__)

_LOOKED_AT = 20000
"""Most chunks whose size and time of change are looked at."""


@dataclass(frozen=True)
class Quality:
    """A report, and what its page shows beside it."""

    report: QualityReport
    facts: dict[str, str]
    pictures: dict[str, str]

    @property
    def accepted(self) -> tuple[str, ...]:
        """What was accepted, a sentence each."""
        return tuple(f"accepted: {check.key}: {check.detail}" for check in self.report.checks if check.accepted)

    def page(self) -> str:
        """Write the page, as HTML that needs nothing beside it."""
        from kit.plots.quality_page import page

        return page(self.report, self.facts, self.pictures)


def quality_of(
    path: Path,
    *,
    expected: Expected | None = None,
    accepted: Sequence[str] = (),
    setting: str = "--accept",
    fresh: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Quality:
    """Check a store, or take the report that was kept of it.

    The report lies in the store's folder, or in the cache where that cannot be written. It is taken while the store's
    fingerprint, the sizes and times of change of its chunks, and the version of the checks are what they were.

    Args:
        path: Folder of the store.
        expected: What a variant reads; costs no further reading.
        accepted: Errors to accept by name.
        setting: Setting that these names come from.
        fresh: Whether to read the store in any case.
        watch: Called after each state of each variable that is read.

    Raises:
        StoreError: there is no store at ``path`` at all.
        SettingsError: a name that is accepted is no error of this store.
    """
    path = Path(path)
    reader = open_store_reader(path)
    key = _fingerprint(reader)
    found = None if fresh else _kept(path, key)
    if found is None:
        # Drawing imports matplotlib, which a kept report does without.
        from kit.plots.quality_page import pictures

        store = examine(path, watch=watch)
        found = Quality(report_on(store), _facts(store.reader), pictures(store))
        _keep(path, key, found)
    report = found.report
    if expected is not None:
        report = _for_variant(report, reader, expected)
    return replace(found, report=accept(report, accepted, setting))


_OF_AURORA = ("variables",)
"""Checks of what Aurora cannot be without, and a network that draws whatever a store holds can."""


def fit_for_training(path: Path, accepted: Sequence[str], *, aurora: bool = True) -> Quality:
    """Check a store before any GPU time is spent on it.

    Args:
        path: Folder of the store.
        accepted: Errors to accept by name.
        aurora: Whether Aurora reads it, which needs variables at the surface, on levels, and static ones.

    Raises:
        StoreError: it has errors that were not accepted; names them.
        SettingsError: a name that is accepted is no error of this store.
    """
    quality = quality_of(path, accepted=accepted, setting="data.accept")
    left = [check for check in quality.report.unresolved if aurora or check.key not in _OF_AURORA]
    if left:
        findings, names = [], {}
        for check in left:
            findings.append(f"{check.name} ({check.variable}): {check.detail}")
            # A check that found several things in a variable is accepted once.
            names[check.key] = True
        msg = (
            f"{path} is not fit for training: {'; '.join(findings)}. See kit data qa {path}; to train all the same, "
            f"accept what was found by name: --data.accept {','.join(names)}"
        )
        raise StoreError(msg)
    return quality


def expected_of(name: str) -> Expected:
    """Return what a variant reads.

    Raises:
        SettingsError: no variant has that name.
    """
    from kit.models.variants import variant_named

    found = variant_named(name)
    return Expected(
        name,
        found.physical(found.surface),
        found.atmospheric,
        found.static,
        step_hours=found.timestep.total_seconds() / 3600,
        # Only v1.5 predicts precipitation: that of the last hour (``scaled_tp_1h``), whatever its step.
        window_hours=1.0 if found.is_v1p5 else None,
    )


def write_page(quality: Quality, path: Path) -> Path:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, quality.page())
    return path


def _for_variant(report: QualityReport, reader: StoreReader, expected: Expected) -> QualityReport:
    """Run again the checks that depend on the variant; they read no values."""
    store = Examined(reader, {}, expected)
    again = {check.name: check.run(store) for check in variant.CHECKS}
    checks: list[Check] = []
    for check in report.checks:
        if check.name not in again:
            checks.append(check)
            continue
        # All results of a check stand where its first one stood.
        checks += again[check.name]
        again[check.name] = []
    return replace(report, checks=tuple(checks))


def _facts(reader: StoreReader) -> dict[str, str]:
    """State what a reader wants to know of a store before anything else."""
    coordinates, attributes = reader.coordinates, reader.attributes
    facts: dict[str, str] = {}
    if "time" in coordinates:
        times = coordinates["time"].astype("datetime64[m]")
        first, last = str(times.min()).replace("T", " "), str(times.max()).replace("T", " ")
        facts["states"] = f"{len(times)} from {first} to {last} UTC"
    if "latitude" in coordinates and "longitude" in coordinates:
        latitude, longitude = coordinates["latitude"], coordinates["longitude"]
        facts["grid"] = (
            f"{latitude.shape[0]} x {longitude.shape[-1]} points, {latitude.max():g} to {latitude.min():g} degrees "
            f"north, {longitude.min():g} to {longitude.max():g} east"
        )
    if "level" in coordinates:
        facts["levels"] = ", ".join(f"{level:g}" for level in coordinates["level"]) + " hPa"
    for kind in ("surface", "atmospheric", "static"):
        names = [channel.name for channel in reader.channels if channel.kind == kind]
        facts[f"{kind} variables"] = ", ".join(names)
    splits = attributes.get("splits")
    if isinstance(splits, dict):
        for name, period in splits.items():
            facts[f"to {name}"] = str(period)
    for name in ("source", "licence", "kit_version"):
        facts[name] = str(attributes.get(name) or "")
    if attributes.get("synthetic"):
        facts["data"] = "synthetic: not observed weather"
    return facts


def _fingerprint(reader: StoreReader) -> str:
    """Hash what a report belongs to: the store as it describes itself, its chunks on the disk, and the checks."""
    digest = new_sha256(f"checks {VERSION}".encode())
    for name in ("zarr.json", STATISTICS_FILE):
        file = reader.path / name
        digest.update(file.read_bytes() if file.is_file() else b"absent")
    # Of a store with more chunks than that, as many are looked at, evenly spread.
    states = sum(channel.states for channel in reader.channels)
    every = max(1, -(-states // _LOOKED_AT))
    for channel in reader.channels:
        # One chunk stands for the state: the first of its levels and of its rows and columns.
        rest = [0] * channel.array.ndim
        for time in range(0, channel.states, every):
            if channel.kind != "static":
                rest[0] = time
            chunk = channel.array.metadata.encode_chunk_key(tuple(rest))
            digest.update(_size_and_time(channel.folder / chunk).encode())
        digest.update(_size_and_time(channel.folder / "zarr.json").encode())
    for values in reader.coordinates.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _size_and_time(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return "absent;"
    return f"{found.st_size} {found.st_mtime_ns};"


def _places(path: Path, key: str) -> tuple[Path, Path]:
    """Return where a report may lie: in the store's folder, or in the cache where that cannot be written."""
    from kit.registry import cache_dir

    return path / REPORT_FILE, cache_dir() / "qa" / f"{key}.json"


def _kept(path: Path, key: str) -> Quality | None:
    for place in _places(path, key):
        try:
            if not place.is_file():
                continue
            content = read_sealed(place)
            # The store, or the checks, changed since it was written.
            if content["key"] == key:
                checks = tuple(Check(**check) for check in content["checks"])
                report = QualityReport(str(path), checks, content["variables"])
                return Quality(report, dict(content["facts"]), dict(content["pictures"]))
        except (OSError, ValueError, KeyError, TypeError):
            # Absent, cut short, or of another version: the store is read again.
            continue
    return None


def _keep(path: Path, key: str, quality: Quality) -> None:
    report = quality.report.as_dict()
    content = {"key": key, "facts": quality.facts, "pictures": quality.pictures}
    content |= {name: report[name] for name in ("checks", "variables")}
    reasons = []
    for place in _places(path, key):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(place, content)
        except OSError as error:
            reasons.append(str(error))
        else:
            return
    _logger.warning("the report on %s cannot be kept, and the next run reads it again: %s", path, "; ".join(reasons))
