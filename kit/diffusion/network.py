"""Denoising networks by their settings, behind one way of calling them.

Dimensions: B sample, C channel, H row, W column.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from kit.diffusion.denoiser import Target, bypass_factors
from kit.diffusion.flat import FlatNetwork
from kit.diffusion.layers import Bypass, channels_read, padded_to, with_condition
from kit.diffusion.package import diffusers_class
from kit.diffusion.schedules import Edm, VariancePreserving, schedule_named
from kit.diffusion.settings import DiffusionSettings, NetworkKind
from kit.diffusion.spec import DiffusionSpec
from kit.diffusion.transformer import TransformerLayout, WindowedTransformer
from kit.diffusion.unet import UNet, UNetLayout
from kit.io.errors import SettingsError


class DiffusionModel(nn.Module):
    """A denoising network and the scales of what it draws: what trains, and what a checkpoint holds.

    Attributes:
        scale: Of residuals, in standard deviations of the states, [C]; 1 of everything else.
        bound: Largest size of what is drawn, standardised, that training saw, [C].
    """

    scale: torch.Tensor
    bound: torch.Tensor

    def __init__(
        self, network: nn.Module, channels: int, conditions: int, bypass: Bypass | None, places: int = 0
    ) -> None:
        super().__init__()
        self.network = network
        self._conditions, self._places = conditions, places
        self.bypass = bypass
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("bound", torch.full((channels,), math.inf))

    def forward(
        self,
        state: torch.Tensor,
        label: torch.Tensor,
        condition: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict, [B, C, H, W].

        Args:
            state: Noisy states, [B, C, H, W].
            label: Label of each one's level, [B].
            condition: Conditions, [B, K, H, W]; None without.
            present: Whether each sample has its condition, 1 or 0, [B]; None for all.
        """
        read = with_condition(state, condition, self._conditions, present, self._places)
        predicted: torch.Tensor = self.network(read, label)
        if self.bypass is not None:
            predicted = predicted + self.bypass(read, label)
        return predicted


def build_network(spec: DiffusionSpec, recomputed: int) -> DiffusionModel:
    """Build a network, with random weights on the CPU.

    Args:
        spec: Description of it.
        recomputed: Levels of a U-Net, from the finest on, that are computed again in the backward pass; of other
            networks, 0 for none and anything else for all blocks.

    Raises:
        SettingsError: there is no such network, or its package is missing.
    """
    kind = spec.settings.network
    network = _NETWORKS[kind](spec, recomputed)
    bypass, channels = None, len(spec.channels)
    if kind in _BYPASSED and spec.settings.of != "mean":
        schedule, target = schedule_named(spec.settings.schedule, spec.settings.timesteps), spec.settings.target
        factors = partial(_factors, schedule, target or "noise")
        beside = channels_read(channels, spec.conditions) - channels
        # EDM's network predicts the state, in which noise is what is too much (Karras et al. 2022, equation 7).
        sign = -1 if target == "edm" else 1
        bypass = Bypass(channels, beside, factors, spec.settings.details or 0, sign, circular=spec.wraps)
    return DiffusionModel(network, channels, spec.conditions, bypass, spec.places)


def _factors(
    schedule: VariancePreserving | Edm, target: Target, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return bypass_factors(target, schedule.labelled(labels))


def _unet(spec: DiffusionSpec, recomputed: int) -> nn.Module:
    sizes = _sizes(spec.settings, "width", "multiples", "blocks", "stem", "attention")
    return UNet(UNetLayout(len(spec.channels), spec.conditions, recomputed=recomputed, circular=spec.wraps, **sizes))


def _transformer(spec: DiffusionSpec, recomputed: int) -> nn.Module:
    sizes = _sizes(spec.settings, "width", "depth", "heads", "patch", "window")
    if sizes["width"] % (4 * sizes["heads"]):
        msg = (
            f"diffusion.width {sizes['width']}: expected a multiple of 4 times the heads, {4 * sizes['heads']}; choose "
            "another width, or diffusion.heads"
        )
        raise SettingsError(msg)
    layout = TransformerLayout(
        len(spec.channels), spec.conditions, is_recomputed=recomputed > 0, circular=spec.wraps, **sizes
    )
    return WindowedTransformer(layout)


def _flat(spec: DiffusionSpec, recomputed: int) -> nn.Module:
    width = spec.settings.width or 0
    return FlatNetwork(len(spec.channels), spec.conditions, width, is_recomputed=recomputed > 0)


class _UNet2D(nn.Module):
    """``UNet2DModel`` of ``diffusers`` on grids of any size."""

    def __init__(self, spec: DiffusionSpec, recomputed: int) -> None:
        super().__init__()
        sizes = _sizes(spec.settings, "width", "multiples", "blocks", "attention")
        levels = len(sizes["multiples"])
        plain = levels - sizes["attention"]
        down = ["DownBlock2D" if level < plain else "AttnDownBlock2D" for level in range(levels)]
        up = ["UpBlock2D" if level < plain else "AttnUpBlock2D" for level in reversed(range(levels))]
        self._multiple = 2 ** (levels - 1)
        self._circular = spec.wraps
        self.network = diffusers_class("UNet2DModel", "diffusion.network unet2d")(
            in_channels=channels_read(len(spec.channels), spec.conditions),
            out_channels=len(spec.channels),
            layers_per_block=sizes["blocks"],
            block_out_channels=tuple(sizes["width"] * multiple for multiple in sizes["multiples"]),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            norm_num_groups=8,
        )
        if recomputed:
            self.network.enable_gradient_checkpointing()

    def forward(self, read: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Predict, [B, C, H, W]."""
        rows, columns = read.shape[-2:]
        padded = padded_to(read, self._multiple, circular=self._circular)
        predicted: torch.Tensor = self.network(padded, label).sample
        return predicted[..., :rows, :columns]


def _sizes(settings: DiffusionSettings, *names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}


# The others are to be what they are elsewhere.
_BYPASSED: tuple[NetworkKind, ...] = ("unet", "transformer")
_NETWORKS: dict[NetworkKind, Callable[[DiffusionSpec, int], nn.Module]] = {
    "unet": _unet,
    "unet2d": _UNet2D,
    "transformer": _transformer,
    "flat": _flat,
}
