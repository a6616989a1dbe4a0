"""The variants of Aurora: which upstream class, and which physical variables each one reads and predicts.

A store holds physical variables only. Some channels of upstream's models are derived from them:

- version 1.5 takes ``scaled_X``, the logarithm of the physical ``X``, ``X_1h``, the ``X`` of the last hour, and
  ``insolation``, which follows from time and place (``aurora/model/aurora.py``, ``AuroraV1p5``);
- the wave model splits ``wind`` and ``dwi`` into ``10u_wave`` and ``10v_wave``, and adds a density channel
  and sines and cosines of angles (``AuroraWave``).
"""

import dataclasses
import inspect
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import aurora
import torch
from aurora import Aurora, AuroraAirPollution, Batch

from kit.io.errors import SettingsError

INSOLATION = "insolation"
_SCALED = "scaled_"
_HOURLY = "_1h"
_WAVE_WIND = ("10u_wave", "10v_wave")

Precision = Literal["fp32", "bf16", "fp16"]
"""Precision of a forward pass."""

T = TypeVar("T")


def keep_names(names: Iterable[T], wanted: Container[Any]) -> tuple[T, ...]:
    """Keep the names, or levels, that are wanted, in their order."""
    return tuple(name for name in names if name in wanted)


def drop_names(names: Iterable[T], unwanted: Container[Any]) -> tuple[T, ...]:
    """Leave out the names, or levels, that are unwanted, and keep the others in their order."""
    return tuple(name for name in names if name not in unwanted)


class SamplewiseAirPollution(AuroraAirPollution):  # type: ignore[misc]
    """Upstream's air-pollution model, each sample of a batch by itself; one sample alone comes out the same."""

    def _post_decoder_hook(self, batch: Batch, pred: Batch) -> Batch:
        # Upstream's hook (microsoft-aurora 2.0.1) takes one past state, [B, H, W], beside heads of [B, 1, H, W]. Their
        # product is [B, B, H, W], of which all later steps read sample 0's past for every sample. With a dimension
        # after the history's, the past state is [B, 1, H, W] as well.
        aligned = dataclasses.replace(
            batch,
            surf_vars={name: states.unsqueeze(2) for name, states in batch.surf_vars.items()},
            atmos_vars={name: states.unsqueeze(2) for name, states in batch.atmos_vars.items()},
        )
        return super()._post_decoder_hook(aligned, pred)


