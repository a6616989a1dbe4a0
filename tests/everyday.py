"""Which cases of a long table the everyday suite runs: the others are slow ones, all alike in kind."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def first_of_each(kinds: Iterable[str], cases: Iterable[Any], ids: Iterable[str]) -> list[Any]:
    """Leave each case but the first of its kind to the slow suite.

    Args:
        kinds: Kind of each case.
        cases: Arguments of each case; a tuple where there are several.
        ids: Name of each case.
    """
    seen: set[str] = set()
    parameters = []
    for kind, case, name in zip(kinds, cases, ids, strict=True):
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        values = case if isinstance(case, tuple) else (case,)
        parameters.append(pytest.param(*values, marks=marks, id=name))
    return parameters


def one_in(count: int, cases: Iterable[Any], ids: Iterable[str] | None = None) -> list[Any]:
    """Leave each case but the first of every few to the slow suite.

    Args:
        count: How many there are to a case that is run every day.
        cases: Arguments of each case; a tuple where there are several, or what ``pytest.param`` makes of them.
        ids: Name of each case, by default pytest's own.
    """
    listed = list(cases)
    names: Sequence[str | None] = [None] * len(listed) if ids is None else list(ids)
    parameters = []
    for position, (case, name) in enumerate(zip(listed, names, strict=True)):
        marks = [pytest.mark.slow] if position % count else []
        if isinstance(case, type(pytest.param())):
            parameters.append(pytest.param(*case.values, marks=[*case.marks, *marks], id=case.id))
            continue
        values = case if isinstance(case, tuple) else (case,)
        parameters.append(pytest.param(*values, marks=marks, id=name))
    return parameters
