from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from kit.plots.map_grid import MapGrid, degrees_text
from kit.plots.maps import MapChannel, MapFigure, MapFrame, MapSetting
from tests.factories import synthetic_dataset

LATITUDE = np.array([30.0, 20.0, 10.0])
LONGITUDE = np.array([100.0, 110.0, 120.0, 130.0])
TARGET, FORECAST, ERROR = 0, 1, 3
"""Axes of a figure of one forecast; between the forecast and its error is a colour bar."""


def _figure(
    forecast: npt.ArrayLike,
    target: npt.ArrayLike | None,
    *,
    latitude: npt.NDArray[np.float64] = LATITUDE,
    longitude: npt.NDArray[np.float64] = LONGITUDE,
    variable: str = "10u",
    level: float | None = None,
    unit: str | None = None,
    window: float | None = None,
    valid_time: Any = np.datetime64("2020-01-01T06"),  # noqa: B008
    lead_hours: float = 6,
    **setting: Any,
) -> Figure:
    shape = (len(latitude), np.shape(longitude)[-1])
    predicted = np.broadcast_to(np.asarray(forecast, dtype=np.float32), shape)
    came = None if target is None else np.broadcast_to(np.asarray(target, dtype=np.float32), shape)
    frame = MapFrame(valid_time, lead_hours, {"Forecast": predicted}, came)
    place = MapSetting(MapGrid.of(latitude, longitude), **setting)
    return MapFigure(MapChannel(variable, level, unit, window), [frame], place).figure


def _mesh(axes: Axes) -> Any:
    return next(child for child in axes.get_children() if isinstance(child, QuadMesh))


def _limits(figure: Figure, panel: int) -> tuple[float, float]:
    norm = _mesh(figure.axes[panel]).norm
    return norm.vmin, norm.vmax


def _values(axes: Axes) -> Any:
    return np.ma.asarray(_mesh(axes).get_array())


def test_titles_units_and_time() -> None:
    figure = _figure(1, 0, variable="t", level=500, lead_hours=12)
    assert [text.get_text() for text in figure.texts] == [
        "Temperature at 500 hPa, °C",
        "valid 2020-01-01 06:00 UTC · lead time 12 h",
    ]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Target", "Forecast", "", "Error", ""]
    assert [axes.get_ylabel() for axes in figure.axes[2::2]] == ["°C", "error, K"]


@pytest.mark.parametrize(
    ("variable", "window", "title"),
    (
        ("tp", 6.0, "Total precipitation, 6 h sum, mm"),
        ("tp_6h", None, "Total precipitation, 6 h sum, mm"),
        ("tp", None, "Total precipitation, mm"),
        ("refc", None, "Composite reflectivity, dBZ"),
        ("cape", None, "Convective available potential energy, J kg⁻¹"),
        ("mystery", None, "mystery, bar"),
    ),
)
def test_variables_have_their_full_names_windows_and_units(variable: str, window: float | None, title: str) -> None:
    unit = "bar" if variable == "mystery" else None
    assert _figure(1, 0, variable=variable, window=window, unit=unit).texts[0].get_text() == title
    assert MapChannel("mystery").title == "mystery, unit unknown"


def test_aware_times_are_shown_in_utc() -> None:
    moment = datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=-5)))
    assert "valid 2020-01-01 06:00 UTC" in _figure(1, 0, valid_time=moment).texts[1].get_text()


def test_a_forecast_without_a_target_is_one_map() -> None:
    figure = _figure(1, None)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Forecast", ""]


