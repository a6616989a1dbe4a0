"""A local web server with scripted faults, which can also speak as a model hub and as Google's storage do.

    with serving() as server:
        server.put("/states.bin", content)
        server.fail("/states.bin", Fault(cut=100), Fault(status=500))
        server.put_hub("OWNER/REPO", COMMIT, "model.ckpt", content)
        monkeypatch.setenv("HF_ENDPOINT", server.url())

It listens on loopback at a free port, answers each request in a thread of its own, and records what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

__all__ = ["Fault", "File", "Request", "Server", "git_blob", "serving"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; several things may.

    Attributes:
        cut: bytes of the body that are sent before the connection is closed.
        delay: seconds before anything is sent.
        pace: seconds between pieces of 1 KiB of the body.
        status: answered instead of the file, such as 404, 429, 500.
        headers: added to the answer, such as ``Retry-After``.
        length: the ``Content-Length`` that is claimed, whatever is sent.
        whole: ignores ``Range`` and sends everything.
        etag: claimed instead of the file's; a condition (``If-Range``) is judged by it.
        body: sent instead of the file's bytes.
        no_length: sent in chunks, without ``Content-Length``.
    """

    cut: int | None = None
    delay: float = 0.0
    pace: float = 0.0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    whole: bool = False
    etag: str | None = None
    body: bytes | None = None
    no_length: bool = False


@dataclass(frozen=True)
class File:
    """What is served at a path: bytes and their ETag, or a redirect, with further headers."""

    content: bytes
    etag: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    location: str | None = None


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        """The ``Range`` header."""
        return self.headers.get("range")


