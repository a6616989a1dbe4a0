"""Files that were given as something else are named for what they are."""

import gzip
import io
import lzma
import pickle
import tarfile
from pathlib import Path

import pytest
import xarray as xr

from kit.data.sources.base import Request
from kit.data.sources.file_formats import describe_format
from kit.data.sources.grib import source as grib
from kit.data.sources.netcdf import open_source as open_netcdf
from kit.io.errors import StoreError
from tests.data.sources.grib_files import message


def tar_of(content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        member = tarfile.TarInfo("a.nc")
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    (
        (message(), "--source grib"),
        (pickle.dumps({"a": 1}), "--source pickle"),
        (gzip.compress(b"x", mtime=0), "gzip; unpack"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b'\n {"error": "no licence"}', "JSON"),
        (lzma.compress(b"x"), "xz; unpack"),
        (b"(\xb5/\xfd" + bytes(20), "zstd; unpack"),
        (tar_of(b"x"), "tar; unpack"),
        (b"II*\x00" + bytes(20), "TIFF"),
        (b"\x0e\x03\x13\x01" + bytes(20), "HDF4"),
        (b"", "empty"),
    ),
)
def test_what_netcdf_is_not(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(content)
    assert expected in describe_format(path)
    with (
        pytest.raises(StoreError, match=f"a.nc: not readable as NetCDF .*the file is .*{expected}"),
        open_netcdf([path], Request()),
    ):
        pass


def test_what_grib_is_not(tmp_path: Path) -> None:
    xr.Dataset({"a": ("x", [1.5] * 99)}).to_netcdf(tmp_path / "a.grib", format="NETCDF3_CLASSIC")
    with pytest.raises(StoreError, match="not a GRIB file; the file is NetCDF; .*--source netcdf"):
        grib.open_source([tmp_path / "a.grib"], Request()).__enter__()


def test_a_store_is_no_folder_of_files(tmp_path: Path) -> None:
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="no NetCDF files .*this is a Zarr store; read it with --source zarr"):
        open_netcdf([tmp_path / "a.zarr"], Request()).__enter__()
    assert describe_format(tmp_path) == ""
