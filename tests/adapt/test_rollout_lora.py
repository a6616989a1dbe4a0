"""Upstream's roll-out LoRA as a method: fresh or the weights' own, kept as a delta, merged where that is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora import Aurora
from safetensors.torch import save_file

from kit.adapt import factory, trainable
from kit.adapt.rollout_lora import mode_of, spec_for
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import write_checkpoint
from kit.io.errors import SettingsError
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights, load
from tests.adapt.models import awake_model, equal, predicted, size
from tests.adapt.test_dora import close
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

UPSTREAM = [name for name in VARIANTS if name != "tiny"]
FULL = AdaptSettings()


def settings(mode: Any = None) -> AdaptSettings:
    return AdaptSettings(method="rollout-lora", mode=mode)


def loras(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if ".loras." in name}


def read(path: Path, variant: str = "small") -> Weights:
    found = load(str(path), VARIANTS[variant])
    assert found is not None
    return found


@torch.no_grad()
def fields(model: Aurora, spec: ModelSpec, *, step: int = 0) -> Fields:
    """Predictions of a step of a roll-out, counted from 0."""
    # PyTorch folds products with a parameter that trains in another way, which changes last bits.
    model.requires_grad_(False).eval()
    space = TrainingSpace(model, spec)
    batch = synthetic_batch(spec)
    torch.manual_seed(0)
    metadata = replace(batch.metadata, rollout_step=step)
    return space.predict_fields(space.inputs(replace(batch, metadata=metadata)))


@pytest.mark.parametrize("variant", one_in(4, UPSTREAM))
def test_a_fresh_one_changes_nothing_at_first_and_trains_alone(variant: str) -> None:
    plain = small_spec(variant)
    before = awake_model(plain)
    spec = spec_for(plain, None, settings(), [1])
    model = spec.build().eval()
    model.load_state_dict(before.state_dict(), strict=False)
    parameters = trainable.select(model, settings()).parameters
    with torch.no_grad():
        assert equal(predicted(before, plain), predicted(model, spec))
    # A and B beside qkv and proj of the two blocks in two stages on each side.
    assert len(parameters) == 2 * 2 * 2 * 4
    assert all(".loras.0.lora_" in name for name in parameters)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == parameters.keys()


@pytest.mark.parametrize(("mode", "steps", "graded"), (("single", 1, [1]), ("from_second", 2, [2]), ("all", 2, [1, 2])))
def test_every_parameter_has_a_gradient_and_the_last_moves_what_it_is_for(
    mode: str, steps: int, graded: list[int]
) -> None:
    spec = spec_for(small_spec("small"), None, settings(mode), graded)
    model = awake_model(spec)
    parameters = trainable.select(model, settings(mode)).parameters
    assert {int(name.split(".loras.")[1].split(".")[0]) for name in parameters} == set(range(2 if mode == "all" else 1))
    space = TrainingSpace(model, spec)
    state = synthetic_batch(spec)
    for step in range(1, steps + 1):
        with torch.set_grad_enabled(step in graded):
            found, prediction = space.step(space.inputs(state))
        if step in graded:
            size(found).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            state = space.advance(state, prediction)
    # At first those of A are zero, because B is.
    assert all(p.grad is not None and bool(p.grad.any()) == ("lora_B" in name) for name, p in parameters.items())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A checkpoint of a whole model without a roll-out LoRA."""
    spec = small_spec("small")
    write_checkpoint(tmp_path / "base", awake_model(spec).state_dict(), {"model": spec.as_dict(), "lineage": []})
    return tmp_path / "base"


def trained(path: Path, mode: Any = None, graded: Any = (1,), variant: str = "small") -> tuple[Aurora, ModelSpec, Path]:
    """A model whose roll-out LoRA is no longer zero, and the checkpoint of it."""
    weights, given = read(path, variant), settings(mode)
    spec = spec_for(weights.spec or small_spec(variant), weights, given, graded)
    model, what = factory.for_training(spec, weights, given, autocast=False, steps=1)
    generator = torch.Generator().manual_seed(3)
    for parameter in what.parameters.values():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    folder = path.with_name(f"{path.stem}-then-lora")
    own = {**given.resolved().model_dump(mode="json"), "mode": mode_of(spec)}
    description = {"model": spec.as_dict(), "lineage": [], "adapter": {"settings": own}}
    description["adapter"]["base"] = factory.base_of(weights, given)  # type: ignore[index]
    write_checkpoint(folder, trainable.tensors(model, given), description)
    return model, spec, folder


def next_stage(folder: Path, given: AdaptSettings, variant: str = "small") -> tuple[Aurora, ModelSpec]:
    weights = read(folder, variant)
    assert weights.spec is not None
    spec = spec_for(weights.spec, weights, given, [1, 2] if given.mode == "all" else [2])
    return factory.for_training(spec, weights, given, autocast=False, steps=1)[0], spec


