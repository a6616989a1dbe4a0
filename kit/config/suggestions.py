"""Suggestions for mistyped names; the only module that compares spellings."""

import difflib
from collections.abc import Iterable


def near_names(name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Find the names closest to one that is unknown.

    Args:
        name: Name as it was given.
        known: Names that exist.
        count: Most names to return.
        cutoff: Least similarity, from 0 to 1, by ``difflib``'s ratio.

    Returns:
        Similar names, closest first; empty where none is similar.
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
