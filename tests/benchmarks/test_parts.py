"""Parts of the model with the kit's settings of memory, beside upstream's own: one block, and the decoder."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from aurora import Aurora, Batch
from pytest_benchmark.fixture import BenchmarkFixture

from kit.bench.step import CROP
from kit.bench.workload import Case, make_case
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.planning.counter import tensors_in

# The second block of a stage shifts its windows.
BLOCK, DECODER = "backbone.encoder_layers.0.blocks.1", "decoder"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "block, whole": (BLOCK, {"recompute": "blocks"}),
    "block, selective": (BLOCK, {"recompute": "selective"}),
    "block, 4 bands": (BLOCK, {"recompute": "blocks", "window_bands": 4}),
    "decoder, 2 bands": (DECODER, {"latitude_bands": 2}),
    "decoder, 8 bands": (DECODER, {"latitude_bands": 8}),
}
_ROUNDS = 5


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case("small", CROP, torch.device("cuda" if torch.cuda.is_available() else "cpu"), autocast=False)


@pytest.fixture(scope="module")
def model(case: Case) -> Aurora:
    built = case.spec.build()
    built.load_state_dict(case.weights.state)
    return built


class Part:
    """Forward and backward pass of one module, on what it is given in a step."""

    def __init__(self, model: Aurora, case: Case, name: str, memory: dict[str, Any]) -> None:
        model = copy.deepcopy(model)
        engine.install(model, MemorySettings.model_validate(memory))
        model.to(case.device)
        self._module = model.get_submodule(name)
        self._clock = case.clock
        given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def keep(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append((args, kwargs))

        handle = self._module.register_forward_pre_hook(keep, with_kwargs=True)
        space = TrainingSpace(model, case.spec)
        with torch.no_grad():
            space.predict_fields(space.inputs(case.pair.inputs.to(case.device)))
        handle.remove()
        ((tokens, *rest), self._kwargs) = given[0]
        self._args = (tokens.detach().requires_grad_(), *rest)

    def __call__(self) -> float:
        started = self._clock()
        output = self._module(*self._args, **self._kwargs)
        values = tensors_in([output.surf_vars, output.atmos_vars] if isinstance(output, Batch) else output)
        torch.stack([value.sum() for value in values]).sum().backward()  # type: ignore[no-untyped-call]
        self._module.zero_grad()
        return self._clock() - started


@pytest.mark.benchmark
@pytest.mark.parametrize("way", WAYS)
def test_part_time(benchmark: BenchmarkFixture, case: Case, model: Aurora, way: str) -> None:
    """``extra_info["ratio"]`` is that of the fastest round to upstream's fastest, taken between rounds."""
    name, memory = WAYS[way]
    upstreams, part = Part(model, case, name, {}), Part(model, case, name, memory)
    theirs: list[float] = []

    def take_theirs() -> None:
        theirs.append(upstreams())

    benchmark.pedantic(part, setup=take_theirs, rounds=_ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    benchmark.extra_info["device"] = case.device.type
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["upstreams_seconds"] = min(theirs)
    benchmark.extra_info["ratio"] = benchmark.stats.stats.min / min(theirs)
