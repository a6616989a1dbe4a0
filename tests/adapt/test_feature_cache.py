"""The feature cache: whole files or none."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time as clock
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from kit.adapt import feature_cache as features
from kit.adapt.feature_cache import FeatureCache, Shape, check_size, digest_of, key_of
from kit.io.errors import SettingsError
from tests.processes import Python

TIME = datetime(2020, 1, 1, 6, tzinfo=UTC)
LATER = datetime(2020, 1, 1, 12, tzinfo=UTC)
FACTS = {"trunk": "a", "store": "b"}
SHAPE = Shape(levels=2, patches=(2, 3), width=4, dtype=torch.bfloat16)


def latents(seed: int = 0, shape: Shape = SHAPE) -> torch.Tensor:
    return torch.randn(shape.size, generator=torch.Generator().manual_seed(seed)).to(shape.dtype)


def cache(root: Path, facts: dict[str, str] | None = None) -> FeatureCache:
    return FeatureCache(root, facts or FACTS, SHAPE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_comes_back_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    shape = Shape(2, (2, 3), 4, dtype)
    FeatureCache(tmp_path, FACTS, shape).put(TIME, latents(shape=shape))
    stored = FeatureCache(tmp_path, FACTS, shape).get(TIME)
    assert stored is not None
    assert stored.dtype is dtype
    assert torch.equal(stored, latents(shape=shape))


def test_size_at_a_quarter_degree() -> None:
    # 4 latent levels x 180 x 360 patches of 4 x 4 points x 1024 x 2 bytes.
    shape = Shape(levels=4, patches=(180, 360), width=1024, dtype=torch.bfloat16)
    assert shape.bytes == 530_841_600


def test_other_facts_are_another_folder(tmp_path: Path) -> None:
    cache(tmp_path).put(TIME, latents())
    assert cache(tmp_path, {**FACTS, "trunk": "other"}).get(TIME) is None
    assert cache(tmp_path, {"store": "b", "trunk": "a"}).get(TIME) is not None
    assert key_of({"x": 1}) != key_of({"x": 2})


def test_times_are_told_apart(tmp_path: Path) -> None:
    held = cache(tmp_path)
    held.put(TIME, latents())
    assert held.get(LATER) is None
    assert held.missing([TIME, LATER]) == [LATER]


def test_digest_depends_on_names_types_shapes_and_values() -> None:
    one = {"a": torch.zeros(4), "b": torch.ones(1)}
    assert digest_of(one) == digest_of(dict(reversed(one.items())))
    others = [{"a": torch.zeros(4), "c": torch.ones(1)}, {**one, "a": torch.zeros(2, 2)}]
    others += [{**one, "a": torch.zeros(4, dtype=torch.int32)}, {**one, "b": torch.full((1,), 2.0)}]
    assert len({digest_of(tensors) for tensors in [one, *others]}) == 5


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_file_is_made_anew(tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    held = cache(tmp_path)
    held.put(TIME, latents())
    path = held.path(TIME)
    path.write_bytes(path.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert held.get(TIME) is None
    assert "computed again" in caplog.text
    assert not path.exists()
    held.put(TIME, latents())
    assert held.get(TIME) is not None


def test_tampered_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = cache(tmp_path)
    held.put(TIME, latents())
    assert held.get(TIME) is not None
    content = bytearray(held.path(TIME).read_bytes())
    content[-1] ^= 1
    held.path(TIME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert held.get(TIME) is None
    assert "SHA-256" in caplog.text


def test_file_of_another_shape_is_made_anew(tmp_path: Path) -> None:
    held = cache(tmp_path)
    wider = FeatureCache(tmp_path, FACTS, Shape(2, (2, 3), 5, torch.bfloat16))
    wider.put(TIME, latents(shape=wider.shape))
    assert held.get(TIME) is None


def test_latents_of_another_shape_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected latents"):
        cache(tmp_path).put(TIME, latents().float())


@pytest.mark.slow
def test_process_killed_while_it_writes_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    # It is killed between the file's end and its renaming.
    program = f"""
