"""Building stores and reading them, beside other libraries: rows that stand on the page of benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from kit.bench.bench import recording
from kit.bench.building import GLOBE, make_store, measure_in_subprocess
from kit.bench.data import Reading, made_up, pairs_of, scratch_folder, stored
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import LIBRARIES, BenchSettings
from kit.bench.weather import fields, write_grib
from kit.checkpoint.settings import RunSettings
from kit.data.dataset import Pairs
from kit.data.loader import load_pairs
from kit.data.readers import reader_for
from kit.data.store.build import open_store
from kit.forecasting.writing import bytes_of
from kit.planning.settings import GridSize
from tests.benchmarks.evaluations import HRRR, evaluation_rows

_COMMAND = "pytest -m benchmark tests/benchmarks/test_libraries.py"
_STATES = 6
_HALF = 0.5
"""Of the usual way's time, which building a store must not exceed."""
_DELIVERED = "deflated, as the CDS delivers them"
_FILES: Mapping[str, Mapping[str, Any]] = {
    _DELIVERED: {"zlib": True, "complevel": 1, "shuffle": True, "dtype": "float32"},
    "16-bit, as it delivered them before": {"dtype": "int16", "_FillValue": -32767},
    "as xarray writes them": {"dtype": "float32"},
}
"""NetCDF files, one for each day and variable, by how their values are packed. Those that xarray writes by default
are not packed at all: of them a copy of memory is the most that can be had."""
_FASTER = 5
"""Times that pairs must be read as fast as from files."""
_READ = 12
"""Pairs that are read in one turn."""
_EVALUATIONS = 3
_MIB = 2**20


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_stores_beside_other_libraries() -> None:
    """At 0.25 degrees; written to docs/benchmarks.json and .md, and to MLflow, as ``kit bench`` does."""
    pytest.importorskip("pygrib")
    settings = BenchSettings(run=RunSettings(name=LIBRARIES))

    def measure() -> list[BenchRow]:
        sample = xr.open_zarr(open_store("era5-sample").path).load()
        return [
            *building_rows(GLOBE, settings.repeats),
            *pair_rows(made_up(GLOBE), settings.repeats, f"{GLOBE}, 4 states of 69 fields"),
            *pair_rows(sample, settings.repeats, "the embedded sample"),
            *evaluation_rows(HRRR, _EVALUATIONS),
        ]

    with recording(settings) as recorder:
        rows = recorder.run(LIBRARIES, _COMMAND, measure)
    *others, evaluation = rows
    assert all(row["ratio"] < 1 for row in others)
    assert evaluation["verdict"] != "missed"


@pytest.mark.slow
def test_evaluations_of_two_networks() -> None:
    (row,) = evaluation_rows(GridSize(24, 40), 1)
    assert row.value
    assert row.baseline
    assert row.must == 3 * row.baseline


@pytest.mark.slow
def test_both_ways_of_building() -> None:
    pytest.importorskip("pygrib")
    (row,) = building_rows(GridSize(19, 36), 1)
    assert row.value
    assert row.baseline
    assert row.must == row.baseline / 2
    # Three of six states' pairs are twelve states, in float32.
    assert 1.9 < float(row.more["note"].split("pairs ")[1]) < 2.2
    assert 0 < row.more["disk_ratio"] < 1.2


def test_pairs_beside_files(tmp_path: Path) -> None:
    rows = pair_rows(made_up(GridSize(9, 16)), 1, "9x16", tmp_path)
    assert not list(tmp_path.iterdir())
    assert [row.name for row in rows] == ["a pair, 9x16"] * 3
    assert [row.must is not None for row in rows] == [True, False, False]
    assert all(row.value and row.baseline and row.value > 0 for row in rows)


