"""The traced step is the real one: same bytes, same arithmetic, and no trace of it in the process."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from kit.data.dataset import Pair, Selection
from kit.data.grid import Grid
from kit.io.errors import SettingsError
from kit.models.spec import ModelSpec
from kit.planning.cost import Cost, Meter
from kit.planning.counter import CATEGORIES, Counter, Peak, tensors_in
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace, trace
from kit.planning.workload import Workload, workload_of
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.resolve import resolve_step
from tests.batches import small_spec, synthetic_batch

CPU = torch.device("cpu")
# Few variables, because each costs operations, and these cost time.
SPEC = dataclasses.replace(
    small_spec("pretrained", levels=(500, 850)), surface=("2t", "msl"), atmospheric=("t",), static=("lsm",)
)


def settings_of(**sections: Any) -> Settings:
    train = {"precision": "fp32", **sections.pop("train", {})}
    return Settings.model_validate({"train": train, **sections})


def pair_of(spec: ModelSpec, steps: int = 1) -> Pair:
    inputs = synthetic_batch(spec)
    targets = []
    for step in range(1, steps + 1):
        target = synthetic_batch(spec, states=1, inputs=False, seed=step)
        time = tuple(moment + step * spec.timestep for moment in inputs.metadata.time)
        targets.append(dataclasses.replace(target, metadata=dataclasses.replace(target.metadata, time=time)))
    return Pair(inputs, targets[-1], tuple(targets[:-1]))


def workload_like(spec: ModelSpec, pair: Pair) -> Workload:
    inputs, target = pair.inputs, pair.target
    latitude, longitude = inputs.metadata.lat.numpy(), inputs.metadata.lon.numpy()
    grid = Grid((0, len(latitude)), (0, len(longitude)), (0, 0))
    selection = Selection(
        tuple(inputs.surf_vars),
        tuple(target.surf_vars),
        tuple(inputs.atmos_vars),
        tuple(inputs.static_vars),
        spec.levels,
        spec.history,
        spec.timestep,
        grid,
    )
    return Workload(spec, selection, latitude.astype(np.float64), longitude.astype(np.float64))


def slowly(sections: dict[str, Any]) -> Any:
    return pytest.param(sections, marks=pytest.mark.slow)


def really(settings: Settings, spec: ModelSpec, pair: Pair) -> tuple[Peak, int, Cost]:
    """Count a real step on the CPU, the second one."""
    trainer = build_trainer(resolve_step(settings, spec, 1000, autocast=settings.train.precision == "bf16"), None, CPU)
    model = trainer.space.model
    batches = [pair] * settings.train.accumulate
    with Counter(model) as counter:
        counter.own((*model.parameters(), *model.buffers()), "parameters")
        everything = [[batch.surf_vars, batch.static_vars, batch.atmos_vars] for batch in (pair.inputs, *pair.targets)]
        counter.own(tensors_in(everything), "batch")
        trainer.step(1, batches)
        counter.own(tensors_in(trainer.updater.state_dict()), "optimizer")
        if trainer.average is not None:
            counter.own(tensors_in(trainer.average.state_dict()), "optimizer")
        counter.restart()
        counter.observer = meter = Meter()
        trainer.step(2, batches)
    return counter.peak, counter.host_peak, meter.cost()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"memory": {"recompute": "blocks", "latitude_bands": 4, "window_bands": 2}},
        slowly({"memory": {"recompute": "upstream"}}),
        slowly({"memory": {"recompute": "selective"}}),
        slowly({"memory": {"recompute": "blocks", "offload": ["inputs", "optimizer"]}}),
        slowly({"memory": {"step_in_backward": True}, "optim": {"clip": None}}),
        slowly({"adapt": {"method": "lora", "rank": 2}}),
        slowly({"optim": {"name": "adamw-8bit"}}),
        slowly({"optim": {"name": "adafactor"}}),
        slowly({"train": {"accumulate": 2}}),
        slowly({"train": {"ema": 0.999}}),
        slowly({"rollout": {"steps": 2, "graded": "all"}}),
        slowly({"model": {"stochastic": True}, "task": {"name": "crps", "members": 3}}),
        slowly(
            {
                "model": {"stochastic": True},
                "task": {"name": "crps", "members": 5},
                "rollout": {"steps": 2, "graded": "all"},
                "memory": {"recompute": "blocks", "latitude_bands": 4, "window_bands": 2, "offload": ["inputs"]},
            }
        ),
        slowly({"model": {"stochastic": True}, "task": {"name": "crps", "members": 2, "together": True}}),
    ],
    ids=str,
)
def test_the_plan_of_a_step_is_what_a_real_one_holds(sections: dict[str, Any]) -> None:
    settings = settings_of(**copy.deepcopy(sections))
    spec = SPEC
    if settings.model.stochastic:
        spec = dataclasses.replace(SPEC, arguments={**SPEC.arguments, "stochastic": True})
    pair = pair_of(spec, steps=settings.rollout.steps)
    # Without the kernels' workspaces, which a CPU has not.
    planned = trace(settings, workload_like(spec, pair), workspaces={})
    real, host, cost = really(settings, spec, pair)
    for name in set(CATEGORIES) - {"batch"}:
        assert planned.peak.breakdown[name] == real.breakdown[name], name
    assert (planned.peak.where, planned.peak.phase) == (real.where, real.phase)
    # A CPU reads its batches where they are; a GPU has copies of those that it uses.
    assert planned.peak.breakdown["batch"] <= real.breakdown["batch"]
    assert planned.cost.flops == cost.flops
    batches = settings.train.accumulate + 2
    assert planned.host_bytes == pytest.approx(host + batches * real.breakdown["batch"], rel=0.15)


@pytest.mark.slow
def test_more_batches_of_a_step_cost_time_and_no_memory() -> None:
    workload = workload_like(SPEC, pair_of(SPEC))
    two, six = (trace(settings_of(train={"accumulate": count}), workload) for count in (2, 6))
    assert two.peak == six.peak
    assert six.cost.flops == 3 * two.cost.flops


@pytest.mark.slow
def test_a_gpu_in_bf16_holds_less_than_in_fp32_and_computes_in_it() -> None:
    workload = workload_like(SPEC, pair_of(SPEC))
    wide, narrow = (trace(settings_of(train={"precision": precision}), workload) for precision in ("fp32", "auto"))
    assert narrow.peak.breakdown["activations"] < wide.peak.breakdown["activations"]
    assert {unit for unit, flops, _ in wide.cost.kernels if flops} == {"fp32", "tf32"}
    assert {unit for unit, flops, _ in narrow.cost.kernels if flops} == {"fp32", "tf32", "bf16"}


@pytest.mark.slow
def test_the_plan_is_the_same_with_a_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, workload = settings_of(train={"precision": "auto"}), workload_like(SPEC, pair_of(SPEC))
    without = trace(settings, workload)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _timeless(trace(settings, workload)) == _timeless(without)


@pytest.mark.slow
def test_the_plan_is_the_same_the_second_time() -> None:
    settings = settings_of(memory={"recompute": "blocks", "latitude_bands": 2})
    workload = workload_like(SPEC, pair_of(SPEC))
    assert _timeless(trace(settings, workload)) == _timeless(trace(settings, workload))


def _timeless(found: Trace) -> Trace:
    return dataclasses.replace(found, seconds=0)


@pytest.mark.parametrize("recompute", ["none", pytest.param("upstream", marks=pytest.mark.slow)])
def test_training_after_a_plan_is_training_without_one(recompute: str) -> None:
    """A trace leaves fake tensors in upstream's cache of masks, if nobody empties it."""
    settings = settings_of(memory={"recompute": recompute})
    spec, pair = SPEC, pair_of(SPEC)

    def train(planned: bool) -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(0)
        trainer = build_trainer(resolve_step(settings, spec, 10, autocast=False), None, CPU)
        if planned:
            trace(settings, workload_like(spec, pair))
        losses = [trainer.step(step, [pair]).loss for step in (1, 2)]
        return losses, [parameter.detach() for parameter in trainer.trained.parameters.values()]

    expected, weights = train(planned=False)
    losses, same = train(planned=True)
    assert losses == expected
    assert all(np.isfinite(losses))
    assert all(torch.equal(one, other) for one, other in zip(weights, same, strict=True))


