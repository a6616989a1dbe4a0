"""Prefixes: worked out by hand, neutral at the start, and the same with every setting of memory."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from aurora.model.swin3d import WindowAttention

from kit.adapt import trainable
from kit.adapt.prefix import Prefix
from kit.adapt.settings import AdaptSettings
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import Fields
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS
from kit.models.weights.convert import merge_rollout_lora, split_rollout_lora
from kit.planning.simulation import simulated_gpu
from tests.adapt.models import awake_model, equal, predicted, size
from tests.batches import small_spec
from tests.everyday import one_in

MEMORY: dict[str, dict[str, Any]] = {
    "none": {},
    "latitudes": {"latitude_bands": 3},
    "blocks": {"recompute": "blocks", "latitude_bands": 2},
    "bands": {"recompute": "blocks", "window_bands": 2},
    "stages": {"recompute": "blocks", "stages": 1},
    "selective": {"recompute": "selective", "latitude_bands": 2},
    "offload": {"recompute": "blocks", "window_bands": 2, "latitude_bands": 2, "offload": ["inputs"]},
    "upstream": {"recompute": "upstream"},
}
GRADIENT_TOLERANCE = 2e-6
PREFIX = AdaptSettings(method="prefix", tokens=3)


def opened(spec: ModelSpec, *, autocast: bool = False) -> Any:
    """A model whose prefixes are at work."""
    model = awake_model(spec, autocast=autocast)
    trainable.select(model, PREFIX)
    for name, parameter in model.named_parameters():
        if name.endswith("prefix.gate"):
            torch.nn.init.normal_(parameter)
    return model.train()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference relative to the larger of a gradient's own norm and 1e-4 of the global one."""
    assert one.keys() == other.keys()
    floor = 1e-4 * math.sqrt(sum(float(value.square().sum()) for value in other.values()))
    return max(float((one[name] - value).norm()) / max(float(value.norm()), floor) for name, value in other.items())


def run(model: torch.nn.Module, spec: ModelSpec) -> tuple[Fields, dict[str, torch.Tensor]]:
    fields = predicted(model, spec)
    size(fields).backward()  # type: ignore[no-untyped-call]
    return fields, gradients(model)


def test_two_tokens_by_hand() -> None:
    """One head of width 4, q = (2 ln 3, 0, 0, 0), keys (1, 0, 0, 0) and 0: scores ln 3 and 0, weights 3/4 and 1/4."""
    layer = Prefix(heads=1, size=4, tokens=2)
    with torch.no_grad():
        layer.key.zero_()[0, 0, 0] = 1
        layer.value[0] = torch.tensor([[4.0, 0, 8, 0], [0, 4, 8, 0]])
        layer.gate.fill_(math.atanh(0.5))
    qkv = torch.zeros(1, 1, 12)
    qkv[..., 0] = 2 * math.log(3)
    qkv[..., 4:] = 100  # keys and values of the window itself have no part in it
    added = layer(torch.ones(1, 1, 4), qkv)
    torch.testing.assert_close(added, torch.tensor([[[2.5, 1.5, 5, 1]]]))


def test_heads_keep_to_themselves_and_gates_are_theirs() -> None:
    layer = Prefix(heads=2, size=2, tokens=1)
    with torch.no_grad():
        layer.value.copy_(torch.tensor([[[1.0, 2]], [[3, 4]]]))
        layer.gate[1, 0] = math.atanh(0.5)
    # With one token its weight is one, whatever is asked.
    added = layer(torch.zeros(5, 3, 4), torch.randn(5, 3, 12))
    torch.testing.assert_close(added, torch.tensor([0, 0, 1.5, 0]).expand(5, 3, 4))


def test_names_are_upstreams_and_nothing_is_renamed() -> None:
    model = awake_model(small_spec("small"))
    before = list(model.state_dict())
    trainable.select(model, PREFIX)
    attention = [name for name, module in model.named_modules() if isinstance(module, WindowAttention)]
    own = {f"{name}.prefix.{part}" for name in attention for part in ("key", "value", "gate")}
    assert "backbone.encoder_layers.0.blocks.0.attn.prefix.key" in own
    assert {name for name, p in model.named_parameters() if p.requires_grad} == own
    assert [name for name in model.state_dict() if name not in own] == before
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if n.startswith(f"{attention[0]}.prefix")]
    assert shapes == [(2, 3, 16), (2, 3, 16), (2, 16)]


@pytest.mark.parametrize("variant", one_in(4, VARIANTS))
@torch.no_grad()
def test_a_closed_gate_changes_nothing(variant: str) -> None:
    spec = small_spec(variant)
    model = awake_model(spec)
    before = predicted(model, spec)
    trainable.select(model, PREFIX)
    assert equal(predicted(model, spec), before)
    engine.install(model, MemorySettings(latitude_bands=2, window_bands=2))
    assert equal(predicted(model, spec), before)


@torch.no_grad()
def test_a_closed_gate_changes_nothing_in_bf16() -> None:
    spec = small_spec("small")
    model = awake_model(spec, autocast=True)
    before = predicted(model, spec)
    trainable.select(model, PREFIX)
    assert equal(predicted(model, spec), before)


