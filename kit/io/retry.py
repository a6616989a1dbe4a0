"""Retries: which failures may pass, how long to wait between attempts, and when to give up."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from kit.io.progress import ProgressCallback

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of servers that are busy, restarting or behind a failing gateway; a later request may succeed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Waiting times and numbers of attempts.

    Attributes:
        connect: Seconds until a connection stands.
        read: Seconds without a byte until a connection counts as cut.
        attempts: Attempts in a row, none of which got further than the one before, until it is given up.
        backoff: Seconds before the second attempt; doubled before each one after it.
        longest: Longest wait in seconds; a server that asks for more is given up.
        slowest: Bytes a second below which a server is given up, whatever it sends.
        patience: Seconds over which that rate is measured.
    """

    connect: float = 10.0
    read: float = 60.0
    attempts: int = 5
    backoff: float = 1.0
    longest: float = 120.0
    slowest: float = 1024.0
    patience: float = 20.0


class SourceError(Exception):
    """A source does not have the file, or not as the registry describes it; another might."""


class RetryableError(Exception):
    """A failure that may pass.

    Attributes:
        wait: Seconds that the server asks to wait, if it does.
    """

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Pace:
    """The rate at which bytes of one answer arrive: each byte in time does not make a file arrive in time."""

    _FEW = 5
    """Arrivals; a connection that stands still for a while and goes on brings many bytes in fewer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began, self._arrivals, self._bytes = time.monotonic(), 0, 0

    def advanced(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            SourceError: they come so slowly that nobody should wait.
        """
        self._arrivals, self._bytes = self._arrivals + 1, self._bytes + count
        seconds = time.monotonic() - self._began
        if seconds < self._limits.patience or (self._arrivals < self._FEW and seconds < 2 * self._limits.read):
            return
        if self._bytes < self._limits.slowest * seconds:
            msg = (
                f"the server sent {self._bytes} bytes in {seconds:.0f} s, less than {self._limits.slowest:.0f} a "
                "second; given up"
            )
            raise SourceError(msg)
        self._began, self._arrivals, self._bytes = time.monotonic(), 0, 0


def within(seconds: float, run: Callable[[], T]) -> T:
    """Run an operation that waits for a server, and stop waiting after a time.

    Limits for each read do not end a server that sends the lines of an answer's head byte by byte.

    Args:
        seconds: Longest wait.
        run: Operation without arguments; it goes on by itself, unheard, where it takes longer.

    Returns:
        What ``run`` returned.

    Raises:
        RetryableError: it took longer.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def catch() -> None:
        try:
            results.append(run())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        msg = f"no whole answer in {seconds:.0f} s"
        raise RetryableError(msg)
    return results[0]


def patiently(
    run: Callable[[], T], limits: Limits, watch: ProgressCallback, progress: Callable[[], int] = lambda: 0
) -> T:
    """Repeat an operation while it fails with a ``RetryableError``, waiting twice as long each time.

    An attempt that got further than those before it counts as the first one.

    Args:
        run: Operation without arguments.
        limits: Waiting times and number of attempts.
        watch: Receiver of a message before each wait.
        progress: Number of bytes that are there, by which it shows whether an attempt got further.

    Returns:
        What ``run`` returned at last.

    Raises:
        SourceError: so many attempts in a row did not get further, or the server asks to wait too long.
    """
    best, failures = progress(), 0
    while True:
        try:
            return run()
        except RetryableError as failure:
            failures += 1
            # A download of hours is cut many times; each attempt that brought more bytes shows that the next may.
            reached = progress()
            if reached > best:
                best, failures = reached, 1
            wait = wait_before_retry(failure, failures, limits)
            watch.said(f"{failure}; trying again in {wait:.3g} s")
            time.sleep(wait)


def wait_before_retry(failure: RetryableError, failures: int, limits: Limits) -> float:
    """Compute the seconds to wait before the next attempt.

    Args:
        failure: Failure of the last attempt.
        failures: Number of attempts in a row that failed, this one included.
        limits: Waiting times and number of attempts.

    Raises:
        SourceError: so many attempts failed, or the server asks to wait too long.
    """
    if failures >= limits.attempts:
        msg = f"{failure}; given up after {failures} attempts"
        raise SourceError(msg) from failure
    wait: float = limits.backoff * 2 ** (failures - 1)
    if failure.wait is not None:
        wait = failure.wait
        if wait > limits.longest:
            msg = f"{failure}; the server asks to wait {wait:.0f} s"
            raise SourceError(msg) from failure
    return min(wait, limits.longest)


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
    """Explain why a connection failed, in the system's own words, which hold no address and no secret."""
    # HTTP libraries wrap the system's error several times, as cause, as ``reason`` or among the arguments.
    causes = [error]
    for cause in causes:
        for inner in (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args):
            if isinstance(inner, BaseException) and inner not in causes:
                causes.append(inner)
    # By name: requests, urllib3, httpx and aiohttp have classes of their own, and none is imported for this.
    names = " ".join(type(cause).__name__ for cause in causes)
    if "Timeout" in names:
        return "no answer in time"
    was_cut = "IncompleteRead" in names or "RemoteDisconnected" in names
    words = "the connection was cut" if was_cut else type(error).__name__
    for cause in causes:
        if isinstance(cause, OSError) and isinstance(cause.strerror, str):
            words = cause.strerror
    return f"through the proxy: {words}" if "ProxyError" in names else words


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the header ``Retry-After``, seconds or a date.

    Returns:
        Seconds from now; None if the header is missing or makes no sense.
    """
    text = headers.get("Retry-After", "").strip()
    # RFC 9110, section 10.2.3: seconds, or a date.
    if text.isdigit():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A zone of "-0000" is read as none; such dates are UTC.
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, then.timestamp() - datetime.now(UTC).timestamp())
