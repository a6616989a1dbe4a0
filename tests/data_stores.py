"""A local data store of Copernicus: the protocol of its client, results in true GRIB, and scripted faults.

    with serving_stores() as stores:
        stores.courses.append(("accepted", "failed"))
        stores.fail("submit", Fault(status=503))
        monkeypatch.setenv("ECMWF_DATASTORES_URL", stores.url)
        monkeypatch.setenv("ECMWF_DATASTORES_KEY", KEY)

Paths and bodies are those of https://cds.climate.copernicus.eu/api (OGC API Processes; errors as in RFC 7807). Results
lie on a server of their own, as the real ones do, which has faults of its own (``tests.servers``).
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt

from kit.checks.physics import standard_geopotential, standard_temperature
from kit.data.source_names import find
from kit.data.variables import Variable
from tests.data.sources.grib_files import message
from tests.servers import Fault, Server, serving

__all__ = ["KEY", "DataStores", "Job", "moments", "serving_stores", "values"]

KEY = "12345678-9abc-4def-8123-456789abcdef"
_NAMES = {"surface_geopotential": "geopotential"}
_MEANS = {"2t": (280.0, 10.0), "msl": (101000.0, 500.0), "q": (0.004, 0.001), "lsm": (0.5, 0.5), "z": (1500.0, 1500.0)}


def values(variable: Variable, level: float | None, moment: datetime, latitude: Any, longitude: Any) -> Any:
    """A field that can be told from all others: a wave that travels; of accumulations, millimetres by the hour."""
    if variable.accumulated:
        return np.full((len(latitude), len(longitude)), 1e-3 * (1 + moment.hour))
    hours = 0 if variable.kind == "static" else moment.timestamp() / 3600
    phase = sum(map(ord, variable.name)) + (level or 0) / 100
    wave = np.sin(np.deg2rad(30 * longitude[None, :] + 20 * latitude[:, None]) + phase - hours / 12)
    if level is not None and variable.name == "t":
        return float(standard_temperature(level)) + 5 * wave
    if level is not None and variable.name == "z":
        return float(standard_geopotential(level)) + 50 * wave
    if variable.name == "slt":
        return np.round(3 + 2 * wave)
    mean, scale = _MEANS.get(variable.name, (0.0, 5.0) if variable.low < 0 else (variable.high / 4, variable.high / 8))
    return mean + scale * wave


def moments(inputs: dict[str, Any]) -> list[datetime]:
    """The times that a request asks for."""
    if "date" in inputs:
        first, last = (datetime.fromisoformat(day) for day in inputs["date"][0].split("/"))
        days = [first + timedelta(days=index) for index in range((last - first).days + 1)]
    else:
        (year,), (month,) = inputs["year"], inputs["month"]
        days = [datetime.fromisoformat(f"{year}-{month}-{day}") for day in inputs["day"]]
    return [day + timedelta(hours=int(hour[:2])) for day in days for hour in inputs["time"]]


@dataclass
class Job:
    """One submitted request, and the states that it goes through each time it is asked for."""

    id: str
    dataset: str
    inputs: dict[str, Any]
    course: list[str]
    state: str = "accepted"
    asked: int = 0


@dataclass
class DataStores:
    """What the server holds, and what goes wrong with it.

    Attributes:
        files: the server of results.
        key: the one that it knows.
        licensed: whether its user has accepted the licences.
        jobs: all so far, by id.
        courses: of the next jobs; further ones are accepted, run and succeed.
        held: jobs stay where they are.
        grid: spacing in degrees, of global fields.
        limit: fields of one request at most.
        words: why jobs fail.
        leave_out: says of a variable and a time that a result lacks it.
        message: to all users.
        since_midnight: accumulations run from 00 UTC of each day, as ERA5-Land's do.
        lie: bytes that are added to the announced size of every result.
        posts: the inputs of all submissions so far.
        keys: that were shown.
    """

    port: int
    files: Server
    key: str = KEY
    licensed: bool = True
    jobs: dict[str, Job] = field(default_factory=dict)
    courses: list[Sequence[str]] = field(default_factory=list)
    held: bool = False
    grid: float = 22.5
    spacing: float = 0.25
    limit: int = 10**6
    words: dict[str, Any] = field(default_factory=lambda: {"title": "The job has failed", "traceback": "MARS: no data"})
    leave_out: Callable[[str, datetime], bool] = lambda name, moment: False
    message: str = ""
    since_midnight: bool = False
    lie: int = 0
    posts: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    _faults: dict[str, list[Fault]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        """Address of its interface."""
        return f"http://127.0.0.1:{self.port}/api"

    def fail(self, what: str, *faults: Fault) -> None:
        """Have the next calls go wrong: ``messages``, ``process``, ``submit``, ``jobs``, ``job`` or ``results``."""
        self._faults.setdefault(what, []).extend(faults)

    def fault(self, what: str) -> Fault:
        """Say what goes wrong with a call."""
        with self._lock:
            queue = self._faults.get(what)
            return queue.pop(0) if queue else Fault()

    def submit(self, dataset: str, inputs: dict[str, Any]) -> Job:
        """Take a request into the queue."""
        with self._lock:
            course = list(self.courses.pop(0)) if self.courses else ["accepted", "running", "successful"]
            number = len(self.jobs) + 1
            job = Job(f"{number:08x}-0000-4000-8000-000000000000", dataset, inputs, course)
            self.jobs[job.id] = job
            self.posts.append(inputs)
            return job

    def look(self, job: Job) -> None:
        """Let a job go on."""
        with self._lock:
            job.asked += 1
            if not self.held and job.course:
                job.state = job.course.pop(0)

    def file(self, job: Job) -> dict[str, Any]:
        """Make the result of a job, if need be, and say where it lies."""
        path = f"/results/{job.id}.grib"
        if path not in self.files.files:
            self.files.put(path, self.result(job.inputs))
        size = len(self.files.files[path].content)
        return {
            "type": "application/x-grib",
            "href": self.files.url(path),
            "file:checksum": "0123456789abcdef0123456789abcdef",
            "file:size": size + self.lie,
            "file:local_path": f"s3://cache{path}",
        }

    def result(self, inputs: dict[str, Any]) -> bytes:
        """GRIB of what was asked."""
        latitude, longitude = self._grid(inputs.get("area"))
        levels: list[float | None] = [float(level) for level in inputs.get("pressure_level", [])]
        content = []
        leads = [int(lead) for lead in inputs.get("leadtime_hour", ["0"])]
        for name, moment, lead, level in itertools.product(
            inputs["variable"], moments(inputs), leads, levels or [None]
        ):
            variable = find(_NAMES.get(name, name), on_levels=level is not None)
            assert variable is not None, name
            if not self.leave_out(name, moment):
                grid = (latitude, longitude)
                start, ahead = moment, lead
                if variable.accumulated and self.since_midnight:
                    # Each day is a forecast, and midnight its end.
                    start = (moment - timedelta(hours=1)).replace(hour=0)
                    ahead = round((moment - start) / timedelta(hours=1))
                of_forecast = "leadtime_hour" in inputs or start != moment
                content.append(_message(variable, level, start, ahead, grid, of_forecast=of_forecast))
        return b"".join(content)

    def _grid(self, area: Sequence[float] | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if area is None:
            return np.arange(90, -90.01, -self.grid), np.arange(0, 360, self.grid)
        north, west, south, east = area
        return (
            np.linspace(north, south, round((north - south) / self.spacing) + 1),
            np.linspace(west, east, round((east - west) / self.spacing) + 1),
        )


def _message(
    variable: Variable, level: float | None, moment: datetime, lead: int, grid: Any, *, of_forecast: bool
) -> bytes:
    keys: dict[str, Any] = {"param": variable.param_ids[0], "bitsPerValue": 24, "grid": grid}
    if variable.accumulated and of_forecast:
        # As CAMS and ERA5-Land have them: since the start of the forecast.
        ends = [moment + timedelta(hours=hour) for hour in range(1, lead + 1)]
        field = sum((values(variable, level, end, *grid) for end in ends), np.zeros(tuple(map(len, grid))))
        return message(field, edition=2, time=f"{moment:%Y-%m-%dT%H}", stepRange=f"0-{lead}", **keys)
    if variable.accumulated:
        # As ERA5 has them: the hour that ends at the time, of a forecast that began before it.
        start = moment - timedelta(hours=1)
        field = values(variable, level, moment, *grid)
        return message(field, edition=2, time=f"{start:%Y-%m-%dT%H}", stepRange="0-1", **keys)
    edition = 2 if variable.param_ids[0] > 200000 else 1
    if lead:
        keys |= {"step": lead}
    field = values(variable, level, moment + timedelta(hours=lead), *grid)
    return message(
        field, level=None if level is None else int(level), time=f"{moment:%Y-%m-%dT%H}", edition=edition, **keys
    )


_ROUTES = (
    ("GET", "messages", r"/api/catalogue/v1/messages"),
    ("GET", "process", r"/api/retrieve/v1/processes/([\w.-]+)"),
    ("POST", "submit", r"/api/retrieve/v1/processes/([\w.-]+)/execution"),
    ("GET", "jobs", r"/api/retrieve/v1/jobs"),
    ("GET", "job", r"/api/retrieve/v1/jobs/([\w-]+)"),
    ("DELETE", "dismiss", r"/api/retrieve/v1/jobs/([\w-]+)"),
    ("GET", "results", r"/api/retrieve/v1/jobs/([\w-]+)/results"),
)


class _ProblemError(Exception):
    """An answer that is an error, as RFC 7807 writes it."""

    def __init__(self, status: int, kind: str, title: str, detail: str = "", **more: Any) -> None:
        super().__init__(title)
        self.status = status
        self.body = {"type": kind, "title": title, "status": status, "trace_id": "0" * 8, **more}
        self.body |= {"detail": detail} if detail else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: the second of two waits 40 ms for an acknowledgement.
    wbufsize = -1
    stores: DataStores

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = json.loads(self.rfile.read(length)) if length else {}
        path = urlsplit(self.path).path
        matches = ((what, re.fullmatch(pattern, path)) for verb, what, pattern in _ROUTES if verb == method)
        what, found = next((match for match in matches if match[1]), ("", None))
        if found is None:
            self._send(404, {"title": "Not Found"})
            return
        fault = self.stores.fault(what)
        if fault.status is not None:
            self._send(fault.status, fault.body or {"title": "out of order"}, fault.headers)
            return
        try:
            status, body = getattr(self, f"_{what}")(*found.groups(), **({"sent": sent} if method == "POST" else {}))
        except _ProblemError as problem:
            status, body = problem.status, problem.body
        # What was asked has happened; the answer may come late, or never.
        time.sleep(fault.delay)
        if fault.cut is not None:
            self.close_connection = True
            return
        self._send(status, body, fault.headers)

    def _messages(self) -> tuple[int, Any]:
        told = [{"severity": "warning", "content": self.stores.message}] if self.stores.message else []
        return 200, {"messages": told}

    def _check_key(self) -> None:
        key = self.headers.get("PRIVATE-TOKEN", "")
        self.stores.keys.add(key)
        if key != self.stores.key:
            raise _ProblemError(401, "permission denied", "Authentication failed", "operation not allowed")

    def _process(self, dataset: str) -> tuple[int, Any]:
        if not dataset.startswith(("reanalysis-", "cams-")):
            raise _ProblemError(404, "process not found", "process not found", f"dataset {dataset} not found")
        return 200, {"id": dataset, "version": "1.0.0", "links": []}

    def _submit(self, dataset: str, sent: dict[str, Any]) -> tuple[int, Any]:
        self._check_key()
        inputs = sent["inputs"]
        if not self.stores.licensed:
            where = f"please visit https://cds.climate.copernicus.eu/datasets/{dataset}?tab=download#manage-licences"
            detail = f"Not all the required licences have been accepted; {where} to accept the required licence(s)."
            raise _ProblemError(403, "permission denied", "required licences not accepted", detail)
        if len(inputs["variable"]) * len(moments(inputs)) > self.stores.limit:
            detail = "Your request is too large, please reduce your selection."
            raise _ProblemError(403, "permission denied", "cost limits exceeded", detail)
        job = self.stores.submit(dataset, inputs)
        return 201, self._described(job, "monitor")

    def _jobs(self) -> tuple[int, Any]:
        self._check_key()
        wanted = parse_qs(urlsplit(self.path).query).get("status", [])
        jobs = [self._described(job, "self") for job in reversed(self.stores.jobs.values()) if job.state in wanted]
        return 200, {"jobs": jobs, "links": []}

    def _job(self, job_id: str) -> tuple[int, Any]:
        job = self._known(job_id)
        # The client asks with a query when it wants to know the state.
        if "log=" in self.path:
            self.stores.look(job)
        return 200, self._described(job, "self")

    def _dismiss(self, job_id: str) -> tuple[int, Any]:
        job = self._known(job_id)
        del self.stores.jobs[job_id]
        return 200, {**self._described(job, "self"), "status": "dismissed"}

    def _results(self, job_id: str) -> tuple[int, Any]:
        job = self._known(job_id)
        if job.state in ("failed", "rejected"):
            raise _ProblemError(400, "job results failed", **self.stores.words)
        if job.state != "successful":
            raise _ProblemError(404, "results not ready", "job not completed")
        return 200, {"asset": {"value": self.stores.file(job)}}

    def _known(self, job_id: str) -> Job:
        self._check_key()
        job = self.stores.jobs.get(job_id)
        if job is None:
            raise _ProblemError(404, "no such job", "job not found", f"job {job_id} not found")
        return job

    def _described(self, job: Job, rel: str) -> dict[str, Any]:
        href = f"{self.stores.url}/retrieve/v1/jobs/{job.id}"
        return {
            "processID": job.dataset,
            "type": "process",
            "jobID": job.id,
            "status": job.state,
            "created": "2026-11-22T00:00:00",
            "updated": "2026-11-22T00:00:00",
            "links": [{"href": href, "rel": rel, "type": "application/json"}],
            "metadata": {"request": {"ids": job.inputs, "labels": {}}, "log": []},
        }

    def _send(self, status: int, body: Any, headers: Any = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of the server."""


@contextmanager
def serving_stores() -> Iterator[DataStores]:
    """Serve on loopback, at a free port, until the block ends."""
    with serving() as files:
        handler = type("Handler", (_Handler,), {})
        listener = _Listener(("127.0.0.1", 0), handler)
        handler.stores = stores = DataStores(listener.server_address[1], files)  # type: ignore[attr-defined]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield stores
        finally:
            listener.shutdown()
            listener.server_close()
            thread.join()
