"""From HRRR's files to probabilities and scores, by the commands that a user types, on the recipe in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.cli.main import main
from tests.data.sources.hrrr_files import put_hour
from tests.servers import serving

HOURS = 12
TRAIN, VALID, TEST = "2024-06-01T00/2024-06-01T06", "2024-06-01T07/2024-06-01T08", "2024-06-01T09/2024-06-01T11"


def done(*words: str) -> None:
    assert main(list(words)) == 0, words


def built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build a store of HRRR's files in a folder, and stay there."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KIT_CACHE", str(folder / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with serving() as server:
        for hour in range(HOURS):
            put_hour(server, f"2024-06-01T{hour:02d}")
        monkeypatch.setenv("KIT_HRRR_ARCHIVE", server.url())
        variables = ("--variables", "refc,2t,2d,10u,10v,cape,cin", "--statics", "z")
        splits = ("--train", TRAIN, "--valid", VALID, "--test", TEST)
        times = ("--times", "2024-06-01T00/2024-06-01T11", "--step", "1h")
        done("data", "build", "--source", "hrrr", "--path", "hrrr", *times, *variables, *splits, "--out", "store")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["hrrr-50m", "hrrr-reference-81k", "hrrr-reference-50m-quarter"])
def test_from_files_to_probabilities(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built(tmp_path, monkeypatch)
    small = () if recipe == "hrrr-reference-81k" else ("--diffusion.width", "8", "--diffusion.blocks", "1")
    data = ("--recipe", recipe, "--data.store", "store", "--data.workers", "0")
    # Within the warm-up of a thousand steps nothing would move, and layers behind others that begin with zeros take
    # some steps.
    short = ("--train.steps", "12", "--train.accumulate", "1", "--optim.warmup", "0", "--diffusion.steps", "4")
    done("plan", *data, *small)
    done("finetune", *data, *small, *short, "--run.name", "hrrr")
    checkpoint = ("--checkpoint", "runs/hrrr/checkpoints/best")
    products = ("--products", "mean,probabilities", "--above", "refc=30")
    members = ("--perturb", "noise", "--members", "3", "--steps", "2")
    done("ensemble", *checkpoint, *members, *products, "--out", "members.zarr")
    drawn = xr.open_zarr("members.zarr")
    # Any grid, odd sides too; the quarter's U-Net halves three times.
    assert drawn["refc"].shape[-2:] == (24, 40)
    assert np.isfinite(drawn["refc"].values).all()
    assert (drawn["refc"].values[0] != drawn["refc"].values[1]).any()
    with xr.open_dataset("members.products.nc") as made:
        chance = made["refc_probability"] if "refc_probability" in made else made[[*made.data_vars][-1]]
        assert 0 <= float(chance.min()) <= float(chance.max()) <= 1
    capsys.readouterr()
    done("evaluate", "--forecast_file", "members.zarr", "--data.store", "store", "--json")
    scored = json.loads(capsys.readouterr().out)
    assert np.isfinite(scored["ensemble"]["001h"]["refc"]["crps"])
    done("plot", "--forecast_file", "members.zarr", "--data.store", "store", "--variables", "refc")
    assert any("refc" in path.name for path in (tmp_path / "figures").iterdir())


@pytest.mark.slow
def test_a_regression_and_members_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path, monkeypatch)
    data = ("--data.store", "store", "--data.workers", "0", "--diffusion.width", "8", "--diffusion.blocks", "1")
    short = ("--train.steps", "4", "--train.accumulate", "1", "--optim.warmup", "0")
    done("finetune", "--recipe", "hrrr-50m-mean", *data, *short, "--run.name", "hrrr-50m-mean")
    # Four steps are too few for all gradients to be more than the optimiser's epsilon.
    drawn = ("--diffusion.steps", "4", "--train.check_after", "none", "--run.name", "hrrr-50m-residual")
    done("plan", "--recipe", "hrrr-50m-residual", *data)
    done("finetune", "--recipe", "hrrr-50m-residual", *data, *short, *drawn)
    operator, network = (f"runs/hrrr-50m-{name}/checkpoints/best" for name in ("mean", "residual"))
    done("evaluate", "--checkpoint", operator, "--no-base")
    members = ("--diffusion", network, "--perturb", "residual", "--members", "3", "--steps", "2")
    done("ensemble", "--checkpoint", operator, *members, "--out", "members.zarr")
    values = xr.open_zarr("members.zarr")["refc"].values
    assert np.isfinite(values).all()
    # As far down as the files go, and no farther.
    assert values.min() >= -10
    assert (values[0] != values[1]).any()
