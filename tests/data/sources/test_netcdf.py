from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.data.products import PRODUCTS
from kit.data.sources.base import Request, SourceData
from kit.data.sources.netcdf import open_source
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form, old_form, write
from tests.real_data import real_data


def read(path: Path, *wanted: str, product: str | None = None) -> SourceData:
    """Read in full while the files are open; fields are lazy."""
    request = Request(frozenset(wanted) or None, product=PRODUCTS.get(product or ""))
    with open_source([path], request) as source:
        return dataclasses.replace(source, fields={name: field.load() for name, field in source.fields.items()})


@pytest.mark.parametrize("form", (new_form, old_form))
def test_both_forms_of_the_cds(tmp_path: Path, form: object) -> None:
    assert callable(form)
    write(form(("t2m", "u10")), tmp_path / "surface.nc")
    write(form(("t", "z"), levels=(850, 500)), tmp_path / "levels.nc")
    source = read(tmp_path)
    assert sorted(source.fields) == ["10u", "2t", "t", "z"]
    assert source.fields["t"].dims == ("time", "level", "latitude", "longitude")
    assert source.fields["t"]["level"].values.tolist() == [500, 850]
    expected = form(("t", "z"), levels=(850, 500))["t"].values[:, ::-1]
    np.testing.assert_array_equal(source.fields["t"], expected)
    assert source.fields["2t"].dtype == np.float32
    assert source.fields["2t"].attrs["units"] == "K"
    assert [fact["name"] for fact in source.files] == ["levels.nc", "surface.nc"]
    assert all(len(fact["sha256"]) == 64 for fact in source.files)
    assert source.notes == ()


def test_packed_values_and_fill_values(tmp_path: Path) -> None:
    dataset = old_form(("t2m",))
    dataset["t2m"][1, 2, 3] = np.nan
    source = read(write(dataset, tmp_path / "a.nc", packed=True))
    field = source.fields["2t"]
    assert field.dtype == np.float32
    assert np.isnan(field.values[1, 2, 3])
    assert np.isnan(field.values).sum() == 1
    np.testing.assert_allclose(field.values[0], dataset["t2m"].values[0], atol=0.001)


def test_preliminary_values_stand_where_there_are_no_final_ones(tmp_path: Path) -> None:
    final, preliminary = old_form(("t2m",)), old_form(("t2m",)) + 1000
    final["t2m"][2:] = np.nan
    preliminary["t2m"][:1] = np.nan
    mixed = xr.concat([preliminary.assign_coords(expver=5), final.assign_coords(expver=1)], dim="expver")
    mixed["t2m"].attrs["units"] = "K"
    source = read(write(mixed.transpose("time", "expver", ...), tmp_path / "a.nc"))
    np.testing.assert_array_equal(source.fields["2t"][:2], final["t2m"][:2])
    np.testing.assert_array_equal(source.fields["2t"][2:], preliminary["t2m"][2:])
    assert any("ERA5 and ERA5T combined" in note for note in source.notes)


def test_versions_along_the_times(tmp_path: Path) -> None:
    dataset = new_form(("t2m",))
    dataset["expver"] = ("valid_time", ["0001", "0001", "0001", "0005"])
    assert "2t: 1 of 4 states are preliminary (ERA5T)" in read(write(dataset, tmp_path / "a.nc")).notes
    # The third moment once more, in its preliminary version: the final one stands.
    again = dataset.isel(valid_time=[2]) + 1000
    again["t2m"].attrs["units"] = "K"
    again["expver"] = ("valid_time", ["0005"])
    twice = xr.concat([again, dataset], dim="valid_time").sortby("valid_time")
    source = read(write(twice, tmp_path / "b.nc"))
    np.testing.assert_array_equal(source.fields["2t"], dataset["t2m"])


