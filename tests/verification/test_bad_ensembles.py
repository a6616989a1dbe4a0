"""Ensembles that cannot be scored or drawn: one message, exit code 2, and nothing left behind."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.cli import main as cli
from tests.everyday import one_in
from tests.verification.forecasts import Forecast, ensemble_for
from tests.verification.test_bad_forecast_files import lose_a_chunk, spoil_a_chunk, spoil_the_metadata
from tests.verification.test_grib_forecasts import messages, written

Case = Callable[[Forecast, Path], list[str]]
"""Function that makes a bad input in a folder, and returns the command with arguments that name it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    chosen: dict[str, Any] = {"surface": ("2t", "tp"), "atmospheric": (), "times": 8, "height": 8, "width": 16}
    return ensemble_for(tmp_path_factory.mktemp("bad"), members=2, **chosen)


def file_of(dataset: xr.Dataset, folder: Path, *arguments: str) -> list[str]:
    dataset.to_netcdf(folder / "f.nc")
    return ["evaluate", "--forecast_file", str(folder / "f.nc"), *arguments]


def changed(change: Callable[[xr.Dataset], xr.Dataset], *arguments: str) -> Case:
    """Change an ensemble in WeatherBench 2's layout."""
    return lambda made, folder: file_of(change(made.weatherbench()), folder, *arguments)


def unchanged(*arguments: str) -> Case:
    return lambda made, folder: file_of(made.weatherbench(), folder, *arguments)


def zarr_with(damage: Callable[[Path], None]) -> Case:
    def case(made: Forecast, folder: Path) -> list[str]:
        damage(made.own(folder / "own.zarr"))
        return ["evaluate", "--forecast_file", str(folder / "own.zarr")]

    return case


def grib_of(content: Callable[[Forecast], bytes], *arguments: str) -> Case:
    def case(made: Forecast, folder: Path) -> list[str]:
        file = written(folder / "f.grib2", iter([content(made)]))
        return ["evaluate", "--forecast_file", str(file), *arguments]

    return case


def whole(made: Forecast) -> bytes:
    return b"".join(content for member in range(2) for content in messages(made, member))


def with_a_hole(made: Forecast) -> bytes:
    return b"".join([*messages(made, 0), *list(messages(made, 1))[:-1]])


def curvilinear(dataset: xr.Dataset) -> xr.Dataset:
    latitude, longitude = np.meshgrid(dataset["latitude"], dataset["longitude"])
    bent = dataset.drop_vars(["latitude", "longitude"]).rename(latitude="x", longitude="y")
    points = {"latitude": (("y", "x"), latitude + longitude / 100 - 2), "longitude": (("y", "x"), longitude)}
    return bent.assign_coords(points)


def drawn(*arguments: str) -> Case:
    return lambda made, folder: ["plot", "--forecast_file", str(made.own(folder / "own.nc")), *arguments]


def halved(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(latitude=slice(0, None, 2))


REGRID = ("--regrid_method", "linear")
CASES: dict[str, tuple[Case, str]] = {
    "members-along-two": (changed(lambda d: d.expand_dims(realization=2)), "has members along"),
    "variable-without-members": (
        changed(lambda d: d.assign({"2m_temperature": d["2m_temperature"].isel(number=0)})),
        "has no members, as other variables do",
    ),
    "no-leads": (changed(lambda d: d.isel(prediction_timedelta=0, drop=True)), "from which initial time"),
    "start-twice": (changed(lambda d: d.assign_coords(time=d["time"].values[[0, 0]])), "is there twice"),
    "another-dimension": (changed(lambda d: d.expand_dims(model=2)), "has the dimension model of 2"),
    "window-other": (
        changed(lambda d: d.rename(total_precipitation_6hr="total_precipitation_12hr")),
        "tp adds up over 12 h",
    ),
    "zarr-chunk-lost": (zarr_with(lose_a_chunk), "is absent; the forecast is damaged"),
    "zarr-chunk-spoilt": (zarr_with(spoil_a_chunk), "2t"),
    "zarr-metadata": (zarr_with(spoil_the_metadata), "not readable"),
    "threshold-of-nothing": (unchanged("--thresholds", "swh=2"), "thresholds: 'swh' is not scored"),
    "threshold-twice": (unchanged("--thresholds", "2t=280,2t=290"), "2t is given twice"),
    "threshold-without-mm": (unchanged("--thresholds", "tp=1"), "written in millimetres, such as tp=1mm"),
    "threshold-with-mm": (unchanged("--thresholds", "2t=280mm"), "written in its unit alone"),
    "threshold-no-number": (unchanged("--thresholds", "2t=warm"), "expected VARIABLE=NUMBER/NUMBER"),
    "threshold-no-variable": (unchanged("--thresholds", "280"), "expected VARIABLE=NUMBER/NUMBER"),
    "grid-other": (changed(halved), "with --regrid_method linear"),
    "regrid-without-effect": (unchanged(*REGRID), "regrid_method: has no effect"),
    "regrid-unknown": (changed(halved, "--regrid_method", "cubic"), "regrid_method"),
    "regrid-curvilinear": (changed(curvilinear, *REGRID), "curvilinear grid are no rows and columns"),
    "regrid-too-few": (
        changed(lambda d: d.isel(latitude=[3]).assign_coords(latitude=[1.0]), *REGRID),
        "two rows and columns are needed",
    ),
    "grib-hole": (grib_of(with_a_hole), "2t is missing in 1 of 2 members x 8 states"),
    "grib-twice": (grib_of(lambda made: 2 * whole(made)), "both hold 2t of member 0"),
    "grib-cut": (grib_of(lambda made: whole(made)[:-30]), "cannot be read"),
    "grib-with-start": (grib_of(whole, "--start", "2020-01-01T00"), "start has no effect"),
    "grib-text-inside": (grib_of(lambda made: whole(made)[:3000] + b"text" * 40), "f.grib2"),
    "plot-animated": (drawn("--animate"), "animations are of single forecasts"),
    "plot-point": (drawn("--point", "95/0"), "expected LATITUDE/LONGITUDE"),
    "plot-variable": (drawn("--variables", "snow"), "'snow' is not predicted"),
    "plot-sums-absent": (lambda made, folder: ["plot", "--sums", str(folder)], "expected the sums of one ensemble"),
    "plot-point-of-a-run": (
        lambda made, folder: ["plot", "--run", str(folder), "--point", "50/10"],
        "point has no effect without --forecast_file",
    ),
}


@pytest.mark.parametrize("name", one_in(3, CASES))
def test_it_is_refused_in_one_message(
    made: Forecast, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case, told = CASES[name]
    inputs, scratch = tmp_path / "inputs", tmp_path / "scratch"
    inputs.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    arguments = case(made, inputs)
    if arguments[0] == "evaluate":
        arguments += ["--data.store", str(made.store.path)]
    before = sorted(inputs.rglob("*"))
    monkeypatch.chdir(scratch)
    assert cli.main([*arguments, "--out", str(scratch / "out")]) == 2
    lines = "\n".join(line for line in capsys.readouterr().err.splitlines() if line.strip())
    assert told in lines
    assert "Traceback" not in lines
    assert sorted(inputs.rglob("*")) == before
    assert [path for path in scratch.rglob("*") if path != scratch / "out"] == []


def test_the_ensemble_that_is_not_changed_is_scored(
    made: Forecast, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    arguments = file_of(made.weatherbench(), tmp_path, "--thresholds", "2t=280/285", "--data.store")
    assert cli.main([*arguments, str(made.store.path)]) == 0
    shown = capsys.readouterr().err
    assert "2 members" in shown
    assert "spread/error" in shown
