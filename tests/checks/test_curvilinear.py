"""Checks of a store whose coordinates are matrices."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.run.quality import quality_of
from tests.checks.stores import Edit, dry_above, examine, of, replace, report_of, rewrite, set_values
from tests.factories import synthetic_dataset, write_synthetic


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = synthetic_dataset(curvilinear=True, static=("lsm", "slt", "z", "coslat", "sinlon"))
    dataset["q"] = dry_above(dataset["q"])
    for name, values in (("coslat", np.cos(np.deg2rad(dataset["latitude"]))), ("sinlon", _sine(dataset))):
        dataset[f"static_{name}"] = values.astype(np.float32)
    return write_synthetic(dataset, tmp_path_factory.mktemp("qa") / "store").path


def _sine(dataset: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(np.sin(np.deg2rad(dataset["longitude"])))


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def test_a_sound_store_passes(sound: Path) -> None:
    report = report_of(sound)
    assert report.passed
    assert [check.name for check in report.checks if check.status == "failed"] == ["missing-levels"]


@pytest.mark.parametrize(
    ("name", "edit", "variable", "detail"),
    [
        ("latitude", replace("latitude", np.flipud), "latitude", r"decreasing along every column at 480 of 480 steps"),
        ("longitude", replace("longitude", np.fliplr), "longitude", r"increasing along every row at 496 of 496 steps"),
        ("longitude", set_values("longitude", (0, 31), 361.0), "longitude", r"1 of 512 values outside \[0, 360\)"),
        ("layout", rewrite("latitude", np.zeros((16, 31)), ("y", "x")), "latitude", r"shapes are latitude \(16, 31\)"),
        ("layout", rewrite("2t", np.zeros((12, 16, 31)), ("time", "y", "x")), "2t", r"have \(12, 16, 32\)"),
        ("layout", rewrite("2t", np.zeros((12, 16, 32)), ("time", "a", "b")), "2t", r"expected time, y, x"),
        ("static-coordinates", replace("static_coslat", np.flipud), "static_coslat", r"differs from its latitudes"),
        ("nan", set_values("2t", (3, 2, 5), np.nan), "2t", r"2020-01-01T18:00, 42\.78\d+ N, 249\.6\d+ E"),
    ],
)  # fmt: skip
def test_fires(path: Path, name: str, edit: Edit, variable: str, detail: str) -> None:
    failed = [check for check in of(examine(path, edit), name) if check.status == "failed"]
    assert any(check.variable == variable and re.search(detail, check.detail) for check in failed), failed


def test_a_hole_in_the_grid_is_found(tmp_path: Path) -> None:
    dataset = synthetic_dataset(curvilinear=True, times=6)
    write_synthetic(dataset.isel(y=[*range(5), *range(6, 16)]), tmp_path / "store")
    (check,) = of(report_of(tmp_path / "store"), "grid-spacing")
    assert (check.status, check.severity, check.variable) == ("failed", "warning", "y")
    assert re.search(r"jumps at 2 of 13 places, first from 99\.8 to 200 km at 4", check.detail)


def test_where_something_is_and_how_it_looks(path: Path) -> None:
    report = examine(path, set_values("2t", (3, 2, 5), np.nan))
    (check,) = (check for check in of(report, "nan") if check.status == "failed")
    point = synthetic_dataset(curvilinear=True, times=1).isel(y=2, x=5)
    assert check.evidence["latitude"] == [float(point["latitude"])] * 2
    assert check.evidence["longitude"] == [float(point["longitude"])] * 2
    found = quality_of(path)
    assert found.facts["grid"].startswith("16 x 32 points")
    assert "2t" in found.pictures
