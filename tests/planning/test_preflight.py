"""The look ahead: silent where there is room, a warning with advice where there is not, and no trace for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kit.data.dataset import Selection
from kit.data.grid import Grid
from kit.planning import fit as room
from kit.planning.fit import preflight, upper_bound
from kit.planning.trace import trace
from kit.planning.workload import Workload
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.build import Job, build_job
from tests.batches import small_spec
from tests.factories import synthetic_store

GIB = 2**30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("preflight") / "store", times=16).path


def settings(store: Path, **sections: dict[str, Any]) -> Settings:
    raw: dict[str, Any] = {"data": {"store": str(store)}, "model": {"weights": "random"}, "train": {"device": "cpu"}}
    return Settings.model_validate({key: raw.get(key, {}) | sections.get(key, {}) for key in raw | sections})


@pytest.fixture(scope="module")
def job(store: Path) -> Job:
    return build_job(settings(store))


def test_where_there_is_room_nothing_is_traced(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda _: 64 * GIB)
    monkeypatch.setattr(room, "trace", None)
    assert preflight(job) is None


@pytest.mark.slow
def test_a_step_that_might_not_fit_is_traced(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the trace, which is below the bound, it fits."""
    grid = job.selection.grid
    workload = Workload(job.spec, job.selection, grid.latitude(job.store), grid.longitude(job.store))
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    bound, peak = (
        upper_bound(job.settings, workload, parameters),
        trace(job.settings, workload, workspaces={}).peak.bytes,
    )
    monkeypatch.setattr(room, "available", lambda _: bound - 4 * parameters)
    assert peak < bound
    assert preflight(job) is None


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_warned_of(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda _: 2**20)
    warning = preflight(job)
    assert warning is not None
    first, *advice = warning.splitlines()
    assert first.startswith("a step will take about 0.1 GiB of memory (most of it in ")
    assert "and 0.0 are to be had. Settings that save memory" in first
    # Four rows of patches.
    assert advice[0].startswith("  --memory.recompute blocks --memory.latitude_bands 4 (")
    assert "offload" not in warning
    # The trace leaves the model as it was.
    assert all(parameter.device.type == "cpu" for parameter in job.model.parameters())
    assert torch.isfinite(torch.as_tensor(job.trainer.validate(job.trainer.task.valid_batches()).loss))


@pytest.mark.slow
def test_the_warning_is_on_the_record_and_the_run_goes_on(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available", lambda _: 2**20)
    run = {"name": "tight", "dir": run_dir}
    result = finetune(settings(store, run=run, train={"device": "cpu", "steps": 1}))
    assert result.steps == 1
    assert "warning: a step will take about 0.1 GiB of memory" in (run_dir / "tight" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ("pretrained", "air-pollution", "wave", "v1p5-ensemble"))
def test_the_bound_is_above_what_a_step_takes(variant: str) -> None:
    spec = small_spec(variant)
    patch = spec.patch_size
    rows, columns = 8 * patch, 16 * patch
    inputs = spec.upstream.physical(tuple(name for name in spec.surface if name not in spec.output_only))
    selection = Selection(
        inputs=inputs,
        targets=spec.upstream.physical(spec.surface),
        atmospheric=spec.atmospheric,
        static=spec.static,
        levels=spec.levels,
        history=spec.history,
        timestep=spec.timestep,
        grid=Grid((0, rows), (0, columns), (0, 0)),
    )
    latitude = 90 - (np.arange(rows) + 0.5) * 180 / rows
    workload = Workload(spec, selection, latitude, np.arange(columns) * 360 / columns)
    chosen = Settings.model_validate({"train": {"precision": "fp32"}})
    traced = trace(chosen, workload)
    assert traced.peak.bytes < upper_bound(chosen, workload, traced.parameters[1])
