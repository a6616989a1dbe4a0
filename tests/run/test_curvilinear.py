"""Grids whose coordinates are matrices, from a store to forecasts: the same as vectors where the grid is regular."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from aurora import Batch

from kit.data.dataset import Pairs, collate
from kit.data.store.reader import Store
from kit.forecasting.forecast import forecast
from kit.forecasting.settings import ForecastSettings
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.metrics.scores import area_weights
from kit.models.space import TrainingSpace
from kit.planning.fit import upper_bound
from kit.planning.settings import PlanSettings
from kit.planning.workload import workload_of
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.build import Job, build_job
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.batches import small_spec, synthetic_batch
from tests.factories import LAMBERT, as_matrices, synthetic_dataset, synthetic_store, write_synthetic

REGION, HALO = (42.0, 250.0, 34.0, 275.0), 3.0


def settings(store: Store, folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "run": {"name": "first", "dir": str(folder)},
        "data": {"store": str(store.path), **sections.pop("data", {})},
        "model": {"weights": "random", "statistics": "store"},
        "loss": {"area_weights": True},
        "train": {"steps": 2, "device": "cpu", **sections.pop("train", {})},
        **sections,
    }


def with_matrices(batch: Batch) -> Batch:
    lat, lon = torch.meshgrid(batch.metadata.lat, batch.metadata.lon, indexing="ij")
    return dataclasses.replace(batch, metadata=dataclasses.replace(batch.metadata, lat=lat, lon=lon))


@pytest.mark.parametrize("variant", ("pretrained", "v1p5", "wave"))
def test_matrices_of_a_regular_grid_predict_what_vectors_do(variant: str) -> None:
    """To the last bit, in bands of rows too: patches are described by their own points, and so is insolation."""
    spec = small_spec(variant)
    torch.manual_seed(0)
    space = TrainingSpace(spec.build().eval(), spec)
    vectors = synthetic_batch(spec)
    matrices = with_matrices(vectors)
    with torch.no_grad():
        expected = space.predict_fields(space.inputs(vectors))
        found = [space.predict_fields(space.inputs(matrices))]
        engine.install(space.model, MemorySettings(latitude_bands=4))
        found.append(space.predict_fields(space.inputs(matrices)))
    for fields in found:
        for name, value in (expected.surface | expected.atmospheric).items():
            assert torch.equal((fields.surface | fields.atmospheric)[name], value), name


def test_matrices_of_a_regular_grid_train_as_vectors_do(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=16)
    region: dict[str, Any] = {"data": {"region": (60, 45, -60, 225), "halo": 22.5}}
    jobs: list[Job] = []
    for name, data in (("vectors", dataset), ("matrices", as_matrices(dataset))):
        store = write_synthetic(data, tmp_path / name)
        jobs.append(build_job(Settings.model_validate(settings(store, tmp_path, **region))))
    assert jobs[0].selection.grid == jobs[1].selection.grid
    losses = []
    for job in jobs:
        batch = collate([job.train[0]])
        losses.append([job.trainer.step(number, [batch]).loss for number in (1, 2)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.fixture(scope="module")
def lambert(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("curvilinear") / "lambert", times=16, curvilinear=True)


def test_a_plan_reads_the_grid_that_training_reads(lambert: Store) -> None:
    data = {"store": str(lambert.path), "region": REGION, "halo": HALO}
    workload = workload_of(PlanSettings.model_validate({"data": data, "model": {"weights": "random"}}))
    assert workload.shape == workload.latitude.shape == workload.eastwards.shape
    assert workload.shape == workload.selection.grid.shape
    assert upper_bound(PlanSettings(), workload, 1) > 4 * workload.latitude.size


def test_a_run_on_a_lambert_grid(lambert: Store, run_dir: Path) -> None:
    """Trained on a region with its halo, scored, and forecast from the checkpoint."""
    raw = settings(lambert, run_dir, data={"region": REGION, "halo": HALO}, memory={"latitude_bands": 2})
    checkpoint = Path(finetune(Settings.model_validate(raw)).checkpoint)
    scores = evaluate(EvaluateSettings(checkpoint=checkpoint, device="cpu")).to_dict()
    # Persistence by hand: the points of the region's smallest rectangle, weighed by their areas.
    inside = (lambert.latitude <= 42) & (lambert.latitude >= 34) & (np.abs(lambert.longitude - 262.5) <= 12.5)
    box = np.ix_(np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0)))
    weights = area_weights(lambert.latitude[box], lambert.longitude[box]).numpy()
    states = lambert.read("2t", list(range(13, 16))).astype(np.float64)[:, box[0], box[1]]
    expected = np.sqrt((np.diff(states, axis=0) ** 2 * weights).mean())
    assert scores["scores"]["2t"]["persistence_rmse"] == pytest.approx(expected, rel=1e-6)
    assert scores["edge"][0]["points"] > 0

    out = run_dir / "f.nc"
    raw = {"checkpoint": (checkpoint,), "out": out, "device": "cpu"}
    result = forecast(ForecastSettings.model_validate(raw)).to_dict()
    assert result["grid"] == list(weights.shape)
    with xr.open_dataset(out) as written:
        assert written["t"].dims == ("time", "lead_time", "level", "y", "x")
        np.testing.assert_array_equal(written["2t"].coords["latitude"], lambert.latitude[box])
        assert LAMBERT["grid_mapping_name"] in written.attrs["projection"]


def test_pairs_hold_what_upstream_asks_of_matrices(lambert: Store) -> None:
    raw = settings(lambert, lambert.path.parent)
    pairs: Pairs = build_job(Settings.model_validate(raw)).train
    metadata = collate([pairs[0], pairs[1]]).inputs.metadata
    assert metadata.lat.shape == metadata.lon.shape == lambert.shape
    assert metadata.lat.dtype == metadata.lon.dtype == torch.float32
    assert (metadata.lat[1:] < metadata.lat[:-1]).all()
