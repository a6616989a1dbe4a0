"""A windowed transformer for large grids: patches of points become tokens, which attend within windows.

The blocks are those of Peebles and Xie 2023, "Scalable Diffusion Models with Transformers" (adaLN-Zero); windows are
shifted in every other block, as in Liu et al. 2021, "Swin Transformer". Dimensions: B sample, C channel, H row,
W column; of tokens R row, Q column, D channel.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kit.diffusion.layers import channels_read, idle, padded_to, sinusoids

# Longest period of rotations, in tokens (Su et al. 2021, "RoFormer", section 3.3, has 10,000 for words of a text).
_LONGEST_ROTATION = 100.0
_MLP_RATIO = 4


@dataclass(frozen=True)
class TransformerLayout:
    """Sizes of a windowed transformer.

    Attributes:
        channels: Channels of the state.
        conditions: Channels of the condition; 0 without one.
        width: Channels of tokens; a multiple of 4 times the number of heads.
        depth: Blocks.
        heads: Heads of attention.
        patch: Points along each side that become a token.
        window: Tokens along each side that attend to each other; even.
        is_recomputed: Whether blocks are computed again in the backward pass.
        circular: Whether columns go around the globe.
    """

    channels: int
    conditions: int = 0
    width: int = 512
    depth: int = 16
    heads: int = 8
    patch: int = 8
    window: int = 8
    is_recomputed: bool = False
    circular: bool = False


class WindowedTransformer(nn.Module):
    """Predict from a noisy state with its condition and the label of its level.

    Sides of any length: states are continued to the right and below by their last column and row, or around the
    globe, and cropped afterwards. Windows that are shifted beyond a side see the last tokens again.
    """

    def __init__(self, layout: TransformerLayout) -> None:
        super().__init__()
        self.layout = layout
        width = layout.width
        self.labels = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        read = channels_read(layout.channels, layout.conditions)
        self.tokens = nn.Conv2d(read, width, layout.patch, stride=layout.patch)
        self.blocks = nn.ModuleList(_Block(layout, shifted=bool(number % 2)) for number in range(layout.depth))
        self.norm = nn.LayerNorm(width)
        # A prediction of nothing to begin with, whose loss is known.
        self.head = idle(nn.Conv2d(width, layout.channels * layout.patch**2, 1))

    def forward(self, read: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Predict, [B, C, H, W].

        Args:
            read: Noisy states and what is given beside them, [B, C + K + 1, H, W].
            label: Label of each one's level, [B].
        """
        layout, (rows, columns) = self.layout, read.shape[-2:]
        padded = padded_to(read, layout.patch * layout.window, circular=layout.circular)
        described = self.labels(sinusoids(label, layout.width))
        tokens = self.tokens(padded).permute(0, 2, 3, 1)
        for block in self.blocks:
            if layout.is_recomputed and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, described, use_reentrant=False)
            else:
                tokens = block(tokens, described)
        predicted = F.pixel_shuffle(self.head(self.norm(tokens).permute(0, 3, 1, 2)), layout.patch)
        return predicted[..., :rows, :columns]


class _Block(nn.Module):
    """Attention in windows and two layers at each token, both scaled, shifted and gated by the label."""

    def __init__(self, layout: TransformerLayout, *, shifted: bool) -> None:
        super().__init__()
        width = layout.width
        self._shift = layout.window // 2 if shifted else 0
        self._circular = layout.circular
        self.first, self.second = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = _WindowAttention(width, layout.heads, layout.window)
        self.layers = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width)
        )
        # At first a block changes nothing: its gates are closed.
        self.label = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.label.weight)
        nn.init.zeros_(self.label.bias)

    def forward(self, tokens: torch.Tensor, described: torch.Tensor) -> torch.Tensor:
        scales = self.label(F.silu(described))[:, None, None].chunk(6, -1)
        scale, shift, gate = scales[:3]
        tokens = tokens + gate * self._attend(self.first(tokens) * (1 + scale) + shift)
        scale, shift, gate = scales[3:]
        changed: torch.Tensor = tokens + gate * self.layers(self.second(tokens) * (1 + scale) + shift)
        return changed

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        shift = self._shift
        if not shift:
            return cast("torch.Tensor", self.attention(tokens))
        # Half a window more on every side, so that windows lie across those of the block before.
        fields = tokens.permute(0, 3, 1, 2)
        if self._circular:
            fields = torch.cat([fields[..., -shift:], fields, fields[..., :shift]], -1)
            fields = F.pad(fields, (0, 0, shift, shift), mode="replicate")
        else:
            fields = F.pad(fields, (shift, shift, shift, shift), mode="replicate")
        attended = self.attention(fields.permute(0, 2, 3, 1))
        return cast("torch.Tensor", attended[:, shift:-shift, shift:-shift])


class _WindowAttention(nn.Module):
    """Attention of the tokens of each window to each other, which are told where they are by rotations."""

    turns: torch.Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self._heads, self._window = heads, window
        self.queries, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("turns", _turns(window, width // heads), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        samples, rows, columns, width = tokens.shape
        side, heads = self._window, self._heads
        windows = tokens.reshape(samples, rows // side, side, columns // side, side, width)
        windows = windows.transpose(2, 3).reshape(-1, side**2, width)
        three = self.queries(windows).reshape(len(windows), side**2, 3, heads, width // heads)
        query, key, value = three.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(self._turned(query), self._turned(key), value)
        attended = self.out(attended.transpose(1, 2).reshape(len(windows), side**2, width))
        attended = attended.reshape(samples, rows // side, columns // side, side, side, width)
        found: torch.Tensor = attended.transpose(2, 3).reshape(samples, rows, columns, width)
        return found

    def _turned(self, vectors: torch.Tensor) -> torch.Tensor:
        """Turn pairs of channels by their token's place (Su et al. 2021, equation 34)."""
        cosine, sine = self.turns.to(vectors.dtype)
        even, odd = vectors[..., 0::2], vectors[..., 1::2]
        return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _turns(window: int, width: int) -> torch.Tensor:
    """Cosines and sines of a window's tokens, [2, T, width / 2]: half of the pairs by the row, half by the column."""
    pairs = width // 4
    speeds = _LONGEST_ROTATION ** (-torch.arange(pairs) / pairs)
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    angles = torch.cat([place.flatten()[:, None] * speeds for place in (row, column)], 1)
    return torch.stack([angles.cos(), angles.sin()])
