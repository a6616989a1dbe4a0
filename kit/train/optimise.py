"""The optimiser, its learning rate, and gradient norms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kit.adapt.trainable import module_group
from kit.train.settings import OptimSettings

__all__ = ["GradientNorms", "build_optimizer", "clip_gradients", "learning_rate"]


def build_optimizer(parameters: Mapping[str, torch.nn.Parameter], settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW over the parameters that train, in one fused kernel."""
    return torch.optim.AdamW(
        list(parameters.values()), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.95), fused=True
    )


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """Learning rate of a step: linear warm-up to ``optim.lr``, then half a cosine down to ``optim.final_lr`` of it.

    Args:
        step: counted from 1.
        steps: of the whole run.
        settings: peak, warm-up and end.
    """
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * cosine)


@dataclass(frozen=True)
class GradientNorms:
    """Norms of the gradient before clipping.

    Attributes:
        total: global norm, a scalar tensor.
        groups: norm of each group of modules.
    """

    total: torch.Tensor
    groups: dict[str, float]


def clip_gradients(parameters: Mapping[str, torch.nn.Parameter], limit: float | None) -> GradientNorms:
    """Measure the gradient, and scale it down to a global norm of ``limit`` where it is larger.

    Parameters without a gradient, such as the heads of levels that the data lack, count as zero.
    """
    named = [(name, parameter) for name, parameter in parameters.items() if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm([p.grad for _, p in named if p.grad is not None]))
    total = torch.linalg.vector_norm(norms)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_([p for _, p in named], limit, total, foreach=True)
    groups: dict[str, float] = defaultdict(float)
    for (name, _), norm in zip(named, norms.tolist(), strict=True):
        groups[module_group(name)] += norm**2
    return GradientNorms(total, {group: math.sqrt(square) for group, square in groups.items()})
