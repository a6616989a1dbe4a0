"""Layers of denoising networks."""

import pytest
import torch

from kit.diffusion.layers import Bypass, Convolution, Norm, padded_to


@pytest.mark.parametrize("circular", [False, True])
def test_padding_continues_a_state(circular: bool) -> None:
    state = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded = padded_to(state, 4, circular=circular)
    assert padded.shape[-2:] == (4, 8)
    assert torch.equal(padded[..., :3, :5], state)
    assert padded[0, 0, 3, :5].tolist() == [10, 11, 12, 13, 14]
    assert padded[0, 0, 0, 5:].tolist() == ([0, 1, 2] if circular else [4, 4, 4])
    assert padded_to(padded, 4, circular=circular) is padded


def test_norms_sum_in_single_precision_and_hand_on_what_they_read() -> None:
    torch.manual_seed(0)
    # A mean far from zero: sums of so many values in bf16 would be off by more than their spread.
    features = (3 + torch.randn(2, 8, 64, 64)).bfloat16()
    norm = Norm(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(features)
    assert found.dtype == torch.bfloat16
    expected = torch.nn.functional.group_norm(features.double(), 4, eps=norm.eps)
    # One rounding to eight bits.
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_convolution_goes_around_the_globe(side: int) -> None:
    convolution = Convolution(2, 3, circular=True, side=side)
    state = torch.randn(1, 2, 6, 9)
    found = convolution(state)
    assert found.shape == (1, 3, 6, 9)
    torch.testing.assert_close(convolution(state.roll(4, -1)), found.roll(4, -1))


def test_the_way_around_the_features_tells_noise_from_what_is_smooth() -> None:
    bypass = Bypass(1, 0, lambda label: (torch.ones_like(label), torch.ones_like(label)), 3)
    # What a point departs by from those around it, as a filter of 3 x 3 points has it.
    with torch.no_grad():
        bypass.mix.weight.fill_(-1 / 9)
        bypass.mix.weight[0, 0, 1, 1] += 1
    rows = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(bypass(rows, torch.zeros(1))[..., 1:-1, 1:-1], torch.zeros(1, 1, 6, 6))
