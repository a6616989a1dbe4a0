"""What the base weights saw: overlaps with validation and test, told in a sentence each."""

from __future__ import annotations

from typing import Any

import pytest

from kit.data.settings import Period
from kit.models.pretraining_periods import PRETRAINING_PERIODS, leaks
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights

STORE = "a" * 64
UPSTREAM = Weights({}, {"name": "w", "file": "f", "sha256": "0"})


def periods(valid: str, test: str) -> dict[str, Period]:
    return {"valid": Period.parse(valid), "test": Period.parse(test)}


def staged(*stages: dict[str, Any]) -> Weights:
    return Weights({}, UPSTREAM.base, {"lineage": list(stages)})


def test_every_variant_is_spoken_of() -> None:
    assert PRETRAINING_PERIODS.keys() == VARIANTS.keys()
    for known in PRETRAINING_PERIODS.values():
        assert all(Period.parse(when).end.year < 2024 and what for what, when in known or ())


@pytest.mark.parametrize(
    ("variant", "valid", "test", "overlaps"),
    (
        ("small", "2023-01-01/2023-12-31", "2024-01-01/2025-12-31", 0),
        ("small", "2020-06-01/2020-12-31", "2021-01-01/2021-12-31", 1),
        ("small", "2020-12-31T18/2021-12-31", "1979-01-01/1979-01-02", 2),
        ("hres-finetuned", "2021-01-01/2021-12-31", "2022-01-01/2022-12-31", 1),
        ("highres", "2022-01-01/2022-12-31", "2023-01-01/2023-12-31", 1),
        ("v1p5", "2023-01-01/2023-12-31", "2024-01-01/2024-12-31", 2),
        ("tiny", "2001-01-01/2020-01-01", "2020-01-02/2020-12-31", 0),
    ),
)
def test_real_states_against_what_is_published(variant: str, valid: str, test: str, overlaps: int) -> None:
    assert len(leaks(variant, UPSTREAM, periods(valid, test), STORE, synthetic=False)) == overlaps
    assert leaks(variant, UPSTREAM, periods(valid, test), STORE, synthetic=True) == []
    assert leaks(variant, None, periods(valid, test), STORE, synthetic=False) == []


def test_the_sentence_says_which_and_when() -> None:
    [told] = leaks("small", UPSTREAM, periods("2020-06-01/2020-12-31", "2021-01-01/2021-12-31"), STORE, synthetic=False)
    assert told.startswith("data.valid (2020-06-01T00:00/2020-12-31T00:00) overlaps what the base weights saw")
    assert "1979-01-01T00:00/2020-12-31T23:59" in told


def test_earlier_stages_count_where_their_data_are_of_the_same_kind() -> None:
    stage = {"method": "lora", "train": "2022-01-01/2022-12-31", "synthetic": False, "base": {"name": "small"}}
    wanted = periods("2022-06-01/2022-06-30", "2024-01-01/2024-12-31")
    [told] = leaks("small", staged(stage), wanted, STORE, synthetic=False)
    assert "an earlier stage (lora)" in told
    assert leaks("small", staged(stage | {"synthetic": True}), wanted, STORE, synthetic=False) == []


def test_weights_from_scratch_saw_nothing_of_upstreams() -> None:
    stage = {"method": "full", "train": "2000-01-01/2000-12-31", "synthetic": False, "base": None}
    assert (
        leaks("small", staged(stage), periods("2019-01-01/2019-12-31", "2020-01-01/2020-12-31"), STORE, synthetic=False)
        == []
    )


@pytest.mark.parametrize(("store", "told"), ((STORE, 1), ("b" * 64, 0), (None, 1)))
def test_made_up_dates_mean_nothing_in_another_store(store: str | None, told: int) -> None:
    stage = {"method": "full", "train": "2001-01-01/2001-06-30", "synthetic": True, "base": None}
    stage["store_sha256"] = store
    wanted = periods("2001-06-01/2001-06-02", "2001-07-01/2001-07-02")
    assert len(leaks("tiny", staged(stage), wanted, STORE, synthetic=True)) == told