@pytest.mark.parametrize("settings", one_in(2, MEMORY.values(), MEMORY))
def test_memory_settings_give_the_same(settings: dict[str, Any]) -> None:
    spec = small_spec("small")
    fields, expected = run(opened(spec), spec)
    model = opened(spec)
    engine.install(model, MemorySettings.model_validate(settings))
    own, found = run(model, spec)
    assert equal(own, fields)
    assert len(found) == 3 * 8
    assert distance(found, expected) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("settings", ({"recompute": "blocks", "window_bands": 2}, {"recompute": "selective"}))
def test_memory_settings_give_the_same_in_bf16(settings: dict[str, Any]) -> None:
    spec = small_spec("small")
    _, exact = run(opened(spec), spec)
    fields, theirs = run(opened(spec, autocast=True), spec)
    model = opened(spec, autocast=True)
    engine.install(model, MemorySettings.model_validate(settings))
    own, found = run(model, spec)
    assert equal(own, fields)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert distance(found, exact) < 1.2 * distance(theirs, exact)


def test_rounded_inputs_give_nearly_the_same() -> None:
    spec = small_spec("small")
    _, expected = run(opened(spec), spec)
    model = opened(spec)
    engine.install(model, MemorySettings(recompute="blocks", window_bands=2, saved_inputs="bf16"))
    _, found = run(model, spec)
    assert 0 < distance(found, expected) < 2e-2


def test_upstreams_roll_out_lora_is_part_of_both_products() -> None:
    """Where it is kept, it is part of a window's ``qkv`` and ``proj``; merged into them it gives the same."""
    kept = small_spec("hres-finetuned", rollout_lora="kept")
    found = []
    for settings in ({}, {"recompute": "selective"}):
        model = opened(kept)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        state = model.state_dict()
        engine.install(model, MemorySettings.model_validate(settings))
        with torch.no_grad():
            found.append(predicted(model, kept))
    assert equal(*found)
    merged = opened(small_spec("hres-finetuned"))
    loras, others = split_rollout_lora(state)
    merged.load_state_dict(others)
    merge_rollout_lora(merged, loras)
    with torch.no_grad():
        for name, value in predicted(merged, kept).atmospheric.items():
            torch.testing.assert_close(found[0].atmospheric[name], value, rtol=1e-4, atol=1e-4)


def test_keys_and_values_wait_for_the_gate() -> None:
    """A closed gate lets no gradient through to them: exactly zero at the first step, and at no later one."""
    spec = small_spec("small")
    model = awake_model(spec)
    trainable.select(model, PREFIX)
    trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(list(trains.values()), lr=1e-2, weight_decay=0)
    _, first = run(model.train(), spec)
    assert first.keys() == trains.keys()
    assert {name for name, value in first.items() if value.any()} == {n for n in trains if n.endswith("gate")}
    optimizer.step()
    optimizer.zero_grad()
    _, second = run(model, spec)
    assert all(value.any() for value in second.values())


@pytest.mark.parametrize("recompute", ("none", "upstream", "blocks"))
def test_nothing_is_left_behind(recompute: str) -> None:
    """No hook and no tensor, although recomputation leaves calls as soon as it has what it needs."""
    spec = small_spec("small")
    model = opened(spec)
    engine.install(model, MemorySettings.model_validate({"recompute": recompute}))
    run(model, spec)
    for module in model.backbone.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    layer = model.backbone.encoder_layers[0].blocks[0].attn
    assert set(vars(layer.forward)) == {"_attn", "_forward"}
    assert not [value for value in vars(layer.prefix).values() if isinstance(value, torch.Tensor)]


def test_hooks_go_even_when_a_call_fails() -> None:
    model = opened(small_spec("small"))
    layer = model.backbone.encoder_layers[0].blocks[0].attn
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 4, 7))
    assert not layer.qkv._forward_hooks
    assert not layer.proj._forward_pre_hooks


@torch.no_grad()
def test_a_copy_has_prefixes_of_its_own() -> None:
    spec = small_spec("small")
    model = opened(spec).eval()
    copied = copy.deepcopy(model)
    before = predicted(model, spec)
    assert equal(predicted(copied, spec), before)
    for name, parameter in copied.named_parameters():
        if name.endswith("prefix.gate"):
            parameter.zero_()
    assert equal(predicted(model, spec), before)
    assert not equal(predicted(copied, spec), before)


@pytest.mark.parametrize("recompute", one_in(2, ("none", "blocks")))
def test_a_step_can_be_planned_on_fake_tensors(recompute: str) -> None:
    spec = small_spec("small")
    with simulated_gpu():
        model = opened(spec)
        engine.install(model, MemorySettings.model_validate({"recompute": recompute}))
        _, planned = run(model, spec)
    _, found = run(opened(spec), spec)
    assert {n: (v.shape, v.dtype) for n, v in planned.items()} == {n: (v.shape, v.dtype) for n, v in found.items()}
