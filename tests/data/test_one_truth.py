"""One hourly truth of rain, written in the ways in which people get it, becomes the same sums of six hours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.grib_files import LATITUDE, LONGITUDE, message
from tests.data.sources.grib_files import write as write_grib
from tests.everyday import one_in

HOURS = 60
START = np.datetime64("2020-01-01T00", "ns")
STEP = np.timedelta64(1, "h")
TIMES = START + np.arange(HOURS + 1) * STEP
# Hour k ends k hours after the start; totals below 2^24 x 2^-30 m are exact in single precision.
TRUTH = np.random.default_rng(3).integers(0, 2**17, (HOURS + 1, 3, 4)) * 2.0**-30
GRID = {"latitude": LATITUDE, "longitude": LONGITUDE}
ERA5: dict[str, Any] = {"setLocalDefinition": 1, "marsClass": "ea"}
Made = tuple[Path, str, dict[str, Any]]


def total(first: int, last: int) -> Any:
    """Rain after hour ``first``, up to hour ``last``."""
    return TRUTH[first + 1 : last + 1].sum(axis=0)


def dataset(rain: Any, dims: tuple[str, ...], coords: dict[str, Any], **attributes: Any) -> xr.Dataset:
    rain = np.asarray(rain, np.float32)
    temperature = np.full(rain.shape, 280, np.float32)
    dims = (*dims, "latitude", "longitude")
    fields = {"tp": (dims, rain, {"units": "m"} | attributes), "t2m": (dims, temperature, {"units": "K"})}
    return xr.Dataset(fields, coords=coords | GRID)


def forecasts(every: int, ahead: int, totals: Callable[[int, int], Any]) -> xr.Dataset:
    """Forecasts of ``ahead`` hours, one every ``every`` hours; ``totals`` of the start and the lead."""
    starts = range(0, HOURS - ahead + 1, every)
    rain = [[totals(start, lead) for lead in range(ahead + 1)] for start in starts]
    coords = {"time": TIMES[list(starts)], "step": np.arange(ahead + 1) * STEP}
    return dataset(rain, ("time", "step"), coords, GRIB_stepType="accum")


def new_cds(folder: Path) -> Made:
    made = dataset(TRUTH, ("valid_time",), {"valid_time": TIMES}, GRIB_stepType="accum")
    made.to_netcdf(folder / "a.nc")
    return folder / "a.nc", "netcdf", {"product": "era5"}


def old_cds(folder: Path) -> Made:
    dataset(TRUTH, ("time",), {"time": TIMES}).to_netcdf(folder / "a.nc", format="NETCDF3_CLASSIC")
    return folder / "a.nc", "netcdf", {"window": "tp=1h"}


def since_midnight(folder: Path) -> Made:
    rain = [total((hour - 1) // 24 * 24, hour) for hour in range(HOURS + 1)]
    dataset(rain, ("valid_time",), {"valid_time": TIMES}, GRIB_stepType="accum").to_netcdf(folder / "a.nc")
    return folder / "a.nc", "netcdf", {"product": "era5-land"}


def since_start(folder: Path) -> Made:
    made = forecasts(12, 12, lambda start, lead: total(start, start + lead))
    made.to_netcdf(folder / "a.nc")
    return folder / "a.nc", "netcdf", {"product": "ifs", "lead": "0h/12h"}


def cams(folder: Path) -> Made:
    made = forecasts(12, 12, lambda start, lead: total(start, start + lead))
    made = made.rename(time="forecast_reference_time", step="forecast_period")
    valid = made["forecast_reference_time"].values[:, None] + made["forecast_period"].values[None]
    dims = ("forecast_reference_time", "forecast_period")
    made = made.assign_coords(valid_time=(dims, valid)).transpose("forecast_period", ...)
    made.assign_attrs(title="CAMS global atmospheric composition forecasts").to_netcdf(folder / "a.nc")
    return folder / "a.nc", "netcdf", {"lead": "0h/12h"}


def windows_of_six(folder: Path) -> Made:
    made = forecasts(6, 12, lambda start, lead: total(start + (lead - 1) // 6 * 6, start + lead))
    for number in range(made.sizes["step"]):
        made.isel(step=[number]).to_netcdf(folder / f"f{number:03d}.nc")
    return folder, "netcdf", {"product": "gfs", "lead": "0h/6h"}


def store(folder: Path) -> Made:
    made = forecasts(12, 12, lambda start, lead: total(start, start + lead))
    made.rename(step="prediction_timedelta").to_zarr(folder / "a.zarr", zarr_format=2)
    return folder / "a.zarr", "zarr", {"product": "ifs", "lead": "0h/12h"}


def arco(folder: Path) -> Made:
    made = dataset(TRUTH, ("time",), {"time": TIMES}).rename(tp="total_precipitation", t2m="2m_temperature")
    filled = {"valid_time_start": str(TIMES[0])[:10], "valid_time_stop": str(TIMES[-1])[:13]}
    made.assign_attrs(filled).to_zarr(folder / "a.zarr")
    return folder / "a.zarr", "zarr", {}


def grib(folder: Path) -> Made:
    """ERA5's forecasts from 06 and 18 UTC, 12 h ahead, beside an analysed temperature."""
    messages = []
    for hour in range(HOURS + 1):
        time = str(TIMES[hour].astype("datetime64[h]"))
        messages.append(message(np.full((3, 4), 280.0), param=167, time=time, **ERA5))
        start = (hour - 7) // 12 * 12 + 6
        begin = str((START + start * STEP).astype("datetime64[h]"))
        step = f"{hour - start - 1}-{hour - start}"
        keys: dict[str, Any] = {"stepRange": step, "stepType": "accum", "bitsPerValue": 24} | ERA5
        messages.append(message(TRUTH[hour], param=228, time=begin, edition=2, **keys))
    write_grib(folder / "a.grib", *messages)
    return folder / "a.grib", "grib", {}


