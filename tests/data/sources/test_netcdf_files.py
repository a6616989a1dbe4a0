"""Why a NetCDF file cannot be read: cut off, damaged, or whole and not understood."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from kit.data.sources.base import Request
from kit.data.sources.netcdf import open_source
from kit.data.sources.netcdf_files import check_length, describe_unread
from kit.io.errors import StoreError


def write(path: Path, form: Any = "NETCDF4", rows: int = 30, **options: Any) -> Path:
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, size in (("time", 2), ("latitude", rows), ("longitude", 40)):
            file.createDimension(name, size)
            values = file.createVariable(name, "f8", (name,))
            values[:] = np.arange(size)
        file["time"].units = "hours since 2020-01-01"
        field = file.createVariable("t2m", "f4", ("time", "latitude", "longitude"), **options)
        field.units = "K"
        field[:] = np.random.default_rng(0).random((2, rows, 40))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as caught, open_source([path], Request()) as source:
        source.fields["2t"].load()
    return str(caught.value)


@pytest.mark.parametrize("form", ("NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"))
@pytest.mark.parametrize("removed", (1, 100, 5000))
def test_files_that_end_early(tmp_path: Path, form: str, removed: int) -> None:
    path = write(tmp_path / "a.nc", form)
    content = path.read_bytes()
    check_length(path)
    path.write_bytes(content[:-removed])
    assert f"a.nc: truncated: {len(content) - removed} bytes, its header calls for {len(content)}" in refusal(path)


def test_bytes_that_are_wrong_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", rows=80, fletcher32=True, zlib=True)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    assert "a.nc: t2m cannot be read (NetCDF: HDF error): the file is damaged; fetch it again" in refusal(path)
    path.write_bytes(whole[:48] + bytes(100) + whole[148:])
    found = refusal(path)
    assert "as long as its header says, but what lies in it is damaged" in found
    assert "fetch it again" in found


@pytest.mark.parametrize("content", (b"", b"\x00", b"\x00" * 12, b"\x00\x00\x00\x00\x00\x08" + b"\xff" * 60))
def test_superblocks_that_state_no_end(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + content)
    with pytest.raises(StoreError, match=r"a\.nc: not readable as NetCDF: its header is cut off or damaged"):
        check_length(tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("change", "expected"),
    (
        (lambda file: file["t2m"].setncattr("scale_factor", "a lot"), "t2m holds <U1 values, numbers exp"),
        (lambda file: file["t2m"].setncattr("scale_factor", [1.0, 2.0]), "the file is whole, but attributes"),
        (lambda file: file["t2m"].setncattr("units", "hours since yesterday"), "t2m"),
    ),
)
def test_attributes_that_are_wrong_are_no_damage(tmp_path: Path, change: Any, expected: str) -> None:
    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        change(file)
    found = refusal(path)
    assert expected in found
    assert "damage" not in found
    assert "fetch" not in found


def test_rows_of_different_lengths_are_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        rows = file.createVLType("f4", "rows")
        field = file.createVariable("u10", rows, ("time", "latitude", "longitude"))
        field.units = "m s-1"
        field[0, 0, 0] = np.arange(3, dtype=np.float32)
    with pytest.raises(StoreError) as caught, open_source([path], Request(frozenset({"10u"}))) as source:
        source.fields["10u"].load()
    assert "a.nc: u10" in str(caught.value)
    assert "damage" not in str(caught.value)


def test_a_filter_that_is_missing_is_no_damage() -> None:
    """As the library words it for a file packed by a plugin that it does not find."""
    found = describe_unread("a.nc: t2m", RuntimeError("NetCDF: Filter error: undefined filter encountered"))
    assert "the file is whole, but packed by a filter" in found
    assert "nccopy -F none" in found
