"""What is asked of the data stores; expected requests are written as the data sets' forms show them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kit.data.settings import Period
from kit.data.source_names import find
from kit.data.sources.base import Request
from kit.data.sources.cds.products import PRODUCTS, product_of, request_name
from kit.data.sources.cds.requests import MOST_BYTES, MOST_FIELDS, Planned, plan, select
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE
from kit.io.errors import SettingsError
from tests.data_stores import moments

FIELD_025 = 2 * 721 * 1440 + 200
"""Bytes of one global field at 0.25 degrees: 16 bits for each value, and a header."""


def requests(
    path: str = "era5", times: str = "2020-01-01/2020-01-01T18", statics: str = "", **options: Any
) -> tuple[Planned, ...]:
    given: dict[str, Any] = {"variables": frozenset({"2t"}), "step": 6} | options
    names = frozenset(f"static_{name}" for name in statics.split())
    return plan(select(path, Request(times=Period.parse(times), statics=names, **given)))


def test_surface_levels_and_statics_go_to_their_data_sets() -> None:
    static, surface, levels = requests(
        variables=frozenset({"2t", "msl", "z", "t"}), levels=(850.0, 500.0), statics="z slt_3 coslat"
    )
    common: dict[str, Any] = {"product_type": ["reanalysis"], "year": ["2020"], "month": ["01"], "day": ["01"]}
    common |= {"data_format": "grib", "download_format": "unarchived"}
    hours = {"time": ["00:00", "06:00", "12:00", "18:00"]}
    assert static.dataset == surface.dataset == "reanalysis-era5-single-levels"
    assert static.inputs == {**common, "time": ["00:00"], "variable": ["soil_type", "geopotential"]}
    assert surface.inputs == {**common, **hours, "variable": ["2m_temperature", "mean_sea_level_pressure"]}
    assert levels.dataset == "reanalysis-era5-pressure-levels"
    chosen = {"variable": ["temperature", "geopotential"], "pressure_level": ["500", "850"]}
    assert levels.inputs == {**common, **hours, **chosen}
    assert [one.fields for one in (static, surface, levels)] == [2, 8, 16]
    assert levels.size == 16 * FIELD_025


def test_every_hour_of_what_accumulates_and_no_other() -> None:
    first, second, before, during, after = requests(times="2020-01-01/2020-01-02", variables=frozenset({"tp", "2t"}))
    assert [first.inputs["variable"], before.inputs["variable"]] == [["2m_temperature"], ["total_precipitation"]]
    assert (first.inputs["day"], first.inputs["time"][-1]) == (["01"], "18:00")
    assert (second.inputs["day"], second.inputs["time"]) == (["02"], ["00:00"])
    # The six hours that end at 00 UTC of the first of January.
    assert (before.inputs["year"], before.inputs["day"]) == (["2019"], ["31"])
    assert before.inputs["time"] == ["19:00", "20:00", "21:00", "22:00", "23:00"]
    assert during.inputs["time"] == [f"{hour:02d}:00" for hour in range(24)]
    assert (after.inputs["day"], after.inputs["time"]) == (["02"], ["00:00"])


def test_at_the_hourly_step_of_the_data_all_go_together() -> None:
    (only,) = requests(variables=frozenset({"tp", "2t"}), step=None)
    assert only.inputs["variable"] == ["2m_temperature", "total_precipitation"]
    assert only.fields == 2 * 19


def test_the_beginning_of_each_forecast_of_cams() -> None:
    surface, levels = requests(
        "cams", "2022-06-11/2022-06-12T12", variables=frozenset({"pm2p5", "go3"}), levels=(1000.0,), step=12
    )
    common: dict[str, Any] = {"date": ["2022-06-11/2022-06-12"], "time": ["00:00", "12:00"], "type": ["forecast"]}
    common |= {"leadtime_hour": ["0"], "data_format": "grib"}
    assert surface.dataset == levels.dataset == "cams-global-atmospheric-composition-forecasts"
    assert surface.inputs == {**common, "variable": ["particulate_matter_2.5um"]}
    assert levels.inputs == {**common, "variable": ["ozone"], "pressure_level": ["1000"]}
    # 451 x 900 points at 0.4 degrees.
    assert surface.size == 4 * (2 * 451 * 900 + 200)


def leads_of(planned: Planned) -> tuple[str, list[str], list[str]]:
    return planned.inputs["date"][0], planned.inputs["time"], planned.inputs["leadtime_hour"]


def test_a_single_lead_of_cams() -> None:
    given: dict[str, Any] = {"variables": frozenset({"pm10", "go3"}), "levels": (850.0,), "leads": (6.0, 6.0)}
    static, surface, levels = requests("cams", "2022-06-11/2022-06-12T23", "z", step=None, **given)
    # Valid at 06 and 18 UTC, from the forecasts of 00 and 12 UTC; static fields come with their beginning.
    assert leads_of(static) == ("2022-06-11/2022-06-11", ["00:00"], ["0"])
    assert leads_of(surface) == leads_of(levels) == ("2022-06-11/2022-06-12", ["00:00", "12:00"], ["6"])
    assert levels.fields == 4
    # A step counts from midnight, or from the first time where no time lies on such a step.
    assert requests("cams", "2022-06-11/2022-06-12T23", "z", step=12, **given) == (static, surface, levels)


def test_a_sequence_of_leads_of_cams_takes_the_shortest() -> None:
    given: dict[str, Any] = {"variables": frozenset({"go3"}), "levels": (850.0,), "leads": (0.0, 12.0)}
    planned = requests("cams", "2022-06-11T06/2022-06-12T15", step=3, **given)
    # 06 and 09 UTC from the forecast of 00 UTC, each time after that from the forecast that began last.
    assert [leads_of(one) for one in planned] == [
        ("2022-06-11/2022-06-11", ["00:00"], ["6", "9"]),
        ("2022-06-11/2022-06-11", ["12:00"], ["0", "3", "6", "9"]),
        ("2022-06-12/2022-06-12", ["00:00"], ["0", "3", "6", "9"]),
        ("2022-06-12/2022-06-12", ["12:00"], ["0", "3"]),
    ]
    assert [one.fields for one in planned] == [2, 4, 4, 2]
    # Months of whole days go together.
    months = requests("cams", "2022-06-01/2022-07-31T21", step=3, **given)
    assert [leads_of(one)[0] for one in months] == ["2022-06-01/2022-06-30", "2022-07-01/2022-07-31"]


def test_totals_since_the_start_are_asked_for_where_sums_begin_and_end() -> None:
    given: dict[str, Any] = {"variables": frozenset({"tp"}), "leads": (0.0, 12.0)}
    # Six hours before 06 UTC are a total as it stands, those before 12 UTC a difference.
    (six,) = requests("cams", "2022-06-11T06/2022-06-11T12", step=6, **given)
    assert leads_of(six) == ("2022-06-11/2022-06-11", ["00:00"], ["6", "12"])
    # A day is made of two forecasts of twelve hours.
    (day,) = requests("cams", "2022-06-12/2022-06-12", step=24, **given)
    assert leads_of(day) == ("2022-06-11/2022-06-11", ["00:00", "12:00"], ["12"])
    # Without a step, sums of the hours between two leads.
    (hourly,) = requests("cams", "2022-06-11T01/2022-06-11T03", step=None, **given)
    assert leads_of(hourly) == ("2022-06-11/2022-06-11", ["00:00"], ["1", "2", "3"])
    # Of a single lead, all of it.
    singles = requests("cams", "2022-06-11/2022-06-11T12", step=None, **given | {"leads": (12.0, 12.0)})
    assert [leads_of(one) for one in singles] == [
        ("2022-06-10/2022-06-10", ["12:00"], ["12"]),
        ("2022-06-11/2022-06-11", ["00:00"], ["12"]),
    ]


@pytest.mark.parametrize(
    ("region", "area"),
    [
        ((51.1, 4.9, 50.0, 6.0), [51.25, 4.75, 50.0, 6.0]),
        # Across Greenwich, and across the date line: west in [-180, 180), east beyond it.
        ((51.0, 355.0, 50.0, 5.0), [51.0, -5.0, 50.0, 5.0]),
        ((10.0, 170.0, -10.0, -170.0), [10.0, 170.0, -10.0, 190.0]),
        # All around: the last column is the one before the first.
        ((20.0, 0.0, -20.0, 360.0), [20.0, 0.0, -20.0, 359.75]),
        ((95.0, 0.0, 89.9, 1.0), [90.0, 0.0, 89.75, 1.0]),
    ],
)
def test_a_region_is_widened_to_the_grid(region: Any, area: list[float]) -> None:
    (only,) = requests(region=region)
    assert only.inputs["area"] == area
    points = (round((area[0] - area[2]) / 0.25) + 1) * (round((area[3] - area[1]) / 0.25) + 1)
    assert only.size == 4 * (2 * points + 200)


def test_a_year_at_a_quarter_degree_is_split_by_month_and_by_size() -> None:
    planned = requests(
        times="2020-01-01/2020-12-31T18", variables=None, statics="z lsm slt", levels=tuple(range(100, 1400, 100))
    )
    # 366 days of 4 states; 4 fields at the surface and 65 on levels; 3 static.
    assert sum(one.fields for one in planned) == 366 * 4 * 69 + 3
    assert sum(one.size for one in planned) == (366 * 4 * 69 + 3) * FIELD_025
    assert max(one.fields for one in planned) <= MOST_FIELDS
    assert max(one.size for one in planned) <= MOST_BYTES
    surface = [one for one in planned[1:] if one.dataset == "reanalysis-era5-single-levels"]
    assert len(surface) == 12
    # 8060 fields of 2.08 MB in a month of 31 days: 16.7 GB, in 5 parts of 6 or 7 days.
    january = [one for one in planned if one.inputs.get("pressure_level") and one.inputs["month"] == ["01"]]
    assert [len(one.inputs["day"]) for one in january] == [6, 6, 7, 6, 6]
    asked = [moment for one in planned if one.inputs.get("pressure_level") for moment in moments(one.inputs)]
    assert len(asked) == len(set(asked)) == 366 * 4
    assert len({one.digest for one in planned}) == len(planned)


def test_a_day_that_is_too_large_is_split_by_hours() -> None:
    planned = requests(times="2020-01-01/2020-01-01T23", variables=frozenset({"t", "u", "v"}), step=None,
                       levels=tuple(range(10, 1010, 10)))  # fmt: skip
    # 300 fields an hour: at most 6 hours of 0.6 GB in 4 GB.
    assert [len(one.inputs["time"]) for one in planned] == [6, 6, 6, 6]


def test_states_every_two_days() -> None:
    (era5,) = requests(times="2020-01-01/2020-01-08", step=48)
    # Whole steps since 1970: 18262 days lie before 2020, an even number.
    assert era5.inputs["day"] == ["01", "03", "05", "07"]
    # What writes days as a range cannot leave any out.
    cams = requests("cams-eac4", "2020-01-01/2020-01-08", step=48)
    assert [one.inputs["date"] for one in cams] == [[f"2020-01-0{day}/2020-01-0{day}"] for day in (1, 3, 5, 7)]


def test_the_same_request_has_the_same_digest_whatever_the_order() -> None:
    (one,), (other,) = requests(variables=frozenset({"2t", "msl"})), requests(variables=frozenset({"msl", "2t"}))
    assert one.digest == other.digest
    turned = Planned(one.dataset, dict(reversed(one.inputs.items())), one.fields, one.size)
    assert turned.digest == one.digest
    assert json.loads(json.dumps(one.inputs)) == one.inputs


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("ERA 5", {}, "wants era5, era5-land, cams, cams-eac4, or the name of a data set"),
        ("era5", {"times": None}, "--times START/END is needed"),
        ("era5", {"variables": frozenset({"2t", "nonsense"})}, "nonsense is not in the kit's table"),
        ("era5", {"levels": (500.0,)}, "--levels 500 has no effect"),
        ("era5", {"variables": frozenset({"swh", "2t"})}, "swh come on the grid of ERA5's wave model .*2t on that"),
        ("era5-land", {"variables": frozenset({"t"})}, "era5-land has no variables on pressure levels, and t is one"),
        ("era5-land", {"statics": frozenset({"static_lsm"})}, "variable lsm is none that era5-land can be asked"),
        ("era5", {"statics": frozenset({"static_lat_mask"})}, "variable lat_mask is none that era5 can be asked"),
        ("era5", {"statics": frozenset({"static_x"})}, "static variable x is none that era5 can be asked"),
        ("era5-land", {"statics": None}, "era5-land needs --statics: it holds none by itself"),
        ("cams", {}, "--step 6h: cams has states every 12 h"),
        ("cams", {"times": "2022-01-01T01/2022-01-01T11", "step": 12}, "no state there at a step of 12 h; it has"),
        ("reanalysis-era5-pressure-levels", {}, "has no variables without pressure levels, and 2t is one"),
        ("reanalysis-cerra-single-levels", {"variables": None}, "needs --variables"),
        ("era5", {"leads": (6.0, 6.0)}, "--lead 6h has no effect: era5 is asked for analyses"),
        ("cams-eac4", {"leads": (0.0, 12.0)}, "--lead 0h/12h has no effect: cams-eac4 is asked for analyses"),
        ("cams", {"leads": (1.5, 1.5)}, "--lead 1.5h: cams has leads every 1 h at the surface, from 0 to 120 h"),
        ("cams", {"leads": (0.0, 121.0)}, "from 0 to 120 h"),
        ("cams", {"leads": (4.0, 5.0), "variables": frozenset({"t"})}, "leads every 3 h on levels"),
        ("cams", {"variables": frozenset({"tp"}), "step": 12}, "no tp that add up: nothing has .*--lead 0h/12h, or"),
        ("cams", {"variables": frozenset({"tp"}), "leads": (6.0, 6.0), "step": 12, "times": "2020-01-01/2020-01-03"},
         "tp: totals at leads from 6 to 6 h do not make up the 12 h before 2020-01-01T06; .*--lead 0h/12h"),
        ("cams", {"variables": frozenset({"tp"}), "leads": (6.0, 18.0), "step": 3}, "do not make up the 3 h before"),
        ("cams", {"variables": frozenset({"tp"}), "leads": (6.0, 18.0), "step": None}, "not make up the 1 h before"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(path: str, options: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {"times": "2020-01-01/2020-01-02", "variables": frozenset({"2t"}), "step": 6} | options
    given["times"] = Period.parse(given["times"]) if given["times"] else None
    with pytest.raises(SettingsError, match=expected):
        select(path, Request(**{"statics": frozenset(), **given}))


def test_statics_of_a_file_are_not_asked_for() -> None:
    names = frozenset({"static_z", "static_static_ammonia", "static_lat_mask"})
    request = Request(frozenset({"pm1"}), names, Period.parse("2022-01-01/2022-01-01"), statics_elsewhere=True)
    assert select("cams", request).statics == ("z",)
    assert select("cams", replace(request, statics=None)).statics == ("z", "lsm")


def test_names_in_requests_are_those_of_the_table() -> None:
    named = [SURFACE[name] for name in SURFACE] + [ATMOSPHERIC[name] for name in ATMOSPHERIC]
    named += [STATIC[name] for name in ("z", "lsm", "slt", "anor", "sdfor", "cl", "dl", "wmb")]
    for variable in named:
        asked = request_name(variable, PRODUCTS["era5"])
        assert find(asked, on_levels=variable.kind == "atmospheric") in (variable, ATMOSPHERIC.get("o3")), asked
    for name, expected in {
        "ci": "sea_ice_cover", "ro": "runoff", "ssrd": "surface_solar_radiation_downwards", "e": "evaporation",
        "swh1": "significant_wave_height_of_first_swell_partition", "tc_no": "total_column_nitrogen_monoxide",
    }.items():  # fmt: skip
        assert request_name(SURFACE[name], PRODUCTS["era5"]) == expected
    assert request_name(STATIC["z"], PRODUCTS["cams"]) == "surface_geopotential"


def test_one_data_set_of_a_product_and_a_data_set_that_the_kit_does_not_know() -> None:
    surface = product_of("reanalysis-era5-single-levels")
    assert surface.variables == ("2t", "10u", "10v", "msl")
    assert (surface.levels, surface.extra) == ("", {"product_type": ["reanalysis"]})
    assert product_of("reanalysis-era5-pressure-levels").statics == ()
    assert product_of("cams-europe-air-quality-reanalyses").store == "ADS"
    other = product_of("reanalysis-cerra-single-levels")
    assert (other.store, other.extra, other.credit.split(";")[0]) == ("CDS", {}, f"see the page of {other.name}")
