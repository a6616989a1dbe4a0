"""Training space: every decoder head learns, on every variant, and predictions come back as physical variables."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aurora
import pytest
import torch
from aurora import Batch

from kit.models.space import TrainingSpace
from kit.models.variants import VARIANTS
from kit.train.loss import PaperMAE
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in
from tests.processes import run

AIR_POLLUTION_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)


def space_of(variant: str, *, rollout_lora: Any = None, lively: bool = False) -> TrainingSpace:
    torch.manual_seed(0)
    # The air-pollution model has heads for each of its levels, so that all of them must be there.
    levels = AIR_POLLUTION_LEVELS if variant == "air-pollution" else (300, 500, 850)
    spec = small_spec(variant, levels=levels, rollout_lora=rollout_lora)
    space = TrainingSpace(spec.build(), spec)
    if lively:  # layers that begin at zero, such as the roll-out LoRA's, do something too
        for parameter in space.model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return space


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_gets_a_gradient_and_every_part_is_finite(variant: str) -> None:
    space = space_of(variant)
    inputs = synthetic_batch(space.spec)
    target = synthetic_batch(space.spec, states=1, seed=1, inputs=False)
    loss = PaperMAE()(space.predict_fields(space.inputs(inputs)), space.targets(target))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert all(math.isfinite(value) for value in loss.parts.values())
    assert 0.1 < loss.total.item() < 10
    heads = {name: p for name, p in space.model.decoder.named_parameters() if "_heads." in name}
    without = [name for name, p in heads.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert without == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prediction_has_the_physical_variables_of_a_target(variant: str) -> None:
    space = space_of(variant)
    target = synthetic_batch(space.spec, states=1, inputs=False)
    with torch.no_grad():
        prediction = space.predict(synthetic_batch(space.spec))
    assert prediction.surf_vars.keys() == target.surf_vars.keys()
    assert {name: value.shape for name, value in prediction.atmos_vars.items()} == {
        name: value.shape for name, value in target.atmos_vars.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_perfect_prediction_scores_zero(variant: str) -> None:
    """The heads of the plain models predict what the encoded target says, so that target against target is 0."""
    space = space_of(variant)
    target = space.targets(synthetic_batch(space.spec, states=1, inputs=False))
    assert PaperMAE()(target, target).total.item() == 0


def test_decoding_the_encoded_target_of_a_plain_model_gives_it_back() -> None:
    space = space_of("small")
    state = synthetic_batch(space.spec, states=1)
    fields = space.targets(state)
    location, scale = space.spec.statistics.values["2t"]
    torch.testing.assert_close(fields.surface["2t"] * scale + location, state.surf_vars["2t"][:, 0])
    location, scale = space.spec.statistics.values["u_500"]
    torch.testing.assert_close(fields.atmospheric["u"][:, 1] * scale + location, state.atmos_vars["u"][:, 0, 1])


def test_air_pollution_heads_are_differences_to_the_right_past_state() -> None:
    """Field = head + (1 + modulation) x past: 12 h ago (index 1) for ``tcco``, 24 h ago (index 0) for ``pm10``."""
    space = space_of("air-pollution")
    inputs = synthetic_batch(space.spec)
    with torch.no_grad():
        _, heads = space._forward(space.inputs(inputs))
        fields = space.predict_fields(space.inputs(inputs))
    for name, index in (("tcco", 1), ("pm10", 0)):
        location, scale = space.spec.statistics.values[name]
        past = (inputs.surf_vars[name][:, index] - location) / scale
        expected = heads.surf_vars[name] + (1 + heads.surf_vars[f"{name}_mod"]) * past
        torch.testing.assert_close(fields.surface[name], expected)


def test_absent_waves_are_not_scored_and_land_is_not_scored_at_all() -> None:
    space = space_of("wave")
    target = synthetic_batch(space.spec, states=1, inputs=False)
    fields = space.targets(target)
    ocean = target.static_vars["wmb"] > 0
    assert not fields.masks["swh"][:, ~ocean].any()
    assert not fields.masks["swh_density"][:, ~ocean].any()
    assert fields.masks["swh_density"][:, ocean].all()
    # The factory sets the second swell to zero in the last three columns of the first two rows.
    assert not fields.masks["swh2"][0, :2, -3:].any()
    assert not fields.masks["mwd2_sin"][0, :2, -3:].any()
    assert (fields.surface["swh2_density"][0, :2, -3:] == 0).all()
    angle = torch.deg2rad(target.surf_vars["mwd"][0, 0, 5, -10])
    assert fields.surface["mwd_cos"][0, 5, -10] == pytest.approx(math.cos(float(angle)), abs=1e-6)


def test_wave_wind_comes_back_as_the_direction_it_came_from() -> None:
    space = space_of("wave")
    with torch.no_grad():
        prediction, _ = space._forward(synthetic_batch(space.spec))
        direction = space.predict(synthetic_batch(space.spec)).surf_vars["dwi"]
    sea = direction.isfinite()
    u = -torch.sin(torch.deg2rad(direction[sea]))
    expected = prediction.surf_vars["10u_wave"][sea] / torch.hypot(
        prediction.surf_vars["10u_wave"][sea], prediction.surf_vars["10v_wave"][sea]
    )
    torch.testing.assert_close(u, expected, atol=1e-4, rtol=0)


def test_version_1p5_targets_are_logarithms_and_insolation_is_made_here() -> None:
    space = space_of("v1p5")
    target = synthetic_batch(space.spec, states=1, inputs=False)
    assert "insolation" not in target.surf_vars
    fields = space.targets(target)
    location, scale = space.spec.statistics.values["scaled_tp_1h"]
    rain = target.surf_vars["tp"][:, 0]
    expected = ((rain + 1e-3).log() - math.log(1e-3) - location) / scale
    torch.testing.assert_close(fields.surface["scaled_tp_1h"], expected)
    lat, lon = (getattr(target.metadata, name).numpy() for name in ("lat", "lon"))
    sun = aurora.insolation([target.metadata.time[0].replace(tzinfo=None)], lat, lon, enforce_2d=True)
    torch.testing.assert_close(fields.surface["insolation"], torch.from_numpy(sun))


def test_insolation_of_inputs_is_that_of_each_input_time() -> None:
    space = space_of("v1p5")
    inputs = space.inputs(synthetic_batch(space.spec))
    lat, lon = (getattr(inputs.metadata, name).numpy() for name in ("lat", "lon"))
    now = inputs.metadata.time[0].replace(tzinfo=None)
    sun = aurora.insolation([now - space.spec.timestep, now], lat, lon, enforce_2d=True)
    torch.testing.assert_close(inputs.surf_vars["insolation"][0], torch.from_numpy(sun))


def test_an_odd_row_is_cropped_in_targets_as_in_predictions() -> None:
    space = space_of("small")
    inputs = synthetic_batch(space.spec, rows=33)
    with torch.no_grad():
        predicted = space.predict_fields(space.inputs(inputs))
    target = space.targets(synthetic_batch(space.spec, states=1, rows=33))
    assert predicted.surface["2t"].shape == target.surface["2t"].shape == (1, 32, 64)


def test_inputs_are_never_changed() -> None:
    space = space_of("wave")
    state = synthetic_batch(space.spec)
    before = {name: value.clone() for name, value in state.surf_vars.items()}
    with torch.no_grad():
        space.predict_fields(space.inputs(state))
    assert state.surf_vars.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(state.surf_vars[name], value, rtol=0, atol=0, equal_nan=True)


def upstream_rollout(space: TrainingSpace, state: Batch, steps: int) -> Iterator[Batch]:
    with space.spec.statistics.installed(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no explicit representation of timezones")
        yield from aurora.rollout(space.model, space.inputs(state), steps)


@pytest.mark.parametrize(
    ("variant", "rollout_lora"),
    one_in(
        3,
        (*((name, None) for name in VARIANTS), ("hres-finetuned", "kept"), ("wave", "kept"), ("air-pollution", "kept")),
    ),
)
@torch.no_grad()
def test_a_roll_out_is_upstreams_bit_for_bit(variant: str, rollout_lora: Any) -> None:
    space = space_of(variant, rollout_lora=rollout_lora, lively=True)
    state = synthetic_batch(space.spec, rows=8 * space.spec.patch_size + 1)  # one row is cropped
    torch.manual_seed(1)  # the ensemble draws noise in every step
    expected = list(upstream_rollout(space, state, 3))
    torch.manual_seed(1)
    for step, upstream in enumerate(expected, start=1):
        _, prediction = space.step(space.inputs(state))
        state = space.advance(state, prediction)
        assert prediction.metadata.rollout_step == upstream.metadata.rollout_step == state.metadata.rollout_step == step
        assert prediction.metadata.time == upstream.metadata.time == state.metadata.time
        for kind in ("surf_vars", "static_vars", "atmos_vars"):
            ours, theirs = getattr(prediction, kind), getattr(upstream, kind)
            assert list(ours) == list(theirs)
            for name, value in theirs.items():
                torch.testing.assert_close(ours[name], value, rtol=0, atol=0, equal_nan=True, msg=f"{step} {name}")


@torch.no_grad()
def test_advancing_by_hand() -> None:
    """The states of 00 and 06 UTC and the prediction for 12 UTC become those of 06 and 12 UTC."""
    space = space_of("small")
    state = synthetic_batch(space.spec, samples=2)
    _, prediction = space.step(space.inputs(state))
    following = space.advance(state, prediction)
    assert following.metadata.time == (datetime(2020, 1, 1, 12, tzinfo=UTC),) * 2
    assert following.surf_vars.keys() == state.surf_vars.keys()
    for now, new, later in (
        (state.surf_vars["2t"], prediction.surf_vars["2t"], following.surf_vars["2t"]),
        (state.atmos_vars["u"], prediction.atmos_vars["u"], following.atmos_vars["u"]),
    ):
        assert later.shape == now.shape
        assert torch.equal(later[:, 0], now[:, 1])
        assert torch.equal(later[:, 1], new[:, 0])


@torch.no_grad()
def test_version_1p5_reads_clipped_clouds_todays_sun_and_nothing_that_it_only_predicts() -> None:
    space = space_of("v1p5")
    state = synthetic_batch(space.spec)
    _, prediction = space.step(space.inputs(state))
    prediction.surf_vars["tcc"] = torch.linspace(-0.5, 1.5, 32 * 64).view(1, 1, 32, 64)
    following = space.advance(state, prediction)
    assert following.surf_vars["tcc"][:, 1].aminmax() == (0, 1)
    assert not following.surf_vars.keys() & set(space.spec.output_only)
    assert {"scaled_sd", "insolation"} <= following.surf_vars.keys()
    # Names are upstream's now; the inputs of the next step are made of them all the same.
    again = space.inputs(following).surf_vars
    assert again.keys() == following.surf_vars.keys()
    assert torch.equal(again["insolation"], following.surf_vars["insolation"])


@torch.no_grad()
def test_absent_waves_that_are_predicted_are_absent_in_the_next_input() -> None:
    space = space_of("wave", lively=True)
    state = synthetic_batch(space.spec)
    _, prediction = space.step(space.inputs(state))
    following = space.advance(state, prediction)
    absent = prediction.surf_vars["swh"].isnan()
    assert 0 < absent.sum() < absent.numel()
    assert torch.equal(following.surf_vars["swh"][:, 1:].isnan(), absent)
    assert {"wind", "10u_wave", "10v_wave"} <= following.surf_vars.keys()
    assert "dwi" not in following.surf_vars


@pytest.mark.parametrize("variant", ("small", "v1p5", "air-pollution"))
@torch.no_grad()
def test_a_prediction_under_a_stores_names_can_be_fed_back(variant: str) -> None:
    space = space_of(variant)
    state = synthetic_batch(space.spec)
    _, prediction = space.step(space.inputs(state))
    named = space.advance(state, space.predict(state))
    for name, value in space.advance(state, prediction).surf_vars.items():
        assert torch.equal(named.surf_vars[name], value)


@torch.no_grad()
def test_a_wind_direction_without_its_speed_is_not_fed_back() -> None:
    space = space_of("wave")
    state = synthetic_batch(space.spec)
    with pytest.raises(ValueError, match="without 10u_wave, 10v_wave cannot be an input state; it has 2t, "):
        space.advance(state, space.predict(state))


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    space = space_of("small")
    both = synthetic_batch(space.spec, samples=2)
    first = dataclasses.replace(
        both,
        surf_vars={name: value[:1] for name, value in both.surf_vars.items()},
        atmos_vars={name: value[:1] for name, value in both.atmos_vars.items()},
        metadata=dataclasses.replace(both.metadata, time=both.metadata.time[:1]),
    )
    with torch.no_grad():
        torch.testing.assert_close(space.predict(both).surf_vars["2t"][:1], space.predict(first).surf_vars["2t"])


_PREDICT = """
import sys, torch
from kit.models.space import TrainingSpace
from tests.batches import small_spec, synthetic_batch
torch.manual_seed(0)
spec = small_spec(sys.argv[1])
space = TrainingSpace(spec.build(), spec)
for parameter in space.model.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
with torch.no_grad():
    print(float(space.predict(synthetic_batch(spec)).surf_vars["2t"].double().sum()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", (pytest.param("small", marks=pytest.mark.slow), "v1p5"))
def test_predictions_do_not_depend_on_the_local_time_zone(variant: str, tmp_path: Path) -> None:
    zones = ("UTC", "America/Los_Angeles")
    results = {run(_PREDICT, variant, variables={"TZ": zone}, folder=tmp_path) for zone in zones}
    assert len(results) == 1
