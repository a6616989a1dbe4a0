"""Forecasts in files: the same numbers from every layout, and a refusal where a file states too little."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scores import continuous as library

from kit.io.errors import StoreError
from kit.verification.forecast_files import open_forecast
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.verification.forecasts import STEPS, Forecast, forecast_for


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return forecast_for(tmp_path_factory.mktemp("forecasts"))


@pytest.fixture(scope="module")
def own(made: Forecast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.own(tmp_path_factory.mktemp("own") / "own.nc")


def scored(made: Forecast, file: Path, **changes: Any) -> dict[str, Any]:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


@pytest.fixture(scope="module")
def of_own(made: Forecast, own: Path) -> dict[str, Any]:
    """Scores of the kit's own NetCDF; to be read only."""
    return scored(made, own)


def test_the_errors_are_those_of_the_values(made: Forecast, of_own: dict[str, Any]) -> None:
    """By NumPy alone: area weights, errors of the forecast and of persistence."""
    store = made.store
    edges = np.concatenate([[90], (store.latitude[1:] + store.latitude[:-1]) / 2, [-90]])
    areas = -np.diff(np.sin(np.radians(edges)))[:, None] * np.ones(len(store.longitude))
    assert list(of_own["leads"]) == ["006h", "012h", "018h", "024h"]
    for name, level in (("2t", None), ("tp", None), ("z", 1), ("q", 0)):
        states = store.read(name, slice(None)).astype(np.float64)
        values = made.fields[name].astype(np.float64)
        key = name
        if level is not None:
            states, values, key = states[:, level], values[:, :, level], f"{name}_{store.levels[level]}"
        for step in range(STEPS):
            came = np.stack([states[start + 1 + step] for start in range(2)])
            row = of_own["leads"][f"{6 * (step + 1):03d}h"][key]
            for expected, forecast in ((row["rmse"], values[:, step]), (row["persistence_rmse"], states[:2])):
                error = np.sqrt(np.average((forecast - came) ** 2, weights=np.stack([areas, areas])))
                assert expected == pytest.approx(error, rel=1e-9)


def test_scores_are_those_of_the_scores_package(made: Forecast, own: Path) -> None:
    """Ten variables, four leads, three regions."""
    store = made.store
    box = {"all": (90, -90), "tropics": (20, -20), "north": (90, 30)}
    result = scored(made, own, regions=("tropics", "north=90/0/30/360"))
    edges = np.concatenate([[90], (store.latitude[1:] + store.latitude[:-1]) / 2, [-90]])
    areas = np.broadcast_to(-np.diff(np.sin(np.radians(edges)))[:, None], store.shape)
    assert len(made.fields) == 10
    for name, values in made.fields.items():
        states = store.read(name, slice(None)).astype(np.float64)
        for step, (region, (north, south)) in product(range(STEPS), box.items()):
            inside = (store.latitude <= north) & (store.latitude >= south)
            weights = xr.DataArray(areas * inside[:, None], dims=("y", "x"))
            weights = weights / weights.mean()
            came = np.stack([states[start + 1 + step] for start in range(2)])
            forecast, target = values[:, step].astype(np.float64), came
            if name in store.atmospheric:
                forecast, target = forecast[:, 1], target[:, 1]
            arrays = [xr.DataArray(array, dims=("start", "y", "x")) for array in (forecast, target)]
            found = result if region == "all" else {"leads": result["regions"][region]}
            key = f"{name}_500" if name in store.atmospheric else name
            row = found["leads"][f"{6 * (step + 1):03d}h"][key]
            assert row["rmse"] == pytest.approx(float(library.rmse(*arrays, weights=weights)), rel=1e-6)
            assert row["mae"] == pytest.approx(float(library.mae(*arrays, weights=weights)), rel=1e-6)


