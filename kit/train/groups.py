"""Groups of parameters, each with a learning rate, a weight decay and a warm-up of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt.patterns import matches, matching
from kit.errors import SettingsError
from kit.train.settings import MAIN, NEW, GroupSettings, OptimSettings

__all__ = ["Group", "assign", "settled"]


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


def settled(groups: Sequence[Group], settings: OptimSettings) -> OptimSettings:
    """The settings with every number of every group in them."""
    numbers = {
        group.name: GroupSettings(
            lr=group.settings.lr, weight_decay=group.settings.weight_decay, warmup=group.settings.warmup
        )
        for group in groups
        if group.name != MAIN
    }
    return settings.model_copy(update={"groups": numbers})