@dataclass(frozen=True)
class Variant:
    """One of upstream's models.

    Attributes:
        name: the kit's name for it.
        constructor: upstream's class, or one that extends it.
        arguments: constructor arguments where the kit departs from upstream's defaults.
        weights: registry name of its own weights: those that upstream publishes, or the kit's.
    """

    name: str
    constructor: type[Aurora]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def default(self, argument: str) -> Any:
        """Look up the value of a constructor argument: the kit's, else that of the nearest class that names it."""
        if argument in self.arguments:
            return self.arguments[argument]
        # Upstream's classes name the arguments that they change, and pass all others on to the class above.
        for cls in self.constructor.__mro__:
            parameter = inspect.signature(cls).parameters.get(argument)
            if parameter is not None:
                return parameter.default
        raise KeyError(argument)

    @property
    def is_official(self) -> bool:
        """Whether upstream publishes the weights."""
        # Each class names its checkpoint on the hub; those of the kit's own have other names.
        return self.weights == Path(self.constructor.default_checkpoint_name).stem

    @property
    def surface(self) -> tuple[str, ...]:
        """Surface channels that the class is constructed with."""
        return tuple(self.default("surf_vars"))

    @property
    def atmospheric(self) -> tuple[str, ...]:
        """Atmospheric channels that the class is constructed with."""
        return tuple(self.default("atmos_vars"))

    @property
    def static(self) -> tuple[str, ...]:
        """Static variables that the class is constructed with."""
        return tuple(self.default("static_vars"))

    @property
    def timestep(self) -> timedelta:
        """Time from the last input state to the prediction."""
        step: timedelta = self.default("timestep")
        return step

    @property
    def output_only(self) -> tuple[str, ...]:
        """Surface channels that are predicted but never read."""
        return tuple(self.default("output_only_surf_vars"))

    @property
    def own_precision(self) -> Precision:
        """Precision in which upstream's class predicts by default."""
        if not self.default("autocast"):
            return "fp32"
        return "fp16" if self.default("autocast_dtype") is torch.float16 else "bf16"

    @property
    def has_rollout_lora(self) -> bool:
        """Whether upstream's class carries its own roll-out LoRA by default."""
        return bool(self.default("use_lora"))

    @property
    def rollout_lora_from_second(self) -> bool:
        """Whether that LoRA acts from the second roll-out step on, so that merging would change the first."""
        return bool(self.default("lora_mode") == "from_second")

    @property
    def is_wave(self) -> bool:
        """Whether absent waves are NaN and angles wrap."""
        return issubclass(self.constructor, aurora.AuroraWave)

    @property
    def is_air_pollution(self) -> bool:
        """Whether some variables are predicted as differences."""
        return issubclass(self.constructor, AuroraAirPollution)

    @property
    def is_v1p5(self) -> bool:
        """Whether channels are log-transformed and insolation is an input."""
        return issubclass(self.constructor, aurora.AuroraV1p5)

    def physical(self, channels: tuple[str, ...]) -> tuple[str, ...]:
        """List the physical surface variables that a store must hold for these surface channels."""
        if self.is_wave and set(_WAVE_WIND) & set(channels):
            kept = drop_names(channels, _WAVE_WIND)
            return (*kept, *drop_names(("wind", "dwi"), kept))
        return tuple(map(self.physical_name, drop_names(channels, (INSOLATION,))))

    def physical_name(self, channel: str) -> str:
        """Translate a channel of version 1.5 into a store's name: ``scaled_tp_1h`` into ``tp``, of the last hour."""
        if not self.is_v1p5:
            return channel
        return channel.removeprefix(_SCALED).removesuffix(_HOURLY)

    def channel_name(self, physical: str) -> str:
        """Translate a store's name into the channel that encodes it, the inverse of ``physical_name``."""
        if not self.is_v1p5:
            return physical
        # A store's name stands for the one channel that encodes it.
        own = self.surface
        for form in (physical, f"{physical}{_HOURLY}", f"{_SCALED}{physical}", f"{_SCALED}{physical}{_HOURLY}"):
            if form in own:
                return form
        return physical


# At least two blocks in a stage, so that windows are shifted in one of them (``aurora/model/swin3d.py``).
_TINY: dict[str, Any] = {
    "encoder_depths": (2, 2),
    "encoder_num_heads": (4, 8),
    "decoder_depths": (2, 2),
    "decoder_num_heads": (8, 4),
    "embed_dim": 96,
    "num_heads": 4,
    "window_size": (2, 4, 4),
    "use_lora": False,
}

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("hres-finetuned", aurora.Aurora, weights="aurora-0.25-finetuned"),
        Variant("pretrained", aurora.AuroraPretrained, weights="aurora-0.25-pretrained"),
        Variant("small", aurora.AuroraSmallPretrained, weights="aurora-0.25-small-pretrained"),
        Variant("12h", aurora.Aurora12hPretrained, weights="aurora-0.25-12h-pretrained"),
        Variant("highres", aurora.AuroraHighRes, weights="aurora-0.1-finetuned"),
        Variant("air-pollution", SamplewiseAirPollution, weights="aurora-0.4-air-pollution"),
        Variant("wave", aurora.AuroraWave, weights="aurora-0.25-wave"),
        Variant("v1p5", aurora.AuroraV1p5, weights="aurora-0.25-v1.5"),
        Variant("v1p5-ensemble", aurora.AuroraV1p5Ensemble, weights="aurora-0.25-v1.5-ensemble"),
        Variant("tiny", aurora.Aurora, arguments=_TINY, weights="aurora-tiny"),
    )
}


def variant_named(name: str) -> Variant:
    """Look up a variant by its name.

    Raises:
        SettingsError: no variant has that name.
    """
    if name not in VARIANTS:
        msg = f"model.variant: expected one of {', '.join(VARIANTS)}, got {name!r}"
        raise SettingsError(msg)
    return VARIANTS[name]
