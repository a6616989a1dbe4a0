"""Scorecards of changes and curves by lead: the numbers that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kit.plots.score_figures import lead_curves, score_changes


def _row(rmse: float | None, **more: Any) -> dict[str, Any]:
    return {"rmse": rmse, "persistence_rmse": 2.0, **more}


LEADS: dict[str, dict[str, dict[str, Any]]] = {
    "006h": {"2t": _row(1.0, persistence_significant=True), "z_500": _row(2.2), "z_850": _row(None)},
    "024h": {"2t": _row(3.0), "z_500": _row(2.0, persistence_significant=False), "z_850": _row(None)},
}


def _lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): np.round(line.get_ydata(), 6).tolist() for line in axes.lines}


def test_changes_are_per_cent_of_the_reference_and_significant_ones_are_marked() -> None:
    figure = score_changes(LEADS, "persistence")
    assert figure is not None
    surface, height = figure.axes[:2]
    assert (surface.get_title(loc="left"), height.get_title(loc="left")) == ("Surface", "Geopotential height")
    assert np.asarray(surface.images[0].get_array()).tolist() == [[-50, 50]]
    # Nothing was scored at 850 hPa.
    np.testing.assert_allclose(np.asarray(height.images[0].get_array()), [[10, 0]], atol=1e-9)
    assert [label.get_text() for label in height.get_yticklabels()] == ["500 hPa"]
    assert [label.get_text() for label in surface.get_xticklabels()] == ["6", "24"]
    assert [np.asarray(line.get_xdata()).tolist() for line in surface.lines] == [[0]]
    assert [np.asarray(line.get_xdata()).size for line in height.lines] == [0]
    assert "significant at 5 %" in figure.texts[1].get_text()


def test_better_is_blue_and_worse_vermilion_on_a_symmetric_scale() -> None:
    figure = score_changes(LEADS, "persistence")
    assert figure is not None
    image: Any = figure.axes[0].images[0]
    assert image.norm.vmin == -image.norm.vmax
    better, worse = (image.cmap(image.norm(value)) for value in (-40.0, 40.0))
    assert better[2] > better[0]
    assert worse[0] > worse[2]


def test_a_reference_that_was_not_scored_has_no_figure() -> None:
    assert score_changes(LEADS, "base") is None
    assert score_changes({"006h": {}}, "persistence") is None


def test_too_few_dates_are_said() -> None:
    figure = score_changes({"006h": {"2t": _row(1.0)}, "012h": {"2t": _row(1.0)}}, "persistence")
    assert figure is not None
    assert "too few dates" in figure.texts[1].get_text()


def test_many_leads_are_thinned_and_the_last_is_kept() -> None:
    leads = {f"{6 * number:03d}h": {"2t": _row(1.0)} for number in range(1, 41)}
    figure = score_changes(leads, "persistence")
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) <= 12
    assert labels[-1] == "240"


def test_curves_are_in_display_units_with_bands_and_references() -> None:
    rows = {
        "006h": {"z_500": {"rmse": 98.0665, "rmse_low": 90.0, "rmse_high": 110.0, "bias": -9.80665, "acc": 0.9,
                           "base_rmse": 196.133, "persistence_rmse": None}},
        "012h": {"z_500": {"rmse": 196.133, "rmse_low": None, "rmse_high": None, "bias": 0.0, "acc": None}},
    }  # fmt: skip
    figure = lead_curves(rows, {"z_500": "m2 s-2"})
    error, bias, correlation = figure.axes
    lines = _lines(error)
    assert lines["after training"] == [1, 2]
    assert lines["the weights before training"][0] == 2
    assert np.isnan(lines["the weights before training"][1])
    assert "persistence" not in lines
    assert len(error.collections) == 1
    assert _lines(bias)["after training"] == [-0.1, 0]
    assert _lines(correlation)["after training"][0] == 0.9
    assert [axes.get_ylabel() for axes in figure.axes] == ["RMSE, dam", "bias, dam", "anomaly correlation"]
    assert error.get_title(loc="left") == "Geopotential height at 500 hPa"


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scores to draw"):
        lead_curves({"006h": {}, "012h": {}}, {})
