"""What the loop costs beside the model: everything but forward, backward and optimiser, as a share of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.build import build_job
from kit.train.updaters import DeviceUpdater
from tests.factories import synthetic_store

STEPS = 6


class Stopwatch:
    """Adds up the time spent in some functions, nested calls once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - started

        return timed


@pytest.mark.benchmark
def test_loop_overhead_on_the_small_model(
    benchmark: BenchmarkFixture, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``extra_info["overhead"]`` of pytest-benchmark's report is the share; 96 x 192 points, 13 levels, fp32."""
    levels = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
    store = synthetic_store(tmp_path / "store", height=96, width=192, levels=levels, times=16).path
    settings = Settings.model_validate(
        {
            "run": {"name": "bench", "dir": run_dir},
            "data": {"store": str(store)},
            "model": {"variant": "small", "weights": "random"},
            "train": {"steps": STEPS, "checkpoint_every": STEPS},
        }
    )
    model_time = Stopwatch()

    def build_watched(chosen: Settings) -> Any:
        job = build_job(chosen)
        step, updater = job.trainer.step, job.trainer.updater
        assert isinstance(updater, DeviceUpdater)

        def watched_step(*args: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(job.model, "forward", model_time.around(job.model.forward))
                patch.setattr(torch.Tensor, "backward", model_time.around(torch.Tensor.backward))
                patch.setattr(updater.optimizer, "step", model_time.around(updater.optimizer.step))
                return step(*args)

        monkeypatch.setattr(job.trainer, "step", watched_step)
        return job

    monkeypatch.setattr("kit.run.finetune.build_job", build_watched)
    result = benchmark.pedantic(finetune, args=(settings,), rounds=1)  # type: ignore[no-untyped-call]
    whole = result.step_seconds * STEPS
    benchmark.extra_info["step_seconds"] = result.step_seconds
    benchmark.extra_info["overhead"] = 1 - model_time.seconds / whole
