"""Ensembles compared with each other and with single forecasts, on the same start dates."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.io.errors import SettingsError
from kit.verification.comparison import compare
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_scores import PairedScore
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.verification.forecasts import Forecast, ensemble_for

STARTS = 20
Sums = Callable[[str], tuple[Path, dict[str, Any]]]
"""Folder of sums of some members, and their result."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    """Six members that are too alike."""
    folder = tmp_path_factory.mktemp("compared")
    chosen: dict[str, Any] = {"surface": ("2t", "tp"), "atmospheric": (), "times": STARTS + 8}
    return ensemble_for(folder, members=6, starts=STARTS, spread=0.5, **chosen)


@pytest.fixture(scope="module")
def sums(made: Forecast, tmp_path_factory: pytest.TempPathFactory) -> Sums:
    """Of all members, of three, and of one; each is evaluated when a test first asks for it."""
    folder = tmp_path_factory.mktemp("sums")
    fields = made.fields
    of_each = {
        "six": fields,
        "three": {name: values[:3] for name, values in fields.items()},
        "one": {name: values[0] for name, values in fields.items()},
    }

    @functools.cache
    def evaluated(name: str) -> tuple[Path, dict[str, Any]]:
        file = replace(made, fields=of_each[name]).own(folder / f"{name}.zarr")
        raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, "out": folder / name}
        return folder / name, evaluate(EvaluateSettings.model_validate(raw)).to_dict()

    return evaluated


def rows(sums: Sums, *names: str, scores: str, **options: Any) -> list[PairedScore]:
    folders = [str(sums(name)[0]) for name in names]
    settings = {"runs": folders, "scores": tuple(scores.split(",")), "regions": ("all",), "leads": (6.0,), **options}
    return list(compare(CompareSettings.model_validate(settings))[0].scores)


def test_the_crps_of_a_single_forecast_is_its_absolute_error(sums: Sums) -> None:
    (row,) = rows(sums, "one", "six", scores="crps", variables=("2t",))
    mae = sums("one")[1]["leads"]["006h"]["2t"]["mae"]
    assert row.values == pytest.approx((mae, sums("six")[1]["ensemble"]["006h"]["2t"]["crps"]), rel=1e-12)
    assert row.dates == STARTS
    assert (row.verdict, row.significant) == ("better", True)
    assert row.high is not None
    assert row.high < 0


@pytest.mark.slow
def test_ensembles_of_other_sizes_are_compared(sums: Sums) -> None:
    found = rows(sums, "six", "three", scores="spread,spread_error,energy_score,brier_0.1mm")
    of = {(row.score, row.variable): row for row in found}
    for name in ("six", "three"):
        result, place = sums(name)[1]["ensemble"]["006h"], ("six", "three").index(name)
        assert of["spread", "2t"].values[place] == pytest.approx(result["2t"]["spread"], rel=1e-12)
        assert of["spread_error", "2t"].values[place] == pytest.approx(result["2t"]["spread_error"], rel=1e-12)
        assert of["energy_score", "headlines"].values[place] == pytest.approx(
            result["headlines"]["energy_score"], rel=1e-12
        )
        assert of["brier_0.1mm", "tp"].values[place] == pytest.approx(result["tp"]["brier_0.1mm"], rel=1e-12)
    # Neither more spread nor a higher ratio is better by itself.
    assert of["spread_error", "2t"].verdict == ""
    assert of["brier_0.1mm", "tp"].verdict in ("worse", "unsure")
    with pytest.raises(SettingsError, match="there is no 'roc_area_1mm' in what is compared"):
        rows(sums, "six", "three", scores="roc_area_1mm")


@pytest.mark.slow
def test_probabilities_are_compared_with_single_forecasts_too(sums: Sums) -> None:
    (row,) = rows(sums, "six", "one", scores="brier_0.1mm")
    assert row.values[1] == pytest.approx(sums("one")[1]["leads"]["006h"]["tp"]["brier_0.1mm"], rel=1e-12)
    assert row.values[0] == pytest.approx(sums("six")[1]["ensemble"]["006h"]["tp"]["brier_0.1mm"], rel=1e-12)
    with pytest.raises(SettingsError, match="there is no 'spread' in what is compared"):
        rows(sums, "six", "one", scores="spread")


def test_members_that_are_too_alike_are_told(sums: Sums) -> None:
    row = sums("six")[1]["ensemble"]["006h"]["2t"]
    # Spread 1/2, error of the mean sqrt(1 + 1/24): together with the factor for six members 0.53.
    assert row["spread_error"] == pytest.approx(0.53, abs=0.03)
    assert row["spread_error_low"] < row["spread_error"] < row["spread_error_high"] < 0.7
    assert row["rank_flatness"] < 0.05
    assert row["rank_histogram"][0] + row["rank_histogram"][-1] > 0.4
    assert row["crps_low"] < row["crps"] < row["crps_high"]
