"""Forty secrets put wherever a user can put them; a scan of all that the commands write, send and print for each."""

from __future__ import annotations

import base64
import html
import json
import os
import socket
import sqlite3
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest

from kit.cli.main import main
from kit.registry.entry import RESOURCES
from tests.processes import Python
from tests.servers import Fault, serving
from tests.servers import Server as FileServer
from tests.tracking.servers import Server as TrackingServer

_MAIN = "import sys; from kit.cli.main import main; sys.exit(main(sys.argv[1:]))"

VARIABLES = {
    "HF_TOKEN": "hf_QmVyZ2VuQmVyZ2VuQmVyZ2Vu",
    "AWS_ACCESS_KEY_ID": "AKIAZX7QW3RT9PLM2KJD",
    "AWS_SECRET_ACCESS_KEY": "wJal/rXUt+nFEMI7K7MDENGbPxRfi",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDKnot+real//token",
    "DATABRICKS_TOKEN": "dapi5f0c2ad94be86b17aa30cd9920fe4411",
    "GITHUB_TOKEN": "ghp_a8Kd02mQx71LpZr5TyU3VbN6cEwHs94jG0fd",
    "GITLAB_PAT": "glpat-x1Yz2Wv3Ut4Sr5Qp6On7",
    "OPENAI_API_KEY": "sk-proj-Tq8Rw2Ye6Ui1Op4As9Df3Gh7",
    "NPM_TOKEN": "npm_k2J9h8G7f6D5s4A3p0O9i8U7y6T5r4E3w2Q1",
    "PYPI_PASSWORD": "pypi-AgEIcHlwaS5vcmcCJDkwM2Y4",
    "SLACK_BOT_TOKEN": "xoxb-24681012141618-abcdEFGHijkl",
    "GOOGLE_API_KEY": "AIzaSyB-notAReal_Key0123456789abcdefgh1",
    "SERVICE_JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLW9mLWFubg",
    "AZURE_STORAGE_SAS": "sv=2024&sig=q9%2FwertyuiopASDF%3D",
    "ECMWF_DATASTORES_KEY": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "SSH_PRIVATE_KEY": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n-----END OPENSSH PRIVATE KEY-----",
    "SESSION_COOKIE": "sessionid=g7Hh!kk'22 and=more",
    "STRIPE_KEY": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "VAULT_TOKEN": "hvs.CAESIJq0Dk3x8vYb2mNf7tRw1zLp",
    "WANDB_API_KEY": "3f9d1c07be5a4862907fd1e6a2c8b4d05e7a9f13",
    "SENDGRID_API_KEY": "SG.k3Jd82mQx71LpZr5TyU3Vb.N6cEwHs94jG0fdA1",
    "PGPASSWORD": "pg/p4ss'of ann",
    "LDAP_BINDPW": "ld4p-b1nd-pw",
}
"""Secrets of the environment, by their variables."""

# Variables whose names say nothing, and the secrets within their values.
ACCOUNT_KEY = "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA+/=="
WEB_HOOK = "T0Q1W2E3R/B0A1S2D3F/zX9cV8bN7mK6jH5gF4dS3aQ2"
SERVICE_KEY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
ODBC = "od8c+pw/1"
CONTAINERS = {
    "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={ACCOUNT_KEY};X=y",
    "ALERTS_URL": f"https://hooks.slack.com/services/{WEB_HOOK}",
    "SERVICE_ACCOUNT": json.dumps(
        {"private_key": f"-----BEGIN PRIVATE KEY-----\n{SERVICE_KEY}\n-----END PRIVATE KEY-----\n"}
    ),
    "ODBC_DSN": f"Driver=x;Server=db;Uid=ann;Pwd={ODBC};",
}

PROXY = "pr0xy@pass/word"
DATABASE = "d4ta/b@se'pw"
POSTGRES = "p0st/gr'es@word"
MYSQL = "my#s?ql 5ecret"
MSSQL = "m5 sql:wör/d"
TRACKING = "tr4ck/ing@pw#1"
SIGNATURE = "S1gnatur3+of/the=file"
FRAGMENT = "fr4gment-of-a-key"
MIRROR = "X4mz/5ignature"
ZARR_USER = "z4rr'user/pw"
ZARR_KEY = "z4rr+key+in+query"
WEIGHTS = "w3ights-token-0815"
ARCHIVE = "4rchive-pw-4711"
NETRC = "n3trc-pw-of-ann"
SETTING = "s3tting/with@pw"
MISTAKEN = "mist4ken-flag-value"
IN_ADDRESSES = (
    PROXY, DATABASE, POSTGRES, MYSQL, MSSQL, TRACKING, SIGNATURE, FRAGMENT, MIRROR, ZARR_USER, ZARR_KEY, WEIGHTS,
    ARCHIVE, NETRC, SETTING, MISTAKEN, ACCOUNT_KEY, WEB_HOOK, SERVICE_KEY, ODBC,
)  # fmt: skip
SECRETS = (*VARIABLES.values(), *IN_ADDRESSES)


