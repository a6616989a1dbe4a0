"""The checks on a store, as commands and training ask for them: kept until the store changes, with a page."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kit.checks import variant
from kit.checks.check import Examined
from kit.checks.expected import Expected
from kit.checks.results import Check, QualityReport, accept
from kit.checks.run import VERSION, examine, report_on
from kit.checks.store_reader import StoreReader, open_store_reader
from kit.data.store.format import REPORT_FILE, STATISTICS_FILE
from kit.io.atomic import write_atomically
from kit.io.errors import StoreError

__all__ = ["Quality", "expected_of", "fit_for_training", "quality_of", "write_page"]

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
        """The page, as HTML that needs nothing beside it."""
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
        path: the store's folder.
        expected: what a variant reads; costs no further reading.
        accepted: errors to accept by name.
        setting: where these names come from.
        fresh: read the store in any case.
        watch: called after each state of each variable that is read.

    Raises:
        StoreError: there is no store at ``path`` at all.
        SettingsError: a name that is accepted is no error of this store.
    """
    path = Path(path)
    reader = open_store_reader(path)
    key = _key(reader)
    found = None if fresh else _kept(path, key)
    if found is None:
        found = _made(path, watch)
        _keep(path, key, found)
    if expected is not None:
        found = replace(found, report=_for_variant(found.report, reader, expected))
    return replace(found, report=accept(found.report, accepted, setting))


def fit_for_training(path: Path, accepted: Sequence[str]) -> Quality:
    """Check a store before any GPU time is spent on it.

    Raises:
        StoreError: it has errors that were not accepted; names them.
        SettingsError: a name that is accepted is no error of this store.
    """
    quality = quality_of(path, accepted=accepted, setting="data.accept")
    if left := quality.report.unresolved:
        told = "; ".join(f"{check.name} ({check.variable}): {check.detail}" for check in left)
        names = ",".join(dict.fromkeys(check.key for check in left))
        msg = (
            f"{path} is not fit for training: {told}. See kit data qa {path}; to train all the same, accept what was "
            f"found by name: --data.accept {names}"
        )
        raise StoreError(msg)
    return quality


def expected_of(name: str) -> Expected:
    """What a variant reads.

    Raises:
        SettingsError: no variant has that name.
    """
    from kit.models.variants import variant_named

    found = variant_named(name)
    hours = found.timestep.total_seconds() / 3600
    return Expected(
        name, found.physical(found.surface), found.atmospheric, found.static,
        step_hours=hours, window_hours=1.0 if found.is_v1p5 else None,
    )  # fmt: skip


def write_page(quality: Quality, path: Path) -> Path:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, quality.page())
    return path


def _made(path: Path, watch: Callable[[], None]) -> Quality:
    from kit.plots.quality_page import pictures

    store = examine(path, watch=watch)
    return Quality(report_on(store), _facts(store.reader), pictures(store))


def _for_variant(report: QualityReport, reader: StoreReader, expected: Expected) -> QualityReport:
    """Run again the checks that depend on the variant; they read no values."""
    store = Examined(reader, {}, expected)
    again: dict[str, list[Check]] = {check.name: check.run(store) for check in variant.CHECKS}
    checks: list[Check] = []
    for check in report.checks:
        checks += again.pop(check.name, []) if check.name in {one.name for one in variant.CHECKS} else [check]
    return replace(report, checks=tuple(checks))


def _facts(reader: StoreReader) -> dict[str, str]:
    """What a reader wants to know of a store before anything else."""
    coordinates, attributes = reader.coordinates, reader.attributes
    facts: dict[str, str] = {}
    if (times := coordinates.get("time")) is not None:
        first, last = (str(time.astype("datetime64[m]")).replace("T", " ") for time in (times.min(), times.max()))
        facts["states"] = f"{len(times)} from {first} to {last} UTC"
    if (latitude := coordinates.get("latitude")) is not None and (
        longitude := coordinates.get("longitude")
    ) is not None:
        facts["grid"] = (
            f"{latitude.shape[0]} x {longitude.shape[-1]} points, {latitude.max():g} to {latitude.min():g} degrees "
            f"north, {longitude.min():g} to {longitude.max():g} east"
        )
    if (levels := coordinates.get("level")) is not None:
        facts["levels"] = ", ".join(f"{level:g}" for level in levels) + " hPa"
    for kind in ("surface", "atmospheric", "static"):
        facts[f"{kind} variables"] = ", ".join(one.name for one in reader.channels if one.kind == kind)
    splits = attributes.get("splits")
    facts |= {f"to {name}": str(period) for name, period in splits.items()} if isinstance(splits, dict) else {}
    facts |= {name: str(attributes.get(name) or "") for name in ("source", "licence", "kit_version")}
    return facts | ({"data": "synthetic: not observed weather"} if attributes.get("synthetic") else {})


def _key(reader: StoreReader) -> str:
    """What a report belongs to: the store as it describes itself, its chunks as the disk has them, and the checks."""
    digest = hashlib.sha256(f"checks {VERSION}".encode())
    for name in ("zarr.json", STATISTICS_FILE):
        file = reader.path / name
        digest.update(file.read_bytes() if file.is_file() else b"absent")
    total = sum(channel.states for channel in reader.channels)
    every = -(-total // _LOOKED_AT) if total else 1
    for channel in reader.channels:
        folder = reader.path / channel.name
        rest = (0,) * (channel.array.ndim - (channel.kind != "static"))
        for time in range(0, channel.states, every):
            chunk = channel.array.metadata.encode_chunk_key(rest if channel.kind == "static" else (time, *rest))
            digest.update(_seen(folder / chunk).encode())
        digest.update(_seen(folder / "zarr.json").encode())
    for name in reader.coordinates:
        digest.update(np.ascontiguousarray(reader.coordinates[name]).tobytes())
    return digest.hexdigest()


def _seen(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return "absent;"
    return f"{found.st_size} {found.st_mtime_ns};"


def _places(path: Path, key: str) -> tuple[Path, Path]:
    from kit.registry import cache_dir

    return path / REPORT_FILE, cache_dir() / "qa" / f"{key}.json"


def _kept(path: Path, key: str) -> Quality | None:
    for place in _places(path, key):
        try:
            if not place.is_file():
                continue
            content = json.loads(place.read_text(encoding="utf-8"))
            if content["key"] == key:
                checks = tuple(Check(**check) for check in content["checks"])
                return Quality(QualityReport(str(path), checks), dict(content["facts"]), dict(content["pictures"]))
        except (OSError, ValueError, KeyError, TypeError):
            # Absent, cut short, or of another version: the store is read again.
            continue
    return None


def _keep(path: Path, key: str, quality: Quality) -> None:
    checks: list[dict[str, Any]] = quality.report.as_dict()["checks"]
    content = {"key": key, "checks": checks, "facts": quality.facts, "pictures": quality.pictures}
    text = json.dumps(content)
    reasons = []
    for place in _places(path, key):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
        except OSError as error:
            reasons.append(str(error))
        else:
            return
    _logger.warning("the report on %s cannot be kept, and the next run reads it again: %s", path, "; ".join(reasons))
