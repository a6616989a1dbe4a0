from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import Codec, Period
from kit.data.store import finalize as commit
from kit.data.store.build_state import OtherPlanError
from kit.data.store.executor import ExecutionOptions
from kit.data.store.reader import Store
from kit.data.store.verify import verify
from kit.data.store.writer import append_states
from kit.io.errors import SettingsError, StoreError
from kit.io.locks import take
from tests.data.store.builds import build, files_of, interrupt, one_state_blocks, small

# Of ten states, six hours apart, seven are there and three follow.
STATES = small(10)
MORE = {"source_files": [{"name": "b"}], "history": ["made later"], "licence": "none"}
TEST = {"test": Period.parse("2020-01-02T18/2020-01-03T06")}
TRAIN = {"train": Period.parse("2020-01-01/2020-01-02T18")}


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one_state_blocks(monkeypatch)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("append") / "store", STATES.isel(time=slice(0, 7))).path


@pytest.fixture(scope="module")
def appended(earlier: Path) -> dict[str, bytes]:
    """The files of a store to which states were added without a disturbance, its training split changed."""
    store = earlier.parent / "appended"
    shutil.copytree(earlier, store)
    with pytest.MonkeyPatch.context() as patch:
        one_state_blocks(patch)
        return files_of(add(store, splits=TRAIN).path)


@pytest.fixture
def store(earlier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(earlier, tmp_path / "store"))


def add(
    store: Path, dataset: xr.Dataset | None = None, *, splits: Any = TEST, codec: Codec | None = None, **how: Any
) -> Store:
    append_states(
        STATES.isel(time=slice(7, 10)) if dataset is None else dataset,
        store,
        splits=splits,
        attributes=MORE,
        settings={"splits": {name: str(period) for name, period in splits.items()}},
        codec=codec,
        how=ExecutionOptions(workers=1, **how),
    )
    return Store.open(store)


def test_states_are_added_and_no_chunk_is_written_anew(store: Path) -> None:
    chunks = {path: (store / path).stat().st_ino for path in files_of(store) if path.startswith(("t/c", "2t/c"))}
    old = Store.open(store)
    new = add(store)
    assert {path: (store / path).stat().st_ino for path in chunks} == chunks
    np.testing.assert_array_equal(new.times, STATES["time"].values.astype("datetime64[s]"))
    for name in ("t", "2t"):
        np.testing.assert_array_equal(new.read(name, slice(None)), STATES[name].values)
    assert new.splits == old.splits | TEST
    assert new.statistics == old.statistics
    assert new.attributes["source_files"] == [{"name": "a"}, {"name": "b"}]
    added = "3 states from 2020-01-02T18:00:00 to 2020-01-03T06:00:00 appended"
    assert new.attributes["history"] == ["made", "made later", added]
    assert verify(store).problems == ()
    assert [path.name for path in store.parent.iterdir()] == ["store"]
    # Who had it open before reads what was there before.
    assert old.read("2t", slice(None)).shape[0] == 7
    with xr.open_zarr(store) as opened:
        xr.testing.assert_equal(opened.load(), STATES)
    assert json.loads((store / "t" / "zarr.json").read_text())["shape"][0] == 10


def test_statistics_are_those_of_a_store_built_at_once(store: Path, tmp_path: Path) -> None:
    new = add(store, splits=TRAIN)
    whole = build(tmp_path / "whole", STATES, splits=Store.open(store).splits)
    assert new.splits["train"] == TRAIN["train"]
    assert new.statistics == whole.statistics
    assert new.statistics.states == 8
    chunks = {path: content for path, content in files_of(whole.path).items() if "/c/" in path}
    assert {path: content for path, content in files_of(store).items() if "/c/" in path} == chunks


