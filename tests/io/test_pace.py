"""Servers that send a little now and then are given up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.data.sources.hrrr.transport import Transport
from kit.io.errors import KitError
from kit.io.progress import ProgressCallback
from kit.io.retry import Limits, Pace, RetryableError, SourceError, within
from kit.registry.download import Source, download
from kit.registry.partial_download import PartialDownload

HURRIED = Limits(connect=1, read=1, attempts=2, backoff=0.01, slowest=1000, patience=0.3)
HEAD = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 100000\r\n\r\n'


@pytest.fixture(params=("body", pytest.param("head", marks=pytest.mark.slow)))
def dripping(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that sends a byte every 20 ms, from the head of its answer on or behind it; its address."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            # A head that takes longer than any patience.
            answer = HEAD.replace(b"ETag", b"X-Long: " + 2000 * b"a" + b"\r\nETag")
            if request.param == "body":
                connection.sendall(HEAD)
                answer = bytes(1000)
            for byte in answer:
                if ended.wait(0.02):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.bin"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)


TOO_SLOW = r"sent [0-9]+ bytes in [0-9]+ s, less than 1000 a second|no whole answer in 2 s"


def test_downloads(dripping: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(SourceError, match=TOO_SLOW):
        download(Source(dripping, dripping), PartialDownload(tmp_path / "a"), None, HURRIED, ProgressCallback(), "a")
    assert time.monotonic() - started < 15


def test_ranges(dripping: str) -> None:
    with pytest.raises(SourceError, match=TOO_SLOW):
        Transport(HURRIED, ProgressCallback()).text(dripping, 1)


def test_zarr_stores(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.data.sources.base import Request
    from kit.data.sources.zarr import source

    monkeypatch.setattr(source, "REMOTE", HURRIED)
    started = time.monotonic()
    with pytest.raises(KitError, match=f"{TOO_SLOW}|no answer in time"), source.open_source([dripping], Request()):
        pass
    assert time.monotonic() - started < 30


def test_the_rate_is_one_of_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace = Pace(Limits(slowest=100, patience=10, read=60))
    for clock[0] in (1.0, 2.0, 3.0, 4.0, 5.0):
        pace.advanced(1)
    # 1,000 bytes are due in 10 s, and there were 5 + 995.
    clock[0] = 10.0
    pace.advanced(995)
    # A pause of 40 s ends with two pieces: too few to say.
    clock[0] = 50.0
    pace.advanced(10)
    pace.advanced(10)
    for clock[0] in (51.0, 52.0):
        pace.advanced(10)
    clock[0] = 53.0
    with pytest.raises(SourceError, match="sent 50 bytes in 43 s, less than 100 a second"):
        pace.advanced(10)


def test_what_does_not_end_is_left() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    forever = threading.Event()
    with pytest.raises(RetryableError, match="no whole answer in 0 s"):
        within(0.05, forever.wait)
    forever.set()
