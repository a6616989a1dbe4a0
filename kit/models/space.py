"""Training space: where losses are taken, and the way there and back.

A loss compares the decoder's output, seen before upstream's post-decoder hooks, with targets put through the
same encoding: normalisation, version 1.5's logarithm, the wave model's densities, sines and cosines, the
air-pollution model's differences, the kit's own transforms and heads of new variables. On the physical values that
``forward`` returns, the wave model's density heads would get no gradient, absent waves would be NaN, angles would
wrap, and version 1.5's insolation head would be overwritten.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import numpy as np
import torch
from aurora import Aurora, AuroraAirPollution, Batch, insolation
from aurora.normalisation import log_untransform

from kit.models.heads import Quantiles, parse_heads
from kit.models.noise import NamedNoise
from kit.models.spec import ModelSpec
from kit.models.transforms import PRECIPITATION, parse_transforms
from kit.models.variants import INSOLATION, drop_names

Window = tuple[slice, slice]
"""Rows and columns, of those that the model sees."""

_Function = Callable[[torch.Tensor], torch.Tensor]

# Which past state each differenced variable refers to; upstream's table has no public name.
_DIFFERENCED: Mapping[str, int] = AuroraAirPollution._predict_difference_history_dim_lookup


@dataclass(frozen=True)
class Fields:
    """Values in training space, one entry for each decoder output that is scored.

    Attributes:
        surface: [B, H, W] each.
        atmospheric: [B, C, H, W] each.
        masks: [B, H, W], True where a surface field is scored; a field without a mask is scored everywhere, so
            that an unexpected NaN stays loud.
    """

    surface: dict[str, torch.Tensor]
    atmospheric: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor] = field(default_factory=dict)

    def within(self, window: Window | None) -> Fields:
        """Cut the values to a window, without copying; None keeps all."""
        if window is None:
            return self
        inside = (..., *window)
        return Fields(indexed(self.surface, inside), indexed(self.atmospheric, inside), indexed(self.masks, inside))


class TrainingSpace:
    """Encodes states for one model, runs it, and decodes its predictions.

    Args:
        model: the model.
        spec: what it is.
        window: where the fields of losses are taken; what is around it is context. Predictions are of everything.

    Attributes:
        noise: what a stochastic model reads; None for what it draws from PyTorch's generator, as in training.
    """

    def __init__(self, model: Aurora, spec: ModelSpec, window: Window | None = None) -> None:
        self.model = model
        self.spec = spec
        self.noise: NamedNoise | None = None
        self._window = window
        self._variant = spec.upstream
        self._heads = parse_heads(spec.heads)
        self._transforms: dict[str, _Function] = {}
        self._inverses: dict[str, _Function] = {}
        for name, transform in parse_transforms(spec.transforms).items():
            self._transforms[name] = transform.forward
            self._inverses[name] = transform.inverse
            head = self._heads.get(name)
            # Quantiles are values of the variable itself; the channel of a two-part head is a logit.
            if isinstance(head, Quantiles):
                self._inverses |= dict.fromkeys(head.channels(name), transform.inverse)

    def inputs(self, state: Batch) -> Batch:
        """Derive upstream's channels from physical variables.

        Args:
            state: physical variables, [B, T, H, W] and [B, T, C, H, W]; times in UTC.

        Returns:
            The batch that upstream's ``forward`` takes, in dictionaries of its own.
        """
        surface = {self._variant.channel_name(name): value for name, value in state.surf_vars.items()}
        if self._variant.is_v1p5 and INSOLATION in self.spec.surface:
            # At every input time, by upstream's formula, [B, T, H, W].
            like_BTHW = next(iter(surface.values()))
            lat = state.metadata.lat.cpu().numpy().astype(np.float32)
            lon = state.metadata.lon.cpu().numpy().astype(np.float32)
            samples = []
            for time in state.metadata.time:
                # A time without a zone is in UTC, and NumPy wants none.
                now = time.replace(tzinfo=time.tzinfo or UTC)
                times = [
                    (now - step * self.spec.timestep).astimezone(UTC).replace(tzinfo=None)
                    for step in reversed(range(like_BTHW.shape[1]))
                ]
                samples.append(insolation(times, lat, lon, enforce_2d=True))
            surface[INSOLATION] = torch.from_numpy(np.stack(samples)).to(like_BTHW)
        return dataclasses.replace(state, surf_vars=surface, atmos_vars=dict(state.atmos_vars))

    def predict_fields(self, inputs: Batch, *, release: bool = False) -> Fields:
        """Run the model and return its decoder's output in training space.

        Args:
            inputs: as ``inputs`` returns them.
            release: the caller needs them no more; they are emptied as soon as the model has normalised them, which
                at 0.25 degrees frees half a gigabyte for the backbone.
        """
        return self.step(inputs, release=release)[0]

    def step(self, inputs: Batch, *, release: bool = False) -> tuple[Fields, Batch]:
        """Run the model once, for a loss and for the next step.

        Args:
            inputs: as ``inputs`` returns them.
            release: as for ``predict_fields``.

        Returns:
            The decoder's output in training space, and the prediction in physical units as ``advance`` takes it:
            [B, 1, H, W] and [B, 1, C, H, W], under upstream's names.
        """

        def empty(*_: object) -> None:
            inputs.surf_vars.clear()
            inputs.atmos_vars.clear()

        with ExitStack() as hooks:
            # The encoder is called when the states have been normalised. The air-pollution model's differences are
            # taken from the states themselves, after the forward pass.
            if release and not self._variant.is_air_pollution:
                hooks.enter_context(self.model.encoder.register_forward_pre_hook(empty))
            prediction, heads = self._forward(inputs)
        surface, atmospheric = self._arranged(heads.surf_vars), heads.atmos_vars
        if self._variant.is_wave:
            # Density logits become densities, as upstream's post-decoder hook makes them.
            for name in surface:
                if name.endswith("_density"):
                    surface[name] = torch.sigmoid(surface[name])
        elif self._variant.is_air_pollution:
            past = self._normalised(inputs)
            surface = _with_past(surface, past.surf_vars)
            atmospheric = _with_past(atmospheric, past.atmos_vars)
        return Fields(surface, atmospheric).within(self._window), prediction

    def advance(self, state: Batch, prediction: Batch) -> Batch:
        """Make the next input states of a roll-out, as ``aurora.rollout`` makes them.

        The oldest state goes and the prediction, clipped as the model wants its inputs, becomes the newest one.
        What is predicted and never read is left out. Time, roll-out step, grid and static variables are the
        prediction's.

        Args:
            state: physical variables, as for ``inputs``, or what this method returned.
            prediction: from that state, as ``step`` returns it. Of the wave model, a prediction under a store's
                names will not do: the speed that belongs to the wind's direction is no part of it.

        Returns:
            Physical variables under upstream's names, which ``inputs`` takes as it takes a store's.

        Raises:
            ValueError: the prediction lacks a variable that the model reads.
        """
        now = self.model.batch_transform_hook(self.inputs(state)).crop(self.model.patch_size)
        new = self.model.apply_rollout_input_clipping(self.inputs(prediction))
        return dataclasses.replace(
            new,
            surf_vars=_shifted(now.surf_vars, new.surf_vars),
            atmos_vars=_shifted(now.atmos_vars, new.atmos_vars),
        )

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Surface variables that are NaN by design: waves, over land and in calm water. Any other NaN is a fault."""
        if not self._variant.is_wave:
            return frozenset()
        return frozenset({*self.model.density_channel_surf_vars, "dwi"})

    def predict(self, state: Batch) -> Batch:
        """Predict physical variables one step ahead.

        Args:
            state: physical variables, as for ``inputs``.

        Returns:
            Physical variables under a store's names, [B, 1, H, W] and [B, 1, C, H, W], in float32.
        """
        prediction, _ = self._forward(self.inputs(state))
        return self.physical(prediction)

    def physical(self, prediction: Batch) -> Batch:
        """Give a prediction, as ``step`` returns it, a store's names; derived channels go, or become what they encode.

        Args:
            prediction: [B, 1, H, W] and [B, 1, C, H, W], under upstream's names.
        """
        surface = dict(prediction.surf_vars)
        surface.pop(INSOLATION, None)
        if {"10u_wave", "10v_wave"} <= surface.keys():
            u, v = surface.pop("10u_wave"), surface.pop("10v_wave")
            surface["dwi"] = torch.rad2deg(torch.atan2(-u, -v)) % 360
        named = {self._variant.physical_name(name): value for name, value in surface.items()}
        return dataclasses.replace(prediction, surf_vars=named)

    @torch.no_grad()
    def rain(self, fields: Fields, *, observed: bool = False) -> dict[str, torch.Tensor]:
        """Compute physical precipitation from training space, in metres, under a store's names.

        Args:
            fields: a prediction, or a target.
            observed: it is a target, of which heads have nothing to say.

        Returns:
            [B, H, W] each, in float32, none below zero; empty where the model predicts none.
        """
        found: dict[str, torch.Tensor] = {}
        for channel, name in self.precipitation.items():
            if channel not in fields.surface:
                continue
            head = None if observed else self._heads.get(name)
            keys: tuple[str, ...] = (channel,)
            if head is not None:
                keys += head.channels(name)
            decoded = {key: self._denormalised(key, fields.surface[key]) for key in keys}
            if channel.startswith("scaled_"):
                decoded[channel] = log_untransform(decoded[channel])
            decoded = _applied(self._inverses, decoded)
            if head is not None:
                decoded = head.physical(name, decoded)
            found[name] = decoded[channel].clamp(min=0)
        return found

    @property
    def precipitation(self) -> dict[str, str]:
        """Channels of precipitation that the model predicts, and their names in a store."""
        named = zip(self.spec.surface, map(self._variant.physical_name, self.spec.surface), strict=True)
        return {channel: name for channel, name in named if name in PRECIPITATION}

    def _forward(self, inputs: Batch) -> tuple[Batch, Batch]:
        """Prediction, and the decoder's output before upstream's hooks change it."""
        captured: list[Batch] = []

        def capture(_module: torch.nn.Module, _args: Any, output: Batch) -> None:
            # The hooks that follow replace and delete entries of these dictionaries.
            captured.append(_copied(output))

        lead_times = None
        if self.model.variable_lead_time:
            lead_times = torch.full((len(inputs.metadata.time),), self.spec.lead_hours)
        with ExitStack() as during:
            during.enter_context(self.model.decoder.register_forward_hook(capture))
            during.enter_context(self.spec.statistics.installed())
            if self.noise is not None:
                during.enter_context(self.noise.installed(self.model, inputs.metadata, self.spec.timestep))
            during.enter_context(warnings.catch_warnings())
            # Version 1.5 hands aware datetimes to NumPy, which converts them to UTC and says so.
            warnings.filterwarnings("ignore", message="no explicit representation of timezones")
            # By position: Python would hold on to states that it has to unpack, for as long as the model runs.
            prediction = self.model.forward(self._transformed(inputs), lead_times)
        heads = captured[0]
        surface = dict(prediction.surf_vars)
        # The air-pollution model returns only what it has read: what it only predicts is put back.
        for name in drop_names(self.spec.never_read, surface):
            surface[name] = self._denormalised(name, heads.surf_vars[name][:, None])
        # Physical values come from those that upstream un-normalised: our transforms are undone, then heads combined.
        surface = _applied(self._inverses, surface)
        for name, head in self._heads.items():
            surface |= head.physical(name, surface)
        atmospheric = _applied(self._inverses, prediction.atmos_vars)
        return dataclasses.replace(prediction, surf_vars=surface, atmos_vars=atmospheric), heads

    def _transformed(self, batch: Batch) -> Batch:
        """Our own transforms of physical values, in dictionaries of their own.

        They come before all of upstream's steps and not with the states: a roll-out goes on with physical values.
        """
        return dataclasses.replace(
            batch,
            surf_vars=_applied(self._transforms, batch.surf_vars),
            atmos_vars=_applied(self._transforms, batch.atmos_vars),
        )

    def _denormalised(self, channel: str, values: torch.Tensor) -> torch.Tensor:
        location, scale = self.spec.statistics.values[channel]
        return values.float() * scale + location

    def _arranged(self, surface: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The channels of heads as they are scored; a light decoder's variables may be a part of them."""
        arranged = dict(surface)
        for name, head in self._heads.items():
            if name in arranged:
                arranged |= head.arranged(name, arranged)
        return arranged

    def targets(self, target: Batch) -> Fields:
        """Encode a target state in the way that the decoder's output is encoded.

        Args:
            target: physical variables at the predicted time, [B, 1, H, W] and [B, 1, C, H, W].
        """
        state = self.inputs(target)
        encoded = self._normalised(state)
        masks: dict[str, torch.Tensor] = {}
        if self._variant.is_wave:
            # Waves are scored over sea, where they are present; their density is scored over all of it.
            ocean = encoded.static_vars["wmb"] > 0
            for name in self.model.density_channel_surf_vars:
                if name not in encoded.surf_vars:
                    continue
                present = encoded.surf_vars[name][:, 0].isfinite() & ocean
                parts = (f"{name}_sin", f"{name}_cos") if name in self.model.angle_surf_vars else (name,)
                masks |= dict.fromkeys(parts, present)
                masks[f"{name}_density"] = ocean.expand_as(present)
            encoded = self.model._pre_encoder_hook(_copied(encoded))
        surface = indexed(encoded.surf_vars, (slice(None), 0))
        for name, head in self._heads.items():
            if name in surface:
                rows = surface[name].shape[-2]
                physical = state.surf_vars[name][:, 0, :rows].to(surface[name].device)
                channels, scored = head.targets(name, surface[name], physical)
                surface, masks = surface | channels, masks | scored
        return Fields(surface, indexed(encoded.atmos_vars, (slice(None), 0)), masks).within(self._window)

    def _normalised(self, batch: Batch) -> Batch:
        """Upstream's own steps from a batch to normalised values, cropped, on the model's device."""
        parameter = next(self.model.parameters())
        batch = self.model.batch_transform_hook(self._transformed(batch)).type(parameter.dtype)
        with self.spec.statistics.installed():
            batch = self.model._pre_norm_hook(batch).normalise(surf_stats={})
        return batch.crop(self.model.patch_size).to(parameter.device)


def indexed(values: Mapping[str, torch.Tensor], index: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    """Index every variable, without copying."""
    return {name: value[index] for name, value in values.items()}


def _applied(functions: Mapping[str, _Function], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Apply functions to the variables that have one, and leave the others."""
    applied = dict(values)
    for name, function in functions.items():
        if name in applied:
            applied[name] = function(applied[name])
    return applied


def _with_past(heads: Mapping[str, torch.Tensor], states: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the past state that the heads of differenced variables refer to, as upstream's hook does."""
    fields: dict[str, torch.Tensor] = {}
    for name, head in heads.items():
        if name.endswith("_mod"):
            continue
        fields[name] = head
        if name in _DIFFERENCED:
            fields[name] = head + (1 + heads[f"{name}_mod"]) * states[name][:, _DIFFERENCED[name]]
    return fields


def _shifted(states: Mapping[str, torch.Tensor], newest: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the oldest state of each variable and append the newest, in the order of the newest as upstream does."""
    if missing := states.keys() - newest.keys():
        msg = f"a prediction without {', '.join(sorted(missing))} cannot be an input state; it has {', '.join(newest)}"
        raise ValueError(msg)
    return {name: torch.cat([states[name][:, 1:], value], 1) for name, value in newest.items() if name in states}


def _copied(batch: Batch) -> Batch:
    """The same tensors in new dictionaries: upstream's hooks change those that they are given."""
    return dataclasses.replace(batch, surf_vars=dict(batch.surf_vars), atmos_vars=dict(batch.atmos_vars))
