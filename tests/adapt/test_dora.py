"""DoRA: a neutral start, in any precision, PEFT's formula, and weights that hold it when it is merged."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kit.adapt import lora, trainable
from kit.adapt.lora import import_packages
from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError
from kit.models.space import Fields
from kit.models.variants import VARIANTS
from tests.adapt.models import assert_planned, awake_model, equal, predicted, size
from tests.batches import small_spec
from tests.everyday import one_in

UPSTREAM = [name for name in VARIANTS if name != "tiny"]
DORA = AdaptSettings(method="dora", rank=4)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    import_packages("dora")


def layer(*, width: int = 6, height: int = 5, rank: int = 2, bias: bool = True) -> Any:
    """A linear layer with DoRA beside it, all of whose parts are drawn."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(width, height, bias=bias))
    lora.attach(model, AdaptSettings(method="dora", rank=rank, targets=("0",)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def close(one: Fields, other: Fields, tolerance: float) -> None:
    for name, value in (one.surface | one.atmospheric).items():
        torch.testing.assert_close((other.surface | other.atmospheric)[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", one_in(4, UPSTREAM))
def test_it_changes_nothing_at_first(variant: str) -> None:
    spec = small_spec(variant)
    model = awake_model(spec)
    with torch.no_grad():
        before = predicted(model, spec)
        parameters = trainable.select(model, DORA).parameters
        close(before, predicted(model, spec), 1e-6)
    # Three beside each of four layers in two stages of two blocks on each side.
    assert len(parameters) == 2 * 4 * 4 * 3
    assert {name for name, p in model.named_parameters() if p.requires_grad} == parameters.keys()


@pytest.mark.parametrize("frozen", (torch.float32, torch.bfloat16))
def test_it_changes_nothing_at_first_in_half_precision(frozen: torch.dtype) -> None:
    """Lengths in bf16, as PEFT takes them under autocast, would be off by up to one part in 256."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96))
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        lora.attach(model, AdaptSettings(method="dora", targets=("0",)))
        model.get_parameter("0.base_layer.weight").data = model.get_parameter("0.base_layer.weight").to(frozen)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("bias", (True, False))
def test_it_is_pefts_formula_and_so_are_its_gradients(bias: bool) -> None:
    from peft.tuners.lora.dora import DoraLinearLayer

    model = layer(bias=bias)
    own, x = model[0], torch.randn(3, 6, requires_grad=True)
    pefts = copy.deepcopy(model)
    magnitude = DoraLinearLayer(fan_in_fan_out=False)  # type: ignore[no-untyped-call]
    magnitude.weight = torch.nn.Parameter(own.lora_magnitude_vector["default"].weight.detach().clone())
    pefts[0].lora_magnitude_vector["default"] = magnitude
    other = x.detach().clone().requires_grad_()
    torch.testing.assert_close(model(x), pefts(other), rtol=1e-5, atol=1e-6)
    for adapted, given in ((model, x), (pefts, other)):
        adapted(given).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    expected = {name: p.grad for name, p in pefts.named_parameters() if p.requires_grad}
    assert len(expected) == 3
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_lengths_by_hand() -> None:
    """W = (3, 4) with length 5; B A = (0, 8) at scale 1: (3, 12) with length sqrt(153); m = 10."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    model.get_parameter("0.weight").data = torch.tensor([[3.0, 4.0]])
    lora.attach(model, AdaptSettings(method="dora", rank=1, alpha=1, targets=("0",)))
    magnitude = model.get_parameter("0.lora_magnitude_vector.default.weight")
    assert magnitude.tolist() == [5]
    magnitude.data = torch.tensor([10.0])
    model.get_parameter("0.lora_A.default.weight").data = torch.tensor([[0.0, 2.0]])
    model.get_parameter("0.lora_B.default.weight").data = torch.tensor([[4.0]])
    expected = torch.tensor([30.0, 120.0]) / 153**0.5
    torch.testing.assert_close(model(torch.eye(2)).flatten(), expected)
    merged = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    merged.get_parameter("0.weight").data = torch.tensor([[3.0, 4.0]])
    trainable.merge_adapters(merged, AdaptSettings(method="dora", rank=1, alpha=1), lora.tensors(model))
    torch.testing.assert_close(merged.get_parameter("0.weight").flatten(), expected)


def trained(steps: int = 2) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model that DoRA has trained, and its adapters."""
    spec = small_spec("small")
    model = awake_model(spec)
    parameters = trainable.select(model, DORA).parameters
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-2)
    for _ in range(steps):
        size(predicted(model, spec)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == parameters.keys()
    return model, {name: value.clone() for name, value in trainable.tensors(model, DORA).items()}


@torch.no_grad()
def test_what_trained_is_merged_loaded_again_and_loaded_by_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    spec = small_spec("small")
    with torch.enable_grad():
        model, saved = trained()
    expected = predicted(model, spec)
    whole = awake_model(spec)
    assert not equal(expected, predicted(whole, spec))
    trainable.merge(whole, DORA, saved)
    close(expected, predicted(whole, spec), 1e-5)

    again = awake_model(spec)
    trainable.select(again, DORA)
    trainable.load(again, DORA, saved)
    assert equal(expected, predicted(again, spec))

    save_file(saved, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = trainable.adapter_config(model, DORA)
    assert config is not None
    assert config["use_dora"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    loaded = PeftModel.from_pretrained(awake_model(spec), str(tmp_path)).eval().get_base_model()
    close(expected, predicted(loaded, spec), 1e-5)


def test_a_step_can_be_planned_on_fake_tensors() -> None:
    def step() -> tuple[torch.nn.Module, torch.Tensor]:
        model = layer()
        with torch.autocast("cpu", torch.bfloat16):
            y = torch.utils.checkpoint.checkpoint(model, torch.randn(4, 6), use_reentrant=False)
        y.sum().backward()
        return model, y

    assert_planned(step)


def test_one_tensor_of_the_outputs_size_is_kept() -> None:
    model = layer(width=4, height=50)
    kept: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.randn(7, 4))
    assert kept.count(torch.Size((7, 50))) == 1


def test_rows_of_zeros_have_no_direction() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.nn.init.zeros_(model.get_parameter("0.weight")[1:])
    with pytest.raises(SettingsError, match="2 of 3 rows of 0 are zero, .*adapt.targets, or use --adapt.method lora"):
        lora.attach(model, AdaptSettings(method="dora", rank=1, targets=("0",)))
