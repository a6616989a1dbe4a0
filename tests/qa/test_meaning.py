"""Checks of what values mean: units, physics, statistics, periods, what a variant reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.qa.expected import LEVELS, Expected, published
from kit.qa.training import drift
from tests.factories import synthetic_dataset, write_synthetic
from tests.qa.stores import (
    Edit,
    add,
    dry_above,
    examine,
    failed,
    of,
    remove,
    replace,
    report_of,
    rewrite,
    set_values,
    split,
    state,
    statistics,
)  # fmt: skip

LATITUDE = 90 - (np.arange(16) + 0.5) * 180 / 16
COSINE = np.broadcast_to(np.cos(np.deg2rad(LATITUDE))[:, None], (16, 32))


def _copy(source: str, target: str) -> Edit:
    def edit(group: Any, path: Path) -> None:
        group[target][...] = group[source][...]

    return edit


def _pressure(group: Any, path: Path) -> None:
    """Surface pressure that follows the orography, and an orography that is upside down."""
    ground = np.asarray(group["static_z"][...]) * np.linspace(1.2, 0, 16)[:, None] ** 6
    add("sp", np.broadcast_to(101000 * np.exp(-ground / 80000), (12, 16, 32)) + np.arange(12.0)[:, None, None])(
        group, path
    )
    group["static_z"][...] = ground[::-1]


FURTHER: tuple[tuple[str, Edit, str | None, str, str], ...] = (
    ("missing-variables", remove("10v", "msl"), None, "info", r"reads 4 surface variables; the store lacks 10v, msl$"),
    ("missing-levels", rewrite("level", [100.0, 500.0, 870.0], ("level",)), "level", "info", r"870 hPa: upstream pub"),
    ("time-step", replace("time", lambda v: v[0] + (v - v[0]) * 7 // 6), "time", "warning", r"every 7 h, which does"),
    ("accumulation-window", state("tp", "accumulation_hours", None), "tp", "warning", r"does not say over how many"),
    ("accumulation-window", state("tp", "accumulation_hours", 1), "tp", "warning", r"over 1 h, .* 6 h: what fell"),
    ("accumulation-window", state("tp", "accumulation_hours", 24), "tp", "warning", r"windows overlap"),
    ("model-levels", replace("level", lambda _: [96.0, 97.0, 98.0]), "level", "error", r"96 to 98 in steps of 1"),
    (
        "static-coordinates",
        add("static_coslat", COSINE.T.reshape(16, 32)),
        "static_coslat",
        "error",
        r"its latitudes by",
    ),
    ("static-coordinates", add("static_sinlat", COSINE), "static_sinlat", "error", r"its latitudes by up to 1.41"),
    ("negative", set_values("tp", (0, 0, 0), -0.01), "tp", "error", r"1 of 6144 values below zero, down to -0.01"),
    (
        "negative",
        set_values("q", (0, 1, 2, 3), -5e-4),
        "q",
        "error",
        r"below zero, down to -0.0005 .*500 hPa, 61.875 N",
    ),
    ("outliers", set_values("msl", (5, 3, 4), 125000.0), "msl", "warning", r"1 of 6144 values far .* 2020-01-02T06:00"),
    ("jumps", set_values("10u", 7, 40.0), "10u", "warning", r"the mean of 1 of 12 states .* first 2020-01-02T18:00"),
    ("zeros", set_values("msl", (slice(None), slice(0, 2)), 0.0), "msl", "warning", r"768 of 6144 values \(12.5%\)"),
    ("duplicate-variables", _copy("10u", "10v"), "10v", "warning", r"has the mean of 10u in every state"),
    ("units-attribute", state("2t", "units", "degC"), "2t", "error", r"unit 'degC', and 'K' is expected"),
    ("unit-mistake", replace("2t", lambda v: v - 273.15), "2t", "error", r"degrees Celsius for kelvin"),
    ("unit-mistake", replace("msl", lambda v: v / 100), "msl", "error", r"hPa for Pa"),
    (
        "unit-mistake",
        replace("msl", lambda v: v / np.where(np.arange(12) < 5, 1, 100)[:, None, None]),
        "msl",
        "error",
        r"7 of 12 states from 2020-01-02T06:00 on: hPa for Pa",
    ),
    ("unit-mistake", replace("msl", lambda v: v / 1000), "msl", "error", r"kPa for Pa"),
    ("unit-mistake", replace("z", lambda v: v / 9.80665), "z", "error", r"0.102 times .*: geopotential height in m$"),
    ("unit-mistake", replace("z", lambda v: v / 98.0665), "z", "error", r"geopotential height in dam$"),
    ("unit-mistake", replace("static_z", lambda v: v / 9.80665), "static_z", "error", r"metres for m2 s-2"),
    ("unit-mistake", replace("tp", lambda v: v * 1000), "tp", "error", r"mm for m"),
    ("unit-mistake", replace("q", lambda v: v * 1000), "q", "error", r"g/kg for kg/kg"),
    ("unit-mistake", replace("static_lsm", lambda v: v * 100), "static_lsm", "error", r"percent for a share"),
    ("unit-mistake", add("ssrd", 300 * np.random.default_rng(0).random((12, 16, 32))), "ssrd", "error", r"W m-2 for J"),
    ("hydrostatic", replace("z", lambda v: v / 9.80665), "z", "error", r"the thickness from z is 0.0\d* times"),
    ("hydrostatic", replace("z", lambda v: np.flip(v, axis=1)), "z", "error", r"the thickness from z is -\S* times"),
    ("hydrostatic", replace("level", lambda _: [300.0, 400.0, 925.0]), "z", "error", r"between \d+ and \d+ hPa"),
    ("hydrostatic", replace("t", lambda v: v + 25), "z", "warning", r"the thickness from z is 0.8\d* times"),
    (
        "dew-point",
        add("2d", np.full((12, 16, 32), 290.0) + np.arange(12.0)[:, None, None]),
        "2d",
        "warning",
        r"above 2t",
    ),
    ("land-sea-mask", set_values("static_lsm", (0, 0), 100), "static_lsm", "error", r"spans 0 to 100; shares of land"),
    ("land-sea-mask", replace("static_lsm", lambda v: 1 - v), "static_lsm", "error", r"100% of the highest ground"),
    ("soil-type", replace("static_slt", lambda v: 2 - v), "static_slt", "warning", r"100% of points static_slt contra"),
    (
        "static-alignment",
        _pressure,
        "static_z",
        "error",
        r"mean of sp, north and south are exchanged: correlation -1.0",
    ),
    ("splits", split(valid="2020-01-02T00/2020-01-03T00"), None, "error", r"^train .* and valid .* overlap$"),
    ("splits", split(test="2020-01-02T18/2020-01-03T12"), None, "warning", r"^valid .* and test .* overlap$"),
    ("splits", split(test="2021-01-01/2021-02-01"), None, "error", r"^test .* holds no state$"),
    ("splits", split(test="yesterday"), None, "error", r"^test: expected START/END"),
    (
        "statistics-match",
        statistics(lambda v: v["2t"].update(mean=290)),
        "2t",
        "error",
        r"2t: mean 290 recorded, 2\d\d",
    ),
    (
        "statistics-match",
        statistics(lambda v: v["u_500"].update(std=20)),
        "u",
        "error",
        r"u_500: scale 20 recorded, \d",
    ),
    (
        "statistics-drift",
        statistics(lambda v: v["msl"].update(std=9151.2)),
        "msl",
        "error",
        r"^msl: .* 6.87 times as w",
    ),
    (
        "statistics-drift",
        statistics(lambda v: v["t_500"].update(mean=-20)),
        "t",
        "error",
        r"^t_500: .* 20.9 scales awa",
    ),
    ("statistics-drift", statistics(lambda v: v["10u"].update(mean=25)), "10u", "warning", r"^10u: .* 4.5 scales away"),
)


@pytest.mark.parametrize(
    ("name", "edit", "variable", "severity", "detail"),
    FURTHER,
    ids=[f"{i}-{case[0]}" for i, case in enumerate(FURTHER)],
)
def test_fires(path: Path, name: str, edit: Edit, variable: str | None, severity: str, detail: str) -> None:
    report = examine(path, edit)
    there = [check for check in failed(report, name) if check.variable == variable]
    found = [check for check in there if re.search(detail, check.detail)]
    assert len(found) == 1, there
    assert found[0].severity == severity
    assert found[0].remedy
    assert severity != "error" or not report.passed


SILENT: tuple[tuple[str, Edit], ...] = (
    ("model-levels", rewrite("level", [1.0, 2.0, 5.0], ("level",))),
    ("model-levels", rewrite("level", [1.0, 2.0, 3.5], ("level",))),
    ("static-coordinates", add("static_coslat", COSINE)),
    ("negative", set_values("q", (0, 1, 2, 3), -5e-5)),
    ("negative", set_values("tp", (0, 0, 0), -1e-7)),
    ("outliers", set_values("tp", (5, 3, 4), 0.02)),
    ("jumps", set_values("10u", (7, slice(0, 2)), 8.0)),
    ("zeros", set_values("tp", (slice(None), slice(0, 8)), 0.0)),
    ("units-attribute", state("z", "units", "m**2 s**-2")),
    ("unit-mistake", replace("2t", lambda v: v - 60)),
    ("unit-mistake", set_values("msl", ..., 90000.0)),
    ("hydrostatic", remove("t")),
    ("hydrostatic", replace("t", lambda v: v + 5)),
    ("dew-point", add("2d", np.full((12, 16, 32), 240.0))),
    ("land-sea-mask", remove("static_z")),
    ("soil-type", set_values("static_slt", (0, slice(0, 20)), 1.0)),
    ("static-alignment", add("sp", np.random.default_rng(0).normal(98000, 500, (12, 16, 32)))),
    ("splits", split(valid="2020-01-02T18/2020-01-02T18")),
    ("statistics-match", statistics(lambda v: v["2t"].update(mean=v["2t"]["mean"] * (1 + 1e-6)))),
    ("statistics-drift", statistics(lambda v: v["2t"].update(mean=225.0, std=2.0))),
    ("accumulation-window", state("2t", "accumulation_hours", 1)),
    ("missing-variables", add("2d", np.full((12, 16, 32), 270.0))),
)
"""What looks like a fault and is none: extreme regions, noise of packing, names of units, two wet grid points."""


@pytest.mark.parametrize(("name", "edit"), SILENT, ids=[f"{i}-{case[0]}" for i, case in enumerate(SILENT)])
def test_stays_silent(path: Path, name: str, edit: Edit) -> None:
    (check,) = of(examine(path, edit), name)
    assert check.status == "passed", check


@pytest.mark.parametrize(
    ("variant", "name", "severity", "detail"),
    (
        (Expected("small", step_hours=6), "time-step", None, ""),
        (Expected("12h", step_hours=12), "time-step", None, ""),
        (Expected("odd", step_hours=9), "time-step", "error", r"every 6 h, and variant odd steps 9 h: no pair fits"),
        (Expected("v1p5", step_hours=6, window_hours=1), "accumulation-window", "error", r"over 6 h, but variant v1p5"),
        (Expected("wave", surface=("2t", "pp1d")), "missing-variables", "warning", r"variant wave .* lacks pp1d"),
        (Expected("small"), "missing-levels", "warning", r"knows 13 levels; the store lacks 50, 150"),
        (Expected("few", levels=(100, 500, 850)), "missing-levels", None, ""),
    ),
)
def test_what_a_variant_reads(pristine: Path, variant: Expected, name: str, severity: str | None, detail: str) -> None:
    (check,) = of(report_of(pristine, variant), name)
    assert check.status == ("passed" if severity is None else "failed")
    assert severity is None or check.severity == severity
    assert re.search(detail, check.detail)


def test_all_of_auroras_levels_are_enough(tmp_path: Path) -> None:
    dataset = synthetic_dataset(levels=LEVELS, times=4)
    write_synthetic(dataset.assign(q=dry_above(dataset["q"])), tmp_path / "store")
    assert {check.status for check in report_of(tmp_path / "store").checks} == {"passed"}


def test_no_variable_is_held_against_statistics_that_upstream_does_not_publish() -> None:
    assert drift("mystery", 1e9, 1e9) is None
    assert drift("2t", np.nan, 1.0) is None
    severity, text, shift, ratio = drift("msl", 101620.234375, 9151.2138671875) or ("", "", 0, 0)
    assert (severity, round(shift, 2), round(ratio, 2)) == ("error", 0.5, 6.87)
    assert "upstream has 100958 and 1332.25" in text


def test_what_upstream_publishes_is_what_the_installed_package_has() -> None:
    from aurora import normalisation

    assert published() == {key: (normalisation.locations[key], normalisation.scales[key]) for key in published()}
    assert set(published()) == set(normalisation.locations)


def test_longitudes_of_another_order_are_seen_in_the_statics(tmp_path: Path) -> None:
    """The orography of a source that begins at 180 W, beside a surface pressure that begins at Greenwich."""
    dataset = synthetic_dataset(surface=("sp", "2t"), times=4)
    peak = np.exp(-((np.arange(32) - 8) ** 2) / 8)[None] * np.sin(np.linspace(0, np.pi, 16))[:, None]
    dataset["static_z"] = (("latitude", "longitude"), (50000 * np.roll(peak, 16, axis=1)).astype(np.float32))
    dataset["sp"] = dataset["sp"] - np.float32(40000) * peak.astype(np.float32)
    dataset["sp"] = dataset["sp"].astype(np.float32)
    write_synthetic(dataset, tmp_path / "store")
    (found,) = failed(report_of(tmp_path / "store"), "static-alignment")
    assert "half the circle off in longitude" in found.detail