def git_blob(content: bytes) -> str:
    """Git object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server:
    """Files, faults and the requests so far."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, File] = {}
        self.requests: list[Request] = []
        self.gated: set[str] = set()
        self.tokens: set[str] = set()
        self.buckets: dict[str, dict[str, bytes]] = {}
        self._queues: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()

    def url(self, path: str = "") -> str:
        """Address of a path here."""
        return f"http://127.0.0.1:{self.port}{path}"

    def put(self, path: str, content: bytes, *, etag: str | None = "", **headers: str) -> str:
        """Serve bytes at a path, under an ETag of their own unless another or none (None) is given; returns the URL.

        A path that begins with ``http://`` is served to those who ask this server as their proxy.
        """
        own = f'"{hashlib.md5(content).hexdigest()}"'
        self.files[path] = File(
            content, own if etag == "" else etag, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        return path if path.startswith("http://") else self.url(path)

    def redirect(self, path: str, location: str) -> str:
        """Answer a path with a redirect; returns the URL."""
        self.files[path] = File(b"", None, {}, location)
        return self.url(path)

    def fail(self, path: str, *faults: Fault, always: bool = False, method: str = "GET") -> None:
        """Have the next requests for a path go wrong, one after the other; or all of them in the same way."""
        key = f"{method} {path}"
        if always:
            (self._always[key],) = faults
        else:
            self._queues.setdefault(key, []).extend(faults)

    def put_hub(
        self, repo: str, revision: str, file: str, content: bytes, *, lfs: bool = True, storage: Server | None = None
    ) -> str:
        """Serve a file of a hub's repository as the hub does; returns its path.

        Args:
            repo: ``OWNER/NAME``.
            revision: the commit.
            file: path in the repository.
            content: its bytes.
            lfs: large files redirect to a storage host, and have their SHA-256 as ``X-Linked-Etag``; small ones are
                sent at once, under their git object id.
            storage: the server to which a large file redirects; by default this one, under another name: a client
                must take it for another host, as the real one is.
        """
        path = f"/{repo}/resolve/{revision}/{file}"
        commit = {"X-Repo-Commit": revision}
        if not lfs:
            self.files[path] = File(content, f'"{git_blob(content)}"', commit)
            return path
        digest = hashlib.sha256(content).hexdigest()
        location = (storage or self).put(f"/storage/{digest}?signature=abc", content)
        if storage is None:
            location = location.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self.files[path] = File(b"", f'"{digest}"', {**commit, **linked}, location)
        return path

    def put_object(self, bucket: str, name: str, content: bytes) -> str:
        """Serve an object of a bucket as Google's JSON API does; returns its path, of which faults are made."""
        self.buckets.setdefault(bucket, {})[name] = content
        path = f"/download/storage/v1/b/{bucket}/o/{name}?alt=media"
        self.put(path, content)
        return path

    def listing(self, path: str) -> File | None:
        """A bucket's objects under a prefix, or what is said of one, as Google's JSON API does; else None."""
        match = re.fullmatch(r"/storage/v1/b/([\w.-]+)/o/([^?]+)(\?.*)?", path)
        if match is not None and (content := self.buckets.get(match[1], {}).get(match[2])) is not None:
            facts = {"kind": "storage#object", "name": match[2], "bucket": match[1], "size": str(len(content))}
            return File(json.dumps(facts).encode(), None, {"Content-Type": "application/json"})
        match = re.fullmatch(r"/storage/v1/b/([\w.-]+)/o/?\?(.*)", path)
        if match is None or match[1] not in self.buckets:
            return None
        asked = {key: values[0] for key, values in parse_qs(match[2]).items()}
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        items, folders = [], set()
        for name, content in sorted(self.buckets[match[1]].items()):
            inner = name[len(prefix) :]
            if name.startswith(prefix) and delimiter and delimiter in inner:
                folders.add(prefix + inner.partition(delimiter)[0] + delimiter)
            elif name.startswith(prefix):
                items.append({"name": name, "bucket": match[1], "size": str(len(content))})
        answer = {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}
        return File(json.dumps(answer).encode(), None, {"Content-Type": "application/json"})

    def gate(self, repo: str, *tokens: str) -> None:
        """Let nobody have a repository's files but who shows one of these tokens."""
        self.gated.add(repo)
        self.tokens |= set(tokens)

    def asked(self, path: str, method: str = "GET") -> list[Request]:
        """Requests for a path so far."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def take(self, request: Request) -> Fault:
        """Note a request and say what goes wrong with it."""
        key = f"{request.method} {request.path}"
        with self._lock:
            self.requests.append(request)
            queue = self._queues.get(key)
            return queue.pop(0) if queue else self._always.get(key, Fault())


_HUB_PATH = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)")


def _refusal(server: Server, request: Request) -> tuple[int, dict[str, str]] | None:
    """How a hub says no: status and headers; None for what it has, and for paths that are not a hub's."""
    if (match := _HUB_PATH.fullmatch(request.path)) is None:
        return None
    repo, revision, _ = match.groups()
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if repo in server.gated and token not in server.tokens:
        status = 403 if token else 401
        return status, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {repo} is restricted."}
    if request.path in server.files:
        return None
    paths = [path for path in server.files if path.startswith(f"/{repo}/resolve/")]
    if not paths:
        return (404 if token else 401), {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
    if not any(path.startswith(f"/{repo}/resolve/{revision}/") for path in paths):
        return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}
    return 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Server

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, method: str) -> None:
        request = Request(method, unquote(self.path), {k.lower(): v for k, v in self.headers.items()})
        fault = self.scripted.take(request)
        time.sleep(fault.delay)
        if fault.status is not None:
            self._send(fault.status, fault.headers, b"", fault)
        elif (refusal := _refusal(self.scripted, request)) is not None:
            self._send(*refusal, b"", fault)
        elif (file := self.scripted.files.get(request.path) or self.scripted.listing(request.path)) is None:
            self._send(404, fault.headers, b"", fault)
        elif file.location is not None:
            headers = {**file.headers, "Location": file.location, **({"ETag": file.etag} if file.etag else {})}
            self._send(302, {**headers, **fault.headers}, b"", fault)
        else:
            self._send_file(request, file, fault)

    def _send_file(self, request: Request, file: File, fault: Fault) -> None:
        content = file.content if fault.body is None else fault.body
        etag = fault.etag or file.etag
        headers = {**file.headers, "Accept-Ranges": "bytes", **({"ETag": etag} if etag else {}), **fault.headers}
        begin = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
        unchanged = request.headers.get("if-range") in (None, etag, headers.get("Last-Modified"))
        if begin is None or fault.whole or not unchanged:
            self._send(200, headers, content, fault)
        elif int(begin[1]) >= len(content):
            self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"", fault)
        else:
            start, end = int(begin[1]), min(int(begin[2] or len(content) - 1), len(content) - 1)
            headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}", **headers}
            self._send(206, headers, content[start : end + 1], fault)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.no_length:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if fault.length is None else fault.length))
        if fault.cut is not None or fault.length is not None:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body if fault.cut is None else body[: fault.cut]
        for start in range(0, len(body), 1024 if fault.pace else max(1, len(body))):
            piece = body[start : start + 1024] if fault.pace else body
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if fault.no_length else piece)
            time.sleep(fault.pace)
        if fault.no_length and fault.cut is None:
            self.wfile.write(b"0\r\n\r\n")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of the server."""


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on loopback, at a free port, until the block ends."""
    handler = type("Handler", (_Handler,), {})
    listener = _Listener(("127.0.0.1", 0), handler)
    handler.scripted = server = Server(listener.server_address[1])  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