def building_rows(grid: GridSize, repeats: int) -> list[BenchRow]:
    """From a file of GRIB to what training reads, in both ways, in turns; the best of each counts."""
    # Importing it takes pygrib.
    from tests.benchmarks.restacking import restack

    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        file = Path(scratch) / "states.grib"
        size = write_grib(file, (grid.rows, grid.columns), fields(_STATES))
        ours, theirs = [], []
        for number in range(repeats):
            theirs.append(measure_in_subprocess(restack, file, Path(scratch) / f"pairs-{number}"))
            ours.append(measure_in_subprocess(make_store, file, Path(scratch) / f"store-{number}"))
        best = min(ours, key=lambda taken: taken.seconds)
        other = min(taken.seconds for taken in theirs)
        speed = file.stat().st_size / best.seconds / _MIB
        disk, pairs = bytes_of(Path(scratch) / "store-0") / size, bytes_of(Path(scratch) / "pairs-0") / size
    more = {
        "beside": "pygrib's .values of all messages, every pair stacked anew and saved",
        "note": f"{speed:.3g} MiB of GRIB a second; on disk {disk:.2f} of raw float32, pairs {pairs:.2f}",
        "disk_ratio": rounded(disk),
        "cpu_seconds": rounded(best.cpu_seconds),
    }
    name = f"GRIB to store, {grid}, {_STATES} states of 69 fields"
    return [BenchRow(name, best.seconds, "s", other, must=_HALF * other, more=more)]


def pair_rows(dataset: xr.Dataset, repeats: int, name: str, scratch: Path | None = None) -> list[BenchRow]:
    """Pairs from a store and from files, one pair after another."""
    rows = []
    with scratch_folder(scratch) as folder:
        pairs, reader = pairs_of(stored(dataset, folder / "fast", "fast")), reader_for(0)
        # Long enough that memory is used again, as in training; the first batches are given fresh pages.
        order = [[number % len(pairs)] for number in range(_READ)]
        for packed, encoding in _FILES.items():
            paths = write_files(dataset, folder / "netcdf", encoding)
            with xr.open_mfdataset(paths, combine="by_coords", engine="netcdf4") as opened:
                kit = Reading(lambda: sum(bytes_in(pair) for pair in load_pairs(pairs, reader, order=order)))
                files = Reading(lambda opened=opened: read_slices(opened, pairs))  # type: ignore[misc]
                Reading.take_turns((kit, files), repeats)
            for path in paths:
                path.unlink()
            best, other = kit.best / len(order), files.best / len(pairs)
            more = {
                "beside": f"xarray.open_mfdataset of files {packed}, sliced",
                "note": f"{other / best:.3g} times as fast",
            }
            must = other / _FASTER if packed == _DELIVERED else None
            rows.append(BenchRow(f"a pair, {name}", best, "s", other, must=must, more=more))
    return rows


def write_files(dataset: xr.Dataset, folder: Path, encoding: Mapping[str, Any]) -> list[Path]:
    """One file for each day and variable."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, array in dataset.data_vars.items():
        if "time" not in array.dims:
            continue
        how = dict(encoding)
        if encoding["dtype"] == "int16":
            # As the CDS did it: the range of a variable in the steps of a 16-bit number.
            low, high = float(array.min()), float(array.max())
            how |= {"scale_factor": (high - low) / 65530, "add_offset": (high + low) / 2}
        for day, states in array.groupby("time.date"):
            paths.append(folder / f"{name}-{day}.nc")
            states.to_dataset(name=str(name)).to_netcdf(paths[-1], encoding={str(name): how})
    return paths


def read_slices(opened: xr.Dataset, pairs: Pairs) -> int:
    read = 0
    for index in range(len(pairs)):
        for part in (slice(index, index + 2), slice(index + 2, index + 3)):
            states = opened.isel(time=part).load()
            read += sum(4 * array.size for array in states.data_vars.values())
    return read


def bytes_in(pair: Any) -> int:
    batches = (pair.inputs, *pair.targets)
    return sum(4 * v.numel() for batch in batches for v in (*batch.surf_vars.values(), *batch.atmos_vars.values()))
