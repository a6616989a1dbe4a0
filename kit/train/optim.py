"""Optimisers, the learning rate, and gradient norms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt.settings import matches, matching
from kit.adapt.trainable import module_group
from kit.io.errors import KitError, SettingsError
from kit.train.settings import MAIN, NEW, GroupSettings, OptimSettings

__all__ = [
    "BETAS",
    "DivergenceError",
    "GradientNorms",
    "Group",
    "assign",
    "build_optimizer",
    "clip_gradients",
    "group_norms",
    "learning_rate",
    "refuse_infinite",
    "set_rate",
    "resolved_groups",
]

BETAS = (0.9, 0.95)
"""Decay of AdamW's two moments."""


class DivergenceError(KitError):
    """The loss or a gradient is no longer a finite number."""


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
    settings: OptimSettings,
    *,
    in_backward: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser that the settings name.

    Args:
        parameters: what trains, on its device; or groups of it, as PyTorch's optimisers take them.
        settings: its name and weight decay; the learning rate is set at each step.
        in_backward: it will step inside of the backward pass, on autograd's own threads.
    """
    trained: list[Any] = list(parameters)
    if settings.name == "adafactor":
        # One tensor after the other: together they would need copies of all gradients at once.
        return torch.optim.Adafactor(trained, lr=settings.peak, weight_decay=settings.weight_decay, foreach=False)
    if settings.name == "adamw-8bit":
        from kit.memory.optimizers import AdamW8bit

        # Where there is a GPU there is Triton, but the backward pass is no place to start a compiler.
        first = trained[0]["params"][0] if isinstance(trained[0], dict) else trained[0]
        compiled = first.device.type == "cuda" and not in_backward
        return AdamW8bit(trained, weight_decay=settings.weight_decay, betas=BETAS, compiled=compiled)
    return torch.optim.AdamW(trained, lr=settings.peak, weight_decay=settings.weight_decay, betas=BETAS, fused=True)


def learning_rate(step: int, steps: int, settings: OptimSettings) -> float:
    """Learning rate of a step: linear warm-up to ``optim.lr``, then half a cosine down to ``optim.final_lr`` of it.

    Args:
        step: counted from 1.
        steps: of the whole run.
        settings: peak, warm-up and end.
    """
    if step <= settings.warmup:
        return settings.peak * step / settings.warmup
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.peak * (settings.final_lr + (1 - settings.final_lr) * cosine)


def set_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Have an optimiser use a learning rate from now on: one for each group of its parameters."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            # Compiled arithmetic reads it from there.
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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
    norms = torch._foreach_norm([p.grad for _, p in named if p.grad is not None])
    measured = group_norms(dict(zip((name for name, _ in named), norms, strict=True)))
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_([p for _, p in named], limit, measured.total, foreach=True)
    return measured


def group_norms(norms: Mapping[str, torch.Tensor]) -> GradientNorms:
    """Put the norms of parameters, scalar tensors in any order, together: the norm of norms, in the order given."""
    stacked = torch.stack(list(norms.values()))
    groups: dict[str, float] = defaultdict(float)
    for name, norm in zip(norms, stacked.tolist(), strict=True):
        groups[module_group(name)] += norm**2
    total = torch.linalg.vector_norm(stacked)
    return GradientNorms(total, {group: math.sqrt(square) for group, square in groups.items()})


def refuse_infinite(step: int, norms: GradientNorms) -> None:
    """Stop where the gradient is not finite.

    Raises:
        DivergenceError: names the groups of modules.
    """
    if not torch.isfinite(norms.total):
        worst = [group for group, norm in norms.groups.items() if not norm < float("inf")]
        msg = f"step {step}: the gradient is not finite in {', '.join(worst)}; lower optim.lr, or use fp32"
        raise DivergenceError(msg)


# Groups of parameters, each with a learning rate, a weight decay and a warm-up of its own.


@dataclass(frozen=True)
class Group:
    """Parameters that move in the same way.

    Attributes:
        name: the key of ``optim.groups``, or ``main``.
        parameters: by name; at least one.
        settings: of the optimiser, with this group's own values in place.
    """

    name: str
    parameters: dict[str, torch.nn.Parameter]
    settings: OptimSettings

    def options(self, main: OptimSettings) -> dict[str, Any]:
        """The group as PyTorch's optimisers take it: with what differs from the optimiser's own."""
        own = {} if self.settings.weight_decay == main.weight_decay else {"weight_decay": self.settings.weight_decay}
        return {"params": list(self.parameters.values()), **own}


def assign(parameters: Mapping[str, torch.nn.Parameter], new: Collection[str], settings: OptimSettings) -> list[Group]:
    """Part what trains into groups: of the keys of ``optim.groups`` the first that matches a name takes it.

    What is new and matches no key is a group of its own too.

    Args:
        parameters: what trains.
        new: names of those that the base weights lack.
        settings: with a learning rate.

    Returns:
        Groups that are not empty: ``main``, then in the order of the settings.

    Raises:
        SettingsError: a key takes nothing.
    """
    keys = [*settings.groups, *([] if NEW in settings.groups else [NEW])]
    found: dict[str, dict[str, torch.nn.Parameter]] = {key: {} for key in (MAIN, *keys)}
    for name, parameter in parameters.items():
        key = next((key for key in keys if (name in new if key == NEW else matches(name, key))), MAIN)
        found[key][name] = parameter
    for key in settings.groups:
        if not found[key]:
            _refuse_empty(key, list(parameters), new)
    return [
        Group(key, members, settings if key == MAIN else settings.of_group(key))
        for key, members in found.items()
        if members
    ]


def _refuse_empty(key: str, names: Sequence[str], new: Collection[str]) -> None:
    """Say why a key takes nothing.

    Raises:
        SettingsError: always.
    """
    if key == NEW and not new:
        msg = "optim.groups.new has no effect: the weights have every parameter of the model; leave it out"
        raise SettingsError(msg)
    if key != NEW:
        matching(names, key, "optim.groups, among what trains")
    msg = f"optim.groups: {key!r} has no effect: groups before it take all that it matches; put it first, or leave it"
    raise SettingsError(msg)


def resolved_groups(groups: Sequence[Group], settings: OptimSettings) -> OptimSettings:
    """The settings with every number of every group in them."""
    numbers = {
        group.name: GroupSettings(
            lr=group.settings.lr, weight_decay=group.settings.weight_decay, warmup=group.settings.warmup
        )
        for group in groups
        if group.name != MAIN
    }
    return settings.model_copy(update={"groups": numbers})
