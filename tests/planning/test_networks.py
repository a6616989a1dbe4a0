"""The plan of a denoising network is its real step; on HRRR's grid it needs no card, and memory.fit recomputes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit.data.dataset import Pair
from kit.io.errors import SettingsError
from kit.planning.counter import Counter, tensors_in
from kit.planning.fit import RESERVE_GIB
from kit.planning.plan import plan
from kit.planning.settings import PlanSettings
from kit.planning.trace import trace
from kit.planning.workload import workload_of
from kit.train.build import build_trainer
from kit.train.resolve import resolve_step
from tests.batches import synthetic_batch
from tests.everyday import one_in

HRRR: dict[str, Any] = {
    "grid": "1059x1799",
    "data": {"variables": ("refc", "2t", "2d", "10u", "10v", "cape", "cin"), "statics": ("z",), "history": 1},
    "task": {"name": "denoise"},
}
FIFTY: dict[str, Any] = {"of": "next", "width": 88, "multiples": (1, 2, 4, 4), "stem": 4}
KINDS: dict[str, dict[str, Any]] = {
    "next": {"diffusion": {"of": "next"}},
    "recomputed": {"diffusion": {"of": "next"}, "memory": {"recompute": "blocks"}},
    "accumulated": {"diffusion": {"of": "next"}, "train": {"accumulate": 3, "ema": 0.9}},
    "tiles": {"diffusion": {"of": "next", "crop": 16}},
    "state, live": {"diffusion": {"of": "state", "forecasts": "live"}, "model": {"variant": "tiny"}},
}


@pytest.mark.parametrize("kind", one_in(2, KINDS, KINDS))
def test_the_plan_is_what_a_real_step_holds(kind: str) -> None:
    raw = {"task": {"name": "denoise"}, "train": {}, **KINDS[kind]}
    raw["diffusion"] = {"width": 8, "multiples": (1, 2), "blocks": 1, **raw["diffusion"]}
    raw["train"] = {"precision": "fp32", **raw["train"]}
    settings = PlanSettings.model_validate({**raw, "grid": "32x64"})
    workload = workload_of(settings)
    planned = trace(settings, workload, workspaces={})
    step = resolve_step(settings, workload.spec, 1000, autocast=False, diffusion=workload.diffusion)
    trainer = build_trainer(step, None, torch.device("cpu"))
    pair = _pair(settings)
    with Counter(trainer.model) as counter:
        for model in (trainer.model, *trainer.task.beside):
            counter.own((*model.parameters(), *model.buffers()), "parameters")
        counter.own(tensors_in([[batch.surf_vars, batch.atmos_vars] for batch in (pair.inputs, pair.target)]), "batch")
        trainer.step(1, [pair] * settings.train.accumulate)
        counter.own(tensors_in(trainer.updater.state_dict()), "optimizer")
        counter.restart()
        trainer.step(2, [pair] * settings.train.accumulate)
    # Batches lie on the host in a plan.
    held, found = (peak.bytes - peak.breakdown["batch"] for peak in (planned.peak, counter.peak))
    assert held == pytest.approx(found, rel=0.03)


def _pair(settings: PlanSettings) -> Pair:
    spec = workload_of(settings).spec
    return Pair(synthetic_batch(spec), synthetic_batch(spec, states=1, inputs=False))


def test_fifty_million_parameters_at_full_resolution_fit_half_the_card() -> None:
    planned = plan(PlanSettings.model_validate({**HRRR, "diffusion": FIFTY}))
    assert 49e6 < planned.trace.parameters[0] < 52e6
    assert planned.trace.peak.bytes < 6 * 2**30


@pytest.mark.slow
def test_memory_fit_recomputes_what_it_must() -> None:
    raw = {**HRRR, "grid": "64x128", "diffusion": {"of": "next", "width": 32, "multiples": (1, 2), "blocks": 1}}
    whole, least = (
        trace(asked, workload_of(asked)).peak.bytes / 2**30
        for memory in ({}, {"recompute": "blocks"})
        for asked in [PlanSettings.model_validate({**raw, "memory": memory})]
    )
    middle = (whole + least) / 2 + RESERVE_GIB
    fitted = plan(PlanSettings.model_validate({**raw, "memory": {"fit": f"{middle:.3f}GiB"}}))
    assert fitted.settings.memory.recompute == "blocks"
    assert fitted.needed_gib <= middle
    with pytest.raises(SettingsError, match=r"the least that exact settings need is .* a smaller diffusion.width"):
        plan(PlanSettings.model_validate({**raw, "memory": {"fit": "0.5GiB"}}))
    with pytest.raises(SettingsError, match="were both given"):
        plan(PlanSettings.model_validate({**raw, "memory": {"fit": "9GiB", "recompute": "blocks"}}))


def test_a_prediction_is_planned_with_what_is_drawn() -> None:
    raw = {"grid": "32x64", "task": {"name": "denoise"}, "model": {"variant": "tiny"}, "forecast": True}
    small = {"width": 8, "multiples": (1, 2), "blocks": 1, "steps": 2}
    found = {}
    for of in ("next", "residual", "state"):
        found[of] = plan(PlanSettings.model_validate({**raw, "diffusion": {"of": of, **small}})).trace
    assert {trained for trained, _ in (traced.parameters for traced in found.values())} == {0}
    # The operator is held beside its network, and computes too.
    assert found["residual"].peak.breakdown["parameters"] > 2 * found["next"].peak.breakdown["parameters"]
    more = plan(PlanSettings.model_validate({**raw, "diffusion": {"of": "residual", **small, "steps": 4}})).trace
    operator = plan(PlanSettings.model_validate({**raw, "task": {"name": "forecast"}})).trace.cost.flops
    drawn = found["residual"].cost.flops - operator
    # Four steps of the sampler for two.
    assert more.cost.flops - operator == pytest.approx(2 * drawn, rel=0.02)


def test_memory_fit_has_nothing_to_choose_for_a_prediction() -> None:
    raw = {"grid": "32x64", "task": {"name": "denoise"}, "diffusion": {"of": "next"}, "forecast": True}
    with pytest.raises(SettingsError, match="no setting to choose for what a network draws"):
        plan(PlanSettings.model_validate({**raw, "memory": {"fit": "4GiB"}}))
