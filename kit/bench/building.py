"""Building a store: time beside the usual way, memory by length, and what a year of the globe takes."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kit.bench.apart import Taken, apart
from kit.bench.rows import Row, rounded
from kit.bench.weather import fields, write_grib
from kit.data.build import build
from kit.data.build_settings import BuildSettings
from kit.errors import SettingsError
from kit.plan.settings import GridSize

__all__ = ["GLOBE", "building_rows", "length_rows", "make_store"]

_logger = logging.getLogger(__name__)

GLOBE = GridSize(721, 1440)
_STATES = 6
_SHARE = 0.5
"""Of the usual way's time, which the kit must not exceed."""
_LENGTHS = (16, 160, 1600)
_GROWTH = 1.25
"""Of memory from the shortest build to the longest; what the allocator keeps differs from run to run."""
_MIB = 2**20


def make_store(path: Path, out: Path) -> int:
    """Build a store from a file of GRIB; returns its states."""
    return len(build(BuildSettings(source="grib", path=str(path), out=out)).times)


def building_rows(grid: GridSize, repeats: int) -> list[Row]:
    """From a file of GRIB to what training reads, in both ways, in turns; the best of each counts."""
    if importlib.util.find_spec("pygrib") is None:
        msg = "suite data compares with pygrib, which is not installed; run `nox -s bench -- data`, which installs it"
        raise SettingsError(msg)
    # Here, because importing it takes pygrib.
    from kit.bench.restacking import restack

    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        file = Path(scratch) / "states.grib"
        size = write_grib(file, (grid.rows, grid.columns), fields(_STATES))
        _logger.info("data: %d states, %.0f MiB of GRIB", _STATES, file.stat().st_size / _MIB)
        ours, theirs = [], []
        for number in range(repeats):
            theirs.append(apart(restack, file, Path(scratch) / f"pairs-{number}"))
            ours.append(apart(make_store, file, Path(scratch) / f"store-{number}"))
        mine, other = _best(ours), _best(theirs)
        speed = file.stat().st_size / mine.seconds / _MIB
        disk, pairs = (_bytes_of(Path(scratch) / f"{what}-0") / size for what in ("store", "pairs"))
        more = {
            "beside": "pygrib's .values of all messages, every pair stacked anew and saved",
            "note": f"{speed:.3g} MiB of GRIB a second; on disk {disk:.2f} of raw float32, pairs {pairs:.2f}",
            "disk_ratio": rounded(disk),
            "cpu_seconds": rounded(mine.cpu_seconds),
        }
    name = f"GRIB to store, {grid}, {_STATES} states of 69 fields"
    return [Row(name, mine.seconds, "s", other.seconds, exact=None, must=_SHARE * other.seconds, more=more)]


def _best(taken: Sequence[Taken]) -> Taken:
    return min(taken, key=lambda one: one.seconds)


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def length_rows(lengths: Sequence[int] = _LENGTHS, grid: tuple[int, int] = (181, 360)) -> list[Row]:
    """Peak memory of builds of 1, 10 and 100 times the states, above what the imports take."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        for states in lengths:
            file, out = Path(scratch) / f"{states}.grib", Path(scratch) / f"{states}"
            size = write_grib(file, grid, fields(states, levels=(500, 700, 850)))
            taken = apart(make_store, file, out)
            file.unlink()
            first = rows[0].value if rows else None
            more = {"note": f"{size / _MIB:.0f} MiB of values, {taken.seconds:.3g} s"}
            if first is not None:
                more["beside"] = f"that of {lengths[0]} states"
            peak = taken.grown_bytes / _MIB
            must = None if first is None else _GROWTH * first
            rows.append(Row(f"memory of a build of {states} states", peak, "MiB", first, must=must, more=more))
    return rows
