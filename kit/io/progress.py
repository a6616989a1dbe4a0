"""Progress of downloads: the events that a display can show."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class ProgressCallback:
    """Receiver of a download's events; this one logs what is said and shows nothing else."""

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        """Report that the body of a file begins to arrive.

        Args:
            name: Name of the file, for people.
            host: Where it comes from, for people.
            done: Number of bytes that are there already.
            total: Number of bytes in all, if known.
        """
        size = "an unknown number of" if total is None else total
        _log.info("fetching %s from %s: %s of %s bytes", name, host, done, size)

    def advanced(self, done: int) -> None:
        """Report how many bytes are there now."""

    def said(self, text: str) -> None:
        """Report something that a person who waits wants to know."""
        _log.warning("%s", text)

    def ended(self) -> None:
        """Report that nothing more comes of this file, whether it is whole or not."""


# The last one is in force: when an inner block ends, the outer block's display is in force again.
_factories: list[Callable[[], ProgressCallback]] = [ProgressCallback]


def current() -> ProgressCallback:
    """Make a callback of the kind that is in force."""
    return _factories[-1]()


@contextmanager
def watched(factory: Callable[[], ProgressCallback]) -> Iterator[None]:
    """Report all downloads inside the block to callbacks of one kind."""
    _factories.append(factory)
    try:
        yield
    finally:
        _factories.remove(factory)
