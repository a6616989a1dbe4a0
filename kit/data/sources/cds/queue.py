"""Queue of requests: submitted, watched while the data store works on them, fetched as they finish.

One thread submits and asks; a few fetch. Whatever ends this process, the data store goes on: the ids of its jobs are on
disk, and the same command asks for those jobs again. Own code, because the client waits for one job at a time, and
forgets it when the process ends; downloads are the registry's.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from kit.data.sources.cds.request_cache import CachedRequest
from kit.data.sources.cds.service import Result, Service, State
from kit.io.errors import StoreError, UnavailableError
from kit.io.progress import ProgressCallback
from kit.io.retry import Limits, RetryableError, SourceError
from kit.registry.download import Source, download


@dataclass(frozen=True)
class PollingPolicy:
    """How much is done at once, and how often it is asked.

    Attributes:
        jobs: in the data store's queue at once; it lets one user run only a few, and refuses long queues.
        downloads: at once.
        shortest: seconds between two rounds of questions, at first.
        longest: seconds between two rounds, when nothing has changed for a while.
        report_every: seconds between lines of progress when nothing has changed.
        attempts: for one request, before it is given up.
    """

    jobs: int = 20
    downloads: int = 3
    shortest: float = 1.0
    longest: float = 30.0
    report_every: float = 60.0
    attempts: int = 3


class _DownloadProgress(ProgressCallback):
    """Counter of the bytes of one download, which ends it when the others are given up."""

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

    cached: CachedRequest
    job: str | None = None
    state: str = "waiting"
    failures: int = 0
    download: Future[Result] | None = None
    progress: _DownloadProgress | None = None

    @property
    def dataset(self) -> str:
        return self.cached.planned.dataset


class _StoppedError(Exception):
    """The process ends; what has arrived stays."""


def fetch_all(
    requests: Sequence[CachedRequest],
    service: Callable[[], Service],
    watch: ProgressCallback,
    limits: Limits,
    policy: PollingPolicy,
) -> None:
    """Fetch the results of requests into the cache.

    Args:
        requests: the requests' places there.
        service: enters the data store; not called if everything is there.
        watch: receiver of lines of progress.
        limits: waiting times and numbers of attempts of connections.
        policy: how much at once.

    Raises:
        SettingsError: the key, a licence or a data set is refused.
        StoreError: a request is refused or fails, or what came is not what was asked; what else was fetched stays.
        UnavailableError: the data store does not answer; its jobs stay in its queue.
        RegistryError: the cache cannot be written to, or is full.
    """
    tasks = [_Task(request) for request in requests if not request.is_whole()]
    if not tasks:
        return
    with closing(_Queue(tasks, len(requests), service(), watch, limits, policy)) as queue:
        queue.run()


def readable(size: int) -> str:
    """Write a number of bytes as people say it."""
    return f"{size / 1e9:.3g} GB" if size >= 10**8 else f"{size / 1e6:.3g} MB"


@dataclass
class _Queue:
    tasks: list[_Task]
    total: int
    service: Service
    watch: ProgressCallback
    limits: Limits
    policy: PollingPolicy
    stop: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)
    reported: tuple[str, float] = ("", 0.0)

    def __post_init__(self) -> None:
        self.room = self.policy.jobs
        self.pool = ThreadPoolExecutor(self.policy.downloads, thread_name_prefix="cds")
        self.host = self.service.access.host

    def run(self) -> None:
        """Go round until everything is there."""
        pause = self.policy.shortest
        while True:
            before = self._counts()
            try:
                self._go_round()
            except (StoreError, UnavailableError) as error:
                msg = (
                    f"{error}. {self.total - len(self._open())} of {self.total} results are in the cache, and what is "
                    "in the queue stays there: the same command goes on from here"
                )
                raise type(error)(msg) from error
            counts = self._counts()
            self._report(counts)
            if not self._open():
                return
            # Servers are spared while nothing changes.
            pause = min(pause * 1.5, self.policy.longest)
            if counts != before:
                pause = self.policy.shortest
            self.stop.wait(pause)

    def close(self) -> None:
        """End the downloads, and let others have what is not done."""
        # Downloads that are under way end at their next bytes, which stay, to be continued.
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for task in self.tasks:
            task.cached.release()

    def _open(self) -> list[_Task]:
        return [task for task in self.tasks if task.state != "here"]

    def _jobs(self) -> int:
        """Count what is in the data store's queue."""
        return sum(task.job is not None and task.download is None for task in self.tasks)

    def _go_round(self) -> None:
        for task in self._open():
            if task.download is not None and task.download.done():
                self._collect(task, task.download)
            elif task.download is None and task.job is not None:
                self._ask(task, task.job)
        # After the questions, which may have made room.
        for task in self._open():
            if task.state in ("waiting", "elsewhere") and self._jobs() < self.room:
                self._begin(task)

    def _begin(self, task: _Task) -> None:
        """Submit a request, or go on with the job that an earlier process submitted."""
        cached, address = task.cached, self.service.access.url
        if not cached.lock():
            task.state = "elsewhere"
            return
        # Another process may have fetched it meanwhile.
        if cached.is_whole():
            self._finish(task)
            return
        note, job = cached.note, None
        if note.service == address:
            job = note.job
            # The answer to a submission may have been lost, or the process have ended before it came.
            if job is None and note.submitting:
                job = self.service.find(task.dataset, cached.planned.inputs)
        # Written down before and after, so that whatever ends this process, the job is found again.
        if job is None:
            cached.remember(service=address, submitting=True, job=None)
            job = self.service.submit(task.dataset, cached.planned.inputs)
        cached.remember(submitting=False, job=job)
        task.job, task.state = job, "accepted"

    def _ask(self, task: _Task, job: str) -> None:
        """Ask what has become of a job, and do what follows from it."""
        state, result = self.service.state(job, task.dataset), None
        task.state = state.name
        if state.name == "successful":
            result = self.service.result(job, task.dataset)
            # Results expire.
            if result is None:
                state = State("gone", "its result is no longer there")
        if result is not None:
            task.state, task.progress = "arriving", _DownloadProgress(self.stop, self.watch)
            task.download = self.pool.submit(self._download, task.cached, result, task.progress)
        elif state.name == "rejected":
            self._rejected(task, state.words)
        elif state.name in ("failed", "gone"):
            self._drop(task)
            task.failures += 1
            words = state.words or "it no longer knows the request"
            if task.failures >= self.policy.attempts:
                msg = f"{self.host} failed {task.failures} times on {task.cached.planned}, lastly: {words}"
                raise StoreError(msg)
            self.watch.said(f"{task.cached.planned}: request {job} is {state.name} ({words}); submitting it again")

    def _rejected(self, task: _Task, words: str) -> None:
        """Put off a request where the queue is full; alone in the queue, it is the request itself that is refused."""
        others = self._jobs() - 1
        self._drop(task)
        if others <= 0:
            msg = f"{self.host} rejected the request for {task.cached.planned}: {words}"
            raise StoreError(msg)
        # As many as it took, from now on.
        self.room = others
        self.watch.said(f"{self.host} takes {others} of our requests at once: {words}")

    def _drop(self, task: _Task) -> None:
        """Forget a job."""
        if task.job is not None:
            self.service.forget(task.job)
        task.cached.remember(job=None, submitting=False)
        task.job, task.state = None, "waiting"

    def _download(self, cached: CachedRequest, result: Result, progress: _DownloadProgress) -> Result:
        """Download a result into a partial file, in a thread of its own."""
        # By the registry's downloader, which goes on where a download was cut, in this process or an earlier one.
        source = Source(result.url, result.url)
        download(source, cached.part, result.size, self.limits, progress, str(cached.planned))
        if damage := cached.damage(result.size):
            cached.part.discard()
            raise SourceError(damage)
        return result

    def _collect(self, task: _Task, finished: Future[Result]) -> None:
        """Take what a download brought; ask again where the result lies if it failed: a link may have run out."""
        task.download, task.state = None, "successful"
        planned = task.cached.planned
        try:
            result = finished.result()
        except SourceError as error:
            task.failures += 1
            # Given up by the downloader, after its own attempts.
            if isinstance(error.__cause__, RetryableError):
                msg = f"{self.host}: the result for {planned} does not come: {error}"
                raise UnavailableError(msg) from error
            if task.failures >= self.policy.attempts:
                self._drop(task)
                msg = f"{self.host}: what comes for {planned} is not the result that it announces: {error}"
                raise StoreError(msg) from error
            self.watch.said(f"{planned}: {error}; asking again")
            if task.failures == self.policy.attempts - 1:
                # The same job would hand out the same once more.
                self._drop(task)
            return
        task.cached.publish(result.url)
        self._finish(task)

    def _finish(self, task: _Task) -> None:
        task.cached.release()
        task.job, task.state = None, "here"

    def _counts(self) -> str:
        """Count the requests by state, in words."""
        counted = Counter(task.state for task in self.tasks)
        words = {"accepted": "queued", "running": "running", "successful": "done"}
        here = counted["here"] + self.total - len(self.tasks)
        order = ("waiting", "elsewhere", *words, "arriving")
        under_way = [f"{counted[state]} {words.get(state, state)}" for state in order if counted[state]]
        return ", ".join([*under_way, f"{here} of {self.total} here"])

    def _report(self, counts: str) -> None:
        """Say where it stands: when that changes, and now and then."""
        now = time.monotonic()
        if counts == self.reported[0] and now - self.reported[1] < self.policy.report_every:
            return
        self.reported = (counts, now)
        size = sum(task.progress.done for task in self.tasks if task.progress is not None)
        arrived = f", {readable(size)} arrived" if size else ""
        self.watch.said(f"{self.host}: {counts}{arrived} ({now - self.began:.0f} s)")
