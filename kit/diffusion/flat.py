"""A flat network: convolutions at full resolution, with nothing kept from earlier features.

The architecture of diff-o3-pro (``models/diffusion/ddpm_ultra_minimal.py``), the largest that fitted its authors' card,
to compare others with. Dimensions: B sample, C channel, H row, W column.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kit.diffusion.layers import Norm, channels_read, sinusoids

# Factors of the width after each of the six blocks.
_MULTIPLES = (1, 2, 2, 2, 1, 1)
_GROUPS = 8


class FlatNetwork(nn.Module):
    """Predict from a noisy state with its condition and the label of its level, at every point from those around it.

    Of the reference it differs in the condition, which that has not, and in recomputation, which changes no value.

    Args:
        channels: Channels of the state.
        conditions: Channels of the condition; 0 without one.
        width: Channels of features; 16 has 81,111 parameters for seven variables, 24 has 180,799.
        is_recomputed: Whether the insides of blocks are computed again in the backward pass.
    """

    def __init__(self, channels: int, conditions: int = 0, width: int = 16, *, is_recomputed: bool = False) -> None:
        super().__init__()
        self._width, self._is_recomputed = width, is_recomputed
        described = 4 * width
        self.labels = nn.Sequential(nn.Linear(width, described), nn.SiLU(), nn.Linear(described, described))
        before = channels_read(channels, conditions)
        self.blocks = nn.ModuleList()
        for multiple in _MULTIPLES:
            self.blocks.append(_FlatBlock(before, multiple * width, described))
            before = multiple * width
        self.head = nn.Conv2d(before, channels, 1)

    def forward(self, read: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Predict, [B, C, H, W].

        Args:
            read: Noisy states and what is given beside them, [B, C + K + 1, H, W].
            label: Label of each one's level, [B].
        """
        features = read
        described = self.labels(sinusoids(label, self._width))
        for block in self.blocks:
            if self._is_recomputed and torch.is_grad_enabled():
                features = checkpoint(block, features, described, use_reentrant=False)
            else:
                features = block(features, described)
        predicted: torch.Tensor = self.head(features)
        return predicted


class _FlatBlock(nn.Module):
    """Two convolutions, with the label added between them."""

    def __init__(self, before: int, after: int, described: int) -> None:
        super().__init__()
        self.inward = nn.Conv2d(before, after, 3, padding=1)
        self.outward = nn.Conv2d(after, after, 3, padding=1)
        self.first, self.second = Norm(after, _GROUPS), Norm(after, _GROUPS)
        self.label = nn.Linear(described, after)

    def forward(self, features: torch.Tensor, described: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self.first(self.inward(features))) + self.label(described)[..., None, None]
        found: torch.Tensor = F.silu(self.second(self.outward(inner)))
        return found
