"""A regression as the operator: it learns, forecasts, and is what residuals are drawn around, by users' commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import kit
from kit.checkpoint.folder import open_checkpoint
from kit.cli.main import main
from kit.diffusion.residuals import measure
from kit.diffusion.space import DiffusionSpace
from kit.settings import Settings
from kit.train.build import build_job
from tests.factories import synthetic_store

SMALL = ("--task.name", "denoise", "--diffusion.width", "8", "--diffusion.multiples", "1,2", "--diffusion.blocks", "1")
QUICK = ("--data.history", "1", "--data.workers", "0", "--optim.warmup", "0")


def command(made: SimpleNamespace, *words: str) -> tuple[str, ...]:
    return (words[0], *SMALL, *QUICK, "--data.store", str(made.store.path), *words[1:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store of odd sides without levels, and two regressions that learned from it."""
    folder = tmp_path_factory.mktemp("mean")
    places: dict[str, Any] = {"curvilinear": True, "height": 13, "width": 19, "atmospheric": (), "static": ("z",)}
    found = SimpleNamespace(folder=folder)
    found.store = synthetic_store(folder / "store", times=24, step_hours=1, surface=("2t", "10u", "tp"), **places)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        steps = ("--model.timestep", "1h", "--optim.lr", "3e-3")
        for name, count in (("mean", "40"), ("other", "1")):
            asked = command(found, "finetune", "--diffusion.of", "mean", *steps, "--train.steps", count)
            assert main([*asked, "--run.name", name]) == 0
    found.mean, found.other = (folder / "runs" / name / "checkpoints" / "best" for name in ("mean", "other"))
    return found


