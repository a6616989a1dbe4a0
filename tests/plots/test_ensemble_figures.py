"""Figures of ensembles hold what they are of: members, their mean, what came; scores, ranks and probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kit.io.errors import SettingsError
from kit.plots.ensemble_figures import plume, rank_histograms, reliability_diagram, spread_and_error, stamps
from kit.plots.map_grid import MapGrid
from kit.plots.maps import MapChannel, MapSetting
from kit.plots.render import plot
from kit.plots.settings import PlotSettings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.verification.forecasts import Forecast, ensemble_for

SETTING = MapSetting(MapGrid.of(np.linspace(60, 40, 5), np.linspace(0, 30, 7)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    chosen: dict[str, Any] = {"surface": ("2t", "tp"), "atmospheric": (), "height": 8, "width": 16}
    return ensemble_for(tmp_path_factory.mktemp("plotted"), members=3, **chosen)


@pytest.fixture(scope="module")
def file(made: Forecast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.own(tmp_path_factory.mktemp("file") / "ensemble.zarr")


def heights(figure: Figure) -> list[list[float]]:
    """Values of the lines of the first axes."""
    return [np.asarray(line.get_ydata(), dtype=np.float64).tolist() for line in figure.axes[0].lines]


def test_a_plume_has_a_line_for_each_member() -> None:
    members_ML = 280 + np.arange(12.0).reshape(3, 4)
    target_L = np.array([281.0, 282, np.nan, 284])
    figure = plume(MapChannel("2t"), [6, 12, 18, 24], members_ML, target_L, place="a point", start="2020-01-01")
    lines = heights(figure)
    assert len(lines) == 5
    np.testing.assert_allclose(lines[1], members_ML[1] - 273.15)
    np.testing.assert_allclose(lines[3], members_ML.mean(axis=0) - 273.15)
    np.testing.assert_allclose(lines[4], target_L - 273.15)
    assert "3 members" in figure.texts[1].get_text()
    alone = plume(MapChannel("2t"), [6, 12, 18, 24], members_ML, None, place="a point", start="2020-01-01")
    assert len(alone.axes[0].lines) == 4


@pytest.mark.parametrize(("members", "maps"), [(3, 5), (30, 22)])
def test_stamps_are_of_all_members_on_one_scale(members: int, maps: int) -> None:
    fields = 280 + np.random.default_rng(0).random((members, 5, 7))
    figure = stamps(MapChannel("2t"), fields, range(4, members + 4), fields[0], SETTING, when="now")
    meshes = [found for axes in figure.axes for found in axes.collections if isinstance(found, QuadMesh)]
    drawn = [mesh for mesh in meshes if np.asarray(mesh.get_array()).size == 35]
    assert len(drawn) == maps
    assert len({(mesh.norm.vmin, mesh.norm.vmax) for mesh in drawn}) == 1
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["Analysis", "Mean of the members", "Member 4"]
    assert ("first 20 of 30 members" in figure.texts[1].get_text()) == (members == 30)


def test_figures_of_scores_show_them() -> None:
    row = {"crps": 1.0, "rmse": 2.0, "spread": 1.5, "spread_error": 0.75, "spread_error_low": 0.7}
    row |= {"spread_error_high": 0.8}
    figure = spread_and_error({"006h": {"2t": row}, "012h": {"2t": row | {"spread": 1.6}}}, {"2t": "K"}, title="one")
    assert heights(figure) == [[2, 2], [1.5, 1.6], [1, 1]]
    assert figure.axes[1].get_ylim()[1] >= 1.2
    ranks = rank_histograms({"2t": {"rank_histogram": [0.5, 0.1, 0.4], "rank_flatness": 0.01}}, title="", when="")
    bars = [bar for bar in ranks.axes[0].patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars] == [0.5, 0.1, 0.4]
    assert "not flat (p 0.01)" in ranks.axes[0].get_xlabel()
    curve = {"probability": [0.0, 0.5, 1.0], "observed": [0.1, 0.4, 0.8], "share": [0.7, 0.2, 0.1]}
    never = {"probability": [0.0], "observed": [0.0], "share": [1.0]}
    diagram = reliability_diagram({"1mm": curve, "10mm": never}, title="", when="")
    assert [line.get_label() for line in diagram.axes[0].lines] == [
        "as often as it is said",
        "\N{GREATER-THAN OR EQUAL TO} 1mm",
    ]


def test_an_ensemble_in_a_file_is_drawn(made: Forecast, file: Path, tmp_path: Path) -> None:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, "out": tmp_path / "figures"}
    found = plot(PlotSettings.model_validate({**raw, "point": "50/10"}))["files"]
    names = [f"{kind}_{name}_20200101T0000.png" for name in ("2t", "tp") for kind in ("plume", "stamps")]
    assert [Path(path).name for path in found] == names
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found)
    with pytest.raises(SettingsError, match="animate: animations are of single forecasts"):
        plot(PlotSettings.model_validate({**raw, "animate": True}))


def test_sums_of_an_ensemble_are_drawn(made: Forecast, file: Path, tmp_path: Path) -> None:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, "out": tmp_path / "sums"}
    evaluate(EvaluateSettings.model_validate(raw))
    found = plot(PlotSettings.model_validate({"sums": tmp_path / "sums", "out": tmp_path / "figures"}))["files"]
    assert Path(found[0]).name == "spread_error.png"
    assert {"ranks_006h.png", "ranks_024h.png", "reliability_tp_006h.png"} <= {Path(path).name for path in found}
    with pytest.raises(SettingsError, match="expected the sums of one ensemble"):
        plot(PlotSettings.model_validate({"sums": tmp_path}))
