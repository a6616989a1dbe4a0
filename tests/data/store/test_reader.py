from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import xarray as xr
import zarr

from kit.data.settings import Codec, Period
from kit.data.store.finalize import StoreExistsError
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.io.errors import StoreError
from tests.factories import LAMBERT, as_matrices, synthetic_dataset, synthetic_store

TRAIN = {"train": Period.parse("2020-01-01/2020-01-02")}


def write(dataset: xr.Dataset, path: Path) -> Store:
    return write_store(dataset, path, splits=TRAIN, attributes={"source": "test"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    dataset = synthetic_dataset(levels=(50, 500, 1000))
    store = write(dataset, tmp_path / "store")
    assert store.surface == ("10u", "10v", "2t", "msl")
    assert store.atmospheric == ("q", "t", "u", "v", "z")
    assert store.static == ("lsm", "slt", "z")
    assert store.levels == (50, 500, 1000)
    assert all(isinstance(level, int) for level in store.levels)
    assert store.times.dtype == np.dtype("datetime64[s]")
    assert store.latitude.dtype == store.longitude.dtype == np.float64
    np.testing.assert_array_equal(store.read("2t", slice(None)), dataset["2t"])
    np.testing.assert_array_equal(store.read_static("z", slice(2, 4)), dataset["static_z"][2:4])
    part = store.read("t", [3, 1], slice(0, 4), slice(8, 20), levels=[2, 0])
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, dataset["t"].values[[3, 1]][:, [2, 0], 0:4, 8:20])
    assert store.read("t", []).shape == (0, 3, 16, 32)
    assert store.indices(Period.parse("2020-01-01T06/2020-01-01T18")).tolist() == [1, 2, 3]


def test_xarray_opens_it_without_a_warning(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=4)
    dataset["2t"].attrs["units"] = "K"
    write(dataset, tmp_path / "store")
    with xr.open_zarr(tmp_path / "store") as opened:
        xr.testing.assert_equal(opened.load(), dataset)
        assert opened["2t"].attrs["units"] == "K"
        assert opened["latitude"].attrs["units"] == "degrees_north"
        assert opened["level"].attrs["units"] == "hPa"
        assert opened.attrs["kit_store"] == 1
        assert opened["t"].encoding["chunks"] == (1, 3, 16, 32)


@pytest.mark.parametrize("codec", get_args(Codec))
def test_every_codec_is_read_by_xarray_and_a_changed_bit_is_found(tmp_path: Path, codec: Codec) -> None:
    dataset = synthetic_dataset(times=3, surface=("2t",), atmospheric=("t",))
    store = write_store(dataset, tmp_path / "store", splits=TRAIN, attributes={}, codec=codec)
    with xr.open_zarr(store.path) as opened:
        xr.testing.assert_equal(opened.load(), dataset)
    np.testing.assert_array_equal(store.read("t", [2, 0]), dataset["t"].values[[2, 0]])
    chunk = store.path / "t" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"t at 2020-01-01T06:00:00 cannot be read"):
        store.read("t", [1])


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=3)
    dataset["2t"][1] = np.nan
    store = write(dataset, tmp_path / "store")
    assert np.isnan(store.read("2t", [1])).all()
    assert store.statistics.variables["2t"].nan_fraction == pytest.approx(1 / 3)
    store.verify()


def test_statistics_are_of_the_training_states_alone(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=6)
    splits = {"train": Period.parse("2020-01-01T00/2020-01-01T12"), "valid": Period.parse("2020-01-01T18/2020-01-02")}
    store = write_store(dataset, tmp_path / "store", splits=splits, attributes={})
    assert store.statistics.states == 3
    assert store.statistics.train == store.splits["train"] == splits["train"]
    values = dataset["t"].values[:3, 1].astype(np.float64)
    assert store.statistics.variables["t_500"].mean == pytest.approx(values.mean(), rel=1e-12)
    assert store.statistics.variables["t_500"].std == pytest.approx(values.std(), rel=1e-12)
    static = dataset["static_z"].values.astype(np.float64)
    assert store.statistics.variables["static_z"].mean == pytest.approx(static.mean(), rel=1e-12)


