"""How missing values are filled, as settings say it: ``2t=nearest``, ``sst=constant:273.15``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer

__all__ = ["Method", "Rule", "Rules", "retold", "told"]

_TOLD = re.compile(r"(\S+): (\d+) of \d+ values(?: in \d+ of \d+ states)? were missing and filled by (\S+)")

Method = Literal["nearest", "linear-time", "constant"]


@dataclass(frozen=True)
class Rule:
    """One variable, and how its missing values are filled."""

    variable: str
    """Under its name in the store: static ones with their prefix."""
    method: Method
    value: float = math.nan
    """For ``constant``."""

    @property
    def how(self) -> str:
        """As it was given."""
        return f"{self.method}:{self.value:g}" if self.method == "constant" else self.method

    def __str__(self) -> str:
        return f"{self.variable}={self.how}"


def _rule(text: Any) -> Rule:
    if isinstance(text, Rule):
        return text
    name, _, how = str(text).strip().partition("=")
    method, _, number = how.partition(":")
    try:
        value = float(number) if number else math.nan
    except ValueError:
        value = math.inf
    fits = math.isfinite(value) if method == "constant" else not number
    if not name or method not in get_args(Method) or not fits:
        msg = f"expected VARIABLE=nearest, VARIABLE=linear-time or VARIABLE=constant:NUMBER, got {str(text)!r}"
        raise ValueError(msg)
    return Rule(name, method, value)  # type: ignore[arg-type]


def _rules(given: Any) -> tuple[Rule, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    rules = tuple(_rule(part) for part in parts or ())
    names = [rule.variable for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"{', '.join(twice)} is named twice; give one method for each variable"
        raise ValueError(msg)
    return rules


Rules = Annotated[
    tuple[Rule, ...],
    BeforeValidator(_rules, json_schema_input_type=str),
    PlainSerializer(lambda rules: [str(rule) for rule in rules]),
]


def told(rule: Rule, count: int, size: int, states: tuple[int, int] | None) -> str:
    """Say in a store's history what was filled.

    Args:
        rule: the variable and the method.
        count: values that were missing.
        size: values in all.
        states: with some missing, and all; None for a static variable.
    """
    where = "" if states is None else f" in {states[0]} of {states[1]} states"
    return f"{rule.variable}: {count} of {size} values{where} were missing and filled by {rule.how}"


def retold(history: Iterable[Any]) -> dict[str, tuple[int, str]]:
    """Values that were filled, and the methods, by variable; an append adds its own to the history."""
    found: dict[str, tuple[int, str]] = {}
    for sentence in history:
        if said := _TOLD.fullmatch(str(sentence)):
            count, how = found.get(said[1], (0, said[3]))
            found[said[1]] = (count + int(said[2]), how if said[3] in how.split(" and ") else f"{how} and {said[3]}")
    return found
