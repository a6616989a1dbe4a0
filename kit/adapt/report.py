"""What trains: a table of the model's modules, made before the first step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from kit.adapt.trainable import module_group, size

__all__ = ["Pace", "Report", "Row", "report"]


class Pace(NamedTuple):
    """How fast a parameter moves."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Row:
    """Some parameters of one group of modules.

    Attributes:
        group: of modules, such as ``encoder.surf_token_embeds``.
        trains: values that train.
        parameters: of how many.
        share: what part of them that is.
        learning_rate: its peak; None where nothing trains.
        weight_decay: decoupled; None where nothing trains.
        new: whether the base weights lack what trains.
    """

    group: str
    trains: int
    parameters: int
    share: float
    learning_rate: float | None
    weight_decay: float | None
    new: bool


@dataclass(frozen=True)
class Report:
    """What trains.

    Attributes:
        rows: in the model's order. A group of modules has one row, or as many as there are ways in which its parts
            move; what is frozen beside them counts among the first. Every parameter is in one row.
    """

    rows: tuple[Row, ...]

    @property
    def trains(self) -> int:
        """Values that train."""
        return sum(row.trains for row in self.rows)

    @property
    def parameters(self) -> int:
        """All values."""
        return sum(row.parameters for row in self.rows)

    @property
    def share(self) -> float:
        """What part of all values trains."""
        return self.trains / self.parameters

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "groups": [asdict(row) for row in self.rows],
            "trainable_parameters": self.trains,
            "total_parameters": self.parameters,
            "share": self.share,
        }

    def text(self) -> str:
        """The table in words."""
        head = ("what trains", "parameters", "of", "share", "lr", "weight decay", "")
        body = [
            (row.group, f"{row.trains:,}", f"{row.parameters:,}", *_rates(row), "new" if row.new else "")
            for row in self.rows
        ]
        total = ("all", f"{self.trains:,}", f"{self.parameters:,}", _percent(self.share), "", "", "")
        lines = [head, *body, total]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(_line(line, widths) for line in lines)


def _rates(row: Row) -> tuple[str, str, str]:
    if row.learning_rate is None or row.weight_decay is None:
        return "frozen", "", ""
    return _percent(row.share), f"{row.learning_rate:g}", f"{row.weight_decay:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = cells
    padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
    return "  ".join(padded).rstrip()


def report(model: torch.nn.Module, paces: Mapping[str, Pace], new: Collection[str]) -> Report:
    """Say what of a model trains.

    Args:
        model: with everything in place that the method adds. A weight in 4 bits counts as one.
        paces: how fast each parameter moves that trains, by name.
        new: names of those that the base weights lack.
    """
    moving: dict[str, dict[tuple[Pace, bool], int]] = {}
    frozen: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = module_group(name)
        kinds = moving.setdefault(group, {})
        if name in paces:
            kind = (paces[name], name in new)
            kinds[kind] = kinds.get(kind, 0) + size(parameter)
        else:
            frozen[group] = frozen.get(group, 0) + size(parameter)
    return Report(tuple(row for group, kinds in moving.items() for row in _rows(group, kinds, frozen.get(group, 0))))


def _rows(group: str, kinds: Mapping[tuple[Pace, bool], int], frozen: int) -> list[Row]:
    if not kinds:
        return [Row(group, 0, frozen, 0.0, None, None, new=False)]
    rows: list[Row] = []
    for (pace, new), trains in kinds.items():
        of = trains + (0 if rows else frozen)
        rows.append(Row(group, trains, of, trains / of if of else 0.0, *pace, new=new))
    return rows
