from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources import base
from kit.data.sources.base import Request, SourceData
from kit.data.sources.grib.source import open_source
from kit.io.errors import SettingsError, StoreError
from tests.data.sources.grib_files import FIELD, LATITUDE, LONGITUDE, eccodes, field, message, write
from tests.real_data import real_data

HOURS = ("2020-01-01T00", "2020-01-01T06", "2020-01-01T12")


def read(*paths: Path, wanted: tuple[str, ...] = ()) -> SourceData:
    request = Request(variables=frozenset(wanted)) if wanted else Request()
    with open_source(paths, request) as source:
        return dataclasses.replace(source, fields={name: array.load() for name, array in source.fields.items()})


def refusal(*paths: Path) -> str:
    with pytest.raises(StoreError) as caught:
        read(*paths)
    return str(caught.value)


@pytest.mark.parametrize("edition", (1, 2))
def test_levels_surfaces_and_statics(tmp_path: Path, edition: int) -> None:
    wind: dict[str, Any] = {"typeOfLevel": "heightAboveGround", "level": 10} if edition == 2 else {}
    messages = [
        message(field(10 * t + level / 100), param=130, level=level, time=time, edition=edition)
        for t, time in enumerate(HOURS)
        for level in (850, 500)
    ]
    messages += [message(field(t), param=165, time=time, edition=edition, **wind) for t, time in enumerate(HOURS)]
    messages += [message(FIELD, param=172, time=time, edition=edition) for time in HOURS]
    source = read(write(tmp_path / "a.grib", *reversed(messages)))
    assert sorted(source.fields) == ["10u", "static_lsm", "t"]
    t = source.fields["t"]
    assert t.dims == ("time", "level", "latitude", "longitude")
    assert t["level"].values.tolist() == [500, 850]
    assert t["time"].values.astype("datetime64[h]").astype(str).tolist() == list(HOURS)
    np.testing.assert_array_equal(t["latitude"], LATITUDE)
    np.testing.assert_array_equal(t["longitude"], LONGITUDE)
    np.testing.assert_array_equal(t.values[2, 0], FIELD + 25)
    np.testing.assert_array_equal(t.values[1, 1], FIELD + 18.5)
    assert t.dtype == np.float32
    assert t.attrs["units"] == "K"
    np.testing.assert_array_equal(source.fields["10u"].values[1], FIELD + 1)
    assert source.fields["static_lsm"].dims == ("latitude", "longitude")
    assert source.notes == ()
    assert [fact["name"] for fact in source.files] == ["a.grib"]


def test_only_what_is_computed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LAYER_BYTES", 1)
    messages = [message(field(t), param=130, level=500, time=time) for t, time in enumerate(HOURS)]
    path = write(tmp_path / "a.grib", *messages)
    with open_source([path], Request()) as source:
        # The last state is no longer there: the first still is.
        path.write_bytes(b"".join(messages[:2]))
        array = source.fields["t"]
        np.testing.assert_array_equal(array.isel(time=0, level=0), FIELD)
        with pytest.raises(StoreError, match=r"a.grib: message 3 is gone: the file was changed"):
            array.isel(time=2).load()


def test_files_of_any_order_and_name_are_one(tmp_path: Path) -> None:
    write(tmp_path / "b.grb", *(message(field(level), param=130, level=level, time=HOURS[0]) for level in (500, 850)))
    write(tmp_path / "a" / "late.GRIB2", message(field(500), param=130, level=500, time=HOURS[1], edition=2))
    write(tmp_path / "a" / "unnamed", message(field(850), param=130, level=850, time=HOURS[1]))
    write(tmp_path / "c.grib", message(field(1), time=HOURS[0]), message(field(2), time=HOURS[1]))
    (tmp_path / "statistics.json").write_text("{}")
    (tmp_path / "empty").touch()
    source = read(tmp_path)
    assert source.fields["t"].shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(source.fields["t"].values[:, :, 0, 0], [[500, 850], [500, 850]])
    np.testing.assert_array_equal(source.fields["2t"].values[:, 0, 0], [1, 2])
    assert sorted(fact["name"] for fact in source.files) == ["b.grb", "c.grib", "late.GRIB2", "unnamed"]