def test_forecasts_and_target_share_a_scale() -> None:
    figure = _figure(np.arange(12.0).reshape(3, 4), -5, variable="msl")
    assert _limits(figure, TARGET) == _limits(figure, FORECAST)
    assert _limits(figure, TARGET)[0] == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("variable", "forecast", "target", "limits"),
    (
        ("10u", 3.0, -4.0, (-4, 4)),
        ("10u", 0.0, 0.0, (-1, 1)),
        ("sd", 0.004, 0.002, (0, 4)),
        ("sd", 0.0, 0.0, (0, 1)),
        ("sd", -0.001, 0.0, (0, 1)),
        ("tp", 0.0, 0.0, (0.1, 100)),
        ("2t", 283.15, 283.15, (9.5, 10.5)),
        ("tcc", 0.4, 0.5, (0, 1)),
        ("mwd", 10.0, 350.0, (0, 360)),
        ("2t", np.nan, np.nan, (0, 1)),
    ),
)
def test_scales_suit_the_variable(variable: str, forecast: float, target: float, limits: tuple[float, float]) -> None:
    assert _limits(_figure(forecast, target, variable=variable), FORECAST) == pytest.approx(limits, abs=1e-3)


def test_rain_has_steps_and_dry_places_are_white() -> None:
    mesh = _mesh(_figure([0.0, 0.00005, 0.0003, 0.004], 0, variable="tp").axes[FORECAST])
    colours = [to_hex(mesh.cmap(mesh.norm(value))) for value in (0, 0.05, 0.3, 0.45, 4)]
    assert colours[0] == colours[1] == "#ffffff"
    assert colours[2] == colours[3] != colours[4]


def test_one_wet_point_among_dry_ones_ends_the_scale() -> None:
    snow = np.zeros((40, 40))
    snow[3, 3] = 0.01
    grid: dict[str, Any] = {"latitude": np.linspace(50, 40, 40), "longitude": np.linspace(0, 10, 40)}
    assert _limits(_figure(snow, 0, variable="sd", **grid), FORECAST) == pytest.approx((0, 10))


def test_one_wild_point_does_not_flatten_the_scale() -> None:
    wind = np.tile(np.linspace(-10, 10, 40), (40, 1))
    wild = wind.copy()
    wild[0, 0] = 1e6
    figure = _figure(wild, wind, latitude=np.linspace(50, 40, 40), longitude=np.linspace(0, 10, 40))
    assert _limits(figure, FORECAST) == pytest.approx((-10, 10))
    assert _limits(figure, ERROR)[1] == pytest.approx(1e6, rel=1e-4)


def test_error_is_symmetric_and_its_rmse_is_area_weighted() -> None:
    figure = _figure(np.array([[2.0], [0], [0]]), 0, latitude=np.array([60.0, 0, -60]))
    assert _limits(figure, ERROR) == pytest.approx((-2, 2))
    # Weights 3/4, 3/2, 3/4: sqrt(3/4 * 4 / 3) = 1; below the title, where a panel is too narrow for both in a line.
    assert figure.axes[ERROR].get_title(loc="left") == "Error\nRMSE 1 m s⁻¹"


def test_missing_values_are_grey_and_left_out() -> None:
    target = np.ones((3, 4))
    target[0, 0] = np.nan
    figure = _figure(2, target)
    mesh = _mesh(figure.axes[TARGET])
    assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == [True] + [False] * 11
    assert to_hex(mesh.cmap.get_bad()) == "#d0d0d0"
    assert figure.axes[ERROR].get_title(loc="right") == "RMSE 1 m s⁻¹"
    assert _figure(1, np.nan).axes[ERROR].get_title(loc="right") == "no values"


