"""Comparisons of real runs, and of whatever else may stand for one."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.checkpoint.run_folder import load_side_file
from kit.cli.main import main
from kit.io.errors import SettingsError
from kit.io.sealed import write_sealed
from kit.verification.comparison import Comparison, compare
from kit.verification.comparison_settings import CompareSettings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.compared_runs import make_runs
from tests.everyday import one_in
from tests.verification.compared import write_sums

ERRORS = {"2t": np.linspace(1, 2, 24)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> list[Path]:
    """Two runs; to be read only."""
    return make_runs(tmp_path_factory.mktemp("runs"), empty_database)


def compared(*texts: str | Path, **settings: Any) -> Comparison:
    chosen = CompareSettings.model_validate({"runs": tuple(map(str, texts)), **settings})
    return compare(chosen)[0]


def card_of(run: Path) -> dict[str, Any]:
    return load_side_file(run / "scores.json", set())


def test_runs_are_compared_in_all_that_they_are(runs: list[Path]) -> None:
    found = compared(*runs)
    assert dict(found.settings) == {"optim.lr": ["0.001", "0.002"]}
    assert [run["name"] for run in found.runs] == ["first", "second"]
    for run, folder in zip(found.runs, runs, strict=True):
        assert run["steps"] == 3
        assert run["trainable_parameters"] == run["total_parameters"] > 0
        assert run["peak_memory_gib"] > 0
        assert run["store_sha256"] == run["evaluated"]["store_fingerprint"]
        assert len(run["mlflow_run_id"]) == 32
        record = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        validated = [line["loss"] for line in record if line["kind"] == "valid"]
        assert run["valid_loss"] == {"before": validated[0], "best": min(validated)}
    # The same scores as those that each evaluation printed: the dates are the same.
    cards = [card_of(run) for run in runs]
    rows = [row for row in found.scores if row.score == "rmse" and row.region == "all"]
    assert {row.variable for row in rows} == cards[0]["leads"]["006h"].keys()
    for row in rows:
        ours = [card["leads"][row.lead][row.variable]["rmse"] for card in cards]
        assert row.values == pytest.approx(ours, rel=1e-12)
        assert row.difference == pytest.approx(ours[1] - ours[0], rel=1e-6, abs=1e-12)
    assert found.dates is not None
    assert found.dates["count"] == cards[0]["samples"]
    assert found.tests["count"] == 0
    assert found.notes == []
    assert found.units == cards[0]["units"]


@pytest.mark.slow
def test_dates_that_training_saw_are_counted(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run["test_dates_seen"] for run in compared(*runs).runs] == ["no", "no"]
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for copy in copies:
        shutil.rmtree(copy / "sums")
        # A copy's scores are none of the MLflow run that it was copied from.
        (copy / "provenance.json").unlink()
        raw = {"checkpoint": copy / "checkpoints" / "best", "data": {"test": "2020-01-01/2020-01-02"}, "base": False}
        evaluate(EvaluateSettings.model_validate({**raw, "device": "cpu"}))
    for run in compared(*copies).runs:
        assert run["test_dates_seen"] == "yes"
        (train, valid) = run["leakage"]
        # Five states, of which three have one before and one after them.
        assert (train["split"], train["start"], train["inputs"], train["targets"]) == ("train", 3, 4, 3)
        assert (valid["split"], valid["start"], valid["inputs"], valid["targets"]) == ("valid", 0, 0, 0)
    # A scorecard says what was counted when it was made.
    assert compared(runs[0] / "scores.json", runs[1] / "scores.json").runs[0]["test_dates_seen"] == "no"
    # Sums alone do not say what their model saw.
    alone = [Path(shutil.copytree(next((run / "sums").glob("*.zarr")), tmp_path / f"{run.name}.zarr")) for run in runs]
    assert [run["test_dates_seen"] for run in compared(*alone).runs] == ["unknown", "unknown"]
    assert main(["compare", *map(str, copies)]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "warning: first saw dates that are scored here: stage 1 (full), train (3 starts, 4 inputs, 3" in shown


def test_checkpoints_sums_scorecards_and_ids_stand_for_runs(runs: list[Path], tmp_path: Path) -> None:
    (sums,) = (runs[1] / "sums").glob("*.zarr")
    copied = tmp_path / "elsewhere.zarr"
    shutil.copytree(sums, copied)
    expected = compared(*runs).scores
    record = json.loads((runs[1] / "provenance.json").read_text())
    for text in (runs[1] / "checkpoints" / "best", sums, copied, copied.parent):
        found = compared(runs[0], text).scores
        assert [(row.values, row.difference) for row in found] == [(row.values, row.difference) for row in expected]
    by_id = compared(runs[0], record["mlflow_run_id"], run={"dir": runs[0].parent})
    assert by_id.scores == expected
    # Scores of a scorecard alone, without dates.
    card = compared(runs[0], runs[1] / "scores.json")
    values = {(row.variable, row.lead, row.region): row.values for row in card.scores if row.score == "rmse"}
    assert values.keys() == {(row.variable, row.lead, row.region) for row in expected if row.score == "rmse"}
    for row in expected:
        assert values[row.variable, row.lead, row.region] == pytest.approx(row.values, rel=1e-12)
    assert card.dates is None
    assert "scorecards hold no start dates" in card.notes[0]


def test_a_run_that_only_mlflow_has(runs: list[Path], tmp_path: Path) -> None:
    record = json.loads((runs[1] / "provenance.json").read_text())
    where = {"run": {"dir": tmp_path}, "track": {"uri": f"sqlite:///{runs[0].parent / 'mlflow.db'}"}}
    found = compared(runs[0], record["mlflow_run_id"], **where)
    assert found.runs[1]["name"] == "second"
    assert found.runs[1]["path"] is None
    assert found.runs[1]["steps"] == 3
    assert found.settings == {"optim.lr": ["0.001", "0.002"]}
    assert len(found.scores) > 0
    assert [len(losses) for losses in found.losses] == [len(found.losses[0])] * 2
    assert list(tmp_path.iterdir()) == []


def test_settings_alone_need_no_scores(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "third", ignore=shutil.ignore_patterns("sums", "scores.json"))
    found = compared(runs[0], tmp_path / "third", settings_only=True)
    assert (found.scores, found.dates) == ((), None)
    assert found.settings == {"optim.lr": ["0.001", "0.002"]}
    with pytest.raises(SettingsError, match="third: no sums of scores are kept of it. Evaluate it: kit evaluate"):
        compared(runs[0], tmp_path / "third")


def test_sums_of_an_earlier_checkpoint_are_not_those_of_the_run(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "third", ignore=shutil.ignore_patterns("scores.json"))
    # Training went on and found a better one.
    shutil.rmtree(tmp_path / "third" / "checkpoints" / "best")
    shutil.copytree(runs[0] / "checkpoints" / "best", tmp_path / "third" / "checkpoints" / "best")
    with pytest.raises(SettingsError, match="its sums are of an earlier state of the checkpoint"):
        compared(runs[0], tmp_path / "third")


def test_significance_is_counted_beside_what_chance_would_give(tmp_path: Path) -> None:
    many = {f"t_{level}": ERRORS["2t"] for level in range(100, 1100, 100)}
    one = write_sums(tmp_path / "one.zarr", many)
    worse = {name: values + (name in ("t_100", "t_200")) for name, values in many.items()}
    found = compared(one, write_sums(tmp_path / "other.zarr", worse))
    assert found.tests == {"count": 10, "significant": 2, "by_chance": 0.5}
    assert [row.variable for row in found.scores if row.verdict == "worse"] == ["t_100", "t_200"]
    assert found.notes == ["one, other: no settings are recorded there"]


def _sums(name: str, **attributes: Any) -> Callable[[Path, list[Path]], Sequence[str | Path]]:
    def make(folder: Path, _runs: list[Path]) -> Sequence[str | Path]:
        first = write_sums(folder / "one.zarr", ERRORS)
        return [first, write_sums(folder / f"{name}.zarr", ERRORS, **attributes)]

    return make


def _damaged(damage: Callable[[Path], object]) -> Callable[[Path, list[Path]], Sequence[str | Path]]:
    def make(folder: Path, _runs: list[Path]) -> Sequence[str | Path]:
        paths = [write_sums(folder / f"{name}.zarr", ERRORS) for name in ("one", "other")]
        damage(folder / "other.zarr")
        return paths

    return make


def _cut(path: Path) -> None:
    (path / "zarr.json").write_bytes((path / "zarr.json").read_bytes()[:200])


def _scramble(path: Path) -> None:
    for chunk in (path / "sums" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"\0" * 40)


def _card(change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Callable[..., Sequence[str | Path]]:
    def make(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
        card = card_of(runs[1])
        change(card)
        if sealed:
            write_sealed(folder / "scores.json", card)
        else:
            text = (runs[1] / "scores.json").read_text()
            (folder / "scores.json").write_text(text.replace('"samples": ', '"samples": 1'))
        return [runs[0], folder / "scores.json"]

    return make


def _text(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
    (folder / "notes.txt").write_text("no scores")
    return [runs[0], folder / "notes.txt"]


def _two_sums(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
    for name in ("fp32", "bf16"):
        write_sums(folder / "sums" / f"{name}.zarr", ERRORS)
    return [write_sums(folder / "one.zarr", ERRORS), folder / "sums"]


def _broken_checkpoint(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
    shutil.copytree(runs[1], folder / "third")
    file = folder / "third" / "checkpoints" / "best" / "kit.json"
    file.write_text(file.read_text().replace('"steps": 3', '"steps": 4'))
    return [runs[0], folder / "third"]


def _archive(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
    (folder / "model.tar").write_bytes(b"")
    return [runs[0], folder / "model.tar"]


def _existing(folder: Path, runs: list[Path]) -> Sequence[str | Path]:
    (folder / "page.html").write_text("mine")
    return [*runs, "--out", folder / "page.html"]


UNFIT: dict[str, tuple[Callable[[Path, list[Path]], Sequence[str | Path]], str]] = {
    "one run": (lambda _, runs: runs[:1], "expected two or more to compare"),
    "no run": (lambda _, runs: [], "arguments are required: RUNS"),
    "the same run twice": (lambda _, runs: [runs[0], runs[0]], "is given twice"),
    "a run and its checkpoint": (lambda _, runs: [runs[0], runs[0] / "checkpoints" / "best"], "is given twice"),
    "no such place": (lambda folder, runs: [runs[0], folder / "third"], "there is no such file or folder"),
    "a folder that is no run": (lambda folder, runs: [runs[0], folder], "is none of what can be compared"),
    "a text": (_text, "expected a scorecard"),
    "an archive of an export": (_archive, "unpack it"),
    "an id nowhere": (lambda _, runs: [runs[0], "0" * 32], "there is no MLflow store"),
    "an id that the store lacks": (
        lambda folder, runs: [runs[0], "0" * 32, "--track.uri", f"sqlite:///{runs[0].parent / 'mlflow.db'}"],
        "is not in sqlite",
    ),
    "another store": (_sums("other", store_fingerprint="e" * 64), "scores against different data are not compared"),
    "another region": (_sums("other", grid={"region": [60, 0, 30, 40], "halo": 0}), "the region [60, 0, 30, 40]"),
    "other grid points": (_sums("other", weight=32.0), "was scored at other grid points"),
    "other dates": (_sums("other", first=100), "there is no start date that all were evaluated on"),
    "a cut description": (_damaged(_cut), "expected the sums"),
    "scrambled chunks": (_damaged(_scramble), "cannot be read"),
    "several sums": (_two_sums, "has several sums that could be compared; name one in its place"),
    "a changed checkpoint": (_broken_checkpoint, "was changed since it was written"),
    "a changed scorecard": (_card(lambda card: None, sealed=False), "was changed since it was written"),
    "a scorecard without scores": (_card(lambda card: card.update(leads=[])), "found no scores at 'leads'"),
    "a scorecard of other data": (_card(lambda card: card.update(store="/x/era5")), "scores against different data"),
    "a page that exists": (_existing, "exists already"),
    "a page that is none": (lambda folder, runs: [*runs, "--out", folder / "page.pdf"], "ends in .html"),
    "an unknown score": (lambda _, runs: [*runs, "--scores", "rmsee"], "scores: there is no 'rmsee'"),
}  # fmt: skip


@pytest.mark.parametrize("case", one_in(3, UNFIT))
def test_what_cannot_be_compared_is_one_message(
    case: str, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make, message = UNFIT[case]
    arguments = list(map(str, make(tmp_path, runs)))
    before = {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *runs[0].rglob("*"))}
    out = [] if "--out" in arguments else ["--out", "fresh.html"]
    assert main(["compare", *arguments, *out]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *runs[0].rglob("*"))} == before