@pytest.mark.parametrize("edition", (1, 2))
def test_missing_values_are_nan_and_9999_is_a_number(tmp_path: Path, edition: int) -> None:
    values = FIELD.copy()
    values[1, 2] = np.nan
    content = [message(values, edition=edition), message(FIELD + 9995, time=HOURS[1], edition=edition)]
    array = read(write(tmp_path / "a.grib", *content)).fields["2t"].values
    assert np.isnan(array[0]).sum() == 1
    assert np.isnan(array[0, 1, 2])
    np.testing.assert_allclose(array[1], FIELD + 9995, atol=0.01)


def test_units_are_converted(tmp_path: Path) -> None:
    # Geopotential height in gpm, cloud cover in %, precipitation in mm.
    content = [
        message(FIELD, param=156, level=500),
        message(FIELD, param=228164),
        message(FIELD, param=228228, edition=2, stepRange="0-1"),
        message(FIELD, param=228002),
    ]
    source = read(write(tmp_path / "a.grib", *content))
    np.testing.assert_allclose(source.fields["z"].values[0, 0], 9.80665 * FIELD, rtol=1e-6)
    np.testing.assert_allclose(source.fields["tcc"].values[0], FIELD / 100, rtol=1e-6)
    np.testing.assert_allclose(source.fields["tp"].values[0], FIELD / 1000, rtol=1e-6)
    np.testing.assert_allclose(source.fields["static_z"].values, 9.80665 * FIELD, rtol=1e-6)
    assert source.fields["tp"].attrs["accumulation_hours"] == 1


def test_strangers_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    # 49, the largest gust since the last time, and 253, which nobody has named.
    path = write(tmp_path / "a.grib", message(), message(param=49, stepType="max", stepRange="0-1"))
    source = read(path)
    assert sorted(source.fields) == ["2t"]
    assert source.notes == ("10fg left out: not in the kit's table of variables; ask for it by name to have it",)
    with pytest.raises(StoreError, match=r"10fg is a state, but this is a maximum over 1 h; leave it out"):
        read(path, wanted=("10fg",))
    plain = write(tmp_path / "b.grib", message(), message(param=198))
    np.testing.assert_array_equal(read(plain, wanted=("src",)).fields["src"].values[0], FIELD)


def test_only_strangers(tmp_path: Path) -> None:
    text = refusal(write(tmp_path / "a.grib", message(param=189)))
    assert "none of 1 messages is of a variable that the kit knows. sund left out" in text


def test_a_static_variable_that_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", *(message(field(t), param=129, time=time) for t, time in enumerate(HOURS)))
    assert "z has no pressure levels and so is taken to be static, but a.grib, message 2 at" in refusal(path)


def test_static_values_packed_in_another_way_are_still_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", message(param=172), message(param=172, time=HOURS[1], bitsPerValue=24))
    np.testing.assert_array_equal(read(path).fields["static_lsm"], FIELD)


def test_final_values_stand_before_preliminary_ones(tmp_path: Path) -> None:
    def version(base: float, time: str, name: str) -> bytes:
        return message(field(base), time=time, setLocalDefinition=1, experimentVersionNumber=name)

    content = [version(100, HOURS[0], "0005"), version(1, HOURS[0], "0001"), version(2, HOURS[1], "0005")]
    source = read(write(tmp_path / "a.grib", *content))
    np.testing.assert_array_equal(source.fields["2t"].values[:, 0, 0], [1, 2])
    assert "ERA5 and ERA5T combined: preliminary values where there are no final ones" in source.notes
    assert "2t: 1 of 2 fields are preliminary (ERA5T)" in source.notes


def test_what_comes_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.grib", message(time=HOURS[0]), message(time=HOURS[1]))
    write(tmp_path / "b.grib", message(time=HOURS[1]))
    source = read(tmp_path)
    assert source.fields["2t"].shape == (2, 3, 4)
    assert source.notes == ("2t: states that come twice, alike, were taken once",)
    write(tmp_path / "b.grib", message(field(1), time=HOURS[1]))
    text = refusal(tmp_path)
    assert "a.grib, message 2 and b.grib, message 1 both hold 2t at 2020-01-01T06:00:00, with different values" in text