def test_one_level_and_none(tmp_path: Path) -> None:
    one = write(synthetic_dataset(levels=(0.5,)), tmp_path / "one")
    assert one.levels == (0.5,)
    assert "t_0_5" in one.statistics.variables
    assert one.read("t", [0]).shape == (1, 1, 16, 32)
    none = write(synthetic_dataset(atmospheric=()), tmp_path / "none")
    assert none.levels == ()
    assert none.atmospheric == ()


def test_the_same_data_make_the_same_fingerprint(tmp_path: Path) -> None:
    first, second = (synthetic_store(tmp_path / name, times=5).fingerprint() for name in ("a", "b"))
    assert first == second
    assert synthetic_store(tmp_path / "c", times=5, seed=1).fingerprint() != first


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    store.read("2t", [0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("2t", [0]), store.read("2t", [0]))


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    chunk = store.path / "2t" / "c" / "1" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    chunk.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"2t at 2020-01-01T06:00:00 cannot be read"):
        Store.open(store.path).read("2t", [1])


def test_a_lost_chunk_is_not_taken_for_missing_values(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    (store.path / "t" / "c" / "2" / "0" / "0" / "0").unlink()
    with pytest.raises(StoreError, match=r"t at 2020-01-01T12:00:00 cannot be read \(.*is gone\)"):
        Store.open(store.path).read("t", [2])


def test_verify_finds_a_changed_value(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    store.verify()
    array = zarr.open_group(store.path, mode="r+", use_consolidated=False)["t"]
    assert isinstance(array, zarr.Array)
    array[2, 0, 0, 0] = 1.0
    with pytest.raises(
        StoreError,
        match=r"store: t/c/2/0/0/0 (was changed|has \d+ bytes, \d+ were written); the store was changed or damaged",
    ):
        Store.open(store.path).verify()


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    with pytest.raises(StoreError, match=r"no variable 'tp' of this kind; it has 10u, 10v, 2t, msl, q"):
        store.read("tp", [0])
    with pytest.raises(StoreError, match=r"no variable 'wmb' of this kind; it has lsm, slt, z"):
        store.read_static("wmb")


# Opening what is no store.


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store; build one"):
        Store.open(tmp_path / "absent")


def test_some_other_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no readable Zarr v3 group"):
        Store.open(tmp_path)


def test_some_other_group(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "group", zarr_format=3)
    with pytest.raises(StoreError, match=r"group: .*(not a store of this kit|no readable)"):
        Store.open(tmp_path / "group")


def test_without_statistics(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    (store.path / "stats.json").unlink()
    with pytest.raises(StoreError, match=r"stats.json: the store has no statistics"):
        Store.open(store.path)


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("latitude", "latitude must be strictly decreasing, but -84.375 is followed by -73.125"),
        ("longitude", "longitude must be strictly increasing, but 348.75 is followed by 337.5"),
        ("time", "time must be strictly increasing, but 2020-01-01T18:00:00 is followed by"),
        ("level", "level must be strictly increasing, but 850.0 is followed by 500.0"),
    ),
)
def test_a_store_out_of_order(tmp_path: Path, name: str, message: str) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    array = zarr.open_group(store.path, mode="r+", use_consolidated=False)[name]
    assert isinstance(array, zarr.Array)
    array[:] = np.asarray(array[:])[::-1].copy()
    with pytest.raises(StoreError, match=message):
        Store.open(store.path)


def test_longitudes_outside_the_circle(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    array = zarr.open_group(store.path, mode="r+", use_consolidated=False)["longitude"]
    assert isinstance(array, zarr.Array)
    array[:] = np.asarray(array[:]) - 180
    with pytest.raises(StoreError, match=r"longitude -180 is outside \[0, 360\)"):
        Store.open(store.path)


# Writing what is no store, and not getting to the end of it.


def test_existing_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreExistsError, match="exists already"):
        write(synthetic_dataset(), tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda d: d.isel(latitude=slice(None, None, -1)), "latitude must be strictly decreasing"),
        (lambda d: d.transpose("latitude", ...), "10u has the dimensions|2t has the dimensions"),
        (lambda d: d.drop_vars("longitude"), "has no coordinate 'longitude'"),
        (lambda d: d[["static_z"]].assign_coords(time=d["time"]), "no variable has a time"),
        (lambda d: d.isel(time=slice(8, None)), "no state falls in train = 2020-01-01T00:00/2020-01-02T00:00"),
    ),
)
def test_other_forms_are_refused(tmp_path: Path, change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(StoreError, match=message):
        write(change(synthetic_dataset()), tmp_path / "out" / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_train(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"needs a training split, got \['valid'\]"):
        write_store(synthetic_dataset(), tmp_path / "store", splits={"valid": TRAIN["train"]}, attributes={})


def test_nothing_remains_of_an_interrupted_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kit.data.store.finalize.root_document", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(synthetic_dataset(times=3), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_writers_leaves_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.data.store import finalize as finish

    complete = finish.root_document

    def overtaken(*arguments: Any) -> bytes:
        monkeypatch.setattr(finish, "root_document", complete)
        synthetic_store(tmp_path / "store", times=4, seed=1)
        return complete(*arguments)

    monkeypatch.setattr(finish, "root_document", overtaken)
    with pytest.raises(StoreExistsError, match="another process wrote this store"):
        synthetic_store(tmp_path / "store", times=4, seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    expected = synthetic_dataset(times=4, seed=1)["2t"]
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read("2t", slice(None)), expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield disk
    finally:
        subprocess.run([str(shutil.which("umount")), str(disk)], check=True)


def test_nothing_remains_on_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        synthetic_store(small_disk / "store", times=40)
    assert list(small_disk.iterdir()) == []


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    attributes = {
        "source_files": [{"name": "a.nc", "size": np.int64(3)}],
        "synthetic": np.bool_(True),
        "path": tmp_path,
    }
    store = write_store(synthetic_dataset(times=4), tmp_path / "store", splits=TRAIN, attributes=attributes)
    assert store.attributes["source_files"] == [{"name": "a.nc", "size": 3}]
    assert store.attributes["synthetic"] is True
    assert json.loads((store.path / "zarr.json").read_text())["attributes"]["kit_store"] == 1


def test_a_curvilinear_grid_is_written_and_read(tmp_path: Path) -> None:
    dataset = synthetic_dataset(curvilinear=True, times=4)
    store = synthetic_store(tmp_path / "store", curvilinear=True, times=4)
    assert store.curvilinear
    assert store.shape == (16, 32)
    assert (store.surface, store.atmospheric, store.static) == (
        ("10u", "10v", "2t", "msl"), ("q", "t", "u", "v", "z"), ("lsm", "slt", "z"),
    )  # fmt: skip
    np.testing.assert_array_equal(store.latitude, dataset["latitude"])
    np.testing.assert_array_equal(
        store.read("t", [1], slice(2, 4), slice(8)), dataset["t"].isel(time=[1], y=slice(2, 4), x=slice(8))
    )
    np.testing.assert_array_equal(store.read_static("z"), dataset["static_z"])
    assert store.attributes["projection"] == LAMBERT
    store.verify()
    with xr.open_zarr(store.path) as opened:
        xr.testing.assert_equal(opened.load(), dataset)
        assert opened["2t"].coords["latitude"].dims == ("y", "x")


def test_a_regular_grid_is_not_curvilinear(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=3)
    assert not store.curvilinear
    assert store.shape == (16, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.isel(y=slice(None, None, -1)), r"latitude must strictly decrease along y, but in column 0 "),
        (lambda d: d.isel(x=slice(None, None, -1)), r"longitude must strictly increase along x, but in row 0 "),
        (lambda d: d.assign_coords(longitude=d["longitude"] + 90), r"longitude 360\.\d+ is outside \[0, 360\)"),
        (lambda d: d.assign_coords(latitude=d["latitude"].where(d["y"] != 3)), r"is followed by nan"),
        (lambda d: d.transpose("time", "level", "x", "y"), r"latitude has the dimensions \('x', 'y'\)"),
        (lambda d: d.assign_coords(latitude=1e-9 * d["latitude"] + 40), r"latitude must strictly decrease"),
    ],
)
def test_a_curvilinear_grid_out_of_order_is_refused(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], message: str
) -> None:
    dataset = synthetic_dataset(curvilinear=True, times=3)
    with pytest.raises(StoreError, match=message):
        write(change(dataset.assign_coords(y=np.arange(16))).drop_vars("y"), tmp_path / "store")


def test_a_regular_grid_may_come_as_matrices(tmp_path: Path) -> None:
    dataset = as_matrices(synthetic_dataset(times=3))
    np.testing.assert_array_equal(write(dataset, tmp_path / "store").longitude[3], dataset["longitude"][0])