def test_the_result_says_what_it_is_of(own: Path, of_own: dict[str, Any]) -> None:
    assert of_own["checkpoint"] is None
    assert of_own["forecast_file"] == str(own)
    assert (of_own["samples"], of_own["steps"], of_own["lead_hours"]) == (2, STEPS, 24)
    assert of_own["left_out"] == {"starts": 0, "states": 0}
    assert of_own["period"] == "2020-01-01T00:00/2020-01-02T06:00"
    assert "precision" not in of_own
    assert of_own["rain"]["model"]
    assert of_own["scores"]["2t"]["rmse"] == of_own["leads"]["024h"]["2t"]["rmse"]
    assert "ws_500" in of_own["leads"]["006h"]


def test_every_layout_gives_the_same_scores(made: Forecast, of_own: dict[str, Any], tmp_path: Path) -> None:
    """To the last bit: rows, columns and units are put in order, and nothing else is done."""
    made.own(tmp_path / "own.zarr")
    dataset = made.weatherbench()
    dataset.to_netcdf(tmp_path / "wb2.nc")
    dataset.chunk({"time": 1, "prediction_timedelta": 2}).to_zarr(tmp_path / "wb2.zarr", zarr_format=2)
    for name in ("own.zarr", "wb2.nc", "wb2.zarr"):
        result = scored(made, tmp_path / name)
        assert result["leads"] == of_own["leads"], name
        assert result["regions"] == of_own["regions"], name


def test_anemois_points_and_names_are_read(made: Forecast, tmp_path: Path) -> None:
    alone = replace(made, starts=made.starts[:1], fields={name: values[:1] for name, values in made.fields.items()})
    expected = scored(made, alone.own(tmp_path / "own.nc"))["leads"]
    found = scored(made, made.anemoi(tmp_path / "anemoi.nc"), window="tp=6h")
    # Its coordinates are in single precision, its values the same.
    assert found["leads"] == expected
    # Where times do not count from the start, the file does not state it.
    since_1970 = made.anemoi(tmp_path / "epoch.nc", reference="1970-01-01 00:00:00", first=4 * 18262 + 1)
    with pytest.raises(StoreError, match="does not state from which initial time .* --start"):
        scored(made, since_1970, window="tp=6h")
    assert scored(made, since_1970, window="tp=6h", start="2020-01-01T00")["leads"] == expected
    with pytest.raises(StoreError, match="does not state from which initial time"):
        scored(made, made.anemoi(tmp_path / "zero.nc", first=0), window="tp=6h")


def test_units_are_converted(made: Forecast, of_own: dict[str, Any], tmp_path: Path) -> None:
    dataset = made.weatherbench()
    dataset["2m_temperature"] = (dataset["2m_temperature"].astype("float64") - 273.15).assign_attrs(units="degC")
    dataset["mean_sea_level_pressure"] = (dataset["mean_sea_level_pressure"].astype("float64") / 100).assign_attrs(
        units="hPa"
    )
    dataset["total_precipitation_6hr"] = (dataset["total_precipitation_6hr"] * 1000).assign_attrs(units="mm")
    dataset.to_netcdf(tmp_path / "other.nc")
    found = scored(made, tmp_path / "other.nc")
    for name in ("2t", "msl", "tp"):
        row, expected = found["leads"]["012h"][name], of_own["leads"]["012h"][name]
        assert row["rmse"] == pytest.approx(expected["rmse"], rel=1e-4)


