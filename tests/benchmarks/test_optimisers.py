"""What a step of each optimiser costs, beside fused AdamW on the device."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kit.memory.settings import MemorySettings
from kit.train.settings import OptimSettings
from kit.train.updaters import Updater, build_updater

# Layers of a backbone block of width 512, seven times: 22 million values.
_SHAPES = [shape for _ in range(7) for shape in ((1536, 512), (512, 512), (2048, 512), (512, 2048), (2048,), (512,))]
_ROUNDS = 5

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adamw": ({"clip": None}, {}),
    "adamw-8bit": ({"clip": None, "name": "adamw-8bit"}, {}),
    "adafactor": ({"clip": None, "name": "adafactor"}, {}),
    "host": ({"clip": None}, {"offload": ("optimizer",)}),
    "in-backward": ({"clip": None}, {"step_in_backward": True}),
}


class Step:
    """A whole step whose loss costs next to nothing: backward pass, norms, update."""

    def __init__(self, way: str, device: str) -> None:
        optim, memory = (
            OptimSettings.model_validate(WAYS[way][0]).resolved("full"),
            MemorySettings.model_validate(WAYS[way][1]),
        )
        generator = torch.Generator().manual_seed(0)
        self._parameters = {
            f"layer.{index}.weight": torch.nn.Parameter(torch.randn(shape, generator=generator).to(device))
            for index, shape in enumerate(_SHAPES)
        }
        self._updater: Updater = build_updater(self._parameters, optim, memory, steps=1000)
        self._number = 0

    def __call__(self) -> None:
        self._number += 1
        self._updater.begin(self._number)
        self._updater.backward(torch.stack([parameter.sum() for parameter in self._parameters.values()]).sum())
        self._updater.update(self._number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


@pytest.mark.benchmark
@pytest.mark.parametrize("way", WAYS)
def test_step_time(benchmark: BenchmarkFixture, way: str) -> None:
    """``extra_info["ratio"]`` is that of the fastest round to the fastest step of fused AdamW, taken between rounds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain, step = Step("adamw", device), Step(way, device)
    seconds = []

    def take_plain() -> None:
        started = time.perf_counter()
        plain()
        seconds.append(time.perf_counter() - started)

    # Rounds to warm up allocate states, and compile where that is asked for.
    benchmark.pedantic(step, setup=take_plain, rounds=_ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    benchmark.extra_info["device"] = device
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["cores"] = os.cpu_count()
    benchmark.extra_info["parameters"] = sum(parameter.numel() for parameter in step._parameters.values())
    benchmark.extra_info["adamw_seconds"] = min(seconds)
    benchmark.extra_info["ratio"] = benchmark.stats.stats.min / min(seconds)
