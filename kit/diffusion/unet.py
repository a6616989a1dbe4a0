"""A U-Net for large grids: patches of points become channels before anything else is computed.

Of 1059 x 1799 points, features at full resolution are what memory goes to; behind a stem of 4 x 4 points there are a
sixteenth of them. Dimensions: B sample, C channel, H row, W column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kit.diffusion.layers import Convolution, Norm, channels_read, idle, padded_to, sinusoids

_HEAD = 64
"""Channels of an attention head, or the next more by which the features can be shared out."""


@dataclass(frozen=True)
class UNetLayout:
    """Sizes of a U-Net.

    Attributes:
        channels: Channels of the state.
        conditions: Channels of the condition; 0 without one.
        width: Channels of features at the finest level.
        multiples: Factor of the width at each level, from the finest on; each level has half the points of the one
            before along both sides.
        blocks: Residual blocks of each level, on the way down and on the way up one more.
        stem: Points along each side that become one.
        attention: Levels from the coarsest on that have attention.
        recomputed: Levels from the finest on whose features are computed again in the backward pass.
        circular: Whether columns go around the globe.
    """

    channels: int
    conditions: int = 0
    width: int = 96
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    stem: int = 1
    attention: int = 1
    recomputed: int = 0
    circular: bool = False

    @property
    def multiple(self) -> int:
        """Number of points that both sides are padded to multiples of."""
        return int(self.stem * 2 ** (len(self.multiples) - 1))


class UNet(nn.Module):
    """Predict from a noisy state with its condition and the label of its level.

    Sides of any length: states are continued to the right and below by their last column and row, or around the
    globe, and cropped afterwards. Convolutions read zeros beyond the sides, and around the globe what is there.
    """

    def __init__(self, layout: UNetLayout) -> None:
        super().__init__()
        self.layout = layout
        described = 4 * layout.width
        self.labels = nn.Sequential(nn.Linear(layout.width, described), nn.SiLU(), nn.Linear(described, described))
        read = channels_read(layout.channels, layout.conditions)
        widths = [layout.width * multiple for multiple in layout.multiples]
        self.stem = Convolution(read * layout.stem**2, widths[0], layout.circular)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before, kept = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            self.down.append(_Down(before, width, level, layout))
            kept += [width] * (layout.blocks + (level < len(widths) - 1))
            before = width
        self.middle = nn.ModuleList([_Block(before, before, layout, attends=True), _Block(before, before, layout)])
        for level, width in reversed(list(enumerate(widths))):
            beside = [kept.pop() for _ in range(layout.blocks + 1)]
            self.up.append(_Up(before, beside, width, level, layout))
            before = width
        self.norm = Norm(before)
        # A prediction of nothing to begin with, whose loss is known.
        self.head = idle(Convolution(before, layout.channels * layout.stem**2, layout.circular))

    def forward(self, read: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Predict, [B, C, H, W].

        Args:
            read: Noisy states and what is given beside them, [B, C + K + 1, H, W].
            label: Label of each one's level, [B].
        """
        layout, (rows, columns) = self.layout, read.shape[-2:]
        padded = padded_to(read, layout.multiple, circular=layout.circular)
        described = self.labels(sinusoids(label, layout.width))
        features = self.stem(F.pixel_unshuffle(padded, layout.stem))
        kept = [features]
        for down in self.down:
            kept += down(kept[-1], described)
        features = kept[-1]
        for block in self.middle:
            features = block(features, described)
        for up in self.up:
            features = up(features, kept, described)
        predicted = F.pixel_shuffle(self.head(F.silu(self.norm(features))), layout.stem)
        return predicted[..., :rows, :columns]


class _Level(nn.Module):
    """Blocks of one level, whose features are kept, or computed again where they are needed."""

    def __init__(self, level: int, layout: UNetLayout) -> None:
        super().__init__()
        self._is_recomputed = level < layout.recomputed
        self._attends = level >= len(layout.multiples) - layout.attention
        self.blocks = nn.ModuleList()

    def _through(self, block: nn.Module, features: torch.Tensor, described: torch.Tensor) -> torch.Tensor:
        if self._is_recomputed and torch.is_grad_enabled():
            return cast("torch.Tensor", checkpoint(block, features, described, use_reentrant=False))
        return cast("torch.Tensor", block(features, described))


class _Down(_Level):
    """A level on the way down, and the step to the next one with half of the points along both sides."""

    def __init__(self, before: int, width: int, level: int, layout: UNetLayout) -> None:
        super().__init__(level, layout)
        for _ in range(layout.blocks):
            self.blocks.append(_Block(before, width, layout, attends=self._attends))
            before = width
        self.coarser: nn.Module | None = None
        if level < len(layout.multiples) - 1:
            self.coarser = Convolution(width, width, layout.circular, stride=2)

    def forward(self, features: torch.Tensor, described: torch.Tensor) -> list[torch.Tensor]:
        """Return all features on the way, which the way up reads too."""
        found = []
        for block in self.blocks:
            features = self._through(block, features, described)
            found.append(features)
        if self.coarser is not None:
            found.append(self.coarser(features))
        return found


class _Up(_Level):
    """A level on the way up, and the step to the next one with twice the points."""

    def __init__(self, before: int, beside: Sequence[int], width: int, level: int, layout: UNetLayout) -> None:
        super().__init__(level, layout)
        for kept in beside:
            self.blocks.append(_Block(before + kept, width, layout, attends=self._attends))
            before = width
        self.finer: nn.Module | None = None
        if level > 0:
            self.finer = Convolution(width, width, layout.circular)

    def forward(self, features: torch.Tensor, kept: list[torch.Tensor], described: torch.Tensor) -> torch.Tensor:
        """Go on, with the last of what the way down kept, which is taken away."""
        for block in self.blocks:
            features = self._through(block, torch.cat([features, kept.pop()], 1), described)
        if self.finer is None:
            return features
        return cast("torch.Tensor", self.finer(F.interpolate(features, scale_factor=2.0, mode="nearest")))


class _Block(nn.Module):
    """A residual block (He et al. 2016) whose features are scaled and shifted by the label, with attention or not."""

    def __init__(self, before: int, after: int, layout: UNetLayout, *, attends: bool = False) -> None:
        super().__init__()
        self.first, self.second = Norm(before), Norm(after)
        self.inward = Convolution(before, after, layout.circular)
        # At first a block changes nothing.
        self.outward = idle(Convolution(after, after, layout.circular))
        self.label = nn.Linear(4 * layout.width, 2 * after)
        self.past = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.attention = _Attention(after) if attends else nn.Identity()

    def forward(self, features: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        inner = self.inward(F.silu(self.first(features)))
        scale, shift = self.label(F.silu(label))[..., None, None].chunk(2, 1)
        inner = self.outward(F.silu(self.second(inner) * (1 + scale) + shift))
        found: torch.Tensor = self.attention(self.past(features) + inner)
        return found


class _Attention(nn.Module):
    """Attention of all points to all points, in heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        most = max(1, width // _HEAD)
        self.heads = max(count for count in range(1, most + 1) if width % count == 0)
        self.norm = Norm(width)
        self.queries = nn.Conv2d(width, 3 * width, 1)
        self.out = idle(nn.Conv2d(width, width, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        samples, width, rows, columns = features.shape
        three = self.queries(self.norm(features)).reshape(samples, 3, self.heads, width // self.heads, rows * columns)
        query, key, value = three.transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        found: torch.Tensor = features + self.out(attended.reshape(samples, width, rows, columns))
        return found