@pytest.mark.parametrize(
    ("messages", "expected"),
    (
        (
            [message(param=130, level=level, time=HOURS[0]) for level in (500, 850)]
            + [message(param=130, level=500, time=HOURS[1])],
            "t: 1 of 2 x 2 fields are missing, the first at 850 hPa at 2020-01-01T06",
        ),
        (
            [message(param=130, level=500), message(param=130, level=60, typeOfLevel="hybrid", edition=2)],
            "a.grib, message 2: t lies on model levels (hybrid 60)",
        ),
        (
            [message(), message(time=HOURS[1], grid=(LATITUDE, LONGITUDE + 0.25))],
            "the grids of two messages of 2t differ: a.grib, message 2 has 3 x 4 points, 50.5 to 50 N, 5.25 to 6 E",
        ),
        (
            [message(), message(param=165, grid=(LATITUDE, LONGITUDE + 0.25))],
            "the grids of two files differ: a.grib has 4 longitudes from 5.25 to 6, for",
        ),
        (
            [message(), message(typeOfLevel="heightAboveGround", level=2)],
            "on several levels, surface 0 and heightAboveGround 2",
        ),
        (
            [message(time=HOURS[t], setLocalDefinition=1, number=t) for t in (0, 1)],
            "2t comes from 2 ensemble members, 0 to 1; give those of one, such as with eccodes' `grib_copy -w number",
        ),
        ([message(setLocalDefinition=1, type="es")], "2t is the spread of an ensemble, no state"),
    ),
)
def test_what_makes_no_states(tmp_path: Path, messages: list[bytes], expected: str) -> None:
    assert expected in refusal(write(tmp_path / "a.grib", *messages))


def test_other_levels_are_left_out(tmp_path: Path) -> None:
    isentropic = message(param=130, level=350, typeOfLevel="theta", edition=2)
    source = read(write(tmp_path / "a.grib", message(param=130, level=500, edition=2), isentropic))
    assert source.fields["t"].shape == (1, 1, 3, 4)
    assert source.notes == ("t on levels of the type theta left out: the store wants pressure levels",)


def test_what_is_not_wanted_does_not_matter(tmp_path: Path) -> None:
    hybrid = message(param=130, level=60, typeOfLevel="hybrid", edition=2)
    source = read(write(tmp_path / "a.grib", message(), hybrid), wanted=("2t",))
    assert sorted(source.fields) == ["2t"]
    assert source.names == ("2t", "t")


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_text("CDF")
    assert "no GRIB files" in refusal(tmp_path)
    assert "files there end in ['.nc']" in refusal(tmp_path)
    assert "not a GRIB file" in refusal(write(tmp_path / "a.grib", b"x" * 1000))
    assert "holds no GRIB message" in refusal(write(tmp_path / "a.grib", b""))


def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.grib", message())
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(SettingsError, match=r'needs the package eccodes.* pip install "aurora-finetune-kit\[grib\]"'):
        read(path)


# Real files.


def test_real_western_usa() -> None:
    source = read(real_data("era5-western-usa-2025-01"))
    names = ["10u", "10v", "2t", "msl", "static_lsm", "static_slt", "static_z"]
    assert sorted(source.fields) == names
    assert all(source.fields[name].shape == (56, 61, 61) for name in names[:4])
    assert 95000 < float(source.fields["msl"].min()) < float(source.fields["msl"].max()) < 106000
    assert 235 < float(source.fields["2t"].min()) < float(source.fields["2t"].max()) < 305
    assert source.fields["2t"]["longitude"].values[[0, -1]].tolist() == [235, 250]
    assert set(np.unique(source.fields["static_slt"].round())) <= set(range(8))
    assert source.notes == ("longitudes shifted to [0, 360)",)
    assert len(source.files) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    (
        ("era5-levels-corrupted.grib", r"message 1 cannot be read \(Wrong message length\)"),
        ("lambert_grid.grib", r"message 1: nlwrs \(paramId 3112\) lies on a lambert grid"),
        ("t_on_different_level_types.grib", r"message 2: t lies on model levels \(hybrid 100\)"),
        (
            "tp_on_different_grid_resolutions.grib",
            r"grids of two messages of tp differ: .* message 2 has 46 x 90 .* message 1 has 37 x 72",
        ),
    ),
)
def test_real_files_that_are_refused(name: str, expected: str) -> None:
    with pytest.raises(StoreError, match=expected):
        read(real_data("bad-grib") / name)


