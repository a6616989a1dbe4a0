"""Exports: the same predictions, whole in themselves, described, and the same bytes every time."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kit.adapt.factory import for_prediction
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import open_checkpoint
from kit.cli.main import main
from kit.export.export import export
from kit.export.settings import ExportSettings
from kit.forecasting.forecast import forecast
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import CheckpointError, SettingsError
from kit.models.space import Fields
from kit.models.weights.load import load
from kit.run.finetune import finetune
from kit.settings import Settings
from tests.adapt.models import equal, predicted
from tests.batches import small_spec
from tests.checkpoints import SPEC, store_for, write_delta, write_whole
from tests.everyday import one_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store, a base, two deltas on it in run folders, a delta on another base."""
    folder = tmp_path_factory.mktemp("alice")
    store = store_for(folder / "store", times=16)
    base, other = write_whole(folder / "base", store), write_whole(folder / "other", store, seed=5)
    deltas = [
        write_delta(folder / "runs" / f"run{seed}" / "checkpoints" / "best", base, store, seed=seed) for seed in (1, 2)
    ]
    return SimpleNamespace(
        folder=folder, store=store, base=base, deltas=deltas, stranger=write_delta(folder / "stranger", other, store)
    )


def run(out: Path, *checkpoints: Path, **changes: Any) -> dict[str, Any]:
    return export(ExportSettings.model_validate({"checkpoint": checkpoints, "out": out, **changes})).to_dict()


@torch.no_grad()
def fields(folder: Path) -> Fields:
    checkpoint = open_checkpoint(folder)
    weights = load(str(folder), checkpoint.spec.upstream)
    return predicted(for_prediction(checkpoint.spec, weights, autocast=False).eval(), checkpoint.spec)


def assert_close(one: Fields, other: Fields) -> None:
    """In training space, where everything is of the order of 1."""
    for name, value in (one.surface | one.atmospheric).items():
        torch.testing.assert_close((other.surface | other.atmospheric)[name], value, rtol=1e-5, atol=1e-5)


