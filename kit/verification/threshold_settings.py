"""Thresholds as settings say them."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

THRESHOLD = re.compile(r"([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(mm)?", re.IGNORECASE)
"""A number, of rain with its unit."""


def _read_thresholds(given: Any) -> Any:
    """Read ``2t=273.15/303.15,tp=1mm``: thresholds by channel."""
    if isinstance(given, str):
        given = given.split(",")
    if any(isinstance(item, list | tuple) for item in given):
        return given
    found = []
    # A command line hands over numbers as such.
    for item in map(str, given):
        name, equals, texts = item.partition("=")
        parts = tuple(text.strip() for text in texts.split("/"))
        if not name.strip() or not equals or not all(map(THRESHOLD.fullmatch, parts)):
            msg = f"expected VARIABLE=NUMBER/NUMBER such as 2t=273.15/303.15, of rain tp=1mm/10mm, got {item!r}"
            raise ValueError(msg)
        found.append((name.strip(), parts))
    return tuple(found)


Thresholds = Annotated[
    tuple[tuple[str, tuple[str, ...]], ...],
    BeforeValidator(_read_thresholds, json_schema_input_type=str),
    PlainSerializer(lambda thresholds: [f"{name}={'/'.join(texts)}" for name, texts in thresholds]),
]
