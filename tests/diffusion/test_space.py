"""Between states and channels: what is drawn and given, worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import torch
from aurora import Batch, Metadata

from kit.diffusion.hours import hour_channels
from kit.diffusion.network import build_network
from kit.diffusion.residuals import perturbation_spread
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.space import DiffusionSpace
from kit.diffusion.spec import DiffusionSpec
from kit.io.errors import CheckpointError

ROWS, COLUMNS = 5, 8
LEVELS = (500, 850)


def described(**settings: Any) -> DiffusionSpec:
    """A rain and a temperature at the surface, winds on two levels, one static field."""
    chosen = DiffusionSettings(width=8, multiples=(1, 2), blocks=1, **settings).resolved(ROWS)
    statistics = {
        "tp": (0.0, 2.0),
        "2t": (280.0, 10.0),
        "u_500": (5.0, 4.0),
        "u_850": (1.0, 2.0),
        "static_z": (0.0, 9.0),
    }
    statics = ("z",) if "statics" in (chosen.given or ()) else ()
    return DiffusionSpec(
        chosen, ("tp", "2t"), ("u",), LEVELS, statics, 2, True, statistics, {"tp": "sqrt"}, 6.0, (ROWS, COLUMNS)
    )


def space_of(spec: DiffusionSpec) -> DiffusionSpace:
    torch.manual_seed(0)
    return DiffusionSpace(build_network(spec, 0), spec, None)


def batch(samples: int = 2, history: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(samples, history, *shape, ROWS, COLUMNS, generator=generator)

    times = tuple(datetime(2020, 4, 1 + sample, 6, tzinfo=UTC) for sample in range(samples))
    return Batch(
        {"2t": 280 + 10 * drawn(), "tp": drawn().abs()},
        {"z": torch.full((ROWS, COLUMNS), 18.0)},
        {"u": drawn(2)},
        Metadata(torch.linspace(60, 20, ROWS), torch.linspace(0, 315, COLUMNS), times, LEVELS),
    )


def test_channels_are_transformed_values_in_the_order_of_the_description() -> None:
    spec = described(of="next")
    assert spec.channels == ("tp", "2t", "u_500", "u_850")
    states = batch()
    values = space_of(spec).values(states)
    assert values.shape == (2, 4, ROWS, COLUMNS)
    torch.testing.assert_close(values[:, 0], states.surf_vars["tp"][:, -1].sqrt())
    assert torch.equal(values[:, 1], states.surf_vars["2t"][:, -1])
    assert torch.equal(values[:, 2:], states.atmos_vars["u"][:, -1])


def test_physical_values_come_back_and_rain_is_never_negative() -> None:
    space = space_of(described(of="next"))
    states = batch()
    surface, atmospheric = space.physical(space.values(states))
    torch.testing.assert_close(surface["tp"], states.surf_vars["tp"][:, -1])
    assert torch.equal(atmospheric["u"], states.atmos_vars["u"][:, -1])
    assert (space.physical(torch.full((1, 4, 2, 2), -3.0))[0]["tp"] == 0).all()


def test_what_is_given_of_the_next_state() -> None:
    spec = described(of="next")
    space, states = space_of(spec), batch()
    given = space.condition(states, None)
    assert given is not None
    # Two states of four channels, one static field, sine and cosine of two phases.
    assert given.shape == (2, spec.conditions, ROWS, COLUMNS) == (2, 2 * 4 + 1 + 4, ROWS, COLUMNS)
    torch.testing.assert_close(given[:, 1], (states.surf_vars["2t"][:, 0] - 280) / 10)
    torch.testing.assert_close(given[:, 5], (states.surf_vars["2t"][:, 1] - 280) / 10)
    torch.testing.assert_close(given[:, 6], (states.atmos_vars["u"][:, 1, 0] - 5) / 4)
    assert torch.equal(given[:, 8], torch.full((2, ROWS, COLUMNS), 2.0))
    # A quarter of a day is a sine of 1.
    torch.testing.assert_close(given[:, 9, 0, 0], torch.ones(2))


NOON, EVENING = math.pi / 365.25, 1.5 * math.pi / 365.25
"""Phases in the year, half a day and three quarters after its beginning."""


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), [0, 1, 0, 1]),
        (datetime(2020, 1, 1, 12, tzinfo=UTC), [0, -1, math.sin(NOON), math.cos(NOON)]),
        (
            datetime(2020, 1, 1, 19, tzinfo=timezone(timedelta(hours=1))),
            [-1, 0, math.sin(EVENING), math.cos(EVENING)],
        ),
    ],
    ids=["midnight", "noon", "evening elsewhere"],
)
def test_hours(time: datetime, expected: list[float]) -> None:
    assert hour_channels(time) == pytest.approx(expected, abs=1e-12)


def test_a_state_is_standardised_over_its_own_space_and_given_to_itself() -> None:
    space = space_of(described(of="state", operator_share=0))
    states = batch()
    constant = dataclasses.replace(states, surf_vars={**states.surf_vars, "tp": torch.zeros(2, 2, ROWS, COLUMNS)})
    example = space.examples(states, constant, [False, False])
    assert example.condition is example.drawn
    torch.testing.assert_close(example.drawn[:, 1:].mean((-2, -1)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(example.drawn[:, 1:].std((-2, -1), correction=0), torch.ones(2, 3))
    # No rain anywhere is no field of noise.
    assert (example.drawn[:, 0] == 0).all()


def test_a_perturbation_moves_all_states_alike() -> None:
    space = space_of(described(of="state", operator_share=0))
    states = batch()
    values = space.values(states)
    own = space.own_scale(values)
    moved = space.perturbed(states, own.standardised(values) + 0.5, own)
    shift = moved.surf_vars["2t"] - states.surf_vars["2t"]
    expected = 0.5 * states.surf_vars["2t"][:, -1].std((-2, -1), correction=0)
    torch.testing.assert_close(shift, expected[:, None, None, None].expand_as(shift), atol=1e-3, rtol=0)
    # The mean of a field that was not moved stays.
    kept = space.perturbed(states, own.standardised(values), own)
    torch.testing.assert_close(kept.atmos_vars["u"], states.atmos_vars["u"], atol=1e-5, rtol=0)


def test_a_residual_is_in_the_units_of_the_store() -> None:
    spec = described(of="residual")
    space = space_of(spec)
    space.model.scale.copy_(torch.tensor([1.0, 0.5, 0.25, 1.0]))
    prediction = batch(history=1)
    values = space.values(prediction)
    corrected = space.corrected(prediction, values, torch.ones_like(values))
    torch.testing.assert_close(corrected.surf_vars["2t"], prediction.surf_vars["2t"] + 0.5 * 10)
    torch.testing.assert_close(corrected.atmos_vars["u"][:, :, 0], prediction.atmos_vars["u"][:, :, 0] + 0.25 * 4)
    # Of rain the root is corrected, by one deviation of 2.
    root = prediction.surf_vars["tp"].sqrt() + 2
    torch.testing.assert_close(corrected.surf_vars["tp"], root**2)


def test_estimates_stay_within_what_training_saw() -> None:
    space = space_of(described(of="next", given=()))
    space.model.bound.fill_(1.5)
    start = torch.randn(2, 4, ROWS, COLUMNS)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    drawn = space.draw(None, start, generators, steps=5)
    # The last step of the solver is an estimate.
    assert drawn.abs().max() <= 1.5 + 1e-5
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_each_sample_is_its_own(sampler: Any) -> None:
    space = space_of(described(of="next", given=(), sampler=sampler))
    for parameter in space.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    start = torch.randn(3, 4, ROWS, COLUMNS)

    def drawn(places: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(place) for place in places]
        return space.draw(None, start[places], generators, steps=6)

    together = drawn([0, 1, 2])
    for place in range(3):
        torch.testing.assert_close(together[place], drawn([place])[0], atol=2e-4, rtol=1e-4)


def test_a_description_comes_back() -> None:
    spec = described(of="residual")
    assert DiffusionSpec.from_dict(spec.as_dict(), "here") == dataclasses.replace(spec, levels=(500.0, 850.0))


@pytest.mark.parametrize(
    "change",
    [
        {"surface": 3},
        {"history": 0},
        {"settings": {"of": "x"}},
        {"settings": {"width": 10**9}},
        {"statistics": {"a": 1}},
    ],
    ids=str,
)
def test_a_damaged_description_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="here: no description of a denoising network that the kit wrote"):
        DiffusionSpec.from_dict({**described(of="next").as_dict(), **change}, "here")


def test_spread_is_among_samples_and_not_what_they_have_in_common() -> None:
    space = space_of(described(of="state", operator_share=0))
    for parameter in space.model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    space.model.bound.fill_(4)
    states = space.examples(batch(), batch(), [False, False]).drawn
    found = perturbation_spread(space, states, 0.5)
    by_hand = []
    for place, state in enumerate(states):
        seeds = (2 * place, 2 * place + 1)
        two = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(state.shape, generator=generator)
            two.append(space.draw(state[None], start[None], [generator], guidance=0.5)[0])
        # The standard deviation of two values is their distance over the root of 2.
        deviation = torch.stack(two).std(0)
        by_hand.append((deviation**2).mean((-2, -1)).sqrt().mean())
    assert found == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-3)
