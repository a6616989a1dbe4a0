"""Amounts of rain that are asked for: scored, named in results, and compared with those of other forecasts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.store.reader import Store
from kit.io.errors import SettingsError
from kit.metrics.scores import area_weights
from kit.verification.archive import archiving, read_archive
from kit.verification.comparison import compare
from kit.verification.comparison_settings import CompareSettings
from kit.verification.evaluation import Scoring, sum_up
from kit.verification.rain_thresholds import with_thresholds
from kit.verification.results import Scorecard, headlines
from kit.verification.scorecard import evaluate
from kit.verification.scoring import score_table
from kit.verification.settings import EvaluateSettings
from kit.verification.sums import MODEL, PERSISTENCE
from tests.factories import synthetic_store
from tests.verification.forecasts import Forecast, forecast_for
from tests.verification.test_evaluation import SHARE, Weakened, scoring_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder, surface = tmp_path_factory.mktemp("amounts"), ("2t", "10u", "10v", "tp")
    return synthetic_store(folder / "s", surface=surface, atmospheric=("z",), static=(), levels=(500,), times=12)


@pytest.fixture(scope="module")
def scoring(store: Store) -> Scoring:
    return scoring_of(store, range(4))


def test_rain_is_scored_at_the_amounts_that_are_asked_for(store: Store, scoring: Scoring, tmp_path: Path) -> None:
    chosen, made_of = with_thresholds(scoring, (("tp", ("0.5mm", "0.05mm", "0.5mm")),))
    assert made_of == {"thresholds_mm": [0.05, 0.5]}
    with archiving(tmp_path / "sums.zarr", chosen.axes([MODEL, PERSISTENCE]), {}) as writer:
        sum_up(Weakened(store), chosen, writer)
    row: Any = score_table(read_archive(tmp_path / "sums.zarr"))["all"]["012h"]["tp"]
    # Too few dates for intervals.
    assert {name for name in row if name.startswith("csi")} == {"csi_0.05mm", "csi_0.5mm"}
    rain = 1000 * store.read("tp", range(2, 6)).astype(np.float64)
    weights = area_weights(store.latitude).numpy()[:, None]
    for amount in (0.05, 0.5):
        ours, theirs = SHARE * rain >= amount, rain >= amount
        expected = (weights * (ours & theirs)).sum() / (weights * (ours | theirs)).sum()
        assert 0 < expected < 1
        assert row[f"csi_{amount:g}mm"] == pytest.approx(expected, rel=1e-6)


def test_the_usual_amounts_are_those_of_before(scoring: Scoring) -> None:
    assert with_thresholds(scoring, ()) == (scoring, {})
    asked, made_of = with_thresholds(scoring, (("tp", ("10mm", "0.1mm", "1mm", "5mm")),))
    assert made_of == {}
    assert asked.event_sums().names == scoring.event_sums().names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("2t=273mm", "thresholds: 2t is no rain, and of single forecasts rain alone is scored by events"),
        ("sf=1mm", "thresholds: 'sf' is not scored; there are"),
        ("tp=1", "thresholds: tp=1: thresholds of tp are written in millimetres, such as tp=1mm"),
        ("tp=0mm/1mm", "thresholds: expected amounts of rain above 0 mm, got 0mm"),
    ],
)
def test_what_has_no_amounts_is_refused(scoring: Scoring, given: str, message: str) -> None:
    settings = EvaluateSettings.model_validate({"checkpoint": "c", "thresholds": given})
    with pytest.raises(SettingsError, match=message):
        with_thresholds(scoring, settings.thresholds)


def test_rain_is_among_the_headlines_by_lead() -> None:
    row = {"rmse": 0.001, "csi_1mm": 0.4, "csi_1mm_low": 0.3, "persistence_csi_1mm": 0.2, "frequency_bias_1mm": 0.9}
    facts: dict[str, Any] = dict.fromkeys(("checkpoint", "store", "period", "edge", "rain"))
    facts |= {"synthetic": True, "samples": 1, "steps": 1, "lead_hours": 24, "samples_per_second": 1.0}
    card = Scorecard(
        **facts, data_wait_fraction=0.0, scores={}, forgetting={}, leads={"024h": {"tp": {**row, "seeps": None}}}
    )
    assert headlines(card) == {
        "test/024h/rmse/tp": 0.001, "test/024h/csi_1mm/tp": 0.4, "test/024h/frequency_bias_1mm/tp": 0.9,
    }  # fmt: skip


def test_rain_of_another_model_is_a_baseline(tmp_path: Path) -> None:
    """Forecasts that another model has left in a file, such as those of version 1.5, on the same store and dates."""
    ours = forecast_for(tmp_path)
    theirs: Forecast = replace(ours, fields={name: values * np.float32(0.5) for name, values in ours.fields.items()})
    for name, forecast in (("ours", ours), ("theirs", theirs)):
        raw = {
            "forecast_file": forecast.own(tmp_path / f"{name}.nc"),
            "data": {"store": str(ours.store.path)},
            "thresholds": "tp=0.5mm",
            "out": tmp_path / name,
        }
        evaluate(EvaluateSettings.model_validate(raw))
    names = (str(tmp_path / "theirs"), str(tmp_path / "ours"))
    found, _ = compare(CompareSettings(runs=names, scores=("csi_0.5mm",), leads=(24.0,), regions=("all",)))
    (row,) = found.scores
    rain = ours.store.read("tp", slice(None))
    came = np.stack([rain[start + 4] for start in range(2)]) >= 0.0005
    weights = area_weights(ours.store.latitude).numpy()[:, None]
    for value, forecast in zip(row.values, (theirs, ours), strict=True):
        event = forecast.fields["tp"][:, 3] >= np.float32(0.0005)
        expected = (weights * (event & came)).sum() / (weights * (event | came)).sum()
        assert value == pytest.approx(expected, rel=1e-6)
    assert row.values[0] != row.values[1]
