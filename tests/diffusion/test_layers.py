"""Layers of denoising networks."""

import pytest
import torch

from kit.diffusion.layers import padded_to


@pytest.mark.parametrize("circular", [False, True])
def test_padding_continues_a_state(circular: bool) -> None:
    state = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded = padded_to(state, 4, circular=circular)
    assert padded.shape[-2:] == (4, 8)
    assert torch.equal(padded[..., :3, :5], state)
    assert padded[0, 0, 3, :5].tolist() == [10, 11, 12, 13, 14]
    assert padded[0, 0, 0, 5:].tolist() == ([0, 1, 2] if circular else [4, 4, 4])
    assert padded_to(padded, 4, circular=circular) is padded
