"""The pieces: cuts between blocks, packed chunks, records, locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from kit.data.settings import Codec
from kit.data.statistics import summarise
from kit.data.store import build_plan as plan
from kit.data.store.blocks import encoder
from kit.data.store.build_plan import block_edges, differences
from kit.data.store.format import compressors
from kit.data.store.manifest import BlockRecord, ChunkFact, write_file
from kit.io.locks import take


def lazy(states: int, chunk: int, points: int = 1) -> xr.DataArray:
    return xr.DataArray(da.zeros((states, points), chunks=(chunk, points)), dims=("time", "x"))


@pytest.mark.parametrize(
    ("arrays", "edges"),
    (
        # 4 bytes a state, 16 to a block: anywhere, where nothing is lazy.
        ([xr.DataArray(np.zeros((10, 1), "f4"), dims=("time", "x"))], [0, 4, 8, 10]),
        ([lazy(10, 3)], [0, 3, 6, 10]),
        ([lazy(10, 1)], [0, 4, 8, 10]),
        # 8 bytes: where both end, if that is not too far away.
        ([lazy(12, 2), lazy(12, 3)], [0, 6, 12]),
        # 24 bytes a state: six are too many, so where those of the larger one end.
        ([lazy(12, 2, points=5), lazy(12, 3)], [0, 2, 4, 6, 8, 10, 12]),
        # A chunk that is too large by itself is computed more than once.
        ([lazy(40, 40)], [0, *range(4, 41, 4)]),
    ),
)
def test_blocks_end_where_chunks_do(
    monkeypatch: pytest.MonkeyPatch, arrays: list[xr.DataArray], edges: list[int]
) -> None:
    monkeypatch.setattr(plan, "BLOCK_BYTES", 16)
    monkeypatch.setattr(plan, "LARGEST_BLOCK", 64)
    assert block_edges(arrays) == edges


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_chunk_is_packed_as_zarr_does(tmp_path: Path, codec: Codec) -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 20, 30)).astype(np.float32)
    array = zarr.create_array(
        tmp_path, shape=values.shape, chunks=values.shape, dtype="float32", compressors=compressors(codec)
    )
    array[...] = values
    assert (tmp_path / "c" / "0" / "0" / "0" / "0").read_bytes() == encoder(codec)(values[0])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    fields = {"2t": np.arange(12.0), "q_500": np.array([np.nan, 0.0, np.inf]), "u_500": np.full(3, np.nan)}
    summaries = tuple((key, summarise(key, field, draw=4, moment=7)) for key, field in fields.items())
    record = BlockRecord((ChunkFact("2t/c/0", 3, "ab"),), (summaries, summaries[:1]))
    record.save(tmp_path / "record.npz", tmp_path)
    read = BlockRecord.load(tmp_path / "record.npz")
    assert read.chunks == record.chunks
    assert repr(list(read.pairs())) == repr(list(record.pairs()))
    assert read.pairs().__next__()[1].sample.dtype == np.float32
    assert [file.name for file in tmp_path.iterdir()] == ["record.npz"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b", b"one", tmp_path)
    write_file(tmp_path / "a" / "b", b"two", tmp_path)
    assert (tmp_path / "a" / "b").read_bytes() == b"two"
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_file(tmp_path / "folder", b"three", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "folder"]


def test_plans_say_where_they_differ() -> None:
    one, other = {"a": {"b": 1, "c": [1, 2]}, "d": 0}, {"a": {"b": 2, "c": [1, 2]}, "e": "x" * 100}
    assert list(differences(one, other)) == [
        "a.b: 2 there, 1 now",
        "d: null there, 0 now",
        f'e: "{"x" * 59}... there, null now',
    ]


def test_locks(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first, second = take(file, shared=True), take(file, shared=True)
    assert first is not None
    assert second is not None
    assert take(file) is None
    first.release()
    second.release()
    alone = take(file)
    assert alone is not None
    assert take(file, shared=True) is None
    alone.release(remove=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        take(file, make=False)


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert take(tmp_path / "lock") is None
        process.kill()
        process.wait()
    held = take(tmp_path / "lock")
    assert held is not None
    held.release()
