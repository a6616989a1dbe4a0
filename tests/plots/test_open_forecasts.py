"""Forecasts of others are drawn as the kit's own are: the same values, in the store's names and units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.io.errors import KitError, SettingsError
from kit.plots.open_forecasts import opened_forecast
from kit.plots.render import plot
from kit.plots.settings import PlotSettings
from tests.verification.forecasts import Forecast, ensemble_for, forecast_for

WINDOWS = dict(PlotSettings.model_validate({"forecast_file": "a", "window": ["tp=6h"]}).window)


def weatherbench(made: Forecast, folder: Path) -> Path:
    made.weatherbench().to_zarr(folder / "wb2.zarr")
    return folder / "wb2.zarr"


def anemoi(made: Forecast, folder: Path) -> Path:
    return made.anemoi(folder / "anemoi.nc")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return forecast_for(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return ensemble_for(tmp_path_factory.mktemp("several"), members=3, surface=("2t", "tp"))


@pytest.mark.parametrize(("write", "windows"), [(weatherbench, {}), (anemoi, WINDOWS)])
def test_values_are_those_of_the_kits_own_layout(write: Any, windows: Any, single: Forecast, tmp_path: Path) -> None:
    own, store = single.own(tmp_path / "own.nc"), single.store
    with opened_forecast(own) as ours, opened_forecast(write(single, tmp_path), store.path, windows) as theirs:
        assert list(theirs.starts) == list(ours.starts)[: len(theirs.starts)]
        assert list(theirs.leads) == list(ours.leads)
        assert set(theirs.surface) == set(ours.surface)
        assert {name: sorted(levels) for name, levels in ours.levels.items()} == {
            name: list(levels) for name, levels in theirs.levels.items()
        }
        # WeatherBench's latitudes increase.
        turned = slice(None, None, -1 if theirs.latitude[0] < theirs.latitude[-1] else 1)
        channels: list[tuple[str, float | None]] = [(name, None) for name in ours.surface]
        channels += [(name, level) for name, levels in ours.levels.items() for level in levels]
        for name, level in channels:
            found = theirs.read(name, level, 0, 1)[turned]
            np.testing.assert_allclose(found, ours.read(name, level, 0, 1), rtol=1e-6)
        assert theirs.attributes("tp")["accumulation_hours"] == 6
        assert theirs.attributes("2t")["units"] == "K"


def test_an_ensemble_of_others_has_plumes_and_stamps(ensemble: Forecast, tmp_path: Path) -> None:
    file, store = weatherbench(ensemble, tmp_path), ensemble.store
    with (
        opened_forecast(ensemble.own(tmp_path / "own.zarr")) as ours,
        opened_forecast(file, store.path, WINDOWS) as theirs,
    ):
        np.testing.assert_allclose(theirs.read("2t", None, 1, 2)[:, ::-1], ours.read("2t", None, 1, 2), rtol=1e-6)
    raw = {"forecast_file": file, "data": {"store": str(store.path)}, "variables": ["2t"], "out": tmp_path / "figures"}
    found = plot(PlotSettings.model_validate(raw))["files"]
    assert [Path(path).name for path in found] == ["plume_2t_20200101T0000.png", "stamps_2t_20200101T0000.png"]


def test_maps_of_others_are_drawn(single: Forecast, tmp_path: Path) -> None:
    chosen = {"variables": ["2t", "tp"], "window": ["tp=6h"], "out": tmp_path / "figures"}
    raw = {"forecast_file": anemoi(single, tmp_path), "data": {"store": str(single.store.path)}, **chosen}
    found = plot(PlotSettings.model_validate(raw))["files"]
    assert [Path(path).name for path in found] == ["2t_20200102T0000.png", "tp_20200102T0000.png"]


def test_what_is_missing_is_asked_for_and_what_is_idle_refused(single: Forecast, tmp_path: Path) -> None:
    file, own = anemoi(single, tmp_path), single.own(tmp_path / "own.nc")
    with pytest.raises(KitError, match=r"no forecast of `kit forecast`.*--data\.store"), opened_forecast(file):
        pass
    with pytest.raises(KitError, match="--window tp=6h"), opened_forecast(file, single.store.path):
        pass
    with pytest.raises(SettingsError, match="window: has no effect"), opened_forecast(own, None, WINDOWS):
        pass
    with pytest.raises(ValueError, match="window has no effect without --forecast_file"):
        PlotSettings.model_validate({"run": "a", "window": ["tp=6h"]})
