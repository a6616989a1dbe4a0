"""Which linear layers get an adapter."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Sequence

import torch

from kit.errors import SettingsError

__all__ = ["matching", "refuse_rank"]


def matching(model: torch.nn.Module, targets: Sequence[str], new: Collection[str] = ()) -> list[str]:
    """Names of the linear layers that targets select, in the model's order.

    Args:
        model: has the layers.
        targets: ends of names, or patterns.
        new: parameters whose layers are left out.

    Raises:
        SettingsError: a target selects none; names those that are nearest.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = [name for name in linear if f"{name}.weight" not in new]
    for target in targets:
        if not any(_matches(name, target) for name in layers):
            raise SettingsError(_no_layer(target, layers))
    return [name for name in layers if any(_matches(name, target) for target in targets)]


def _matches(name: str, target: str) -> bool:
    return fnmatch.fnmatchcase(name, target) or fnmatch.fnmatchcase(name, f"*.{target}")


def _no_layer(target: str, layers: Sequence[str]) -> str:
    parts = target.count(".") + 1
    ends = dict.fromkeys(".".join(name.split(".")[-parts:]) for name in layers)
    close = difflib.get_close_matches(target, ends, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(list(ends)[:12])}"
    return f"adapt.targets: {target!r} is the end of no linear layer's name; {hint}"


def refuse_rank(model: torch.nn.Module, names: Sequence[str], rank: int) -> None:
    """Refuse a rank that no product of two matrices of these layers' sizes can have.

    Raises:
        SettingsError: names the first layer that is too narrow.
    """
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, torch.nn.Linear)
        width = min(layer.in_features, layer.out_features)
        if rank > width:
            msg = (
                f"adapt.rank: expected at most {width}, the width of {name} ({layer.in_features} to "
                f"{layer.out_features}), got {rank}; lower it, or leave that layer out of adapt.targets"
            )
            raise SettingsError(msg)
