"""Reaching hosts: local servers that answer, refuse, or say nothing, and what is said of each."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kit import registry
from kit.doctor import network
from kit.doctor.network import Reply, addresses, check_reply, examine_network, reach


@contextmanager
def server(code: int) -> Iterator[str]:
    """A host that answers everything with one code."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_port}"
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(("code", "status"), ((200, "ok"), (404, "ok"), (401, "ok"), (503, "warning")))
def test_any_answer_means_that_a_host_is_there(code: int, status: str) -> None:
    with server(code) as address:
        reply = reach(address)
    assert reply == Reply(address, code)
    assert check_reply(reply).status == status


def test_a_host_that_refuses() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reply = reach(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (reply.code, reply.trouble) == (None, "connection")
    assert check_reply(reply).status == "warning"


def test_a_host_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_SECONDS", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        reply = reach(f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert reply.trouble == "time"
    assert "firewall" in check_reply(reply).remedy


def test_a_host_that_does_not_speak_tls() -> None:
    with server(200) as address:
        reply = reach(address.replace("http:", "https:"))
    assert reply.trouble == "certificate"
    assert "REQUESTS_CA_BUNDLE" in check_reply(reply).remedy


def test_a_name_that_does_not_exist() -> None:
    reply = reach("http://no-such-host.invalid")
    assert reply.trouble == "name"
    assert "DNS" in check_reply(reply).remedy


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hunter2@127.0.0.1:9")
    reply = reach("http://example.invalid")
    assert reply.trouble == "proxy"
    found = check_reply(reply)
    assert "HTTPS_PROXY" in found.remedy
    assert "hunter2" not in str(found)
    assert check_reply(Reply("http://example.invalid", 407)).status == "warning"


def test_all_hosts_of_the_registry_and_the_hub() -> None:
    entries = registry.entries().values()
    assert "https://huggingface.co" in addresses(entries, {})
    mirrored = addresses(entries, {"HF_ENDPOINT": "https://me:secret@mirror.example/hub"})
    assert mirrored[-1] == "https://mirror.example"
    assert len(mirrored) == len(set(mirrored)) > 1
    assert all(one.startswith("https://") for one in mirrored)


def test_the_network_is_left_alone_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "reach", lambda address: pytest.fail("it was tried"))
    assert examine_network(asked=False)[-1].status == "skipped"


def test_every_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "reach", lambda address: Reply(address, 200))
    named = {one.name for one in examine_network(asked=True)}
    assert {"host huggingface.co", "host raw.githubusercontent.com"} <= named
