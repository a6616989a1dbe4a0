"""LoRA: what it adds, what it leaves alone, and the files that it is kept in."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora import Aurora
from safetensors.torch import save_file

from kit.adapt import lora, trainable
from kit.adapt.settings import AdaptSettings
from kit.bench.exactness import distance
from kit.io.errors import CheckpointError, SettingsError
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.variants import VARIANTS
from tests.adapt.models import awake_model, equal, predicted, size
from tests.batches import small_spec
from tests.everyday import one_in

UPSTREAM = [name for name in VARIANTS if name != "tiny"]
LORA = AdaptSettings(method="lora", rank=4)


def adapted(variant: str = "small", settings: AdaptSettings = LORA) -> tuple[Aurora, dict[str, torch.nn.Parameter]]:
    model = awake_model(small_spec(variant))
    return model, trainable.select(model, settings).parameters


def train(model: Aurora, parameters: dict[str, torch.nn.Parameter], variant: str = "small", steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-2)
    for _ in range(steps):
        loss = size(predicted(model, small_spec(variant, rollout_lora=kept(variant))))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def kept(variant: str) -> Any:
    """Keep upstream's roll-out LoRA, where there is one."""
    return "kept" if VARIANTS[variant].has_rollout_lora else None


@pytest.mark.parametrize("variant", one_in(4, UPSTREAM))
def test_an_adapter_changes_nothing_at_first_and_trains_alone(variant: str) -> None:
    spec = small_spec(variant, rollout_lora=kept(variant))
    model = awake_model(spec)
    names = dict(model.named_parameters()).keys()
    with torch.no_grad():
        before = predicted(model, spec)
        parameters = trainable.select(model, LORA).parameters
        assert equal(before, predicted(model, spec))
    # Two stages of two blocks on each side, four layers in each, two matrices beside each layer.
    assert len(parameters) == 2 * 4 * 4 * 2
    assert all(name.startswith("backbone.") and ".loras." not in name for name in parameters)
    assert {name.split(".")[-4] for name in parameters} == {"qkv", "proj", "fc1", "fc2"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == parameters.keys()
    # Upstream's names stay, but for the part that says which of two layers is upstream's.
    rest = dict(model.named_parameters()).keys() - parameters.keys()
    assert {name.replace(".base_layer", "") for name in rest} == names
    assert next(model.parameters()).dtype is torch.float32


def test_parameters_are_counted_by_hand() -> None:
    """Width 32: qkv 32 + 96, proj 32 + 32, fc1 and fc2 32 + 128 each, in four blocks; width 64: twice that; rank 4."""
    model, _ = adapted()
    narrow = 4 * ((32 + 96) + (32 + 32) + 2 * (32 + 128))
    assert trainable.count(model)[0] == 4 * narrow + 4 * 2 * narrow


@pytest.mark.parametrize("variant", ("small", "wave"))
def test_training_moves_every_adapter_and_nothing_else(variant: str) -> None:
    model = awake_model(small_spec(variant, rollout_lora=kept(variant)))
    parameters = trainable.select(model, LORA).parameters
    before = copy.deepcopy(model.state_dict())
    train(model, parameters, variant)
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert before.keys() - same == parameters.keys()
    assert variant != "wave" or any(".loras." in name for name in same)


def test_adapters_are_drawn_anew_from_the_seed() -> None:
    one, other = (trainable.tensors(adapted()[0], LORA) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(value.any() == ("lora_A" in name) for name, value in one.items())


def test_peft_itself_loads_what_is_kept(tmp_path: Path) -> None:
    from peft import PeftModel

    spec = small_spec("small")
    model, parameters = adapted()
    train(model, parameters)
    save_file(trainable.tensors(model, LORA), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = trainable.adapter_config(model, LORA)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    loaded = PeftModel.from_pretrained(awake_model(spec), str(tmp_path))
    with torch.no_grad():
        assert equal(predicted(model, spec), predicted(loaded.eval().get_base_model(), spec))
    assert config is not None
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8, ["fc1", "fc2", "proj", "qkv"])


def test_what_is_kept_is_loaded_again() -> None:
    model, parameters = adapted()
    train(model, parameters)
    saved = {name: value.clone() for name, value in trainable.tensors(model, LORA).items()}
    other, _ = adapted()
    assert not all(torch.equal(value, saved[name]) for name, value in trainable.tensors(other, LORA).items())
    trainable.load(other, LORA, saved)
    with torch.no_grad():
        assert equal(predicted(model, small_spec("small")), predicted(other, small_spec("small")))


def test_what_trained_beside_an_adapter_is_kept_under_upstreams_name() -> None:
    bias = "decoder.surf_heads.2t.bias"
    model, other = (awake_model(small_spec("small")) for _ in range(2))
    for each in (model, other):
        assert trainable.select(each, LORA, new={bias}).new == {bias}
    torch.nn.init.ones_(model.get_parameter(bias))
    saved = trainable.tensors(model, LORA)
    assert [name for name in saved if not name.startswith("base_model.model.")] == [bias]
    trainable.load(other, LORA, saved)
    assert other.get_parameter(bias).eq(1).all()


def test_adapters_of_another_rank_are_not_loaded() -> None:
    model, _ = adapted(settings=AdaptSettings(method="lora", rank=2))
    saved = trainable.tensors(adapted()[0], LORA)
    with pytest.raises(CheckpointError, match=r"64 tensors differ; of .*proj.lora_A.weight .* \(2, 64\), .* \(4, 64\)"):
        lora.load(model, saved)


def test_merging_by_hand() -> None:
    """W = 1, A = [[3, 4]], B = [[1], [2]], alpha = 2 at rank 1: W + 2 B A."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.nn.init.ones_(model.get_parameter("0.weight"))
    saved = {
        "base_model.model.0.lora_A.weight": torch.tensor([[3.0, 4.0]]),
        "base_model.model.0.lora_B.weight": torch.tensor([[1.0], [2.0]]),
    }
    trainable.merge_adapters(model, AdaptSettings(method="lora", rank=1), saved)
    assert model.get_parameter("0.weight").tolist() == [[7, 9], [13, 17]]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    (
        (("attn.qkv",), {"qkv"}),
        (("fc*",), {"fc1", "fc2"}),
        (("backbone.*.proj", "qkv"), {"proj", "qkv"}),
        (("encoder.level_agg.*.to_q",), {"to_q"}),
    ),
)
def test_targets_are_the_ends_of_names(chosen: tuple[str, ...], expected: set[str]) -> None:
    found = lora.matching(awake_model(small_spec("small")), chosen)
    assert {name.split(".")[-1] for name in found} == expected


@pytest.mark.parametrize(
    ("target", "message"),
    (
        ("qvk", r"'qvk' is the end of no linear layer's name; did you mean qkv"),
        ("attn.prj", "did you mean attn.proj"),
        ("lora_qkv", "did you mean .*qkv"),
        ("xyzzy", "there are 0, 2, pos_embed"),
    ),
)
def test_a_target_that_selects_nothing_names_what_is_near(target: str, message: str) -> None:
    model = awake_model(small_spec("hres-finetuned", rollout_lora="kept"))
    with pytest.raises(SettingsError, match=message):
        lora.attach(model, AdaptSettings(method="lora", targets=("qkv", target)))
    assert not any("lora_A.default" in name for name, _ in model.named_parameters())


def test_a_rank_above_a_layers_width_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"expected at most 32, the width of backbone.*qkv \(32 to 96\), got 33"):
        lora.attach(awake_model(small_spec("small")), AdaptSettings(method="lora", rank=33))


@pytest.mark.parametrize("method", one_in(3, ("lora", "dora", "adalora")))
def test_bands_and_recomputation_change_no_gradient(method: str) -> None:
    spec = small_spec("small")
    settings = AdaptSettings.model_validate({"method": method, "targets": ("*",)})
    found = []
    for memory in ({}, {"recompute": "blocks", "latitude_bands": 2, "window_bands": 2}):
        model = awake_model(spec)
        parameters = trainable.select(model, settings, steps=10).parameters
        torch.manual_seed(0)
        for parameter in parameters.values():
            torch.nn.init.normal_(parameter, std=0.1)
        engine.install(model, MemorySettings.model_validate(memory))
        size(predicted(model, spec)).backward()  # type: ignore[no-untyped-call]
        found.append({name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None})
        assert found[-1].keys() == parameters.keys()
    assert distance(found[0], found[1]) < 2e-6


@pytest.mark.parametrize("method", ("lora", "dora", "adalora"))
def test_layers_of_new_variables_train_themselves(method: str) -> None:
    head = "decoder.surf_heads.2t"
    spec, settings = small_spec("small"), AdaptSettings.model_validate({"method": method, "targets": ("*",)})
    model, whole = awake_model(spec), awake_model(spec)
    trained = trainable.select(model, settings, new={f"{head}.weight", f"{head}.bias"})
    assert {name for name in trained.parameters if head in name} == trained.new == {f"{head}.weight", f"{head}.bias"}
    assert any("surf_heads.msl" in name for name in trained.parameters)
    for parameter in trained.parameters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    trainable.merge(whole, settings, trainable.tensors(model, settings))
    with torch.no_grad():
        one, other = (predicted(each, spec).surface["2t"] for each in (model, whole))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
