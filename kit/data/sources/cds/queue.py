"""Many requests at once: submitted, watched while the data store works on them, fetched as they finish.

One thread submits and asks; a few fetch. Whatever ends this process, the data store goes on: the ids of its jobs are on
disk, and the same command asks for those jobs again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from kit.data.sources.cds.request_cache import Kept
from kit.data.sources.cds.service import Result, Service, State
from kit.io.errors import StoreError, UnavailableError
from kit.io.progress import ProgressCallback
from kit.io.retry import Limits, RetryableError, SourceError
from kit.registry.download import Source, download

__all__ = ["Pace", "fetch_all", "readable"]


@dataclass(frozen=True)
class Pace:
    """How much is done at once, and how often it is asked.

    Attributes:
        jobs: in the data store's queue at once; it lets one user run only a few, and refuses long queues.
        downloads: at once.
        shortest: seconds between two rounds of questions, at first.
        longest: seconds between two rounds, when nothing has changed for a while.
        told: seconds between lines of progress when nothing has changed.
        attempts: for one request, before it is given up.
    """

    jobs: int = 20
    downloads: int = 3
    shortest: float = 1.0
    longest: float = 30.0
    told: float = 60.0
    attempts: int = 3


class _Arrival(ProgressCallback):
    """Counts the bytes of one download, and ends it when the others are given up."""

    def __init__(self, stop: threading.Event, watch: ProgressCallback) -> None:
        self._stop, self._watch = stop, watch
        self.done = 0

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        """Say nothing: the queue's own line tells how many arrive."""

    def advanced(self, done: int) -> None:
        """Count, and end the download if nobody waits for it any more."""
        self.done = done
        if self._stop.is_set():
            raise _StoppedError

    def said(self, text: str) -> None:
        """Pass it on."""
        self._watch.said(text)


@dataclass(eq=False)
class _Task:
    """One request under way."""

    kept: Kept
    job: str | None = None
    state: str = "waiting"
    failures: int = 0
    arriving: Future[Result] | None = None
    arrival: _Arrival | None = None

    @property
    def dataset(self) -> str:
        return self.kept.planned.dataset


class _StoppedError(Exception):
    """The process ends; what has arrived stays."""


def fetch_all(
    kept: Sequence[Kept],
    service: Callable[[], Service],
    watch: ProgressCallback,
    limits: Limits,
    pace: Pace | None = None,
) -> None:
    """Have the results of requests in the cache.

    Args:
        kept: the requests' places there.
        service: enters the data store; not called if everything is there.
        watch: is told how it goes.
        limits: of patience.
        pace: how much at once.

    Raises:
        SettingsError: the key, a licence or a data set is refused.
        StoreError: a request is refused or fails, or what came is not what was asked; what else was fetched stays.
        UnavailableError: the data store does not answer; its jobs stay in its queue.
        RegistryError: the cache cannot be written to, or is full.
    """
    missing = [one for one in kept if not one.whole()]
    if not missing:
        return
    queue = _Queue([_Task(one) for one in missing], len(kept), service(), watch, limits, pace or Pace())
    try:
        queue.run()
    finally:
        queue.close()


def readable(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / 1e9:.3g} GB" if size >= 10**8 else f"{size / 1e6:.3g} MB"


