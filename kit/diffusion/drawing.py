"""Forecasts of a network by itself: the state a step ahead, drawn or the mean of all that may come."""

import dataclasses
from datetime import timedelta
from typing import Any

import torch
from aurora import Batch

from kit.diffusion.space import DiffusionSpace
from kit.io.hashes import sha256_of_text
from kit.models.noise import NamedNoise
from kit.models.spec import ModelSpec


class DrawingSpace:
    """Predicts next states, called as Aurora's space is where a model forecasts.

    Args:
        space: Network of the next state: one that draws it, or one that learned its mean.
        spec: Variables, levels and step of the states.

    Attributes:
        model: Network.
        may_be_missing: Variables that may be NaN by right: none.
        noise: Names of what is drawn.
    """

    may_be_missing: frozenset[str] = frozenset()

    def __init__(self, space: DiffusionSpace, spec: ModelSpec) -> None:
        self._space = space
        self.model: torch.nn.Module = space.model
        self.spec = spec
        self.noise: NamedNoise | None = NamedNoise(0)

    def inputs(self, state: Batch) -> Batch:
        """Return the states as they are: a network has no channels of its own."""
        return state

    @torch.no_grad()
    def step(self, inputs: Batch, *, release: bool = False) -> tuple[Any, Batch]:  # noqa: ARG002
        """Predict the states a step later, [B, 1, H, W] and [B, 1, C, H, W]; nothing in a space of losses."""
        is_mean = self._space.spec.settings.of == "mean"
        values = self._space.regressed(inputs) if is_mean else self._drawn(inputs)
        surface, atmospheric = self._space.physical(values)
        moments = tuple(time + self._timestep for time in inputs.metadata.time)
        metadata = dataclasses.replace(inputs.metadata, time=moments, rollout_step=inputs.metadata.rollout_step + 1)
        prediction = Batch(
            {name: value[:, None] for name, value in surface.items()},
            inputs.static_vars,
            {name: value[:, None] for name, value in atmospheric.items()},
            metadata,
        )
        return None, prediction

    def _drawn(self, inputs: Batch) -> torch.Tensor:
        """Draw the next states, transformed, [B, C, H, W]."""
        space = self._space
        generators = self._generators(inputs)
        shape = space.values(inputs).shape[1:]
        start = [torch.randn(shape, generator=each, device=each.device) for each in generators]
        drawn = space.draw(space.condition(inputs, None), torch.stack(start), generators)
        return space.store_scale().restored(drawn)

    @property
    def _timestep(self) -> timedelta:
        return self.spec.timestep

    def _generators(self, inputs: Batch) -> list[torch.Generator]:
        """Make a generator for each sample, by its seed, member, initial time and step."""
        noise, step = self.noise or NamedNoise(0), inputs.metadata.rollout_step
        members = noise.members or (noise.member,) * len(inputs.metadata.time)
        found = []
        for member, moment in zip(members, inputs.metadata.time, strict=True):
            start = moment - step * self._timestep
            name = f"next state of seed {noise.seed}, member {member}, {start.isoformat()}, step {step}"
            seed = int(sha256_of_text(name)[:15], 16)
            found.append(torch.Generator(self._space.device).manual_seed(seed))
        return found

    def advance(self, state: Batch, prediction: Batch) -> Batch:
        """Drop the oldest state, and append the newest."""
        surface = {
            name: torch.cat([state.surf_vars[name][:, 1:], value], 1) for name, value in prediction.surf_vars.items()
        }
        atmospheric = {
            name: torch.cat([state.atmos_vars[name][:, 1:], value], 1) for name, value in prediction.atmos_vars.items()
        }
        return dataclasses.replace(prediction, surf_vars=surface, atmos_vars=atmospheric)

    def predict(self, state: Batch) -> Batch:
        """Predict the physical variables a step later."""
        return self.step(state)[1]

    def physical(self, prediction: Batch) -> Batch:
        """Return the prediction as it is."""
        return prediction