def test_files_by_month_and_by_level_are_joined(tmp_path: Path) -> None:
    whole = new_form(("t",), levels=(500, 850), times=6)
    write(whole.isel(valid_time=slice(3, 6)), tmp_path / "a.nc")
    write(whole.isel(valid_time=slice(0, 4)), tmp_path / "b.nc")
    source = read(tmp_path)
    np.testing.assert_array_equal(source.fields["t"], whole["t"])
    assert "t: states that two files hold alike were taken once" in source.notes
    (tmp_path / "levels").mkdir()
    write(whole.isel(pressure_level=[1]), tmp_path / "levels" / "850.nc")
    write(whole.isel(pressure_level=[0]), tmp_path / "levels" / "500.nc")
    np.testing.assert_array_equal(read(tmp_path / "levels").fields["t"], whole["t"])


def test_a_state_held_twice_with_different_values(tmp_path: Path) -> None:
    write(new_form(("t2m",)), tmp_path / "a.nc")
    write(new_form(("t2m",), start="2020-01-01T02"), tmp_path / "b.nc")
    with pytest.raises(StoreError, match=r"b.nc and a.nc both hold 2t at 2020-01-01T02.* different values"):
        read(tmp_path)


def test_levels_that_overlap(tmp_path: Path) -> None:
    write(new_form(("t",), levels=(500, 850)), tmp_path / "a.nc")
    write(new_form(("t",), levels=(850, 1000)), tmp_path / "b.nc")
    with pytest.raises(StoreError, match=r"a.nc: 500, 850; b.nc: 850, 1000"):
        read(tmp_path)


def test_grids_that_differ_print_both_sides(tmp_path: Path) -> None:
    write(new_form(("t2m",)), tmp_path / "a.nc")
    write(new_form(("msl",)).isel(longitude=slice(0, 3)), tmp_path / "b.nc")
    differ = r"b.nc has 3 longitudes from 5 to 5.5, for msl; a.nc has 4 longitudes from 5 to 5.75, for 2t"
    with pytest.raises(StoreError, match=rf"{differ}.*--leave_out msl"):
        read(tmp_path)


def test_statics_come_with_or_without_times(tmp_path: Path) -> None:
    dataset = new_form(("t2m", "lsm"))
    dataset["lsm"] = dataset["lsm"].isel(valid_time=0, drop=True).expand_dims(valid_time=dataset["valid_time"])
    dataset["lsm"].attrs["units"] = "(0 - 1)"
    write(dataset, tmp_path / "a.nc")
    write(new_form(("z",)).isel(valid_time=0, drop=True), tmp_path / "b.nc")
    source = read(tmp_path)
    assert source.fields["static_lsm"].dims == source.fields["static_z"].dims == ("latitude", "longitude")


def test_a_geopotential_that_changes_is_no_static(tmp_path: Path) -> None:
    write(new_form(("z",)), tmp_path / "a.nc")
    with pytest.raises(StoreError, match=r"z has no pressure levels .* a.nc at 2020-01-01T01.* needs its level"):
        read(tmp_path)


def test_strangers_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    write(new_form(("t2m", "myindex")), tmp_path / "a.nc")
    source = read(tmp_path)
    assert sorted(source.fields) == ["2t"]
    assert any(note.startswith("myindex left out") for note in source.notes)
    assert sorted(read(tmp_path, "myindex", "2t").fields) == ["2t", "myindex"]


def test_a_zip_as_the_cds_delivers_it(tmp_path: Path) -> None:
    instant = write(new_form(("t2m",)), tmp_path / "data_stream-oper_stepType-instant.nc")
    accumulated = write(new_form(("tp",)), tmp_path / "data_stream-oper_stepType-accum.nc")
    # The CDS has called such a file .nc, too.
    archive = tmp_path / "download.nc"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.write(instant, instant.name)
        content.write(accumulated, accumulated.name)
    source = read(archive, product="era5")
    assert sorted(source.fields) == ["2t", "tp"]
    assert [fact["name"] for fact in source.files] == ["download.nc"]


@pytest.mark.parametrize("member", ("../outside.nc", "/outside.nc", "a/../../outside.nc", "..\\outside.nc", "C:\\x.nc"))
def test_a_zip_that_points_outside_is_refused(tmp_path: Path, member: str) -> None:
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr(member, write(new_form(), tmp_path / "source.nc").read_bytes())
    with pytest.raises(StoreError, match="points outside the archive; nothing was unpacked"):
        read(archive)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "in", "source.nc"]


