"""Items of a replay buffer, in memory and as files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aurora import Batch

from kit.data.longitudes import longitudes
from kit.io.errors import CheckpointError
from kit.train.tasks.replay_storage import DiskStorage, HostStorage, ReplayItem
from tests.batches import small_spec, synthetic_batch

KINDS = ("host", "disk")


def storage_of(kind: str, folder: Path) -> HostStorage | DiskStorage:
    return HostStorage() if kind == "host" else DiskStorage(folder / "replay")


def item(seed: int) -> ReplayItem:
    """Of the wave model, whose states hold NaN."""
    state = synthetic_batch(small_spec("wave"), seed=seed)
    state.metadata.rollout_step = seed
    return ReplayItem(pair=10 * seed, state=state)


def assert_same(one: ReplayItem | None, other: ReplayItem) -> None:
    assert one is not None
    assert one.pair == other.pair
    for kind in ("surf_vars", "static_vars", "atmos_vars"):
        a, b = (getattr(held.state, kind) for held in (one, other))
        assert list(a) == list(b)
        assert all(torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a)
    a, b = one.state.metadata, other.state.metadata
    assert (a.time, a.atmos_levels, a.rollout_step) == (b.time, b.atmos_levels, b.rollout_step)
    assert torch.equal(a.lat, b.lat)
    assert torch.equal(a.lon, b.lon)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_held_then(kind: str, tmp_path: Path) -> None:
    storage = storage_of(kind, tmp_path)
    storage.put(3, item(1))
    storage.put(0, item(2))
    storage.put(5, item(3))
    storage.drop(5)
    storage.save(tmp_path / "saved")
    storage.put(3, item(4))
    assert_same(storage.get(3), item(4))
    storage.put(7, item(5))
    storage.load(tmp_path / "saved")
    assert_same(storage.get(3), item(1))
    assert_same(storage.get(0), item(2))
    assert storage.get(5) is storage.get(7) is None
    # It can be loaded again: what happens on the storage does not reach it.
    storage.put(3, item(4))
    other = storage_of(kind, tmp_path / "other")
    other.load(tmp_path / "saved")
    assert_same(other.get(3), item(1))


def test_a_checkpoint_of_files_takes_no_room_where_there_are_links(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "replay")
    storage.put(0, item(1))
    storage.save(tmp_path / "saved")
    (file,) = (tmp_path / "saved").iterdir()
    assert file.stat().st_nlink == 2


def test_files_are_copied_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError

    storage = DiskStorage(tmp_path / "replay")
    storage.put(0, item(1))
    monkeypatch.setattr(os, "link", refuse)
    storage.save(tmp_path / "saved")
    storage.put(0, item(2))
    storage.load(tmp_path / "saved")
    assert_same(storage.get(0), item(1))


def test_what_an_earlier_process_left_is_gone(tmp_path: Path) -> None:
    DiskStorage(tmp_path / "replay").put(0, item(1))
    assert DiskStorage(tmp_path / "replay").get(0) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", (b"", b"not safetensors", None))
def test_a_damaged_file_is_named(kind: str, content: bytes | None, tmp_path: Path) -> None:
    storage = storage_of(kind, tmp_path)
    storage.put(4, item(1))
    storage.save(tmp_path / "saved")
    (file,) = (tmp_path / "saved").iterdir()
    # A copy, so that the storage's own file stays whole; None cuts it short.
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(CheckpointError, match=r"000004.safetensors: cannot be read as an item of a replay buffer"):
        storage.load(tmp_path / "saved")


def test_a_batch_survives_without_static_variables(tmp_path: Path) -> None:
    whole = item(1)
    bare = Batch(whole.state.surf_vars, {}, {}, whole.state.metadata)
    storage = DiskStorage(tmp_path / "replay")
    storage.put(0, ReplayItem(1, bare))
    assert_same(storage.get(0), ReplayItem(1, bare))


def test_longitudes_across_greenwich_stay_what_they_are(tmp_path: Path) -> None:
    whole = item(1)
    width = len(whole.state.metadata.lon)
    east = longitudes((350.0 + np.arange(width)) % 360)
    state = dataclasses.replace(whole.state, metadata=dataclasses.replace(whole.state.metadata, lon=east))
    storage = DiskStorage(tmp_path / "replay")
    storage.put(0, ReplayItem(1, state))
    assert_same(storage.get(0), ReplayItem(1, state))


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_may_be_matrices(kind: str, tmp_path: Path) -> None:
    held = item(1)
    metadata = held.state.metadata
    lat, lon = torch.meshgrid(metadata.lat, metadata.lon, indexing="ij")
    held = dataclasses.replace(
        held, state=dataclasses.replace(held.state, metadata=dataclasses.replace(metadata, lat=lat, lon=lon))
    )
    storage = storage_of(kind, tmp_path)
    storage.put(0, held)
    assert_same(storage.get(0), held)
