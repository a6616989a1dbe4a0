"""Standard error that may go away: a terminal that closes, or a pipe, takes the display with it and not the run."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TextIO, cast

from kit.io.secrets import scrub

if TYPE_CHECKING:
    from rich.console import Console


class StandardError(io.TextIOBase):
    """The present ``sys.stderr``, without secrets; what it no longer takes is dropped.

    Args:
        masked: Whether secrets are masked.
    """

    def __init__(self, *, masked: bool = True) -> None:
        super().__init__()
        # A progress bar puts itself in the place of standard error, and is not to be written through itself.
        stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        self._stream: TextIO = stream._stream if isinstance(stream, StandardError) else stream
        self._masked = masked

    def write(self, text: str) -> int:
        """Write, if anybody is there."""
        if self._masked:
            text = scrub(text)
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            # Names of files may be bytes that are no text.
            return self._stream.write(text.encode("ascii", "backslashreplace").decode())
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flush, if anybody is there."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of its text."""
        return self._stream.encoding

    def _let_go(self) -> None:
        """Point the descriptor at nothing, so that whatever else writes there does not fail either."""
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            self._stream.flush()


def error_console(*, masked: bool = True) -> Console:
    """Return a console on the present standard error.

    Args:
        masked: Whether secrets are masked.
    """
    from rich.console import Console

    stream = cast("IO[str]", StandardError(masked=masked))
    out = Console(file=stream, highlight=False)
    return out if out.is_terminal else Console(file=stream, highlight=False, width=120)


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds: ``0:12:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
