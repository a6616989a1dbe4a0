"""The course of a replay buffer: who is drawn, who grows older, and who is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from kit.train.tasks.replay_sampler import Draw, draws

NEVER = 10**9


def course(count: int, *, reach: tuple[int, ...] = (4,) * 5, **options: Any) -> list[Draw]:
    """The first batches; without refreshing unless told."""
    return list(islice(draws(reach, **{"size": 4, "refresh": NEVER, "batch_size": 1, **options}), count))


def test_the_only_item_grows_older_until_its_end_and_the_next_pair_follows() -> None:
    found = course(9, reach=(3,) * 5, size=1)
    assert [draw.depth for draw in found] == [0, 1, 2] * 3
    assert [draw.goes_on for draw in found] == [(True,), (True,), (False,)] * 3
    first, second, third = ([draw.pairs for draw in found[k : k + 3]] for k in (0, 3, 6))
    assert len(set(first)) == len(set(second)) == len(set(third)) == 1
    assert len({first[0], second[0], third[0]}) == 3  # an epoch has each of the five pairs once


def test_an_item_ends_where_its_targets_end() -> None:
    reach = (1, 4, 2)
    found = course(7 * 4, reach=reach, size=1)
    lives = {draw.pairs[0]: draw.depth for draw in found if draw.goes_on == (False,)}
    assert lives == {0: 0, 1: 3, 2: 1}
    # Four epochs of 1 + 4 + 2 steps.
    assert [sum(draw.pairs == (pair,) for draw in found) for pair in range(3)] == [4, 16, 8]


@pytest.mark.parametrize("refresh", (1, 2, 3))
def test_a_fresh_item_comes_after_so_many_optimiser_steps_exactly(refresh: int) -> None:
    found = course(12, reach=(NEVER,) * 5, size=1, refresh=refresh)
    assert [draw.depth for draw in found] == [step % refresh for step in range(12)]
    # Batches of one optimiser step count once.
    found = course(12, reach=(NEVER,) * 5, size=2, refresh=refresh, accumulate=2)
    age = {0: 0, 1: 0}
    fresh = 0
    for draw in found:
        (slot,) = draw.slots
        fresh += draw.depth < age[slot]
        age[slot] = draw.depth + 1
    assert fresh == 5 // refresh


def test_the_course_follows_from_the_seed_and_can_be_entered_anywhere() -> None:
    options: dict[str, Any] = {"refresh": 3, "batch_size": 2, "size": 5, "accumulate": 2}
    whole = course(40, **options)
    assert course(40, **options) == whole
    assert list(islice(draws((4,) * 5, seed=0, **options), 17, 40)) == whole[17:]
    assert course(40, **options, seed=1) != whole


def lives(found: list[Draw]) -> Iterator[tuple[Draw, int, int | None]]:
    """Each drawn item with the age that it would have if nothing had replaced it."""
    age: dict[int, int] = {}
    for draw in found:
        for slot, goes_on in zip(draw.slots, draw.goes_on, strict=True):
            yield draw, slot, age.get(slot)
            age[slot] = draw.depth + 1 if goes_on else 0


def test_a_batch_is_of_one_age_and_every_age_is_drawn() -> None:
    found = course(400, size=8, batch_size=3, refresh=10)
    assert {draw.depth for draw in found} == {0, 1, 2, 3}
    assert max(len(draw.slots) for draw in found) == 3
    for draw, _, age in lives(found):
        assert draw.depth in (age or 0, 0)
        assert len(set(draw.slots)) == len(draw.slots)
    # Where nothing is replaced early, ages are drawn alike: items go through all of them.
    counts = [0] * 4
    for draw in course(2000, size=8):
        counts[draw.depth] += 1
    assert all(450 < count < 550 for count in counts)


def test_the_batches_of_an_optimiser_step_share_no_item() -> None:
    found = course(60, size=6, batch_size=2, accumulate=3)
    for step in range(0, 60, 3):
        slots = [slot for draw in found[step : step + 3] for slot in draw.slots]
        assert len(set(slots)) == len(slots)
