"""Maps of mean errors: both rows, the change, and the numbers in their titles."""

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from kit.plots.map_grid import MapGrid
from kit.plots.maps import MapChannel, MapSetting
from kit.plots.mean_error_maps import MeanErrorFields, mean_error_map

LATITUDE, LONGITUDE = np.array([60.0, 0.0, -60.0]), np.arange(0, 360, 90.0)
SHAPE = (3, 4)


def fields(before: dict[str, Any], after: dict[str, Any]) -> MeanErrorFields:
    full = [
        {name: np.broadcast_to(np.asarray(value, dtype=float), SHAPE) for name, value in one.items()}
        for one in (before, after)
    ]
    return MeanErrorFields(24, 12, "2020-01-01T00:00 to 2020-01-12T00:00 UTC", "Before training", *full)


def meshes(figure: Any) -> list[Any]:
    return [child for axes in figure.axes for child in axes.get_children() if isinstance(child, QuadMesh)]


def test_both_errors_and_their_change_are_drawn() -> None:
    rows = np.array([[3.0], [1.0], [1.0]])
    found = fields({"rmse": 2.0, "bias": -1.0}, {"rmse": rows, "bias": 0.5})
    setting = MapSetting(MapGrid.of(LATITUDE, LONGITUDE))
    figure = mean_error_map(MapChannel("2t"), found, setting)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    pair = ["Before training", "After training"]
    assert titles == [*pair, "Change", *pair, "Change of size"]
    numbers = [axes.get_title(loc="right") for axes in figure.axes if axes.get_title(loc="right")]
    # Rows at 60 degrees have half the area of the one at the equator: a quarter of all has 3 K.
    root = np.sqrt((9 + 1 * 2 + 1) / 4)
    assert numbers == ["2 K", f"{root:.3g} K", "\N{MINUS SIGN}1 K", "0.5 K"]
    changes = [np.ma.asarray(mesh.get_array()) for mesh in meshes(figure)]
    assert any(np.allclose(np.unique(values.compressed()), [-1.0, 1.0]) for values in changes)
    # The bias is half as large, whatever its sign.
    assert any(np.allclose(values.compressed(), -0.5) for values in changes)


@pytest.mark.parametrize("synthetic", [True, False], ids=["planet", "earth"])
def test_missing_values_are_grey_and_an_empty_map_says_so(synthetic: bool) -> None:
    nothing = {"rmse": np.nan, "bias": np.nan}
    setting = MapSetting(MapGrid.of(LATITUDE, LONGITUDE), synthetic, np.ones(SHAPE))
    figure = mean_error_map(MapChannel("swh"), fields(nothing, nothing), setting)
    assert [axes.get_title(loc="right") for axes in figure.axes].count("no values") == 4
    assert any("SYNTHETIC" in text.get_text() for text in figure.texts) == synthetic
