"""Adapters in checkpoints: loaded, gone on with, merged, and refused on other weights than their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora import Aurora

from kit.adapt import factory, trainable
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.io.errors import CheckpointError, SettingsError
from kit.models.space import Fields
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights, load
from tests.adapt.models import awake_model, equal, predicted
from tests.batches import small_spec
from tests.everyday import one_in

SPEC = small_spec("small")
FULL = AdaptSettings()
LORA = AdaptSettings(method="lora", rank=4)
QLORA = AdaptSettings(method="qlora", rank=4)
BESIDE = (
    AdaptSettings(method="prefix", tokens=3),
    AdaptSettings(method="prompt"),
    AdaptSettings(method="prompt", coarse="3x5"),
)
"""What is added where upstream has nothing."""


def load_weights(folder: Path) -> Weights:
    found = load(str(folder), VARIANTS["small"])
    assert found is not None
    return found


def described(**more: Any) -> dict[str, Any]:
    return {"kit_version": "0", "model": SPEC.as_dict(), "lineage": [], **more}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of a whole model."""
    write_checkpoint(tmp_path / "base", awake_model(SPEC).state_dict(), described())
    return tmp_path / "base"


def trained(base: Path, settings: AdaptSettings) -> tuple[Aurora, Path]:
    """A model whose adapters are no longer zero, and the checkpoint of it."""
    weights = load_weights(base)
    model, what = factory.for_training(SPEC, weights, settings, autocast=False)
    for parameter in what.parameters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = base.with_name(settings.method + (f"{settings.rank}" if base.name != "base" else ""))
    adapter = {"settings": settings.resolved().model_dump(mode="json"), "base": factory.base_of(weights, settings)}
    tensors, config = trainable.tensors(model, settings), trainable.adapter_config(model, settings)
    write_checkpoint(folder, tensors, described(adapter=adapter), adapter_config=config)
    return model.eval(), folder


@torch.no_grad()
def fields(model: Aurora) -> Fields:
    return predicted(model.eval(), SPEC)


@pytest.mark.parametrize("settings", (LORA, QLORA))
def test_a_loaded_adapter_predicts_what_it_did_in_training(base: Path, settings: AdaptSettings) -> None:
    model, folder = trained(base, settings)
    files = {"adapter_config.json", "adapter_model.safetensors", "kit.json"}
    assert {path.name for path in folder.iterdir()} == files
    loaded = factory.for_prediction(SPEC, load_weights(folder), autocast=False)
    assert equal(fields(model), fields(loaded))
    assert not equal(fields(model), fields(factory.for_prediction(SPEC, load_weights(base), autocast=False)))


@pytest.mark.parametrize("settings", (LORA, QLORA))
def test_the_same_settings_go_on_with_the_adapter(base: Path, settings: AdaptSettings) -> None:
    model, folder = trained(base, settings)
    weights = load_weights(folder)
    on, what = factory.for_training(SPEC, weights, settings, autocast=False)
    assert equal(fields(model), fields(on))
    assert set(what.parameters) == {name for name, p in model.named_parameters() if p.requires_grad}
    # It still belongs to the weights at the bottom.
    assert factory.base_of(weights, settings)["name"] == str(base)


@pytest.mark.parametrize("settings", one_in(2, BESIDE))
def test_what_is_added_beside_upstreams_weights_is_saved_alone_and_gone_on_with(
    base: Path, settings: AdaptSettings
) -> None:
    model, folder = trained(base, settings)
    assert {path.name for path in folder.iterdir()} == {"trained.safetensors", "kit.json"}
    weights = load_weights(folder)
    assert all(".prefix." in name or ".prompt." in name for name in weights.state)
    assert equal(fields(model), fields(factory.for_prediction(SPEC, weights, autocast=False)))
    assert not equal(fields(model), fields(factory.for_prediction(SPEC, load_weights(base), autocast=False)))
    on, what = factory.for_training(SPEC, weights, settings, autocast=False)
    assert equal(fields(model), fields(on))
    assert what.parameters.keys() == weights.state.keys()
    assert factory.base_of(weights, settings)["name"] == str(base)


