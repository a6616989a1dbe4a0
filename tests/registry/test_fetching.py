"""Fetching: whole or absent, whatever the server, the disk and other processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kit import registry
from kit.io.errors import RegistryError
from kit.io.progress import watched
from kit.registry import fetching
from kit.registry.entry import mismatch, place
from tests.limits import largest_file
from tests.real_data import real_data
from tests.registry.conftest import CONTENT, QUICK, SHA256, Notes, Register, fetch, leave_part, left_over
from tests.servers import Fault, Server, git_blob

SIZE = len(CONTENT)
COMMIT = "c0ffee" * 6 + "c0ff"
HUB_URL = f"hub:someone/some-model@{COMMIT}/states.bin"


# What arrives.


def test_a_file_is_fetched_verified_and_kept(server: Server, register: Register, cache: Path) -> None:
    entry = register(server.put("/states.bin", CONTENT))
    path = fetch()
    assert path == cache / "files" / SHA256[:12] / "states.bin" == place(entry)
    assert path.read_bytes() == CONTENT
    assert left_over(cache) == ["states.bin"]
    assert fetch() == path
    assert len(server.requests) == 1


def test_a_git_object_id_is_enough(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT), sha256=None, size=None, git_blob=git_blob(CONTENT))
    assert fetch().read_bytes() == CONTENT
    register(server.url("/states.bin"), name="wrong", sha256=None, size=None, git_blob=git_blob(CONTENT + b"."))
    with pytest.raises(RegistryError, match=f"git object id is {git_blob(CONTENT)}, the registry says"):
        fetch("wrong")


@pytest.mark.parametrize("folder", ["era5-europe-2020-01-01", "era5-western-usa-2025-01", "era5-global-tl31-1959"])
def test_git_object_ids_verify_the_real_files(folder: str) -> None:
    files = {path.name: path for path in real_data(folder).iterdir()}
    known = [entry for entry in registry.dataset(folder) if entry.file in files]
    assert len(known) == len(files)
    for entry in known:
        assert entry.git_blob
        only = entry.model_copy(update={"sha256": None, "size": None})
        path = files[entry.file]
        assert mismatch(only, path) is None
        other = only.model_copy(update={"git_blob": "0" * 40})
        assert mismatch(other, path) == (f"git object id is {entry.git_blob}", "0" * 40)


def test_what_was_put_there_by_hand_is_used(register: Register) -> None:
    entry = register("https://example.org/states.bin")
    path = place(entry)
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch() == path


# Tampering.


def tampered(at: int) -> bytes:
    return CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]


@pytest.mark.parametrize("at", [0, 15_000, SIZE - 1])
def test_a_byte_that_changed_in_transit_is_refused(at: int, server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(body=tampered(at)))
    pattern = f"(?s)127.0.0.1.*SHA-256 is .*the registry says {SHA256}.*deleted.*By hand: download .*put it at"
    with pytest.raises(RegistryError, match=pattern):
        fetch()
    assert left_over(cache) == []
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("at", [0, 9999])
def test_a_byte_that_changed_in_the_part_is_refused(at: int, server: Server, register: Register, cache: Path) -> None:
    entry = register(server.put("/states.bin", CONTENT))
    leave_part(entry, tampered(at)[:10_000], server.files["/states.bin"].etag)
    with pytest.raises(RegistryError, match="SHA-256 is"):
        fetch()
    assert server.requests[0].range == "bytes=10000-"
    assert left_over(cache) == []
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("at", [0, 15_000, SIZE - 1])
def test_a_byte_that_changed_in_the_cache_is_refused(at: int, server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    path = fetch()
    path.write_bytes(tampered(at))
    with pytest.raises(RegistryError, match="was not used: it is damaged or was changed; delete the file and fetch"):
        fetch()
    path.unlink()
    assert fetch().read_bytes() == CONTENT


# Mirrors.


def test_mirrors_are_tried_in_order(server: Server, register: Register) -> None:
    register([server.url("/gone"), server.put("/bad", tampered(5)), server.put("/good", CONTENT), server.url("/never")])
    notes = Notes()
    assert fetch(notes=notes).read_bytes() == CONTENT
    assert [request.path for request in server.requests] == ["/gone", "/bad", "/good"]
    assert "404" in notes.texts[0]
    assert "SHA-256" in notes.texts[1]


def test_what_has_a_mirror_is_given_up_sooner(server: Server, register: Register) -> None:
    server.fail("/busy", Fault(status=503), always=True)
    register([server.url("/busy"), server.put("/good", CONTENT)])
    assert fetch().read_bytes() == CONTENT
    assert [request.path for request in server.requests] == ["/busy", "/busy", "/good"]


def test_every_source_is_told_if_none_will_do(server: Server, register: Register) -> None:
    register([server.url("/gone"), server.put("/bad", tampered(5))])
    with pytest.raises(RegistryError, match="(?s)/gone: the server answered 404.*/bad: SHA-256 is"):
        fetch()


# Several at once.


def test_two_processes_at_once(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(pace=0.03))
    script = (
        "import sys\nfrom kit import registry\nfrom kit.io.progress import ProgressCallback\n"
        "class Say(ProgressCallback):\n    def said(self, text): sys.stdout.write(text)\n"
        "registry.fetch('states', watch=Say())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(server.requests) == 1
    assert sorted("another process is at it" in text for text in told) == [False, True]
    assert left_over(cache) == ["states.bin"]
    assert fetch().read_bytes() == CONTENT


def test_two_threads_at_once(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    server.fail("/states.bin", Fault(pace=0.005))
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert fetch().read_bytes() == CONTENT


# The disk.


def test_a_disk_that_fills_leaves_what_can_be_continued(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    with (
        largest_file(10_000),
        pytest.raises(RegistryError, match="no space left .* after 10000 bytes.*goes on from"),
    ):
        fetch()
    assert left_over(cache) == [".states.bin.part", ".states.bin.part.json"]
    assert fetch().read_bytes() == CONTENT
    assert server.requests[-1].range == "bytes=10000-"


def test_a_disk_that_is_too_small_is_told_before(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server.put("/states.bin", CONTENT))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 31_999})())
    with pytest.raises(RegistryError, match=f"needs {SIZE} bytes in .*, where 31999 are free"):
        fetch()


def test_a_cache_that_cannot_be_written_is_told(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT))
    (cache / "files").write_text("a file in the place of the folder")
    with pytest.raises(RegistryError, match="cannot be written to: Not a directory.*KIT_CACHE"):
        fetch()


def test_a_disk_that_refuses_is_told(server: Server, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register(server.put("/states.bin", CONTENT))

    def refuse(path: Path, *arguments: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RegistryError, match="cannot be written: Read-only file system"):
        fetch()


# What is not asked for.


def test_offline_says_what_to_put_where(server: Server, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = register(server.put("/states.bin", CONTENT))
    monkeypatch.setenv("KIT_OFFLINE", "1")
    pattern = f"KIT_OFFLINE is set.*{entry.urls[0]} .{SIZE} bytes, SHA-256 {SHA256}. and put it at {place(entry)}"
    with pytest.raises(RegistryError, match=pattern):
        fetch()
    assert not server.requests
    monkeypatch.setenv("KIT_OFFLINE", "0")
    fetch()
    monkeypatch.setenv("KIT_OFFLINE", "1")
    assert fetch().read_bytes() == CONTENT
    register("https://example.org/a.bin", name="first", sha256="1" * 64)
    register("https://example.org/b.bin", name="second", sha256="2" * 64)
    with pytest.raises(RegistryError, match="(?s)first, second are not on.*\nBy hand: .*a.bin.*\nBy hand: .*b.bin"):
        registry.fetch_all(registry.chosen(["first", "states", "second"]))
    monkeypatch.setenv("KIT_OFFLINE", "maybe")
    with pytest.raises(RegistryError, match="KIT_OFFLINE is 'maybe'; expected 1"):
        fetching.offline()


def test_an_entry_without_a_hash_is_refused_with_the_command(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT), sha256=None)
    with pytest.raises(RegistryError, match=r"states: no hash.*: kit data pin states$"):
        fetch()
    with pytest.raises(RegistryError, match="kit data pin states"):
        registry.fetch_all(registry.chosen(["era5-sample", "states"]))
    assert not server.requests


@pytest.mark.parametrize("lfs", [True, False])
def test_the_hash_that_a_hub_states_is_verified_and_recorded_at_the_first_use(
    lfs: bool, server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub("someone/some-model", COMMIT, "states.bin", CONTENT, lfs=lfs)
    register(HUB_URL, sha256=None, size=None)
    notes = Notes()
    path = fetch(notes=notes)
    known = registry.entries()["states"]
    assert path.read_bytes() == CONTENT
    assert (known.sha256, known.git_blob) == ((SHA256, None) if lfs else (None, git_blob(CONTENT)))
    assert known.size == SIZE
    (said,) = notes.texts
    assert f"that the hub states for its commit, {known.hash}; recorded in {cache / 'registry.toml'}" in said
    asked, notes = len(server.requests), Notes()
    assert fetch(notes=notes) == path
    assert (len(server.requests), notes.texts) == (asked, [])
    path.write_bytes(tampered(7))
    with pytest.raises(RegistryError, match="was not used"):
        fetch()


@pytest.mark.parametrize("at", [0, 15_000, SIZE - 1])
def test_bytes_without_the_stated_hash_are_neither_kept_nor_recorded(
    at: int, server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub("someone/some-model", COMMIT, "states.bin", CONTENT)
    server.fail(f"/storage/{SHA256}?signature=abc", Fault(body=tampered(at)))
    register(HUB_URL, sha256=None, size=None)
    before = (cache / "registry.toml").read_text()
    with pytest.raises(RegistryError, match=f"SHA-256 is .*, the registry says {SHA256}"):
        fetch()
    assert (cache / "registry.toml").read_text() == before
    assert left_over(cache) == []
    assert fetch().read_bytes() == CONTENT


def test_another_hash_that_was_recorded_meanwhile_is_told(
    server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub("someone/some-model", COMMIT, "states.bin", CONTENT)
    described = registry.identify(register(HUB_URL, sha256=None, size=None), limits=QUICK)
    with (cache / "registry.toml").open("a") as stream:
        stream.write(f'sha256 = "{"1" * 64}"\nsize = {SIZE}\n')
    with pytest.raises(RegistryError, match=f"says SHA-256 {'1' * 64} since a moment ago, the hub {SHA256}"):
        registry.accept(described)


@pytest.mark.parametrize("reason", ["strict", "KIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_no_hub_is_asked_where_it_is_not_to_be(
    reason: str, server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub("someone/some-model", COMMIT, "states.bin", CONTENT)
    register(HUB_URL, sha256=None, size=None)
    if reason != "strict":
        monkeypatch.setenv(reason, "1")
    before = (cache / "registry.toml").read_text()
    with registry.strictly(reason == "strict"):
        for run in (fetch, lambda: registry.fetch_all(registry.chosen(["era5-sample", "states"]))):
            with pytest.raises(RegistryError, match=f"{reason} is set.*kit data pin states$"):
                run()
    assert not server.requests
    assert (cache / "registry.toml").read_text() == before


def test_a_hub_that_states_no_hash_is_told(server: Server, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    path = f"/someone/some-model/resolve/{COMMIT}/states.bin"
    server.put(path, CONTENT, etag='"of-a-mirror"')
    register(HUB_URL, sha256=None, size=None)
    with pytest.raises(RegistryError, match="no hub states one; .*kit data pin states$"):
        fetch()
    assert not server.asked(path)


def test_a_proxy_is_used(server: Server, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register(server.put("http://data.example.org/states.bin", CONTENT))
    monkeypatch.setenv("http_proxy", server.url())
    assert fetch().read_bytes() == CONTENT
    assert server.requests[0].headers["host"] == "data.example.org"


def test_a_proxy_that_is_not_there_is_named_as_such(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register("http://data.example.org/states.bin")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(RegistryError, match="through the proxy: .*Connection refused") as error:
        fetch()
    assert "secret" not in str(error.value)


def test_whoever_watches_is_told(server: Server, register: Register) -> None:
    register(server.put("/states.bin", CONTENT))
    notes = Notes()
    with watched(lambda: notes):
        registry.fetch("states", limits=QUICK)
    assert notes.starts == [0]