@pytest.mark.parametrize(("mode", "graded"), one_in(3, ((None, (1,)), ("from_second", (2,)), ("all", (1, 2)))))
def test_a_checkpoint_holds_it_alone_and_is_loaded_again(base: Path, mode: Any, graded: Any) -> None:
    model, spec, folder = trained(base, mode, graded)
    assert {path.name for path in folder.iterdir()} == {"kit.json", "trained.safetensors"}
    weights = read(folder)
    assert weights.state.keys() == loras(dict(model.state_dict())).keys()
    loaded = factory.for_prediction(spec, weights, autocast=False)
    # Without a mode it goes on with the weights' own; the roll-out has to fit it.
    gone_on, _ = next_stage(folder, settings(mode))
    for again in (loaded, gone_on):
        for step in (0, 1):
            assert equal(fields(model, spec, step=step), fields(again, spec, step=step))
    plain = factory.for_prediction(small_spec("small"), read(base), autocast=False)
    acts = [not equal(fields(model, spec, step=step), fields(plain, small_spec("small"))) for step in (0, 1)]
    assert acts == [mode != "from_second", True]


def test_another_method_starts_from_the_merged_weights(base: Path) -> None:
    model, spec, folder = trained(base)
    for given in (FULL, AdaptSettings(method="freeze", train_only=("backbone",))):
        merged, own = next_stage(folder, given)
        assert own.rollout_lora == "merged"
        assert not loras(dict(merged.state_dict()))
        for step in (0, 1):
            close(fields(model, spec, step=step), fields(merged, own), 1e-5)


@pytest.mark.parametrize(("mode", "graded"), (("from_second", (2,)), ("all", (1, 2))))
def test_one_that_cannot_be_merged_is_kept(base: Path, mode: Any, graded: Any) -> None:
    model, spec, folder = trained(base, mode, graded)
    later, own = next_stage(folder, FULL)
    assert own.rollout_lora == "kept"
    assert not any(p.requires_grad for name, p in later.named_parameters() if ".loras." in name)
    for step in (0, 1):
        assert equal(fields(model, spec, step=step), fields(later, own, step=step))


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """Weights in upstream's form with a roll-out LoRA that does something."""
    model = awake_model(small_spec("hres-finetuned", rollout_lora="kept"))
    for name, parameter in model.named_parameters():
        if ".loras." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_file(dict(model.state_dict()), tmp_path / "upstream.safetensors")
    return tmp_path / "upstream.safetensors"


def test_it_goes_on_with_the_weights_own_and_takes_its_place(upstream: Path) -> None:
    variant = "hres-finetuned"
    weights = read(upstream, variant)
    spec = spec_for(small_spec(variant), weights, settings(), [1])
    start, _ = factory.for_training(spec, weights, settings(), autocast=False, steps=1)
    own = loras(weights.state)
    assert own
    assert all(torch.equal(start.state_dict()[name], value) for name, value in own.items())
    # A later stage merges what it has become, and not what it was as well.
    model, spec, folder = trained(upstream, variant=variant)
    merged, later = next_stage(folder, FULL, variant)
    close(fields(model, spec), fields(merged, later), 1e-5)


@pytest.mark.parametrize(
    ("variant", "mode", "graded", "merge", "message"),
    (
        ("small", "from_second", [1], False, r"rollout.steps is 1: there would be nothing to train; use --rollout.st"),
        ("small", "all", [1], False, r"adapt.mode all is a LoRA of its own for each step, and rollout.steps is 1"),
        ("small", "from_second", [1, 2], False, r"the first step, .* has none; use --rollout.graded last"),
        ("small", "all", [3], False, r"train that of the last step alone; use --rollout.graded all"),
        ("wave", None, [1], False, r"adapt.mode from_second .* rollout.steps is 1"),
        ("wave", "single", [1], False, r"have a roll-out LoRA in mode from_second.* use --adapt.mode from_second"),
        ("hres-finetuned", None, [1], True, r"model.rollout_lora merge and adapt.method rollout-lora exclude each"),
    ),
)
def test_what_would_not_train_is_refused(variant: str, mode: Any, graded: list[int], merge: bool, message: str) -> None:
    weights = Weights(state={}, base={"name": "upstream's"})
    with pytest.raises(SettingsError, match=message):
        spec_for(small_spec(variant), weights, settings(mode), graded, merge=merge)


def test_its_steps_are_the_weights(base: Path) -> None:
    _, _, folder = trained(base, "all", (1, 2))
    weights = read(folder)
    assert weights.spec is not None
    with pytest.raises(
        SettingsError, match=r"the weights have it for 2 steps, rollout.steps is 3; use --rollout.steps 2"
    ):
        spec_for(weights.spec, weights, settings(), [1, 2, 3])


def test_its_rank_is_upstreams() -> None:
    with pytest.raises(ValueError, match=r"adapt.rank would have no effect: adapt.method is rollout-lora"):
        AdaptSettings(method="rollout-lora", rank=4)


def test_one_that_was_merged_long_ago_stays_so_beside_a_new_one(base: Path) -> None:
    model, spec, first = trained(base)
    expected = fields(model, spec)
    heads = AdaptSettings(method="head")
    weights = read(first)
    second = first.with_name("second")
    between, merged = next_stage(first, heads)
    adapter = {"settings": heads.model_dump(mode="json"), "base": factory.base_of(weights, heads)}
    description = {"model": merged.as_dict(), "lineage": [], "adapter": adapter}
    write_checkpoint(second, trainable.tensors(between, heads), description)
    # A fresh one beside what the first one was merged into.
    fresh, later = next_stage(second, settings())
    assert later.rollout_lora == "kept"
    close(expected, fields(fresh, later), 1e-5)
    # And loaded again, with a LoRA of its own in the newest checkpoint.
    last, last_spec, folder = trained(second)
    again = factory.for_prediction(last_spec, read(folder), autocast=False)
    assert equal(fields(last, last_spec), fields(again, last_spec))
