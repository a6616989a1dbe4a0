"""What values are of: a moment, a sum or a mean, as a file, a product or the user states it."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.products import PRODUCTS, Window, product_of_attributes
from kit.data.sources.leads import BOUND_END, BOUND_START, LEAD, MOVED, WINDOW
from kit.data.sources.stated_windows import WindowRules, with_window
from kit.data.variables import lookup
from kit.io.errors import StoreError

TIMES = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"], "datetime64[ns]")


def state(name: str = "tp", leads: Any = None, spaced: str = "6h", **attributes: Any) -> xr.DataArray:
    step = np.timedelta64(int(spaced[:-1]), "h")
    coords: dict[str, Any] = {"time": TIMES[0] + np.arange(3) * step}
    if leads is not None:
        coords[LEAD] = ("time", np.asarray(leads, float))
    return xr.DataArray(np.zeros((3, 2, 2)), coords, ("time", "latitude", "longitude"), name, attributes)


def window(array: xr.DataArray, name: str = "tp", product: str = "", **windows: str) -> tuple[Any, list[str]]:
    notes: list[str] = []
    rules = WindowRules({key: Window.parse(text) for key, text in windows.items()}, PRODUCTS.get(product))
    field = with_window(array, name, lookup(name, "surface"), rules, "a.nc", notes.append)
    return (field[WINDOW].values.tolist() if WINDOW in field.coords else field.attrs.get("averaging_hours")), notes


def bounded(array: xr.DataArray, before: int, after: int) -> xr.DataArray:
    times = array["time"].values.astype("datetime64[s]")
    start, end = times - np.timedelta64(before, "h"), times + np.timedelta64(after, "h")
    return array.assign_coords({BOUND_START: ("time", start), BOUND_END: ("time", end)})


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    (
        (state("total_precipitation_6hr"), {}, [6, 6, 6]),
        (state("tp_1h"), {}, [1, 1, 1]),
        (state(accumulation_hours=3), {}, [3, 3, 3]),
        (state(GRIB_stepRange="6-12"), {}, [6, 6, 6]),
        (state(GRIB_stepRange="6-12", leads=[12, 12, 12]), {"product": "ifs"}, [6, 6, 6]),
        # A range that is the first lead's says nothing of later ones.
        (state(GRIB_stepRange="0-6", leads=[6, 12, 18]), {"product": "ifs"}, [6, 12, 18]),
        (state(GRIB_stepRange="0-6", leads=[6, 12, 18]), {"product": "gfs"}, [6, 6, 6]),
        (bounded(state(cell_methods="time: sum"), 3, 0), {}, [3, 3, 3]),
        (bounded(state(), 1, 0), {}, [1, 1, 1]),
        (state(cell_methods="area: mean time: lat: sum", spaced="48h"), {"tp": "48h"}, [48, 48, 48]),
        (state(cell_methods="time: sum (interval: 1 hour)"), {"product": "era5"}, [1, 1, 1]),
        (state(GRIB_stepType="accum"), {"product": "era5"}, [1, 1, 1]),
        (state(GRIB_stepType="accum"), {"product": "era5-land"}, [24, 6, 12]),
        (state(leads=[0, 6, 12]), {"product": "ifs"}, [0, 6, 12]),
        (state(leads=[1, 6, 9]), {"product": "gfs"}, [1, 6, 3]),
        (state(leads=[0, 6, 12]), {"product": "cams"}, [0, 6, 12]),
        (state(), {"tp": "1h"}, [1, 1, 1]),
        (state(), {"tp": "since-00utc"}, [24, 6, 12]),
        (state(leads=[0, 6, 12]), {"tp": "since-start"}, [0, 6, 12]),
        (state(leads=[3, 4, 5]), {"tp": "resets-3h"}, [3, 1, 2]),
        # What a file states stands before its product, and what the user says before both.
        (state(GRIB_stepRange="0-3"), {"product": "era5"}, [3, 3, 3]),
        (state(GRIB_stepRange="0-3"), {"product": "era5", "tp": "2h"}, [2, 2, 2]),
    ),
)
def test_windows(array: xr.DataArray, options: dict[str, str], expected: list[float]) -> None:
    assert window(array, **options)[0] == expected


@pytest.mark.parametrize(
    ("array", "name", "options", "expected"),
    (
        (state(), "tp", {}, r"a.nc: tp is accumulated, .*--product \(era5, .*--window tp=WINDOW: 1h"),
        (state(GRIB_stepType="accum"), "tp", {}, "--product"),
        (state(GRIB_stepRange="0-6", leads=[6, 12, 18]), "tp", {}, "--product"),
        (state(cell_methods="time: sum"), "tp", {}, "--product"),
        (state("t2m", cell_methods="time: mean"), "2t", {}, "no bounds of its times .*2t=6h-after if they begin"),
        (state("t2m", cell_methods="time: lat: lon: mean"), "2t", {"product": "era5"}, "no bounds of its times"),
        (state("t2m", cell_methods="valid_time: mean", spaced="24h"), "2t", {}, "no bounds of its times"),
        (state("t2m", cell_methods="time: mean"), "2t", {"2t": "since-start"}, "no bounds of its times"),
        (state(cell_methods="time: sum", spaced="24h"), "tp", {"product": "era5"}, "--window tp=24h .*tp=24h-after"),
        (state(cell_methods="valid_time: sum", spaced="72h"), "tp", {}, "sums of whole days .*tp=72h .*tp=72h-after"),
        (state("t2m", spaced="24h"), "2t", {"product": "era5-daily"}, "does not say which; add the attribute"),
        (state("t2m"), "2t", {"2t": "24h"}, "--window 2t=24h has no effect: t2m is a state of a moment"),
        (state(), "tp", {"product": "era5-daily"}, "tp comes every 6 h, and values of the product era5-daily are of w"),
        (state(), "tp", {"product": "ifs"}, "since the start of the forecast, and the file states neither leads nor"),
        (state(cell_methods="time: mean"), "tp", {}, r"tp is a statistic over time \(mean\), where a sum is expected"),
        (state(GRIB_stepType="avgad"), "tp", {"product": "era5"}, "a mean over many days .GRIB_stepType avgad."),
        (state("t2m", GRIB_stepType="avgua"), "2t", {}, "a mean over many days"),
        (state("t2m", cell_methods="time: maximum"), "2t", {}, r"t2m is a statistic over time \(maximum\)"),
        (state("x", GRIB_stepType="accum"), "x", {}, r"--window x=WINDOW"),
    ),
)  # fmt: skip
def test_refusals_name_what_goes_on(array: xr.DataArray, name: str, options: dict[str, str], expected: str) -> None:
    with pytest.raises(StoreError, match=expected):
        window(array, name, **options)


def test_means_over_months_of_different_lengths() -> None:
    months = state("tas", cell_methods="time: mean", spaced="720h")
    begin = np.array(["2020-01-01", "2020-02-01", "2020-03-01"], "datetime64[s]")
    end = np.array(["2020-02-01", "2020-03-01", "2020-04-01"], "datetime64[s]")
    months = months.assign_coords({BOUND_START: ("time", begin), BOUND_END: ("time", end)})
    with pytest.raises(StoreError, match="tas holds means over 696 to 744 h, such as of months"):
        window(months, "2t")


def test_means_are_labelled() -> None:
    averaged, notes = window(bounded(state("t2m", cell_methods="time: mean", spaced="24h"), 24, 0), "2t")
    assert averaged == 24
    assert notes == ["t2m holds means over 24 h, not states of a moment"]
    assert window(state("t2m", cell_methods="time: mean"), "2t", **{"2t": "6h"})[0] == 6
    assert window(state("t2m", cell_methods="time: mean", averaging_hours=12.0), "2t")[0] == 12
    assert window(state("t2m", cell_methods="time: point"), "2t") == (None, [])
    assert window(state("t2m", GRIB_stepType="instant"), "2t") == (None, [])


def test_a_statistic_is_valid_at_the_end_of_its_bounds() -> None:
    array = bounded(state(cell_methods="time: sum", spaced="24h"), 12, 12)
    field = with_window(array, "tp", lookup("tp", "surface"), WindowRules({}, None), "a.nc", pytest.fail)
    np.testing.assert_array_equal(field["time"], array["time"].values + np.timedelta64(12, "h"))
    assert field[WINDOW].values.tolist() == [24, 24, 24]


DAILY: dict[str, Any] = {"GRIB_paramId": 228, "cell_methods": "valid_time: sum (interval: 1 hour)", "spaced": "24h"}


@pytest.mark.parametrize(
    ("array", "name", "options"),
    (
        (state(**DAILY), "tp", {}),
        (state(**DAILY), "tp", {"product": "era5"}),
        (state("t2m", **DAILY | {"cell_methods": "valid_time: mean"}), "2t", {}),
        (state("t2m", cell_methods="time: mean", spaced="24h"), "2t", {"product": "era5-daily"}),
        (state(GRIB_stepRange="0-1", spaced="24h"), "tp", {"product": "era5-daily"}),
        (state(cell_methods="time: sum", spaced="24h"), "tp", {"tp": "24h-after"}),
        (state("t2m", cell_methods="time: mean", spaced="24h"), "2t", {"2t": "24h-after"}),
    ),
)
def test_values_stamped_at_the_beginning_of_their_hours_are_moved(
    array: xr.DataArray, name: str, options: dict[str, str]
) -> None:
    """The value of a day stamped 00 UTC is of the 24 h after it, and valid at their end."""
    rules = WindowRules(
        {key: Window.parse(text) for key, text in options.items() if key != "product"},
        PRODUCTS.get(options.get("product", "")),
    )
    field = with_window(array, name, lookup(name, "surface"), rules, "a.nc", lambda _: None)
    np.testing.assert_array_equal(field["time"], array["time"].values + np.timedelta64(24, "h"))
    assert field.attrs[MOVED] == 24
    assert (field[WINDOW].values.tolist() if name == "tp" else [field.attrs["averaging_hours"]] * 3) == [24] * 3


@pytest.mark.parametrize(
    "text",
    (
        "24h-before",
        "resets-6h-after",
        "since-00utc-after",
        "-after",
        "h-after",
        "",
        "1",
        "h",
        "0h",
        "-1h",
        "since",
        "tp",
        "resets-h",
        "since-start-6h",
    ),
)
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected a window such as 1h"):
        Window.parse(text)


@pytest.mark.parametrize("text", ("1h", "24h", "24h-after", "since-00utc", "since-start", "resets-6h"))
def test_windows_are_written_as_they_are_read(text: str) -> None:
    assert str(Window.parse(text)) == text
    assert str(Window.parse(text.upper())) == text


@pytest.mark.parametrize(
    ("attributes", "expected"),
    (
        ({"title": "ERA5 hourly data on single levels"}, "era5"),
        ({"source": "ERA5-Land hourly data"}, "era5-land"),
        ({"title": "ERA5 and ERA5-Land compared"}, None),
        ({"history": "... reanalysis-era5-land ..."}, "era5-land"),
        ({"history": "... reanalysis-era5-single-levels ..."}, "era5"),
        ({"history": "cdo -seltimestep era5_tp.nc"}, None),
        ({"title": "ERA5 post-processed daily statistics on single levels"}, "era5-daily"),
        ({"history": "... derived-era5-single-levels-daily-statistics ..."}, "era5-daily"),
        ({"history": "... derived-era5-land-daily-statistics ..."}, "era5-daily"),
        ({"source": "daily statistics of ERA5"}, None),
        ({"title": "ERA5 daily means"}, None),
        ({"title": "ERA5 monthly averaged data"}, None),
        ({"history": "adaptor.mars.internal-1714725814.nc by grib_to_netcdf"}, None),
        ({"title": "CAMS global atmospheric composition forecasts"}, "cams"),
        ({"institution": "ECMWF", "source": "IFS HRES"}, "ifs"),
        ({"title": "GFS 0.25 degree"}, "gfs"),
        ({"title": "NOAA HRRR"}, "hrrr"),
        ({"valid_time_start": "1940-01-01", "valid_time_stop": "2024-01-01"}, "era5"),
        ({}, None),
    ),
)
def test_products_are_known_by_their_words(attributes: dict[str, str], expected: str | None) -> None:
    product = product_of_attributes(attributes)
    assert (product.name if product else None) == expected