@pytest.mark.parametrize(
    ("longitude", "edges", "columns"),
    (
        ([100.0, 110, 120, 130], [95, 105, 115, 125, 135], [0, 1, 2, 3]),
        ([0.0, 10, 340, 350], [-25, -15, -5, 5, 15], [2, 3, 0, 1]),
        ([350.0, 355, 0, 5], [-12.5, -7.5, -2.5, 2.5, 7.5], [0, 1, 2, 3]),
        ([0.0, 5, 350, 355], [-12.5, -7.5, -2.5, 2.5, 7.5], [2, 3, 0, 1]),
        # West of the meridian of 180 degrees and east of it: degrees go on.
        ([160.0, 170, 180, 190], [155, 165, 175, 185, 195], [0, 1, 2, 3]),
        ([200.0, 210, 220, 230], [-165, -155, -145, -135, -125], [0, 1, 2, 3]),
        # The whole circle has Greenwich in its middle, and the cell at 180 degrees at either end.
        ([0.0, 90, 180, 270], [-180, -135, -45, 45, 135, 180], [2, 3, 0, 1, 2]),
        ([45.0, 135, 225, 315], [-180, -90, 0, 90, 180], [2, 3, 0, 1]),
    ),
)
def test_maps_are_in_one_piece(longitude: list[float], edges: list[float], columns: list[int]) -> None:
    figure = _figure(np.arange(4.0), 0, longitude=np.array(longitude), variable="msl")
    grid = MapGrid.of(LATITUDE, np.array(longitude))
    assert grid.longitude[0].tolist() == edges
    assert (100 * _values(figure.axes[FORECAST]).reshape(3, -1)[0]).round().tolist() == columns
    # At its middle the map is true to shape.
    np.testing.assert_allclose(grid.x[0], np.radians(edges) * np.cos(np.radians(20)))


def test_cells_end_at_the_poles() -> None:
    assert MapGrid.of(np.array([90.0, 0, -90]), LONGITUDE).latitude[:, 0].tolist() == [90, 45, -45, -90]


@pytest.mark.parametrize(
    ("value", "hemispheres", "text"),
    (
        (-10, "EW", "10°W"),
        (350, "EW", "10°W"),
        (12.5, "EW", "12.5°E"),
        (190, "EW", "170°W"),
        (180, "EW", "180°"),
        (0, "EW", "0°"),
        (-45, "NS", "45°S"),
    ),
)
def test_degrees_are_written_with_their_hemisphere(value: float, hemispheres: str, text: str) -> None:
    assert degrees_text(value, (hemispheres[0], hemispheres[1])) == text


def _drawn(axes: Axes, kind: str) -> int:
    """Number of points of coasts or borders inside the map."""
    (line,) = [line for line in axes.lines if line.get_label() == f"_{kind}"]
    x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    return int(np.sum((x > west) & (x < east) & (y > south) & (y < north)))


def test_the_earth_has_its_coasts_and_borders_without_a_mask() -> None:
    europe: dict[str, Any] = {"latitude": np.arange(55.0, 44.9, -1), "longitude": np.arange(0.0, 10.1, 1)}
    figure = _figure(1, 0, **europe)
    for panel in (TARGET, FORECAST, ERROR):
        assert _drawn(figure.axes[panel], "coasts") > 100
        assert _drawn(figure.axes[panel], "borders") > 100
    sea: dict[str, Any] = {"latitude": np.arange(40.0, 29.9, -1), "longitude": np.arange(310.0, 320.1, 1)}
    assert _drawn(_figure(1, 0, **sea).axes[TARGET], "coasts") == 0


@pytest.mark.parametrize(
    ("mask", "coasts"),
    ((None, 0), (np.zeros((3, 4)), 0), (np.ones((3, 4)), 0), (np.tile([0.0, 0, 1, 1], (3, 1)), 1)),
)
def test_a_synthetic_planet_has_the_coasts_of_its_mask_and_none_of_the_earth(
    mask: npt.NDArray[np.float64] | None, coasts: int
) -> None:
    figure = _figure(1, 0, synthetic=True, mask_HW=mask)
    for panel in (TARGET, FORECAST, ERROR):
        axes = figure.axes[panel]
        assert {line.get_label() for line in axes.lines} == {"_degrees"}
        assert sum(isinstance(child, QuadContourSet) for child in axes.get_children()) == coasts