def real(name: str) -> Any:
    return read(real_data("bad-grib") / name)


def test_real_missing_values() -> None:
    array = real("fields_with_missing_values.grib").fields["2t"].values
    # The counts are those that the messages' bitmaps state.
    assert np.isnan(array).sum(axis=(1, 2)).tolist() == [10808, 10891]
    assert 200 < np.nanmin(array) < np.nanmax(array) < 330


def test_real_wrong_increment() -> None:
    source = real("regular_ll_wrong_increment.grib")
    array = source.fields["2t"]
    assert array.shape == (1, 37, 72)
    np.testing.assert_array_equal(array["latitude"], np.arange(90, -91, -5))
    np.testing.assert_array_equal(array["longitude"], np.arange(0, 360, 5))
    assert "steps of 2 x 2 degrees, its ends and counts 5 x 5: ends and counts were taken" in source.notes[0]
    # All points of a row at a pole are one: the rows are where they should be.
    assert np.ptp(array.values[0, 0]) == np.ptp(array.values[0, -1]) == 0


def test_real_rows_from_south_to_north() -> None:
    source = real("scanning_mode_64.grib")
    array = source.fields["skt"]
    assert source.notes == ("latitudes flipped to decrease",)
    np.testing.assert_array_equal(array["latitude"], np.arange(90, -91, -5))
    # October: Antarctica is the coldest, the tropics the warmest.
    zonal = array.values[0].mean(axis=1)
    assert zonal.argmin() > 32
    assert 12 < zonal.argmax() < 24


@pytest.mark.parametrize("edition", (1, 2))
@pytest.mark.parametrize("bits", (6, 12))
def test_meridians_that_come_twice_are_compared_within_packing(tmp_path: Path, edition: int, bits: int) -> None:
    grid = (np.array([45.0, 0.0, -45.0]), np.arange(0.0, 361, 45))
    values = np.linspace(250, 264, 27).reshape(3, 9)
    values[:, -1] = values[:, 0]
    # Becomes one step of the coarser packing (0.25), and many of the finer.
    values[1, -1] += 0.2
    content = [
        message(values, param=130, level=500, time=time, edition=edition, grid=grid, bitsPerValue=bits)
        for time in HOURS
    ]
    path = write(tmp_path / "a.grib", *content)
    if bits == 12:
        assert "a.grib: t at 0 and at 360 degrees east, which are one place, differs by up to 0." in refusal(path)
        return
    array = read(path).fields["t"]
    assert array["longitude"].values.tolist() == list(range(0, 360, 45))
    np.testing.assert_allclose(array.values[:, 0], [values[:, :-1]] * len(HOURS), atol=0.13)


@pytest.mark.parametrize("packing", ("grid_png", "grid_jpeg", "grid_ccsds", "grid_complex", "grid_second_order"))
def test_packings_of_large_grids(tmp_path: Path, packing: str) -> None:
    """eccodes writes PNG of large grids alone, so that the grammar of files has none."""
    grid = (np.linspace(50, 42.75, 30), np.linspace(5, 19.75, 60))
    values = 280 + 20 * np.sin(np.arange(1800.0).reshape(30, 60) / 50)
    content = message(values, edition=2, grid=grid, packingType=packing, numberOfDataPoints=1800)
    handle = eccodes.codes_new_from_message(content)
    assert eccodes.codes_get(handle, "packingType") == packing
    expected = eccodes.codes_get_values(handle).reshape(30, 60)
    eccodes.codes_release(handle)
    array = read(write(tmp_path / "a.grib", content)).fields["2t"]
    np.testing.assert_allclose(array[0], expected, rtol=1e-6)
    np.testing.assert_allclose(array[0], values, atol=2e-3)
