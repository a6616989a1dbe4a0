"""Where a replay buffer keeps states: in the host's memory, or as files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from aurora import Batch, Metadata
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kit.data.longitudes import longitudes
from kit.io.atomic import move
from kit.io.documents import DocumentError, parse_json
from kit.io.errors import CheckpointError

__all__ = ["DiskStorage", "ReplayItem", "HostStorage", "ReplayStorage"]

_KINDS = {"surface": "surf_vars", "static": "static_vars", "atmospheric": "atmos_vars"}


@dataclass(frozen=True)
class ReplayItem:
    """An item that the model has made at least one step of.

    Attributes:
        pair: whose input states it began with.
        state: its input states now, on the CPU, one sample.
    """

    pair: int
    state: Batch


class ReplayStorage(Protocol):
    """Holds items by their slots."""

    def put(self, slot: int, item: ReplayItem) -> None:
        """Hold an item, in the place of what was there."""

    def get(self, slot: int) -> ReplayItem | None:
        """What a slot holds, if anything."""

    def drop(self, slot: int) -> None:
        """Let go of what a slot holds, if anything."""

    def save(self, folder: Path) -> None:
        """Leave everything in a folder, which is made."""

    def load(self, folder: Path) -> None:
        """Hold what ``save`` left, and nothing else.

        Raises:
            CheckpointError: a file cannot be read.
        """


class HostStorage:
    """Items in the host's memory."""

    def __init__(self) -> None:
        self._items: dict[int, ReplayItem] = {}

    def put(self, slot: int, item: ReplayItem) -> None:
        """Hold an item, in the place of what was there."""
        self._items[slot] = item

    def get(self, slot: int) -> ReplayItem | None:
        """What a slot holds, if anything."""
        return self._items.get(slot)

    def drop(self, slot: int) -> None:
        """Let go of what a slot holds, if anything."""
        self._items.pop(slot, None)

    def save(self, folder: Path) -> None:
        """Write a file for each item."""
        folder.mkdir(parents=True)
        for slot, item in self._items.items():
            _write(item, _file(folder, slot))

    def load(self, folder: Path) -> None:
        """Read every file."""
        self._items = {int(file.stem): _read(file) for file in sorted(folder.glob("*.safetensors"))}


class DiskStorage:
    """Items as files. A file is never changed once it is there, so that a checkpoint holds links to it."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder.

        Args:
            folder: is the shelf's alone; what is there is removed.
        """
        self._folder = folder
        self.remove()
        folder.mkdir(parents=True)

    def put(self, slot: int, item: ReplayItem) -> None:
        """Write an item, and put it in the place of what was there."""
        part = self._folder / f".{slot}.part"
        _write(item, part)
        move(part, _file(self._folder, slot))

    def get(self, slot: int) -> ReplayItem | None:
        """Read what a slot holds, if anything."""
        file = _file(self._folder, slot)
        return _read(file) if file.exists() else None

    def drop(self, slot: int) -> None:
        """Let go of what a slot holds, if anything."""
        _file(self._folder, slot).unlink(missing_ok=True)

    def save(self, folder: Path) -> None:
        """Link every file, or copy it where the file system has no links."""
        folder.mkdir(parents=True)
        _link(self._folder, folder)

    def load(self, folder: Path) -> None:
        """Link every file, after a look at each."""
        self.remove()
        self._folder.mkdir(parents=True)
        for file in folder.glob("*.safetensors"):
            _read(file)
        _link(folder, self._folder)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _file(folder: Path, slot: int) -> Path:
    return folder / f"{slot:06d}.safetensors"


def _link(source: Path, target: Path) -> None:
    for file in source.glob("*.safetensors"):
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)


def _write(item: ReplayItem, file: Path) -> None:
    """Write an item as safetensors: names of variables by kind, times and steps in the header."""
    tensors = {
        f"{kind}/{name}": value.contiguous()
        for kind, field in _KINDS.items()
        for name, value in getattr(item.state, field).items()
    }
    metadata = item.state.metadata
    # Longitudes across Greenwich are of a class of their own, which the file need not know.
    tensors |= {"latitude": metadata.lat.contiguous(), "longitude": metadata.lon.as_subclass(torch.Tensor).contiguous()}
    about = {
        "pair": item.pair,
        "time": [time.isoformat() for time in metadata.time],
        "levels": list(metadata.atmos_levels),
        "rollout_step": metadata.rollout_step,
        # Sums are taken in the order of variables, and a file has one of its own.
        "order": list(tensors),
    }
    save_file(tensors, file, metadata={"item": json.dumps(about)})


def _read(file: Path) -> ReplayItem:
    """Read an item.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            about: dict[str, Any] = parse_json(stream.metadata()["item"])
            tensors: dict[str, torch.Tensor] = {name: stream.get_tensor(name) for name in about["order"]}
    except (SafetensorError, OSError, KeyError, TypeError, DocumentError) as error:
        msg = (
            f"{file}: cannot be read as an item of a replay buffer ({str(error).splitlines()[0]}); start a new run "
            "from the weights of the checkpoint"
        )
        raise CheckpointError(msg) from error
    metadata = Metadata(
        lat=tensors["latitude"],
        lon=longitudes(tensors["longitude"].double().numpy()),
        time=tuple(datetime.fromisoformat(time) for time in about["time"]),
        atmos_levels=tuple(about["levels"]),
        rollout_step=about["rollout_step"],
    )
    return ReplayItem(about["pair"], Batch(*(_of_kind(tensors, kind) for kind in _KINDS), metadata))


def _of_kind(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{kind}/")}
