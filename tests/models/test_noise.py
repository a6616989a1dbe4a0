"""Noise by name: of a seed, a member, an initial time and a step, whatever stands beside it."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import torch
from aurora import Batch

from kit.data.dataset import collate
from kit.models.noise import NamedNoise
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from tests.adapt.models import awake_model
from tests.batches import small_spec
from tests.train.test_samples import pairs_of

START = datetime(2020, 1, 1, 6, tzinfo=UTC)
LIKE = torch.zeros(64, 32)


def test_a_name_stands_for_one_draw() -> None:
    drawn = NamedNoise(3, 1).draw(START, 2, LIKE)
    torch.rand(7)  # whatever was drawn elsewhere
    assert torch.equal(drawn, NamedNoise(3, 1).draw(START, 2, LIKE))
    # One moment is one moment, however it is written.
    assert torch.equal(drawn, NamedNoise(3, 1).draw(START.replace(tzinfo=None), 2, LIKE))
    assert torch.equal(drawn, NamedNoise(3, 1).draw(START.astimezone(timezone(timedelta(hours=5))), 2, LIKE))
    assert abs(float(drawn.mean())) < 0.1
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)


def test_other_names_stand_for_other_draws() -> None:
    """Every part of the name counts, and no part runs into the next."""
    names = itertools.product((0, 1, 12), (0, 1, 2, 12), (START, START + timedelta(hours=6)), (0, 1, 2, 11, 12))
    draws = [NamedNoise(seed, member).draw(start, step, LIKE) for seed, member, start, step in names]
    assert len({tuple(drawn[0, :4].tolist()) for drawn in draws}) == len(draws)
    # And with nothing in common: the correlation of 2048 normal numbers is 0 +- 0.022.
    together = torch.stack(draws).flatten(1)
    correlations = torch.corrcoef(together).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 0.12


def test_precisions_share_their_draws() -> None:
    drawn = NamedNoise(0).draw(START, 0, LIKE)
    assert torch.equal(NamedNoise(0).draw(START, 0, LIKE.half()), drawn.half())
    assert torch.equal(NamedNoise(0).draw(START, 0, LIKE.bfloat16()), drawn.bfloat16())


def test_its_amplitude_is_a_factor() -> None:
    drawn = NamedNoise(3, 1).draw(START, 2, LIKE)
    assert torch.equal(NamedNoise(3, 1, amplitude=1.5).draw(START, 2, LIKE), 1.5 * drawn)


STOCHASTIC = {
    "v1p5-ensemble": small_spec("v1p5-ensemble"),
    "stochastic=True": replace(small_spec("small"), arguments={**small_spec("small").arguments, "stochastic": True}),
}


def two_steps(space: TrainingSpace, state: Batch) -> list[dict[str, torch.Tensor]]:
    found = []
    for _ in range(2):
        fields, prediction = space.step(space.inputs(state))
        state = space.advance(state, prediction)
        found.append(fields.surface | fields.atmospheric)
    return found


@pytest.mark.parametrize("spec", STOCHASTIC.values(), ids=STOCHASTIC)
@torch.no_grad()
def test_neither_batch_nor_order_matter(spec: ModelSpec) -> None:
    """Three starts in one batch, alone, and in reversed order: the same members, but for rounding."""
    space = TrainingSpace(awake_model(spec), spec)
    space.noise = NamedNoise(5)
    inputs = [pair.inputs for pair in pairs_of(spec)]
    together = two_steps(space, collate(pairs_of(spec)).inputs)
    backwards = two_steps(space, collate(pairs_of(spec)[::-1]).inputs)
    for index, alone in reversed(list(enumerate(two_steps(space, state) for state in inputs))):
        for step in range(2):
            for name, value in alone[step].items():
                assert float((together[step][name][index] - value[0]).abs().max()) < 1e-5, name
                assert float((backwards[step][name][2 - index] - value[0]).abs().max()) < 1e-5, name
    # That would be no feat if noise did nothing.
    space.noise = NamedNoise(5, member=1)
    other = two_steps(space, inputs[0])
    assert float((other[0]["2t"] - together[0]["2t"][:1]).abs().max()) > 1e-3


@torch.no_grad()
def test_members_beside_each_other_read_each_their_own() -> None:
    spec = STOCHASTIC["v1p5-ensemble"]
    space = TrainingSpace(awake_model(spec), spec)
    members = (3, 1, 3)
    space.noise = NamedNoise(5, members=members)
    together = two_steps(space, collate(pairs_of(spec)).inputs)
    for index, (pair, member) in enumerate(zip(pairs_of(spec), members, strict=True)):
        space.noise = NamedNoise(5, member)
        for step, alone in enumerate(two_steps(space, pair.inputs)):
            for name, value in alone.items():
                assert float((together[step][name][index] - value[0]).abs().max()) < 1e-5, name


@torch.no_grad()
def test_each_step_of_a_roll_out_has_noise_of_its_own() -> None:
    spec = STOCHASTIC["stochastic=True"]
    space = TrainingSpace(awake_model(spec), spec)
    space.noise = NamedNoise(5)
    read: list[torch.Tensor] = []
    handle = space.model.backbone.noise_mlp.register_forward_hook(lambda _, args, __: read.append(args[0]))
    state = pairs_of(spec)[0].inputs
    two_steps(space, state)
    handle.remove()
    (start,) = state.metadata.time
    for step, noise in enumerate(read):
        assert torch.equal(noise[0], NamedNoise(5).draw(start, step, noise[0]))
    # A state in the middle of a roll-out is known by where it began.
    later = dataclasses.replace(state.metadata, time=(start + spec.timestep,), rollout_step=1)
    assert torch.equal(read[1], _read_by(space, dataclasses.replace(state, metadata=later)))


def _read_by(space: TrainingSpace, state: Batch) -> torch.Tensor:
    read: list[torch.Tensor] = []
    with space.model.backbone.noise_mlp.register_forward_hook(lambda _, args, __: read.append(args[0])):
        space.step(space.inputs(state))
    return read[0]


@torch.no_grad()
def test_without_a_name_noise_is_pytorchs_as_it_was() -> None:
    spec = STOCHASTIC["stochastic=True"]
    space = TrainingSpace(awake_model(spec), spec)
    state = pairs_of(spec)[0].inputs
    torch.manual_seed(4)
    read = _read_by(space, state)
    torch.manual_seed(4)
    assert torch.equal(read, torch.randn(read.shape))


@torch.no_grad()
def test_a_model_that_draws_no_noise_does_not_care() -> None:
    spec = small_spec("small")
    space = TrainingSpace(awake_model(spec), spec)
    state = pairs_of(spec)[0].inputs
    plain = space.predict(state)
    space.noise = NamedNoise(5)
    assert torch.equal(plain.surf_vars["2t"], space.predict(state).surf_vars["2t"])
