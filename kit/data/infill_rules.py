"""Rules for filling missing values, as settings say them: ``2t=nearest``, ``sst=constant:273.15``."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer

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
        """Method as it was given."""
        return f"{self.method}:{self.value:g}" if self.method == "constant" else self.method

    def __str__(self) -> str:
        return f"{self.variable}={self.how}"


def _rule(text: Any) -> Rule:
    if isinstance(text, Rule):
        return text
    name, _, how = str(text).strip().partition("=")
    method, _, number = how.partition(":")
    try:
        value = float(number or "nan")
    except ValueError:
        value = math.inf
    # A finite number belongs to ``constant``, and to it alone.
    constant = method == "constant"
    if not name or method not in get_args(Method) or constant != bool(number) or constant != math.isfinite(value):
        msg = f"expected VARIABLE=nearest, VARIABLE=linear-time or VARIABLE=constant:NUMBER, got {str(text)!r}"
        raise ValueError(msg)
    return Rule(name, method, value)  # type: ignore[arg-type]


def _rules(given: Any) -> tuple[Rule, ...]:
    if isinstance(given, str):
        given = given.split(",")
    rules = tuple(map(_rule, given or ()))
    counts = Counter(rule.variable for rule in rules)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        msg = f"{', '.join(twice)} is named twice; give one method for each variable"
        raise ValueError(msg)
    return rules


Rules = Annotated[
    tuple[Rule, ...],
    BeforeValidator(_rules, json_schema_input_type=str),
    PlainSerializer(lambda rules: [str(rule) for rule in rules]),
]
