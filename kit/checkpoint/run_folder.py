"""The run folder: resolved settings, metrics, checkpoints, log."""

import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, parse_json, read_json
from kit.io.errors import SettingsError
from kit.io.locks import LockHandle, take


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``runs/<name>``."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings; a run made with them is the same run."""
        return self.path / "config.toml"

    @property
    def provenance(self) -> Path:
        """What the run was made of."""
        return self.path / "provenance.json"

    @property
    def quality(self) -> Path:
        """What the checks on the data found."""
        return self.path / "qa.json"

    @property
    def quality_page(self) -> Path:
        """The same as a page with maps, for a browser."""
        return self.path / "qa.html"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def activations(self) -> Path:
        """What modules put out, one JSON object for each step that was looked at."""
        return self.path / "activations.jsonl"

    @property
    def system(self) -> Path:
        """What the machine was doing, one JSON object a sample."""
        return self.path / "system.jsonl"

    @property
    def tracking(self) -> Path:
        """What a tracking store is told of the run, and how it ended."""
        return self.path / "tracking.json"

    @property
    def log(self) -> Path:
        """The log in words."""
        return self.path / "log.txt"

    @property
    def trains(self) -> Path:
        """What trains, and what the check on it found."""
        return self.path / "trains.json"

    @property
    def figures(self) -> Path:
        """Folder of PNG files."""
        return self.path / "figures"

    @property
    def scores(self) -> Path:
        """Newest scorecard of the best checkpoint."""
        return self.path / "scores.json"

    @property
    def best(self) -> Path:
        """Checkpoint with the lowest validation loss."""
        return self.path / "checkpoints" / "best"

    @property
    def last(self) -> Path:
        """Newest checkpoint, from which the run can go on."""
        return self.path / "checkpoints" / "last"

    @property
    def replay(self) -> Path:
        """Items of a replay buffer that is kept on disk, while the run goes on; checkpoints have what they need."""
        return self.path / "replay"

    def refuse_existing(self) -> None:
        """Check that the folder is free, before any work is done for it.

        Raises:
            SettingsError: it exists.
        """
        if self.path.exists():
            msg = (
                f"{self.path}: this run exists already; choose another --run.name, or go on with it: "
                "--train.resume auto"
            )
            raise SettingsError(msg)

    def refuse_unwritable(self) -> None:
        """Check that the folder can be made, before any work is done for it.

        Raises:
            SettingsError: something that is no folder is in the way, or nothing can be written there.
        """
        parent = next(place for place in self.path.absolute().parents if os.path.lexists(place))
        if not parent.is_dir():
            msg = f"{parent}: is not a folder, so no run can be kept in it; choose another --run.dir, or move it away"
            raise SettingsError(msg)
        if not os.access(parent, os.W_OK | os.X_OK):
            msg = f"{parent}: nothing can be written there; choose another --run.dir, or make it writable"
            raise SettingsError(msg)

    def create(self) -> None:
        """Make the folder.

        Raises:
            SettingsError: it exists, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            # Another process may just have been faster.
            self.refuse_existing()
            raise
        except OSError as error:
            msg = (
                f"{self.path}: cannot be made ({error.strerror}); choose another --run.dir, or make its parent writable"
            )
            raise SettingsError(msg) from error

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write resolved settings as TOML; an absent value is left out, or is ``none`` where it means something."""
        write_atomically(self.config, tomli_w.dumps(_without_none(settings)))

    def write_quality(self, report: Mapping[str, Any]) -> None:
        """Write the report of the checks on the data."""
        write_atomically(self.quality, json.dumps(report, indent=2) + "\n")

    def write_trains(self, report: Mapping[str, Any]) -> None:
        """Write what trains, and what is known of whether it did."""
        write_atomically(self.trains, json.dumps(report, indent=2) + "\n")

    def add_provenance(self, made_of: Mapping[str, Any]) -> dict[str, Any]:
        """Record what the run is made of; of a run that goes on, beside what it was made of at first.

        Returns:
            The whole record, with a ``run_key`` that is the run's own.
        """
        record: dict[str, Any] = {"run_key": uuid.uuid4().hex, **made_of}
        if self.provenance.exists():
            record = self.read_provenance()
            record.setdefault("resumed", []).append(dict(made_of))
        self.write_provenance(record)
        return record

    def read_provenance(self) -> dict[str, Any]:
        """The whole record."""
        record: dict[str, Any] = read_json(self.provenance)
        return record

    def write_provenance(self, record: Mapping[str, Any]) -> None:
        """Write the whole record as JSON."""
        write_atomically(self.provenance, json.dumps(record, indent=2) + "\n")


_MEANINGFUL_NONE = ("clip", "check_after", "system_seconds")


def _without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            kept[key] = _without_none(value)
        elif value is not None:
            kept[key] = value
        elif key in _MEANINGFUL_NONE:
            kept[key] = "none"
    return kept


class MetricsLog:
    """``metrics.jsonl``: every record once, in order of steps."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; it is on its way to the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """All records; a line that was cut short by the end of a process is left out."""
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                yield parse_json(line)
            except DocumentError:
                return

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Keep what was recorded up to a step, and return it."""
        if not self._path.exists():
            return []
        kept = [record for record in self.records() if record["step"] <= step]
        write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        return kept


# One process at a time in a run folder.

_NAME = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder while the body runs; the system lets go of it however the process ends.

    Reading it, and writing figures and scores into it, needs no claim.

    Args:
        folder: of the run; exists.

    Raises:
        SettingsError: another process holds it, or nothing can be written there.
    """
    held = _taken(folder)
    try:
        os.truncate(held.descriptor, 0)
        os.pwrite(held.descriptor, _owner().encode(), 0)
        yield
    finally:
        held.release(remove=True)


def _taken(folder: Path) -> LockHandle:
    try:
        held = take(folder / _NAME)
    except OSError as error:
        msg = (
            f"{folder}: nothing can be written there ({error.strerror}); make it writable, or choose another "
            "folder with --run.dir"
        )
        raise SettingsError(msg) from error
    if held is None:
        msg = (
            f"{folder}: {_holder(folder / _NAME)} is training in it. Wait for it, or stop it with Ctrl-C or SIGTERM, "
            "which leaves a checkpoint to go on from; or choose another --run.name"
        )
        raise SettingsError(msg)
    return held


def _owner() -> str:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})


def _holder(file: Path) -> str:
    try:
        owner = read_json(file)
        return f"process {owner['pid']} on {owner['host']}, since {owner['started']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
