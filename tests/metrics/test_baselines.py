from __future__ import annotations

import pytest
import torch

from kit.metrics.scores import persistence


def test_persistence_is_the_last_state() -> None:
    surface, air = torch.arange(2.0 * 2 * 3 * 4).view(2, 2, 3, 4), torch.arange(2.0 * 2 * 5 * 3 * 4).view(2, 2, 5, 3, 4)
    forecast = persistence({"2t": surface, "u": air})
    assert torch.equal(forecast["2t"], surface[:, 1])
    assert torch.equal(forecast["u"], air[:, 1])


def test_persistence_needs_a_history() -> None:
    with pytest.raises(ValueError, match=r"2t: expected a history .* got \[2, 3, 4\]"):
        persistence({"2t": torch.zeros(2, 3, 4)})