@pytest.mark.parametrize("argument", ("Forecast", "target", "land_sea_mask"))
def test_fields_must_fit_the_grid(argument: str) -> None:
    fields: dict[str, Any] = dict.fromkeys(("Forecast", "target", "land_sea_mask"), np.zeros((3, 4)))
    fields[argument] = np.zeros((4, 3))
    frame = MapFrame(np.datetime64("2020-01-01"), 6, {"Forecast": fields["Forecast"]}, fields["target"])
    setting = MapSetting(MapGrid.of(LATITUDE, LONGITUDE), mask_HW=fields["land_sea_mask"])
    with pytest.raises(ValueError, match=rf"{argument}: expected \[H, W\] = \[3, 4\].* got \[4, 3\]"):
        MapFigure(MapChannel("2t"), [frame], setting)


def test_what_is_scored_is_outlined_and_alone_in_the_rmse() -> None:
    """An error of 9 around a middle of 2 x 2 whose error is 1."""
    error = np.full((4, 4), 9.0)
    error[1:3, 1:3] = 1
    latitude, longitude = np.array([30.0, 20.0, 10.0, 0.0]), np.array([340.0, 350.0, 0.0, 10.0])
    figure = _figure(error, 0, latitude=latitude, longitude=longitude, scored=(slice(1, 3), slice(1, 3)))
    assert figure.axes[ERROR].get_title(loc="right").startswith("RMSE 1 ")
    for panel in (TARGET, FORECAST, ERROR):
        (outline,) = [patch for patch in figure.axes[panel].patches if isinstance(patch, Polygon)]
        corners = np.degrees(np.asarray(outline.get_xy()) / [np.cos(np.radians(15)), 1])
        assert (corners.min(0).round(9).tolist(), corners.max(0).round(9).tolist()) == ([-15, 5], [5, 25])


def test_a_curvilinear_grid_is_drawn_along_its_own_rows_and_columns() -> None:
    grid = synthetic_dataset(curvilinear=True, times=1)
    latitude, longitude = grid["latitude"].values, grid["longitude"].values
    box = slice(2, 12), slice(4, 20)
    figure = _figure(latitude, latitude - 1, latitude=latitude, longitude=longitude, scored=box)
    axes = figure.axes[FORECAST]
    drawn = np.asarray(_mesh(axes).get_coordinates())
    assert drawn.shape == (17, 33, 2)
    np.testing.assert_allclose(drawn[..., 0], np.tile(np.arange(33) - 0.5, (17, 1)))
    (outline,) = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    corners = np.asarray(outline.get_xy())
    for place in (drawn[2, 4], drawn[2, 20], drawn[12, 20], drawn[12, 4]):
        assert (np.abs(corners - place).sum(1) < 1e-9).any()
    # North America's coasts and borders are carried into that plane.
    assert _drawn(axes, "coasts") > 50
    assert _drawn(axes, "borders") > 20
    labels = [label.get_text() for label in figure.axes[TARGET].get_xticklabels()]
    assert "100°W" in labels


def test_frames_of_an_animation_share_scales() -> None:
    place = MapSetting(MapGrid.of(LATITUDE, LONGITUDE))
    frames = []
    for hours in (6, 12):
        field = np.full((3, 4), float(hours))
        moment = np.datetime64("2020-01-01") + np.timedelta64(hours, "h")
        frames.append(MapFrame(moment, hours, {"Forecast": field}, np.zeros((3, 4))))
    maps = MapFigure(MapChannel("10u"), frames, place)
    assert _limits(maps.figure, FORECAST) == (-12, 12)
    assert _values(maps.figure.axes[FORECAST]).max() == 6
    maps.show(frames[1])
    assert _values(maps.figure.axes[FORECAST]).max() == 12
    assert maps.figure.axes[ERROR].get_title(loc="right") == "RMSE 12 m s⁻¹"
    assert maps.figure.texts[1].get_text() == "valid 2020-01-01 12:00 UTC · lead time 12 h"
