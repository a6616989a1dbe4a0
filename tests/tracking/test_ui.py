"""``kit ui`` as a user runs it: a process of its own, asked by its owner and by others of the machine."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kit.cli.main import main
from kit.io.errors import KitError
from kit.tracking.results import CHANGED
from kit.tracking.store import connect
from kit.tracking.tracker import MetricRecord, Tracker
from kit.tracking.ui import columns, landing, serve
from tests.tracking.conftest import StartRun
from tests.tracking.servers import free_port

KIT = Path(sys.executable).with_name("kit")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass
class Page:
    """A ``kit ui`` that runs, and the folder of its store."""

    folder: Path
    port: int
    address: str
    process: subprocess.Popen[str]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return self.address.rpartition("=")[2]

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body of an answer, whose headers are kept; redirects are not followed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        self.headers = {name.lower(): text for name, text in answer.getheaders()}
        content = answer.read()
        connection.close()
        return answer.status, content


def begin_page(folder: Path, **variables: str) -> Page:
    port = free_port()
    command = [str(KIT), "ui", "--port", str(port), "--run.dir", str(folder)]
    environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | variables
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    shown = ""
    for line in process.stderr:
        shown += line
        found = re.search(rf"http://127\.0\.0\.1:{port}/\?token=[\w-]{{43}}$", line)
        if found:
            return Page(folder, port, found[0], process)
    raise AssertionError(shown)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Page]:
    """One server for all of it: starting one takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_database, folder / "mlflow.db")
    begun = begin_page(folder)
    yield begun
    begun.process.kill()
    begun.process.communicate()


@pytest.fixture
def started(page: Page, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A run that was recorded through the page, by a client that has the token."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", page.token)
    return Tracker.start(
        uri=f"http://127.0.0.1:{page.port}", run_dir=page.folder, experiment="remote", run_name="first",
        params={"seed": 0}, tags={}, run_key="k",
    )  # fmt: skip


