"""Pins: what is recorded, where, and what is left alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kit import registry
from kit.io.errors import RegistryError
from tests.registry.conftest import CONTENT, QUICK, SHA256, Notes, Register
from tests.servers import Fault, Server, git_blob

REPO, COMMIT = "someone/some-model", "c0ffee" * 6 + "c0ff"
URL = f"hub:{REPO}@{COMMIT}/states.bin"


def pin(name: str = "states") -> registry.Pin:
    return registry.pin(name, watch=Notes(), limits=QUICK)


def test_a_large_file_of_a_hub_is_pinned_by_the_hubs_own_record(
    server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub(REPO, COMMIT, "states.bin", CONTENT)
    register(URL, sha256=None, size=None)
    found = pin()
    assert (found.sha256, found.git_blob, found.size, found.new) == (SHA256, None, len(CONTENT), True)
    assert {request.method for request in server.requests} == {"HEAD"}
    assert registry.entries()["states"].sha256 == SHA256
    assert registry.fetch("states", limits=QUICK).read_bytes() == CONTENT
    assert not pin().new


def test_a_small_file_of_a_hub_is_pinned_by_its_git_object_id(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub(REPO, COMMIT, "states.bin", CONTENT, lfs=False)
    register(URL, sha256=None, size=None)
    assert pin().git_blob == git_blob(CONTENT)
    assert registry.fetch("states", limits=QUICK).read_bytes() == CONTENT


def test_an_entry_of_the_kit_is_pinned_in_the_users_own_list(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    name = "aurora-0.25-small-pretrained-test"
    packaged = cache.parent / "kit.toml"
    packaged.write_text(
        f'["{name}"]\nfile = "m.ckpt"\nurl = "hub:{REPO}@{COMMIT}/m.ckpt"\nlicence = "MIT"\nkind = "weights"\n'
        'description = "d"\n'
    )
    monkeypatch.setattr("kit.registry.catalogue.REGISTRY_PATH", packaged)
    server.put_hub(REPO, COMMIT, "m.ckpt", CONTENT)
    pin(name)
    assert (cache / "registry.toml").read_text() == f'["{name}"]\nsha256 = "{SHA256}"\nsize = {len(CONTENT)}\n'
    assert "sha256" not in packaged.read_text()
    assert registry.fetch(name, limits=QUICK).read_bytes() == CONTENT


def test_other_files_are_fetched_hashed_and_kept(server: Server, register: Register, cache: Path) -> None:
    register(server.put("/states.bin", CONTENT), sha256=None, size=None)
    server.fail("/states.bin", Fault(cut=8000))
    assert pin().sha256 == SHA256
    asked = len(server.requests)
    assert registry.fetch("states", limits=QUICK).read_bytes() == CONTENT
    assert len(server.requests) == asked == 2
    files = [path.name for path in (cache / "files").rglob("*") if path.is_file()]
    assert sorted(name for name in files if not name.endswith(".lock")) == ["states.bin"]


def test_a_hub_without_a_record_is_asked_for_the_bytes(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    path = f"/{REPO}/resolve/{COMMIT}/states.bin"
    server.put(path, CONTENT, etag='"of-a-mirror"')
    register(URL, sha256=None, size=None)
    assert pin().sha256 == SHA256
    assert server.asked(path)


def test_the_rest_of_the_list_stays(server: Server, register: Register, cache: Path) -> None:
    mine = cache / "registry.toml"
    mine.write_text("# my files\n\n")
    register(server.put("/other.bin", CONTENT), name="other")
    register(server.put("/states.bin", CONTENT), sha256=None)
    before = mine.read_text()
    pin()
    after = mine.read_text()
    assert after.replace(f'sha256 = "{SHA256}"\n', "", 2) == before.replace(f'sha256 = "{SHA256}"\n', "", 1)
    assert after.startswith("# my files\n")
    assert tomllib.loads(after)["states"]["size"] == len(CONTENT)


def test_a_list_that_writes_tables_in_another_way_is_written_anew(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("/states.bin", CONTENT)
    (cache / "registry.toml").write_text(
        f'states = {{file = "states.bin", url = "{url}", licence = "MIT", kind = "source", description = "d"}}\n'
    )
    pin()
    assert registry.entries()["states"].sha256 == SHA256


def test_a_list_that_is_not_toml_is_left_alone(server: Server, register: Register, cache: Path) -> None:
    (cache / "registry.toml").write_text("[states\n")
    with pytest.raises(RegistryError, match=r"cache/registry\.toml: not valid TOML"):
        pin()
    assert (cache / "registry.toml").read_text() == "[states\n"


def test_a_hub_that_lacks_the_file_pins_nothing(
    server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    register(URL, sha256=None, size=None)
    before = (cache / "registry.toml").read_text()
    with pytest.raises(RegistryError, match="nothing was recorded:\n  hub:someone/some-model.*is not there"):
        pin()
    assert (cache / "registry.toml").read_text() == before


def test_another_size_than_the_registrys_pins_nothing(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url())
    server.put_hub(REPO, COMMIT, "states.bin", CONTENT)
    register(URL, sha256=None, size=7)
    with pytest.raises(RegistryError, match="the hub says 32000 bytes, the registry 7; nothing was recorded"):
        pin()


def test_nothing_is_pinned_offline(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register("https://example.org/states.bin", sha256=None)
    monkeypatch.setenv("KIT_OFFLINE", "1")
    with pytest.raises(RegistryError, match="KIT_OFFLINE is set"):
        pin()


def test_a_list_that_cannot_be_written_is_told(
    server: Server, register: Register, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server.put("/states.bin", CONTENT), sha256=None)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("kit.registry.own_list.write_atomically", refuse)
    with pytest.raises(RegistryError, match=r"registry\.toml cannot be written: Read-only file system; set KIT"):
        pin()
