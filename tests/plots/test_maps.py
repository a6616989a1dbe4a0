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
from matplotlib.patches import Polygon, Rectangle

from kit.plots.maps import comparison_map
from tests.factories import synthetic_dataset

LATITUDE = np.array([30.0, 20.0, 10.0])
LONGITUDE = np.array([100.0, 110.0, 120.0, 130.0])


def _figure(prediction: npt.ArrayLike, target: npt.ArrayLike, **options: Any) -> Figure:
    settings: dict[str, Any] = {
        "variable": "10u",
        "valid_time": np.datetime64("2020-01-01T06"),
        "lead_hours": 6,
        "latitude_H": LATITUDE,
        "longitude_W": LONGITUDE,
    } | options
    shape = (len(settings["latitude_H"]), np.shape(settings["longitude_W"])[-1])
    first, second = (np.broadcast_to(np.asarray(field, dtype=np.float32), shape) for field in (prediction, target))
    return comparison_map(first, second, settings.pop("latitude_H"), settings.pop("longitude_W"), **settings)


def _mesh(axes: Axes) -> Any:
    return next(child for child in axes.get_children() if isinstance(child, QuadMesh))


def _limits(figure: Figure, panel: int) -> tuple[float, float]:
    norm = _mesh(figure.axes[panel]).norm
    return norm.vmin, norm.vmax


def test_titles_units_and_time() -> None:
    figure = _figure(1, 0, variable="t", level=500, lead_hours=12)
    assert [text.get_text() for text in figure.texts] == [
        "Temperature at 500 hPa",
        "valid 2020-01-01 06:00 UTC · lead time 12 h",
    ]
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["Prediction", "Target", "Error"]
    labels = [axes.get_xlabel() for axes in figure.axes[3:]]
    assert labels == ["Temperature (°C)", "prediction \N{MINUS SIGN} target (K)"]


def test_aware_times_are_shown_in_utc() -> None:
    moment = datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=-5)))
    assert "valid 2020-01-01 06:00 UTC" in _figure(1, 0, valid_time=moment).texts[1].get_text()


def test_prediction_and_target_share_a_scale() -> None:
    figure = _figure(np.arange(12.0).reshape(3, 4), -5, variable="msl")
    assert _limits(figure, 0) == _limits(figure, 1)
    assert _limits(figure, 0)[0] == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("variable", "prediction", "target", "limits"),
    (
        ("10u", 3.0, -4.0, (-4, 4)),
        ("10u", 0.0, 0.0, (-1, 1)),
        ("tp", 0.004, 0.002, (0, 4)),
        ("tp", 0.0, 0.0, (0, 1)),
        ("tp", -0.001, 0.0, (0, 1)),
        ("2t", 283.15, 283.15, (9.5, 10.5)),
        ("tcc", 0.4, 0.5, (0, 1)),
        ("mwd", 10.0, 350.0, (0, 360)),
        ("2t", np.nan, np.nan, (0, 1)),
    ),
)
def test_scales_suit_the_variable(variable: str, prediction: float, target: float, limits: tuple[float, float]) -> None:
    assert _limits(_figure(prediction, target, variable=variable), 0) == pytest.approx(limits, abs=1e-3)


def test_one_wet_point_among_dry_ones_ends_the_scale() -> None:
    rain = np.zeros((40, 40))
    rain[3, 3] = 0.01
    grid = {"latitude_H": np.linspace(50, 40, 40), "longitude_W": np.linspace(0, 10, 40)}
    assert _limits(_figure(rain, 0, variable="tp", **grid), 0) == pytest.approx((0, 10))


def test_one_wild_point_does_not_flatten_the_scale() -> None:
    wind = np.tile(np.linspace(-10, 10, 40), (40, 1))
    wild = wind.copy()
    wild[0, 0] = 1e6
    grid = {"latitude_H": np.linspace(50, 40, 40), "longitude_W": np.linspace(0, 10, 40)}
    figure = _figure(wild, wind, **grid)
    assert _limits(figure, 0) == pytest.approx((-10, 10))
    assert _limits(figure, 2)[1] == pytest.approx(1e6, rel=1e-4)


def test_error_is_symmetric_and_its_rmse_is_area_weighted() -> None:
    figure = _figure(np.array([[2.0], [0], [0]]), 0, latitude_H=np.array([60.0, 0, -60]))
    assert _limits(figure, 2) == pytest.approx((-2, 2))
    # Weights 3/4, 3/2, 3/4: sqrt(3/4 * 4 / 3) = 1.
    assert figure.axes[2].get_title(loc="right") == "RMSE 1 m s⁻¹"


def test_missing_values_are_grey_and_left_out() -> None:
    target = np.ones((3, 4))
    target[0, 0] = np.nan
    figure = _figure(2, target)
    mesh = _mesh(figure.axes[1])
    assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == [True] + [False] * 11
    assert to_hex(mesh.cmap.get_bad()) == "#d0d0d0"
    assert figure.axes[2].get_title(loc="right") == "RMSE 1 m s⁻¹"
    assert _figure(1, np.nan).axes[2].get_title(loc="right") == "no values"