@pytest.fixture
def inside(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.chdir(made.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def test_a_change_has_unit_size_and_nothing_is_persistence(made: SimpleNamespace) -> None:
    raw = {"data": {"store": str(made.store.path), "history": 1}, "model": {"timestep": "1h"}}
    job = build_job(Settings.model_validate({**raw, "task": {"name": "denoise"}, "diffusion": {"of": "mean"}}))
    space = job.trainer.task.space
    assert isinstance(space, DiffusionSpace)
    measure(space, job.train)
    deviation, changes = space.spec.statistics["2t"][1], []
    for index in range(len(job.train)):
        each = job.train[index]
        changes.append((each.target.surf_vars["2t"] - each.inputs.surf_vars["2t"])[:, 0] / deviation)
    scale = torch.stack(changes).square().mean().sqrt()
    pair = job.train[0]
    example = space.examples(pair.inputs, pair.target, [False])
    place = space.spec.channels.index("2t")
    torch.testing.assert_close(example.drawn[:, place], changes[0] / scale, rtol=1e-3, atol=1e-3)
    # A network that has learned nothing leaves the newest state as it is.
    surface, _ = space.physical(space.regressed(pair.inputs))
    torch.testing.assert_close(surface["2t"], pair.inputs.surf_vars["2t"][:, -1])


def test_it_learns_more_than_persistence(made: SimpleNamespace) -> None:
    found = open_checkpoint(made.mean).description
    assert found["validation"]["before"] == pytest.approx(1, abs=0.1)
    # Noise from state to state is more than half of a change.
    assert found["validation"]["best"] < 0.7
    assert not found["model"]["arguments"].get("stochastic", False)


def test_it_forecasts_and_is_scored(inside: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one.nc", "two.nc"):
        assert main(["forecast", "--checkpoint", str(inside.mean), "--steps", "2", "--out", name]) == 0
    with xr.open_dataset("one.nc") as one, xr.open_dataset("two.nc") as two:
        xr.testing.assert_identical(one[["2t", "tp"]], two[["2t", "tp"]])
        assert float(one["tp"].min()) >= 0
    assert main(["verify", str(inside.mean)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(inside.mean), "--no-base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["2t"]["skill"] > 0.2


@pytest.fixture(scope="module")
def lacking(made: SimpleNamespace) -> Path:
    """A network of what the regression lacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        asked = command(made, "finetune", "--diffusion.of", "residual", "--model.weights", str(made.mean))
        assert main([*asked, "--train.steps", "4", "--diffusion.steps", "4", "--run.name", "lacking"]) == 0
    return Path(made.folder) / "runs" / "lacking" / "checkpoints" / "best"


def test_residuals_are_drawn_around_it(inside: SimpleNamespace, lacking: Path) -> None:
    drawing = ("--diffusion", str(lacking), "--perturb", "residual", "--members", "2", "--steps", "2")
    assert main(["ensemble", "--checkpoint", str(inside.mean), *drawing, "--out", "members.zarr"]) == 0
    with xr.open_zarr("members.zarr") as members:
        values = members["2t"].values
    assert np.isfinite(values).all()
    assert (values[0] != values[1]).mean() > 0.9


def test_another_regression_is_refused(
    inside: SimpleNamespace, lacking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = ("--diffusion", str(lacking), "--perturb", "residual", "--members", "2", "--steps", "1")
    assert main(["ensemble", "--checkpoint", str(inside.other), *drawing, "--out", "refused.zarr"]) == 2
    assert "is another model" in " ".join(capsys.readouterr().err.split())
    assert not Path("refused.zarr").exists()


def test_states_are_perturbed_before_its_steps(inside: SimpleNamespace) -> None:
    asked = command(inside, "finetune", "--model.weights", str(inside.mean), "--diffusion.forecasts", "live")
    assert main([*asked, "--train.steps", "2", "--diffusion.steps", "2", "--run.name", "similar"]) == 0
    drawing = ("--diffusion", "runs/similar/checkpoints/best", "--perturb", "def", "--guidance", "1")
    more = ("--members", "2", "--steps", "1", "--out", "def.zarr")
    assert main(["ensemble", "--checkpoint", str(inside.mean), *drawing, *more]) == 0


def test_a_plan_holds_the_operator_only_where_it_forecasts(inside: SimpleNamespace) -> None:
    residual = {"of": "residual", "width": 8, "multiples": (1, 2), "blocks": 1}
    given: dict[str, Any] = {"data": {"store": str(inside.store.path), "history": 1}, "task": {"name": "denoise"}}
    held = {}
    for forecasts in ("cached", "live"):
        asked = {**given, "model": {"weights": str(inside.mean)}, "diffusion": {**residual, "forecasts": forecasts}}
        held[forecasts] = kit.plan(**asked).trace.peak.breakdown["parameters"]
    operator = sum(value.nbytes for value in open_checkpoint(inside.mean).tensors().values())
    assert held["live"] - held["cached"] == pytest.approx(operator, rel=0.01)


BAD = [
    (("--data.history", "2"), "data.history: the operator .* was trained with 1"),
    (("--data.variables", "2t"), "data.variables: the operator .* was trained with 10u,2t,tp"),
    (("--memory.latitude_bands", "2"), "memory.latitude_bands has no effect on the operator"),
    (("--model.stochastic",), "model.stochastic has no effect on the operator"),
    (("--model.timestep", "6h"), "model.timestep: the operator .* was trained with 1"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[" ".join(given) for given, _ in BAD])
def test_states_are_those_that_it_reads(
    inside: SimpleNamespace, given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*command(inside, "finetune", "--diffusion.of", "residual", "--model.weights", str(inside.mean)), *given]
    assert main([*asked, "--run.name", "bad"]) == 2

    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not Path("runs/bad").exists()


def test_a_network_that_draws_is_no_operator(
    inside: SimpleNamespace, lacking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(inside, "finetune", "--diffusion.of", "residual", "--model.weights", str(lacking))
    assert main([*asked, "--run.name", "bad"]) == 2
    assert "draws the residual, and an operator makes one forecast" in " ".join(capsys.readouterr().err.split())
