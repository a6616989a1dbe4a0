"""Residuals on a coarser grid: means and their interpolation by hand, and all the way from training to members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kit
from kit.data.store.reader import Store
from kit.diffusion.coarse import averaged, interpolated
from kit.forecasting.ensemble import ensemble
from kit.io.errors import SettingsError
from kit.train.build import build_job
from kit.train.tasks.denoise import DenoiseTask
from tests.checkpoints import store_for, write_whole
from tests.diffusion.test_loading import write_network
from tests.forecasting.test_ensemble import alone, opened
from tests.forecasting.test_ensemble import settings as ensemble_settings
from tests.train.tasks.test_denoise import settings

SIDES = [(1, 6, 8), (2, 6, 8), (3, 6, 8), (2, 7, 9), (4, 7, 10)]


def there_and_back(values: torch.Tensor, side: int, *, circular: bool) -> torch.Tensor:
    return interpolated(averaged(values, side, circular=circular), side, values, circular=circular)


def test_means_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 6.0]])[None, None]
    # Sides are continued: the last column stands for the one that lacks, around the globe the first.
    assert averaged(values, 2, circular=False)[0, 0].tolist() == [[4.0, 15.0], [3.0, 6.0]]
    assert averaged(values, 2, circular=True)[0, 0].tolist() == [[4.0, 9.0], [3.0, 4.0]]


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("side", "rows", "columns"), SIDES)
def test_a_constant_comes_back(side: int, rows: int, columns: int, circular: bool) -> None:
    values = torch.full((2, 3, rows, columns), 4.0)
    torch.testing.assert_close(there_and_back(values, side, circular=circular), values)


@pytest.mark.parametrize("side", [2, 3, 4])
def test_a_linear_field_comes_back_but_at_its_sides(side: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(13.0), torch.arange(17.0), indexing="ij")
    values = (3 * rows - 2 * columns)[None, None]
    # Beyond the centres of the first and the last whole square nothing says how it goes on.
    inside = (..., slice(side, 13 - 2 * side), slice(side, 17 - 2 * side))
    torch.testing.assert_close(there_and_back(values, side, circular=False)[inside], values[inside])


def test_the_globe_has_no_seam() -> None:
    angle = torch.arange(32) * 2 * torch.pi / 32
    values = angle.sin().expand(1, 1, 4, 32)
    shifted = there_and_back(values.roll(4, -1), 4, circular=True)
    torch.testing.assert_close(shifted, there_and_back(values, 4, circular=True).roll(4, -1))
    assert (there_and_back(values, 4, circular=True) - values).abs().max() < 0.15


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and an operator."""
    folder = tmp_path_factory.mktemp("coarse")
    store = store_for(folder / "store", times=16)
    return store.path, write_whole(folder / "operator", store)


def job_space(made: tuple[Path, Path], run_dir: Path, coarsen: int) -> Any:
    job = build_job(settings(*made, run_dir, diffusion={"of": "residual", "coarsen": coarsen}))
    job.trainer.task.open(run_dir / f"scratch-{coarsen}")
    task = job.trainer.task
    assert isinstance(task, DenoiseTask)
    pair = job.train[0]
    return task.space, task.space.examples(pair.inputs, pair.target, [False]), pair


def test_means_of_residuals_are_learned(made: tuple[Path, Path], run_dir: Path) -> None:
    fine, of_all, _ = job_space(made, run_dir, 1)
    coarse, of_means, _ = job_space(made, run_dir, 3)
    assert of_means.drawn.shape[-2:] == (6, 11)
    scales = [space.model.scale[:, None, None] for space in (fine, coarse)]
    expected = averaged(of_all.drawn * scales[0], 3, circular=True)
    torch.testing.assert_close(of_means.drawn * scales[1], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_means.condition, averaged(of_all.condition, 3, circular=True), rtol=1e-4, atol=1e-5)
    # Noise from point to point is gone from means.
    assert coarse.model.scale.mean() < fine.model.scale.mean()


def test_members_differ_by_what_is_interpolated(made: tuple[Path, Path], tmp_path: Path) -> None:
    store, operator = made
    network = write_network(tmp_path / "network", Store.open(store), operator, of="residual", coarsen=4, steps=4)
    asked = ensemble_settings(tmp_path / "e.zarr", operator, perturb="residual", diffusion=network, members=2)
    ensemble(asked)
    drawn = opened(tmp_path / "e.zarr")["msl"].isel(lead_time=0).values
    single = alone(tmp_path / "alone.zarr", operator)["msl"].isel(lead_time=0).values
    added = (drawn - single).reshape(-1, *single.shape[-2:])
    assert np.abs(added[0] - added[1]).mean() > 0
    # Between two centres what was added is a straight line: columns 2 to 5 lie between those of 1.5 and 5.5.
    bends = added[:, :, 2:4] - 2 * added[:, :, 3:5] + added[:, :, 4:6]
    assert np.abs(bends).max() < 0.01 * np.abs(added).max()


def test_fewer_points_take_less_memory(made: tuple[Path, Path]) -> None:
    store, operator = made
    peaks = []
    for coarsen in (1, 4):
        planned = kit.plan(
            data={"store": str(store)},
            task={"name": "denoise"},
            model={"variant": "small", "weights": str(operator)},
            diffusion={"of": "residual", "width": 16, "coarsen": coarsen},
        )
        peaks.append(planned.to_dict()["breakdown"]["activations"])
    assert peaks[1] < 0.3 * peaks[0]


def test_squares_are_not_cut_by_a_region(made: tuple[Path, Path], run_dir: Path) -> None:
    data = {"region": (60.0, 0.0, -60.0, 180.0), "halo": 10.0}
    asked = settings(*made, run_dir, diffusion={"of": "residual", "coarsen": 2}, data=data)
    with pytest.raises(SettingsError, match="diffusion.coarsen and data.halo exclude each other"):
        build_job(asked)
