"""Layers of denoising networks."""

import pytest
import torch

from kit.diffusion.denoiser import Denoiser, Target, bypass_factors
from kit.diffusion.layers import Bypass, Norm, padded_to, smoothed
from kit.diffusion.schedules import Edm, VariancePreserving, cosine


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


def test_averages_have_binomial_weights() -> None:
    field = torch.zeros(1, 1, 5, 6)
    field[0, 0, 2, 0] = 16
    around, box = (smoothed(field, circular=circular)[0, 0] for circular in (True, False))
    assert around[1].tolist() == [2, 1, 0, 0, 0, 1]
    assert around[2].tolist() == [4, 2, 0, 0, 0, 2]
    # Beyond the side is the same value again.
    assert box[2].tolist() == [6, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("sign", [1, -1])
def test_details_are_taken_for_noise_to_begin_with(sign: int) -> None:
    bypass = Bypass(2, 1, lambda label: (2 * torch.ones_like(label), torch.ones_like(label)), 2, sign)
    read = torch.randn(1, 3, 6, 9)
    expected = sign * 2 * (read[:, :2] - smoothed(read[:, :2], circular=False))
    torch.testing.assert_close(bypass(read, torch.zeros(1)), expected)


@pytest.mark.parametrize(("target", "schedule"), [("v", cosine()), ("noise", cosine()), ("edm", Edm())])
def test_noise_on_smooth_states_is_told_without_training(target: Target, schedule: VariancePreserving | Edm) -> None:
    sign = -1 if target == "edm" else 1
    bypass = Bypass(1, 0, lambda label: bypass_factors(target, schedule.labelled(label)), 1, sign)
    denoiser = Denoiser(lambda noisy, label, *_: bypass(noisy, label), target)
    waves = torch.sin(torch.arange(64.0) / 16)
    state, noise = waves[:, None] * waves, torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = schedule.quantiles(torch.tensor([0.2]))
    predicted, due = denoiser.compare(state[None, None], noise, levels)
    # Of white noise an average with these weights leaves 9/64, which is not told.
    assert float(((predicted - due) ** 2).mean().detach()) < 0.25
