"""Patterns over names of modules and parameters, as ``adapt`` and ``optim.groups`` take them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from kit.errors import SettingsError

__all__ = ["matches", "matching"]

_SHOWN = 12


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern selects a name: as a whole, or as any run of its parts; ``*`` stands for anything.

    ``decoder.surf_heads.2t.weight`` is selected by itself and by ``decoder``, ``surf_heads``, ``surf_heads.2t``,
    ``2t.weight`` and ``decoder.*.weight``.
    """
    return any(
        fnmatch.fnmatchcase(name, whole) for whole in (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
    )


def matching(names: Iterable[str], pattern: str, setting: str) -> list[str]:
    """The names that a pattern selects, in their order.

    Args:
        names: of parameters, by upstream's names.
        pattern: to be matched.
        setting: where it was given, for the message.

    Raises:
        SettingsError: it selects none; names those that are nearest.
    """
    known = list(names)
    found = [name for name in known if matches(name, pattern)]
    if not found:
        msg = f"{setting}: {pattern!r} selects no parameter; {_hint(pattern, known)}"
        raise SettingsError(msg)
    return found


def _hint(pattern: str, names: Sequence[str]) -> str:
    length = pattern.count(".") + 1
    runs = dict.fromkeys(run for name in names for run in _runs(name.split("."), length))
    close = difflib.get_close_matches(pattern, runs, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    groups = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    return f"there are {', '.join(list(groups)[:_SHOWN])}"


def _runs(parts: Sequence[str], length: int) -> list[str]:
    """All runs of so many parts of a name."""
    return [".".join(parts[start : start + length]) for start in range(len(parts) - length + 1)]
