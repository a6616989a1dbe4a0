"""How a download tells where it is, to whoever shows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ProgressCallback", "current", "watched"]

_log = logging.getLogger(__name__)


class ProgressCallback:
    """Is told how a download goes; this one logs what is said and shows nothing else."""

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        """The body of a file begins to arrive; bytes that are there already, bytes in all if known."""
        _log.info(
            "fetching %s from %s: %s of %s bytes", name, host, done, "an unknown number of" if total is None else total
        )

    def advanced(self, done: int) -> None:
        """So many bytes are there now."""

    def said(self, text: str) -> None:
        """Something that a person who waits wants to know."""
        _log.warning("%s", text)

    def ended(self) -> None:
        """Nothing more comes of this file, whether it is whole or not."""


_factories: list[Callable[[], ProgressCallback]] = [ProgressCallback]


def current() -> ProgressCallback:
    """Return a watch of the kind that is in force."""
    return _factories[-1]()


@contextmanager
def watched(factory: Callable[[], ProgressCallback]) -> Iterator[None]:
    """Have downloads inside the block tell such a watch, wherever they are started from."""
    _factories.append(factory)
    try:
        yield
    finally:
        _factories.remove(factory)