def test_a_forecast_has_no_gradients_and_no_optimiser() -> None:
    workload = workload_like(SPEC, pair_of(SPEC))
    found = trace(settings_of(), workload, forecast=True)
    assert found.peak.breakdown["gradients"] == found.peak.breakdown["optimizer"] == 0
    assert set(found.phases) == {"forward"}
    assert 3 * found.cost.flops == pytest.approx(trace(settings_of(), workload).cost.flops, rel=0.1)


def test_a_run_that_would_be_refused_has_no_plan() -> None:
    settings = settings_of(memory={"frozen_weights": "bf16"})
    with pytest.raises(SettingsError, match=r"frozen_weights"):
        trace(settings, workload_like(SPEC, pair_of(SPEC)))


@pytest.mark.slow
def test_the_large_model_is_planned_in_a_minute() -> None:
    asked = {
        "grid": "721x1440",
        "model": {"variant": "pretrained"},
        "memory": {"recompute": "blocks", "latitude_bands": 16, "window_bands": 4, "offload": ["inputs"]},
        "adapt": {"method": "lora"},
    }
    settings = PlanSettings.model_validate(asked)
    found = trace(settings, workload_of(settings))
    assert found.parameters == (7602176, 1263902352)
    # 4 bytes for each parameter; eight for each that trains, and a step count.
    assert found.peak.breakdown["parameters"] == 4 * 1263902352
    assert found.peak.breakdown["optimizer"] == pytest.approx(8 * 7602176, rel=0.01)
    assert 6 * 2**30 < found.peak.bytes < 16 * 2**30
    assert found.seconds < 60


@pytest.mark.slow
def test_a_replay_buffer_costs_the_device_a_step_and_the_host_its_items() -> None:
    pair = pair_of(SPEC)
    workload = workload_like(SPEC, pair)
    plain, host, disk = (
        trace(settings_of(rollout=rollout), workload)
        for rollout in ({}, {"steps": 4, "buffer": 8}, {"steps": 4, "buffer": 8, "keep": "disk"})
    )
    item = sum(
        value.nbytes
        for part in ("surf_vars", "static_vars", "atmos_vars")
        for value in getattr(pair.inputs, part).values()
    )
    assert host.host_bytes - plain.host_bytes == 8 * item
    assert disk.host_bytes == plain.host_bytes
    # There is one graph, whatever rollout.steps is.
    assert host.peak.bytes == pytest.approx(plain.peak.bytes, rel=0.01)
    assert host.cost.flops == plain.cost.flops
