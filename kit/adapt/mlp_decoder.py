"""Light decoders: small networks that read new surface variables off the frozen model's latents.

Lehmann et al. 2025, "Finetuning a Weather Foundation Model with Lightweight Decoders for Unseen Physical Processes"
(arXiv 2506.19088): the pretrained model stays as it is, and for each new variable a multilayer perceptron maps what
the backbone gives for a patch to the values of the variable's points in that patch. In the code that the authors
published each has three hidden layers of 512, 512 and 256 units with ReLU, upstream's initial weights, and reads the
surface latent alone (level 0 of the backbone's output); reading every latent level is this kit's addition.

Dimensions: B batch, C latent levels, h and w patches, L = h x w, D width (twice upstream's ``embed_dim``, since the
backbone's output is joined to its first skip connection), P patch size.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from aurora import Aurora, Batch
from aurora.model.decoder import Perceiver3DDecoder
from aurora.model.util import init_weights, unpatchify

from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError
from kit.models.extend import added_names
from kit.models.heads import parse_heads
from kit.models.spec import ModelSpec
from kit.models.variants import drop_names

NAME = "light_heads"
"""The heads are this submodule of upstream's decoder."""

_Triple = tuple[int, int, int]


class LightHeads(torch.nn.ModuleDict):
    """A multilayer perceptron for each variable, from the latents of a patch to the values of its points.

    In bf16 precision they read latents that are rounded to bf16, as every linear layer of the backbone does, and
    compute in float32, as upstream's decoder does. So what a cache keeps in bf16 is exactly what they read.
    """

    def __init__(
        self,
        variables: Sequence[str],
        *,
        levels: int,
        width: int,
        hidden: Sequence[int],
        patch_size: int,
        rounded: bool = False,
    ) -> None:
        """Make them, with upstream's initial weights: normal of deviation 0.02, truncated, and no bias.

        Args:
            variables: surface variables, one head each.
            levels: latent levels that are read, from the surface's up; a head reads them joined together.
            width: of a latent.
            hidden: width of each hidden layer; none makes a head linear.
            patch_size: points along the side of a patch.
            rounded: read latents rounded to bf16.
        """
        sizes = (levels * width, *hidden, patch_size**2)
        super().__init__()
        for name in variables:
            layers: list[torch.nn.Module] = []
            for inner, outer in pairwise(sizes):
                layers += [torch.nn.Linear(inner, outer), torch.nn.ReLU()]
            # None after the last layer: values are of either sign.
            self[name] = torch.nn.Sequential(*layers[:-1])
        self.levels = levels
        self.patch_size = patch_size
        self.rounded = rounded
        self.apply(init_weights)

    def read(self, tokens: torch.Tensor, patch_res: _Triple) -> torch.Tensor:
        """Take what the heads read out of the backbone's output.

        Args:
            tokens: [B, C x h x w, D].
            patch_res: C, h and w.

        Returns:
            Latents, [B, levels, L, D].
        """
        # The surface's latent comes first.
        latents = tokens.view(tokens.shape[0], patch_res[0], -1, tokens.shape[2])[:, : self.levels]
        return latents.to(torch.bfloat16) if self.rounded else latents

    def forward(self, latents: torch.Tensor, patches: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Decode latents into values of every variable.

        Args:
            latents: [B, levels, L, D], as ``read`` gives them.
            patches: h and w.

        Returns:
            For each variable normalised values, [B, h x P, w x P].
        """
        patch = self.patch_size
        height, width = patches[0] * patch, patches[1] * patch
        joined = latents.transpose(1, 2).flatten(2).to(next(self.parameters()).dtype)
        # Upstream's function wants a dimension of levels, and gives one.
        return {
            name: unpatchify(head(joined)[:, :, None], 1, height, width, patch)[:, 0, 0] for name, head in self.items()
        }


def install(model: Aurora, spec: ModelSpec, settings: AdaptSettings, new: Collection[str]) -> frozenset[str]:
    """Give a model light decoders for its new variables, as settings ask for them.

    Args:
        model: changed in place; holds the weights that training starts from.
        spec: its spec, whose added variables get them.
        settings: with ``decoder mlp``.
        new: parameters that these weights lack. Those of the variables themselves are of no more use: upstream's
            embeddings, as nothing reads the variables, and its heads, whose place the light ones take.

    Returns:
        Names of the light heads' parameters.

    Raises:
        SettingsError: there are no new variables, one is not an output-only surface variable, or the weights lack
            something else that would have to train as well.
    """
    variables = tuple(dict.fromkeys(spec.added))
    if not variables:
        msg = (
            "adapt.decoder mlp trains decoders of new variables, and there is none; name them with "
            "model.new_variables and model.output_only"
        )
        raise SettingsError(msg)
    read = drop_names(variables, spec.never_read)
    if read:
        msg = (
            f"adapt.decoder mlp: {', '.join(read)} would be read by the model, which stays frozen; expected new "
            "surface variables that are predicted and never read: name them in model.output_only too, or leave them "
            "out"
        )
        raise SettingsError(msg)
    # A head's channels are one decoder's or the other's.
    for name, head in parse_heads(spec.heads).items():
        channels = {name, *head.channels(name)}
        if not (channels.isdisjoint(variables) or channels <= set(variables)):
            msg = (
                f"adapt.decoder mlp: model.heads.{name} adds channels to a variable that the weights have, whose own "
                "head stays frozen; leave it out, or choose another adapt.method"
            )
            raise SettingsError(msg)
    others = sorted(set(new) - added_names(model, variables))
    if others:
        msg = (
            f"adapt.decoder mlp trains light decoders alone, but the weights lack {len(others)} more parameters, such "
            f"as {others[0]}, which would stay untrained; leave out what adds them, or choose another adapt.method"
        )
        raise SettingsError(msg)
    resolved = settings.resolved()
    assert resolved.hidden is not None
    heads = attach(model, variables, hidden=resolved.hidden, latents=resolved.latents or "all")
    return frozenset(f"decoder.{NAME}.{name}" for name, _ in heads.named_parameters())


def attach(
    model: Aurora, variables: Sequence[str], *, hidden: Sequence[int], latents: Literal["all", "surface"]
) -> LightHeads:
    """Give a model's decoder light heads, whose values take the place of its own for these variables.

    A hook does it, around whatever runs the decoder: bands of latitude and recomputation go on as they are, and
    prediction, roll-out and scores see the variables like any other.

    Args:
        model: changed in place; the heads' parameters are ``decoder.light_heads.VARIABLE.LAYER.weight`` and ``bias``.
        variables: surface variables.
        hidden: width of each hidden layer.
        latents: all latent levels, or the surface's alone.
    """
    decoder = model.decoder
    heads = LightHeads(
        variables,
        levels=1 if latents == "surface" else model.encoder.latent_levels,
        width=decoder.embed_dim,
        hidden=hidden,
        patch_size=decoder.patch_size,
        rounded=model.autocast,
    )
    # In the place of upstream's head, not added to it: that one would train on latents that the cache keeps in another
    # precision than the decoder sees.
    decoder.add_module(NAME, heads.to(decoder.atmos_levels_embed.weight.device))
    decoder.register_forward_hook(_decode, with_kwargs=True)
    return heads


def heads_of(model: Aurora) -> LightHeads:
    """Return the light heads that ``attach`` gave a model."""
    return cast("LightHeads", model.decoder.get_submodule(NAME))


def _decode(decoder: Perceiver3DDecoder, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Batch) -> Batch:
    """Put the heads' values among the decoder's; looks the heads up, so that a copied model uses its own."""
    heads = cast("LightHeads", decoder.get_submodule(NAME))
    patch_res: _Triple = kwargs["patch_res"]
    values = heads(heads.read(args[0], patch_res), patch_res[1:])
    return dataclasses.replace(output, surf_vars={**output.surf_vars, **values})
