"""What the checks say of real ERA5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kit.checks.drift import drift
from kit.data.settings import BuildSettings
from kit.data.sources.grib.scan import load_eccodes
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from tests.checks.stores import examine, of, report_of, set_values
from tests.real_data import real_data


def test_europe_lacks_variables_and_has_no_fault(tmp_path: Path) -> None:
    path = real_data("era5-europe-2020-01-01")
    statics = ("coslat", "sinlat", "coslon", "sinlon")
    build_store(BuildSettings(source="netcdf", path=path, out=tmp_path / "store", statics=statics, product="era5"))
    report = report_of(tmp_path / "store")
    assert report.passed
    assert not report.failed("warning")
    told = {check.detail for check in report.failed("info")}
    assert "Aurora reads 4 surface variables; the store lacks 2t, msl" in told
    assert "Aurora knows 13 levels; the store lacks 50, 150, 250 hPa" in told
    assert {check.name for check in report.failed("info")} == {"missing-variables", "missing-levels"}
    lacking = {check.name: check.detail for check in report.checks if check.status == "not-applicable"}
    assert lacking["hydrostatic"] == "the store lacks z, t"
    assert lacking["land-sea-mask"] == "the store lacks static_lsm"
    assert lacking.keys() >= {"dew-point", "soil-type", "static-alignment", "geography", "seam", "wind-direction"}
    assert report.as_dict()["variables"]["tp"]["accumulation_hours"] == 1
    passed = {check.name for check in report.checks if check.status == "passed"}
    assert passed >= {"running-totals", "window-values", "level-profile", "accumulation-window"}


def test_one_global_state_is_in_balance_but_no_pair(tmp_path: Path) -> None:
    """37 levels, ascending latitudes and transposed dimensions in the file; clouds have none at the top."""
    path = real_data("era5-global-tl31-1959")
    settings = {"train": "1959-01-02/1959-01-02", "statics": ("coslat", "sinlat")}
    build_store(BuildSettings.model_validate({"source": "netcdf", "path": path, "out": tmp_path / "store", **settings}))
    report = report_of(tmp_path / "store")
    assert {check.key for check in report.unresolved} == {
        "time-gaps:time", "statistics:ciwc", "statistics:clwc", "constant-in-space:ciwc", "constant-in-space:clwc",
    }  # fmt: skip
    passed = {check.name for check in report.checks if check.status == "passed"}
    assert passed >= {"hydrostatic", "unit-mistake", "range", "negative", "statistics-drift", "latitude", "longitude"}


def test_single_levels_alone_are_not_enough(tmp_path: Path) -> None:
    # By its own loader: pyproj crashes if it comes after eccodes.
    load_eccodes()
    build_store(BuildSettings(source="grib", path=real_data("era5-western-usa-2025-01"), out=tmp_path / "store"))
    report = report_of(tmp_path / "store")
    assert [check.key for check in report.unresolved] == ["variables"]
    told = {check.detail for check in report.failed("info")}
    assert "Aurora reads 5 atmospheric variables; the store lacks z, u, v, t, q" in told
    passed = {check.name for check in report.checks if check.status == "passed"}
    assert passed >= {"land-sea-mask", "soil-type", "range", "statistics-match", "grid-spacing"}


def test_shipped_statistics_that_are_off_by_seven_are_caught() -> None:
    shipped = json.loads((real_data("era5-western-usa-2025-01") / "era5_surface_stats.json").read_text())
    verdicts = {
        key: found for key, one in shipped.items() if (found := drift(key, one["mean"], one["std"])) is not None
    }
    assert {key for key, found in verdicts.items() if found.verdict != "ok"} == {"msl"}
    assert verdicts["msl"].verdict == "error"
    assert verdicts["msl"].ratio == pytest.approx(9151.2138671875 / 1332.246, rel=1e-3)
    assert "counts 6.9 times less in the loss" in verdicts["msl"].effect
    # The data have a mean of 102393 Pa: 0.8 % of zeros among them give the shipped mean and the shipped scale.
    assert "(0.8% of zeros among the values would make such a scale)" in verdicts["msl"].remedy


@pytest.mark.parametrize("hours", (1, 3, 6))
def test_real_rain_and_its_running_total(tmp_path: Path, hours: int) -> None:
    """Europe's hourly rain as it is, and as ERA5-Land would have it: since 00 UTC."""
    settings = {"step": f"{hours}h", "statics": ("coslat",), "product": "era5", "variables": ("tp", "u")}
    path = real_data("era5-europe-2020-01-01")
    build_store(BuildSettings.model_validate({"source": "netcdf", "path": path, "out": tmp_path / "store", **settings}))
    (check,) = of(report_of(tmp_path / "store"), "running-totals")
    assert check.status == "passed", check
    # A second day, whose totals begin anew at half of its length.
    rain = Store.open(tmp_path / "store").read("tp", slice(None))
    half = len(rain) // 2
    totals = np.concatenate([np.cumsum(rain[:half], axis=0), np.cumsum(rain[half:], axis=0)])
    (check,) = of(examine(tmp_path / "store", set_values("tp", ..., totals)), "running-totals")
    assert check.status == ("failed" if half > 2 else "passed"), check
