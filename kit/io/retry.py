"""Trying again: what may go better the next time, how long is waited, and when it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from kit.io.progress import ProgressCallback

__all__ = ["RETRY_STATUS", "RetryableError", "Limits", "SourceError", "patiently", "poll", "reason", "retry_after"]

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be others a moment later."""

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How long is waited, and how often tried.

    Attributes:
        connect: seconds until a connection stands.
        read: seconds without a byte until a connection counts as cut.
        attempts: in a row of which none got further.
        backoff: seconds before the second attempt; doubled before each one after it.
        longest: seconds that are waited at most; a server that asks for more is given up.
    """

    connect: float = 10.0
    read: float = 60.0
    attempts: int = 5
    backoff: float = 1.0
    longest: float = 120.0


class SourceError(Exception):
    """A source does not have the file, or not as the registry describes it; another might."""


class RetryableError(Exception):
    """Something that may go better the next time.

    Attributes:
        wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def patiently(
    run: Callable[[], T], limits: Limits, watch: ProgressCallback, progress: Callable[[], int] = lambda: 0
) -> T:
    """Do something again while it is interrupted, after waits that double; anew after each attempt that got further.

    Args:
        run: what is done.
        limits: of patience.
        watch: is told of each wait.
        progress: bytes that are there, by which it is seen that an attempt got further.

    Returns:
        What ``run`` returned at last.

    Raises:
        SourceError: so many attempts in a row did not get further, or the server asks to wait too long.
    """
    best, failures = progress(), 0
    while True:
        try:
            return run()
        except RetryableError as interrupted:
            failures = 1 if progress() > best else failures + 1
            best = max(best, progress())
            wait = limits.backoff * 2 ** (failures - 1) if interrupted.wait is None else interrupted.wait
            if failures >= limits.attempts:
                msg = f"{interrupted}; given up after {failures} attempts"
                raise SourceError(msg) from interrupted
            if interrupted.wait is not None and wait > limits.longest:
                msg = f"{interrupted}; the server asks to wait {wait:.0f} s"
                raise SourceError(msg) from interrupted
            watch.said(f"{interrupted}; trying again in {min(wait, limits.longest):.3g} s")
            time.sleep(min(wait, limits.longest))


def poll(done: Callable[[], bool], every: float, limit: float | None = None) -> bool:
    """Ask again and again until something is done.

    Args:
        done: Question that is asked.
        every: Seconds between two questions.
        limit: Seconds after which no more is asked; None asks for ever.

    Returns:
        Whether it was done within the limit.
    """
    started = time.monotonic()
    while not done():
        if limit is not None and time.monotonic() - started >= limit:
            return False
        time.sleep(every)
    return True


def reason(error: BaseException) -> str:
    """Say why a connection failed, by the system's own words, which hold no address and no secret."""
    seen: list[BaseException] = [error]
    for known in seen:
        inner = [known.__cause__, known.__context__, getattr(known, "reason", None), *known.args]
        seen += [one for one in inner if isinstance(one, BaseException) and one not in seen]
    if any("Timeout" in type(one).__name__ for one in seen):
        return "no answer in time"
    told = [one.strerror for one in seen if isinstance(one, OSError) and isinstance(one.strerror, str)]
    broken = any("IncompleteRead" in type(one).__name__ or "RemoteDisconnected" in type(one).__name__ for one in seen)
    via = "through the proxy: " if any("ProxyError" in type(one).__name__ for one in seen) else ""
    return f"{via}{told[-1] if told else 'the connection was cut' if broken else type(error).__name__}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After``: seconds, or a date; None if it is missing or makes no sense."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())