def routes() -> set[str]:
    """Paths of every route of MLflow's server, with a word where a route takes any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.server import app as flask
        from mlflow.server.fastapi_app import app as fastapi

    found = {rule.rule for rule in flask.url_map.iter_rules()} | set(fastapi.openapi()["paths"])
    # Those too that its description leaves out, in the routers that the application includes.
    for router in fastapi.routes:
        for route in getattr(getattr(router, "original_router", router), "routes", None) or []:
            found.add(str(getattr(route, "path", "/")))
    return {re.sub(r"<[^>]*>|\{[^}]*\}", "x", path) or "/" for path in found}


def let_in(page: Page, paths: Iterable[str], methods: Iterable[str]) -> list[tuple[str, str, int]]:
    """Requests without the token that are not refused."""
    found: list[tuple[str, str, int]] = []
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)) as connection:
        for path, method in itertools.product(paths, methods):
            connection.request(method, path, headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 403 or (method != "HEAD" and not content.startswith(b"403 Forbidden: this page is")):
                found.append((method, path, answer.status))
    return found


def test_every_route_refuses_whoever_lacks_the_token(page: Page) -> None:
    paths = routes()
    # As of MLflow 3.17: should it be asked in another way what there is, this tells.
    assert len(paths) > 200
    some = {"/", "/health", "/api/2.0/mlflow/experiments/create", "/v1/traces", "/graphql"}
    assert some <= paths
    assert let_in(page, sorted(paths), ("GET", "POST")) == []
    others = {"/nowhere", "/static-files/index.html", "/docs", "/openapi.json"}
    assert let_in(page, sorted(some | others), METHODS) == []
    created = connect(page.store, page.folder).search_experiments()
    assert {experiment.name for experiment in created} <= {"Default", "remote"}


@pytest.mark.slow
def test_every_route_refuses_every_method(page: Page) -> None:
    assert let_in(page, sorted(routes()), METHODS) == []


def test_wrong_hosts_origins_and_tokens_are_refused(page: Page) -> None:
    cookie = f"kit-ui-{page.port}={page.token}"
    assert page.ask("/health", cookie=cookie) == (200, b"OK")
    assert page.ask("/health", authorization=f"Bearer {page.token}") == (200, b"OK")
    for headers in (
        {"Cookie": f"kit-ui-{page.port}={page.token[:-1]}"},
        {"Cookie": cookie, "Host": "evil.example"},
        {"Cookie": cookie, "Host": f"127.0.0.1.evil.example:{page.port}"},
        {"Cookie": cookie, "Origin": f"http://127.0.0.1:{page.port + 1}"},
        {"Cookie": cookie, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Authorization": f"Bearer {page.token}x"},
    ):
        assert page.ask("/health", "GET", None, **headers)[0] == 403, headers
    assert page.ask(f"/?token={page.token[:-1]}")[0] == 403


def test_the_printed_address_leads_to_the_page_without_its_token(page: Page) -> None:
    status, _ = page.ask(f"/?token={page.token}")
    assert status == 303
    assert page.headers["location"].startswith("/#/experiments")
    assert page.token not in page.headers["location"]
    cookie = page.headers["set-cookie"]
    assert cookie.startswith(f"kit-ui-{page.port}={page.token};")
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    status, index = page.ask("/", cookie=cookie.partition(";")[0])
    assert status == 200
    assert b'"mlflow.telemetry.info.alert.dismissed_v1": "true"' in index
    script = re.search(rb'src="(static-files/[^"]+\.js)"', index)
    assert script is not None
    assert page.ask(f"/{script[1].decode()}", cookie=cookie.partition(";")[0])[0] == 200
    assert page.ask(f"/{script[1].decode()}")[0] == 403


def test_a_client_with_the_token_records_through_the_page(page: Page, started: Tracker) -> None:
    started.log(1, {"loss": 0.5, "nan": float("nan"), "infinite": float("inf")}, 1001)
    started.log(2, {"loss": 0.4}, 1002)
    assert started.flush()
    again = Tracker.start(
        uri=f"http://127.0.0.1:{page.port}", run_dir=page.folder, experiment="remote", run_name="first",
        params={"seed": 0}, tags={}, run_key="k",
    )  # fmt: skip
    assert again.run_id == started.run_id
    assert again.reconcile([MetricRecord(1, {"loss": 0.5, "other": 1.0}, 1001)]) == 1
    again.log(2, {"loss": 0.4, "nan": float("nan")}, 9002)
    again.log(3, {"loss": 0.3}, 9003)
    (page.folder / "config.toml").write_text("[train]\n")
    again.artifact(page.folder / "config.toml", "config")
    again.finish("FINISHED")
    client = connect(page.store, page.folder)
    losses = [(point.step, point.value) for point in client.get_metric_history(started.run_id, "loss")]
    assert losses == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert len(client.get_metric_history(started.run_id, "nan")) == 2
    assert client.get_run(started.run_id).info.status == "FINISHED"
    bearer = f"Bearer {page.token}"
    path = f"/get-artifact?path=config/config.toml&run_uuid={started.run_id}"
    assert page.ask(path, authorization=bearer) == (200, b"[train]\n")
    assert page.ask(path)[0] == 403


def test_a_client_without_the_token_is_told(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    with pytest.raises(KitError, match=r"it refuses this user \(403\)"):
        Tracker.start(
            uri=f"http://127.0.0.1:{page.port}", run_dir=page.folder, experiment="other", run_name="x", params={},
            tags={},
        )  # fmt: skip


def test_the_token_is_in_no_file_no_argument_and_no_variable(page: Page) -> None:
    process = Path(f"/proc/{page.process.pid}")
    children = subprocess.run(["pgrep", "-P", str(page.process.pid)], capture_output=True, text=True, check=False)
    assert children.stdout == ""
    assert page.token.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    written = [file for file in page.folder.rglob("*") if file.is_file()]
    opened = [file.resolve() for file in (process / "fd").iterdir() if file.resolve().is_file()]
    assert not [file for file in (*written, *opened) if page.token.encode() in file.read_bytes()]


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("curl") is None, reason="needs root and curl")
def test_another_user_of_the_machine_reads_and_writes_nothing(page: Page) -> None:
    def nobody(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, user="nobody", capture_output=True, text=True, check=False)

    before = (page.folder / "mlflow.db").read_bytes()
    for method, path in (
        ("GET", "/"), ("POST", "/api/2.0/mlflow/experiments/create"), ("POST", "/api/2.0/mlflow/runs/search"),
        ("GET", "/get-artifact?path=config.toml&run_uuid=x"), ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/x"),
    ):  # fmt: skip
        body = ("-H", "Content-Type: application/json", "-d", '{"name": "theirs"}')
        told = nobody("curl", "-s", "-X", method, *body, f"http://127.0.0.1:{page.port}{path}").stdout
        assert told.startswith("403 Forbidden: this page is"), (method, path)
    assert (page.folder / "mlflow.db").read_bytes() == before
    process = f"/proc/{page.process.pid}"
    assert page.token not in nobody("cat", f"{process}/cmdline").stdout
    for secret in ("environ", "mem", "fd"):
        assert nobody("ls" if secret == "fd" else "cat", f"{process}/{secret}").returncode != 0


def test_it_opens_on_the_runs_of_the_newest_one(start: StartRun, run_dir: Path) -> None:
    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    assert landing(client) == "/#/experiments?workflowType=machine_learning"
    first, second = start(experiment="old", started_ms=1000), start(experiment="new", started_ms=2000)
    start(experiment="old", started_ms=1500)
    found = client.get_run(second.run_id).info.experiment_id
    assert found != client.get_run(first.run_id).info.experiment_id
    assert landing(client) == f"/#/experiments/{found}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def test_tables_of_runs_begin_with_what_matters(start: StartRun, run_dir: Path) -> None:
    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    assert columns(client) == {}
    for name, rate in (("one", "0.1"), ("two", "0.2")):
        tags = {CHANGED: json.dumps({"optim.lr": rate, "train.steps": "3"})}
        tracker = start(run_name=name, params={"optim.lr": rate, "train.steps": "3", "seed": "0"}, tags=tags)
        tracker.log(1, {"valid/loss": 0.5, "train/loss": 0.4}, 1000)
        tracker.finish("FINISHED")
    ((key, state),) = columns(client).items()
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    assert key == f'MLflowLocalStorage-1.1-ExperimentPage-["{experiment.experiment_id}"]-ReactComponentState'
    # The steps are the same in both.
    expected = ["attributes.`Models`", "metrics.`valid/loss`", "params.`optim.lr`"]
    assert json.loads(state) == {"selectedColumns": expected}


def test_no_store_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(KitError, match=r"no MLflow store at .*mlflow.db yet. Run `kit finetune` first"):
        serve(None, tmp_path, free_port(), print)
    assert not list(tmp_path.iterdir())


def test_a_taken_port(run_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KitError, match=rf"Port {port} on 127.0.0.1 cannot be used .*--port"):
            serve(None, run_dir, port, print)


def test_a_store_that_is_a_server_already(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"^http://\*\*\*@host:5000 is an MLflow server already"):
        serve("http://ann:pa55@host:5000", tmp_path, free_port(), print)


def test_a_database_whose_driver_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--track.uri", "mysql+pymysql://ann:pa/55@host/db", "--port", str(free_port())]) == 2
    printed = capsys.readouterr().err
    assert 'mysql+pymysql://***@host/db: needs the package pymysql, which is not installed: pip install "pymysql"' in (
        printed
    )
    assert "pa/55" not in printed


@pytest.mark.slow
def test_a_database_that_mlflow_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("not a database, but longer than the sixteen bytes of its magic number")
    command = [str(KIT), "ui", "--track.uri", f"sqlite:///{tmp_path / 'other.db'}", "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(r"kit ui: .*MLflow.*store.*file is not a database", done.stderr, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL))
def test_the_server_dies_with_its_command(number: signal.Signals, run_dir: Path) -> None:
    page = begin_page(run_dir)
    assert page.ask("/health", authorization=f"Bearer {page.token}")[0] == 200
    page.process.send_signal(number)
    _, rest = page.process.communicate(timeout=30)
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert page.process.returncode == 0
    # Nothing but what may still have been to come of the address.
    assert rest.strip() in ("", "Ctrl-C ends it")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", page.port)):
        pass


@pytest.mark.slow
def test_nothing_leaves_the_machine(run_dir: Path, start: StartRun) -> None:
    """The page in a browser asks its own server alone, and that server nobody."""
    browser_program = shutil.which("chromium")
    if browser_program is None:
        pytest.skip("needs Chromium")
    from browser import Browser

    run = start(params={"seed": 0})
    for step in (1, 2):
        run.log(step, {"train/loss": 1.0 / step}, 1000 + step)
    run.finish("FINISHED")
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def note() -> None:
        while True:
            connection, _ = listener.accept()
            asked.append(connection.recv(4096))
            connection.close()

    threading.Thread(target=note, daemon=True).start()
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # Variables by which MLflow sees that it is tested, and stays silent anyway.
    silent = dict.fromkeys(("PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"), "")
    page = begin_page(run_dir, HTTP_PROXY=proxy, HTTPS_PROXY=proxy, http_proxy=proxy, https_proxy=proxy, **silent)
    browser = Browser(browser_program, 1400, 900, {})
    try:
        browser.go(page.address, "document.body && document.body.innerText.includes('train/loss')")
        assert page.token not in browser.run("location.href")
        assert "compareRunsMode=CHART" in browser.run("location.href")
        assert browser.run("document.cookie") == ""
        browser.go(f"http://127.0.0.1:{page.port}/#/", "document.body.innerText.includes('Welcome to MLflow')")
        assert "usage data" not in browser.text()
        resources = browser.run("JSON.stringify(performance.getEntriesByType('resource').map(entry => entry.name))")
        hosts = {urllib.parse.urlsplit(name).netloc for name in json.loads(resources)}
        assert hosts == {f"127.0.0.1:{page.port}"}
    finally:
        browser.close()
        page.process.kill()
        page.process.communicate()
        listener.close()
    assert asked == []
