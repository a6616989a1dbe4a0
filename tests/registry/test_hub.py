"""Files of a model hub: as the hub serves them, and what its refusals mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import registry
from kit.io.errors import RegistryError
from kit.registry import catalogue, hub
from kit.registry.entry import HubFile
from tests.registry.conftest import CONTENT, QUICK, SHA256, Notes, Register, fetch
from tests.servers import Fault, Server, git_blob, serving

REPO, COMMIT = "someone/some-model", "c0ffee" * 6 + "c0ff"
URL = f"hub:{REPO}@{COMMIT}/models/states.bin"
TOKEN = "hf_0123456789abcdefghij"


@pytest.fixture(autouse=True)
def hub_endpoint(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url()}/")


def test_a_large_file_comes_from_the_hubs_storage_and_is_resumed(server: Server, register: Register) -> None:
    with serving() as storage:
        server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT, storage=storage)
        storage.fail(f"/storage/{SHA256}?signature=abc", *[Fault(cut=10_000)] * 2)
        register(URL)
        assert fetch().read_bytes() == CONTENT
        assert [request.range for request in storage.requests] == [None, "bytes=10000-", "bytes=20000-"]


def test_a_small_file_is_known_by_its_git_object_id(server: Server, register: Register) -> None:
    server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT, lfs=False)
    register(URL, sha256=None, size=None, git_blob=git_blob(CONTENT))
    assert fetch().read_bytes() == CONTENT


def test_another_hash_at_the_hub_is_refused_before_anything_is_downloaded(server: Server, register: Register) -> None:
    path = server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT[::-1])
    register(URL)
    with pytest.raises(RegistryError, match=f"hub's own SHA-256 for it is .*, the registry says {SHA256}; nothing was"):
        fetch()
    assert not server.asked(path)


def test_bytes_that_are_not_what_the_hub_says_are_refused(server: Server, register: Register) -> None:
    server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    server.fail(f"/storage/{SHA256}?signature=abc", Fault(body=CONTENT[::-1]))
    register(URL)
    with pytest.raises(RegistryError, match="SHA-256 is"):
        fetch()


def test_the_token_is_for_the_hub_alone(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(0)
    with serving() as storage, serving() as mirror:
        path = server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT, storage=storage)
        server.gate(REPO, TOKEN)
        storage.fail(f"/storage/{SHA256}?signature=abc", Fault(status=404), always=True)
        register([URL, mirror.put("/states.bin", CONTENT)])
        notes = Notes()
        assert fetch(notes=notes).read_bytes() == CONTENT
        shown = {r.headers.get("authorization") for r in server.asked(path) + server.asked(path, "HEAD")}
        assert shown == {f"Bearer {TOKEN}"}
        assert storage.requests
        assert mirror.requests
        assert not any("authorization" in request.headers for request in storage.requests + mirror.requests)
    assert TOKEN not in "".join([*notes.texts, caplog.text])
    assert "signature" not in "".join(notes.texts)


@pytest.mark.parametrize(
    ("token", "match"), [(None, "is gated, and you are not logged in"), (TOKEN, "gated, and your token does not give")]
)
def test_a_gated_repository_is_told(
    token: str | None, match: str, server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    server.gate(REPO, "hf_of_somebody_else")
    register(URL)
    with pytest.raises(RegistryError, match=f"{match}.*accept its conditions.*HF_TOKEN") as error:
        fetch()
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (f"hub:someone/other@{COMMIT}/models/states.bin", "someone/other is not there, or not for you"),
        (f"hub:{REPO}@{'0' * 40}/models/states.bin", f"{REPO} has no commit {'0' * 40}"),
        (f"hub:{REPO}@{COMMIT}/models/other.bin", f"has no models/other.bin at commit {COMMIT}"),
    ],
)
def test_what_the_hub_does_not_have_is_told(url: str, match: str, server: Server, register: Register) -> None:
    server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    register(url)
    with pytest.raises(RegistryError, match=match):
        fetch()


def test_a_hub_that_fails_is_asked_again(server: Server, register: Register) -> None:
    path = server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    server.fail(path, Fault(status=500), Fault(status=429), method="HEAD")
    register(URL)
    notes = Notes()
    assert fetch(notes=notes).read_bytes() == CONTENT
    assert [text.partition(";")[0] for text in notes.texts] == [
        f"{server.url()}: the hub answered 500",
        f"{server.url()}: the hub answered 429",
    ]


def test_no_hub_there(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    register(URL)
    with pytest.raises(RegistryError, match="127.0.0.1:9: .*[Rr]efused; given up after 3 attempts"):
        fetch()


@pytest.mark.parametrize("endpoint", ["hub.example.org", "ftp://hub.example.org", "https://me:secret@hub.example.org"])
def test_an_endpoint_that_is_no_address_is_told(
    endpoint: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    register(URL)
    with pytest.raises(RegistryError, match="HF_ENDPOINT is no address of a hub: expected https://HOST") as error:
        fetch()
    assert "secret" not in str(error.value)


def test_a_proxy_variable_that_makes_no_sense_is_told(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    monkeypatch.setenv("http_proxy", "gopher://me:secret@proxy.example.org")
    register(URL)
    with pytest.raises(RegistryError, match="a proxy variable .* is not understood") as error:
        fetch()
    assert "secret" not in str(error.value)


def test_another_commit_in_the_answer_is_refused(server: Server) -> None:
    path = server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    server.fail(path, Fault(headers={"X-Repo-Commit": "0" * 40}), method="HEAD")
    with pytest.raises(Exception, match=f"answers for commit {'0' * 40}, not for {COMMIT}"):
        hub.facts(HubFile.of(URL), QUICK, Notes())


def test_the_hubs_offline_switch_leaves_the_mirrors(
    server: Server, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put_hub(REPO, COMMIT, "models/states.bin", CONTENT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    register(URL)
    with pytest.raises(RegistryError, match=f"HF_HUB_OFFLINE is set\nBy hand: download {server.url()}/{REPO}/resolve/"):
        fetch()
    register([URL, server.put("/states.bin", CONTENT)], name="mirrored")
    assert fetch("mirrored").read_bytes() == CONTENT
    assert not [request for request in server.requests if REPO in request.path]


def test_the_weights_are_those_that_upstream_pins() -> None:
    from kit.models.variants import VARIANTS

    weights = {entry.name: HubFile.of(entry.urls[0]) for entry in registry.dataset("aurora-weights")}
    pinned = {
        variant.constructor.default_checkpoint_name.removesuffix(".ckpt"): variant.constructor
        for variant in VARIANTS.values()
        if variant.name != "tiny"
    }
    assert weights.keys() == pinned.keys()
    assert len(weights) == 9
    for name, file in weights.items():
        assert file.repo == pinned[name].default_checkpoint_repo
        assert file.revision == pinned[name].default_checkpoint_revision
        assert file.path == pinned[name].default_checkpoint_name
    assert len(registry.dataset("aurora-statics")) == 5
    assert catalogue.find("aurora-0.25-v1.5-static").kind == "statics"
