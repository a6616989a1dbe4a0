"""A model that predicts instead of training: its precision and its noise.

Gradients underflow in fp16 where predictions do not, and bf16, in which version 1.5 trains, rounds eight times as
coarsely: three bits of its mantissa went to the exponent. So predictions have a precision of their own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from aurora import Aurora
from aurora.model.perceiver import PerceiverAttention
from aurora.model.swin3d import WindowAttention

from kit.models.noise import NamedNoise
from kit.models.space import TrainingSpace
from kit.models.variants import Precision, Variant

_TYPES: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_precision(model: Aurora, variant: Variant, precision: Precision) -> None:
    """Have a model run its forward pass in a precision, where upstream's class autocasts; weights stay as they are.

    In fp16, scores of attention are clamped as upstream does (``use_fp16_safe_attention``).

    Args:
        model: Upstream's model, changed in place.
        variant: Its row in the table.
        precision: Precision to run in.
    """
    autocast = precision in _TYPES
    model.autocast = model.autocast_backbone = autocast
    model.autocast_dtype = _TYPES.get(precision, torch.bfloat16)
    # Version 1.5 alone autocasts encoder and decoder as well.
    model.autocast_encoder = model.autocast_decoder = autocast and variant.is_v1p5
    for module in _attentions(model):
        module.use_fp16_safe_attention = precision == "fp16"


@contextmanager
def predicting(space: TrainingSpace, precision: Precision | None, noise: NamedNoise) -> Iterator[None]:
    """Have a model that trains predict while the block runs; afterwards it is as it was.

    Args:
        space: Model, and what it reads.
        precision: Precision to run in; None for that of training.
        noise: Noise that a stochastic model reads.
    """
    model = space.model
    names = ("autocast", "autocast_dtype", "autocast_encoder", "autocast_backbone", "autocast_decoder")
    before: dict[str, Any] = {name: getattr(model, name) for name in names}
    safe = [module.use_fp16_safe_attention for module in _attentions(model)]
    noise_before, space.noise = space.noise, noise
    try:
        if precision is not None:
            set_precision(model, space.spec.upstream, precision)
        yield
    finally:
        space.noise = noise_before
        for name, value in before.items():
            setattr(model, name, value)
        for module, value in zip(_attentions(model), safe, strict=True):
            module.use_fp16_safe_attention = value


def _attentions(model: Aurora) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, WindowAttention | PerceiverAttention)]
