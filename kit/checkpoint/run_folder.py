"""The run folder: resolved settings, metrics, checkpoints, log."""

import json
import logging
import os
import socket
import zlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from kit.io.atomic import make_folder, sync, write_atomically
from kit.io.documents import DocumentError, parse_json, parse_toml, read_json, read_text
from kit.io.errors import CheckpointError, SettingsError
from kit.io.hashes import sha256_of_file
from kit.io.locks import take
from kit.io.sealed import SEAL, read_sealed, sealed_toml, toml_seal_holds
from kit.models.weights.integrity import DESCRIPTION, read_description

_logger = logging.getLogger(__name__)


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
        self.report = path / "report.html"
        """What came of the run, as a page for those who were not there."""
        self.sums = path / "sums"
        """Folder of the sums that scores are made of."""
        self.results = path / "results"
        """Folder of what a tracking store is told of later, such as scores, a file for each."""
        self.best = path / "checkpoints" / "best"
        """Checkpoint with the lowest validation loss."""
        self.ema = path / "checkpoints" / "ema"
        """Average of the weights with the lowest validation loss, where one is kept."""
        self.last = path / "checkpoints" / "last"
        """Newest checkpoint, from which the run can go on."""
        self.samples = path / "samples.json"
        """How well a denoising network draws."""
        self.replay = path / "replay"
        """Items of a replay buffer that is kept on disk, while the run goes on; checkpoints have what they need."""

    @property
    def has_begun(self) -> bool:
        """Whether a run was begun here, and something of its records is left."""
        return any(file.is_file() for file in (self.config, self.provenance, self.tracking))

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
            if not self.path.parent.exists():
                make_folder(self.path.parent)
            self.path.mkdir()
            sync(self.path.parent)
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
        write_atomically(self.config, sealed_toml(tomli_w.dumps(_without_none(settings))))

    def restore_config(self) -> None:
        """Write ``config.toml`` anew from a checkpoint if it is gone, empty or no TOML, and say so.

        Where it was cut off, which an editor may have meant to do, that is said.
        """
        settings = self._recorded_settings()
        if settings is None:
            return
        try:
            text = read_text(self.config)
            if parse_toml(text):
                if toml_seal_holds(text) is None:
                    _logger.warning("%s lacks its last line, a hash: it was cut off, or edited", self.config)
                return
            what = "was empty"
        except FileNotFoundError:
            what = "was gone"
        except (OSError, DocumentError) as error:
            what = f"could not be read ({error})"
        self.write_config(settings)
        _logger.warning("%s %s; it was written anew from a checkpoint of the run", self.config, what)

    def _recorded_settings(self) -> dict[str, Any] | None:
        """Return the settings that a checkpoint of the run holds; None where there is none, or of earlier versions."""
        for checkpoint in (self.last, self.best):
            try:
                settings = read_description(checkpoint).get("settings")
            except (OSError, CheckpointError):
                continue
            if isinstance(settings, dict):
                return settings
        return None


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
    """A log of one JSON object a line, such as ``metrics.jsonl``: every record once, in order of steps.

    The last value of a line is the CRC-32 of its text before it, so that a changed digit is noticed; lines of earlier
    versions have none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_open = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; it is on its way to the disk when this returns."""
        # Another process may have been ended in the middle of a line, which costs that line and not this one.
        start = ""
        if not self._is_open and not self._ends_with_line():
            start = "\n"
        self._is_open = True
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{start}{_sealed_line(record)}")

    def _ends_with_line(self) -> bool:
        if not self._path.exists() or self._path.stat().st_size == 0:
            return True
        with self._path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"\n"

    def sync(self) -> None:
        """Wait until the disk holds what was recorded."""
        if self._path.exists():
            sync(self._path)

    def records(self) -> list[dict[str, Any]]:
        """Read all records; a damaged line is left out, and said."""
        records, bad = self.scan()
        if bad:
            what = f"line {bad[0]} is" if len(bad) == 1 else f"{len(bad)} lines, the first is {bad[0]}, are"
            _logger.warning("%s: %s damaged and left out; the other %d are whole", self._path, what, len(records))
        return records

    def scan(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Read all records, and the numbers of the lines that are damaged, from 1 on.

        A last line that was cut short by the end of a process is neither.
        """
        if not self._path.exists():
            return [], []
        records, bad = [], []
        *lines, rest = self._path.read_bytes().split(b"\n")
        for number, line in enumerate([*lines, rest], 1):
            record = _parse_record(line)
            if record is not None:
                records.append(record)
            # Zeros are a disk's, not those of a process that ended.
            elif number <= len(lines) or b"\0" in line:
                bad.append(number)
        return records, bad

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Keep what was recorded up to a step, and return it."""
        if not self._path.exists():
            return []
        kept = [record for record in self.records() if record["step"] <= step]
        write_atomically(self._path, "".join(map(_sealed_line, kept)))
        return kept


_CHECKSUM = "crc32"


def _sealed_line(record: Mapping[str, Any]) -> str:
    text = json.dumps(record).removesuffix("}")
    return f'{text}, "{_CHECKSUM}": "{zlib.crc32(text.encode()):08x}"}}\n'


def _parse_record(line: bytes) -> dict[str, Any] | None:
    """Parse a line of a log; None if it is none, such as one whose bytes were changed."""
    try:
        record = parse_json(line)
    except DocumentError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    checksum = record.pop(_CHECKSUM, None)
    if checksum is not None:
        text, _, rest = line.rpartition(f', "{_CHECKSUM}": '.encode())
        if rest != f'"{zlib.crc32(text):08x}"}}'.encode():
            return None
    for key, value in record.items():
        # Lines of activations hold a table for each module.
        if key == "modules":
            whole = isinstance(value, dict) and all(map(_is_table, value.values()))
        elif key == "kind":
            whole = value in ("train", "valid", "ema")
        else:
            whole = type(value) in (int, float)
        if not whole:
            return None
    return record if "time_ms" in record else None


def _is_table(value: Any) -> bool:
    """Check whether a value is what a line of activations holds for a module: numbers, or null for what is none."""
    if not isinstance(value, dict) or "max" not in value:
        return False
    return all(number is None or type(number) in (int, float) for number in value.values())


def load_side_file(file: Path, keys: AbstractSet[str]) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Args:
        file: File, sealed unless an earlier version wrote it.
        keys: Keys that it has to have.

    Returns:
        Its contents, without the seal.

    Raises:
        DocumentError: it is gone or not as it was written; names it.
    """
    try:
        content = read_sealed(file)
    except FileNotFoundError as error:
        msg = f"{file} is gone"
        raise DocumentError(msg) from error
    except (OSError, DocumentError) as error:
        msg = f"{file} cannot be read: {error}"
        raise DocumentError(msg) from error
    missing = sorted(keys - content.keys())
    if missing:
        msg = f"{file} lacks {', '.join(missing)}"
        raise DocumentError(msg)
    content.pop(SEAL, None)
    return content


def read_side_file(file: Path, keys: AbstractSet[str], without: str) -> dict[str, Any] | None:
    """Read a JSON file of a run folder that the run can do without.

    Args:
        file: File, sealed unless an earlier version wrote it.
        keys: Keys that it has to have.
        without: What becomes of the run without it, for the message.

    Returns:
        Its contents, without the seal; None where it is gone or not as it was written, which is said.
    """
    try:
        return load_side_file(file, keys)
    except DocumentError as error:
        _logger.warning("%s; %s", error, without)
        return None


def is_scorecard_of(scores: Mapping[str, Any], checkpoint: Path) -> bool:
    """Check whether a scorecard is of a checkpoint as it is now, which a run that goes on exchanges for a better one.

    Args:
        scores: Contents of ``scores.json``; that of an earlier version does not say what it is of, and is taken for it.
        checkpoint: Folder of the checkpoint.
    """
    recorded = scores.get("checkpoint_sha256")
    return recorded is None or recorded == sha256_of_file(checkpoint / DESCRIPTION)


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
