"""Leakage: dates of training and validation, counted; what is not recorded is unknown, never none."""

from typing import Any

import pytest

from kit.data.dataset import Pairs, Selection
from kit.data.grid import Grid
from kit.verification.evaluation import Scoring
from kit.verification.leakage import find_leakage
from kit.verification.regions import regions_on
from tests.factories import synthetic_store


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Scoring:
    """Starts from 2020-01-01 06 to 2020-01-02 06 UTC, with two input states and two steps of 6 hours."""
    store = synthetic_store(tmp_path_factory.mktemp("leakage") / "store", times=8, height=8, width=16)
    selection = Selection(
        inputs=("2t",),
        targets=("2t",),
        atmospheric=(),
        static=(),
        levels=(),
        history=2,
        timestep=store.times[1].item() - store.times[0].item(),
        grid=Grid((0, 8), (0, 16), (0, 0)),
    )
    pairs = Pairs(store, selection, store.period, steps=2)
    return Scoring(pairs, regions_on(("all",), store.latitude, store.longitude))


def described(*stages: dict[str, Any], variant: str = "tiny", **more: Any) -> dict[str, Any]:
    return {"model": {"variant": variant}, "lineage": list(stages), **more}


def stage(train: str, *, base: object = None, **more: Any) -> dict[str, Any]:
    return {"method": "full", "steps": 1, "base": base, "train": train, "synthetic": True, **more}


def test_starts_inputs_and_targets_are_counted(scoring: Scoring) -> None:
    assert len(scoring.times) == 5
    found = find_leakage(
        described(stage("2020-01-01T00:00/2020-01-01T12:00"), data={"valid": "2020-01-02T18:00/2020-01-02T18:00"}),
        scoring,
        synthetic=True,
    )
    train, valid = found
    # Starts at 06 and 12; inputs at 00, 06 and 12; of the targets, from 12 on, the first.
    assert train == {
        "stage": "stage 1 (full)",
        "split": "train",
        "period": "2020-01-01T00:00/2020-01-01T12:00",
        "start": 2,
        "inputs": 3,
        "targets": 1,
    }
    assert (valid["split"], valid["start"], valid["inputs"], valid["targets"]) == ("valid", 0, 0, 1)


def test_real_states_of_the_same_dates_are_others(scoring: Scoring) -> None:
    train, _ = find_leakage(described(stage("2020/2020")), scoring, synthetic=False)
    assert (train["start"], train["inputs"], train["targets"]) == (0, 0, 0)


@pytest.mark.parametrize("same", (True, False))
def test_made_up_states_of_another_store_are_others(scoring: Scoring, same: bool) -> None:
    store = scoring.pairs.store.fingerprint() if same else "b" * 64
    train, valid = find_leakage(described(stage("2020/2020", store_sha256=store)), scoring, synthetic=True)
    assert train["start"] == (5 if same else 0)
    # When it validated is not recorded, and matters in the same store alone.
    assert valid["start"] == ("unknown" if same else 0)


@pytest.mark.parametrize("recorded", [None, "yesterday", "2020-13-01/2020-14-01"])
def test_what_is_not_recorded_is_unknown(scoring: Scoring, recorded: str | None) -> None:
    earlier = stage("2019/2019")
    earlier["train"] = recorded
    found = find_leakage(described(earlier, stage("2019/2019", valid="2019/2019")), scoring, synthetic=True)
    first_train, first_valid, train, valid = found
    for unknown in (first_train, first_valid):
        assert {unknown[key] for key in ("period", "start", "inputs", "targets")} == {"unknown"}
    assert (train["start"], valid["start"]) == (0, 0)


def test_published_weights_saw_what_was_published(scoring: Scoring) -> None:
    fine_tuned = described(stage("2019/2019", base={"name": "b"}, synthetic=False), variant="hres-finetuned")
    found = {(entry["stage"], entry["split"]): entry for entry in find_leakage(fine_tuned, scoring, synthetic=False)}
    assert found["base: ERA5 and others of the pretraining", "train"]["start"] == 5
    assert found["base: HRES", "train"]["period"] == "2016-01-01T00:00/2021-12-31T23:59"
    assert found["base", "valid"]["start"] == "unknown"
    assert found["stage 1 (full)", "train"]["start"] == 0
    unpublished = find_leakage(described(variant="tiny"), scoring, synthetic=False)
    assert [(entry["stage"], entry["period"]) for entry in unpublished] == [("base", "unknown")] * 2


def test_stages_behind_an_average_are_listed(scoring: Scoring) -> None:
    average = {"method": "average", "of": [{"lineage": [stage("2020/2020")]}, {"lineage": [stage("2019/2019")]}]}
    found = find_leakage(described(average), scoring, synthetic=True)
    assert [entry["start"] for entry in found if entry["split"] == "train"] == [5, 0]


def test_of_an_unknown_model_nothing_is_known(scoring: Scoring) -> None:
    (entry,) = find_leakage(None, scoring, synthetic=True)
    assert entry == {"stage": "the forecasts' model", "split": "train"} | dict.fromkeys(
        ("period", "start", "inputs", "targets"), "unknown"
    )
