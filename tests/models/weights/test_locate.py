"""A delta and its base, on another machine: found by name, by place, by hash; others refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import registry
from kit.adapt import factory, trainable
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import write_checkpoint
from kit.cli.main import main
from kit.io.errors import CheckpointError, RegistryError
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights, load, load_base
from kit.models.weights.locate import WEIGHTS_VARIABLE, with_relative
from tests.adapt.models import awake_model
from tests.batches import small_spec
from tests.checkpoints import redescribe

SPEC = small_spec("small")
LORA = AdaptSettings(method="lora", rank=2, targets=("attn.proj",))


@pytest.fixture(autouse=True)
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another user's home, cache and variables."""
    home = tmp_path / "other"
    (home / "cache").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "other")
    monkeypatch.setenv("KIT_CACHE", str(home / "cache"))
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    return home


def described(**more: Any) -> dict[str, Any]:
    return {"kit_version": "0", "model": SPEC.as_dict(), "lineage": [], "base": None, **more}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/base`` and ``runs/delta``, as they were written; removed from there by no test."""
    folder = tmp_path_factory.mktemp("writer") / "runs"
    write_checkpoint(folder / "base", awake_model(SPEC).state_dict(), described())
    weights = load_weights(folder / "base")
    model, _ = factory.for_training(SPEC, weights, LORA, autocast=False)
    adapter = {"settings": LORA.resolved().model_dump(mode="json"), "base": factory.base_of(weights, LORA)}
    tensors, config = trainable.tensors(model, LORA), trainable.adapter_config(model, LORA)
    more = {"adapter": adapter, "base": dict(weights.base)}
    write_checkpoint(folder / "delta", tensors, described(**more), adapter_config=config)
    return folder


@pytest.fixture
def runs(made: Path, another_machine: Path) -> Path:
    """The same folder, carried to the other machine; where it was written there is nothing any more."""
    copied = another_machine / "received"
    shutil.copytree(made, copied)
    for file in copied.rglob("kit.json"):
        redescribe(file.parent, lambda text: text.replace(str(made), "/home/writer/runs"))
    return copied


def load_weights(folder: Path) -> Weights:
    found = load(str(folder), VARIANTS["small"])
    assert found is not None
    return found


def under(folder: Path) -> Path:
    """The file that the base was read from."""
    found = load_weights(folder).under
    assert found is not None
    assert found.path is not None
    return found.path


def other_weights(folder: Path) -> str:
    """Put other weights of the same size into a folder; returns their SHA-256."""
    write_checkpoint(folder, awake_model(SPEC, seed=1).state_dict(), described())
    return str(load_weights(folder).base["sha256"])


def test_what_is_recorded_of_the_base_finds_it_again(made: Path) -> None:
    description = json.loads((made / "delta" / "kit.json").read_text())
    recorded = description["adapter"]["base"]
    file = made / "base" / "model.safetensors"
    assert recorded["relative"] == description["base"]["relative"] == "../base"
    assert (recorded["file"], recorded["size"]) == ("model.safetensors", file.stat().st_size)
    assert under(made / "delta") == file


def test_a_base_that_moved_along_is_found_beside(runs: Path) -> None:
    assert under(runs / "delta").resolve() == runs / "base" / "model.safetensors"


@pytest.mark.parametrize("with_size", (True, False))
def test_a_base_of_any_name_is_found_by_its_hash(
    runs: Path, with_size: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a recorded size the name has to be the recorded one."""
    name = "renamed.safetensors" if with_size else "model.safetensors"
    store = tmp_path / "weights" / "deep"
    store.mkdir(parents=True)
    shutil.move(runs / "base" / "model.safetensors", store / name)
    shutil.rmtree(runs / "base")
    (store / "a.safetensors").write_bytes(b"another size")
    file = runs / "delta" / "kit.json"
    if not with_size:
        description = json.loads(file.read_text())
        del description["adapter"]["base"]["size"]
        redescribe(file.parent, lambda _: json.dumps(description))
    with pytest.raises(CheckpointError, match=r"KIT_WEIGHTS \(not set\) and the cache"):
        load_weights(runs / "delta")
    monkeypatch.setenv("KIT_WEIGHTS", os.pathsep.join((str(tmp_path / "none"), str(tmp_path / "weights"))))
    assert under(runs / "delta") == store / name


def test_a_base_in_the_cache_is_found_by_its_hash(runs: Path, another_machine: Path) -> None:
    place = another_machine / "cache" / "files" / "anything"
    place.mkdir(parents=True)
    shutil.move(runs / "base" / "model.safetensors", place / "model.safetensors")
    shutil.rmtree(runs / "base")
    assert under(runs / "delta") == place / "model.safetensors"


def test_others_in_its_place_are_passed_over_where_the_right_ones_are(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(runs / "base", tmp_path / "kept")
    other_weights(runs / "base")
    monkeypatch.setenv("KIT_WEIGHTS", str(tmp_path / "kept"))
    assert under(runs / "delta") == tmp_path / "kept" / "model.safetensors"


def test_others_are_refused_with_both_hashes_and_where_was_looked(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load_weights(runs / "base").base["sha256"]
    got = other_weights(runs / "base")
    monkeypatch.setenv("KIT_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError) as caught:
        load_weights(runs / "delta")
    told = str(caught.value)
    assert wanted in told
    assert f"base holds others, with SHA-256 {got}" in told
    assert f"KIT_WEIGHTS ({tmp_path / 'nowhere'} (no such folder))" in told


def test_the_command_line_refuses_a_wrong_base_with_2(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = other_weights(runs / "base")
    assert main(["evaluate", "--checkpoint", str(runs / "delta"), "--data.store", "era5-sample"]) == 2
    assert got in capsys.readouterr().err


def test_a_registry_entry_that_cannot_be_had_is_told(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Path:
        msg = f"{name}: not fetched"
        raise RegistryError(msg)

    monkeypatch.setattr(registry, "fetch", absent)
    recorded = {"name": "aurora-tiny", "file": "aurora-tiny.safetensors", "sha256": "0" * 64}
    with pytest.raises(CheckpointError, match="which are not there: aurora-tiny: not fetched"):
        load_base(recorded, runs / "delta", VARIANTS["tiny"])


def test_a_damaged_base_is_told(runs: Path) -> None:
    (runs / "base" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        CheckpointError, match=r"base cannot be read: .*model.safetensors has 7 bytes, \d+ were written"
    ):
        load_weights(runs / "delta")


def test_a_name_that_is_no_path_has_no_place() -> None:
    recorded = {"name": "aurora-tiny", "file": "a", "sha256": "b"}
    assert with_relative(recorded, Path("anywhere")) == recorded


@torch.no_grad()
def test_the_moved_delta_predicts_what_it_did(made: Path, runs: Path) -> None:
    states = [
        factory.for_prediction(SPEC, load_weights(place / "delta"), autocast=False).state_dict()
        for place in (made, runs)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