@pytest.mark.parametrize(
    ("longitude", "west", "east", "first"),
    (
        ([100.0, 110, 120, 130], 95, 135, 0),
        ([0.0, 10, 340, 350], -25, 15, 2),
        ([0.0, 90, 180, 270], -225, 135, 2),
        ([200.0, 210, 220, 230], 195, 235, 0),
    ),
)
def test_maps_are_in_one_piece(longitude: list[float], west: float, east: float, first: int) -> None:
    figure = _figure(np.arange(4.0), 0, longitude_W=np.array(longitude))
    mesh = _mesh(figure.axes[0])
    edges = mesh.get_coordinates()[0, :, 0]
    assert (edges[0], edges[-1]) == (west, east)
    values = np.asarray(mesh.get_array()).reshape(3, 4)[0]
    assert values.tolist() == np.roll(np.arange(4.0), -first).tolist()


def test_cells_end_at_the_poles() -> None:
    edges = _mesh(_figure(1, 0, latitude_H=np.array([90.0, 0, -90])).axes[0]).get_coordinates()[:, 0, 1]
    assert edges.tolist() == [90, 45, -45, -90]


@pytest.mark.parametrize(
    ("mask", "coasts"),
    ((None, 0), (np.zeros((3, 4)), 0), (np.ones((3, 4)), 0), (np.tile([0.0, 0, 1, 1], (3, 1)), 1)),
)
def test_the_coast_is_the_masks_contour(mask: npt.NDArray[np.float64] | None, coasts: int) -> None:
    figure = _figure(1, 0, land_sea_mask_HW=mask)
    for axes in figure.axes[:3]:
        assert sum(isinstance(child, QuadContourSet) for child in axes.get_children()) == coasts


def test_unknown_variables_show_the_stores_unit() -> None:
    assert _figure(1, 0, variable="mystery", unit="bar").axes[3].get_xlabel() == "mystery (bar)"
    assert _figure(1, 0, variable="mystery").axes[3].get_xlabel() == "mystery (unit unknown)"


@pytest.mark.parametrize("argument", ("prediction", "target", "land_sea_mask"))
def test_fields_must_fit_the_grid(argument: str) -> None:
    fields = dict.fromkeys(("prediction", "target", "land_sea_mask"), np.zeros((3, 4)))
    fields[argument] = np.zeros((4, 3))
    with pytest.raises(ValueError, match=rf"{argument}: expected \[H, W\] = \[3, 4\].* got \[4, 3\]"):
        comparison_map(
            fields["prediction"], fields["target"], LATITUDE, LONGITUDE, variable="2t", lead_hours=6,
            valid_time=np.datetime64("2020-01-01"), land_sea_mask_HW=fields["land_sea_mask"],
        )  # fmt: skip


@pytest.mark.parametrize("longitude", ([350.0, 355.0, 0.0, 5.0], [0.0, 5.0, 350.0, 355.0]))
def test_a_box_across_greenwich_is_one_map(longitude: list[float]) -> None:
    """As the model sees it, and as a store has it; edges at 12.5 W and 7.5 E either way."""
    west_first = np.array([0.0, 1, 2, 3])
    values = west_first if longitude[0] == 350 else np.roll(west_first, 2)
    figure = _figure(values, 0, longitude_W=np.array(longitude))
    mesh = _mesh(figure.axes[0])
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-12.5, -7.5, -2.5, 2.5, 7.5]
    assert mesh.get_array()[0].tolist() == [0, 1, 2, 3]


def test_what_is_scored_is_outlined_and_alone_in_the_rmse() -> None:
    """An error of 9 around a middle of 2 x 2 whose error is 1."""
    error = np.full((4, 4), 9.0)
    error[1:3, 1:3] = 1
    latitude, longitude = np.array([30.0, 20.0, 10.0, 0.0]), np.array([340.0, 350.0, 0.0, 10.0])
    figure = _figure(error, 0, latitude_H=latitude, longitude_W=longitude, scored=(slice(1, 3), slice(1, 3)))
    assert figure.axes[2].get_title(loc="right").startswith("RMSE 1 ")
    for axes in figure.axes[:3]:
        (outline,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((-15, 5), 20, 20)


def test_a_curvilinear_grid_is_drawn_cell_by_cell() -> None:
    grid = synthetic_dataset(curvilinear=True, times=1)
    latitude, longitude = grid["latitude"].values, grid["longitude"].values
    box = slice(2, 12), slice(4, 20)
    figure = _figure(latitude, latitude - 1, latitude_H=latitude, longitude_W=longitude, scored=box)
    mesh = figure.axes[0].collections[0]
    assert isinstance(mesh, QuadMesh)
    drawn = np.asarray(mesh.get_coordinates())
    assert drawn.shape == (17, 33, 2)
    # The corner between the first four points is their mean.
    np.testing.assert_allclose(drawn[1, 1], [longitude[:2, :2].mean(), latitude[:2, :2].mean()])
    (outline,) = figure.axes[0].patches
    assert isinstance(outline, Polygon)
    corners = np.asarray(outline.get_xy())
    for place in (drawn[2, 4], drawn[2, 20], drawn[12, 20], drawn[12, 4]):
        assert (np.abs(corners - place).sum(1) < 1e-9).any()