def test_once_more_and_past_a_chunk_of_times(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kit.data.store.format.TIME_CHUNK", 4)
    build(tmp_path / "short", STATES.isel(time=slice(0, 7)))
    for start, stop in ((7, 8), (8, 10)):
        add(tmp_path / "short", STATES.isel(time=slice(start, stop)), splits={})
    assert len(Store.open(tmp_path / "short").times) == 10
    assert sorted(file.name for file in (tmp_path / "short" / "time" / "c").iterdir()) == ["0", "1", "2"]
    assert verify(tmp_path / "short").problems == ()


def attribute(name: str, **values: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        changed = dataset.copy()
        changed[name] = changed[name].assign_attrs(values)
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda d: STATES.isel(time=slice(5, 10)), r"of the 5 states given, 2 from .* are not later \(2 of them"),
        (
            lambda d: d.assign_coords(time=d["time"] - np.timedelta64(9, "D")),
            r"the 3 states given, 3 from .* \(0 of them are in the store already\): choose with --times",
        ),
        (lambda d: d.drop_vars("2t"), "holds the variables 2t, t; the states to be added hold t: give the same"),
        (lambda d: d.assign(msl=d["2t"]), "hold 2t, msl, t"),
        (lambda d: d.isel(longitude=slice(0, 4)), "the longitudes of the states to be added differ"),
        (lambda d: d.isel(level=[0, 1]), r"the levels of the states .*: 100, 500, 850; 100, 500 hPa"),
        (attribute("2t", units="K"), "units of 2t is None, in the states to be added 'K'"),
        (lambda d: d.assign(static_z=d["static_z"] + 1), "the static variable z differs"),
    ),
)
def test_what_does_not_follow_is_refused(store: Path, change: Callable[[xr.Dataset], xr.Dataset], message: str) -> None:
    before = files_of(store)
    with pytest.raises(StoreError, match=message):
        add(store, change(STATES.isel(time=slice(7, 10))))
    assert files_of(store) == before
    assert [path.name for path in store.parent.iterdir()] == ["store"]


def test_settings_that_the_store_has_already(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--codec small: the store .* was built with fast"):
        add(store, codec="small")
    with pytest.raises(StoreError, match="no such store"):
        add(tmp_path / "absent")
    document = json.loads((store / "zarr.json").read_text())
    del document["attributes"]["integrity"]
    (store / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="was written by an earlier version"):
        add(store)


def test_an_interrupted_append_goes_on_and_another_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, appended: dict[str, bytes]
) -> None:
    before = files_of(store)
    interrupt(monkeypatch, KeyboardInterrupt(), after=3)
    with pytest.raises(KeyboardInterrupt):
        add(store, splits=TRAIN)
    assert files_of(store) == before
    assert verify(store).problems == ()
    with pytest.raises(OtherPlanError, match="an unfinished build of another plan"):
        add(store, splits=TEST)
    written = interrupt(monkeypatch, None, after=0)
    assert files_of(add(store, splits=TRAIN).path) == appended
    assert written == [9]
    assert [path.name for path in store.parent.iterdir()] == ["store"]


@pytest.mark.slow
def test_an_end_that_is_killed_at_every_step(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appended: dict[str, bytes]
) -> None:
    """Readers find the old store or the new one at each of them, and the same command makes it whole."""
    calls: list[int] = []

    def counted(function: Callable[..., Any], stop: int) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            calls.append(stop)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return step

    # Statistics and metadata are prepared; manifest, six chunks, times, statistics and metadata are placed; then
    # those of seven arrays, the statistics' name, and what is left is removed.
    before, after = [1, 2, 3, 4, 9, 10, 11, 12], [13, 19, 20, 21]
    for stop in (*before, *after):
        store = tmp_path / str(stop) / "store"
        shutil.copytree(earlier, store)
        calls.clear()
        with monkeypatch.context() as patch:
            for name in ("write_file", "_move_chunk", "root_document"):
                patch.setattr(commit, name, counted(getattr(commit, name), stop))
            patch.setattr(commit, "shutil", SimpleNamespace(rmtree=counted(shutil.rmtree, stop)))
            with pytest.raises(KeyboardInterrupt):
                add(store, splits=TRAIN)
        held = Store.open(store)
        assert verify(store).problems == ()
        states, counted_states = (7, 5) if stop in before else (10, 8)
        assert (len(held.times), held.statistics.states) == (states, counted_states)
        assert held.splits["train"] == held.statistics.train
        np.testing.assert_array_equal(held.read("t", slice(None)), STATES["t"].values[:states])
        assert files_of(add(store, splits=TRAIN).path) == appended, stop
        assert [path.name for path in store.parent.iterdir()] == ["store"]


def test_two_of_them_exclude_each_other(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=3)
    with pytest.raises(KeyboardInterrupt):
        add(store)
    held = take(store.parent / ".store.append.part" / "plan.json", shared=True)
    assert held is not None
    with pytest.raises(StoreError, match="another process is building there"):
        add(store, restart=True)
    held.release()
