"""Weights and static fields by name: from a hub that speaks as the true one, with everything that may go wrong."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kit import registry
from kit.cli.main import main
from kit.io.errors import CheckpointError, RegistryError
from kit.io.retry import Limits
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights, install, load, load_base
from kit.models.weights.locate import WEIGHTS_VARIABLE, is_official, locate
from kit.registry import fetching as obtain
from tests.batches import small_spec
from tests.checkpoints import old_style
from tests.servers import Fault, Server, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "somebody/weights"
SPEC = small_spec("small")
OFFICIAL = [name for name, variant in VARIANTS.items() if variant.is_official]

Publish = Callable[..., bytes]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub, an empty cache and an empty registry of the user's own."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "KIT_OFFLINE", WEIGHTS_VARIABLE, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KIT_REGISTRY", str(tmp_path / "mine.toml"))
    monkeypatch.setattr(obtain, "Limits", lambda: Limits(connect=2, read=0.5, attempts=2, backoff=0.001, longest=0.01))
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url())
        yield server


@pytest.fixture
def publish(hub: Server, tmp_path: Path) -> Publish:
    """Put a file on the hub, and an entry for it, or a pin for one that is there, into the user's registry."""

    def put(content: bytes, name: str = "theirs", *, kind: str = "weights", sha256: str | None = None) -> bytes:
        known = registry.entries().get(name)
        table = {"sha256": sha256 or hashlib.sha256(content).hexdigest(), "size": len(content)}
        if known is None:
            file = f"{name}.{'ckpt' if kind == 'weights' else 'pickle'}"
            hub.put_hub(REPO, COMMIT, file, content)
            about = {"file": file, "url": f"hub:{REPO}@{COMMIT}/{file}", "kind": kind}
            table |= {**about, "licence": "MIT", "description": "For a test."}
        else:
            hub.put_hub(*hub_path(name), content)
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        with (tmp_path / "mine.toml").open("a") as stream:
            stream.write(f'["{name}"]\n{lines}\n')
        return content

    return put


def state_of(spec: ModelSpec = SPEC) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in spec.build().state_dict().items()}


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load_weights(reference: str | None, variant: str = "small") -> Weights:
    found = load(reference, VARIANTS[variant])
    assert found is not None
    return found


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_variant_has_an_entry_at_the_revision_of_upstreams_class(name: str) -> None:
    variant = VARIANTS[name]
    cls = variant.constructor
    entry = registry.entries()[str(variant.weights)]
    where = f"{cls.default_checkpoint_repo}@{cls.default_checkpoint_revision}/{cls.default_checkpoint_name}"
    assert entry.urls[0] == f"hub:{where}"
    assert entry.kind == "weights"
    assert entry.licence.startswith("MIT")
    assert is_official("hub", variant)
    assert is_official(None, variant)
    assert not is_official("random", variant)


def test_there_are_nine_and_tiny_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(OFFICIAL) == 9
    with pytest.raises(CheckpointError, match=r"no official weights of variant 'tiny'.*'aurora-tiny'.*left out"):
        load("hub", VARIANTS["tiny"])
    assert main(["plan", "--grid", "32x64", "--model.weights", "hub"]) == 2
    assert "no official weights" in capsys.readouterr().err


@pytest.mark.parametrize("reference", (None, "hub", "aurora-0.25-small-pretrained"))
def test_official_weights_through_upstreams_adapter(hub: Server, publish: Publish, reference: str | None) -> None:
    state = state_of()
    content = publish(saved(old_style(state, SPEC.patch_size)), "aurora-0.25-small-pretrained")
    found = load_weights(reference)
    assert found.base == {
        "name": "aurora-0.25-small-pretrained",
        "file": "aurora-0.25-small-pretrained.ckpt",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "repository": "microsoft/aurora",
        "revision": "0be7e57c685dac86b78c4a19a3ab149d13c6a3dd",
    }
    model = SPEC.build()
    install(model, SPEC, found)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    asked = len(hub.requests)
    load_weights(reference)
    assert len(hub.requests) == asked


def test_by_path_they_are_known_by_their_hash(publish: Publish, tmp_path: Path) -> None:
    content = publish(saved(state_of()), "aurora-0.25-small-pretrained")
    (tmp_path / "downloaded.ckpt").write_bytes(content)
    base = load_weights(str(tmp_path / "downloaded.ckpt")).base
    assert (base["repository"], base["file"]) == ("microsoft/aurora", "aurora-0.25-small-pretrained.ckpt")
    assert base["name"] == str(tmp_path / "downloaded.ckpt")


def test_a_file_in_kit_weights_saves_the_download(
    hub: Server, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = publish(saved(state_of()), "aurora-0.25-small-pretrained")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "any-name.ckpt").write_bytes(content)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "w"))
    assert load_weights("hub").path == tmp_path / "w" / "any-name.ckpt"
    assert not hub.requests


