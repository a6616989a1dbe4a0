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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from aurora import Aurora, AuroraAirPollution, Batch, insolation
from aurora.normalisation import log_untransform

from kit.models.heads import Quantiles, parse_heads
from kit.models.spec import ModelSpec
from kit.models.transforms import PRECIPITATION, Transform, parse_transforms
from kit.models.variants import INSOLATION

__all__ = ["Fields", "TrainingSpace", "Window"]

Window = tuple[slice, slice]
"""Rows and columns, of those that the model sees."""

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
        """The same values in a window; views. All of them where it is None."""
        if window is None:
            return self
        rows, columns = window
        surface, atmospheric, masks = (
            {name: value[..., rows, columns] for name, value in values.items()}
            for values in (self.surface, self.atmospheric, self.masks)
        )
        return Fields(surface, atmospheric, masks)


class TrainingSpace:
    """Encodes states for one model, runs it, and decodes its predictions.

    Args:
        model: the model.
        spec: what it is.
        window: where the fields of losses are taken; what is around it is context. Predictions are of everything.
    """

    def __init__(self, model: Aurora, spec: ModelSpec, window: Window | None = None) -> None:
        self.model = model
        self.spec = spec
        self._window = window
        self._variant = spec.upstream
        self._heads = parse_heads(spec.heads)
        self._transforms = parse_transforms(spec.transforms)
        self._inverses: dict[str, Transform] = dict(self._transforms)
        for name, head in self._heads.items():
            if isinstance(head, Quantiles) and name in self._transforms:
                self._inverses |= dict.fromkeys(head.channels(name), self._transforms[name])

    def inputs(self, state: Batch) -> Batch:
        """Derive upstream's channels from physical variables.

        Args:
            state: physical variables, [B, T, H, W] and [B, T, C, H, W]; times in UTC.

        Returns:
            The batch that upstream's ``forward`` takes, in dictionaries of its own.
        """
        surface = {self._variant.channel_name(name): value for name, value in state.surf_vars.items()}
        if self._variant.is_v1p5 and INSOLATION in self.spec.surface:
            surface[INSOLATION] = self._insolation(state, next(iter(surface.values())))
        return dataclasses.replace(state, surf_vars=surface, atmos_vars=dict(state.atmos_vars))

    def _insolation(self, state: Batch, like_BTHW: torch.Tensor) -> torch.Tensor:
        """Solar insolation at every input time, [B, T, H, W], by upstream's formula."""
        history = like_BTHW.shape[1]
        lat = state.metadata.lat.cpu().numpy().astype(np.float32)
        lon = state.metadata.lon.cpu().numpy().astype(np.float32)
        rows = [
            insolation(
                [_naive(time - k * self.spec.timestep) for k in reversed(range(history))], lat, lon, enforce_2d=True
            )
            for time in state.metadata.time
        ]
        return torch.from_numpy(np.stack(rows)).to(like_BTHW)

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
        with self._releasing(inputs) if release else nullcontext():
            prediction, heads = self._forward(inputs)
        fields = self._arranged(Fields(heads.surf_vars, heads.atmos_vars))
        if self._variant.is_wave:
            fields = self._with_densities(fields)
        elif self._variant.is_air_pollution:
            fields = self._with_differences(fields, inputs)
        return fields.within(self._window), prediction

    @contextmanager
    def _releasing(self, inputs: Batch) -> Iterator[None]:
        """Empty input states as soon as the model has normalised them."""
        if self._variant.is_air_pollution:
            # Differences are taken from the states themselves.
            yield
            return
        handle = self.model.encoder.register_forward_pre_hook(lambda *_: _empty(inputs))
        try:
            yield
        finally:
            handle.remove()

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
        return frozenset({*self.model.density_channel_surf_vars, "dwi"}) if self._variant.is_wave else frozenset()

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
        renamed = {self._variant.physical_name(name): value for name, value in surface.items()}
        return dataclasses.replace(prediction, surf_vars=renamed)

    @torch.no_grad()
    def rain(self, fields: Fields, *, observed: bool = False) -> dict[str, torch.Tensor]:
        """Physical precipitation from training space, in metres, under a store's names.

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
            keys = (channel,) if head is None else (channel, *head.channels(name))
            decoded = {}
            for key in keys:
                location, scale = self.spec.statistics.values[key]
                decoded[key] = fields.surface[key].float() * scale + location
            if channel.startswith("scaled_"):
                decoded[channel] = log_untransform(decoded[channel])
            decoded = self._inverted(decoded)
            physical = decoded if head is None else head.physical(name, decoded)
            found[name] = physical[channel].clamp(min=0)
        return found

    @property
    def precipitation(self) -> dict[str, str]:
        """Channels of precipitation that the model predicts, and their names in a store."""
        named = {channel: self._variant.physical_name(channel) for channel in self.spec.surface}
        return {channel: name for channel, name in named.items() if name in PRECIPITATION}

    def _forward(self, inputs: Batch) -> tuple[Batch, Batch]:
        """Prediction, and the decoder's output before upstream's hooks change it."""
        seen: list[Batch] = []

        def capture(_module: torch.nn.Module, _args: Any, output: Batch) -> None:
            # The hooks that follow replace and delete entries of these dictionaries.
            seen.append(
                dataclasses.replace(output, surf_vars=dict(output.surf_vars), atmos_vars=dict(output.atmos_vars))
            )

        handle = self.model.decoder.register_forward_hook(capture)
        try:
            with self.spec.statistics.installed(), warnings.catch_warnings():
                # Version 1.5 hands aware datetimes to NumPy, which converts them to UTC and says so.
                warnings.filterwarnings("ignore", message="no explicit representation of timezones")
                # By position: Python would hold on to states that it has to unpack, for as long as the model runs.
                prediction = self.model.forward(self._transformed(inputs), self._lead_times(inputs))
        finally:
            handle.remove()
        return self._decoded(self._with_dropped(prediction, seen[0])), seen[0]

    def _with_dropped(self, prediction: Batch, heads: Batch) -> Batch:
        """Put back what upstream's hooks drop: the air-pollution model returns only what it has read."""
        dropped = [name for name in self.spec.never_read if name not in prediction.surf_vars]
        if not dropped:
            return prediction
        surface = dict(prediction.surf_vars)
        for name in dropped:
            location, scale = self.spec.statistics.values[name]
            surface[name] = heads.surf_vars[name][:, None].float() * scale + location
        return dataclasses.replace(prediction, surf_vars=surface)

    def _transformed(self, batch: Batch) -> Batch:
        """Our own transforms of physical values, in dictionaries of their own.

        They come before all of upstream's steps and not with the states: a roll-out goes on with physical values.
        """
        surface, atmospheric = (
            {
                name: self._transforms[name].forward(value) if name in self._transforms else value
                for name, value in values.items()
            }
            for values in (batch.surf_vars, batch.atmos_vars)
        )
        return dataclasses.replace(batch, surf_vars=surface, atmos_vars=atmospheric)

    def _decoded(self, prediction: Batch) -> Batch:
        """Undo our own transforms and let heads speak: physical values from those that upstream un-normalised."""
        if not (self._inverses or self._heads):
            return prediction
        surface, atmospheric = (self._inverted(values) for values in (prediction.surf_vars, prediction.atmos_vars))
        for name, head in self._heads.items():
            surface |= head.physical(name, surface)
        return dataclasses.replace(prediction, surf_vars=surface, atmos_vars=atmospheric)

    def _inverted(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: self._inverses[name].inverse(value) if name in self._inverses else value
            for name, value in values.items()
        }

    def _arranged(self, fields: Fields) -> Fields:
        """The channels of heads as they are scored."""
        surface = dict(fields.surface)
        for name, head in self._heads.items():
            surface |= head.arranged(name, surface)
        return dataclasses.replace(fields, surface=surface)

    def _lead_times(self, inputs: Batch) -> torch.Tensor | None:
        if not self.model.variable_lead_time:
            return None
        return torch.full((len(inputs.metadata.time),), self.spec.lead_hours)

    def targets(self, target: Batch) -> Fields:
        """Encode a target state in the way that the decoder's output is encoded.

        Args:
            target: physical variables at the predicted time, [B, 1, H, W] and [B, 1, C, H, W].
        """
        state = self.inputs(target)
        encoded = self._normalised(state)
        masks: dict[str, torch.Tensor] = {}
        if self._variant.is_wave:
            encoded, masks = self._wave_targets(encoded)
        surface = {name: value[:, 0] for name, value in encoded.surf_vars.items()}
        for name, head in self._heads.items():
            if name in surface:
                rows = surface[name].shape[-2]
                physical = state.surf_vars[name][:, 0, :rows].to(surface[name].device)
                channels, scored = head.targets(name, surface[name], physical)
                surface, masks = surface | channels, masks | scored
        atmospheric = {name: value[:, 0] for name, value in encoded.atmos_vars.items()}
        return Fields(surface, atmospheric, masks).within(self._window)

    def _normalised(self, batch: Batch) -> Batch:
        """Upstream's own steps from a batch to normalised values, cropped, on the model's device."""
        parameter = next(self.model.parameters())
        batch = self.model.batch_transform_hook(self._transformed(batch)).type(parameter.dtype)
        with self.spec.statistics.installed():
            batch = self.model._pre_norm_hook(batch).normalise(surf_stats={})
        return batch.crop(self.model.patch_size).to(parameter.device)

    def _wave_targets(self, batch: Batch) -> tuple[Batch, dict[str, torch.Tensor]]:
        """Densities, sines and cosines of targets; waves are scored over sea, where they are present."""
        ocean = batch.static_vars["wmb"] > 0
        present = {name: value[:, 0].isfinite() & ocean for name, value in batch.surf_vars.items()}
        encoded = self.model._pre_encoder_hook(_copied(batch))
        masks: dict[str, torch.Tensor] = {}
        for name in present.keys() & set(self.model.density_channel_surf_vars):
            parts = (f"{name}_sin", f"{name}_cos") if name in self.model.angle_surf_vars else (name,)
            masks |= dict.fromkeys(parts, present[name])
            masks[f"{name}_density"] = ocean.expand_as(present[name])
        return encoded, masks

    def _with_densities(self, fields: Fields) -> Fields:
        """Turn density logits into densities, as upstream's post-decoder hook does."""
        surface = {
            name: torch.sigmoid(value) if name.endswith("_density") else value for name, value in fields.surface.items()
        }
        return dataclasses.replace(fields, surface=surface)

    def _with_differences(self, fields: Fields, inputs: Batch) -> Fields:
        """Add the past state that the heads of differenced variables refer to, as upstream's hook does."""
        past = self._normalised(inputs)

        def combine(heads: dict[str, torch.Tensor], states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {
                name: head + (1 + heads[f"{name}_mod"]) * states[name][:, _DIFFERENCED[name]]
                if name in _DIFFERENCED
                else head
                for name, head in heads.items()
                if not name.endswith("_mod")
            }

        return Fields(combine(fields.surface, past.surf_vars), combine(fields.atmospheric, past.atmos_vars))


def _shifted(states: Mapping[str, torch.Tensor], newest: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the oldest state of each variable and append the newest, in the order of the newest as upstream does."""
    if missing := states.keys() - newest.keys():
        msg = f"a prediction without {', '.join(sorted(missing))} cannot be an input state; it has {', '.join(newest)}"
        raise ValueError(msg)
    return {name: torch.cat([states[name][:, 1:], value], 1) for name, value in newest.items() if name in states}


def _empty(batch: Batch) -> None:
    batch.surf_vars.clear()
    batch.atmos_vars.clear()


def _copied(batch: Batch) -> Batch:
    """The same tensors in new dictionaries: upstream's hooks change those that they are given."""
    return dataclasses.replace(batch, surf_vars=dict(batch.surf_vars), atmos_vars=dict(batch.atmos_vars))


def _naive(time: datetime) -> datetime:
    """UTC without a zone, as NumPy wants it."""
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
