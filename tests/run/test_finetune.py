"""The main job end to end on a small synthetic store: what it leaves behind, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.adapt.training_check import UntrainedError
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.cli.views.runs import show_training
from kit.data.loader import load_pairs
from kit.data.settings import Period
from kit.forecasting.predictor import Conditions, Predictor, load_predictor
from kit.io.errors import CheckpointError, KitError, SettingsError, StoreError
from kit.models.space import TrainingSpace
from kit.plots.curves import loss_curves
from kit.run.finetune import FinetuneResult, finetune
from kit.settings import Settings
from kit.train.loss import PaperMAE
from kit.train.trainer import StepReport, Trainer
from kit.train.updaters import DeviceUpdater, Update
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.everyday import one_in
from tests.factories import synthetic_store
from tests.processes import Python

STEPS = 12


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


def settings(store: Path, run_dir: Path, name: str = "first", **sections: dict[str, Any]) -> Settings:
    raw: dict[str, dict[str, Any]] = {
        "run": {"name": name, "dir": run_dir},
        "data": {"store": str(store)},
        "model": {"weights": "random"},
        "optim": {"lr": 1e-3, "warmup": 2},
        "train": {"steps": STEPS, "checkpoint_every": 3},
    }
    return Settings.model_validate({key: raw.get(key, {}) | sections.get(key, {}) for key in raw | sections})


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> FinetuneResult:
    """What a run told at its end; it lies in a folder of runs of its own, which tests only read or add to."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return finetune(settings(store, folder))


def copied(finished: FinetuneResult, run_dir: Path) -> Path:
    """A copy of the finished run, under its name, in a folder of runs that a test may change."""
    run = Path(finished.run)
    return Path(shutil.copytree(run, run_dir / run.name))


def lower(loss: dict[str, float | None]) -> bool:
    """Whether the last step's loss is lower than the first one's."""
    first, last = loss["first"], loss["last"]
    return first is not None and last is not None and last < first


