"""What a file or folder is by its first bytes, for messages about files that were given as something else."""

from pathlib import Path

_SIGNATURES = (
    (b"GRIB", "GRIB; read it with --source grib"),
    (b"CDF", "NetCDF; read it with --source netcdf"),
    (b"\x89HDF\r\n\x1a\n", "HDF5, as NetCDF-4 is; read it with --source netcdf if it holds NetCDF's dimensions"),
    (b"\x0e\x03\x13\x01", "HDF4, which the kit does not read; convert it to NetCDF first"),
    (b"PK\x03\x04", "a zip; --source netcdf reads those of NetCDF files, --source zarr those of Zarr stores"),
    (b"\x80", "a pickle; read it with --source pickle"),
    (b"\x1f\x8b", "packed by gzip; unpack it first"),
    (b"BZh", "packed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "packed by xz; unpack it first"),
    (b"(\xb5/\xfd", "packed by zstd; unpack it first"),
    (b"7z\xbc\xaf", "packed by 7-Zip; unpack it first"),
    (b"II*\x00", "TIFF, which the kit does not read; convert it to NetCDF first"),
    (b"\x93NUMPY", "a NumPy array without coordinates; write it to NetCDF with them"),
    (b"PAR1", "Parquet, which the kit does not read; convert it to NetCDF first"),
    (b"<", "a page of HTML or XML, such as a server's error; fetch the file again"),
    (b"{", "JSON, such as a server's error; fetch the file again"),
)
"""First bytes of files, and what goes on."""
_TAR = (257, b"ustar")
"""Where an archive of tar says what it is."""
_ZARR = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")


def describe_format(path: Path) -> str:
    """Describe what a file or folder is, and how to go on; empty where its first bytes do not tell."""
    if path.is_dir():
        is_zarr = any((path / name).is_file() for name in _ZARR)
        return "a Zarr store; read it with --source zarr" if is_zarr else ""
    # Opening a pipe would wait for whoever writes into it.
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        return "empty; fetch it again"
    begin, word = _TAR
    if head[begin:].startswith(word):
        return "an archive of tar; unpack it first, and give the folder"
    for signature, description in _SIGNATURES:
        if head.lstrip().startswith(signature) or head.startswith(signature):
            return description
    return ""
