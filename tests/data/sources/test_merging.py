"""What is wrong with a field after files are joined is said with the files that it is from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.merging import named_by_file, origin_of
from kit.data.store.build import build_store
from kit.io.errors import StoreError

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2020-01-01T00", "ns")
GRID = {"latitude": [50.0, 49.0], "longitude": [5.0, 6.0, 7.0]}


def write(path: Path, name: str, hours: Any, *, levels: Any = (), lead: float | None = None, **attributes: Any) -> None:
    times = START + np.array(hours) * HOUR
    dims = ("time", *["level"] * bool(levels), "latitude", "longitude")
    coords: dict[str, Any] = {"time": times, **GRID}
    if levels:
        coords["level"] = ("level", list(levels), {"units": "hPa"})
    sizes = [len(times), *([len(levels)] if levels else []), 2, 3]
    array = xr.DataArray(np.full(sizes, 280, np.float32), coords, dims, attrs=attributes)
    if lead is not None:
        array = array.assign_coords(
            forecast_period=("time", np.full(len(times), lead), {"units": "hours", "standard_name": "forecast_period"})
        )
    path.parent.mkdir(exist_ok=True)
    array.to_dataset(name=name).to_netcdf(path)


def rain(folder: Path, *hours: Any, window: str = "1 hour") -> None:
    """Files of sums, their times by file, beside a temperature at every hour."""
    for number, several in enumerate(hours):
        write(folder / f"tp{number}.nc", "tp", several, units="m", cell_methods=f"time: sum (interval: {window})")
    write(folder / "t2m.nc", "t2m", range(24), units="K")


def levels_lacking(folder: Path) -> dict[str, Any]:
    write(folder / "t.nc", "t", range(6), levels=(500, 850), units="K")
    return {"levels": (500, 1000)}


def no_multiple(folder: Path) -> dict[str, Any]:
    write(folder / "a.nc", "t2m", range(0, 12, 3), units="K")
    write(folder / "b.nc", "t2m", range(12, 24, 3), units="K")
    return {"step": "4h"}


def other_times(folder: Path) -> dict[str, Any]:
    write(folder / "t2m.nc", "t2m", range(6), units="K")
    return {"times": "2021/2021"}


def no_leads(folder: Path) -> dict[str, Any]:
    write(folder / "t2m.nc", "t2m", range(6), units="K")
    return {"lead": "6h"}


def other_leads(folder: Path) -> dict[str, Any]:
    write(folder / "t2m.nc", "t2m", range(6), lead=6.0, units="K")
    return {}


def two_periods(folder: Path) -> dict[str, Any]:
    write(folder / "t2m.nc", "t2m", range(6), units="K")
    write(folder / "msl.nc", "msl", range(3), units="Pa")
    return {}


def two_sets_of_levels(folder: Path) -> dict[str, Any]:
    write(folder / "t.nc", "t", range(3), levels=(500, 850), units="K")
    write(folder / "q.nc", "q", range(3), levels=(500, 700), units="1")
    return {}


def levels_at_other_times(folder: Path) -> dict[str, Any]:
    write(folder / "t500.nc", "t", range(3), levels=(500,), units="K")
    write(folder / "t850.nc", "t", range(4), levels=(850,), units="K")
    return {}


def a_gap(folder: Path) -> dict[str, Any]:
    rain(folder, range(10), range(11, 24))
    return {"step": "6h", "product": "era5"}


def a_mask(folder: Path) -> dict[str, Any]:
    write(folder / "a.nc", "sst", range(3), units="K")
    values = xr.load_dataset(folder / "a.nc")
    values["sst"][:, 0] = np.nan
    values.to_netcdf(folder / "b.nc")
    (folder / "a.nc").unlink()
    return {"infill": "sst=nearest"}


def start_alone(folder: Path) -> dict[str, Any]:
    write(folder / "tp.nc", "tp", range(3), lead=0.0, units="m", GRIB_stepType="accum")
    write(folder / "t2m.nc", "t2m", range(3), units="K")
    return {"product": "ifs"}


def totals_with_a_gap(folder: Path) -> dict[str, Any]:
    rain(folder, range(1, 12), range(14, 24))
    return {"step": "6h", "window": "tp=since-00utc"}


CASES = (
    (levels_lacking, r"t\.nc: t lacks the levels 1000 hPa"),
    (no_multiple, r"a\.nc and 1 more: 2t comes every 3 h"),
    (other_times, r"t2m\.nc: 2t: no state in --times 2021-01-01T"),
    (no_leads, r"t2m\.nc: 2t has neither leads nor reference times"),
    (other_leads, r"t2m\.nc: 2t comes from forecasts 6 h ahead"),
    (two_periods, r"differ in their times: 3 from .*; 6 from .* \(msl is from msl\.nc, 2t is from t2m\.nc\)"),
    (two_sets_of_levels, r"differ in their levels: .* \(q is from q\.nc, t is from t\.nc\)"),
    (levels_at_other_times, r"t: t850\.nc holds 4 times .*, t500\.nc holds 3"),
    (a_gap, r"tp0\.nc and 1 more: tp at 2020-01-01T10:00:00 is missing"),
    (a_mask, r"b\.nc: --infill sst=nearest cannot fill sst at"),
    (start_alone, r"tp\.nc: tp is accumulated, and all 3 values are of the start of a forecast"),
    (totals_with_a_gap, r"tp0\.nc and 1 more: tp: the values do not make up"),
)


@pytest.mark.parametrize(("write_files", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_files_are_named(write_files: Any, message: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"statics": ("coslat",), "train": "2020/2020"} | write_files(tmp_path / "in")
    with pytest.raises(StoreError, match=message) as caught:
        build_store(source="netcdf", path=tmp_path / "in", out=tmp_path / "store", **options)
    assert str(caught.value).count(".nc and 1 more:") <= 1
    assert not (tmp_path / "store").exists()


def test_origins() -> None:
    array = xr.DataArray(0.0)
    assert origin_of([("a.nc", array)]) == "a.nc"
    assert origin_of([("a.nc", array), ("a.nc", array)]) == "a.nc"
    assert origin_of([("a.nc", array), ("b.nc", array), ("c.nc", array)]) == "a.nc and 2 more"


@pytest.mark.parametrize(
    ("origin", "said", "expected"),
    (
        ("a.nc", "2t is short", "a.nc: 2t is short"),
        ("a.nc and 2 more", "a.nc: 2t is short", "a.nc: 2t is short"),
        ("", "2t is short", "2t is short"),
    ),
)
def test_a_message_names_files_once(origin: str, said: str, expected: str) -> None:
    with pytest.raises(StoreError) as caught, named_by_file(origin):
        raise StoreError(said)
    assert str(caught.value) == expected
