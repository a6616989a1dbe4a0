"""The figures of a run, from its checkpoint to PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from kit.checkpoint.folder import open_checkpoint
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions
from kit.io.errors import KitError, SettingsError
from kit.memory.out_of_memory import GuardedModel
from kit.plots.checkpoint_maps import checkpoint_maps
from kit.plots.render import plot
from kit.plots.settings import PlotSettings
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.factories import synthetic_store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("render")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    raw: dict[str, Any] = {
        "run": {"name": "drawn", "dir": folder},
        "data": {"store": str(synthetic_store(folder / "store", times=16).path)},
        "model": {"weights": "random"},
        "train": {"steps": 2},
    }
    return Path(finetune(Settings.model_validate(raw)).run)


def drawn(**chosen: Any) -> list[str]:
    files = [Path(file) for file in plot(PlotSettings.model_validate({"device": "cpu", **chosen}))["files"]]
    assert all(file.read_bytes().startswith((b"\x89PNG", b"GIF89a")) for file in files)
    return [file.name for file in files]


def test_a_run_is_drawn_with_its_losses_and_a_few_maps(run: Path) -> None:
    names = [f"{name}_20200104T1200.png" for name in ("2t", "msl", "10u", "z_500")]
    assert drawn(run=run) == ["loss.png", *names]
    assert (run / "figures" / "loss.png").exists()


@pytest.mark.slow
def test_further_steps_are_mapped_and_animated(run: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"checkpoint": run / "checkpoints" / "best", "variables": ("2t",), "out": tmp_path}
    # The first input states of the test split are those of 0 and 6 h.
    assert drawn(steps=2, **chosen) == ["2t_20200104T1800.png"]
    (animation,) = drawn(steps=2, animate=True, **chosen)
    assert animation == "2t_from_20200104T0600.gif"
    with Image.open(tmp_path / animation) as frames:
        assert len(ImageSequence.all_frames(frames)) == 2


@pytest.mark.slow
def test_the_weights_before_training_are_mapped_beside_the_trained_ones(run: Path, tmp_path: Path) -> None:
    further: dict[str, Any] = {
        "run": {"name": "further", "dir": tmp_path},
        "data": {"store": str(run.parent / "store")},
        "model": {"weights": str(run / "checkpoints" / "best")},
        "train": {"steps": 1},
    }
    checkpoint = open_checkpoint(Path(finetune(Settings.model_validate(further)).run) / "checkpoints" / "best")
    settings = PlotSettings.model_validate({"checkpoint": checkpoint.path, "variables": ["2t"], "device": "cpu"})
    album = checkpoint_maps(checkpoint, settings, Conditions(device="cpu"), GuardedModel())
    (frame,) = album.series[0].frames
    assert list(frame.forecasts) == ["After training", "Before training", "Persistence"]
    states = Store.open(run.parent / "store").read("2t", [13, 14])
    np.testing.assert_array_equal(frame.forecasts["Persistence"], states[0])
    assert frame.target is not None
    np.testing.assert_array_equal(frame.target, states[1])
    alone = checkpoint_maps(
        checkpoint, settings.model_copy(update={"base": False}), Conditions(device="cpu"), GuardedModel()
    )
    assert list(alone.series[0].frames[0].forecasts) == ["After training", "Persistence"]


@pytest.mark.slow
def test_a_scorecard_is_drawn_once_there_are_scores(run: Path) -> None:
    evaluate(EvaluateSettings(checkpoint=run / "checkpoints" / "best", device="cpu"))
    names = drawn(run=run)
    assert "scorecard.png" in names
    # Of one lead there is nothing to draw against the lead.
    assert "scores_by_lead.png" not in names
    evaluate(EvaluateSettings(checkpoint=run / "checkpoints" / "best", device="cpu", steps=2))
    names = drawn(run=run)
    assert {"scorecard_persistence.png", "scores_by_lead.png"} <= set(names)
    # It began from random weights.
    assert "scorecard_base.png" not in names
    # Mean errors at the last lead of each evaluation, of the channels that most people look at first.
    errors = [name for name in names if name.startswith("mean_error")]
    usual = ("z_500", "t_850", "2t", "msl")
    assert errors == [f"mean_error_{name}_{lead}.png" for lead in ("006h", "012h") for name in usual]
    assert [name for name in drawn(run=run, variables=("z_500",)) if name.startswith("mean_error")] == [
        "mean_error_z_500_006h.png", "mean_error_z_500_012h.png"
    ]  # fmt: skip
    (run / "scores.json").unlink()


@pytest.mark.slow
def test_variables_levels_and_samples_can_be_chosen(run: Path, tmp_path: Path) -> None:
    names = drawn(checkpoint=run / "checkpoints" / "best", variables=("u", "t_850"), samples=2, out=tmp_path)
    assert [name.rsplit("_", 1)[0] for name in names] == 2 * ["u_100", "u_500", "u_850", "t_850"]
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_a_time_can_be_chosen(run: Path, tmp_path: Path) -> None:
    assert drawn(checkpoint=run / "checkpoints" / "best", variables=("2t",), time="2020-01-04T06", out=tmp_path) == [
        "2t_20200104T1200.png"
    ]


def test_what_cannot_be_drawn_is_an_error(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best"
    with pytest.raises(SettingsError, match="variables: 'snow' is not predicted; there are 10u, 10v, 2t"):
        drawn(checkpoint=checkpoint, variables=("snow",), out=tmp_path)
    with pytest.raises(SettingsError, match="no prediction of .* starts at 1999-01-01T00:00"):
        drawn(checkpoint=checkpoint, time="1999-01-01", out=tmp_path)
    with pytest.raises(KitError, match=r"expected a run folder with metrics.jsonl, found none; runs nearby: .*drawn"):
        drawn(run=run.parent / "absent")