def spellings(secret: str) -> set[bytes]:
    """All forms in which a secret may turn up."""
    found: set[str] = set()
    for plain in (secret, unquote(secret), f"ann:{secret}"):
        found |= {plain, quote(plain), quote(plain, safe=""), quote_plus(plain), html.escape(plain)}
        found |= {json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1]}
        found |= {base64.b64encode(plain.encode()).decode(), *plain.splitlines()[1:2]}
    return {text.encode() for text in found}


SPELLINGS = {secret: spellings(secret) for secret in SECRETS}


def told(content: bytes, but: str = "") -> list[str]:
    """The secrets that some content holds, but for one that belongs there."""
    return [secret for secret in SECRETS if secret != but and any(text in content for text in SPELLINGS[secret])]


@contextmanager
def echoing() -> Iterator[str]:
    """Serve errors that repeat all that was sent, and some of what a server may know: as careless servers do."""

    known = [*VARIABLES.values(), *CONTAINERS.values(), ACCOUNT_KEY, SERVICE_KEY, ODBC]

    class Echo(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            plain = [base64.b64decode(text.split()[1]) for text in self.headers.get_all("Authorization", [])[:1]
                     if text.startswith("Basic ")]  # fmt: skip
            words = f"refused: {self.command} {self.path} {unquote(self.path)} {dict(self.headers)} {plain} {sent!r}"
            body = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"{words} {known}"}).encode()
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Error-Message", words.encode("ascii", "replace").decode().replace("\n", " "))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.server_address[1]}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class Tap:
    """A way to a server that keeps what is sent through it."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                outer = self._listener.accept()[0]
                inner = socket.create_connection(("127.0.0.1", self._behind))
                threading.Thread(target=self._pump, args=(outer, inner, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(inner, outer, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(65536):
                if kept:
                    self.sent += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def files() -> Iterator[FileServer]:
    with serving() as server:
        yield server


@pytest.fixture
def tracking(tmp_path: Path, empty_database: Path) -> Iterator[tuple[TrackingServer, Tap]]:
    (tmp_path / "server").mkdir()
    server = TrackingServer(tmp_path / "server", empty_database)
    server.start()
    tap = Tap(server.port)
    yield server, tap
    tap.close()
    server.kill()


def registry(files: FileServer) -> str:
    """A user's own entries: the sample behind a signature, and one that cannot be had."""
    sample = RESOURCES / "era5-sample.pickle"
    content = sample.read_bytes()
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    path = f"/mine.pickle?sig={SIGNATURE}"
    files.put(path, content)
    files.fail(path, Fault(cut=500_000))
    signed = files.url(f"/mine.pickle?sig={quote(SIGNATURE, safe='')}")
    gone = files.url(f"/gone.pickle?X-Amz-Signature={quote(MIRROR, safe='')}#access_token={FRAGMENT}")
    facts = f'sha256 = "{digest}"\nsize = {len(content)}\nlicence = "MIT"\nkind = "states"\nsynthetic = true\n'
    return (
        f'[mine]\nfile = "mine.pickle"\nurl = "{signed}"\ndescription = "mine"\n{facts}'
        f'[gone]\nfile = "gone.pickle"\nurl = "{gone}"\ndescription = "gone"\n{facts}'
        f'[wrong]\nfile = "wrong.pickle"\nurl = "http://ann:{quote(NETRC)}@host.invalid/x"\ndescription = "x"\n{facts}'
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_that_is_written_sent_or_printed_holds_a_secret(
    tmp_path: Path, files: FileServer, tracking: tuple[TrackingServer, Tap], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, tap = tracking
    home, work, temporary, own = (tmp_path / name for name in ("home", "work", "temporary", "own"))
    for folder in (home, work, temporary, own):
        folder.mkdir()
    (own / "registry.toml").write_text(registry(files).partition("[wrong]")[0])
    (own / "wrong.toml").write_text(registry(files))
    (home / ".netrc").write_text(f"machine 127.0.0.2 login ann password {NETRC}\n")
    store = f"http://ann:{quote(TRACKING, safe='')}@127.0.0.1:{tap.port}"
    (own / "run.toml").write_text(f'[track]\nuri = "{store}"\n[data]\nstore = "mine"\n[train]\nsteps = 2\n')
    (own / "bad.toml").write_text(f'[track]\nurl = "http://ann:{SETTING}@host/x"\n')
    environment = {
        **VARIABLES, **CONTAINERS, "HOME": str(home), "TMPDIR": str(temporary), "KIT_CACHE": str(work / "cache"),
        "KIT_REGISTRY": str(own / "registry.toml"), "HF_ENDPOINT": files.url(),
        "HTTPS_PROXY": f"http://ann:{quote(PROXY, safe='')}@127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost",
        "DATABASE_URL": f"postgresql://ann:{DATABASE}@db.invalid/x",
        "KIT_HRRR_ARCHIVE": f"http://ann:{ARCHIVE}@127.0.0.1:{files.port}/hrrr",
    }  # fmt: skip
    # Processes have these beside the present ones.
    for name in os.environ:
        if "proxy" in name.lower() or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    monkeypatch.chdir(work)
    output = tmp_path / "output.txt"

    def kit(*words: str, code: int | tuple[int, ...] = 0, **variables: str) -> None:
        status = Python(_MAIN, *words, output=output, variables=environment | variables).wait(600)
        codes = code if isinstance(code, tuple) else (code,)
        content = output.read_bytes() + output.with_suffix(".err").read_bytes()
        shown = f"{words}\n{content.decode()}"
        assert status in codes, shown
        assert told(content) == [], shown
        assert code == (0, 1) or b"Traceback" not in content, shown

    # What works, with all of it around.
    kit("data", "fetch", "mine")
    kit("data", "list", "--json")
    kit("data", "build", "--source", "pickle", "--path", "mine", "--out", "store", "--train", "1979-01-01/1979-01-10",
        code=(0, 2))  # fmt: skip
    kit("finetune", "--config", str(own / "run.toml"), "--run.name", "a")
    kit("finetune", "--config", str(own / "run.toml"), "--run.name", "a", "--train.resume", "auto", code=(0, 2))
    kit("evaluate", "--checkpoint", "runs/a/checkpoints/best", "--json")
    kit("plot", "--run", "runs/a")
    kit("export", "--checkpoint", "runs/a/checkpoints/best", "--out", "a.zip", code=(0, 2))
    kit("export", "--checkpoint", "runs/a/checkpoints/best", "--out", "exported")
    kit("sync", "runs/a", "--track.uri", store)
    kit("finetune", "--run.name", "b", "--train.steps", "1", KIT_TRACK__URI=f"sqlite:///{work}/other.db")
    kit("sync", "runs/b", KIT_TRACK__URI=store)
    # The argument lets the tap's server take the token of another: it belongs to the address that it was given with.
    kit("doctor", "--json", code=(0, 2), KIT_TRACK__URI=store)
    kit("doctor", "--network", code=(0, 2))

    # What is refused, with a secret in the words.
    kit("data", "fetch", "gone", code=2)
    kit("data", "list", code=2, KIT_REGISTRY=str(own / "wrong.toml"))
    kit("finetune", "--config", str(own / "bad.toml"), code=2)
    kit("finetune", "--run.name", f"http://ann:{SETTING}@host/x", code=2)
    kit("finetune", "--train.steps", f"https://host/x?token={MISTAKEN}", code=2)
    kit("finetune", f"--train.stepps=https://host/x?token={MISTAKEN}", code=2)
    kit("finetune", "--model.weights", f"https://host.invalid/w.ckpt?token={WEIGHTS}", code=2)
    kit("finetune", "--data.store", f"https://ann:{ZARR_USER}@host.invalid/s", code=2)
    kit("finetune", "--track.uri", f"postgresql+psycopg2://ann:{POSTGRES}@db.invalid/x", code=2)
    kit("finetune", "--track.uri", f"mysql+pymysql://ann:{MYSQL}@db.invalid/x", code=2)
    kit("ui", "--track.uri", f"mssql+pyodbc://ann:{MSSQL}@db.invalid/x", code=2)
    kit("sync", "runs/a", "--track.uri", f"http://ann:{SETTING}@127.0.0.1:9", code=2)
    for address in (f"https://ann:{ZARR_USER}@host.invalid/x.zarr", f"https://host.invalid/x.zarr?key={ZARR_KEY}"):
        kit("data", "build", "--source", "zarr", "--path", address, "--out", "z", code=2)
    kit("data", "build", "--source", "hrrr", "--path", "hrrr", "--times", "2020-01-01T00/2020-01-01T01", "--out", "h",
        code=2)  # fmt: skip

    # Servers that refuse, and repeat what they were sent.
    with echoing() as host:
        server_address = f"http://ann:{quote(TRACKING, safe='')}@{host}"
        (own / "echo.toml").write_text(registry(files).replace(f"127.0.0.1:{files.port}", host).partition("[wrong]")[0])
        kit("finetune", "--run.name", "c", "--track.uri", server_address, code=2)
        kit("sync", "runs/a", "--track.uri", server_address, code=2)
        kit("ui", "--track.uri", server_address, code=2)
        kit("doctor", "--json", code=(0, 2), KIT_TRACK__URI=server_address)
        kit("data", "fetch", "gone", code=2, KIT_REGISTRY=str(own / "echo.toml"))
        hub = "hub:owner/repo@0123456789abcdef0123456789abcdef01234567/model.ckpt"
        kit("finetune", "--model.weights", hub, code=2, HF_ENDPOINT=f"http://{host}")
        zarr = f"http://ann:{quote(ZARR_USER, safe='')}@{host}/x.zarr?key={quote(ZARR_KEY, safe='')}"
        kit("data", "build", "--source", "zarr", "--path", zarr, "--out", "z", code=2)
        kit("finetune", "--data.store", zarr, code=2)
        kit("data", "build", "--source", "hrrr", "--path", "hrrr", "--times", "2020-01-01T00/2020-01-01T01", "--out",
            "h", code=2, KIT_HRRR_ARCHIVE=f"http://ann:{ARCHIVE}@{host}/hrrr")  # fmt: skip
        kit("data", "build", "--source", "cds", "--path", "era5", "--times", "2020-01-01/2020-01-02", "--out", "c",
            "--product", "era5", code=2, ECMWF_DATASTORES_URL=f"http://{host}")  # fmt: skip

    written = [file for folder in (work, temporary, server.folder) for file in folder.rglob("*") if file.is_file()]
    names = {file.name for file in written}
    assert {"config.toml", "provenance.json", "tracking.json", "log.txt", "kit.json", "server.db", "other.db"} <= names
    assert {str(file): told(file.read_bytes()) for file in written if told(file.read_bytes())} == {}
    for archive in filter(zipfile.is_zipfile, written):
        with zipfile.ZipFile(archive) as opened:
            assert not [name for name in opened.namelist() if told(opened.read(name))]
    # Of a database, the values too: its pages may cut a text in two.
    for database in (server.folder / "server.db", work / "other.db"):
        with sqlite3.connect(database) as connection:
            assert told("\n".join(connection.iterdump()).encode()) == []
        connection.close()

    # What was sent: only what belongs to an address went there.
    assert told(bytes(tap.sent), but=TRACKING) == []
    assert b"Authorization: Basic " + base64.b64encode(f"ann:{TRACKING}".encode()) in tap.sent
    for request in files.requests:
        belongs = {"/mine": SIGNATURE, "/gone": MIRROR, "/hrrr": ARCHIVE}.get(request.path[:5], VARIABLES["HF_TOKEN"])
        assert told(f"{request.path} {dict(request.headers)}".encode(), but=belongs) == [], request
    assert [request for request in files.requests if request.path.startswith("/mine")]


@pytest.mark.parametrize("kind", (RuntimeError, KeyError, OSError))
def test_the_traceback_of_a_defect_holds_no_secret(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect, made by a function that fails as none of ours should."""
    from kit import registry as listed

    def fail() -> None:
        message = f"GET https://ann:{quote(POSTGRES, safe='')}@host/x?sig={SIGNATURE} with {VARIABLES['HF_TOKEN']}"
        message += f" {CONTAINERS} {ACCOUNT_KEY} {[*VARIABLES.values()]}"
        raise kind(message) from ValueError(f"Authorization: Bearer {WEIGHTS}")

    monkeypatch.setattr(listed, "entries", fail)
    for name, text in {**VARIABLES, **CONTAINERS, "SOME_TOKEN": WEIGHTS}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("KIT_CACHE", f"/tmp/{FRAGMENT}")
    assert main(["data", "list", "--json"]) in (1, 2)
    shown = capsys.readouterr()
    assert told((shown.out + shown.err).encode()) == []
    assert "***@host/x?sig=***" in shown.err