def test_a_damaged_zip(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.write(write(new_form(), tmp_path / "source.nc"), "source.nc")
    content_bytes = bytearray(archive.read_bytes())
    content_bytes[200:300] = bytes(100)
    archive.write_bytes(bytes(content_bytes))
    with pytest.raises(StoreError, match=r"a.zip: the zip cannot be unpacked"):
        read(archive)


@pytest.mark.parametrize("form", ("NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT"))
@pytest.mark.parametrize("fraction", (0.95, 0.5, 0.01))
def test_truncated_files_are_named(tmp_path: Path, form: str, fraction: float) -> None:
    dataset = old_form(("t2m", "u10"), times=24)
    path = write(dataset, tmp_path / "short.nc", form=form)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(StoreError, match=r"short.nc: (not readable as NetCDF|truncated|the header)"):
        read(path)


def test_whole_classic_files_are_read(tmp_path: Path) -> None:
    for form in ("NETCDF3_CLASSIC", "NETCDF3_64BIT", "NETCDF3_64BIT_DATA"):
        assert read(write(old_form(("t2m",)), tmp_path / f"{form}.nc", form=form)).fields["2t"].shape == (4, 3, 4)


def test_other_files_are_no_netcdf(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_text("no data")
    with pytest.raises(StoreError, match=r"a.nc: not readable as NetCDF"):
        read(tmp_path)


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "a.grib").touch()
    with pytest.raises(StoreError, match=r"no NetCDF files .* end in \['.grib'\]"):
        read(tmp_path)


def test_a_file_without_fields(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none of 1 files holds a field on latitudes and longitudes"):
        read(write(new_form(()), tmp_path / "a.nc"))


def test_units_of_what_is_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    dataset = new_form(("t2m", "u10"))
    dataset["u10"].attrs["units"] = "furlong per fortnight"
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path, "2t")
    assert sorted(source.fields) == ["2t"]
    assert source.names == ("10u", "2t")
    with pytest.raises(StoreError, match=r"a.nc: u10 comes in 'furlong per fortnight', and the store wants 'm s-1'"):
        read(tmp_path)


def test_the_product_that_is_told_stands_over_the_one_that_a_file_names(tmp_path: Path) -> None:
    path = write(old_form(("tp",)).assign_attrs(title="ERA5-Land hourly data"), tmp_path / "a.nc")
    told = read(path, product="era5")
    assert "a.nc taken for era5, as --product or the registry says, though it names era5-land" in told.notes
    assert told.fields["tp"].attrs["accumulation_hours"] == 1
    assert not any("taken for" in note for note in read(path, product="era5-land").notes)


def test_real_europe() -> None:
    source = read(real_data("era5-europe-2020-01-01"), product="era5")
    assert sorted(source.fields) == ["10u", "10v", "2d", "e", "q", "sp", "tcw", "tp", "u", "v"]
    assert source.fields["u"].shape == (24, 20, 41, 41)
    assert 70000 < float(source.fields["sp"].min()) < float(source.fields["sp"].max()) < 105000
    assert source.licence == "Generated using Copernicus Climate Change Service information [2023]."


def test_real_global_state_with_transposed_dimensions() -> None:
    folder = real_data("era5-global-tl31-1959")
    source = read(folder)
    field = source.fields["t"]
    assert field.shape == (1, 37, 32, 64)
    assert "latitudes flipped to decrease" in source.notes
    with xr.open_dataset(folder / "era5_tl31_19590102T00.nc") as original:
        level = original["temperature"].sel(level=850).transpose("latitude", "longitude")[::-1]
        np.testing.assert_array_equal(field.sel(level=850).values[0], level)


def test_real_file_cut_short(tmp_path: Path) -> None:
    # The NetCDF library reads this one without complaint, as zeros.
    content = (real_data("era5-global-tl31-1959") / "era5_tl31_19590102T00.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(content[:1_000_000])
    with pytest.raises(StoreError, match=r"cut.nc: truncated: 1000000 bytes, its header calls for 2141788"):
        read(tmp_path / "cut.nc")