def grib_since_start(folder: Path) -> Made:
    messages = []
    for start in range(0, HOURS - 11, 12):
        begin = str((START + start * STEP).astype("datetime64[h]"))
        messages.append(message(np.full((3, 4), 280.0), param=167, time=begin, edition=2))
        for lead in range(1, 13):
            messages.append(message(np.full((3, 4), 280.0), param=167, time=begin, edition=2, stepRange=str(lead)))
            keys: dict[str, Any] = {"stepRange": f"0-{lead}", "stepType": "accum", "bitsPerValue": 24}
            messages.append(message(total(start, start + lead), param=228, time=begin, edition=2, **keys))
    write_grib(folder / "a.grib", *messages)
    return folder / "a.grib", "grib", {"lead": "0h/12h"}


WAYS = (new_cds, old_cds, since_midnight, since_start, cams, windows_of_six, store, arco, grib, grib_since_start)


def build(made: Made, folder: Path, **options: Any) -> Store:
    path, source, flags = made
    chosen = {"step": "6h", "statics": ("coslat",), "train": "2020/2020"} | flags | options
    return build_store(source=source, path=path, out=folder / "out", **chosen)


@pytest.mark.parametrize("way", one_in(2, WAYS, [way.__name__ for way in WAYS]))
def test_sums_of_six_hours_are_equal(way: Callable[[Path], Made], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    built = build(way(tmp_path / "in"), tmp_path)
    ends = ((built.times - START.astype("datetime64[s]")) // np.timedelta64(1, "h")).astype(int)
    assert ends.tolist() == list(range(6, ends[-1] + 1, 6))
    # Forecasts of six hours more than are taken end earlier.
    assert ends[-1] in (HOURS - 6, HOURS)
    expected = np.stack([total(end - 6, end) for end in ends])
    np.testing.assert_allclose(built.read("tp", slice(None)), expected, rtol=1e-6)
    np.testing.assert_array_equal(built.read("2t", slice(None)), 280)
    attributes = built.variable_attributes("tp")
    assert attributes["accumulation_hours"] == 6
    assert attributes["cell_methods"].startswith("time: sum (")


@pytest.mark.parametrize("way", (new_cds, old_cds, since_midnight, since_start, windows_of_six, store))
def test_what_nobody_says_is_refused_with_the_settings_that_say_it(way: Callable[[Path], Made], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path, source, flags = way(tmp_path / "in")
    left = {"lead": flags["lead"]} if "lead" in flags else {}
    with pytest.raises(StoreError, match=r"(?s)tp.* --product \(era5, .*--window tp=WINDOW"):
        build((path, source, left), tmp_path)
    assert not (tmp_path / "out").exists()


def test_leads_are_a_choice(tmp_path: Path) -> None:
    """Without it analyses are taken, every twelve hours; totals since the start make up those hours."""
    (tmp_path / "in").mkdir()
    path, source, _ = since_start(tmp_path / "in")
    built = build((path, source, {"product": "ifs"}), tmp_path, step="12h")
    ends = ((built.times - START.astype("datetime64[s]")) // np.timedelta64(1, "h")).astype(int).tolist()
    assert ends == [12, 24, 36, 48]
    assert built.variable_attributes("2t")["lead_hours"] == 0
    assert built.variable_attributes("tp")["lead_hours"] == 12
    np.testing.assert_allclose(built.read("tp", [1])[0], total(12, 24), rtol=1e-6)


def test_a_reanalysis_has_no_leads(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    built = build(grib(tmp_path / "in"), tmp_path, step=None)
    assert built.variable_attributes("tp")["lead_hours"] == 0
    assert built.variable_attributes("tp")["accumulation_hours"] == 1
    np.testing.assert_allclose(built.read("tp", [10])[0], TRUTH[10], rtol=1e-6)
