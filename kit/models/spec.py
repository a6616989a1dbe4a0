"""The description of a model: everything needed to build it again on another machine, as ``kit.json`` holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import torch
from aurora import Aurora, Batch
from aurora.model.patchembed import LevelPatchEmbed

from kit.data.store.format import STATIC_PREFIX
from kit.models.heads import TwoPart, parse_heads
from kit.models.statistics import Statistics
from kit.models.variants import Variant, drop_names, keep_names, variant_named

RolloutLora = Literal["merged", "kept"]


@dataclass(frozen=True)
class ModelSpec:
    """A variant with its variables, levels and statistics.

    Attributes:
        variant: the kit's name of the variant.
        surface: surface channels of the model, under upstream's names.
        static: static variables.
        atmospheric: atmospheric variables.
        levels: pressure levels in hPa for which there are statistics.
        history: states that the model reads.
        timestep: time from the last input state to the prediction.
        statistics: location and scale of every channel.
        rollout_lora: whether upstream's roll-out LoRA was merged or kept; None where there is none.
        arguments: further constructor arguments, over the variant's own.
        added: variables that the weights below lack, by a store's names; static ones with their prefix.
        never_read: surface variables beyond the variant's own that are predicted and never read.
        transforms: of physical values before normalisation, by variable, as ``kit.models.transforms`` writes them.
        heads: of variables that have more than one number to say, as ``kit.models.heads`` writes them.
    """

    variant: str
    surface: tuple[str, ...]
    static: tuple[str, ...]
    atmospheric: tuple[str, ...]
    levels: tuple[int | float, ...]
    history: int
    timestep: timedelta
    statistics: Statistics
    rollout_lora: RolloutLora | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    never_read: tuple[str, ...] = ()
    transforms: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)

    @property
    def derived(self) -> frozenset[str]:
        """Surface channels that heads add; no store holds them."""
        return frozenset(key for name, head in parse_heads(self.heads).items() for key in head.channels(name))

    @property
    def leaves_points_out(self) -> bool:
        """Whether losses leave points out: waves are not everywhere, and amounts of rain are where it rains."""
        return self.upstream.is_wave or any(isinstance(head, TwoPart) for head in parse_heads(self.heads).values())

    @property
    def upstream(self) -> Variant:
        """The variant's row in the table."""
        return variant_named(self.variant)

    @property
    def stochastic(self) -> bool:
        """Whether the model reads noise, so that predictions differ from member to member."""
        stochastic: bool = self.argument("stochastic")
        return stochastic

    @property
    def lead_hours(self) -> float:
        """Lead time of one step in hours."""
        return self.timestep.total_seconds() / 3600

    @property
    def patch_size(self) -> int:
        """Side of a patch in grid points."""
        size: int = self.argument("patch_size")
        return size

    def argument(self, name: str) -> Any:
        """Look up an argument of upstream's model class, by default the variant's own."""
        return self.arguments.get(name, self.upstream.default(name))

    def build(self, *, autocast: bool = False) -> Aurora:
        """Construct upstream's class, with random weights on the CPU.

        Args:
            autocast: run the forward pass in bfloat16 where upstream autocasts (weights stay in float32). Never
                float16, which version 1.5 would choose: some of its gradients underflow to zero without loss
                scaling.
        """
        arguments: dict[str, Any] = {
            **self.upstream.arguments,
            **self.arguments,
            "surf_vars": self.surface,
            "static_vars": self.static,
            "atmos_vars": self.atmospheric,
            "max_history_size": self.history,
            "timestep": self.timestep,
            "autocast": autocast,
            "autocast_dtype": torch.bfloat16,
            # A LoRA that was merged is part of the weights.
            "use_lora": self.rollout_lora == "kept",
        }
        if self.upstream.is_v1p5:
            # Version 1.5's safe attention guards float16 only, and materialises every score.
            arguments["use_fp16_safe_attention"] = False
            arguments["output_only_surf_vars"] = self._output_only_upstream
        model = self.upstream.constructor(**arguments)
        # Static variables are embedded at the surface without their prefix, and on levels with it.
        added = {*self.added, *(name.removeprefix(STATIC_PREFIX) for name in self.added)}
        for module in model.encoder.modules():
            if isinstance(module, LevelPatchEmbed) and not added.isdisjoint(module.weights.keys()):
                module.forward = partial(_embed, module, added)
        if self.never_read:
            model.decoder.register_forward_pre_hook(partial(_add_names, self.never_read), with_kwargs=True)
        return model

    @property
    def rollout_lora_mode(self) -> Literal["keep", "merge"]:
        """What becomes of the roll-out LoRA of weights that are loaded into this model."""
        return "keep" if self.rollout_lora == "kept" else "merge"

    @property
    def output_only(self) -> tuple[str, ...]:
        """Surface channels of this model that are predicted but never read."""
        return (*self._output_only_upstream, *self.never_read)

    @property
    def _output_only_upstream(self) -> tuple[str, ...]:
        return keep_names(self.upstream.output_only, self.surface)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, the inverse of ``from_dict``."""
        arguments = dict(self.arguments)
        for key, value in arguments.items():
            # JSON has lists alone; reading makes them tuples again, as upstream's constructors have them.
            if isinstance(value, tuple):
                arguments[key] = list(value)
        return {
            "variant": self.variant,
            "surface": list(self.surface),
            "static": list(self.static),
            "atmospheric": list(self.atmospheric),
            "levels": list(self.levels),
            "history": self.history,
            "timestep_hours": self.lead_hours,
            "rollout_lora": self.rollout_lora,
            "added": list(self.added),
            "never_read": list(self.never_read),
            "transforms": dict(self.transforms),
            "heads": dict(self.heads),
            "arguments": arguments,
            "statistics": dict(zip(self.statistics.values, map(list, self.statistics.values.values()), strict=True)),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelSpec:
        """Read the JSON form.

        Raises:
            KeyError: a field is missing.
        """
        arguments = dict(raw["arguments"])
        for key, value in arguments.items():
            if isinstance(value, list):
                arguments[key] = tuple(value)
        return cls(
            variant=raw["variant"],
            surface=tuple(raw["surface"]),
            static=tuple(raw["static"]),
            atmospheric=tuple(raw["atmospheric"]),
            levels=tuple(raw["levels"]),
            history=raw["history"],
            timestep=timedelta(hours=raw["timestep_hours"]),
            rollout_lora=raw["rollout_lora"],
            arguments=arguments,
            added=tuple(raw.get("added", ())),
            never_read=tuple(raw.get("never_read", ())),
            transforms=dict(raw.get("transforms", {})),
            heads=dict(raw.get("heads", {})),
            statistics=Statistics({key: (float(a), float(b)) for key, (a, b) in raw["statistics"].items()}),
        )


# Variables beyond those of the weights, in any of upstream's classes, without a change to what was there before.
#
# Upstream's decoder predicts what the input batch holds; version 1.5 alone pads its batch with zeros for more. Here
# a hook puts variables that are only predicted into the decoder's batch, and the encoder never sees them. Variables
# that are read get a convolution of their own: as long as their weights are zero they add exactly nothing, where one
# convolution over all variables would sum the old ones in another order.


def _add_names(
    names: tuple[str, ...], _decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The decoder's arguments, with names in the batch; it looks at no values."""
    latent, batch, *others = args
    assert isinstance(batch, Batch)
    like = next(iter(batch.surf_vars.values()))
    # One zero in the shape of a field takes no memory.
    empty = torch.zeros((), dtype=like.dtype).expand(like.shape)
    surface = batch.surf_vars | dict.fromkeys(names, empty)
    return (latent, dataclasses.replace(batch, surf_vars=surface), *others), kwargs


def _embed(module: LevelPatchEmbed, apart: set[str], x: torch.Tensor, var_names: tuple[str, ...]) -> torch.Tensor:
    """Embed patches, [B, V, T, H, W] to [B, L, D], as upstream does, in two sums."""
    states = x.shape[2]
    stride = (states, *module.kernel_size[1:])
    parts: list[torch.Tensor] = []
    for names, bias in ((drop_names(var_names, apart), module.bias), (keep_names(var_names, apart), None)):
        if names:
            indices = list(map(var_names.index, names))
            weight = torch.cat([module.weights[name][:, :, :states] for name in names], dim=1)
            parts.append(torch.nn.functional.conv3d(x[:, indices], weight, bias, stride=stride)[:, :, 0])
    embedded = sum(parts[1:], start=parts[0])
    # [B, D, H / P, W / P] to [B, L, D].
    if module.flatten:
        embedded = embedded.flatten(2).transpose(1, 2)
    tokens: torch.Tensor = module.norm(embedded)
    return tokens
