"""Storage of a replay buffer's items: in the host's memory, or as files."""

import json
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from aurora import Batch, Metadata
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kit.data.longitudes import longitudes
from kit.io.atomic import move
from kit.io.documents import DocumentError, parse_json
from kit.io.errors import CheckpointError

# Fields of a batch, in the order of its arguments, by the prefix of their variables in a file.
_KINDS = {"surface": "surf_vars", "static": "static_vars", "atmospheric": "atmos_vars"}


@dataclass(frozen=True)
class ReplayItem:
    """Item that the model has made at least one step of.

    Attributes:
        pair: Index of the pair whose input states it began with.
        state: Present input states, on the CPU, one sample.
    """

    pair: int
    state: Batch


class HostStorage:
    """Items in the host's memory."""

    def __init__(self) -> None:
        self._items: dict[int, ReplayItem] = {}

    def put(self, slot: int, item: ReplayItem) -> None:
        """Store an item in a slot; what was there is replaced."""
        self._items[slot] = item

    def get(self, slot: int) -> ReplayItem | None:
        """Return the item of a slot; None where it is empty."""
        return self._items.get(slot)

    def drop(self, slot: int) -> None:
        """Empty a slot."""
        self._items.pop(slot, None)

    def save(self, folder: Path) -> None:
        """Write a file for each item into a new folder."""
        folder.mkdir(parents=True)
        for slot, item in self._items.items():
            _write(item, _file(folder, slot))

    def load(self, folder: Path) -> None:
        """Hold the items that ``save`` wrote, and nothing else.

        Raises:
            CheckpointError: a file cannot be read.
        """
        self._items = {int(file.stem): _read(file) for file in sorted(folder.glob("*.safetensors"))}


class DiskStorage:
    """Items as files. A file is never changed once it is there, so that a checkpoint holds links to it."""

    def __init__(self, folder: Path) -> None:
        """Begin with an empty folder.

        Args:
            folder: Folder for this storage alone; what is there is removed.
        """
        self._folder = folder
        self.remove()
        folder.mkdir(parents=True)

    def put(self, slot: int, item: ReplayItem) -> None:
        """Write an item into a slot; what was there is replaced."""
        # Under another name first: a checkpoint may hold a link to the old file, whose bytes must stay.
        part = self._folder / f".{slot}.part"
        _write(item, part)
        move(part, _file(self._folder, slot))

    def get(self, slot: int) -> ReplayItem | None:
        """Read the item of a slot; None where it is empty."""
        file = _file(self._folder, slot)
        return _read(file) if file.exists() else None

    def drop(self, slot: int) -> None:
        """Empty a slot."""
        _file(self._folder, slot).unlink(missing_ok=True)

    def save(self, folder: Path) -> None:
        """Link every file, or copy it where the file system has no links."""
        folder.mkdir(parents=True)
        _link(self._folder, folder)

    def load(self, folder: Path) -> None:
        """Link every file, once all of them have been read."""
        self.remove()
        self._folder.mkdir(parents=True)
        # A damaged item would show in the middle of training otherwise.
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
    tensors: dict[str, torch.Tensor] = {}
    for kind, field in _KINDS.items():
        for name, value in getattr(item.state, field).items():
            tensors[f"{kind}/{name}"] = value.contiguous()
    metadata = item.state.metadata
    # Longitudes across Greenwich are of a class of their own, which the file need not know.
    tensors |= {"latitude": metadata.lat.contiguous(), "longitude": metadata.lon.as_subclass(torch.Tensor).contiguous()}
    about = {
        "pair": item.pair,
        "time": list(map(datetime.isoformat, metadata.time)),
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
    latitude, longitude = tensors.pop("latitude"), tensors.pop("longitude")
    metadata = Metadata(
        lat=latitude,
        lon=longitudes(longitude.double().numpy()),
        time=tuple(map(datetime.fromisoformat, about["time"])),
        atmos_levels=tuple(about["levels"]),
        rollout_step=about["rollout_step"],
    )
    variables: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
    for name, value in tensors.items():
        kind, _, variable = name.partition("/")
        variables[kind][variable] = value
    return ReplayItem(about["pair"], Batch(*variables.values(), metadata))