@pytest.mark.slow
def test_terminal_figure_and_json_say_the_same_of_the_losses(
    finished: FinetuneResult, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finished.to_dict()
    lines = metrics(Path(finished.run))
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    valid = [line["loss"] for line in lines if line["kind"] == "valid"]
    per_epoch = round(finished.steps / finished.epochs)
    complete = finished.steps // per_epoch
    first = sum(losses[:per_epoch]) / per_epoch
    last = sum(losses[(complete - 1) * per_epoch : complete * per_epoch]) / per_epoch
    assert result["loss"] == {
        "first": losses[0],
        "last": losses[-1],
        "first_epoch": pytest.approx(first, rel=1e-12),
        "last_epoch": pytest.approx(last, rel=1e-12),
    }
    said = f"{first:.4g} (mean of epoch 1)"
    if complete > 1:
        said = f"{first:.4g} -> {last:.4g} (means of epochs 1 and {complete})"
    show_training(result)
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown
    assert f"validation loss {valid[0]:.4g} -> {valid[-1]:.4g}" in shown
    subtitle = loss_curves(lines).texts[-1].get_text()
    assert subtitle == f"training {said} · validation {valid[0]:.4g} -> {valid[-1]:.4g}".replace("->", "→")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_everything_behind(finished: FinetuneResult) -> None:
    result = finished
    assert result.valid["after"] < result.valid["before"]
    assert lower(result.loss)
    assert result.steps == STEPS
    assert result.trainable_parameters == result.total_parameters > 1e6
    assert result.device == "cpu"
    assert 0 <= result.data_wait_fraction < 1
    run = Path(result.run)
    assert {path.name for path in run.iterdir()} >= {
        "checkpoints", "config.toml", "figures", "log.txt", "metrics.jsonl", "provenance.json", "qa.json",
    }  # fmt: skip
    assert [record["step"] for record in metrics(run) if record["kind"] == "train"] == list(range(1, STEPS + 1))
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["mlflow_run_id"] == result.mlflow_run_id
    assert (run / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_describes_itself(store: Path, run_dir: Path, finished: FinetuneResult) -> None:
    checkpoint = open_checkpoint(Path(finished.checkpoint))
    assert checkpoint.spec.surface == ("10u", "10v", "2t", "msl")
    assert checkpoint.spec.statistics.values["z_500"] != checkpoint.spec.statistics.values["z"]
    [stage] = checkpoint.description["lineage"]
    assert stage["method"] == "full"
    assert checkpoint.description["base"] is None
    # A second stage remembers the first, and its base by hash.
    second = settings(store, run_dir, "second", model={"weights": finished.checkpoint}, train={"steps": 3})
    followed = open_checkpoint(Path(finetune(second).run) / "checkpoints" / "last")
    assert [part["steps"] for part in followed.description["lineage"]] == [stage["steps"], 3]
    assert len(followed.description["base"]["sha256"]) == 64


@pytest.mark.parametrize("graded", one_in(2, ("last", "all")))
def test_a_run_on_its_own_predictions(store: Path, run_dir: Path, graded: str) -> None:
    def rolled(steps: int, resume: str) -> Settings:
        return settings(
            store,
            run_dir,
            data={"store": str(store), "valid": "2020-01-03T06/2020-01-04T18"},
            rollout={"steps": steps, "graded": graded},
            train={"steps": 6, "resume": resume},
        )

    result = finetune(rolled(2, "never"))
    assert lower(result.loss)
    assert result.epochs == 1  # of nine training states, two inputs and two steps begin at six
    [stage] = open_checkpoint(Path(result.checkpoint)).description["lineage"]
    assert stage["rollout"] == {"steps": 2, "graded": graded}
    with pytest.raises(SettingsError, match=r"cannot go on with other settings or data: rollout.steps was 2, is 3"):
        finetune(rolled(3, "auto"))


def test_a_store_too_short_for_the_roll_out_is_refused(store: Path, run_dir: Path) -> None:
    wanted = r"no pair in 2020-01-03T06:00/.*: 2 input states and the 4 that follow \(rollout.steps\), 6 h apart"
    with pytest.raises(StoreError, match=wanted):
        finetune(settings(store, run_dir, rollout={"steps": 4}))
    assert not (run_dir / "first").exists()


@pytest.mark.usefixtures("run_dir")
def test_the_resolved_settings_reproduce_the_run(finished: FinetuneResult) -> None:
    import tomllib

    config = tomllib.loads((Path(finished.run) / "config.toml").read_text())
    config["run"]["name"] = "again"
    second = finetune(Settings.model_validate(config))
    assert_same_weights(Path(finished.run), Path(second.run))


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        a, b = (load_file(run / "checkpoints" / name / "model.safetensors") for run in (one, other))
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


_RUN = """
import json, sys
from kit.run.finetune import FinetuneResult, finetune
from kit.settings import Settings
finetune(Settings.model_validate(json.loads(sys.argv[1])))
"""


def start(chosen: Settings) -> Python:
    return Python(_RUN, json.dumps(chosen.model_dump(mode="json", exclude_unset=True)))


def wait_for_steps(run: Path, process: Python | subprocess.Popen[Any], steps: int) -> None:
    """Until the run has recorded so many lines, or is over."""
    while process.poll() is None:
        lines = (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0
        if lines >= steps:
            return
        time.sleep(0.01)


def mlflow_steps(run: Path, *more: str) -> dict[str, list[int]]:
    """Steps of some metrics of the one MLflow run of an experiment."""
    from kit.tracking.store import connect

    client = connect(f"sqlite:///{run.parent / 'mlflow.db'}", run.parent)
    [experiment] = [e for e in client.search_experiments() if e.name == "kit"]
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run.name}'")
    assert len(found) == 1
    return {
        key: [point.step for point in client.get_metric_history(found[0].info.run_id, key)]
        for key in ("train/loss", "valid/loss", "train/grad_norm/decoder.surf_heads", *more)
    }


def test_a_killed_run_goes_on_to_the_same_end(store: Path, run_dir: Path) -> None:
    """Killed after 5 and after 9 recorded lines, then finished: weights and records as if nothing had happened."""
    whole = settings(store, run_dir, "whole", train={"resume": "auto"})
    cut = settings(store, run_dir, "cut", train={"resume": "auto"})
    assert start(whole).wait() == 0
    for lines in (5, 9):
        process = start(cut)
        wait_for_steps(run_dir / "cut", process, lines)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(cut).wait() == 0
    assert_same_weights(run_dir / "whole", run_dir / "cut")
    kept = [(record["kind"], record["step"], record["loss"]) for record in metrics(run_dir / "cut")]
    assert kept == [(record["kind"], record["step"], record["loss"]) for record in metrics(run_dir / "whole")]
    assert mlflow_steps(run_dir / "cut") == mlflow_steps(run_dir / "whole")
    assert mlflow_steps(run_dir / "cut")["train/loss"] == list(range(1, STEPS + 1))


def cut_after_a_step(monkeypatch: pytest.MonkeyPatch, chosen: Settings) -> None:
    """Start a run, and send it SIGTERM in its first step."""
    step = Trainer.step

    def interrupted(trainer: Trainer, number: int, batches: Any) -> StepReport:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, number, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert finetune(chosen).steps == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optim", "memory"),
    (({"name": "adamw-8bit"}, {}), ({"name": "adafactor", "clip": None}, {"step_in_backward": True})),
)
def test_a_run_with_a_smaller_optimiser_goes_on_to_the_same_end(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, optim: dict[str, Any], memory: dict[str, Any]
) -> None:
    def chosen(name: str) -> Settings:
        return settings(store, run_dir, name, optim=optim, memory=memory, train={"steps": 4, "resume": "auto"})

    finetune(chosen("whole"))
    cut_after_a_step(monkeypatch, chosen("cut"))
    assert finetune(chosen("cut")).steps == 4
    assert_same_weights(run_dir / "whole", run_dir / "cut")


def test_a_run_says_what_trains_and_checks_that_it_did(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted or not, checked or not, the weights are the same; groups of parameters move as they are told."""
    groups = {"encoder.*": {"lr": 2e-4, "warmup": 0}, "bias": {"weight_decay": 0.0}}

    def chosen(name: str, check_after: int | None = 3) -> Settings:
        train = {"steps": 5, "checkpoint_every": 5, "resume": "auto", "check_after": check_after}
        return settings(store, run_dir, name, optim={"lr": 1e-3, "warmup": 2, "groups": groups}, train=train)

    result = finetune(chosen("whole"))
    finetune(chosen("unchecked", None))
    cut_after_a_step(monkeypatch, chosen("cut"))
    finetune(chosen("cut"))
    for name in ("unchecked", "cut"):
        assert_same_weights(run_dir / "whole", run_dir / name)
    trains = json.loads((run_dir / "whole" / "trains.json").read_text())
    assert trains == json.loads((run_dir / "cut" / "trains.json").read_text())
    assert trains["trainable_parameters"] == trains["total_parameters"] == result.total_parameters
    rows = {(row["group"], row["learning_rate"], row["weight_decay"]) for row in trains["groups"]}
    assert {("encoder.level_agg", 2e-4, 5e-6), ("decoder.surf_heads", 1e-3, 0.0)} <= rows
    check = trains["check"]
    assert (check["step"], check["structural_zeros"], check["too_early"]) == (5, {}, [])
    assert "check" not in json.loads((run_dir / "unchecked" / "trains.json").read_text())
    first, *_ = [record for record in metrics(run_dir / "whole") if record["kind"] == "train"]
    # The main warm-up takes two steps, the encoder's none: its cosine has begun.
    assert (first["lr"], first["lr/bias"]) == (5e-4, 5e-4)
    assert 1e-4 < first["lr/encoder.*"] < 2e-4
    log = (run_dir / "whole" / "log.txt").read_text()
    assert "check after step 3: " in log
    assert "encoder.level_agg" in log


def test_a_run_in_which_something_is_silently_frozen_stops(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = DeviceUpdater.update

    def forgetful(updater: DeviceUpdater, step: int, after: Any = None) -> Update:
        parameter = updater.groups[0].parameters["decoder.surf_heads.2t.bias"]
        kept = parameter.detach().clone()
        done = update(updater, step, after)
        parameter.data.copy_(kept)
        return done

    monkeypatch.setattr(DeviceUpdater, "update", forgetful)
    with pytest.raises(UntrainedError, match=r"after step 3, .* have not moved: decoder\.surf_heads\.2t\.bias\."):
        finetune(settings(store, run_dir, train={"steps": 9, "check_after": 2}))


def from_a_buffer(store: Path, run_dir: Path, name: str, **changes: Any) -> Settings:
    return settings(
        store,
        run_dir,
        name,
        data={"store": str(store), "valid": "2020-01-03T06/2020-01-04T18"},
        rollout={"steps": 3, "buffer": 4, "refresh": 3, **changes},
        train={"steps": 8, "checkpoint_every": 5, "resume": "auto"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("keep", ("host", "disk"))
def test_a_run_from_a_replay_buffer_goes_on_to_the_same_end(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """It comes down two steps after a checkpoint, when the buffer has moved on."""
    result = finetune(from_a_buffer(store, run_dir, "whole", keep=keep))
    depths = [record["depth"] for record in metrics(run_dir / "whole") if record["kind"] == "train"]
    assert set(depths) == {0, 1, 2}
    assert result.epochs == 8 / 7  # of nine training states, two inputs and a target begin at seven
    step = Trainer.step

    def failing(trainer: Trainer, number: int, batches: Any) -> StepReport:
        if number == 8:
            raise RuntimeError
        return step(trainer, number, batches)

    chosen = from_a_buffer(store, run_dir, "cut", keep=keep)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing)
        with pytest.raises(RuntimeError):
            finetune(chosen)
    assert list((run_dir / "cut" / "checkpoints" / "last" / "resume" / "replay").glob("*.safetensors"))
    finetune(chosen)
    assert_same_weights(run_dir / "whole", run_dir / "cut")
    losses, cut = ([(r["step"], r["loss"]) for r in metrics(run_dir / name)] for name in ("whole", "cut"))
    assert cut == losses
    assert not (run_dir / "cut" / "replay").exists()
    [stage] = open_checkpoint(Path(result.checkpoint)).description["lineage"]
    assert stage["rollout"] == {"steps": 3, "graded": "last", "buffer": 4, "refresh": 3, "keep": keep}


@pytest.mark.slow
def test_a_run_does_not_go_on_without_its_replay_buffer(store: Path, run_dir: Path) -> None:
    chosen = from_a_buffer(store, run_dir, "first")
    last = Path(finetune(chosen).run) / "checkpoints" / "last"
    shutil.rmtree(last / "resume" / "replay")
    with pytest.raises(CheckpointError, match=r"resume/replay/\d+.safetensors is gone.* start a new run from"):
        finetune(chosen)


@pytest.mark.parametrize("method", ("lora", pytest.param("qlora", marks=pytest.mark.slow)))
def test_an_adapter_is_trained_kept_resumed_and_scored(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def chosen(name: str) -> Settings:
        train = {"steps": 4, "checkpoint_every": 4, "resume": "auto"}
        return settings(store, run_dir, name, model={"weights": None}, adapt={"method": method, "rank": 4}, train=train)

    result = finetune(chosen("whole"))
    # 8 blocks, half of width 96 and half of 192: qkv (1 + 3), proj (1 + 1), fc1 and fc2 (1 + 4) widths each, rank 4.
    assert result.trainable_parameters == 4 * 4 * (4 + 2 + 5 + 5) * (96 + 192)
    assert result.total_parameters > 3_400_000
    assert result.valid["after"] < result.valid["before"]
    cut_after_a_step(monkeypatch, chosen("cut"))
    assert finetune(chosen("cut")).steps == 4
    last = [run_dir / name / "checkpoints" / "last" for name in ("whole", "cut")]
    for path in last:
        assert {part.name for part in path.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "kit.json", "resume",
        }  # fmt: skip
    one, other = (open_checkpoint(path).tensors() for path in last)
    assert all(torch.equal(one[name], other[name]) for name in one)
    description = open_checkpoint(last[0]).description
    assert description["lineage"][-1].items() >= {"method": method, "rank": 4, "alpha": 8.0}.items()
    assert description["adapter"]["base"] == description["base"]
    assert description["base"]["name"] == "aurora-tiny"
    # What is loaded is what was trained, to the last bit: the loss is that of the last validation.
    valid = Period.parse(description["data"]["valid"])
    predictor = load_predictor(open_checkpoint(last[0]), Conditions(period=valid))
    assert mean_loss(predictor) == pytest.approx(result.valid["after"], rel=1e-12)
    # And it is scored beside the weights that it was trained on.
    scores = evaluate(EvaluateSettings(checkpoint=last[0])).scores
    assert scores["2t"]["rmse"] != scores["2t"]["base_rmse"]


@pytest.mark.slow
def test_ranks_that_were_shared_out_are_kept_and_resumed(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt = {"method": "adalora", "rank": 4, "target_rank": 2}

    def chosen(name: str) -> Settings:
        train = {"steps": 4, "checkpoint_every": 4, "resume": "auto"}
        return settings(store, run_dir, name, model={"weights": None}, adapt=adapt, train=train)

    result = finetune(chosen("whole"))
    cut_after_a_step(monkeypatch, chosen("cut"))
    assert finetune(chosen("cut")).steps == 4
    last = [run_dir / name / "checkpoints" / "last" for name in ("whole", "cut")]
    one, other = (open_checkpoint(path).tensors() for path in last)
    assert all(torch.equal(one[name], other[name]) for name in one)
    patterns = [json.loads((path / "adapter_config.json").read_text())["rank_pattern"] for path in last]
    assert patterns[0] == patterns[1]
    assert sum(sum(kept) for kept in patterns[0].values()) == 2 * 4 * 8
    valid = Period.parse(open_checkpoint(last[0]).description["data"]["valid"])
    predictor = load_predictor(open_checkpoint(last[0]), Conditions(period=valid))
    assert mean_loss(predictor) == pytest.approx(result.valid["after"], rel=1e-12)


@torch.no_grad()
def mean_loss(predictor: Predictor) -> float:
    space = predictor.space
    assert isinstance(space, TrainingSpace)
    batches = load_pairs(predictor.pairs)
    losses = [
        PaperMAE()(space.predict_fields(space.inputs(pair.inputs)), space.targets(pair.target)).total.item()
        for pair in batches
    ]
    return sum(losses) / len(losses)


def test_an_adapter_to_random_weights_is_refused(store: Path, run_dir: Path) -> None:
    with pytest.raises(SettingsError, match=r"adapt.method lora trains a part beside given weights, .* is random"):
        finetune(settings(store, run_dir, adapt={"method": "lora"}))
    assert not (run_dir / "first").exists()


@pytest.mark.slow
def test_an_adapter_does_not_go_on_with_other_base_weights(store: Path, run_dir: Path) -> None:
    base = Path(finetune(settings(store, run_dir, "base", train={"steps": 2})).run) / "checkpoints" / "last"

    def chosen() -> Settings:
        adapt, model = {"method": "lora"}, {"weights": str(base)}
        return settings(store, run_dir, adapt=adapt, model=model, train={"steps": 2, "resume": "auto"})

    finetune(chosen())
    checkpoint = open_checkpoint(base)
    description = {key: value for key, value in checkpoint.description.items() if key != "format"}
    write_checkpoint(base, {name: value + 1 for name, value in checkpoint.tensors().items()}, description)
    with pytest.raises(SettingsError, match=r"cannot go on .*: the weights .*base.* had SHA-256 \w+, have \w+"):
        finetune(chosen())
    # Nor is it loaded onto them.
    with pytest.raises(CheckpointError, match=r"belongs to weights .*base"):
        evaluate(EvaluateSettings(checkpoint=run_dir / "first" / "checkpoints" / "last"))


def test_a_setting_of_memory_without_effect_is_refused(store: Path, run_dir: Path) -> None:
    with pytest.raises(SettingsError, match="memory.offload optimizer needs a GPU: the run is on a CPU"):
        finetune(settings(store, run_dir, memory={"offload": ("optimizer",)}, train={"device": "cpu"}))
    with pytest.raises(SettingsError, match="memory.step_in_backward .* pass --optim.clip none too"):
        finetune(settings(store, run_dir, memory={"step_in_backward": True}))
    assert not (run_dir / "first").exists()


def test_sigterm_ends_with_a_checkpoint_to_go_on_from(store: Path, run_dir: Path) -> None:
    process = start(settings(store, run_dir, train={"steps": 500, "checkpoint_every": 400, "resume": "auto"}))
    wait_for_steps(run_dir / "first", process, 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    step = open_checkpoint(run_dir / "first" / "checkpoints" / "last").resume_state()["loop"]["step"]
    assert 0 < step < 500
    assert "train.resume auto" in (run_dir / "first" / "log.txt").read_text()


def test_an_existing_run_is_not_touched(store: Path, run_dir: Path) -> None:
    (run_dir / "first").mkdir()
    with pytest.raises(SettingsError, match="this run exists already; choose another --run.name"):
        finetune(settings(store, run_dir))
    assert list((run_dir / "first").iterdir()) == []


def test_resuming_with_other_settings_is_refused(store: Path, run_dir: Path, finished: FinetuneResult) -> None:
    copied(finished, run_dir)
    with pytest.raises(SettingsError, match=r"cannot go on with other settings or data: optim.lr was 0.001, is 0.1"):
        finetune(settings(store, run_dir, optim={"lr": 0.1}, train={"resume": "auto"}))


def test_a_checkpoint_without_its_training_state_is_not_resumed(
    store: Path, run_dir: Path, finished: FinetuneResult
) -> None:
    best = str(copied(finished, run_dir) / "checkpoints" / "best")
    with pytest.raises(CheckpointError, match="cannot be resumed without resume/state.pt"):
        finetune(settings(store, run_dir, train={"resume": best}))


def test_resume_auto_needs_a_name(store: Path, run_dir: Path) -> None:
    with pytest.raises(SettingsError, match="set run.name too"):
        finetune(settings(store, run_dir, run={"name": None}, train={"resume": "auto"}))


def test_an_unfit_store_is_refused_before_anything_is_made(run_dir: Path, tmp_path: Path) -> None:
    import zarr

    path = synthetic_store(tmp_path / "broken", times=16).path
    array = zarr.open_group(path)["2t"]
    array[3, 0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(StoreError, match="not fit for training: nan"):
        finetune(settings(path, run_dir))
    assert not (run_dir / "first").exists()


def test_an_accepted_error_is_on_the_record(run_dir: Path, tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "odd", times=16).path
    statistics = json.loads((path / "stats.json").read_text())
    statistics["variables"]["10u"]["std"] *= 1.5
    (path / "stats.json").write_text(json.dumps(statistics))
    with pytest.raises(StoreError, match="accept what was found by name: --data.accept statistics-match:10u"):
        finetune(settings(path, run_dir))
    name = "statistics-match:10u"
    result = finetune(settings(path, run_dir, data={"store": str(path), "accept": [name]}, train={"steps": 1}))
    run = Path(result.run)
    report = json.loads((run / "qa.json").read_text())
    assert (report["passed"], report["accepted"]) == (True, [name])
    assert tomllib.loads((run / "config.toml").read_text())["data"]["accept"] == [name]
    assert json.loads((run / "provenance.json").read_text())["data"]["accepted"] == name
    assert "<em>accepted</em>" in (run / "qa.html").read_text()
    assert f"warning: accepted: {name}: stats.json differs" in (run / "log.txt").read_text()
    from kit.tracking.store import connect

    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    assert client.get_run(result.mlflow_run_id).data.tags["kit.data.accepted"] == name
    assert "qa.html" in {file.path for file in client.list_artifacts(result.mlflow_run_id)}


def test_a_variable_that_the_store_lacks_is_named(run_dir: Path, tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "poor", times=16, surface=("2t", "10u", "10v")).path
    with pytest.raises(
        StoreError, match=r"no statistics of 'msl': .* and the store lacks it; it has 10u, 10v, 2t, q, t, u, v, z"
    ):
        finetune(settings(path, run_dir, model={"variant": "wave", "weights": "random"}))


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ({"variables": ["2t", "u", "snow"]}, "data.variables: 'snow' is unknown"),
        ({"levels": [123.0]}, "data.levels: 123.0 is unknown"),
        ({"region": [10.0, 200.0, 5.0, 201.0]}, "grid points are selected|selects no grid point"),
        ({"region": [10.0, -5.0, 5.0, 5.0], "halo": 1.0}, "less than a patch of 4 x 4; .* with data.halo 1, the store"),
        ({"region": [60.0, 20.0, -60.0, 10.0]}, "leaves less than a patch out of the circle"),
        ({"train": "1990-01-01/1990-02-01"}, "no pair in 1990-01-01T00:00/1990-02-01T00:00"),
        ({"valid": "2020-01-01/2020-01-04"}, "overlap: scores would be of states that were seen in training"),
    ),
)
def test_data_that_cannot_be_trained_on_is_refused(
    store: Path, run_dir: Path, data: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingsError, StoreError), match=message):
        finetune(settings(store, run_dir, data={"store": str(store), **data}))
    assert not (run_dir / "first").exists()


def test_a_store_without_a_test_period_says_what_to_give(store: Path, run_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(store, copied)
    document = json.loads((copied / "zarr.json").read_text())
    del document["attributes"]["splits"]["test"]
    (copied / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"built without a period for test; it has train .* Give --data.test"):
        finetune(settings(copied, run_dir))


def test_resuming_on_other_data_is_refused(run_dir: Path, tmp_path: Path) -> None:
    path = synthetic_store(tmp_path / "store", times=16).path
    finetune(settings(path, run_dir, train={"steps": 3}))
    path.rename(tmp_path / "old")
    synthetic_store(path, times=16, seed=5)
    with pytest.raises(SettingsError, match="store holds other data"):
        finetune(settings(path, run_dir, train={"steps": 3, "resume": "auto"}))


def test_a_tracking_store_that_cannot_be_opened_leaves_the_name_free(store: Path, run_dir: Path) -> None:
    with pytest.raises(KitError, match="MLflow"):
        finetune(settings(store, run_dir, track={"uri": "nonsense://nowhere"}))
    assert not (run_dir / "first").exists()


@pytest.mark.slow
def test_the_machine_is_watched_and_the_end_is_kept(store: Path, run_dir: Path) -> None:
    run = {"dir": run_dir, "name": "watched"}
    finetune(settings(store, run_dir, run=run, track={"system_seconds": 0.05}))
    account = json.loads((run_dir / "watched" / "tracking.json").read_text())
    assert (account["status"], account["experiment"]) == ("FINISHED", "kit")
    assert "**data**" in account["tags"]["mlflow.note.content"]
    samples = [json.loads(line) for line in (run_dir / "watched" / "system.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == list(range(len(samples)))
    steps = mlflow_steps(run_dir / "watched", "system/process_memory_megabytes")
    assert steps["system/process_memory_megabytes"] == [sample["step"] for sample in samples]
