"""What cannot be scored: one message, exit code 2, and nothing left behind."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from kit.cli import main as cli
from tests.everyday import one_in
from tests.verification.forecasts import Forecast, forecast_for

Case = Callable[[Forecast, Path], list[str]]
"""Function that makes a bad input in a folder, and returns the arguments that name it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return forecast_for(tmp_path_factory.mktemp("forecasts"), surface=("2t", "tp"), atmospheric=("t",), times=8)


def file_of(dataset: xr.Dataset, folder: Path) -> list[str]:
    dataset.to_netcdf(folder / "f.nc")
    return ["--forecast_file", str(folder / "f.nc")]


def own(made: Forecast, folder: Path) -> list[str]:
    return ["--forecast_file", str(made.own(folder / "own.nc"))]


def written(content: bytes) -> Case:
    def case(made: Forecast, folder: Path) -> list[str]:
        (folder / "f.nc").write_bytes(content)
        return ["--forecast_file", str(folder / "f.nc")]

    return case


def changed(change: Callable[[xr.Dataset], xr.Dataset]) -> Case:
    """Change a forecast in WeatherBench 2's layout."""
    return lambda made, folder: file_of(change(made.weatherbench()), folder)


def with_arguments(*arguments: str) -> Case:
    return lambda made, folder: [*own(made, folder), *arguments]


def cut(made: Forecast, folder: Path) -> list[str]:
    path = made.own(folder / "own.nc")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return ["--forecast_file", str(path)]


def zarr_with(damage: Callable[[Path], None]) -> Case:
    def case(made: Forecast, folder: Path) -> list[str]:
        damage(made.own(folder / "own.zarr"))
        return ["--forecast_file", str(folder / "own.zarr")]

    return case


def lose_a_chunk(group: Path) -> None:
    next(path for path in sorted((group / "2t").rglob("*")) if path.is_file() and path.name != "zarr.json").unlink()


