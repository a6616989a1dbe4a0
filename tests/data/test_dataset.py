"""Pairs: which states belong together, on which part of the grid, in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from kit.data.chunks import ChunkSlice
from kit.data.dataset import Pairs, Selection, collate
from kit.data.grid import Grid
from kit.data.region import select_grid
from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.io.errors import StoreError
from tests.factories import synthetic_dataset, synthetic_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """16 x 32, 12 states every 6 h from 2020-01-01."""
    return synthetic_store(tmp_path_factory.mktemp("pairs") / "store")


def selection(store: Store, *, hours: int = 6, history: int = 2, grid: Grid | None = None) -> Selection:
    return Selection(
        inputs=("2t", "msl"),
        targets=("2t", "msl"),
        atmospheric=("t",),
        static=("lsm",),
        levels=(100, 850),
        history=history,
        timestep=timedelta(hours=hours),
        grid=grid or select_grid(store, None, 4),
    )


ALL = Period.parse("2020-01-01/2020-01-03T18")


def test_a_pair_is_the_history_and_the_state_after_it(store: Store) -> None:
    pairs = Pairs(store, selection(store), ALL)
    assert len(pairs) == 10  # 12 states less the two that have no two states before them
    pair = pairs[0]
    assert pair.inputs.surf_vars["2t"].shape == (1, 2, 16, 32)
    assert pair.inputs.atmos_vars["t"].shape == (1, 2, 2, 16, 32)
    assert pair.target.surf_vars["2t"].shape == (1, 1, 16, 32)
    assert np.array_equal(pair.inputs.surf_vars["2t"][0], store.read("2t", [0, 1]))
    assert np.array_equal(pair.target.atmos_vars["t"][0, 0, 1], store.read("t", [2])[0, 2])
    assert pair.inputs.metadata.time == (datetime(2020, 1, 1, 6, tzinfo=UTC),)
    assert pair.target.metadata.time == (datetime(2020, 1, 1, 12, tzinfo=UTC),)
    assert pair.inputs.metadata.atmos_levels == (100, 850)


def test_the_step_decides_which_states_belong_together(store: Store) -> None:
    pair = Pairs(store, selection(store, hours=12), ALL)[0]
    assert np.array_equal(pair.inputs.surf_vars["2t"][0], store.read("2t", [0, 2]))
    assert np.array_equal(pair.target.surf_vars["2t"][0, 0], store.read("2t", [4])[0])


def test_every_state_of_a_pair_lies_within_the_period(store: Store) -> None:
    pairs = Pairs(store, selection(store), Period.parse("2020-01-02/2020-01-02T18"))
    assert [pairs.time(index).hour for index in range(len(pairs))] == [6, 12]


def test_a_gap_in_time_makes_no_pair(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=12).isel(time=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    periods = {"train": Period.parse("2020-01-01/2020-01-02")}
    gappy = write_store(dataset, tmp_path / "gappy", splits=periods, attributes={})
    targets = {pair.target.metadata.time[0] for pair in (Pairs(gappy, selection(gappy), ALL)[i] for i in range(7))}
    lost = {datetime(2020, 1, 2, 6, tzinfo=UTC) + timedelta(hours=6 * k) for k in range(3)}
    assert not targets & lost


def test_a_period_without_a_pair_says_what_it_holds(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no pair in 2020-01-01T00:00/2020-01-01T06:00.*2 of the store's 12 times"):
        Pairs(store, selection(store), Period.parse("2020-01-01/2020-01-01T06"))


def test_a_region_keeps_its_borders_and_is_cropped_to_patches(store: Store) -> None:
    """Rows are 11.25 degrees apart from 84.375 N: 60 N to 20 S holds 50.6 ... -16.9, 7 rows, of which 4 remain."""
    grid = select_grid(store, (60.0, 90.0, -20.0, 180.0), 4)
    assert store.latitude[grid.rows[0]] == 50.625
    assert grid.rows[1] - grid.rows[0] == 4
    # 90 to 180 degrees every 11.25: 9 columns, of which 8 remain.
    assert grid.columns == (8, 16)
    assert grid.cropped == (3, 1)
    pair = Pairs(store, selection(store, grid=grid), ALL)[0]
    assert pair.inputs.surf_vars["2t"].shape[-2:] == (4, 8)
    assert pair.inputs.metadata.lat[0] == 50.625
    assert pair.inputs.static_vars["lsm"].shape == (4, 8)


def test_a_global_grid_is_not_cut_open(store: Store) -> None:
    with pytest.raises(StoreError, match="32 longitudes around the globe are no multiple of the patch size 5"):
        select_grid(store, None, 5)


def test_a_region_that_selects_nothing_says_what_there_is(store: Store) -> None:
    with pytest.raises(StoreError, match=r"selects no grid point; the store covers 84.375 to -84.375"):
        select_grid(store, (1.0, 5.0, 0.0, 6.0), 4)
    with pytest.raises(StoreError, match="less than a patch of 4 x 4"):
        select_grid(store, (20.0, 0.0, 0.0, 40.0), 4)


def test_pairs_of_a_batch_are_stacked(store: Store) -> None:
    pairs = Pairs(store, selection(store), ALL)
    both = pairs.batch([3, 0])
    one_by_one = collate([pairs[3], pairs[0]])
    for name in ("surf_vars", "atmos_vars"):
        for whole, parts in ((both.inputs, one_by_one.inputs), (both.target, one_by_one.target)):
            read, stacked = getattr(whole, name), getattr(parts, name)
            assert all(torch.equal(read[key], stacked[key]) for key in stacked.keys() | read.keys())
    assert both.inputs.surf_vars["2t"].shape[0] == both.target.atmos_vars["t"].shape[0] == 2
    assert both.inputs.metadata.time == (pairs.time(3), pairs.time(0))
    assert torch.equal(both.target.surf_vars["msl"][1], pairs[0].target.surf_vars["msl"][0])


def test_a_target_may_lie_several_steps_ahead(store: Store) -> None:
    """12 states: two inputs and three steps need five in a row, which begin at eight of them."""
    pairs = Pairs(store, selection(store), ALL, steps=3)
    assert len(pairs) == 8
    pair = pairs[1]
    assert np.array_equal(pair.inputs.surf_vars["2t"][0], store.read("2t", [1, 2]))
    assert pairs.time(1) == pair.inputs.metadata.time[0] == datetime(2020, 1, 1, 12, tzinfo=UTC)
    assert np.array_equal(pair.target.surf_vars["2t"][0], store.read("2t", [5]))
    assert pair.target.metadata.time == (datetime(2020, 1, 2, 6, tzinfo=UTC),)
    assert pair.between == ()
    assert pair.targets == (pair.target,)


def test_only_what_is_graded_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = ChunkSlice.read

    def noting(self: ChunkSlice, out: npt.NDArray[np.float32]) -> None:
        asked.append(self.index)
        read(self, out)

    monkeypatch.setattr(ChunkSlice, "read", noting)
    Pairs(store, selection(store), ALL, steps=3)[0]
    assert asked == [0, 1] * 3 + [4] * 3


def test_every_step_on_the_way_can_be_read(store: Store) -> None:
    pairs = Pairs(store, selection(store, hours=12), ALL, steps=3, targets=3)
    assert len(pairs) == 4  # five states in a row, 12 h apart, span nine of the twelve
    pair = pairs[0]
    for target, index in zip(pair.targets, (4, 6, 8), strict=True):
        assert np.array_equal(target.atmos_vars["t"][0], store.read("t", [index])[:, [0, 2]])
    assert [target.metadata.time[0].hour for target in pair.targets] == [0, 12, 0]
    both = pairs.batch([2, 0])
    assert [batch.surf_vars["msl"].shape for batch in both.targets] == [(2, 1, 16, 32)] * 3
    assert torch.equal(both.between[1].surf_vars["msl"][1], pair.between[1].surf_vars["msl"][0])
    assert both.between[1].metadata.time == (pairs[2].between[1].metadata.time[0], pair.between[1].metadata.time[0])
    moved = both.to(torch.device("cpu"))
    assert len(moved.between) == 2
    assert torch.equal(moved.targets[0].surf_vars["2t"], both.targets[0].surf_vars["2t"])


@pytest.mark.parametrize("targets", (1, 2, 4))
def test_a_gap_on_the_way_makes_no_pair(tmp_path: Path, targets: int) -> None:
    """Of the states 0 to 11 the sixth (5) is missing: six in a row begin at 6 alone; they need 6 to 11."""
    dataset = synthetic_dataset(times=12).isel(time=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    gappy = write_store(dataset, tmp_path / "gappy", splits={"train": ALL}, attributes={})
    pairs = Pairs(gappy, selection(gappy), ALL, steps=4, targets=targets)
    assert [pairs.time(index) for index in range(len(pairs))] == [datetime(2020, 1, 2, 18, tzinfo=UTC)]


def test_a_period_too_short_for_a_roll_out_says_so(store: Store) -> None:
    wanted = r"no pair in .*: 2 input states and the 11 that follow \(rollout.steps\), 6 h apart, are needed; 12 of the"
    with pytest.raises(StoreError, match=wanted):
        Pairs(store, selection(store), ALL, steps=11)
