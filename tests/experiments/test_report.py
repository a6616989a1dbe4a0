"""Reports on runs: what is there is on the page, what is not is said."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

import kit
from kit.checkpoint.run_folder import load_side_file
from kit.cli.main import main
from kit.experiments.report import as_typed
from kit.io.errors import SettingsError
from kit.io.sealed import write_sealed
from tests.compared_runs import make_runs
from tests.plots.test_comparison_page import HOSTILE, check
from tests.verification.forecasts import ensemble_for


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> list[Path]:
    """Two runs; to be read only."""
    return make_runs(tmp_path_factory.mktemp("runs"), empty_database)


@pytest.fixture
def run(runs: list[Path], tmp_path: Path) -> Path:
    """A copy of a run that may be changed."""
    shutil.copytree(runs[0], tmp_path / "copy", ignore=shutil.ignore_patterns("resume"))
    return tmp_path / "copy"


def words(file: Path) -> str:
    text = file.read_text()
    check(text)
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL).split())


@pytest.mark.slow
def test_a_report_holds_what_the_run_folder_does(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs[0]), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["html"] == str(runs[0] / "report.html")
    text = words(runs[0] / "report.html")
    record = load_side_file(runs[0] / "provenance.json", set())
    card = load_side_file(runs[0] / "scores.json", set())
    for expected in (
        record["data"]["sha256"],
        record["lock_sha256"],
        f"torch {record['packages']['torch']}",
        "optim.lr 0.001",
        "Trained on synthetic data" if card["synthetic"] else "random weights",
        f"{card['samples']} forecasts in {card['period']}",
        f"{card['leads']['006h']['2t']['rmse']:.4g}",
        "Test dates seen in training",
        "the aurora-finetune-kit developers",
        "# first",
        "kit finetune --config",
    ):
        assert expected in text, expected
    # Planned beside measured.
    assert re.search(r"peak memory, GiB [\d.]+ [\d.]+", text)
    client = MlflowClient(f"sqlite:///{runs[0].parent / 'mlflow.db'}")
    assert "report.html" in [file.path for file in client.list_artifacts(record["mlflow_run_id"])]


@pytest.mark.slow
def test_a_later_report_replaces_the_first(run: Path) -> None:
    found = kit.report(run=run, plan=False)
    assert found.missing == [f"maps: kit plot --run {run}"]
    assert "peak memory, GiB \N{EN DASH} " in words(run / "report.html")
    Image.new("RGB", (4, 4)).save(run / "figures" / "2t_20200101T0000.png")
    assert kit.report(run=run, plan=False).missing == []
    assert "2t_20200101T0000" in words(run / "report.html")
    assert not list(run.glob(".*part"))


def test_what_is_not_there_is_said(run: Path) -> None:
    for name in ("scores.json", "qa.json", "trains.json"):
        (run / name).unlink()
    shutil.rmtree(run / "figures")
    found = kit.report(run=run, plan=False)
    said = "; ".join(found.missing)
    for expected in (
        "scores: kit evaluate",
        "maps: kit plot",
        "qa.json: it is not there",
        "trains.json: it is not there",
    ):
        assert expected in said
    text = words(run / "report.html")
    assert "Not scored yet" in text
    assert "Test dates seen in training: unknown" in text


def test_scores_of_ensembles_are_shown_beside_those_of_the_run(run: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"surface": ("2t", "tp"), "atmospheric": (), "height": 8, "width": 16}
    made = ensemble_for(tmp_path, members=3, **chosen)
    file = made.own(tmp_path / "ensemble.zarr")
    scored = kit.evaluate(forecast_file=file, data={"store": str(made.store.path)}, out=tmp_path / "sums")
    kit.report(run=run, plan=False, ensembles=(tmp_path / "sums",))
    text = words(run / "report.html")
    assert f"{file.name}: 3 members from {scored.samples} initial times" in text
    assert scored.ensemble is not None
    row = scored.ensemble["006h"]["2t"]
    assert f"2t {row['crps']:.4g}" in text
    assert f"{row['rmse']:.4g} {row['spread']:.4g} {row['spread_error']:.3g}" in text
    shown = re.findall(r'alt="(\S+) of', (run / "report.html").read_text())
    assert shown == ["spread_error", "ranks_006h", "ranks_024h"]


def test_what_holds_no_scores_of_an_ensemble_is_refused(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for folder in (tmp_path / "nothing", run / "sums"):
        with pytest.raises(SettingsError, match="ensembles: .*expected the sums of one ensemble"):
            kit.report(run=run, plan=False, ensembles=(folder,), out=page)
    assert not page.exists()


def test_a_run_without_a_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert any(line.startswith("a checkpoint") for line in kit.report(run=run, plan=False).missing)
    assert "optim.lr 0.001" in words(run / "report.html")


def test_leakage_is_shown_where_somebody_looked(run: Path) -> None:
    card = load_side_file(run / "scores.json", set())
    stage = {"stage": "full", "split": "train", "period": "2020", "start": 3, "inputs": "unknown", "targets": 4}
    write_sealed(run / "scores.json", {**card, "leakage": [stage]})
    kit.report(run=run, plan=False)
    assert "full train 2020 3 unknown 4" in words(run / "report.html")
    assert "Test dates seen in training: some, see below" in words(run / "report.html")


@pytest.mark.parametrize(
    ("counts", "said"),
    [((0, 0), "none"), ((0, "unknown"), "unknown"), ((1, "unknown"), "some, see below"), ((), "unknown")],
    ids=["none", "one unknown", "one seen", "nobody looked"],
)
def test_what_is_unknown_is_not_none(counts: tuple[int | str, ...], said: str, run: Path) -> None:
    card = load_side_file(run / "scores.json", set())
    stages = [{"stage": "stage 1", "start": count, "inputs": count, "targets": count} for count in counts]
    write_sealed(run / "scores.json", {**card, "leakage": stages})
    kit.report(run=run, plan=False)
    assert f"Test dates seen in training: {said}." in words(run / "report.html")


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["/opt/x/bin/kit", "finetune", "--adapt.targets", "*"], "kit finetune --adapt.targets '*'"),
        (["/opt/x/kit/__main__.py", "finetune", "--run.name", "a b"], "python -m kit finetune --run.name 'a b'"),
        (["train.py"], "train.py"),
        ([], ""),
    ],
    ids=["console", "module", "script", "unknown"],
)
def test_a_command_can_be_typed_again(arguments: list[str], typed: str) -> None:
    assert as_typed(arguments) == typed


def test_what_comes_from_files_is_escaped(run: Path) -> None:
    card = load_side_file(run / "scores.json", set())
    card["leads"] = {HOSTILE: {HOSTILE: card["leads"]["006h"]["2t"]}}
    write_sealed(run / "scores.json", {**card, "period": HOSTILE, "units": {HOSTILE: HOSTILE}})
    record = load_side_file(run / "provenance.json", set())
    write_sealed(run / "provenance.json", {**record, "argv": ["kit", HOSTILE]})
    kit.report(run=run, plan=False)
    assert "<script" not in (run / "report.html").read_text()
    assert "&lt;script&gt;" in words(run / "report.html")


def _nothing(_run: Path) -> None: ...


def _existing(run: Path) -> None:
    (run.parent / "page.html").write_text("mine")


def _change(run: Path) -> None:
    file = run / "checkpoints" / "best" / "kit.json"
    file.write_text(file.read_text().replace('"steps": 3', '"steps": 4'))


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (_nothing, ["{run}/.."], "expected the folder of a run"),
        (_nothing, ["{run}/absent"], "expected the folder of a run"),
        (_nothing, ["{run}/checkpoints/best"], "expected the folder of a run"),
        (_nothing, ["{run}", "--out", "{run}/page.pdf"], "ends in .html"),
        (_existing, ["{run}", "--out", "{run}/../page.html"], "exists already"),
        (_nothing, ["{run}", "--out", "{run}/absent/page.html"], "cannot be written"),
        (_change, ["{run}"], "was changed since it was written"),
        (_nothing, ["{run}", "--plans"], "unknown setting --plans"),
        (_nothing, [], "required: RUN"),
    ],
    ids=["parent", "absent", "checkpoint", "pdf", "existing", "no folder", "changed", "unknown", "nothing"],
)
def test_what_cannot_be_reported_on_is_one_message(
    damage: Callable[[Path], None], arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")}
    assert main(["report", "--no-plan", *(text.format(run=run) for text in arguments)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")} == before
