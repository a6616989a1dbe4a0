"""Power of fields whose waves are known, and a perfect network's samples beside a poor one's."""

from __future__ import annotations

import math

import pytest
import torch

from kit.diffusion.quality import LEVELS, fine_ratio, power, sample_quality
from kit.diffusion.space import Example
from tests.diffusion.test_space import COLUMNS, ROWS, described, space_of


@pytest.mark.parametrize("wavelength", [4, 8, 16])
def test_a_wave_has_its_power_at_its_wavelength(wavelength: int) -> None:
    columns = torch.arange(64)
    wave = 3 * torch.cos(2 * math.pi * columns / wavelength)
    wavelengths, found = power(wave.expand(2, 5, 64, 64), circular=True)
    strongest = wavelengths[int(found.argmax())]
    assert strongest.item() == pytest.approx(wavelength, rel=0.02)
    # Half of the squared amplitude, times the mean square of Hann's window, 3/8 of which some is beside the wave.
    near = (wavelengths > wavelength / 1.5) & (wavelengths < wavelength * 1.5)
    assert found[near].sum().item() == pytest.approx(9 / 2 * 3 / 8, rel=0.05)


def test_white_noise_has_as_much_power_fine_as_its_share_of_waves() -> None:
    noise = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    wavelengths, found = power(noise, circular=False)
    # The number of waves grows with the wavenumber, and so does their power.
    assert found[19].item() == pytest.approx(2 * found[9].item(), rel=0.1)
    assert fine_ratio(wavelengths, 2 * found, found) == pytest.approx(2)


def test_an_idle_network_and_what_is_told_of_it() -> None:
    spec = described(of="next", given=(), schedule="linear")
    space = space_of(spec)
    space.model.bound.fill_(3)
    example = Example(torch.randn(2, len(spec.channels), ROWS, COLUMNS), None)
    found = sample_quality(space, example)
    assert [share for share, _ in found["loss"]] == [(part + 0.5) / LEVELS for part in range(LEVELS)]
    # It predicts no noise where there is noise of variance 1.
    assert all(loss == pytest.approx(1, abs=0.25) for _, loss in found["loss"])
    assert len(found["fields"]["shown"]) == 4
    assert len(found["fields"]["target"]) == ROWS
    assert len(found["fields"]["target"][0]) == COLUMNS
    assert len(found["power"]["wavelength"]) == len(found["power"]["target"]) == len(found["power"]["sample"])
    assert found["fine"] > 0
    assert found["fine_by_channel"].keys() == set(spec.channels)
    ratios = found["fine_by_channel"].values()
    assert min(ratios) <= found["fine"] <= max(ratios)
