"""Between states of the atmosphere and what a denoising network reads and draws.

What is drawn of a ``state`` is standardised over space, each field by its own mean and deviation, which are put back
afterwards: a perturbation keeps the means of the forecast that it perturbs. Everything else has the statistics of the
store. Dimensions: B sample, T history, C channel, K channel of the condition, H row, W column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import torch
from aurora import Batch

from kit.diffusion.coarse import averaged, interpolated
from kit.diffusion.denoiser import Denoiser, Regressor
from kit.diffusion.hours import hour_channels
from kit.diffusion.network import DiffusionModel
from kit.diffusion.samplers import sample
from kit.diffusion.schedules import Levels, schedule_named
from kit.diffusion.spec import DiffusionSpec
from kit.diffusion.tiles import Tile
from kit.models.noise import NamedNoise
from kit.models.space import Fields
from kit.models.transforms import parse_transforms

_LEAST_DEVIATION = 1e-12
"""Deviation below which a field counts as constant."""


@dataclass(frozen=True)
class Scale:
    """Location and scale of channels, [B, C, 1, 1] each, or [C, 1, 1]."""

    location: torch.Tensor
    scale: torch.Tensor

    def standardised(self, values: torch.Tensor) -> torch.Tensor:
        """Subtract the location and divide by the scale."""
        return (values - self.location) / self.scale

    def restored(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply by the scale and add the location."""
        return values * self.scale + self.location


@dataclass(frozen=True)
class Example:
    """What is to be drawn, and what it is drawn from.

    Attributes:
        drawn: States or residuals, standardised, [B, C, H, W].
        condition: What is given, [B, K, H, W]; None where nothing is.
    """

    drawn: torch.Tensor
    condition: torch.Tensor | None


class KeptForecasts(Protocol):
    """Forecasts by their initial times."""

    def at(self, times: Sequence[datetime]) -> torch.Tensor:
        """Return the transformed forecasts from some initial times, [B, C, H, W]."""


class Operator(Protocol):
    """A model that forecasts one step: Aurora, or a network that learned the mean of the next state."""

    model: Any
    noise: NamedNoise | None

    def predict(self, state: Batch) -> Batch:
        """Predict physical variables one step ahead."""