import os, signal, torch
from pathlib import Path
from datetime import datetime, UTC
from kit.adapt import feature_cache as features
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
shape = features.Shape(2, (2, 3), 4, torch.bfloat16)
root = Path({str(tmp_path)!r})
(root / features.key_of({FACTS!r})).mkdir()
(root / features.key_of({FACTS!r}) / "features.json").touch()
features.FeatureCache(root, {FACTS!r}, shape).put(datetime(2020, 1, 1, 6, tzinfo=UTC), torch.zeros(2, 6, 4).bfloat16())
"""
    assert Python(program).wait() == -signal.SIGKILL
    held = cache(tmp_path)
    (part,) = held.folder.glob(".*.part")
    assert held.get(TIME) is None
    assert part.exists(), "young: somebody may be about to lock it"
    os.utime(part, (clock.time() - 100,) * 2)
    cache(tmp_path)
    assert not part.exists()
    held.put(TIME, latents())
    assert held.get(TIME) is not None


def test_file_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = cache(tmp_path)
    monkeypatch.setattr(features, "_ABANDONED", -1.0)

    def meanwhile(_descriptor: int) -> None:
        cache(tmp_path)  # sweeps

    monkeypatch.setattr(os, "fsync", meanwhile)
    held.put(TIME, latents())
    assert held.get(TIME) is not None


def _write_all(root: str, times: list[datetime]) -> None:
    held = cache(Path(root))
    for time in times:
        if held.get(time) is None:
            held.put(time, latents())


def test_two_processes_at_once(tmp_path: Path) -> None:
    times = [TIME.replace(day=day) for day in range(1, 29)]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_all, args=(str(tmp_path), times)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    held = cache(tmp_path)
    assert held.missing(times) == []
    assert all(torch.equal(stored, latents()) for stored in map(held.get, times) if stored is not None)
    assert not list(held.folder.glob(".*.part"))


def test_says_its_size(tmp_path: Path) -> None:
    held = cache(tmp_path)
    held.put(TIME, latents())
    text = held.described([TIME, LATER])
    assert "2 latent levels x 2 x 3 patches x 4 in bfloat16" in text
    assert "2 samples, of which 1 are stored" in text


def test_refuses_beyond_the_budget(tmp_path: Path) -> None:
    held = cache(tmp_path)
    # 48 values of 2 bytes each.
    check_size(held, [TIME, LATER], 192)
    with pytest.raises(SettingsError, match="adapt.cache_budget.*data.train.*data.region.*adapt.decoder linear"):
        check_size(held, [TIME, LATER], 191)


def test_refuses_what_the_disk_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = cache(tmp_path)
    monkeypatch.setattr(features, "_RESERVE", 2**80)
    with pytest.raises(SettingsError, match="the disk has room for 0"):
        check_size(held, [TIME], None)
    held.put(TIME, latents())
    check_size(held, [TIME], None)  # it is there already


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = cache(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        held.put(TIME, latents())
    assert [path.name for path in held.folder.iterdir()] == ["features.json"]


def filled(root: Path, name: str, age: float) -> FeatureCache:
    """A cache with one sample, opened so many seconds ago."""
    made = cache(root, {"trunk": name})
    made.put(TIME, latents())
    opened = clock.time() - age
    os.utime(made.folder / "features.json", (opened, opened))
    return made


def test_the_longest_unused_make_room_but_none_that_is_open(tmp_path: Path) -> None:
    folders = [filled(tmp_path, name, age).folder for name, age in (("old", 300), ("new", 100))]
    held = filled(tmp_path, "open", 400)
    size = sum(file.stat().st_size for file in held.folder.iterdir())
    mine = cache(tmp_path)
    assert mine.remove_others(size, limit=10 * size) == []
    # Room for this one and one other: the newest stays, the oldest is in use.
    assert mine.remove_others(size, limit=2 * size + 50) == [folders[0]]
    assert [folder.exists() for folder in (*folders, held.folder)] == [False, True, True]
    assert mine.remove_others(size, limit=size) == [folders[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(one.folder.name for one in (held, mine))
    assert filled(tmp_path, "old", 0).get(TIME) is not None


def test_a_budget_removes_what_is_beyond_it(tmp_path: Path) -> None:
    other = filled(tmp_path, "old", 300).folder
    check_size(cache(tmp_path), [TIME], budget=SHAPE.bytes)
    assert not other.exists()


def test_what_was_read_ahead_is_given_once(tmp_path: Path) -> None:
    held = cache(tmp_path)
    held.read_ahead(TIME)
    held.put(TIME, latents())
    held.read_ahead(TIME)
    held.path(TIME).unlink()
    assert torch.equal(held.get(TIME), latents())  # type: ignore[arg-type]
    assert held.get(TIME) is None