@dataclass
class _Queue:
    tasks: list[_Task]
    total: int
    service: Service
    watch: ProgressCallback
    limits: Limits
    pace: Pace
    stop: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    said: tuple[str, float] = ("", 0.0)
    room: int = 0

    def __post_init__(self) -> None:
        self.room = self.pace.jobs
        self.pool = ThreadPoolExecutor(self.pace.downloads, thread_name_prefix="cds")

    def run(self) -> None:
        """Go round until everything is there."""
        pause = self.pace.shortest
        while True:
            before = self._counts()
            try:
                self._round()
            except (StoreError, UnavailableError) as error:
                msg = f"{error}. {self._left()}"
                raise type(error)(msg) from error
            now = self._counts()
            self._tell(now)
            if not self._open():
                return
            pause = self.pace.shortest if now != before else min(pause * 1.5, self.pace.longest)
            time.sleep(pause)

    def close(self) -> None:
        """End the downloads, and let others have what is not done."""
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for task in self.tasks:
            task.kept.release()

    def _open(self) -> list[_Task]:
        return [task for task in self.tasks if task.state != "here"]

    def _round(self) -> None:
        for task in self._open():
            if task.arriving is not None:
                self._arrived(task)
            elif task.job is not None:
                self._ask(task)
        for task in self._open():
            if task.state in ("waiting", "elsewhere") and self._under_way() < self.room:
                self._begin(task)

    def _under_way(self) -> int:
        return sum(task.job is not None and task.arriving is None for task in self.tasks)

    def _begin(self, task: _Task) -> None:
        """Submit a request, or go on with the job that an earlier process submitted."""
        if not task.kept.lock():
            task.state = "elsewhere"
            return
        if task.kept.whole():
            self._done(task)
            return
        note = task.kept.note
        known = note.job if note.service == self.service.access.url else None
        if known is None and note.submitting and note.service == self.service.access.url:
            known = self.service.find(task.dataset, task.kept.planned.inputs)
        if known is None:
            task.kept.remember(service=self.service.access.url, submitting=True, job=None)
            known = self.service.submit(task.dataset, task.kept.planned.inputs)
        task.kept.remember(submitting=False, job=known)
        task.job, task.state = known, "accepted"

    def _ask(self, task: _Task) -> None:
        assert task.job is not None
        state = self.service.state(task.job, task.dataset)
        task.state = state.name
        if state.name == "successful":
            result = self.service.result(task.job, task.dataset)
            if result is None:
                self._again(task, State("gone", "its result is no longer there"))
                return
            task.state, task.arrival = "arriving", _Arrival(self.stop, self.watch)
            task.arriving = self.pool.submit(self._fetch, task.kept, result, task.arrival)
        elif state.name in ("failed", "gone"):
            self._again(task, state)
        elif state.name == "rejected":
            self._rejected(task, state)

    def _rejected(self, task: _Task, state: State) -> None:
        """A queue that is full takes it later; alone in the queue, it is the request itself that is refused."""
        others = self._under_way() - 1
        if others > 0:
            self.room = max(1, others)
            self._drop(task)
            self.watch.said(f"{self.service.access.host} takes {others} of our requests at once: {state.words}")
            return
        msg = f"{self.service.access.host} rejected the request for {task.kept.planned}: {state.words}"
        self._drop(task)
        raise StoreError(msg)

    def _again(self, task: _Task, state: State) -> None:
        """Submit anew what failed, or what the data store has forgotten."""
        job = task.job
        self._drop(task)
        task.failures += 1
        words = state.words or "it no longer knows the request"
        if task.failures >= self.pace.attempts:
            msg = f"{self.service.access.host} failed {task.failures} times on {task.kept.planned}, lastly: {words}"
            raise StoreError(msg)
        self.watch.said(f"{task.kept.planned}: request {job} is {state.name} ({words}); submitting it again")

    def _drop(self, task: _Task) -> None:
        """Forget a job."""
        if task.job is not None:
            self.service.forget(task.job)
        task.kept.remember(job=None, submitting=False)
        task.job, task.state = None, "waiting"

    def _fetch(self, kept: Kept, result: Result, arrival: _Arrival) -> Result:
        """Bring a result to the cache, in a thread of its own."""
        name = str(kept.planned)
        source = Source(result.url, result.url)
        download(source, kept.part, result.size, self.limits, arrival, name)
        if (wrong := kept.why_not(result.size)) is not None:
            kept.part.discard()
            raise SourceError(wrong)
        return result

    def _arrived(self, task: _Task) -> None:
        """See what has become of a download."""
        assert task.arriving is not None
        if not task.arriving.done():
            return
        arriving, task.arriving, task.state = task.arriving, None, "successful"
        try:
            result = arriving.result()
        except SourceError as error:
            self._not_arrived(task, error)
            return
        task.kept.settle(result.url)
        self._done(task)

    def _not_arrived(self, task: _Task, error: SourceError) -> None:
        """Ask again where the result lies; a link may have run out. Give up in the end, and say what it was."""
        task.failures += 1
        host = self.service.access.host
        if isinstance(error.__cause__, RetryableError):
            msg = f"{host}: the result for {task.kept.planned} does not come: {error}"
            raise UnavailableError(msg) from error
        if task.failures >= self.pace.attempts:
            self._drop(task)
            msg = f"{host}: what comes for {task.kept.planned} is not the result that it announces: {error}"
            raise StoreError(msg) from error
        self.watch.said(f"{task.kept.planned}: {error}; asking again")
        if task.failures == self.pace.attempts - 1:
            # The same job would hand out the same once more.
            self._drop(task)

    def _done(self, task: _Task) -> None:
        task.kept.release()
        task.job, task.state = None, "here"

    def _counts(self) -> str:
        names = {"accepted": "queued", "successful": "done"}
        counted = Counter(names.get(task.state, task.state) for task in self.tasks)
        here = counted.pop("here", 0) + self.total - len(self.tasks)
        order = ("waiting", "elsewhere", "queued", "running", "done", "arriving")
        under_way = [f"{counted[name]} {name}" for name in order if counted[name]]
        return ", ".join([*under_way, f"{here} of {self.total} here"])

    def _tell(self, counts: str) -> None:
        """Say where it stands: when that changes, and now and then."""
        now = time.monotonic()
        if counts != self.said[0] or now - self.said[1] >= self.pace.told:
            self.said = (counts, now)
            size = sum(task.arrival.done for task in self.tasks if task.arrival is not None)
            arrived = f", {readable(size)} arrived" if size else ""
            self.watch.said(f"{self.service.access.host}: {counts}{arrived} ({now - self.began:.0f} s)")

    def _left(self) -> str:
        here = self.total - len(self._open())
        return (
            f"{here} of {self.total} results are in the cache, and what is in the queue stays there: the same command "
            "goes on from here"
        )
