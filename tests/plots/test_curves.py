from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kit.plots.curves import edge_errors, loss_curves, scorecard
from kit.plots.styles import BLUE, ORANGE


def _records(kind: str, losses: list[float | None]) -> list[dict[str, Any]]:
    """Losses of steps 0, 1, ..., of which an epoch has two."""
    steps = enumerate(losses)
    return [{"step": step, "kind": kind, "time": 0.0, "loss": loss, "epoch": (step + 1) / 2} for step, loss in steps]


def _lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}


def test_both_curves_and_the_best_validation() -> None:
    figure = loss_curves(
        _records("train", [3.0, 2.0, 1.0, 2.0, 0.0]) + _records("valid", [3.0, 1.5, 2.0]), title="A run"
    )
    lines = _lines(figure.axes[0])
    assert lines["training"] == [3, 2, 1, 2, 0]
    assert lines["validation"] == [3, 1.5, 2]
    assert lines["best, step 1: 1.5"] == [1.5]
    assert [text.get_text() for text in figure.texts] == [
        "A run",
        "training 2.5 → 1.5 (means of epochs 1 and 2) · validation 3 → 2",
    ]


def test_smoothing_is_a_centred_mean_that_leaves_nan_out() -> None:
    losses: list[float | None] = [float(step) for step in range(60)]
    losses[10] = float("nan")
    smooth = _lines(loss_curves(_records("train", losses)).axes[0])["training"]
    # Windows of three points; two at the ends and around the NaN.
    assert smooth[0] == 0.5
    assert smooth[30] == 30
    assert smooth[10] == 10
    assert smooth[9] == 8.5


def test_records_are_sorted_and_others_left_out() -> None:
    records = [*reversed(_records("train", [2.0, 1.0])), {"kind": "start"}, *_records("valid", [None])]
    lines = _lines(loss_curves(records).axes[0])
    assert lines["training"] == [2, 1]
    assert "validation" not in lines


@pytest.mark.parametrize(
    ("losses", "scale"), (([5.0, 1.1], "linear"), ([6.0, 1.0], "log"), ([6.0, -1.0], "linear"), ([0.0, 0.0], "linear"))
)
def test_the_axis_is_logarithmic_only_where_it_helps(losses: list[float | None], scale: str) -> None:
    assert loss_curves(_records("train", losses)).axes[0].get_yscale() == scale


@pytest.mark.parametrize("losses", ([1.0], [float("nan")], [float("nan"), float("inf")]))
def test_short_and_broken_runs_are_drawn(losses: list[float | None]) -> None:
    loss_curves(_records("train", losses) + _records("valid", losses)).draw_without_rendering()


def test_a_run_without_losses_is_an_error() -> None:
    with pytest.raises(ValueError, match="no records with a loss"):
        loss_curves([{"kind": "start"}])


def _bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_scorecard_has_a_panel_for_the_surface_and_one_for_each_variable() -> None:
    figure = scorecard({"u_1000": 0.1, "2t": 0.3, "u_50": -0.2, "t_0_5": 0.4, "tp_6h": -0.1})
    panels = {
        axes.get_title(loc="left"): [label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes
    }
    assert panels == {
        "Surface": ["2t", "tp_6h"],
        "Eastward wind": ["50 hPa", "1000 hPa"],
        "Temperature": ["0.5 hPa"],
    }
    assert [bar.get_width() for bar in _bars(figure.axes[0])] == [0.3, -0.1]
    assert [bar.get_width() for bar in _bars(figure.axes[1])] == [-0.2, 0.1]


def test_better_is_blue_and_worse_vermilion() -> None:
    from matplotlib.colors import to_hex

    bars = _bars(scorecard({"2t": 0.3, "msl": -0.1}).axes[0])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [BLUE, ORANGE]


def test_a_hopeless_channel_is_cut_and_named() -> None:
    figure = scorecard({"2t": 0.3, "tp": -7.25, "msl": float("nan"), "sp": float("-inf")})
    assert [bar.get_width() for bar in _bars(figure.axes[0])] == [0.3, -0.5, 0, -0.5]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["◀ \N{MINUS SIGN}7.2", "undefined", "◀ \N{MINUS SIGN}inf"]


def test_weights_before_training_are_marked_where_they_are_known() -> None:
    figure = scorecard({"2t": 0.3, "msl": 0.1, "tp": 0.1}, before={"2t": 0.2, "tp": -9.0}, subtitle="6 samples")
    (marks, _) = figure.axes[0].lines
    assert np.asarray(marks.get_xdata()).tolist() == [0.2]
    assert figure.texts[1].get_text() == "6 samples · ◇ before training"


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="no skill to draw"):
        scorecard({})


def test_errors_by_distance_are_ratios_and_means_over_levels() -> None:
    """Levels at 0.5 and 1 of persistence's error, then at 0.25 and 0.75; rain without any is left out."""
    rings = [
        {"distance": 0, "scored": 0.0, "rmse": {"t_500": 1.0, "t_850": 2.0, "tp": 1.0},
         "persistence_rmse": {"t_500": 2.0, "t_850": 2.0, "tp": 0.0}},
        {"distance": 4, "scored": 0.5, "rmse": {"t_500": 0.5, "t_850": 1.5, "tp": 1.0},
         "persistence_rmse": {"t_500": 2.0, "t_850": 2.0, "tp": None}},
    ]  # fmt: skip
    figure = edge_errors(rings)
    assert _lines(figure.axes[0])["Temperature"] == [0.75, 0.5]
    assert "scored from 4 grid points on" in figure.texts[1].get_text()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0+", "4+"]
    with pytest.raises(ValueError, match="no errors by distance"):
        edge_errors([])
