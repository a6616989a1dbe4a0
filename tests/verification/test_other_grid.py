"""Forecasts on another grid are interpolated where that is asked for, and else refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.io.errors import SettingsError, StoreError
from kit.verification.other_grid import other_grid
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.verification.forecasts import Forecast, ensemble_for


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    chosen: dict[str, Any] = {"surface": ("2t", "tp"), "atmospheric": (), "height": 9, "width": 16}
    return ensemble_for(tmp_path_factory.mktemp("grids"), members=3, **chosen)


def scored(made: Forecast, file: Path, **changes: Any) -> dict[str, Any]:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


def finer(made: Forecast) -> xr.Dataset:
    """Every point between others too, and the store's own with its values."""
    dataset = made.weatherbench()
    around = xr.concat([dataset, dataset.isel(longitude=[0]).assign_coords(longitude=[360.0])], "longitude")
    step = float(dataset["longitude"][1])
    rows = np.linspace(float(dataset["latitude"][0]), float(dataset["latitude"][-1]), 2 * 9 - 1)
    found = around.interp(latitude=rows, longitude=np.arange(0, 360, step / 2))
    for name, array in dataset.data_vars.items():
        found[name] = found[name].astype("float32").assign_attrs(array.attrs)
    return found


def test_points_of_the_store_keep_their_values(made: Forecast, tmp_path: Path) -> None:
    finer(made).to_netcdf(tmp_path / "fine.nc")
    expected = scored(made, made.own(tmp_path / "own.nc"))
    with pytest.raises(StoreError, match=r"its grid \(17 x 32 points.* with --regrid_method linear"):
        scored(made, tmp_path / "fine.nc")
    for method in ("linear", "nearest"):
        found = scored(made, tmp_path / "fine.nc", regrid_method=method)
        assert found["regridding"]["methods"] == {"2t": method, "tp": method}
        assert "17 x 32 points" in found["regridding"]["from"]
        row, own = (result["ensemble"]["006h"]["2t"] for result in (found, expected))
        assert row["crps"] == pytest.approx(own["crps"], rel=1e-5)
    averaged = scored(made, tmp_path / "fine.nc", regrid_method="conservative")
    assert averaged["ensemble"]["006h"]["2t"]["spread"] < expected["ensemble"]["006h"]["2t"]["spread"]
    with pytest.raises(SettingsError, match="regrid_method: has no effect"):
        scored(made, tmp_path / "own.nc", regrid_method="linear")


def test_a_part_across_greenwich_is_interpolated_to_the_stores_points_there(made: Forecast) -> None:
    store = made.store
    latitude, longitude = np.arange(-50.0, 51, 5), np.arange(-60.0, 61, 5)
    grid = other_grid(Path("f.nc"), latitude, longitude, store, "linear")
    rows = grid.grid.latitude(store)
    columns = (grid.grid.longitude(store) + 180) % 360 - 180
    np.testing.assert_allclose(rows, [40, 20, 0, -20, -40])
    np.testing.assert_allclose(columns, [-45, -22.5, 0, 22.5, 45])
    # A plane is interpolated exactly: 2 a degree north, and 1 a degree east.
    plane = (2 * latitude[:, None] + longitude[None]).astype(np.float32)
    found = grid.take("2t", np.stack([plane, plane + 1]))
    np.testing.assert_allclose(found[1], 2 * rows[:, None] + columns[None] + 1, rtol=1e-6)


def test_other_grids_that_cannot_be_interpolated_are_refused(made: Forecast) -> None:
    bent = np.meshgrid(np.linspace(50, 40, 5), np.linspace(0, 20, 6), indexing="ij")
    with pytest.raises(StoreError, match="curvilinear"):
        other_grid(Path("f.nc"), *bent, made.store, "linear")
    with pytest.raises(StoreError, match="fewer than two points"):
        other_grid(Path("f.nc"), np.array([50.0, 49]), np.array([10.0, 11]), made.store, "linear")
    with pytest.raises(StoreError, match="two rows and columns are needed"):
        other_grid(Path("f.nc"), np.array([50.0]), np.array([10.0, 11]), made.store, "linear")
