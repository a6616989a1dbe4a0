"""Averages of weights: worked by hand, exchanged without a trace, and loaded only where they belong."""

import pytest
import torch

from kit.io.errors import CheckpointError
from kit.train.average import WeightAverage


def parameters(*values: float) -> dict[str, torch.nn.Parameter]:
    return {f"p{number}": torch.nn.Parameter(torch.tensor([value])) for number, value in enumerate(values)}


def move(held: dict[str, torch.nn.Parameter], name: str, value: float) -> None:
    with torch.no_grad():
        held[name].fill_(value)


def test_an_average_worked_by_hand() -> None:
    held = parameters(1.0)
    average = WeightAverage(held, 0.5)
    # Decays are min(0.5, 2/11, 3/12, 4/13): a young average forgets its beginning.
    due = 1.0
    for step, (value, decay) in enumerate(((3.0, 2 / 11), (2.0, 3 / 12), (-1.0, 4 / 13)), 1):
        move(held, "p0", value)
        average.update(step)
        due = decay * due + (1 - decay) * value
        assert average.state_dict()["p0"].item() == pytest.approx(due, rel=1e-5)
    move(held, "p0", 5.0)
    average.update(10_000)
    assert average.state_dict()["p0"].item() == pytest.approx(0.5 * due + 0.5 * 5.0, rel=1e-5)


def test_parameters_have_their_averages_for_a_while() -> None:
    held = parameters(1.0, 10.0)
    average = WeightAverage(held, 0.9)
    move(held, "p0", 2.0)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with average.in_place():
        assert held["p0"].item() == 1.0
        assert held["p1"].item() == 10.0
    assert held["p0"].item() == 2.0
    assert all(torch.equal(before[name], value) for name, value in average.state_dict().items())


def test_the_average_of_other_parameters_is_refused() -> None:
    average = WeightAverage(parameters(1.0), 0.9)
    for state in ({}, {"p1": torch.zeros(1)}, {"p0": torch.zeros(2)}):
        with pytest.raises(CheckpointError, match="start a new run"):
            average.load_state_dict(state)
    average.load_state_dict({"p0": torch.tensor([7.0])})
    assert average.state_dict()["p0"].item() == 7.0