@pytest.mark.parametrize("settings", one_in(2, BESIDE))
def test_what_is_added_beside_upstreams_weights_cannot_be_merged(base: Path, settings: AdaptSettings) -> None:
    _, folder = trained(base, settings)
    same = {"prefix": "prefix --adapt.tokens 3", "prompt": "prompt( --adapt.coarse 3x5)?"}[settings.method]
    message = f"what adapt.method {settings.method} trained cannot be merged .* Go on with --adapt.method {same}, or"
    others: tuple[dict[str, Any], ...] = ({}, {"method": "lora"}, {"method": "prefix", "tokens": 4})
    for other in others:
        with pytest.raises(CheckpointError, match=message):
            factory.for_training(SPEC, load_weights(folder), AdaptSettings(**other), autocast=False)


def test_it_may_start_from_an_adapter(base: Path) -> None:
    """Which is merged, as for any other stage."""
    model, folder = trained(base, LORA)
    expected = fields(model)
    on, _ = factory.for_training(SPEC, load_weights(folder), BESIDE[0], autocast=False)
    for name, value in fields(on).atmospheric.items():
        torch.testing.assert_close(value, expected.atmospheric[name], rtol=1e-5, atol=1e-5)


def test_other_settings_start_from_the_merged_weights(base: Path) -> None:
    model, folder = trained(base, LORA)
    expected = fields(model)
    for settings in (FULL, AdaptSettings(method="lora", rank=2)):
        merged, what = factory.for_training(SPEC, load_weights(folder), settings, autocast=False)
        got = fields(merged)
        for name, value in expected.atmospheric.items():
            torch.testing.assert_close(got.atmospheric[name], value, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in what.parameters.values()) == trainable.count(model)[0] // 2
    assert factory.base_of(load_weights(folder), settings) == {**load_weights(folder).base, "name": str(folder)}


def test_an_adapter_that_was_trained_in_nf4_is_merged_into_what_nf4_was_made_from(base: Path) -> None:
    _, folder = trained(base, QLORA)
    merged, _ = factory.for_training(SPEC, load_weights(folder), FULL, autocast=False)
    saved = open_checkpoint(folder).tensors()
    name = "backbone.encoder_layers.0.blocks.0.mlp.fc1"
    a, b = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    whole = open_checkpoint(base).tensors()[f"{name}.weight"]
    torch.testing.assert_close(merged.get_parameter(f"{name}.weight").detach(), whole + 2 * b @ a)


def test_an_adapter_on_an_adapter(base: Path) -> None:
    _, first = trained(base, LORA)
    model, second = trained(first, AdaptSettings(method="lora", rank=2))
    assert equal(fields(model), fields(factory.for_prediction(SPEC, load_weights(second), autocast=False)))
    # The file of an adapter stands for its folder.
    assert load_weights(second / "adapter_model.safetensors").state.keys() == load_weights(second).state.keys()


def test_other_base_weights_are_refused(base: Path) -> None:
    _, folder = trained(base, LORA)
    expected = load_weights(base).base["sha256"]
    write_checkpoint(base, awake_model(SPEC, seed=1).state_dict(), described())
    got = load_weights(base).base["sha256"]
    with pytest.raises(CheckpointError, match=rf"SHA-256 {expected}\), which are not there: .* with SHA-256 {got}"):
        load_weights(folder)


def test_an_adapter_without_a_description_is_refused(base: Path) -> None:
    _, folder = trained(base, LORA)
    (folder / "kit.json").unlink()
    with pytest.raises(CheckpointError, match=r"without the kit.json that names the weights it belongs to"):
        load_weights(folder)


def test_a_damaged_adapter_is_one_clear_error(base: Path) -> None:
    _, folder = trained(base, LORA)
    (folder / "adapter_model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match=r"is not what its kit.json says: adapter_model.safetensors has 21 bytes"):
        load_weights(folder)


def test_an_adapter_cannot_be_used_without_its_package(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = trained(base, LORA)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError, match=r"aurora-finetune-kit\[peft\]"):
        factory.for_prediction(SPEC, load_weights(folder), autocast=False)
    # Merging needs none.
    factory.for_training(SPEC, load_weights(folder), FULL, autocast=False)


def test_random_weights_may_get_adapters() -> None:
    model, what = factory.for_training(SPEC, None, LORA, autocast=False)
    assert trainable.count(model)[0] == sum(p.numel() for p in what.parameters.values())
