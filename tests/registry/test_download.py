"""Downloads: cut, resumed, refused, and what is made of servers that fail."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit import registry
from kit.io.errors import RegistryError
from tests.registry.conftest import CONTENT, SHA256, Notes, Register, fetch, leave_part, left_over
from tests.servers import Fault, Server, git_blob

SIZE = len(CONTENT)


# Cuts.


def test_twenty_cuts_are_twenty_resumptions(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", *[Fault(cut=1500)] * 20)
    notes = Notes()
    assert fetch(notes=notes).read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, *(f"bytes={1500 * n}-" for n in range(1, 21))]
    assert all(request.headers["if-range"] == server.files["/states.bin"].etag for request in server.requests[1:])
    assert notes.starts == [1500 * n for n in range(21)]
    assert len(notes.texts) == 20
    assert notes.ends == 1


def test_it_goes_on_in_the_next_process(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(cut=7000), *[Fault(status=503)] * 3)
    with pytest.raises(RegistryError, match="(?s)503.*given up after 3 attempts.*goes on after 7000 bytes"):
        fetch()
    assert left_over(cache) == [".states.bin.part", ".states.bin.part.json"]
    command = [sys.executable, "-c", "from kit import registry; registry.fetch('states')"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert server.requests[-1].range == "bytes=7000-"
    assert left_over(cache) == ["states.bin"]


def test_a_process_that_is_killed_leaves_a_part_that_is_continued(
    server: Server, register: Register, cache: Path
) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(pace=0.1))
    process = multiprocessing.get_context("spawn").Process(target=registry.fetch, args=("states",))
    process.start()
    part = cache / "files" / SHA256[:12] / ".states.bin.part"
    while not (part.is_file() and part.stat().st_size >= 2048):
        assert process.is_alive()
        process.join(0.01)
    process.kill()
    process.join()
    assert fetch().read_bytes() == CONTENT
    assert int(str(server.requests[-1].range)[6:-1]) >= 2048


def test_a_part_that_was_whole_already_is_only_verified(server: Server, register: Register) -> None:
    entry = register(server.put("/states.bin", CONTENT))
    leave_part(entry, CONTENT, server.files["/states.bin"].etag)
    assert fetch().read_bytes() == CONTENT
    assert not server.requests


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 3}', '{"url": "x", "etag": 7}', '{"colour": "blue"}'])
def test_a_part_whose_note_says_nothing_is_begun_anew(note: str, server: Server, register: Register) -> None:
    part = leave_part(register(server.put("/states.bin", CONTENT)), CONTENT[:500], '"x"')
    part.note.write_text(note)
    assert fetch().read_bytes() == CONTENT
    assert server.requests[0].range is None


def test_a_part_of_another_address_is_not_continued(server: Server, register: Register) -> None:
    entry = register(server.put("/states.bin", CONTENT))
    etag = server.files["/states.bin"].etag
    leave_part(entry.model_copy(update={"url": "http://example.org/states.bin"}), CONTENT[:500], etag)
    assert fetch().read_bytes() == CONTENT
    assert server.requests[0].range is None


@pytest.mark.parametrize("weak", [False, True])
def test_a_file_that_changed_between_requests_is_begun_anew(weak: bool, server: Server, register: Register) -> None:
    before, after = ('W/"1"', 'W/"2"') if weak else ('"1"', '"2"')
    register(server.put("/states.bin", CONTENT, etag=after))
    server.fail("/states.bin", Fault(cut=6000, etag=before, body=CONTENT[::-1]))
    assert fetch().read_bytes() == CONTENT
    assert server.requests[1].range == "bytes=6000-"
    assert ("if-range" in server.requests[1].headers) is not weak


def test_a_part_without_a_version_is_not_continued(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT, etag=None))
    server.fail("/states.bin", Fault(cut=6000))
    assert fetch().read_bytes() == CONTENT
    assert server.requests[1].range is None


def test_a_modification_date_names_a_version_too(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT, etag=None, Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT"))
    server.fail("/states.bin", Fault(cut=6000))
    assert fetch().read_bytes() == CONTENT
    assert server.requests[1].range == "bytes=6000-"


def test_a_server_that_ignores_ranges_sends_it_whole(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(cut=6000), Fault(whole=True))
    notes = Notes()
    assert fetch(notes=notes).read_bytes() == CONTENT
    assert notes.starts == [6000 - 6000, 0]
    assert "whole file again" in notes.texts[-1]


def test_a_server_that_always_begins_anew_and_is_always_cut_is_given_up(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(cut=6000, whole=True), always=True)
    with pytest.raises(RegistryError, match="given up after 3 attempts"):
        fetch()
    assert len(server.requests) == 3


# Servers that fail.


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_be_better_later_is_tried_again(status: int, server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", *[Fault(status=status, headers={"Retry-After": "0"})] * 2)
    assert fetch().read_bytes() == CONTENT


def test_a_server_that_asks_for_too_long_a_wait_is_given_up(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(RegistryError, match="answered 429.*asks to wait 3600 s"):
        fetch()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_tried_again(status: int, server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(status=status), always=True)
    with pytest.raises(RegistryError, match=f"{server.url('/states.bin')}: the server answered {status}"):
        fetch()
    assert len(server.requests) == 1
    assert left_over(cache) == []


def test_a_server_that_hangs_is_cut_off(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(delay=1.0))
    notes = Notes()
    assert fetch(notes=notes).read_bytes() == CONTENT
    assert "no answer in time" in notes.texts[0]


def test_nobody_there_is_told_in_the_systems_words(register: Register) -> None:
    register("http://127.0.0.1:9/states.bin?key=secret")
    with pytest.raises(RegistryError, match="Connection refused") as error:
        fetch()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("body", [CONTENT[:-1], CONTENT + b"x", b"<html>log in first</html>"])
def test_another_size_is_refused_before_it_arrives(
    body: bytes, server: Server, register: Register, cache: Path
) -> None:
    register(server.put("/states.bin", body))
    with pytest.raises(RegistryError, match=f"it has {len(body)} bytes there, the registry says {SIZE}"):
        fetch()
    assert left_over(cache) == []


def test_more_than_was_promised_is_not_written(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(body=CONTENT * 2, no_length=True), always=True)
    with pytest.raises(RegistryError, match=f"sends more than the {SIZE} bytes"):
        fetch()
    assert left_over(cache) == []


def test_less_than_was_promised_is_a_cut(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(body=CONTENT[:9000], length=SIZE), Fault(cut=1, no_length=True))
    assert fetch().read_bytes() == CONTENT
    assert server.requests[1].range == "bytes=9000-"


def test_a_length_that_nobody_tells_is_no_hindrance(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT), sha256=None, size=None, git_blob=git_blob(CONTENT))
    server.fail("/states.bin", Fault(no_length=True), always=True)
    assert fetch().read_bytes() == CONTENT


def test_compressed_bytes_are_refused(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT, Content_Encoding="gzip"))
    with pytest.raises(RegistryError, match="compressed although it was asked not to"):
        fetch()


def test_a_circle_of_redirects_is_told(server: Server, register: Register) -> None:
    register(server.redirect("/states.bin", "/states.bin"))
    with pytest.raises(RegistryError, match="redirects in a circle"):
        fetch()


@pytest.mark.parametrize("target", ["ftp://example.org/states.bin", "file:///etc/passwd"])
def test_a_redirect_to_nowhere_is_told(target: str, server: Server, register: Register) -> None:
    register(server.redirect("/states.bin", target))
    with pytest.raises(RegistryError, match=r"/states\.bin: Invalid"):
        fetch()
