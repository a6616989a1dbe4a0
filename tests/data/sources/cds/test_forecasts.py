"""Starts and leads that are asked for: they bring each state by its shortest lead, and make up the sums before it."""

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import xarray as xr
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kit.data.sources.cds.forecasts import Forecasts, chosen_leads, of_states, of_sums
from kit.data.sources.cds.products import PRODUCTS
from kit.data.sources.leads import LEAD, WINDOW
from kit.data.sources.merging import merge
from kit.data.windows import at_step
from kit.io.errors import SettingsError

CAMS = PRODUCTS["cams"]
BEGIN = datetime(2022, 6, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)
# Rain of the hour that ends so many hours after the first of June; sums of a few are exact in single precision.
RAIN = np.random.default_rng(5).integers(1, 2**12, 40 * 24).astype(np.float64) * 2.0**-16


def since_june(moment: datetime) -> int:
    return round((moment - datetime(2022, 6, 1, tzinfo=UTC)) / HOUR)


def total(begin: datetime, end: datetime) -> float:
    return float(RAIN[since_june(begin) + 1 : since_june(end) + 1].sum())


def totals_of(forecasts: Forecasts) -> xr.DataArray:
    """What a data store sends: totals since the start, on one point."""
    ends, leads, values = [], [], []
    for start, several in forecasts.items():
        for lead in several:
            ends.append(np.datetime64((start + lead * HOUR).replace(tzinfo=None), "ns"))
            leads.append(float(lead))
            values.append(total(start, start + lead * HOUR))
    coords = {"latitude": [0.0], "longitude": [0.0], LEAD: ("time", leads), WINDOW: ("time", leads)}
    data = np.array(values)[:, None, None]
    return xr.DataArray(data, coords | {"time": ends}, ("time", "latitude", "longitude"), name="tp")


@settings(max_examples=300, deadline=None)
@given(
    first=st.integers(0, 30),
    length=st.integers(0, 36),
    begin=st.integers(0, 30),
    count=st.integers(1, 9),
    step=st.sampled_from((1, 2, 3, 4, 6, 12, 24)),
)
def test_states_and_sums(first: int, length: int, begin: int, count: int, step: int) -> None:
    leads = chosen_leads(CAMS, (first, first + length), on_levels=False)
    reached = {(hour + lead) % 24 for hour in CAMS.hours for lead in leads}
    hours = [BEGIN + (begin + index) * HOUR for index in range(count * step)]
    times = [hour for hour in hours if hour.hour % step == 0 and hour.hour in reached]
    states = of_states(times, CAMS.hours, leads)
    found = {start + lead * HOUR: lead for start, several in states.items() for lead in several}
    assert sorted(found) == times
    assert all(start.hour in (0, 12) for start in states)
    for moment, lead in found.items():
        others = [other for other in leads if (moment - other * HOUR).hour in CAMS.hours]
        assert lead == min(others)
    try:
        sums = of_sums(times, CAMS.hours, leads, step, "tp")
    except SettingsError as error:
        event("refused")
        # Sequences from the start of each forecast to the next hold every hour.
        holds_all = first == 0 and length >= 12
        is_understood = str(error).startswith("tp: totals at leads from")
        assert (is_understood, holds_all) == (True, False)
        return
    if len(times) < 2 or any(later - time != step * HOUR for time, later in itertools.pairwise(times)):
        return
    event("compared")
    notes: list[str] = []
    field = merge({"tp": [("a.grib", totals_of(sums))]}, notes.append, (first, first + length), step)["tp"]
    field = at_step(field, accumulated=True, hours=step, note=notes.append)
    held = field["time"].values.astype("datetime64[s]").tolist()
    for moment in times:
        value = field.values[held.index(moment.replace(tzinfo=None)), 0, 0]
        assert value == np.float32(total(moment - step * HOUR, moment))
