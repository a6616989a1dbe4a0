"""Denoising as a task of the whole job: it learns, repeats, resumes to the last bit, and says what it cannot do."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kit
from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.verify import verify_path
from kit.data.store.reader import Store
from kit.diffusion.space import DiffusionSpace
from kit.io.errors import CheckpointError, SettingsError
from kit.models.transforms import Transform, parse_transform
from kit.plots.render import plot
from kit.plots.settings import PlotSettings
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.build import build_job
from kit.train.tasks.denoise import DenoiseTask
from kit.train.trainer import Trainer
from tests.checkpoints import store_for, write_whole
from tests.everyday import one_in
from tests.run.test_finetune import assert_same_weights, metrics
from tests.run.test_interruption import sending

SMALL: dict[str, Any] = {"width": 8, "multiples": (1, 2), "blocks": 1}
KINDS: dict[str, dict[str, Any]] = {
    "state": {"of": "state"},
    "state of data alone": {"of": "state", "operator_share": 0},
    "next": {"of": "next"},
    "next of nothing": {"of": "next", "given": ()},
    "residual": {"of": "residual"},
    "residual, coarse": {"of": "residual", "coarsen": 3},
    "mean": {"of": "mean"},
    "residual, live": {"of": "residual", "forecasts": "live"},
    "residual on tiles": {"of": "residual", "crop": 8},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for(tmp_path_factory.mktemp("data") / "store", times=16).path


@pytest.fixture(scope="module")
def operator(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("operator") / "best", Store.open(store))


def settings(store: Path, operator: Path, run_dir: Path, name: str = "first", **sections: dict[str, Any]) -> Settings:
    diffusion = SMALL | sections.pop("diffusion", {})
    raw: dict[str, dict[str, Any]] = {
        "run": {"name": name, "dir": run_dir},
        "data": {"store": str(store)},
        "task": {"name": "denoise"},
        "diffusion": diffusion,
        "train": {"steps": 12, "checkpoint_every": 4},
    }
    if diffusion.get("of") not in ("next", "mean") and diffusion.get("operator_share") != 0:
        raw["model"] = {"variant": "small", "weights": str(operator)}
    return Settings.model_validate({key: raw.get(key, {}) | sections.get(key, {}) for key in raw | sections})


@pytest.mark.parametrize("kind", one_in(6, KINDS))
def test_a_network_learns_and_its_configuration_repeats_it(
    store: Path, operator: Path, run_dir: Path, kind: str
) -> None:
    asked = settings(store, operator, run_dir, diffusion=KINDS[kind])
    result = finetune(asked)
    # A network that predicts nothing has the mean square of noise, 1, as its loss.
    assert result.valid["before"] == pytest.approx(1, abs=0.04)
    assert result.valid["after"] < result.valid["before"]
    described = open_checkpoint(Path(result.checkpoint)).description
    assert described["diffusion"]["settings"]["of"] == asked.diffusion.of
    assert (described["operator"] is not None) == asked.diffusion.has_operator
    assert described["base"] is None
    written = Settings.model_validate(tomllib.loads((Path(result.run) / "config.toml").read_text()))
    again = finetune(written.model_copy(update={"run": asked.run.model_copy(update={"name": "again"})}))
    assert_same_weights(Path(result.run), Path(again.run))


@pytest.mark.slow
def test_forecasts_that_were_made_before_are_those_that_are_made_now(
    store: Path, operator: Path, run_dir: Path
) -> None:
    runs = [
        Path(finetune(settings(store, operator, run_dir, kept, diffusion={"of": "residual", "forecasts": kept})).run)
        for kept in ("cached", "live")
    ]
    assert_same_weights(*runs)
    # They are gone with the run's end.
    assert not list(runs[0].glob("replay*"))


def test_a_run_does_not_go_on_with_other_transforms(
    store: Path, operator: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(store, operator, run_dir, diffusion={"of": "next"}, train={"steps": 1, "resume": "auto"})
    finetune(asked)

    def newer(_store: Store, name: str) -> Transform | None:
        return parse_transform("floor:80000", where="") if name == "msl" else None

    monkeypatch.setattr("kit.train.denoising.default_for_networks", newer)
    with pytest.raises(SettingsError, match=r"was transformed by nothing, is by \{'msl': 'floor:80000'\}"):
        finetune(asked)


@pytest.mark.parametrize(("accumulate", "crop"), [pytest.param(1, None, marks=pytest.mark.slow), (2, None), (1, 8)])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    store: Path, operator: Path, run_dir: Path, accumulate: int, crop: int | None
) -> None:
    more: dict[str, dict[str, Any]] = {
        "train": {"steps": 8, "checkpoint_every": 4, "ema": 0.9, "accumulate": accumulate},
        "diffusion": {"of": "residual", "crop": crop},
    }
    whole = finetune(settings(store, operator, run_dir, "whole", **more))
    with sending(Trainer, "step", signal.SIGTERM):
        finetune(settings(store, operator, run_dir, "cut", **more))
    more["train"]["resume"] = "auto"
    resumed = finetune(settings(store, operator, run_dir, "cut", **more))
    assert resumed.valid == whole.valid
    for name in ("ema", "best", "last"):
        ours, theirs = (
            load_file(Path(each.run) / "checkpoints" / name / "model.safetensors") for each in (whole, resumed)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.slow
def test_recomputing_changes_the_order_of_sums_alone(store: Path, operator: Path, run_dir: Path) -> None:
    runs: list[dict[str, torch.Tensor]] = []
    choices: list[dict[str, Any]] = [{}, {"recompute": "blocks"}, {"recompute": "blocks", "stages": 1}]
    for place, memory in enumerate(choices):
        asked = settings(store, operator, run_dir, f"run-{place}", diffusion={"of": "next"}, memory=memory)
        runs.append(load_file(Path(finetune(asked).checkpoint) / "model.safetensors"))
    for other in runs[1:]:
        # Gradients of what is read twice add up in another order.
        for key, value in runs[0].items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("crop", [None, 8])
def test_validation_does_not_depend_on_batches(store: Path, operator: Path, run_dir: Path, crop: int | None) -> None:
    losses, diffusion = [], {"of": "next", "crop": crop}
    for size in (1, 3):
        job = build_job(settings(store, operator, run_dir, diffusion=diffusion, data={"batch_size": size}))
        job.trainer.task.open(run_dir / "scratch")
        losses.append(job.trainer.validate(job.trainer.task.valid_batches()).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_residuals_have_unit_size(store: Path, operator: Path, run_dir: Path) -> None:
    job = build_job(settings(store, operator, run_dir, diffusion={"of": "residual"}))
    job.trainer.task.open(run_dir / "scratch")
    task = job.trainer.task
    assert isinstance(task, DenoiseTask)
    space = task.space
    assert isinstance(space, DiffusionSpace)
    # By hand: truth less forecast, in the store's standard deviations.
    squares, largest = [], []
    for index in range(len(job.train)):
        pair = job.train[index]
        forecast, truth = space.forecast_values(pair.inputs), space.values(pair.target)
        deviation = torch.tensor([space.spec.statistics[key][1] for key in space.spec.channels])[:, None, None]
        residual = (truth - forecast) / deviation
        squares.append((residual**2).mean((0, 2, 3)))
        largest.append(residual.abs().amax((0, 2, 3)))
        drawn = space.examples(pair.inputs, pair.target, [False]).drawn
        torch.testing.assert_close(drawn, residual / space.model.scale[:, None, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.model.scale, torch.stack(squares).mean(0).sqrt(), rtol=1e-4, atol=0)
    expected = torch.stack(largest).amax(0) / space.model.scale
    torch.testing.assert_close(space.model.bound, expected, rtol=1e-4, atol=0)
    task.close()


def test_every_variable_has_its_loss(store: Path, operator: Path, run_dir: Path) -> None:
    result = finetune(settings(store, operator, run_dir, loss={"weights": {"*": 0.0, "2t": 1.0}}, train={"steps": 2}))
    line = metrics(Path(result.run))[-1]
    assert line["loss"] == pytest.approx(line["loss/2t"])
    assert {"loss/msl", "loss/z", "loss/t"} <= line.keys()


BAD: list[tuple[dict[str, dict[str, Any]], str]] = [
    ({"adapt": {"method": "lora"}}, r"adapt.method has no effect with task.name denoise: the network trains in full"),
    ({"rollout": {"steps": 2}}, r"rollout.steps has no effect with task.name denoise"),
    ({"loss": {"name": "huber"}}, "has the squared error"),
    ({"loss": {"weights": {"tp": 2.0}}}, "loss.weights: tp weigh nothing"),
    ({"track": {"activations": 1}}, "track.activations watches Aurora's modules"),
    (
        {"model": {"weights": "random"}},
        "an operator whose forecasts are learned from has weights",
    ),
    ({"diffusion": {"of": "next"}, "model": {"stochastic": True}}, r"model.stochastic has no effect with diffusion.of"),
    ({"memory": {"recompute": "selective"}}, "is of Aurora's backbone"),
    ({"memory": {"stages": 1}}, "memory.stages has no effect with memory.recompute none"),
    ({"memory": {"frozen_weights": "bf16"}}, "memory.frozen_weights has no effect with task.name denoise"),
    ({"memory": {"latitude_bands": 2}, "diffusion": {"of": "next"}}, "memory.latitude_bands has no effect"),
    ({"memory": {"offload": ("inputs",)}}, "memory.offload inputs is of Aurora's backbone"),
    ({"train": {"valid_precision": "fp16"}}, "with task.name denoise use fp32 or bf16"),
    ({"task": {"members": 4}}, "task.members has no effect"),
    (
        {"diffusion": {"network": "transformer", "width": 100, "multiples": None, "blocks": None}},
        "a multiple of 4 times",
    ),
    ({"diffusion": {"crop": 64}}, r"diffusion.crop 64: expected a grid of at least 64 x 64 points, got 16 x 32"),
    ({"diffusion": {"crop": 8}, "loss": {"area_weights": True}}, "loss.area_weights is of the whole grid"),
    ({"task": {"name": "forecast"}}, r"diffusion.width has no effect with task.name forecast"),
]


@pytest.mark.parametrize(("sections", "message"), BAD, ids=[str(sections) for sections, _ in BAD])
def test_what_has_no_effect_is_refused(
    store: Path, operator: Path, run_dir: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        finetune(settings(store, operator, run_dir, "first", **sections))
    assert not (run_dir / "first").exists()


def test_a_network_is_no_model(store: Path, operator: Path, run_dir: Path) -> None:
    network = finetune(settings(store, operator, run_dir, train={"steps": 1})).checkpoint
    with pytest.raises(CheckpointError, match="draws the state, and an operator makes one forecast: take Aurora"):
        finetune(settings(store, Path(network), run_dir, "second"))
    aurora = {"store": str(store)}, {"variant": "small", "weights": str(network)}
    with pytest.raises(CheckpointError, match="holds a denoising network, not Aurora"):
        finetune(Settings.model_validate({"data": aurora[0], "model": aurora[1], "run": {"dir": run_dir}}))
    with pytest.raises(CheckpointError, match="give it as --diffusion"):
        kit.evaluate(checkpoint=network)
    with pytest.raises(CheckpointError, match="give it as --diffusion"):
        kit.load_checkpoint(network)


def test_another_operator_cannot_go_on(store: Path, operator: Path, run_dir: Path) -> None:
    asked = settings(store, operator, run_dir, train={"steps": 2, "checkpoint_every": 1})
    finetune(asked)
    other = write_whole(run_dir / "other", Store.open(store), seed=3)
    more: dict[str, Any] = {
        "train": {"steps": 2, "checkpoint_every": 1, "resume": "auto"},
        "model": {"weights": str(other)},
    }
    with pytest.raises(SettingsError, match=r"model.weights was .*the operator .* had SHA-256"):
        finetune(settings(store, operator, run_dir, "first", **more))


def test_samples_of_a_run_are_drawn_and_verified(store: Path, operator: Path, run_dir: Path) -> None:
    result = finetune(settings(store, operator, run_dir, train={"steps": 2}))
    run = Path(result.run)
    assert (result.draws, result.operator) == ("state", str(operator))
    (run / "figures" / "samples.png").unlink()
    files = plot(PlotSettings(run=run))["files"]
    assert [Path(file).name for file in files] == ["loss.png", "samples.png"]
    assert verify_path(run)["passed"]
    (run / "samples.json").write_text("{")
    assert [problem["file"] for problem in verify_path(run)["problems"]] == ["samples.json"]
    # A damaged side file costs its figure alone.
    assert [Path(file).name for file in plot(PlotSettings(run=run))["files"]] == ["loss.png"]