def unpacked(archive: Path, where: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(where, filter="data")
    (folder,) = where.iterdir()
    return folder


def test_a_merged_export_predicts_the_same(made: SimpleNamespace, tmp_path: Path) -> None:
    result = run(tmp_path / "given", made.deltas[0])
    assert result["merged"]
    assert result["files"] == ["README.md", "kit.json", "model.safetensors"]
    assert_close(fields(made.deltas[0]), fields(tmp_path / "given"))
    assert not equal(fields(made.base), fields(tmp_path / "given"))
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


METHODS = (
    (AdaptSettings(method="dora", rank=2, targets=("attn.proj",)), True),
    (AdaptSettings(method="adalora", targets=("attn.proj",)), True),
    (AdaptSettings(method="prefix"), False),
    (AdaptSettings(method="prompt"), False),
    (AdaptSettings(method="head"), True),
    (AdaptSettings(method="freeze", train_only=("decoder",)), True),
)


@pytest.mark.parametrize(("settings", "merged"), one_in(2, METHODS, [settings.method for settings, _ in METHODS]))
def test_every_method_predicts_the_same(
    made: SimpleNamespace, tmp_path: Path, settings: AdaptSettings, merged: bool
) -> None:
    delta = write_delta(tmp_path / "delta", made.base, made.store, settings=settings)
    assert run(tmp_path / "given", delta)["merged"] is merged
    assert_close(fields(delta), fields(tmp_path / "given"))
    assert not equal(fields(made.base), fields(tmp_path / "given"))


def test_every_stage_is_kept_and_no_folder_of_the_writer(made: SimpleNamespace, tmp_path: Path) -> None:
    run(tmp_path / "given", made.deltas[0])
    text = (tmp_path / "given" / "kit.json").read_text()
    description = json.loads(text)
    assert [stage["method"] for stage in description["lineage"]] == ["full", "lora"]
    assert "adapter" not in description
    assert description["base"]["name"] == "base"
    assert description["exported"]["merged"][0]["name"] == "run1/checkpoints/best"
    assert str(made.folder) not in text
    assert str(made.folder) not in (tmp_path / "given" / "README.md").read_text()
    # The header of the tensors' file has the same description.
    loaded = load(str(tmp_path / "given" / "model.safetensors"), SPEC.upstream)
    assert loaded is not None
    assert loaded.description == description


def test_an_archive_has_the_same_bytes_every_time(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert main(["export", "--checkpoint", str(made.deltas[0]), "--out", str(tmp_path / name / "given.tar")]) == 0
    told = capsys.readouterr().err
    one, two = ((tmp_path / name / "given.tar").read_bytes() for name in ("one", "two"))
    assert one == two
    assert hashlib.sha256(one).hexdigest() in "".join(told.split())
    with tarfile.open(tmp_path / "one" / "given.tar") as opened:
        members = opened.getmembers()
    assert [member.name for member in members] == ["given/README.md", "given/kit.json", "given/model.safetensors"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_what_is_given_can_be_scored_rolled_out_and_trained_on(
    made: SimpleNamespace, tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the archive, on another machine: nothing of the writer's is there but a store."""
    run(tmp_path / "given.tar", made.deltas[0])
    given = unpacked(tmp_path / "given.tar", tmp_path / "received")
    store = ["--data.store", str(made.store.path)]
    assert main(["evaluate", "--checkpoint", str(given), *store, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    raw = {"checkpoint": (given,), "out": tmp_path / "f.nc", "data": {"store": str(made.store.path)}, "steps": 1}
    assert forecast(ForecastSettings.model_validate(raw)).steps == 1
    more = {
        "run": {"name": "more", "dir": run_dir},
        "data": {"store": str(made.store.path)},
        "model": {"variant": "small", "weights": str(given)},
        "adapt": {"method": "lora", "rank": 2},
        "train": {"steps": 1},
    }
    result = finetune(Settings.model_validate(more))
    lineage = open_checkpoint(Path(result.checkpoint)).description["lineage"]
    assert [stage["method"] for stage in lineage] == ["full", "lora", "lora"]


def test_an_average_is_the_mean_of_the_merged_weights(made: SimpleNamespace, tmp_path: Path) -> None:
    for number, delta in enumerate(made.deltas):
        run(tmp_path / str(number), delta)
    result = run(tmp_path / "mean", *made.deltas, average=True)
    assert result["checkpoint"] == list(map(str, made.deltas))
    one, two, mean = (open_checkpoint(tmp_path / name).tensors() for name in ("0", "1", "mean"))
    assert one.keys() == mean.keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(one[name], two[name]) for name in one)
    (stage,) = open_checkpoint(tmp_path / "mean").description["lineage"]
    assert stage["method"] == "average"
    assert [len(part["lineage"]) for part in stage["of"]] == [2, 2]
    text = (tmp_path / "mean" / "README.md").read_text()
    assert "the average of `run1/checkpoints/best`" in text


PREFIX = AdaptSettings(method="prefix")


def test_what_cannot_be_merged_comes_with_its_base(made: SimpleNamespace, tmp_path: Path) -> None:
    delta = write_delta(made.folder / "prefix", made.base, made.store, settings=PREFIX)
    result = run(tmp_path / "given.tar", delta)
    assert not result["merged"]
    given = unpacked(tmp_path / "given.tar", tmp_path / "received")
    assert result["files"] == ["README.md", "base/model.safetensors", "kit.json", "trained.safetensors"]
    kept = made.folder.rename(made.folder.with_name("away"))
    try:
        loaded = load(str(given), SPEC.upstream)
        got = fields(given)
    finally:
        kept.rename(made.folder)
    assert loaded is not None
    assert loaded.under is not None
    assert loaded.under.path == given / "base" / "model.safetensors"
    assert equal(fields(delta), got)
    assert "The weights below it are in `base`" in (given / "README.md").read_text()


def test_bases_below_bases_come_along(made: SimpleNamespace, tmp_path: Path) -> None:
    second = write_delta(made.folder / "second", made.deltas[0], made.store, settings=PREFIX)
    run(tmp_path / "given", second)
    expected = fields(second)
    shutil.move(made.folder, tmp_path / "away")
    try:
        assert equal(expected, fields(tmp_path / "given"))
    finally:
        shutil.move(tmp_path / "away", made.folder)
    assert (tmp_path / "given" / "base" / "base" / "model.safetensors").is_file()


def test_what_cannot_be_merged_cannot_be_averaged(made: SimpleNamespace, tmp_path: Path) -> None:
    deltas = [write_delta(tmp_path / f"{n}", made.base, made.store, seed=n, settings=PREFIX) for n in (1, 2)]
    with pytest.raises(CheckpointError, match="what adapt.method prefix trained is no part of weights"):
        run(tmp_path / "mean", *deltas, average=True)
    assert not (tmp_path / "mean").exists()


def test_only_what_began_alike_is_averaged(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"best was trained from weights with SHA-256 \w+, .*stranger from others"
    ):
        run(tmp_path / "mean", made.deltas[0], made.stranger, average=True)
    with pytest.raises(CheckpointError, match=r"base began with random weights: .* means nothing"):
        run(tmp_path / "mean", made.deltas[0], made.base, average=True)
    spec = small_spec("small", levels=(300, 500))
    other = write_delta(tmp_path / "levels", made.base, made.store, spec=spec)
    with pytest.raises(CheckpointError, match=r"hold different models: levels, statistics differ"):
        run(tmp_path / "mean", made.deltas[0], other, average=True)
    assert [path.name for path in tmp_path.iterdir()] == ["levels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"checkpoint": ("a", "b")}, "average them with --average"),
        ({"average": True}, "average has no effect with one checkpoint"),
        ({"checkpoint": ("a", "a"), "average": True}, "one is given twice"),
        ({"out": "given.tar.gz"}, "a name that ends in .tar"),
    ),
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExportSettings.model_validate({"checkpoint": ("a",), "out": "given", **changes})


def test_what_is_there_is_not_written_over(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    with pytest.raises(SettingsError, match="given: exists already"):
        run(tmp_path / "given", made.deltas[0])


def test_a_failure_leaves_nothing(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kit.export.export.pack", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "given.tar", made.deltas[0])
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_what_was_trained_on_what_and_how_well(made: SimpleNamespace, tmp_path: Path) -> None:
    row = {"rmse": 1.5, "persistence_rmse": 2.0, "skill": 0.25}
    scores = {"samples": 3, "lead_hours": 6.0, "period": "2020-01-01/2020-01-02", "scores": {"2t": row, "z_500": row}}
    file = made.deltas[0].parents[1] / "scores.json"
    file.write_text(json.dumps(scores))
    run(tmp_path / "given", made.deltas[0])
    file.unlink()
    text = (tmp_path / "given" / "README.md").read_text()
    for expected in (
        "variant `small`",
        "| surface variables | 2t, 10u, 10v, msl |",
        "| levels (hPa) | 300, 500, 850 |",
        "| lora | 7 |",
        "| z_500 | 1.5 | 2 | 0.25 |",
        "3 forecasts of 6 h",
        "16 x 32 points of store",
        "MIT licence, the aurora-finetune-kit developers",
        "Copernicus Climate Change Service",
    ):
        assert expected in text, expected
    # Its base began with random weights, so that nothing of Microsoft's is in it.
    assert "Microsoft" not in text


def test_the_embedded_weights_and_sample_are_credited_as_what_they_are() -> None:
    from kit.export.card import card

    stage = {
        "method": "lora",
        "steps": 5,
        "store": "era5-sample",
        "train": "2020/2021",
        "base": {"name": "aurora-tiny", "sha256": "0" * 64},
        "synthetic": True,
        "licence": "MIT",
    }
    description = {
        "model": {**SPEC.as_dict(), "variant": "tiny"},
        "data": {"store": "era5-sample", "train": "a", "valid": "b", "test": "c"},
        "lineage": [stage],
        "exported": {"kit_version": "0", "merged": [{"name": "x", "sha256": "1"}]},
    }
    text = card(description, "given", None)
    assert "**It was trained on synthetic data**" in text
    assert "Weights `aurora-tiny`: MIT." in text
    assert "Data `era5-sample`: MIT." in text
    assert "Copernicus" not in text
    assert "None were taken of this model" in text
    mixed = card({**description, "lineage": [stage, {**stage, "synthetic": False}]}, "given", None)
    assert "**It began with synthetic data**" in mixed
    assert "**It was trained on synthetic data**" not in mixed
    published = card({**description, "model": {**SPEC.as_dict(), "variant": "small"}}, "given", None)
    assert "MIT licence, Copyright (c) Microsoft Corporation" in published
    assert "base_model: microsoft/aurora" in published
