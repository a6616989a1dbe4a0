"""The guard in front of MLflow's page, by itself: which hosts, origins and addresses it takes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from kit.tracking.guard import Guard, is_foreign, is_loopback, with_choices

TOKEN = "Zm9yLXRoZS1vd25lci1hbG9uZQ"


def ask(
    path: str = "/", query: str = "", method: str = "GET", kind: str = "http", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Answer of a guard on port 5000 before an application that says where it was asked: status, headers, body."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Mapping[str, Any], receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"MLflow at {scope['path']}".encode()})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    given_headers = {"host": "127.0.0.1:5000", **{name.replace("_", "-"): text for name, text in headers.items()}}
    scope = {
        "type": kind, "method": method, "path": path, "query_string": query.encode(),
        "headers": [(name.encode(), text.encode("latin-1")) for name, text in given_headers.items()],
    }  # fmt: skip
    guard = Guard(application, TOKEN, 5000, "<head></head>", lambda: "/#/experiments/7/runs")
    asyncio.run(guard(scope, receive, send))
    if kind != "http":
        return sent[0]["code"], {}, sent[0]["type"]
    found = {name.decode(): text.decode() for name, text in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(part["body"] for part in sent[1:]).decode()


def test_the_token_becomes_a_cookie_and_leaves_the_address() -> None:
    status, headers, _ = ask(query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/#/experiments/7/runs")
    assert headers["set-cookie"].lower() == f"kit-ui-5000={TOKEN}; httponly; path=/; samesite=strict".lower()
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "query", "leads_to"),
    (
        ("/get-artifact", "path=a%26b&token={}&run_uuid=1", "/get-artifact?path=a%26b&run_uuid=1"),
        ("//evil.example/x", "token={}", "/evil.example/x"),
        ("/a b/é", "token={}", "/a%20b/%C3%A9"),
    ),
)
def test_the_rest_of_an_address_stays(path: str, query: str, leads_to: str) -> None:
    status, headers, _ = ask(path, query.format(TOKEN))
    assert (status, headers["location"]) == (303, leads_to)


def test_the_owner_gets_in_by_cookie_or_as_a_bearer() -> None:
    assert ask("/health", cookie=f"other=1; kit-ui-5000={TOKEN}")[::2] == (200, "MLflow at /health")
    assert ask("/health", authorization=f"Bearer {TOKEN}")[::2] == (200, "MLflow at /health")
    assert ask("/api", method="POST", cookie=f"kit-ui-5000={TOKEN}")[0] == 200


def test_the_page_itself_comes_with_choices_before_its_scripts() -> None:
    status, _, body = ask(cookie=f"kit-ui-5000={TOKEN}")
    assert status == 200
    assert body.startswith("<head><script>")
    more = {"columns": "</script><script>alert(1)</script>"}
    page = with_choices('<html><head><script src="main.js"></script></head></html>', more)
    assert page.index("mlflow.telemetry.info.alert.dismissed_v1") < page.index("main.js")
    # Whatever a store holds, it ends no script.
    assert page.count("<script") == 2
    assert json.loads(re.findall(r"entries\((.*)\)\) if", page)[0])["columns"] == more["columns"]


@pytest.mark.parametrize("method", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"))
@pytest.mark.parametrize(
    "given_headers",
    (
        {},
        {"cookie": "kit-ui-5000="},
        {"cookie": f"kit-ui-5001={TOKEN}"},
        {"cookie": f"kit-ui-5000={TOKEN[:-1]}"},
        {"cookie": f"kit-ui-5000={TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer é"},
        {"x_forwarded_for": "127.0.0.1", "x_real_ip": "127.0.0.1"},
    ),
)
def test_nobody_else_does(method: str, given_headers: dict[str, str]) -> None:
    for path in ("/", "/health", "/static-files/main.js", "/api/2.0/mlflow/runs/create"):
        status, headers, body = ask(path, "token=wrong", method, **given_headers)
        assert (status, body.startswith("403 Forbidden: this page is for the user who started it")) == (403, True)
        assert "set-cookie" not in headers


def test_a_token_in_the_address_of_what_is_to_write_is_not_taken() -> None:
    assert ask("/api", f"token={TOKEN}", "POST")[0] == 403


def test_web_sockets_are_refused() -> None:
    assert ask("/", kind="websocket", cookie=f"kit-ui-5000={TOKEN}") == (1008, {}, "websocket.close")


@given(st.text(max_size=60))
def test_no_other_text_is_the_token(text: str) -> None:
    status, *_ = ask(query=f"token={text.encode('utf-8', 'replace').hex()}")
    assert status == 403


@pytest.mark.parametrize("host", ("127.0.0.1:5000", "localhost", "LOCALHOST:8888", "[::1]:5000"))
def test_names_of_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert ask("/health", host=host, authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "host",
    ("evil.example", "127.0.0.1.evil.example:5000", "localhost.evil.example", "10.0.0.1", "", "[", "a@127.0.0.2",
     "192.168.0.1:5000"),
)  # fmt: skip
def test_names_that_a_web_site_may_have_lead_here(host: str) -> None:
    assert not is_loopback(host)
    assert ask("/health", host=host, authorization=f"Bearer {TOKEN}")[0] == 403


@pytest.mark.parametrize(
    ("given_headers", "foreign"),
    (
        ({}, False),
        ({"origin": "http://127.0.0.1:5000"}, False),
        ({"origin": "http://127.0.0.1:6000"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, True),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, True),
    ),
)
def test_pages_of_other_origins(given_headers: dict[str, str], foreign: bool) -> None:
    headers = {"host": "127.0.0.1:5000", **given_headers}
    raw = [(name.encode(), text.encode()) for name, text in headers.items()]
    assert is_foreign(HTTPConnection({"type": "http", "headers": raw})) is foreign
    named = {name.replace("-", "_"): text for name, text in given_headers.items()}
    assert ask("/health", cookie=f"kit-ui-5000={TOKEN}", **named)[0] == (403 if foreign else 200)