def hub_path(name: str) -> tuple[str, str, str]:
    """Repository, commit and file of an entry's address."""
    repo, _, rest = registry.entries()[name].urls[0].removeprefix("hub:").partition("@")
    commit, _, file = rest.partition("/")
    return repo, commit, file


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_weights_of_each_variant_are_verified_and_recorded_at_the_first_use(
    hub: Server, tmp_path: Path, name: str
) -> None:
    variant = VARIANTS[name]
    entry, content = str(variant.weights), f"weights of {name}".encode() * 1000
    hub.put_hub(*hub_path(entry), content)
    found, path = locate(None, variant)
    assert (found, path.read_bytes()) == (entry, content)
    digest = hashlib.sha256(content).hexdigest()
    recorded = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert recorded == {entry: {"sha256": digest, "size": len(content)}}
    asked = len(hub.requests)
    assert locate("hub", variant) == (found, path)
    assert len(hub.requests) == asked
    # Other bytes at the hub, and no file here: the recorded hash holds.
    path.unlink()
    hub.put_hub(*hub_path(entry), content[::-1])
    with pytest.raises(RegistryError, match=f"the registry says {digest}; nothing was downloaded"):
        locate(None, variant)
    # Other bytes here.
    path.write_bytes(content[::-1])
    with pytest.raises(RegistryError, match=f"SHA-256 is .*, the registry says {digest}"):
        locate(None, variant)


def test_a_file_in_kit_weights_is_known_by_the_hash_that_the_hub_states(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved(state_of())
    path = hub.put_hub(*hub_path("aurora-0.25-small-pretrained"), content)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "any-name.ckpt").write_bytes(content)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "w"))
    assert load_weights("hub").path == tmp_path / "w" / "any-name.ckpt"
    assert registry.entries()["aurora-0.25-small-pretrained"].sha256 == hashlib.sha256(content).hexdigest()
    assert not hub.asked(path)


