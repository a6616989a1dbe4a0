"""The feature cache: latents of the frozen model, kept on disk, so that they are computed once.

One file for each input time, in a folder of its own for each trunk and everything that it reads. A file is whole or
absent: it is written under another name, and renamed when it is on the disk. A file that is cut short, or no longer
has the hash that it was written with, is thrown away and made anew, with a word in the log: the cache is the kit's own.
"""

import json
import logging
import math
import os
import shutil
import time as clock
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kit.io import atomic, hashes, locks
from kit.io.errors import SettingsError

_logger = logging.getLogger(__name__)

_FORMAT = 1
_NAME = "latents"
_FACTS = "features.json"
# Seconds after which an unfinished file that nobody writes is removed.
_ABANDONED = 60.0
_GIB = 2**30
_BUDGET = 20 * _GIB
# Left free on the disk.
_RESERVE = 5 * _GIB


@dataclass(frozen=True)
class Shape:
    """Latents of one sample.

    Attributes:
        levels: latent levels.
        patches: along latitude and longitude.
        width: of a latent.
        dtype: in which they are kept.
    """

    levels: int
    patches: tuple[int, int]
    width: int
    dtype: torch.dtype

    @property
    def size(self) -> tuple[int, int, int]:
        """Of the tensor: levels, patches, width."""
        return self.levels, math.prod(self.patches), self.width

    @property
    def bytes(self) -> int:
        """Of one sample."""
        return math.prod(self.size) * self.dtype.itemsize

    def __str__(self) -> str:
        height, width = self.patches
        name = str(self.dtype).removeprefix("torch.")
        return f"{self.levels} latent levels x {height} x {width} patches x {self.width} in {name}"


def key_of(facts: Mapping[str, Any]) -> str:
    """Name the folder for what the facts describe by the beginning of their SHA-256."""
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
    return hashes.sha256_of_text(text)[:16]


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash tensors: the SHA-256 of their names, types, shapes and bytes, in order of names."""
    digest = hashes.new_sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: torch.Tensor) -> Any:
    """Bytes of a tensor, not copied where it lies on the CPU in one piece."""
    values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(values)


class FeatureCache:
    """Latents by input time.

    Several processes may use one folder at once: each writes files of its own name, and whichever is renamed last
    stays; they hold the same.
    """

    def __init__(self, root: Path, facts: Mapping[str, Any], shape: Shape) -> None:
        """Open the folder for what the facts describe, or make it.

        Args:
            root: folder of all such folders.
            facts: everything that the latents depend on but the time, as JSON has it.
            shape: of a sample's latents.
        """
        self.folder = root / key_of(facts)
        self.shape = shape
        # Size and time of modification of files whose hash has been compared.
        self._verified: dict[Path, tuple[int, int]] = {}
        # Read by another thread than the one that asks for it.
        self._ahead: dict[datetime, torch.Tensor] = {}
        held = self._hold(json.dumps({"format": _FORMAT, **facts}, indent=2).encode() + b"\n")
        weakref.finalize(self, held.release)
        self._sweep()

    def _hold(self, facts: bytes) -> locks.LockHandle:
        """Make the folder if it is not there, and keep it from being removed as long as this cache is open."""
        described = self.folder / _FACTS
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                if not described.exists():
                    self._publish(described, facts)
                held = locks.take(described, shared=True, make=False, wait=True)
            except FileNotFoundError:
                # Who makes room for another cache has removed the folder at this moment.
                continue
            assert held is not None
            # When a cache was opened last decides which of them make room.
            os.utime(described)
            return held

    def remove_others(self, needed: int, limit: int) -> list[Path]:
        """Remove other caches of the same root, those opened longest ago first, until all have room together.

        Args:
            needed: bytes that this one takes when it is complete.
            limit: bytes for all of them; those that a process has open stay, whatever they take.

        Returns:
            Folders that were removed.
        """
        described = [path for path in self.folder.parent.glob(f"*/{_FACTS}") if path.parent != self.folder]
        removed, taken = [], needed
        for facts in sorted(described, key=lambda path: path.stat().st_mtime, reverse=True):
            size = sum(file.stat().st_size for file in facts.parent.iterdir())
            if taken + size > limit and _remove_unused(facts):
                removed.append(facts.parent)
            else:
                taken += size
        return removed

    def path(self, time: datetime) -> Path:
        """Return the path of the latents that belong to a last input time."""
        return self.folder / f"{time.astimezone(UTC):%Y-%m-%dT%H%M%S}.safetensors"

    def missing(self, times: Sequence[datetime]) -> list[datetime]:
        """List the times for which nothing is stored."""
        return [time for time in times if not self.path(time).exists()]

    def get(self, time: datetime) -> torch.Tensor | None:
        """Read latents, [levels, L, D], on the CPU; None where there are none, or none that are whole.

        The hash is compared the first time that this process reads a file, and again when the file has changed.
        """
        ahead = self._ahead.pop(time, None)
        if ahead is not None:
            return ahead
        path, fault = self.path(time), None
        try:
            facts = path.stat()
            with safe_open(str(path), framework="pt") as opened:
                latents: torch.Tensor = opened.get_tensor(_NAME)
                expected = (opened.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            fault = str(error)
        else:
            state = (facts.st_size, facts.st_mtime_ns)
            if (tuple(latents.shape), latents.dtype) != (self.shape.size, self.shape.dtype):
                fault = f"it holds {tuple(latents.shape)} in {latents.dtype}, expected {self.shape}"
            elif self._verified.get(path) != state and hashes.sha256_of_bytes(_raw(latents)) != expected:
                fault = "its SHA-256 is not the one that was recorded when it was written"
        if fault is None:
            self._verified[path] = state
            return latents
        # Nothing in a cache is anybody's work: what is damaged is made again.
        _logger.warning("%s: not used (%s); the latents are computed again", path, fault)
        self._verified.pop(path, None)
        path.unlink(missing_ok=True)
        return None

    def read_ahead(self, time: datetime) -> None:
        """Read what ``get`` will be asked for next, in another thread."""
        latents = self.get(time)
        if latents is not None:
            self._ahead[time] = latents

    def put(self, time: datetime, latents: torch.Tensor) -> None:
        """Store latents, [levels, L, D].

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        if (tuple(latents.shape), latents.dtype) != (self.shape.size, self.shape.dtype):
            msg = f"expected latents of {self.shape}, got {tuple(latents.shape)} in {latents.dtype}"
            raise ValueError(msg)
        held = latents.detach().cpu().contiguous()
        metadata = {"sha256": hashes.sha256_of_bytes(_raw(held)), "time": time.astimezone(UTC).isoformat()}
        self._publish(self.path(time), save({_NAME: held}, metadata))

    def _publish(self, path: Path, content: bytes) -> None:
        """Write a file beside its place, then move it there; locked as long as it is being written."""
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        # Another process that sweeps the folder takes what is locked for alive, however slow the disk is.
        lock = locks.take(part, wait=True)
        assert lock is not None
        try:
            part.write_bytes(content)
            atomic.publish(part, path)
        finally:
            lock.release(remove=True)

    def _sweep(self) -> None:
        """Remove what killed processes left unfinished; what another one is writing is locked by it."""
        for part in self.folder.glob(".*.part"):
            try:
                lock = locks.take(part, make=False)
            except FileNotFoundError:
                continue
            if lock is not None:
                # Between making a file and locking it there is a moment.
                age = clock.time() - os.fstat(lock.descriptor).st_mtime
                lock.release(remove=age > _ABANDONED)

    def described(self, times: Sequence[datetime]) -> str:
        """Describe the size of the cache, and what of it is there."""
        each, whole = self.shape.bytes / _GIB, len(times) * self.shape.bytes / _GIB
        stored = len(times) - len(self.missing(times))
        return (
            f"feature cache {self.folder}: {each:.3g} GiB per sample ({self.shape}), {whole:.3g} GiB for "
            f"{len(times)} samples, of which {stored} are stored"
        )


