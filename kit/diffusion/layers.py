"""Layers that denoising networks are made of.

Dimensions: B sample, C channel, H row, W column.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

# Most groups of channels, each with its own mean and variance (Wu and He 2018, "Group Normalization", section 4), and
# the fewest channels in one: a channel by itself would lose its mean, which is all that a bias gives it.
_GROUPS, _LEAST_CHANNELS = 32, 4
# Values that describe a label.
_DESCRIBED = 64
# Factor beyond which less noise is told no more exactly: of its errors a tenth comes into a state.
_MOST_FACTOR = 10.0
# Longest period of the sinusoids that labels are described by (Vaswani et al. 2017, section 3.5).
_LONGEST = 10_000.0


Factors = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From labels, [B], to factors of a noisy state and of what is given, [B] each."""


class Norm(nn.GroupNorm):
    """Group normalisation with means and variances in single precision, and results in the precision of what it reads.

    Autocast would keep a copy of the features in single precision for the backward pass, and hand one on.
    """

    def __init__(self, width: int, groups: int | None = None) -> None:
        if groups is None:
            most = max(1, min(_GROUPS, width // _LEAST_CHANNELS))
            groups = max(count for count in range(1, most + 1) if width % count == 0)
        super().__init__(groups, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise features, [B, C, H, W]."""
        weight, bias = self.weight.to(features.dtype), self.bias.to(features.dtype)
        with torch.autocast(features.device.type, enabled=False):
            return F.group_norm(features, self.num_groups, weight, bias, self.eps)


class Convolution(nn.Conv2d):
    """A convolution of 3 x 3 points, around the globe along rows where that is asked for."""

    def __init__(self, before: int, after: int, circular: bool = False, stride: int = 1) -> None:
        super().__init__(before, after, 3, stride, padding=(1, 0) if circular else 1)
        self._circular = circular

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Convolve features, [B, C, H, W]."""
        if self._circular:
            features = torch.cat([features[..., -1:], features, features[..., :1]], -1)
        return super().forward(features)


class Bypass(nn.Module):
    """What is read, scaled by the level of noise and mixed point by point: a way around a network's features.

    At low noise a network has to tell every value of the noise, which is white in all channels and points. Features of
    fewer values than that cannot, behind a stem or of many channels; the noisy state and its condition they have. Of a
    state x that is given, the noise in y = a x + b e is y / b - a x / b: of these factors each channel has its own,
    up to a bound, and what remains of them is learned. Where x is not given, it is smooth beside the noise, and what y
    departs by from an average around each point is most of the noise: of such details some are read, too, and the first
    is taken for the noise to begin with.

    Args:
        channels: Channels that are predicted.
        given: Channels that are read beside them.
        factors: Factors of the noisy state and of what is given, by label, [B] each.
        details: Number of details of the noisy state, each of a smoother field than the one before.
        sign: Sign that noise has in what is predicted.
        circular: Whether columns go around the globe.
    """

    def __init__(
        self, channels: int, given: int, factors: Factors, details: int = 0, sign: int = 1, *, circular: bool = False
    ) -> None:
        super().__init__()
        self._factors, self._channels, self._given = factors, channels, given
        self._circular = circular
        self.labels = nn.Sequential(
            nn.Linear(_DESCRIBED, _DESCRIBED), nn.SiLU(), nn.Linear(_DESCRIBED, _DESCRIBED), nn.SiLU()
        )
        self.gains = nn.Linear(_DESCRIBED, (1 + details) * channels + given)
        nn.init.zeros_(self.gains.weight)
        nn.init.zeros_(self.gains.bias)
        self.mix = idle(nn.Conv2d(channels + given, channels, 1, bias=False))
        self.details = nn.ParameterList(torch.zeros(channels, channels) for _ in range(details))
        for first in self.details[:1]:
            first.data.fill_diagonal_(float(sign))

    def forward(self, read: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Mix what is read, [B, C, H, W], at the levels of labels, [B]."""
        gains = 1 + self.gains(self.labels(sinusoids(label, _DESCRIBED)))
        gains, of_details = gains.tensor_split([self._channels + self._given], 1)
        noisy, beside = (factor.clamp(max=_MOST_FACTOR)[:, None] for factor in self._factors(label))
        factors = torch.cat([noisy.expand(-1, self._channels), beside.expand(-1, self._given)], 1)
        mixed: torch.Tensor = self.mix(read * (gains * factors)[..., None, None].to(read.dtype))
        field = read[:, : self._channels]
        for weights, own in zip(self.details, of_details.split(self._channels, 1), strict=False):
            smooth = smoothed(field, circular=self._circular)
            # Weights are scaled, and not details, of which there are far more.
            told = (weights * (own * noisy)[:, None]) @ (field - smooth).flatten(2)
            mixed, field = mixed + told.unflatten(2, field.shape[-2:]), smooth
        return mixed


def idle(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoids(label: torch.Tensor, width: int) -> torch.Tensor:
    """Describe labels, [B], by sines and cosines of growing periods, [B, width] (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    periods = torch.exp(-math.log(_LONGEST) * torch.arange(half, device=label.device) / half)
    angles = label.float()[:, None] * periods
    return torch.cat([angles.sin(), angles.cos()], 1)


def channels_read(channels: int, conditions: int) -> int:
    """Count the channels that a network reads of states, their conditions, and whether they have any."""
    return channels + conditions + 1 if conditions else channels


def with_condition(
    state: torch.Tensor,
    condition: torch.Tensor | None,
    conditions: int,
    present: torch.Tensor | None = None,
    places: int = 0,
) -> torch.Tensor:
    """Put a condition beside a state, [B, C + K + 1, H, W] of [B, C, H, W] and [B, K, H, W].

    The last channel says which samples have one: a condition that is absent is not one of zeros. A network without
    conditions reads the state alone.

    Args:
        state: Noisy states.
        condition: Conditions; None where no sample has one.
        conditions: Number K of channels that the network reads of conditions; 0 for one without.
        present: Whether each sample has its condition, 1 or 0, [B]; None for all.
        places: Channels at the end of conditions that say where in the grid samples lie, which is never absent.
    """
    if not conditions:
        return state
    samples, _, rows, columns = state.shape
    shape = (samples, 1, rows, columns)
    if condition is None:
        return torch.cat([state, state.new_zeros(samples, conditions + 1, rows, columns)], 1)
    if present is None:
        return torch.cat([state, condition, state.new_ones(shape)], 1)
    there = present.to(state.dtype)[:, None, None, None]
    given, where = condition[:, : conditions - places], condition[:, conditions - places :]
    return torch.cat([state, given * there, where, there.expand(shape)], 1)


def smoothed(fields: torch.Tensor, *, circular: bool) -> torch.Tensor:
    """Average fields, [B, C, H, W], with weights 1, 2, 1 along both sides, continued by their last values."""
    fields = F.pad(fields, (0, 0, 1, 1), mode="replicate")
    fields = (fields[..., :-2, :] + 2 * fields[..., 1:-1, :] + fields[..., 2:, :]) / 4
    fields = F.pad(fields, (1, 1, 0, 0), mode="circular" if circular else "replicate")
    return (fields[..., :-2] + 2 * fields[..., 1:-1] + fields[..., 2:]) / 4


def padded_to(state: torch.Tensor, multiple: int, *, circular: bool) -> torch.Tensor:
    """Continue states, [..., H, W], to the right and below until both sides are multiples of some points."""
    below, right = (-side % multiple for side in state.shape[-2:])
    if right and circular:
        state = torch.cat([state, state[..., :right]], -1)
        right = 0
    if below or right:
        state = F.pad(state, (0, right, 0, below), mode="replicate")
    return state