def test_what_can_have_no_hash_is_refused_with_the_remedy(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put_hub(*hub_path("aurora-0.25-small-pretrained"), saved(state_of()))
    run = ["finetune", "--model.variant", "small", "--model.weights", "hub", "--data.store", "era5-sample"]
    assert main([*run, "--registry.strict"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "registry.strict is set; have what is there now recorded first: kit data pin aurora-0.25-small" in told
    file = tmp_path / "aurora-0.25-small-pretrained.ckpt"
    file.write_bytes(b"")
    monkeypatch.setenv("KIT_OFFLINE", "1")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(RegistryError, match=rf"KIT_OFFLINE is set.*if you trust it, pass --model.weights {file}"):
        load_weights(None)
    assert not hub.requests
    assert not (tmp_path / "mine.toml").exists()


def test_weights_of_another_variant_or_no_weights_at_all(hub: Server) -> None:
    with pytest.raises(CheckpointError, match="weights of variant 'wave'.*set --model.variant wave"):
        load_weights("aurora-0.25-wave")
    with pytest.raises(CheckpointError, match="the registry's era5-sample are states, not weights"):
        load_weights("era5-sample")
    assert not hub.requests


def test_a_base_is_fetched_again_on_another_machine(publish: Publish, hub: Server, tmp_path: Path) -> None:
    """By name, by hash where the name is a path of another machine, or by the hub's file at its commit."""
    publish(saved(state_of()))
    base = load_weights("theirs").base
    for recorded in (base, {**base, "name": "/home/other/x.ckpt"}, {**base, "name": "another name"}):
        found = load_base(recorded, tmp_path / "run", VARIANTS["small"])
        assert found.base["sha256"] == base["sha256"]
    assert len([request for request in hub.requests if request.method == "GET"]) <= 2


def test_a_base_that_nothing_can_vouch_for_says_how(hub: Server, tmp_path: Path) -> None:
    """The checkpoint names the hub's file, and the hub states another hash for it."""
    path = hub.put_hub(*hub_path("aurora-0.25-small-pretrained"), b"others")
    recorded = {
        "name": "/home/other/w.ckpt",
        "file": "aurora-0.25-small-pretrained.ckpt",
        "sha256": "0" * 64,
        "repository": "microsoft/aurora",
        "revision": VARIANTS["small"].constructor.default_checkpoint_revision,
    }
    stated = hashlib.sha256(b"others").hexdigest()
    with pytest.raises(CheckpointError, match=f"aurora-0.25-small-pretrained has SHA-256 {stated} at the hub"):
        load_base(recorded, tmp_path, VARIANTS["small"])
    assert not hub.asked(path)
    with registry.strictly(True), pytest.raises(CheckpointError, match="kit data pin aurora-0.25-small-pretrained"):
        load_base(recorded, tmp_path, VARIANTS["small"])


FAULTS = {
    "404": Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}),
    "500": Fault(status=500),
    "cut": Fault(cut=0),
    "slow": Fault(delay=1.5),
    "other": Fault(body=b"x" * 1000),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow if name == "slow" else ()) for name in FAULTS]
)
def test_what_goes_wrong_is_one_message_and_nothing_half_left(
    publish: Publish, hub: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    content = publish(saved(state_of()))
    path = f"/{REPO}/resolve/{COMMIT}/theirs.ckpt"
    for method in ("GET", "HEAD"):
        for place in (path, f"/storage/{hashlib.sha256(content).hexdigest()}?signature=abc"):
            if place == path or fault != "404":
                hub.fail(place, FAULTS[fault], always=True, method=method)
    with pytest.raises(RegistryError, match="theirs could not be fetched"):
        load_weights("theirs")
    assert main(["plan", "--model.variant", "small", "--grid", "32x64", "--model.weights", "theirs"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("theirs.ckpt"))


def test_a_wrong_hash_is_refused(publish: Publish, tmp_path: Path) -> None:
    publish(saved(state_of()), sha256="0" * 64)
    with pytest.raises(RegistryError, match="0{64}"):
        load_weights("theirs")
    assert not list((tmp_path / "cache").rglob("theirs.ckpt"))


def test_a_cut_download_is_gone_on_with(publish: Publish, hub: Server) -> None:
    content = publish(saved(state_of()))
    storage = f"/storage/{hashlib.sha256(content).hexdigest()}?signature=abc"
    hub.fail(storage, Fault(cut=1000))
    assert load_weights("theirs").base["size"] == len(content)


@pytest.mark.slow
def test_tiny_trains_from_an_old_checkpoint_of_the_hub(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = load(None, VARIANTS["tiny"])
    assert tiny is not None
    assert tiny.spec is not None
    publish(saved(old_style(tiny.state, tiny.spec.patch_size)), "tiny-of-old")
    arguments = ["--model.weights", "tiny-of-old", "--train.steps", "1", "--train.device", "cpu", "--json"]
    assert main(["finetune", *arguments, "--run.name", "old", "--track.uri", "none"]) == 0
    capsys.readouterr()
    base = json.loads((tmp_path / "runs" / "old" / "checkpoints" / "last" / "kit.json").read_text())["base"]
    assert (base["name"], base["repository"], base["revision"]) == ("tiny-of-old", REPO, COMMIT)


@pytest.mark.slow
def test_one_command_trains_from_weights_that_have_no_hash_yet(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = registry.fetch("aurora-tiny").read_bytes()
    hub.put_hub(REPO, COMMIT, "tiny.safetensors", content)
    (tmp_path / "mine.toml").write_text(
        f'[theirs]\nfile = "tiny.safetensors"\nurl = "hub:{REPO}@{COMMIT}/tiny.safetensors"\nlicence = "MIT"\n'
        'kind = "weights"\ndescription = "For a test."\n'
    )
    run = "finetune --model.weights theirs --train.steps 1 --train.device cpu --track.uri none".split()
    assert main([*run, "--run.name", "first"]) == 0
    digest = hashlib.sha256(content).hexdigest()
    said = f"theirs: has the SHA-256 that the hub states for its commit, {digest}; recorded in {tmp_path / 'mine.toml'}"
    assert capsys.readouterr().err.count(said) == 1
    asked = len(hub.requests)
    assert main([*run, "--run.name", "second", "--registry.strict"]) == 0
    assert said not in capsys.readouterr().err
    assert len(hub.requests) == asked
    base = json.loads((tmp_path / "runs" / "second" / "checkpoints" / "last" / "kit.json").read_text())["base"]
    assert (base["name"], base["sha256"], base["revision"]) == ("theirs", digest, COMMIT)


def test_static_fields_of_the_hub_are_built_into_a_store(publish: Publish, tmp_path: Path) -> None:
    from kit.data.settings import BuildSettings
    from kit.data.store.build import build_store
    from tests.factories import synthetic_dataset

    data = synthetic_dataset(static=(), times=4).assign_coords(latitude=90 - np.arange(16) * 11.25)
    (tmp_path / "data.pickle").write_bytes(pickle.dumps({str(k): v.values for k, v in data.variables.items()}))
    fields = {name: np.arange(17.0 * 32).reshape(17, 32) for name in ("z", "lsm", "slt")}
    content = publish(pickle.dumps(fields), "aurora-0.25-static", kind="statics")
    path = tmp_path / "data.pickle"
    store = build_store(
        BuildSettings(source="pickle", path=path, out=tmp_path / "store", statics_from="aurora-0.25-static")
    )
    np.testing.assert_array_equal(store.read_static("z"), fields["z"][:16])
    facts = store.attributes["source_files"][-1]
    assert facts["registry"] == "aurora-0.25-static"
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert store.attributes["licence"].startswith("MIT")