def _remove_unused(facts: Path) -> bool:
    """Remove a cache, unless a process has it open."""
    try:
        lock = locks.take(facts, make=False)
    except FileNotFoundError:
        return False
    if lock is None:
        return False
    try:
        # At once, so that nobody finds half of it.
        gone = facts.parent.with_name(f".{facts.parent.name}.{uuid.uuid4().hex[:12]}.gone")
        atomic.move(facts.parent, gone)
        atomic.remove_tree(gone)
    finally:
        lock.release()
    return True


def check_size(cache: FeatureCache, times: Sequence[datetime], budget: int | None) -> None:
    """Check that a cache has room, before anything is computed for it; older ones make room.

    Args:
        cache: where it would be.
        times: all that would be stored.
        budget: bytes for it and all caches beside it; None for 20 GiB. What is missing must fit the disk as well, with
            5 GiB to spare.

    Raises:
        SettingsError: says how large it would be, and what can be done.
    """
    limit, whose = (_BUDGET, "the default") if budget is None else (budget, "adapt.cache_budget")
    needed = len(times) * cache.shape.bytes
    # Older caches are left alone by a run that will not start.
    if needed <= limit:
        for folder in cache.remove_others(needed, limit):
            _logger.info("feature cache %s removed: longest not used, and no room beside this run's", folder)
    missing = len(cache.missing(times)) * cache.shape.bytes
    free = max(shutil.disk_usage(cache.folder).free - _RESERVE, 0)
    if needed > limit:
        beyond = f"more than {limit / _GIB:.3g} GiB, {whose}"
    elif missing > free:
        beyond = f"{missing / _GIB:.3g} GiB of that still to be written, and the disk has room for {free / _GIB:.3g}"
    else:
        return
    fewer = "; the surface latent alone (adapt.latents surface)" if cache.shape.levels > 1 else ""
    msg = (
        f"{cache.described(times)}: {beyond}. Take fewer times (data.train, data.valid); a smaller data.region{fewer}; "
        "a larger adapt.cache_budget, or another disk (adapt.cache PATH); or compute latents at every step "
        "(adapt.cache off), or train upstream's own heads (adapt.decoder linear)"
    )
    raise SettingsError(msg)
