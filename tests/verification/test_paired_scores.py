"""Runs are compared on the dates that all have, at the same points, with the right sign and the right certainty."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.io.errors import SettingsError
from kit.metrics.contingency import OUTCOMES
from kit.verification.archive import EVENTS, Axes, archiving
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_scores import PairedScores, choose_archives, paired_scores
from kit.verification.scoring import mae, rmse
from kit.verification.significance import difference
from kit.verification.subjects import find_subjects
from kit.verification.sums import MODEL, WEIGHT
from tests.everyday import one_in
from tests.verification.compared import START, WEIGHTS, moments, write_sums

RANDOM = np.random.default_rng(3)
NOISE = np.abs(RANDOM.normal(2, 0.5, 60))


def paired(tmp_path: Path, *paths: Path, **settings: Any) -> PairedScores:
    chosen = CompareSettings.model_validate({"runs": list(map(str, paths)), **settings})
    subjects = find_subjects(chosen, tmp_path / "scratch")
    return paired_scores(subjects, choose_archives(subjects), chosen)


def test_values_and_intervals_are_of_the_common_dates(tmp_path: Path) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE[:50]})
    other = write_sums(tmp_path / "other.zarr", {"2t": 1.2 * NOISE[10:]}, first=10)
    found = paired(tmp_path, one, other)
    assert len(found.starts) == 40
    assert str(found.starts[0]) == "2020-01-03T12:00:00"
    (row,) = found.rows
    # One error everywhere: its root mean square over dates is the score.
    ours, theirs = (math.sqrt(np.mean((factor * NOISE[10:50]) ** 2)) for factor in (1.2, 1.0))
    assert list(row.values) == pytest.approx([theirs, ours], rel=1e-12)
    assert row.difference == pytest.approx(ours - theirs)
    sums = [np.array([moments(factor * error, WEIGHTS, 1)[0] for error in NOISE[10:50]]) for factor in (1.2, 1.0)]
    # Start dates are 6 h apart, and forecasts of 24 h overlap with three further ones.
    expected = difference(rmse, sums[0], sums[1], 4)
    assert expected is not None
    assert (row.low, row.high, row.p_value) == pytest.approx((expected.low, expected.high, expected.p_value))
    assert (row.dates, row.lead, row.region, row.run) == (40, "024h", "all", "other")


@pytest.mark.parametrize(
    ("change", "verdict"),
    one_in(
        3,
        [
            (lambda errors: errors - 0.5, "better"),
            (lambda errors: errors + 0.5, "worse"),
            (lambda errors: errors + np.tile([0.01, -0.01], 30), "unsure"),
        ],
        ["less error", "more error", "now more, now less"],
    ),
)
def test_the_verdict(tmp_path: Path, change: Any, verdict: str) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE})
    other = write_sums(tmp_path / "other.zarr", {"2t": change(NOISE)})
    found = paired(tmp_path, one, other, scores=("rmse", "mae", "bias"))
    assert [(row.score, row.verdict) for row in found.rows] == [("rmse", verdict), ("mae", verdict), ("bias", "")]
    assert found.rows[0].significant is (verdict != "unsure")


def test_few_dates_give_values_and_no_certainty(tmp_path: Path) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE[:19]})
    other = write_sums(tmp_path / "other.zarr", {"2t": NOISE[:19] + 5})
    (row,) = paired(tmp_path, one, other).rows
    assert (row.low, row.high, row.p_value, row.significant, row.verdict) == (None, None, None, None, "")
    assert row.difference == pytest.approx(
        math.sqrt(np.mean((NOISE[:19] + 5) ** 2)) - math.sqrt(np.mean(NOISE[:19] ** 2))
    )


def test_what_one_lacks_is_said_and_the_rest_is_compared(tmp_path: Path) -> None:
    first = write_sums(tmp_path / "first.zarr", {"2t": NOISE, "msl": NOISE}, leads=(24, 48), regions=("all", "europe"))
    second = write_sums(tmp_path / "second.zarr", {"2t": NOISE + 1}, leads=(24, 48), regions=("all", "europe"))
    third = write_sums(tmp_path / "third.zarr", {"2t": NOISE, "msl": NOISE + 1}, leads=(24,))
    found = paired(tmp_path, first, second, third)
    compared = [(row.run, row.lead, row.region, row.variable) for row in found.rows]
    assert compared == [
        ("second", "024h", "all", "2t"),
        ("third", "024h", "all", "2t"),
        ("third", "024h", "all", "msl"),
        ("second", "024h", "europe", "2t"),
        ("second", "048h", "all", "2t"),
        ("second", "048h", "europe", "2t"),
    ]
    assert found.rows[2].values[1] is None
    assert found.notes == ("second lacks variable msl", "third lacks lead 048h; region europe")


@pytest.mark.slow
def test_leads_that_one_has_on_other_dates_only(tmp_path: Path) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE[:30]}, leads=(24, 48))
    other = write_sums(tmp_path / "other.zarr", {"2t": NOISE[:30]}, leads=(24,))
    write_sums(other, {"2t": NOISE[:30]}, leads=(48,), first=30)
    found = paired(tmp_path, one, other)
    assert [row.lead for row in found.rows] == ["024h"]
    assert found.notes == ("other lacks lead 048h",)


def test_errors_at_other_points_are_not_compared(tmp_path: Path) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE})
    other = write_sums(tmp_path / "other.zarr", {"2t": NOISE}, weight=0.9 * WEIGHTS)
    with pytest.raises(SettingsError, match="nothing is left to compare: other was scored at other grid points in all"):
        paired(tmp_path, one, other)


def test_the_first_may_be_any_and_signs_turn(tmp_path: Path) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE})
    other = write_sums(tmp_path / "other.zarr", {"2t": NOISE + 0.3})
    (there,) = paired(tmp_path, one, other).rows
    (back,) = paired(tmp_path, other, one).rows
    assert there.difference == pytest.approx(-back.difference)
    assert there.low is not None
    assert back.high is not None
    assert there.low == pytest.approx(-back.high)
    assert (there.verdict, back.verdict) == ("worse", "better")


def test_chosen_variables_leads_regions_and_scores(tmp_path: Path) -> None:
    errors = {"2t": NOISE, "msl": NOISE}
    one = write_sums(tmp_path / "one.zarr", errors, leads=(24, 48), regions=("all", "europe"))
    other = write_sums(
        tmp_path / "other.zarr", {name: values + 1 for name, values in errors.items()}, leads=(24, 48),
        regions=("all", "europe"),
    )  # fmt: skip
    (row,) = paired(tmp_path, one, other, variables=("msl",), leads=(48,), regions=("europe",), scores=("mae",)).rows
    assert (row.variable, row.lead, row.region, row.score) == ("msl", "048h", "europe", "mae")
    sums = np.array([moments(error + 1, WEIGHTS, 1)[0] for error in NOISE])
    assert row.values[1] == pytest.approx(float(mae(sums.mean(axis=0))))


@pytest.mark.parametrize(
    ("settings", "message"),
    one_in(
        3,
        [
            ({"variables": ("2tt",)}, "variables: there is no '2tt' in what is compared; there are 2t"),
            ({"leads": (12.0,)}, "leads: there is no 12.0 in what is compared; there are 24.0"),
            ({"regions": ("tropics",)}, "regions: there is no 'tropics'"),
            ({"scores": ("rms",)}, "scores: there is no 'rms' in what is compared; there are rmse"),
            ({"scores": ("acc",)}, "nothing is left to compare"),
        ],
        ["variable", "lead", "region", "score", "no climatology"],
    ),
)
def test_what_is_asked_for_and_not_there(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    one = write_sums(tmp_path / "one.zarr", {"2t": NOISE})
    other = write_sums(tmp_path / "other.zarr", {"2t": NOISE + 1})
    with pytest.raises(SettingsError) as refusal:
        paired(tmp_path, one, other, **settings)
    assert message in str(refusal.value)


def test_rain_is_compared_by_its_events(tmp_path: Path) -> None:
    events = (WEIGHT, *(f"{outcome}_1mm" for outcome in OUTCOMES))
    paths = []
    for name, hits in (("one", 6.0), ("other", 8.0)):
        axes = Axes([START], [24.0], [MODEL], ["tp"], ["all"], rain=["tp"], events=events)
        made_of = {"store_fingerprint": "f", "store_name": "store", "grid": {"region": None}}
        with archiving(tmp_path / f"{name}.zarr", axes, made_of) as writer:
            writer.write(START, MODEL, {24.0: {"tp": moments(1, WEIGHTS, 1)}}, ["all"])
            counts = np.array([[WEIGHTS, hits, 10 - hits, 2.0]])
            writer.write(START, MODEL, {24.0: {"tp": counts}}, ["all"], EVENTS)
        paths.append(tmp_path / f"{name}.zarr")
    (row,) = paired(tmp_path, *paths, scores=("csi_1mm",)).rows
    # Hits by hits, misses and false alarms.
    assert row.values == pytest.approx((6 / 12, 8 / 12))