def test_a_part_of_the_grid_is_scored_on_its_part(made: Forecast, tmp_path: Path) -> None:
    """Across Greenwich too, against the whole forecast cut by hand."""
    part = replace(made, rows=slice(1, 4), columns=slice(3, 9))
    result = scored(made, part.own(tmp_path / "part.nc"))
    states = made.store.read("2t", slice(None)).astype(np.float64)[:, 1:4, 3:9]
    north = made.store.latitude[1:4]
    edges = np.array([north[0] * 1.5 - north[1] / 2, *(north[1:] + north[:-1]) / 2, north[-1] * 1.5 - north[-2] / 2])
    areas = np.repeat(-np.diff(np.sin(np.radians(edges)))[:, None], 6, axis=1)
    errors = made.fields["2t"][:, 0, 1:4, 3:9].astype(np.float64) - np.stack([states[1], states[2]])
    expected = np.sqrt(np.average(errors**2, weights=np.stack([areas, areas])))
    assert result["leads"]["006h"]["2t"]["rmse"] == pytest.approx(expected, rel=1e-9)
    dataset = made.weatherbench()
    crossing = dataset.isel(longitude=[13, 14, 15, 0, 1])
    west = crossing.assign_coords(longitude=[-67.5, -45, -22.5, 0, 22.5])
    west.to_netcdf(tmp_path / "west.nc")
    with open_forecast(tmp_path / "west.nc", made.store) as file:
        read = file.read("2t", (made.starts[0], 6.0), ())
    # In the file's order: longitudes first there, latitudes from the south.
    np.testing.assert_array_equal(read, made.fields["2t"][0, 0][::-1, [13, 14, 15, 0, 1]])
    assert scored(made, tmp_path / "west.nc")["leads"]["006h"]["2t"]["rmse"] > 0


def test_starts_and_leads_without_analyses_are_left_out(made: Forecast, tmp_path: Path) -> None:
    late = [datetime(2020, 1, 3, 6, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)]
    file = replace(made, starts=late).own(tmp_path / "late.nc")
    result = scored(made, file)
    # The store ends at 2020-01-03 18 UTC.
    assert (result["samples"], result["left_out"]) == (1, {"starts": 1, "states": 6})
    assert list(result["leads"]) == ["006h", "012h"]
    never = replace(made, starts=[datetime(2021, 1, day, tzinfo=UTC) for day in (1, 2)]).own(tmp_path / "never.nc")
    with pytest.raises(StoreError, match="nothing to score: it forecasts from 2 initial times"):
        scored(made, never)
    narrowed = scored(made, file, data={"store": str(made.store.path), "test": "2020-01-03/2020-01-03T12"})
    assert list(narrowed["leads"]) == ["006h"]


def test_variables_on_levels_of_their_own_are_scored_there(made: Forecast, tmp_path: Path) -> None:
    """Headline files hold geopotential at 500 hPa and winds at 850 hPa alone."""
    dataset = made.weatherbench()
    chosen = xr.Dataset(
        {
            "Z_500mb": dataset["geopotential"].sel(level=500, drop=True),
            "UGRD_850mb": dataset["u_component_of_wind"].sel(level=850, drop=True),
            "VGRD_850mb": dataset["v_component_of_wind"].sel(level=850, drop=True),
        }
    )
    chosen.to_netcdf(tmp_path / "few.nc")
    found = scored(made, tmp_path / "few.nc")["leads"]["006h"]
    assert set(found) == {"z_500", "u_850", "v_850", "ws_850"}
    assert all(row["rmse"] is not None for row in found.values())


def test_sums_are_kept_where_a_folder_is_named(made: Forecast, own: Path, tmp_path: Path) -> None:
    scored(made, own, out=tmp_path / "sums")
    (first,) = (tmp_path / "sums").iterdir()
    scored(made, own, out=tmp_path / "sums", regions=("tropics",))
    assert [path.name for path in (tmp_path / "sums").iterdir()] == [first.name]


def test_no_more_than_a_state_is_read_at_once(made: Forecast, own: Path) -> None:
    with open_forecast(own, made.store, variables=("2t", "z")) as file:
        assert set(file.arrays) == {"2t", "z"}
        assert len(file.moments) == 2 * STEPS
        state = file.read("z", (made.starts[1], 12.0), [500, 100, 300])
        np.testing.assert_array_equal(state[:2], made.fields["z"][1, 1, [1, 0]])
        assert np.isnan(state[2]).all()
