"""Rain in training space: there and back, its heads, and a roll-out that goes on with millimetres."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from kit.models.encoding import choose_encodings, with_head_statistics
from kit.models.heads import RAIN_M, parse_heads
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.train.loss import FieldLoss
from kit.train.settings import LossSettings
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

SCALE = 2.0
HEADS = ("", "two-part", "quantile:0.1,0.5,0.9")


def rainy_spec(variant: str = "small", head: str = "", *, read: bool = True) -> ModelSpec:
    """A variant with ``tp``, whose scale in training space is 2."""
    levels = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
    spec = small_spec(variant, levels=levels if variant == "air-pollution" else (300, 500, 850))
    never_read = () if read else ("tp",)
    spec = replace(spec, surface=(*spec.surface, "tp"), added=("tp",), never_read=never_read)
    spec = choose_encodings(spec, {}, {"tp": head} if head else {})
    return replace(spec, statistics=with_head_statistics(spec, {**spec.statistics.values, "tp": (0.0, SCALE)}))


def space_of(spec: ModelSpec) -> TrainingSpace:
    torch.manual_seed(0)
    return TrainingSpace(spec.build(), spec)


def states(spec: ModelSpec) -> tuple[Any, Any]:
    return synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)


@pytest.mark.parametrize("variant", ("small", "air-pollution", "wave"))
def test_targets_are_transformed_before_they_are_normalised(variant: str) -> None:
    spec = rainy_spec(variant)
    _, target = states(spec)
    encoded_ = space_of(spec).targets(target).surface["tp"]
    torch.testing.assert_close(encoded_, (target.surf_vars["tp"][:, 0] / 1e-5).log1p() / SCALE)


@pytest.mark.parametrize("variant", one_in(3, ("small", "air-pollution", "wave")))
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("read", (True, False))
def test_physical_rain_is_never_below_zero_and_the_same_from_fields(variant: str, head: str, read: bool) -> None:
    spec = rainy_spec(variant, head, read=read)
    space = space_of(spec)
    inputs, _ = states(spec)
    assert ("tp" in inputs.surf_vars) == read
    with torch.no_grad():
        fields, prediction = space.step(space.inputs(inputs))
        physical = space.predict(inputs)
    assert fields.surface["tp"].lt(0).any()
    assert prediction.surf_vars["tp"].ge(0).all()
    assert prediction.surf_vars["tp"].eq(0).any()
    assert torch.equal(physical.surf_vars["tp"], prediction.surf_vars["tp"])
    torch.testing.assert_close(space.rain(fields)["tp"], prediction.surf_vars["tp"][:, 0])
    assert spec.derived <= physical.surf_vars.keys()


def test_version_1p5s_own_rain_is_never_below_zero_either() -> None:
    spec = small_spec("v1p5")
    space = space_of(spec)
    with torch.no_grad():
        fields, prediction = space.step(space.inputs(synthetic_batch(spec)))
    assert space.precipitation == {"scaled_tp_1h": "tp", "scaled_sf_1h": "sf"}
    rain = space.rain(fields)["tp"]
    assert rain.ge(0).all()
    torch.testing.assert_close(rain, prediction.surf_vars["scaled_tp_1h"][:, 0].clamp(min=0))


def test_a_model_without_rain_has_none() -> None:
    spec = small_spec("small")
    space = space_of(spec)
    with torch.no_grad():
        assert space.rain(space.predict_fields(space.inputs(synthetic_batch(spec)))) == {}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("read", (True, False))
def test_every_channel_of_rain_learns(head: str, read: bool) -> None:
    spec = rainy_spec(head=head, read=read)
    space = space_of(spec)
    inputs, target = states(spec)
    grade = FieldLoss(LossSettings(), levels=spec.levels, heads=parse_heads(spec.heads))
    loss = grade(space.predict_fields(space.inputs(inputs)), space.targets(target))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert all(math.isfinite(value) for value in loss.parts.values())
    assert {"tp", *spec.derived} <= loss.parts.keys()
    for name in ("tp", *spec.derived):
        gradient = space.model.decoder.surf_heads[name].weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_two_parts_have_targets_of_their_own() -> None:
    spec = rainy_spec(head="two-part")
    _, target = states(spec)
    fields = space_of(spec).targets(target)
    rains = target.surf_vars["tp"][:, 0] >= RAIN_M
    assert 0 < rains.float().mean() < 1
    assert torch.equal(fields.surface["tp_occurrence"], rains.float())
    assert torch.equal(fields.masks["tp"], rains)


def test_where_rain_is_unlikely_there_is_none() -> None:
    spec = rainy_spec(head="two-part")
    space = space_of(spec)
    inputs, _ = states(spec)
    with torch.no_grad():
        space.model.decoder.surf_heads["tp_occurrence"].bias.fill_(-50)
        space.model.decoder.surf_heads["tp"].bias.fill_(3)
        dry = space.predict(inputs).surf_vars
        space.model.decoder.surf_heads["tp_occurrence"].bias.fill_(50)
        wet = space.predict(inputs).surf_vars
    assert dry["tp"].eq(0).all()
    assert dry["tp_occurrence"].lt(1e-6).all()
    assert wet["tp"].gt(0).any()
    assert wet["tp_occurrence"].gt(0.99).all()


def test_quantiles_of_a_prediction_are_in_order() -> None:
    spec = rainy_spec(head="quantile:0.1,0.5,0.9")
    inputs, _ = states(spec)
    with torch.no_grad():
        found = space_of(spec).predict(inputs).surf_vars
    assert (found["tp_q10"] <= found["tp"]).all()
    assert (found["tp"] <= found["tp_q90"]).all()
    assert (found["tp_q10"] < found["tp_q90"]).any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("read", (True, False))
def test_a_roll_out_goes_on_with_physical_rain(head: str, read: bool) -> None:
    spec = rainy_spec(head=head, read=read)
    space = space_of(spec)
    inputs, _ = states(spec)
    with torch.no_grad():
        _, prediction = space.step(space.inputs(inputs))
        after = space.advance(inputs, prediction)
    assert after.surf_vars.keys() == inputs.surf_vars.keys()
    if read:
        assert torch.equal(after.surf_vars["tp"][:, 0], inputs.surf_vars["tp"][:, 1])
        assert torch.equal(after.surf_vars["tp"][:, 1], prediction.surf_vars["tp"][:, 0])
    with torch.no_grad():
        assert space.step(space.inputs(after))[1].surf_vars["tp"].isfinite().all()


def test_inputs_stay_as_they_are() -> None:
    """A transform must not reach the caller's states, which the next step of a roll-out starts from."""
    spec = rainy_spec()
    space = space_of(spec)
    inputs, _ = states(spec)
    before = inputs.surf_vars["tp"].clone()
    with torch.no_grad():
        space.predict_fields(space.inputs(inputs), release=True)
    assert torch.equal(inputs.surf_vars["tp"], before)
