"""The run folder: resolved settings, metrics, checkpoints, log."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, parse_json, read_json
from kit.io.errors import SettingsError
from kit.io.locks import take


class RunFolder:
    """Paths inside ``runs/<name>``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        """Resolved settings; a run made with them is the same run."""
        self.provenance = path / "provenance.json"
        """What the run was made of."""
        self.quality = path / "qa.json"
        """What the checks on the data found."""
        self.quality_page = path / "qa.html"
        """The same as a page with maps, for a browser."""
        self.metrics = path / "metrics.jsonl"
        """One JSON object a line."""
        self.activations = path / "activations.jsonl"
        """What modules put out, one JSON object for each step that was looked at."""
        self.system = path / "system.jsonl"
        """What the machine was doing, one JSON object a sample."""
        self.tracking = path / "tracking.json"
        """What a tracking store is told of the run, and how it ended."""
        self.log = path / "log.txt"
        """The log in words."""
        self.trains = path / "trains.json"
        """What trains, and what the check on it found."""
        self.figures = path / "figures"
        """Folder of PNG files."""
        self.scores = path / "scores.json"
        """Newest scorecard of the best checkpoint."""
        self.best = path / "checkpoints" / "best"
        """Checkpoint with the lowest validation loss."""
        self.last = path / "checkpoints" / "last"
        """Newest checkpoint, from which the run can go on."""
        self.replay = path / "replay"
        """Items of a replay buffer that is kept on disk, while the run goes on; checkpoints have what they need."""

    def check_free(self) -> None:
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

    def check_writable(self) -> None:
        """Check that the folder can be made, before any work is done for it.

        Raises:
            SettingsError: something that is no folder is in the way, or nothing can be written there.
        """
        parent = next(place for place in self.path.absolute().parents if os.path.lexists(place))
        msg = None
        if not parent.is_dir():
            msg = f"{parent}: is not a folder, so no run can be kept in it; choose another --run.dir, or move it away"
        elif not os.access(parent, os.W_OK | os.X_OK):
            msg = f"{parent}: nothing can be written there; choose another --run.dir, or make it writable"
        if msg is not None:
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
            self.check_free()
            raise
        except OSError as error:
            msg = (
                f"{self.path}: cannot be made ({error.strerror}); choose another --run.dir, or make its parent writable"
            )
            raise SettingsError(msg) from error

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write resolved settings as TOML; an absent value is left out, or is ``none`` where it means something."""
        write_atomically(self.config, tomli_w.dumps(_without_none(settings)))


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
        """Read all records; a line that was cut short by the end of a process is left out."""
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


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder while the body runs; the system lets go of it however the process ends.

    Reading it, and writing figures and scores into it, needs no claim.

    Args:
        folder: Folder of the run; exists.

    Raises:
        SettingsError: another process holds it, or nothing can be written there.
    """
    file = folder / ".lock"
    try:
        held = take(file)
    except OSError as error:
        msg = (
            f"{folder}: nothing can be written there ({error.strerror}); make it writable, or choose another "
            "folder with --run.dir"
        )
        raise SettingsError(msg) from error
    if held is None:
        msg = (
            f"{folder}: {_holder(file)} is training in it. Wait for it, or stop it with Ctrl-C or SIGTERM, "
            "which leaves a checkpoint to go on from; or choose another --run.name"
        )
        raise SettingsError(msg)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    try:
        os.truncate(held.descriptor, 0)
        os.pwrite(held.descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        held.release(remove=True)


def _holder(file: Path) -> str:
    try:
        owner = read_json(file)
        return f"process {owner['pid']} on {owner['host']}, since {owner['started']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
