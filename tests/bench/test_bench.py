"""Runs of suites: files, merging, MLflow, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.bench import fitting, results, scale
from kit.bench.bench import bench, command_of, machine_of, recording
from kit.bench.results import BenchRow
from kit.bench.settings import BenchSettings
from kit.cli import main as cli
from kit.planning.settings import GridSize

MORE = {"peak_gib": 1.0, "host_gib": 1.0, "seconds_estimate": 1.0, "tokens": 1, "pixels": 1, "command": "kit plan"}


@pytest.fixture(autouse=True)
def short_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites that are done at once."""
    monkeypatch.setattr(scale, "run", lambda settings: [BenchRow("a grid", 3.0, "times", 4.0, must=4.0, more=MORE)])
    monkeypatch.setattr(
        fitting, "run", lambda settings: [BenchRow("8 GiB", None, "GiB", more={**MORE, "refused": "no"})]
    )


def settings(run_dir: Path, *suites: str) -> BenchSettings:
    raw = {"suites": suites, "out": run_dir / "docs" / "b.md", "run": {"dir": run_dir}}
    return BenchSettings.model_validate(raw)


def test_suites_run_at_different_times_make_one_page(run_dir: Path) -> None:
    bench(settings(run_dir, "scale"))
    told = bench(settings(run_dir, "fit"))
    assert [row["suite"] for row in told["rows"]] == ["fit"]
    found = results.load(run_dir / "docs" / "b.json")
    assert found.keys() == {"scale", "fit"}
    assert found["scale"]["command"] == "kit bench scale"
    assert found["scale"]["rows"][0]["machine"] == found["scale"]["machine"]["name"]
    page = (run_dir / "docs" / "b.md").read_text()
    assert "| a grid |" in page
    assert "| full, 8 GiB |" not in page
    assert "none: no" in page


def test_rows_go_to_mlflow(run_dir: Path) -> None:
    from mlflow.tracking import MlflowClient

    told = bench(settings(run_dir, "scale", "fit"))
    client = MlflowClient(f"sqlite:///{run_dir / 'mlflow.db'}")
    run = client.get_run(told["mlflow_run_id"])
    assert client.get_experiment(run.info.experiment_id).name == "bench"
    assert run.data.metrics == {"scale/a grid/value": 3.0, "scale/a grid/baseline": 4.0, "scale/a grid/ratio": 0.75}
    assert run.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"b.md", "b.json"}


def test_a_page_from_results(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(settings(run_dir, "scale"))
    out = run_dir / "other" / "page.md"
    words = ["bench", "--from", str(run_dir / "docs" / "b.json"), "--out", str(out), "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0].items() >= {"name": "a grid", "value": 3.0, "ratio": 0.75, "unit": "times"}.items()
    assert out.read_text() == (run_dir / "docs" / "b.md").read_text()


def test_rows_of_tests_stand_on_the_same_page(run_dir: Path) -> None:
    bench(settings(run_dir, "scale"))
    row = BenchRow("a pair", 1.0, "s", 4.0, must=2.0, more={"beside": "xarray"})
    with recording(settings(run_dir)) as recorder:
        told = recorder.run("libraries", "pytest -m benchmark", lambda: [row])
    assert told[0].items() >= {"suite": "libraries", "ratio": 0.25, "verdict": "must"}.items()
    assert results.load(run_dir / "docs" / "b.json").keys() == {"scale", "libraries"}
    page = (run_dir / "docs" / "b.md").read_text()
    assert "| a grid |" in page
    assert "| a pair | 1 s | xarray | 4 | 0.25 | 2 | must met |  |" in page
    assert "`pytest -m benchmark`" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stpe"], "there is no suite 'stpe'; did you mean step"),
        (["scale", "--out", "file/b.md"], "out: cannot write 'file/b.md'"),
        (["--from", "none.json"], "there is no file of results 'none.json'"),
        (["scale", "--card", "RTX 9999"], "there is no card 'RTX 9999'"),
        (["scale", "--out", "broken.md"], "broken.json: expected results of kit bench"),
    ],
)
def test_refusals(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.json").write_text("{")
    assert cli.main(["bench", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_is_what_was_not_left_out() -> None:
    assert command_of(BenchSettings(), "step") == "kit bench step"
    given = BenchSettings(repeats=3, threads=1, grid=GridSize(32, 64))
    assert command_of(given, "fit") == "kit bench fit --repeats 3 --threads 1 --grid 32x64"


def test_a_machine_has_no_host_name() -> None:
    made_of: dict[str, Any] = {
        "cpu": {"name": "AMD EPYC", "cores": 2, "threads": 1},
        "gpus": [{"name": "NVIDIA A100", "driver": "x"}],
        "packages": {"torch": "2.13.0", "microsoft-aurora": "2.0.1"},
        "kit": "0.1.0",
        "platform": "a-host",
    }
    machine = machine_of(made_of)
    start, _, end = machine["name"].partition(" GiB, ")
    assert start.startswith("AMD EPYC, 2 cores, 1 threads, ")
    assert end == "NVIDIA A100, torch 2.13.0"
    assert "a-host" not in json.dumps(machine)