def spoil_a_chunk(group: Path) -> None:
    chunk = next(path for path in sorted((group / "2t").rglob("*")) if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(b"\0" * 7)


def spoil_the_metadata(group: Path) -> None:
    (group / "zarr.json").write_text("{")


def two_time_axes(made: Forecast, folder: Path) -> list[str]:
    dataset = made.weatherbench()
    other = dataset["2m_temperature"].rename({"time": "time2"}).assign_coords(time2=dataset["time"].values)
    return file_of(dataset.drop_vars("2m_temperature").assign({"2m_temperature": other}), folder)


def empty_folder(made: Forecast, folder: Path) -> list[str]:
    (folder / "nothing").mkdir()
    return ["--forecast_file", str(folder / "nothing")]


def a_curvilinear_forecast(made: Forecast, folder: Path) -> list[str]:
    dataset = made.weatherbench()
    latitude, longitude = np.meshgrid(dataset["latitude"], dataset["longitude"])
    bent = dataset.drop_vars(["latitude", "longitude"]).rename(latitude="x", longitude="y")
    points = {"latitude": (("y", "x"), latitude + longitude / 100 - 2), "longitude": (("y", "x"), longitude)}
    return file_of(bent.assign_coords(points), folder)


def no_dates(made: Forecast, folder: Path) -> list[str]:
    path = made.anemoi(folder / "anemoi.nc")
    with netCDF4.Dataset(path, "a") as file:
        file["time"].units = "furlongs"
    return ["--forecast_file", str(path), "--variables", "2t"]


def starts_elsewhere(made: Forecast, folder: Path) -> list[str]:
    later = [start.replace(year=2031) for start in made.starts]
    return own(replace(made, starts=later), folder)


def at_lead_0(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(prediction_timedelta=[0]).assign_coords(prediction_timedelta=[np.timedelta64(0, "ns")])


def without(name: str) -> Case:
    return changed(lambda dataset: dataset.drop_vars(name))


CASES: dict[str, tuple[Case, str]] = {
    "file-absent": (lambda made, folder: ["--forecast_file", str(folder / "no.nc")], "no such file or folder"),
    "file-empty": (written(b""), "empty"),
    "file-text": (written(b"no forecast at all"), "f.nc"),
    "file-grib": (written(b"GRIB" + b"\0" * 60), "message 1 cannot be read"),
    "file-cut": (cut, "truncated"),
    "folder-empty": (empty_folder, "not readable as a Zarr store"),
    "zarr-metadata": (zarr_with(spoil_the_metadata), "not readable"),
    "zarr-chunk-lost": (zarr_with(lose_a_chunk), "is absent; the forecast is damaged"),
    "zarr-chunk-spoilt": (zarr_with(spoil_a_chunk), "2t"),
    "two-time-axes": (two_time_axes, "time2"),
    "grid-other": (changed(lambda d: d.isel(latitude=slice(0, None, 2))), "its grid (4 x 16 points"),
    "grid-shifted": (changed(lambda d: d.assign_coords(longitude=d["longitude"] + 1)), "interpolate the forecast"),
    "grid-curvilinear": (a_curvilinear_forecast, "interpolate the forecast"),
    "no-latitude": (without("latitude"), "its grid is unknown, for want of latitude"),
    "latitude-nan": (changed(lambda d: d.assign_coords(latitude=d["latitude"] * np.nan)), "must be finite numbers"),
    "latitude-beyond": (changed(lambda d: d.assign_coords(latitude=d["latitude"] * 2)), "90 degrees"),
    "no-leads": (changed(lambda d: d.isel(prediction_timedelta=0, drop=True)), "from which initial time it forecasts"),
    "lead-0-alone": (
        changed(
            lambda d: d.isel(prediction_timedelta=[0]).assign_coords(prediction_timedelta=[np.timedelta64(0, "ns")])
        ),
        "no state of a lead above 0",
    ),
    "start-twice": (changed(lambda d: d.assign_coords(time=d["time"].values[[0, 0]])), "is there twice"),
    "no-dates": (no_dates, "anemoi.nc"),
    "no-variable": (changed(lambda d: d.rename({name: f"my_{i}" for i, name in enumerate(d)})), "holds no variable"),
    "variable-unknown": (with_arguments("--variables", "2t,swh"), "holds no swh"),
    "unit-other": (
        changed(lambda d: d.assign({"2m_temperature": d["2m_temperature"].assign_attrs(units="m s-1")})),
        "comes in 'm s-1'",
    ),
    "text-values": (
        changed(lambda d: d.assign({"2m_temperature": d["2m_temperature"].astype(int).astype(str)})),
        "numbers are expected",
    ),
    "window-other": (
        changed(lambda d: d.rename(total_precipitation_6hr="total_precipitation_12hr")),
        "tp adds up over 12 h",
    ),
    "window-unknown": (changed(lambda d: d.rename(total_precipitation_6hr="tp")), "say it with --window tp=6h"),
    "window-without-effect": (with_arguments("--window", "cp=6h"), "--window cp has no effect"),
    "start-without-effect": (with_arguments("--start", "2020-01-01T00"), "start has no effect"),
    "start-no-time": (with_arguments("--start", "tomorrow"), "expected a time such as"),
    "region-without-points": (with_arguments("--regions", "spot=1/1/0.5/1.5"), "spot holds no point"),
    "region-unknown": (with_arguments("--regions", "atlantis"), "atlantis"),
    "period-empty": (with_arguments("--data.test", "1999/1999"), "nothing to score"),
    "starts-elsewhere": (starts_elsewhere, "nothing to score"),
    "steps": (with_arguments("--steps", "2"), "steps: has no effect on the scores of a forecast file"),
    "checkpoint-too": (with_arguments("--checkpoint", "c"), "and not both"),
    "neither": (lambda made, folder: [], "expected a checkpoint or a forecast_file"),
    "store-absent": (with_arguments("--data.store", "/no/store"), "/no/store"),
    "table-unknown": (with_arguments("--table", "long"), "table"),
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
    if "--data.store" not in arguments:
        arguments += ["--data.store", str(made.store.path)]
    before = sorted(inputs.rglob("*"))
    monkeypatch.chdir(scratch)
    assert cli.main(["evaluate", *arguments, "--out", str(scratch / "sums")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert told in "\n".join(lines)
    assert "Traceback" not in "\n".join(lines)
    assert sorted(inputs.rglob("*")) == before
    # The folder of the sums may be there, and holds nothing.
    assert [path for path in scratch.rglob("*") if path != scratch / "sums"] == []


def test_the_forecast_that_is_not_changed_is_scored(made: Forecast, tmp_path: Path) -> None:
    arguments = [*file_of(made.weatherbench(), tmp_path), "--data.store", str(made.store.path)]
    assert cli.main(["evaluate", *arguments]) == 0
    shutil.rmtree(tmp_path)
