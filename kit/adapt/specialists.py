"""Several deltas on one base, which is held once while what trained is exchanged.

Each delta was trained by the same method with the same settings, so that its tensors belong to the same modules: to
switch is to load some megabytes into them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import lora
from kit.io.errors import CheckpointError


@dataclass(frozen=True)
class Specialist:
    """One delta.

    Attributes:
        name: for people.
        description: contents of its ``kit.json``.
        state: its tensors, as its checkpoint holds them.
    """

    name: str
    description: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]


class Specialists:
    """A model that becomes one specialist after the other.

    Args:
        model: built for the first specialist, on any device, adapters beside their layers.
        members: of one base and one method; the model is the first.

    Raises:
        CheckpointError: they differ in more than their tensors.
    """

    def __init__(self, model: Aurora, members: Sequence[Specialist]) -> None:
        check_same_base([(member.name, member.description) for member in members])
        first = members[0]
        # To switch is to overwrite: what one has trained and another has not would stay.
        for member in members[1:]:
            if member.state.keys() != first.state.keys():
                differing = sorted(member.state.keys() ^ first.state.keys())
                msg = (
                    f"{member.name} and {first.name} trained other tensors: {len(differing)} are in one alone, such as "
                    f"{differing[0]}; they cannot take each other's place"
                )
                raise CheckpointError(msg)
        self._model = model
        self._members = {member.name: member for member in members}
        self.current = first.name

    @property
    def names(self) -> tuple[str, ...]:
        """All specialists, in order."""
        return tuple(self._members)

    def switch(self, name: str) -> None:
        """Turn the model into another specialist."""
        if name == self.current:
            return
        state = self._members[name].state
        adapters, others = lora.split_adapters(state)
        if adapters:
            lora.load(self._model, adapters)
        # In a forecast nothing trains, so that what trained is known by its names alone.
        unknown = self._model.load_state_dict(others, strict=False).unexpected_keys
        assert not unknown, unknown
        self.current = name


def check_same_base(described: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Check that checkpoints can take each other's place on one base.

    Args:
        described: name and ``kit.json`` of each.

    Raises:
        CheckpointError: one is no delta, or their bases, settings or models differ; names two, and what differs.
    """
    for name, description in described:
        if "adapter" not in description:
            msg = (
                f"{name} holds a whole model, and several checkpoints share one base only as deltas on it; forecast "
                "with it alone, or average whole models with kit export --average"
            )
            raise CheckpointError(msg)
    # By the hash of the base, not by its name or path: those may differ between machines.
    first, expected = described[0]
    for name, description in described[1:]:
        own, other = expected["adapter"]["base"]["sha256"], description["adapter"]["base"]["sha256"]
        if own != other:
            msg = (
                f"{first} belongs to weights with SHA-256 {own}, {name} to others with {other}; specialists need one "
                "base"
            )
            raise CheckpointError(msg)
        for what, one, another in (
            ("adapt", expected["adapter"]["settings"], description["adapter"]["settings"]),
            ("model", expected["model"], description["model"]),
        ):
            differing = [key for key in one.keys() | another.keys() if one.get(key) != another.get(key)]
            if differing:
                key = min(differing)
                # Statistics are hundreds of numbers.
                values = "" if key == "statistics" else f" ({one.get(key)} and {another.get(key)})"
                msg = (
                    f"{first} and {name} differ in {what}.{key}{values}; specialists take each other's place only "
                    "where settings and model agree: forecast with each alone"
                )
                raise CheckpointError(msg)
