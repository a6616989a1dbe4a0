"""From GRIB to a store, and from that store to a step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.cli import main as cli
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.run.finetune import finetune
from kit.settings import Settings
from tests.data.sources.grib_files import message, write
from tests.factories import synthetic_dataset
from tests.real_data import real_data
from tests.training import trains

PARAMS = {"2t": 167, "10u": 165, "10v": 166, "msl": 151, "z": 129, "t": 130, "u": 131, "v": 132, "q": 133}
STATICS = {"lsm": 172, "slt": 43, "z": 129}
BOX = (55.0, 0.0, 45.0, 10.0)


def make(path: Path, out: Path, **options: Any) -> Store:
    return build_store(BuildSettings(source="grib", path=path, out=out, **options))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight states on 11 x 11 points: surfaces in GRIB 1, a file a day; levels in GRIB 2; statics with every state."""
    folder = tmp_path_factory.mktemp("grib")
    dataset = synthetic_dataset(times=8, height=11, width=11, box=BOX)
    grid = (dataset["latitude"].values, dataset["longitude"].values)

    def messages(names: dict[str, int], time: int, edition: int, static: str = "") -> list[bytes]:
        found = []
        for name, param in names.items():
            if (key := static + name) not in dataset:
                continue
            array = dataset[key].isel(time=time) if "time" in dataset[key].dims else dataset[key]
            levels = array["level"].values.astype(int).tolist() if "level" in array.dims else [None]
            found += [
                message(
                    (array if level is None else array.sel(level=level)).values.astype(np.float64),
                    param=param,
                    level=level,
                    time=str(dataset["time"].values[time])[:13],
                    edition=edition,
                    grid=grid,
                    bitsPerValue=24,
                )
                for level in levels
            ]
        return found

    surface = {name: PARAMS[name] for name in ("2t", "10u", "10v", "msl")}
    levels = {name: PARAMS[name] for name in ("z", "t", "u", "v", "q")}
    for day in (0, 1):
        times = range(4 * day, 4 * day + 4)
        both = (messages(surface, t, 1) + messages(STATICS, t, 1, "static_") for t in times)
        write(folder / f"day-{day}.grib", *(m for state in both for m in state))
    write(folder / "levels.grib2", *(m for time in range(8) for m in messages(levels, time, 2)))
    return folder


@pytest.mark.slow
def test_all_of_it_and_two_steps(states: Path, run_dir: Path) -> None:
    days = ("2020-01-01T00/2020-01-01T18", "2020-01-02T00/2020-01-02T18")
    store = make(states, run_dir / "store", train=days[0], valid=days[1], test=days[1])
    assert store.surface == ("10u", "10v", "2t", "msl")
    assert store.atmospheric == ("q", "t", "u", "v", "z")
    assert store.static == ("lsm", "slt", "z")
    assert store.levels == (100, 500, 850)
    assert store.attributes["source"] == "grib"
    assert store.attributes["history"] == []
    expected = synthetic_dataset(times=8, height=11, width=11, box=BOX)
    for name in (*store.surface, *store.atmospheric):
        np.testing.assert_allclose(store.read(name, slice(None)), expected[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(store.read_static("slt"), expected["static_slt"], rtol=1e-5, atol=1e-5)
    assert trains(store.path, run_dir)


def test_the_order_of_messages_does_not_matter(states: Path, tmp_path: Path) -> None:
    first = make(states / "day-0.grib", tmp_path / "first")
    content = (states / "day-0.grib").read_bytes()
    parts = [b"GRIB" + part for part in content.split(b"GRIB")[1:]]
    assert len(parts) == 4 * 7
    second = make(write(tmp_path / "reversed" / "day-0.grib", *reversed(parts)), tmp_path / "second")
    assert first.attributes["data_sha256"] == second.attributes["data_sha256"]


def test_precipitation_is_summed_over_the_step(tmp_path: Path) -> None:
    # Short forecasts from 18 and 06 UTC, as ERA5 has them: hours 1 to 12 of each.
    content = [
        message(np.full((3, 4), 1.0 + step), param=228, edition=2, time=start, stepRange=f"{step - 1}-{step}")
        for start in ("2019-12-31T18", "2020-01-01T06")
        for step in range(1, 13)
    ]
    path = write(tmp_path / "tp.grib", *content)
    store = make(path, tmp_path / "store", statics=("coslat",), step="6h")
    assert store.times.astype("datetime64[h]").astype(str).tolist() == [
        "2020-01-01T00", "2020-01-01T06", "2020-01-01T12", "2020-01-01T18",
    ]  # fmt: skip
    # 2 + 3 + ... + 7, then 8 + ... + 13.
    np.testing.assert_allclose(store.read("tp", slice(None))[:, 0, 0], [27, 63, 27, 63], rtol=1e-6)
    assert store.variable_attributes("tp")["accumulation_hours"] == 6


def test_a_message_that_cannot_be_decoded_leaves_nothing(tmp_path: Path) -> None:
    whole = [message(time=f"2020-01-01T{hour:02d}") for hour in (0, 6, 12)]
    # 99 bits for each value: headers are read, the values cannot be.
    broken = bytearray(whole[1])
    grid = 8 + int.from_bytes(broken[8:11])
    broken[grid + int.from_bytes(broken[grid : grid + 3]) + 10] = 99
    path = write(tmp_path / "a.grib", whole[0], bytes(broken), whole[2])
    with pytest.raises(StoreError, match=r"a.grib: message 2"):
        make(path, tmp_path / "store", statics=("coslat",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.grib"]


# Real files.


def test_real_western_usa_is_a_store_of_surfaces(run_dir: Path) -> None:
    store = make(real_data("era5-western-usa-2025-01"), run_dir / "store")
    assert (len(store.times), len(store.latitude), len(store.longitude)) == (56, 61, 61)
    assert (store.surface, store.atmospheric, store.levels) == (("10u", "10v", "2t", "msl"), (), ())
    assert store.static == ("lsm", "slt", "z")
    # The statistics that came with the files have 9151 Pa for msl; it is some hundreds.
    assert 300 < store.statistics.variables["msl"].std < 1500
    assert any("no variable on pressure levels" in note for note in store.attributes["history"])
    sections: dict[str, Any] = {
        "run": {"name": "usa", "dir": run_dir},
        "data": {"store": str(store.path)},
        "model": {"weights": "random"},
    }
    with pytest.raises(
        SettingsError, match=r"at least one surface, one atmospheric .* holds \['10u'.*\], \[\], \['lsm"
    ):
        finetune(Settings.model_validate(sections))


@pytest.mark.parametrize(
    "name",
    (
        "era5-levels-corrupted.grib",
        "lambert_grid.grib",
        "t_on_different_level_types.grib",
        "tp_on_different_grid_resolutions.grib",
    ),
)
def test_real_bad_files_end_with_2_and_one_message(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(real_data("bad-grib") / name, tmp_path / name)
    words = ["--source", "grib", "--path", str(tmp_path / name), "--out", str(tmp_path / "store")]
    assert cli.main(["data", "build", *words, "--statics", "coslat"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count(f"{name}") >= 1
    assert "Traceback" not in err
    assert "ECCODES" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("name", "states"),
    (("fields_with_missing_values.grib", 2), ("regular_ll_wrong_increment.grib", 1), ("scanning_mode_64.grib", 1)),
)
def test_real_odd_files_are_built(name: str, states: int, tmp_path: Path) -> None:
    path = real_data("bad-grib") / name
    store = make(path, tmp_path / "store", statics=("coslat",), train="2017-10-18/2017-10-19")
    assert len(store.times) == states
    store.verify()
