"""Reasons for a missing gradient hold where the gradient is missing, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from aurora import Batch

from kit.adapt.trainable_report import ForwardObserver
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.train.loss import PaperMAE
from tests.adapt.models import awake_model
from tests.batches import small_spec, synthetic_batch


def watched(
    spec: ModelSpec, state: Batch, target: Batch, weights: dict[str, float] | None = None
) -> tuple[ForwardObserver, set[str]]:
    """What was watched in one training pass, and the parameters without a gradient."""
    model = awake_model(spec).requires_grad_(True).train()
    loss = PaperMAE(weights)
    heads = (*model.decoder.surf_heads, *model.decoder.atmos_heads)
    watch, space = ForwardObserver(model, loss.unscored(heads)), TrainingSpace(model, spec)
    predicted, wanted = space.predict_fields(space.inputs(state)), space.targets(target)
    known = Fields(
        {name: wanted.surface[name] for name in predicted.surface},
        {name: wanted.atmospheric[name] for name in predicted.atmospheric},
        wanted.masks,
    )
    watch.note_target(known)
    loss(predicted, known).total.backward()  # type: ignore[no-untyped-call]
    watch.close()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    return watch, silent


def agree(watch: ForwardObserver, spec: ModelSpec, silent: set[str]) -> None:
    """Every parameter without a gradient has a reason, and no other."""
    names = [name for name, _ in spec.build().named_parameters()]
    assert {name for name in names if watch.reason(name) is not None} == silent


def pair(spec: ModelSpec) -> tuple[Batch, Batch]:
    return synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)


def without(batch: Batch, *names: str) -> Batch:
    return replace(
        batch,
        surf_vars={name: value for name, value in batch.surf_vars.items() if name not in names},
        atmos_vars={name: value for name, value in batch.atmos_vars.items() if name not in names},
    )


def test_variables_that_the_data_lack() -> None:
    spec = small_spec("pretrained")
    state, target = (without(batch, "msl", "q") for batch in pair(spec))
    watch, silent = watched(spec, state, target)
    assert watch.reason("encoder.surf_token_embeds.weights.msl") == "its variable is not read"
    assert watch.reason("decoder.atmos_heads.q.bias") == "its variable is not predicted"
    agree(watch, spec, silent)


def test_a_variable_that_is_zero_and_one_of_the_same_name_that_is_not() -> None:
    """``z`` is the orography at the surface, and a height aloft."""
    spec = small_spec("pretrained")
    state, target = pair(spec)
    location = spec.statistics.values["z"][0]
    state.static_vars["z"][:] = location
    watch, silent = watched(spec, state, target)
    assert silent == {"encoder.surf_token_embeds.weights.z"}
    agree(watch, spec, silent)


def test_waves_that_are_absent_everywhere() -> None:
    spec = small_spec("wave")
    state, target = pair(spec)
    for batch in (state, target):
        for name in ("swh", "mwd"):
            batch.surf_vars[name][:] = torch.nan
    watch, silent = watched(spec, state, target)
    heads = {
        f"decoder.surf_heads.{name}.{part}" for name in ("swh", "mwd_sin", "mwd_cos") for part in ("weight", "bias")
    }
    assert heads <= silent
    assert watch.reason("decoder.surf_heads.swh.weight") == "no point of it was to be scored in what was read"
    agree(watch, spec, silent)


def test_levels_and_the_decoder_of_gases_that_are_not_there() -> None:
    spec = small_spec("air-pollution")
    state, target = (without(batch, "co", "no", "no2", "go3", "so2") for batch in pair(spec))
    watch, silent = watched(spec, state, target)
    assert any(name.startswith("decoder.level_decoder_alternate.") for name in silent)
    # At 6 UTC the cosine of the time of day is not quite zero: its gradient is, for AdamW.
    faint = {name for name in dict(spec.build().named_parameters()) if name.endswith("tod_cos")}
    agree(watch, spec, silent | faint)


@pytest.mark.parametrize("variant", ("pretrained", "air-pollution"))
@pytest.mark.parametrize("weights", ({"*": 0.0, "2t": 1.0}, {"*": 0.0, "t": 1.0}, {"msl": 0.0}), ids=str)
def test_variables_that_weigh_nothing(variant: str, weights: dict[str, float]) -> None:
    """With one variable at the surface, no decoder of levels gets a gradient either."""
    spec = small_spec(variant)
    watch, silent = watched(spec, *pair(spec), weights)
    faint = {name for name in dict(spec.build().named_parameters()) if name.endswith("tod_cos")}
    agree(watch, spec, silent | faint)


def test_the_time_is_a_reason_only_where_its_wave_was_zero_throughout() -> None:
    spec = small_spec("air-pollution")
    state, target = pair(spec)
    embedding = "encoder.surf_token_embeds.weights.tod_"
    watch, _ = watched(spec, state, target)
    assert watch.reason(f"{embedding}cos") is not None
    assert watch.reason(f"{embedding}sin") is None
    midnight = replace(state.metadata, time=(datetime(2020, 1, 1, tzinfo=UTC),))
    watch, _ = watched(spec, replace(state, metadata=midnight), target)
    assert watch.reason(f"{embedding}cos") is None
    assert watch.reason(f"{embedding}sin") is not None


def test_only_passes_for_training_count() -> None:
    spec = small_spec("tiny")
    model = awake_model(spec)
    watch, space = ForwardObserver(model), TrainingSpace(model, spec)
    state = space.inputs(synthetic_batch(spec))
    with torch.no_grad():
        space.predict_fields(state)
        model.train()
        space.predict_fields(state)
    assert watch.reason("encoder.surf_token_embeds.weights.2t") == "its variable is not read"
    space.predict_fields(state)
    assert watch.reason("encoder.surf_token_embeds.weights.2t") is None


@pytest.mark.parametrize(
    ("mode", "number", "used"), [("single", 0, True), ("from_second", 0, False), ("all", 0, True), ("all", 1, False)]
)
def test_upstreams_lora_of_a_roll_out_step_that_is_not_trained(mode: str, number: int, used: bool) -> None:
    spec = replace(small_spec("hres-finetuned", rollout_lora="kept"), arguments={**small_spec("tiny").arguments})
    spec = replace(spec, arguments={**spec.arguments, "lora_mode": mode})
    model = awake_model(spec).requires_grad_(True).train()
    watch, space = ForwardObserver(model), TrainingSpace(model, spec)
    space.predict_fields(space.inputs(synthetic_batch(spec)))
    [name] = [
        name
        for name, _ in model.named_parameters()
        if name.endswith(f"encoder_layers.0.blocks.0.attn.lora_qkv.loras.{number}.lora_A")
    ] or [f"backbone.encoder_layers.0.blocks.0.attn.lora_qkv.loras.{number}.lora_A"]
    assert watch.reason(name) == (None if used else "its roll-out step is not trained")
