"""Valid times and leads are read in every layout in which forecasts come."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.dates import decode_dates
from kit.data.sources.leads import BOUND_END, BOUND_START, LEAD, split_by_lead
from kit.io.errors import StoreError

HOUR = np.timedelta64(3600, "s")
STARTS = np.array(["2020-01-01T00", "2020-01-01T12", "2020-01-02T00"], "datetime64[ns]")
LEADS = np.array([0.0, 6.0, 12.0])


def forecasts(reference: str, lead: str, **attributes: Any) -> xr.Dataset:
    """Values that tell the start (tens) and the lead (ones) on reference times by leads."""
    values = 10.0 * np.arange(3)[:, None, None, None] + np.arange(3)[None, :, None, None] + np.zeros((3, 3, 2, 2))
    return xr.Dataset(
        {"t2m": ((reference, lead, "latitude", "longitude"), values)},
        coords={reference: STARTS, lead: (lead, LEADS, {"units": "hours"} | attributes)},
    )


def states(dataset: xr.Dataset) -> dict[tuple[str, float], float]:
    """Collect the first value of each state, by valid time and lead."""
    found = {}
    for part in split_by_lead(dataset, "a.nc"):
        values = part["t2m"].transpose("time", ...).values[:, 0, 0]
        leads = part[LEAD].values
        for time, lead, value in zip(
            part["time"].values.astype("datetime64[h]").astype(str), leads, values, strict=True
        ):
            found[time, float(lead)] = float(value)
    return found


def expected() -> dict[tuple[str, float], float]:
    return {
        (str((start + int(lead) * HOUR).astype("datetime64[h]")), lead): 10.0 * i + j
        for i, start in enumerate(STARTS.astype("datetime64[s]"))
        for j, lead in enumerate(LEADS.tolist())
    }


@pytest.mark.parametrize(
    ("reference", "lead"),
    (
        ("time", "step"), ("time", "prediction_timedelta"), ("init_time", "lead_time"),
        ("forecast_reference_time", "forecast_period"), ("initial_time", "lead_time"), ("time", "forecast_period"),
        ("TIME", "Step"),
    ),
)  # fmt: skip
@pytest.mark.parametrize("transposed", (False, True))
def test_reference_times_by_leads(reference: str, lead: str, transposed: bool) -> None:
    dataset = forecasts(reference, lead)
    if transposed:
        dataset = dataset.transpose("longitude", lead, "latitude", reference)
    assert states(dataset) == expected()


@pytest.mark.parametrize("order", ((0, 1), (1, 0)))
def test_valid_times_in_two_dimensions(order: tuple[int, int]) -> None:
    dataset = forecasts("forecast_reference_time", "forecast_period")
    valid = STARTS[:, None] + (LEADS.astype(int) * HOUR)[None]
    names = np.array(["forecast_reference_time", "forecast_period"])[list(order)].tolist()
    dataset = dataset.assign_coords(valid_time=(names, valid.transpose(order)))
    assert states(dataset) == expected()
    # Without the leads' own values, valid times and reference times still tell them.
    assert states(dataset.drop_vars("forecast_period")) == expected()


@pytest.mark.parametrize(
    ("values", "units"),
    (
        (LEADS, "hours"), (LEADS / 24, "days"), (LEADS * 60, "minutes"), ((LEADS * 3600).astype("i8"), "seconds"),
        ((LEADS * 3.6e12).astype("i8"), "nanoseconds"), (LEADS.astype("timedelta64[h]").astype("timedelta64[ns]"), ""),
    ),
)  # fmt: skip
def test_units_of_leads(values: Any, units: str) -> None:
    dataset = forecasts("time", "step").assign_coords(step=("step", values, {"units": units} if units else {}))
    assert states(dataset) == expected()


def test_one_forecast_along_its_leads() -> None:
    alone = forecasts("time", "step").isel(time=1)
    found = states(alone)
    assert found == {key: value for key, value in expected().items() if 10 <= value < 20}
    valid = STARTS[1] + LEADS.astype(int) * HOUR
    assert states(alone.assign_coords(valid_time=("step", valid))) == found


def test_one_lead_of_several_starts() -> None:
    ahead = forecasts("time", "step").isel(step=1)
    assert states(ahead) == {key: value for key, value in expected().items() if key[1] == 6}


def test_cf_times_are_valid_times() -> None:
    """A time with the standard name is valid then; forecast_period and forecast_reference_time stand beside it."""
    valid = STARTS + 6 * HOUR
    dataset = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), np.arange(3.0)[:, None, None] + np.zeros((3, 2, 2)))},
        coords={"time": ("time", valid, {"standard_name": "time"})},
    )
    by_period = dataset.assign_coords(forecast_period=((), 6, {"units": "hours", "standard_name": "forecast_period"}))
    by_start = dataset.assign_coords(
        reference=("time", STARTS, {"standard_name": "forecast_reference_time"}),
    )
    for variant in (by_period, by_start):
        (part,) = split_by_lead(variant, "a.nc")
        np.testing.assert_array_equal(part["time"], valid)
        assert part[LEAD].values.tolist() == [6, 6, 6]


def test_a_time_that_is_a_reference_time() -> None:
    dataset = forecasts("time", "step").isel(step=2)
    dataset["time"].attrs["standard_name"] = "forecast_reference_time"
    (part,) = split_by_lead(dataset, "a.nc")
    np.testing.assert_array_equal(
        part["time"].values.astype("datetime64[s]"), STARTS.astype("datetime64[s]") + 12 * HOUR
    )


def test_bounds_go_with_the_times() -> None:
    dataset = xr.Dataset(
        {"tp": (("time", "latitude", "longitude"), np.zeros((3, 2, 2))),
         "time_bnds": (("time", "nv"), np.stack([STARTS - 6 * HOUR, STARTS], axis=1))},
        coords={"time": ("time", STARTS, {"bounds": "time_bnds"})},
    )  # fmt: skip
    (part,) = split_by_lead(dataset, "a.nc")
    assert ((part[BOUND_END] - part[BOUND_START]).values / HOUR).tolist() == [6, 6, 6]


@pytest.mark.parametrize("shift", (0, 1))
def test_bounds_of_final_and_preliminary_states_are_the_same_or_none(shift: int) -> None:
    """Decoded from numbers, as files hold them."""
    ends = np.array([0.0, 6.0, 12.0])
    final = np.stack([ends - 6, ends], axis=1)
    dataset = decode_dates(
        xr.Dataset(
            {"tp": (("expver", "time", "latitude", "longitude"), np.zeros((2, 3, 2, 2))),
             "time_bnds": (("expver", "time", "nv"), np.stack([final, final - shift]))},
            coords={"time": ("time", ends, {"units": "hours since 2020-01-01", "bounds": "time_bnds"})},
        ),
        "a.nc",
    )  # fmt: skip
    (part,) = split_by_lead(dataset, "a.nc")
    assert (BOUND_START in part.coords) == (shift == 0)
    if shift == 0:
        assert ((part[BOUND_END] - part[BOUND_START]).values / HOUR).tolist() == [6, 6, 6]


def test_analyses_have_no_lead() -> None:
    dataset = xr.Dataset({"t2m": (("time", "latitude", "longitude"), np.zeros((3, 2, 2)))}, coords={"time": STARTS})
    (part,) = split_by_lead(dataset, "a.nc")
    assert LEAD not in part.coords
    np.testing.assert_array_equal(part["time"], STARTS)


def test_contradictions_and_gaps_are_refused() -> None:
    dataset = forecasts("time", "step")
    wrong = dataset.isel(step=1).assign_coords(valid_time=("time", STARTS))
    with pytest.raises(StoreError, match="a.nc: valid_time is up to 6 h away from time and its leads"):
        list(split_by_lead(wrong, "a.nc"))
    with pytest.raises(StoreError, match="a.nc: the leads step come in 'no unit'"):
        list(split_by_lead(dataset.assign_coords(step=LEADS), "a.nc"))
    with pytest.raises(StoreError, match="a.nc: the dimension step has no values"):
        list(split_by_lead(dataset.drop_vars("step"), "a.nc"))
    with pytest.raises(StoreError, match="a.nc: holds 3 leads .step. without reference or valid times"):
        list(split_by_lead(dataset.isel(time=0, drop=True), "a.nc"))
    with pytest.raises(StoreError, match="a.nc: holds 2 ensemble members along 'number'"):
        list(split_by_lead(dataset.expand_dims(number=[0, 1]), "a.nc"))
