"""Training space of light decoders: the frozen trunk gives latents, once, and the heads alone are run after that."""

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from aurora import Aurora, Batch

from kit import registry
from kit.adapt.feature_cache import FeatureCache, Shape, check_size, digest_of
from kit.adapt.mlp_decoder import heads_of
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pairs
from kit.io.errors import SettingsError
from kit.models.space import Fields, TrainingSpace, Window, indexed
from kit.models.spec import ModelSpec
from kit.models.variants import drop_names


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

    def __init__(
        self, model: Aurora, spec: ModelSpec, window: Window | None = None, *, cache: FeatureCache | None = None
    ) -> None:
        """Begin.

        Args:
            model: with light heads.
            spec: of the model.
            window: where the fields of losses are taken.
            cache: where latents are kept; None to compute them each time.
        """
        super().__init__(model, spec, window)
        self.cache = cache
        self._light = heads_of(model)

    def open_cache(self, settings: AdaptSettings, periods: Sequence[Pairs]) -> tuple[str, ...]:
        """Open the feature cache of a run, unless it shall have none, and return a note on its place and size.

        Args:
            settings: where it is, and how large it may be.
            periods: all pairs of the run.

        Raises:
            SettingsError: it would be too large, or the trunk draws random numbers.
        """
        if settings.cache == "off":
            return ()
        root = registry.cache_dir() / "features" if settings.cache is None else Path(settings.cache).expanduser()
        cache = _opened(self, periods[0], root)
        times = [time for pairs in periods for time in pairs.times]
        check_size(cache, times, settings.cache_bytes)
        self.cache = cache
        return (cache.described(times),)

    def predict_fields(self, inputs: Batch, *, release: bool = False) -> Fields:  # noqa: ARG002
        """Run the heads on each sample's latents, from the cache where they are there.

        Args:
            inputs: as ``inputs`` returns them.
            release: without effect: the trunk keeps nothing for a backward pass.
        """
        # One at a time: kernels sum in an order that depends on the batch, so that latents of one sample from two
        # batches would differ in their last bits.
        latents = torch.stack([self._latents(inputs, index) for index in range(len(inputs.metadata.time))])
        height, width = inputs.spatial_shape
        patch = self._light.patch_size
        surface = self._arranged(self._light(latents, (height // patch, width // patch)))
        return Fields(surface, {}).within(self._window)

    def targets(self, target: Batch) -> Fields:
        """Encode a target state, of which the light decoders' variables are kept."""
        # The frozen model's own variables have no gradient and no loss.
        whole = super().targets(target)
        surface = {name: whole.surface[name] for name in self._light}
        masks = {name: mask for name, mask in whole.masks.items() if name in surface}
        return Fields(surface, {}, masks)

    def _latents(self, inputs: Batch, index: int) -> torch.Tensor:
        """Of one sample, [levels, L, D], on the model's device."""
        time = inputs.metadata.time[index]
        if self.cache is not None:
            stored = self.cache.get(time)
            if stored is not None:
                return stored.to(next(self._light.parameters()).device)
        one = (slice(index, index + 1),)
        latents = self._computed(
            dataclasses.replace(
                inputs,
                surf_vars=indexed(inputs.surf_vars, one),
                atmos_vars=indexed(inputs.atmos_vars, one),
                metadata=dataclasses.replace(inputs.metadata, time=(time,)),
            )
        )
        if self.cache is not None:
            self.cache.put(time, latents)
        return latents

    @torch.no_grad()
    def _computed(self, inputs: Batch) -> torch.Tensor:
        """Run the model up to its decoder."""

        def stop(_decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy: what is read may be a part of all levels, which would stay in memory with it.
            raise _Reached(self._light.read(args[0], kwargs["patch_res"])[0].contiguous())

        training = self.model.training
        self.model.eval()
        try:
            # The decoder is never run: this leaves the forward pass as soon as latents are there.
            with self.model.decoder.register_forward_pre_hook(stop, with_kwargs=True):
                self._forward(inputs)
        except _Reached as reached:
            return reached.latents
        finally:
            self.model.train(training)
        msg = "the model returned without running its decoder"
        raise AssertionError(msg)


def check_single_step(settings: AdaptSettings, steps: int) -> None:
    """Check that light decoders are trained on one step: no gradient comes of what a frozen model predicts by itself.

    Raises:
        SettingsError: light decoders, and several steps.
    """
    if settings.decoder == "mlp" and steps > 1:
        msg = (
            f"rollout.steps is {steps}, but adapt.decoder mlp trains on the latents of one step: what is fed back "
            "comes from the frozen model. Leave rollout.steps at 1, or choose another adapt.method"
        )
        raise SettingsError(msg)


def _opened(space: LatentSpace, pairs: Pairs, root: Path) -> FeatureCache:
    """Open the cache for a model's latents of a store's states.

    Its key holds all that they depend on: the trunk's own tensors (whatever files they were read from), the spec as
    far as the trunk reads it, the store's fingerprint, what is read from it and on which grid, the precision, the kind
    of device and PyTorch's version. Light decoders for other variables find the same latents.

    Args:
        space: on its device.
        pairs: any of the run's; all read the same in the same way.
        root: folder of all caches.

    Raises:
        SettingsError: the trunk draws random numbers.
    """
    model, spec, heads = space.model, space.spec, heads_of(space.model)
    if getattr(model.backbone, "stochastic", False):
        msg = (
            f"adapt.cache: variant {spec.variant!r} draws noise at every step, and latents that are stored would keep "
            "that of the first time; set --adapt.cache off"
        )
        raise SettingsError(msg)
    # Embeddings of what is never read have no part in latents.
    unread = {f"encoder.surf_token_embeds.weights.{name}" for name in spec.output_only}
    trunk = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(("encoder.", "backbone.")) and name not in unread
    }
    # The spec without what is predicted and never read.
    read = spec.as_dict()
    del read["added"], read["never_read"]
    read["surface"] = list(drop_names(read["surface"], spec.output_only))
    for key, name in product(("statistics", "transforms", "heads"), spec.output_only):
        read[key].pop(name, None)
    selection = pairs.selection
    precision, dtype = ("bf16", torch.bfloat16) if heads.rounded else ("fp32", torch.float32)
    # The number of threads and the model of GPU, which change last bits, are no part of the key.
    facts = {
        # Of the tensors in memory, not of files: that covers merged stages, and weights under another name.
        "trunk": digest_of(trunk),
        "model": read,
        "store": pairs.store.fingerprint(),
        "variables": [selection.inputs, selection.atmospheric, selection.static],
        "levels": selection.levels,
        "grid": digest_of({"latitude": pairs.latitude, "longitude": pairs.longitude}),
        "latent_levels": heads.levels,
        "precision": precision,
        "device": next(model.parameters()).device.type,
        "torch": str(torch.__version__),
    }
    rows, columns = selection.grid.shape
    patches = rows // heads.patch_size, columns // heads.patch_size
    return FeatureCache(root, facts, Shape(heads.levels, patches, model.decoder.embed_dim, dtype))
