"""States straight from their files: what Zarr would have read, and every kind of damage told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from kit.data.chunks import Chunks, ChunkSlice
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.factories import synthetic_store

EVERYTHING = slice(None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic_store(tmp_path / "store", times=4, surface=("2t",), atmospheric=("t",), static=())


def read(part: ChunkSlice) -> np.ndarray:
    out = np.full(part.shape, 7.0, dtype=np.float32)
    part.read(out)
    return out


@pytest.mark.parametrize(
    ("rows", "columns", "levels"),
    (
        (EVERYTHING, EVERYTHING, None),
        (slice(3, 11), EVERYTHING, None),
        (EVERYTHING, slice(5, 20), None),
        (slice(2, 9), range(-5, 3), None),
        (EVERYTHING, EVERYTHING, [2, 0]),
        (slice(0, 4), range(-2, 2), [1]),
    ),
)
def test_parts_are_what_zarr_reads(store: Store, rows: slice, columns: slice | range, levels: list[int] | None) -> None:
    array = zarr.open_array(store.path / "t", mode="r")
    direct = store.chunk_slice("t", 2, rows, columns, levels)
    assert direct.chunks.array is None
    by_zarr = ChunkSlice(
        Chunks(direct.chunks.folder, direct.chunks.shape, False, False, array), 2, "", rows, columns, levels
    )
    expected = np.asarray(array[2])[EVERYTHING if levels is None else levels][:, rows]
    expected = expected[..., columns if isinstance(columns, slice) else list(columns)]
    assert direct.shape == expected.shape
    np.testing.assert_array_equal(read(direct), expected)
    np.testing.assert_array_equal(read(by_zarr), expected)


def test_a_store_of_zarrs_default_codecs_is_read_by_zarr(store: Store) -> None:
    """As earlier versions wrote them."""
    values = np.array(store.read("t", slice(None)))
    group = zarr.open_group(store.path, mode="r+", use_consolidated=False)
    attributes = dict(group["t"].attrs)
    old = group.create_array(
        "t", shape=values.shape, chunks=(1, *values.shape[1:]), dtype="float32", fill_value=np.nan, overwrite=True,
        dimension_names=("time", "level", "latitude", "longitude"), attributes=attributes,
    )  # fmt: skip
    old[:] = values
    (store.path / "zarr.json").unlink()
    part = ChunkSlice(Chunks.of(old, store.path / "t"), 1, "t at 1", EVERYTHING, EVERYTHING)
    assert part.chunks.array is not None
    np.testing.assert_array_equal(read(part), values[1])
    Path(part.chunks.file(1)).unlink()
    with pytest.raises(StoreError, match="is gone"):
        read(part)


def test_a_form_that_is_not_the_kits_is_left_to_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "group", zarr_format=3)
    others: tuple[dict[str, Any], ...] = (
        {"dtype": "float64"}, {"chunks": (2, 4, 4)}, {"chunks": (1, 2, 4)}, {"compressors": None, "dtype": ">f4"},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"filters": [zarr.codecs.TransposeCodec(order=(0, 2, 1))]},
    )  # fmt: skip
    for number, options in enumerate(others):
        how: dict[str, Any] = {"shape": (2, 4, 4), "chunks": (1, 4, 4), "dtype": "float32", "compressors": None}
        array = group.create_array(f"a{number}", **how | options)
        assert Chunks.of(array, tmp_path / "group" / f"a{number}").array is not None, options
    plain = group.create_array("plain", shape=(2, 4, 4), chunks=(1, 4, 4), dtype="<f4", compressors=None)
    plain[:] = np.arange(32.0).reshape(2, 4, 4)
    part = ChunkSlice(Chunks.of(plain, tmp_path / "group" / "plain"), 1, "", EVERYTHING, EVERYTHING)
    assert part.chunks.array is None
    np.testing.assert_array_equal(read(part), np.asarray(plain[1]))


@pytest.mark.parametrize("damage", ("cut", "longer", "empty", "another state's", "another variable's", "a bit"))
def test_damage_is_told_also_of_what_was_read_before(store: Store, damage: str) -> None:
    part = store.chunk_slice("t", 1)
    before = read(part)
    file = Path(part.chunks.file(1))
    content = file.read_bytes()
    changed = {
        "cut": content[:-9],
        "longer": content + b"more",
        "empty": b"",
        "another state's": content[:-4] + Path(part.chunks.file(2)).read_bytes()[-4:],
        "another variable's": Path(store.chunk_slice("2t", 1).chunks.file(1)).read_bytes(),
        "a bit": content[:99] + bytes([content[99] ^ 4]) + content[100:],
    }[damage]
    file.write_bytes(changed)
    os.utime(file, (1, 1))
    with pytest.raises(StoreError, match=r"t at 2020-01-01T06:00:00 cannot be read \(.*; the store is damaged"):
        read(part)
    file.write_bytes(content)
    np.testing.assert_array_equal(read(part), before)


def test_a_store_reads_what_xarray_reads(store: Store) -> None:
    with xr.open_zarr(store.path) as opened:
        np.testing.assert_array_equal(store.read("2t", slice(None)), opened["2t"])
        np.testing.assert_array_equal(store.read("t", [3, 0], levels=[2, 1]), opened["t"].values[[3, 0]][:, [2, 1]])
