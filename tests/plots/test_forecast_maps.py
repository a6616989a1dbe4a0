"""Maps of forecast files: what is read of them and of the store, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from pydantic import ValidationError

from kit.data.store.reader import Store
from kit.forecasting.writing import ForecastLayout, writing
from kit.io.errors import KitError
from kit.plots.forecast_maps import FORECAST, PERSISTENCE, forecast_maps
from kit.plots.map_series import MapAlbum
from kit.plots.open_forecasts import opened_forecast
from kit.plots.render import plot
from kit.plots.settings import PlotSettings
from tests.factories import synthetic_store

START = datetime(2020, 1, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("maps") / "store", times=12, surface=("2t", "10u"))


def _write(out: Path, store: Store, *, steps: int = 3, members: int = 0, columns: slice = slice(None)) -> Path:
    """Write a forecast of numbers that say where they stand: 100 times the initial time, 10 times the lead, level."""
    layout = ForecastLayout(
        surface={"2t": {"units": "K"}},
        atmospheric={"z": {"units": "m2 s-2"}},
        levels=[500.0, 850.0],
        latitude=store.latitude,
        longitude=store.longitude[columns],
        starts=[START, START + timedelta(hours=6)],
        timestep=timedelta(hours=6),
        steps=steps,
        members=members,
        attributes={"synthetic": True},
    )
    with writing(out, layout) as writer:
        for start in range(2):
            for step in range(steps):
                for member in range(max(members, 1)):
                    index = (member, start, step) if members else (start, step)
                    number = 100.0 * start + 10 * step
                    writer.write("2t", index, np.full(layout.shape, number, dtype=np.float32))
                    fields = [np.full(layout.shape, number + level, dtype=np.float32) for level in (1, 2)]
                    writer.write("z", index, np.stack(fields))
    return out


def _settings(file: Path, **chosen: Any) -> PlotSettings:
    return PlotSettings.model_validate({"forecast_file": file, **chosen})


def maps_of(settings: PlotSettings) -> MapAlbum:
    assert settings.forecast_file is not None
    with opened_forecast(settings.forecast_file) as file:
        return forecast_maps(file, settings)


@pytest.mark.parametrize("name", ("f.nc", "f.zarr"))
def test_the_last_lead_of_the_first_start_is_drawn_alone_without_a_store(
    name: str, store: Store, tmp_path: Path
) -> None:
    album = maps_of(_settings(_write(tmp_path / name, store)))
    assert [series.name for series in album.series] == ["2t", "z_500", "z_850"]
    assert album.setting.synthetic
    for series, number in zip(album.series, (20, 21, 22), strict=True):
        (frame,) = series.frames
        assert (frame.lead_hours, frame.valid_time) == (18, START + timedelta(hours=18))
        assert set(frame.forecasts) == {FORECAST}
        assert frame.target is None
        assert np.unique(frame.forecasts[FORECAST]).tolist() == [number]


def test_targets_and_persistence_are_the_stores(store: Store, tmp_path: Path) -> None:
    # Columns of the forecast from the tenth on: it covers a part of the store.
    file = _write(tmp_path / "f.nc", store, columns=slice(10, None))
    chosen = {"data": {"store": str(store.path)}, "variables": ["2t"], "steps": 2, "samples": 2}
    album = maps_of(_settings(file, **chosen))
    states = store.read("2t", slice(None))[..., 10:]
    for place, series in enumerate(album.series):
        (frame,) = series.frames
        assert frame.target is not None
        # The store begins on 1 January, eight states before the first initial time.
        np.testing.assert_array_equal(frame.target, states[8 + place + 2])
        np.testing.assert_array_equal(frame.forecasts[PERSISTENCE], states[8 + place])
        assert np.unique(frame.forecasts[FORECAST]).tolist() == [100 * place + 10]


def test_where_the_store_has_no_target_the_forecast_is_alone(store: Store, tmp_path: Path) -> None:
    file = _write(tmp_path / "f.nc", store, steps=8)
    album = maps_of(_settings(file, data={"store": str(store.path)}, variables=["2t"]))
    (frame,) = album.series[0].frames
    assert frame.target is None
    assert set(frame.forecasts) == {FORECAST}


def test_an_animation_has_a_frame_for_each_lead(store: Store, tmp_path: Path) -> None:
    file = _write(tmp_path / "f.nc", store)
    chosen = {"data": {"store": str(store.path)}, "variables": ["2t"], "animate": True, "out": tmp_path / "out"}
    (written,) = plot(_settings(file, **chosen))["files"]
    assert Path(written).name == "2t_from_20200103T0000.gif"
    with Image.open(written) as animation:
        assert animation.format == "GIF"
        assert len(ImageSequence.all_frames(animation)) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2t_from_20200103T0000.gif"]


def test_figures_go_beside_the_forecast(store: Store, tmp_path: Path) -> None:
    file = _write(tmp_path / "f.nc", store)
    assert plot(_settings(file, variables=["z_850"]))["files"] == [str(tmp_path / "figures/z_850_20200103T1800.png")]


def _cut(file: Path) -> Path:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


BAD: dict[str, tuple[Callable[[Path, Store], Path], dict[str, Any], str]] = {
    "absent": (lambda folder, store: folder / "none.nc", {}, "no such file or folder"),
    "no forecast": (lambda folder, store: store.path, {}, "is no forecast of `kit forecast`, .* lead_time"),
    "text": (lambda folder, store: Path(__file__), {}, "not readable as NetCDF"),
    "cut off": (lambda folder, store: _cut(_write(folder / "f.nc", store)), {}, "truncated|not readable"),
    "members": (
        lambda folder, store: _write(folder / "f.nc", store, members=2),
        {"animate": True},
        "animations are of single forecasts",
    ),
    "point": (
        lambda folder, store: _write(folder / "f.nc", store),
        {"point": "50/10"},
        "point: .* is no ensemble",
    ),
    "too far": (lambda folder, store: _write(folder / "f.nc", store), {"steps": 9}, r"steps: .* has 3.* got 9"),
    "variable": (lambda folder, store: _write(folder / "f.nc", store), {"variables": ["snow"]}, "not predicted"),
    "time": (lambda folder, store: _write(folder / "f.nc", store), {"time": "1999-01-01"}, "no prediction of "),
    "no store": (lambda folder, store: _write(folder / "f.nc", store), {"data": {"store": "none"}}, "no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(name: str, store: Store, tmp_path: Path) -> None:
    make, chosen, message = BAD[name]
    file = make(tmp_path, store)
    with pytest.raises(KitError, match=message):
        plot(_settings(file, out=tmp_path / "out", **chosen))
    assert not (tmp_path / "out").exists()


def test_another_grid_is_refused(store: Store, tmp_path: Path) -> None:
    other = synthetic_store(tmp_path / "other", times=12, surface=("2t",), box=(60.0, 0.0, 40.0, 30.0))
    with pytest.raises(KitError, match="its grid .* is not that of"):
        maps_of(_settings(_write(tmp_path / "f.nc", store), data={"store": str(other.path)}))


@pytest.mark.parametrize(
    ("chosen", "message"),
    (
        ({}, "give one of run, checkpoint, forecast_file, sums; given: none"),
        ({"run": "a", "forecast_file": "b.nc"}, "given: run and forecast_file"),
        ({"forecast_file": "b.nc", "base": False}, "base has no effect"),
        ({"forecast_file": "b.nc", "data": {"test": "2020-01-01/2020-01-02"}}, "data.test has no effect"),
        ({"checkpoint": "a", "steps": 0}, "greater than 0"),
    ),
)
def test_settings_that_contradict_each_other_are_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlotSettings.model_validate(chosen)
