"""Noise of stochastic models, drawn by name: for each sample by itself, whatever stands beside it in a batch.

Upstream draws the noise of a whole batch at once from PyTorch's generator (``aurora/model/swin3d.py``), so that a
sample's noise depends on its place in the batch and on all that was drawn before. Predictions that somebody shall be
able to repeat take it from a name instead: seed, member, initial time and step.

Dimensions: B batch, L tokens, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import torch
from aurora import Aurora, Metadata

from kit.io.hashes import sha256_of_text


@dataclass(frozen=True)
class NamedNoise:
    """Noise of one member, or of the members that stand beside each other in a batch.

    Attributes:
        seed: Seed of all members.
        member: Member of an ensemble, counted from 0.
        members: Members of a batch, one for each sample; None where all samples are of ``member``.
        amplitude: Standard deviation; models learn from noise of 1.
    """

    seed: int
    member: int = 0
    members: tuple[int, ...] | None = None
    amplitude: float = 1.0

    def draw(self, start: datetime, step: int, like: torch.Tensor) -> torch.Tensor:
        """Draw the noise of one sample, normal.

        Args:
            start: Initial time of the forecast; without a zone it is in UTC.
            step: Model steps made before, counted from 0.
            like: Tensor of the shape, type and device that are wanted.

        Returns:
            The same values for the same name on one kind of device, rounded to the type of ``like``.
        """
        moment = start.replace(tzinfo=start.tzinfo or UTC).astimezone(UTC)
        name = f"noise of seed {self.seed}, member {self.member}, {moment.isoformat()}, step {step}"
        # A hash has no neighbours: seeds that follow each other give streams that have nothing in common.
        generator = torch.Generator(like.device).manual_seed(int(sha256_of_text(name)[:15], 16))
        # In fp32 whatever the precision, so that predictions in two precisions differ by rounding alone.
        drawn = torch.randn(like.shape, generator=generator, device=like.device)
        return (self.amplitude * drawn).to(like.dtype)

    @contextmanager
    def installed(self, model: Aurora, metadata: Metadata, timestep: timedelta) -> Iterator[None]:
        """Have a model read this noise while the block runs; without effect on one that draws none.

        Args:
            model: Upstream's model.
            metadata: Metadata of the batch that it will be called with.
            timestep: Time of one step.
        """
        if not model.backbone.stochastic:
            yield
            return
        step = metadata.rollout_step
        starts = [moment - step * timestep for moment in metadata.time]
        members = self.members or (self.member,) * len(starts)
        named = []
        for member, start in zip(members, starts, strict=True):
            named.append((replace(self, member=member, members=None), start))

        def read(_module: torch.nn.Module, args: tuple[Any, ...]) -> torch.Tensor:
            (drawn_BLD,) = args
            return torch.stack([noise.draw(start, step, drawn_BLD[0]) for noise, start in named])

        # What upstream has drawn goes through this module and nowhere else.
        with model.backbone.noise_mlp.register_forward_pre_hook(read):
            yield
