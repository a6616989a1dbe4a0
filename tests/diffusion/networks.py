"""Networks for tests, and what they read."""

from typing import TypeVar

import torch

from kit.diffusion.network import DiffusionModel
from kit.diffusion.transformer import TransformerLayout
from kit.diffusion.unet import UNetLayout

N = TypeVar("N", bound=torch.nn.Module)


def called(network: torch.nn.Module, layout: UNetLayout | TransformerLayout) -> DiffusionModel:
    """Call a network as the kit does, with states and conditions."""
    return DiffusionModel(network, layout.channels, layout.conditions, None)


def woken(network: N, deviation: float) -> N:
    """Move a network's zeros away from zero."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=deviation)
    return network


def drawn_inputs(
    channels: int, conditions: int, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw noisy states, labels and conditions of two samples."""
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(2, channels, rows, columns, generator=generator)
    return state, torch.tensor([3.0, 700.0]), torch.randn(2, conditions, rows, columns, generator=generator)
