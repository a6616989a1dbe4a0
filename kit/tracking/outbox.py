"""A buffer between the training loop and a tracking store that may be slow or away."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kit.io.errors import KitError

_logger = logging.getLogger(__name__)

_BATCH = 1000  # MLflow's limit of metrics per request


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    step: int
    value: float
    time_ms: int
    """Milliseconds since 1970-01-01 UTC."""


def in_time(call: Callable[[], bool], seconds: float) -> bool:
    """Make a call that may hang; return its answer, or false where none came within so many seconds."""
    answers: list[bool] = []
    # A daemon: a call that hangs holds up nobody's exit.
    thread = threading.Thread(target=lambda: answers.append(call()), name="tracking", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


class Outbox:
    """Buffer of points, sent in order from a thread of its own every few seconds.

    A point leaves the buffer only after ``send`` has returned, so nothing is lost while the store is away:
    that is logged once as a warning, and everything waits for the next attempt. ``put`` never waits. What is put
    where ``limit`` points wait already is left to whoever has the records, and counted.

    Args:
        send: Function that sends at most 1000 points; raises ``KitError`` when the store did not take them, and must
            then accept the same points again.
        interval: Least number of seconds between two attempts in the background.
        limit: Largest number of points that wait, about 200 bytes each.

    Attributes:
        left_out: Number of points that found no room.
    """

    def __init__(self, send: Callable[[Sequence[Point]], None], interval: float, limit: int = 1_000_000) -> None:
        self._send = send
        self._interval = interval
        self._limit = limit
        self._due = time.monotonic() + interval
        self._waiting: list[Point] = []
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None
        self._away = False
        self.left_out = 0

    def __len__(self) -> int:
        """Count the points that wait."""
        return len(self._waiting)

    def put(self, points: Iterable[Point]) -> None:
        """Add points, and start sending in the background when it is time; any thread may."""
        # Full: what comes first stays, so that what is sent later is without gaps; the run folder has the rest.
        fresh = list(points)
        room = max(0, self._limit - len(self._waiting))
        self._waiting.extend(fresh[:room])
        self.left_out += len(fresh[room:])
        if time.monotonic() >= self._due:
            self.send_soon()

    def send_soon(self) -> None:
        """Start sending in the background now, unless that goes on already."""
        if self._thread is None or not self._thread.is_alive():
            self._due = time.monotonic() + self._interval
            # A new daemon thread each time: nothing to stop at the end, and a store that hangs holds up nobody's exit.
            self._thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)
            self._thread.start()

    def flush(self, seconds: float | None = None) -> bool:
        """Send everything that waits, now; return whether the store took it all.

        Args:
            seconds: Longest wait for a store that does not answer.
        """
        return self._deliver() if seconds is None else in_time(self._deliver, seconds)

    def _deliver(self) -> bool:
        with self._sending:
            try:
                while batch := self._waiting[:_BATCH]:
                    self._send(batch)
                    del self._waiting[: len(batch)]
            except KitError as error:
                # Once as a warning: a server that is away for an hour would otherwise fill the screen.
                level = logging.DEBUG if self._away else logging.WARNING
                self._away = True
                _logger.log(
                    level, "%s; training goes on, %d values wait for the next attempt", error, len(self._waiting)
                )
                return False
            if self._away:
                self._away = False
                rest = f", except {self.left_out} values that found no room here" if self.left_out else ""
                # As loud as the warning that it ends.
                _logger.warning("the tracking store answers again and has everything that waited%s", rest)
            return True
