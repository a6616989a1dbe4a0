"""Training space of light decoders: the frozen trunk gives latents, once, and the heads alone are run after that."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from aurora import Aurora, Batch

from kit.adapt.features import FeatureCache
from kit.adapt.light import heads_of
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec

__all__ = ["LatentSpace"]


class _Reached(Exception):
    """The model has come to its decoder, which is not to be run."""

    def __init__(self, latents: torch.Tensor) -> None:
        super().__init__()
        self.latents = latents


class LatentSpace(TrainingSpace):
    """Predicts, and encodes targets of, the light decoders' variables alone.

    The trunk, which is frozen, runs in evaluation mode and for one sample at a time, with or without a cache: what it
    gives for a sample depends neither on the samples beside it, nor on whether it has been stored.
    """

    def __init__(self, model: Aurora, spec: ModelSpec, cache: FeatureCache | None = None) -> None:
        """Begin.

        Args:
            model: with light heads.
            spec: of the model.
            cache: where latents are kept; None to compute them each time.
        """
        super().__init__(model, spec)
        self.cache = cache
        self._heads = heads_of(model)

    def predict_fields(self, inputs: Batch, *, release: bool = False) -> Fields:  # noqa: ARG002
        """Run the heads on each sample's latents, from the cache where they are there.

        Args:
            inputs: as ``inputs`` returns them.
            release: without effect: the trunk keeps nothing for a backward pass.
        """
        latents = torch.stack([self._latents(inputs, index) for index in range(len(inputs.metadata.time))])
        return Fields(self._heads(latents, self._patches(inputs)), {})

    def targets(self, target: Batch) -> Fields:
        """Encode a target state, of which the light decoders' variables are kept."""
        whole = super().targets(target)
        masks = {name: mask for name, mask in whole.masks.items() if name in self._heads}
        return Fields({name: whole.surface[name] for name in self._heads}, {}, masks)

    def _patches(self, inputs: Batch) -> tuple[int, int]:
        height, width = inputs.spatial_shape
        return height // self._heads.patch_size, width // self._heads.patch_size

    def _latents(self, inputs: Batch, index: int) -> torch.Tensor:
        """Of one sample, [levels, L, D], on the model's device."""
        time = inputs.metadata.time[index]
        stored = None if self.cache is None else self.cache.get(time)
        if stored is not None:
            return stored.to(next(self._heads.parameters()).device)
        latents = self._computed(_sample(inputs, index))
        if self.cache is not None:
            self.cache.put(time, latents)
        return latents

    @torch.no_grad()
    def _computed(self, inputs: Batch) -> torch.Tensor:
        """Run the model up to its decoder."""

        def stop(_decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy: what is read may be a part of all levels, which would stay in memory with it.
            raise _Reached(self._heads.read(args[0], kwargs["patch_res"])[0].contiguous())

        handle = self.model.decoder.register_forward_pre_hook(stop, with_kwargs=True)
        training = self.model.training
        self.model.eval()
        try:
            self._forward(inputs)
        except _Reached as reached:
            return reached.latents
        finally:
            handle.remove()
            self.model.train(training)
        msg = "the model returned without running its decoder"
        raise AssertionError(msg)


def _sample(batch: Batch, index: int) -> Batch:
    """One sample of a batch; views, no copies."""

    def cut(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value[index : index + 1] for name, value in variables.items()}

    metadata = dataclasses.replace(batch.metadata, time=(batch.metadata.time[index],))
    return dataclasses.replace(
        batch, surf_vars=cut(batch.surf_vars), atmos_vars=cut(batch.atmos_vars), metadata=metadata
    )