class DiffusionSpace:
    """A denoising network with its encoding, and the operator whose forecasts it reads.

    Args:
        model: Network.
        spec: Description of it.
        operator: Model whose forecasts are part of what is learned; None where there is none.
        autocast: Whether the network runs in bf16.

    Attributes:
        may_be_missing: Variables that may be NaN by right: none.
        autocast: Whether the network runs in bf16.
        forecasts: Forecasts that were made before, in the place of the operator; None without.
    """

    may_be_missing: frozenset[str] = frozenset()

    def __init__(
        self, model: DiffusionModel, spec: DiffusionSpec, operator: Operator | None, *, autocast: bool = False
    ) -> None:
        self.model = model
        self.spec = spec
        self.operator = operator
        self.autocast = autocast
        self.forecasts: KeptForecasts | None = None
        kind = Regressor if spec.settings.of == "mean" else Denoiser
        self.denoiser = kind(self._network, spec.settings.target or "noise")
        self.schedule = schedule_named(spec.settings.schedule, spec.settings.timesteps)
        self._transforms = parse_transforms(spec.transforms)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.scale.device

    def _network(
        self,
        noisy: torch.Tensor,
        label: torch.Tensor,
        condition: torch.Tensor | None,
        present: torch.Tensor | None,
    ) -> torch.Tensor:
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.autocast):
            predicted: torch.Tensor = self.model(noisy, label, condition, present)
        return predicted.float()

    # Between batches and channels.

    def values(self, batch: Batch, place: int = -1) -> torch.Tensor:
        """Collect the transformed values of one of a batch's states, [B, C, H, W]."""
        surface, atmospheric = batch.surf_vars, batch.atmos_vars
        channels = [self._transformed(name, surface[name][:, place])[:, None] for name in self.spec.surface]
        channels += [self._transformed(name, atmospheric[name][:, place]) for name in self.spec.atmospheric]
        return torch.cat(channels, 1).float()

    def _transformed(self, name: str, values: torch.Tensor) -> torch.Tensor:
        transform = self._transforms.get(name)
        return values if transform is None else transform.forward(values)

    def physical(self, values: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Undo ``values``: surface variables, [B, H, W], and atmospheric ones, [B, C, H, W]."""
        fields = self.fields(values)
        surface, atmospheric = dict(fields.surface), dict(fields.atmospheric)
        for named in (surface, atmospheric):
            for name in named.keys() & self._transforms.keys():
                named[name] = self._transforms[name].inverse(named[name])
        return surface, atmospheric

    def fields(self, values: torch.Tensor) -> Fields:
        """Name channels, [B, C, H, W]."""
        spec, levels = self.spec, len(self.spec.levels)
        surface = {name: values[:, place] for place, name in enumerate(spec.surface)}
        first = len(spec.surface)
        atmospheric = {}
        for place, name in enumerate(spec.atmospheric):
            start = first + place * levels
            atmospheric[name] = values[:, start : start + levels]
        return Fields(surface, atmospheric)

    def own_scale(self, values: torch.Tensor) -> Scale:
        """Take location and scale over space, of each field by itself; a constant field has the scale 1."""
        deviation = values.std((-2, -1), correction=0, keepdim=True)
        return Scale(values.mean((-2, -1), keepdim=True), deviation.where(deviation > _LEAST_DEVIATION, 1))

    def store_scale(self) -> Scale:
        """Take location and scale from the statistics of the store."""
        pairs = [self.spec.statistics[key] for key in self.spec.channels]
        found = torch.tensor(pairs, dtype=torch.float32, device=self.device)[..., None, None]
        return Scale(found[:, 0], found[:, 1])

    # What is drawn, and from what.

    def examples(self, inputs: Batch, target: Batch, by_operator: Sequence[bool]) -> Example:
        """Make what the network learns from.

        Args:
            inputs: Input states, [B, T, H, W] and [B, T, C, H, W], on the device.
            target: States a step later, [B, 1, H, W] and [B, 1, C, H, W].
            by_operator: For each sample, whether the operator's forecast is drawn in the place of a state; read where
                states are drawn.
        """
        if self.spec.settings.of == "state":
            states = self.values(target)
            if any(by_operator):
                forecast = self.forecast_values(inputs)
                chosen = torch.tensor(by_operator, device=states.device)[:, None, None, None]
                states = torch.where(chosen, forecast, cropped(states, forecast))
            standardised = self.own_scale(states).standardised(states)
            return Example(standardised, standardised)
        scale = self.store_scale()
        truth = scale.standardised(self.values(target))
        if self.spec.settings.of == "next":
            return Example(truth, self.condition(inputs, None))
        if self.spec.settings.of == "mean":
            # The change, by its own size: a network that predicts nothing is persistence, with a loss of 1, and a
            # variable that changes little in a step weighs as much as any other.
            change = truth - scale.standardised(self.values(inputs))
            return Example(change / self._residual_scale(), self.condition(inputs, None))
        forecast = self.forecast_values(inputs)
        residual = cropped(truth, forecast) - scale.standardised(forecast)
        return Example(self.coarse(residual) / self._residual_scale(), self.condition(inputs, forecast))

    @torch.no_grad()
    def regressed(self, inputs: Batch) -> torch.Tensor:
        """Predict the mean of the next state, transformed, [B, C, H, W], with a network that learned it."""
        newest = self.values(inputs)
        levels = self.schedule.quantiles(newest.new_zeros(len(newest)))

        def mean(values: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            return self.denoiser.state(values, levels, condition)

        change = self._evaluated(mean, newest, self.condition(inputs, None))
        return newest + change * self._residual_scale() * self.store_scale().scale

    def _residual_scale(self) -> torch.Tensor:
        return self.model.scale[:, None, None]

    @torch.no_grad()
    def forecast(self, inputs: Batch) -> Batch:
        """Let the operator predict one step, [B, 1, H, W] and [B, 1, C, H, W]."""
        assert self.operator is not None, f"diffusion.of {self.spec.settings.of} without an operator"
        return self.operator.predict(inputs)

    def forecast_values(self, inputs: Batch) -> torch.Tensor:
        """Return the transformed values of the operator's forecast, [B, C, H, W], made before or now."""
        if self.forecasts is not None:
            return self.forecasts.at(inputs.metadata.time).to(self.device)
        return self.values(self.forecast(inputs))

    def condition(self, inputs: Batch, forecast: torch.Tensor | None) -> torch.Tensor | None:
        """Collect what is given, [B, K, H, W], on the grid that is drawn on; None where nothing is.

        Args:
            inputs: Input states, on the device.
            forecast: Transformed values of the operator's forecast, [B, C, H, W]; None without an operator.
        """
        scale, parts = self.store_scale(), []
        given = self.spec.settings.given or ()
        if "state" in given:
            states = next(iter((*inputs.surf_vars.values(), *inputs.atmos_vars.values())))
            parts += [scale.standardised(self.values(inputs, place)) for place in range(states.shape[1])]
        if "forecast" in given:
            assert forecast is not None
            parts.append(scale.standardised(forecast))
        if "statics" in given and self.spec.statics:
            parts.append(self._statics(inputs.static_vars, len(inputs.metadata.time)))
        if not (parts or "hour" in given):
            return None
        read = next(iter((*inputs.surf_vars.values(), *inputs.atmos_vars.values())))
        rows, columns = (read if forecast is None else forecast).shape[-2:]
        if "hour" in given:
            hours = torch.tensor([hour_channels(time) for time in inputs.metadata.time], device=self.device)
            parts.append(hours[..., None, None].expand(-1, -1, rows, columns))
        return self.coarse(torch.cat([part[..., :rows, :columns] for part in parts], 1))

    def coarse(self, values: torch.Tensor) -> torch.Tensor:
        """Bring fields, [B, C, H, W], to the grid that is drawn on."""
        return averaged(values, self.spec.settings.coarsen, circular=self.spec.circular)

    def _statics(self, static: Mapping[str, torch.Tensor], samples: int) -> torch.Tensor:
        channels = []
        for name in self.spec.statics:
            location, scale = self.spec.statistics[f"static_{name}"]
            channels.append((static[name].to(self.device) - location) / scale)
        return torch.stack(channels).float().expand(samples, -1, -1, -1)

    # Tiles.

    def cut(self, example: Example, random: Sequence[np.random.Generator]) -> Example:
        """Cut a tile out of each sample, where the network reads tiles, and tell where it lies.

        Args:
            example: What is drawn, and from what, on the whole grid.
            random: Of the places of tiles, one for each sample.

        Raises:
            SettingsError: the grid is smaller than a tile.
        """
        tiling, drawn, condition = self.spec.tiling, example.drawn, example.condition
        if tiling is None:
            return example
        tiles = [tiling.drawn(drawn.shape[-2:], each) for each in random]
        given = []
        for place, tile in enumerate(tiles):
            given.append(self._given(tile, None if condition is None else condition[place : place + 1], 1))
        cut = [tile.of(values) for tile, values in zip(tiles, drawn, strict=True)]
        return Example(torch.stack(cut), torch.cat(given))

    def _given(self, tile: Tile, condition: torch.Tensor | None, samples: int) -> torch.Tensor:
        """Put the place of a tile behind its condition, [B, K, S, S]."""
        where = tile.places(self.device).expand(samples, -1, -1, -1)
        return where if condition is None else torch.cat([tile.of(condition), where], 1)

    def _evaluated(
        self,
        function: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        noisy: torch.Tensor,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        """Evaluate a function of noisy states and conditions, [B, C, H, W], tile by tile where there are any."""
        tiling = self.spec.tiling
        if tiling is None:
            return function(noisy, condition)
        blended = torch.zeros_like(noisy)
        for tile, weights in tiling.covering(noisy.shape[-2:]):
            part = function(tile.of(noisy), self._given(tile, condition, len(noisy)))
            tile.add(blended, part * weights.to(noisy.device))
        return blended

    # Drawing.

    @torch.no_grad()
    def draw(
        self,
        condition: torch.Tensor | None,
        start: torch.Tensor,
        generators: list[torch.Generator],
        *,
        guidance: float = 1.0,
        steps: int | None = None,
    ) -> torch.Tensor:
        """Draw states or residuals, standardised, [B, C, H, W].

        Args:
            condition: What is given, [B, K, H, W].
            start: Standard normal noise, [B, C, H, W].
            generators: Of the noise that a sampler adds on the way, one for each sample.
            guidance: How far the condition counts, from 0 to 1.
            steps: Steps of the sampler; by default those of the settings.
        """
        settings = self.spec.settings

        def estimate(noisy: torch.Tensor, levels: Levels) -> torch.Tensor:
            return self.estimate(noisy, levels, condition, guidance)

        return sample(
            estimate, start, self.schedule, settings.sampler or "dpm++", steps or settings.steps or 1, generators
        )

    @torch.no_grad()
    def estimate(
        self, noisy: torch.Tensor, levels: Levels, condition: torch.Tensor | None, guidance: float = 1.0
    ) -> torch.Tensor:
        """Estimate the states or residuals behind noisy ones, standardised, [B, C, H, W]."""
        # Where there is hardly any signal, a small error of the noise is a large one of the state (Saharia et al.
        # 2022, "Photorealistic Text-to-Image Diffusion Models", section 2.3): no state is beyond all others.
        bound = self.model.bound[:, None, None]

        def guided(noisy: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            return self.denoiser.guided(noisy, levels, condition, guidance)

        return self._evaluated(guided, noisy, condition).clamp(-bound, bound)

    def perturbed(self, batch: Batch, drawn: torch.Tensor, own: Scale) -> Batch:
        """Move a batch's states to what was drawn in the place of the newest of them.

        All of its states move alike, so that tendencies stay.

        Args:
            batch: States, [B, T, H, W] and [B, T, C, H, W].
            drawn: In the place of the newest, standardised, [B, C, H, W].
            own: Location and scale to put back.
        """
        surface, atmospheric = self.physical(own.restored(drawn))
        newest = (dict(batch.surf_vars), dict(batch.atmos_vars))
        for named, moved in zip(newest, (surface, atmospheric), strict=True):
            for name, value in moved.items():
                shifted = named[name] + (value - named[name][:, -1])[:, None]
                transform = self._transforms.get(name)
                named[name] = shifted if transform is None else transform.within(shifted)
        return replace(batch, surf_vars=newest[0], atmos_vars=newest[1])

    def corrected(self, prediction: Batch, values: torch.Tensor, drawn: torch.Tensor) -> Batch:
        """Add a residual that was drawn to a prediction.

        Args:
            prediction: Prediction, [B, 1, H, W] and [B, 1, C, H, W].
            values: Its transformed values, [B, C, H, W].
            drawn: Residual, standardised, on the grid that is drawn on.
        """
        residual = drawn * self._residual_scale() * self.store_scale().scale
        residual = interpolated(residual, self.spec.settings.coarsen, values, circular=self.spec.circular)
        surface, atmospheric = self.physical(values + residual)
        found = (dict(prediction.surf_vars), dict(prediction.atmos_vars))
        for named, changed in zip(found, (surface, atmospheric), strict=True):
            named |= {name: value[:, None] for name, value in changed.items()}
        return replace(prediction, surf_vars=found[0], atmos_vars=found[1])


def cropped(values: torch.Tensor, forecast: torch.Tensor) -> torch.Tensor:
    """Leave out rows and columns that are no whole patch of the operator's, whose forecasts lack them."""
    return values[..., : forecast.shape[-2], : forecast.shape[-1]]
