"""The table of scores in the terminal: headline variables by lead, all on request, and what the scores are worth."""

from typing import Any

import pytest

from kit.cli.views.checkpoints import show_scores

ROW = {"rmse": 1.5, "mae": 1.0, "bias": -0.25, "persistence_rmse": 2.0, "skill": 0.25, "dates": 60}
SURE = {**ROW, "rmse_low": 1.25, "rmse_high": 1.75, "persistence_significant": True, "base_rmse": 1.6}


def result(*hours: int, **more: Any) -> dict[str, Any]:
    leads = {f"{hour:03d}h": {"2t": ROW | {"rmse": hour / 8}, "u_50": ROW, "z_500": SURE} for hour in hours}
    rows = {"lead_hours": float(hours[-1]), "scores": leads[f"{hours[-1]:03d}h"], "units": {"2t": "K"}}
    return {"checkpoint": None, "forecast_file": "f[1].nc", "samples": 60, **rows, "leads": leads, **more}


def shown(capsys: pytest.CaptureFixture[str], found: dict[str, Any], **options: str) -> list[str]:
    show_scores(found, **options)
    return capsys.readouterr().err.splitlines()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def cells(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(f"\u2502 {name}"))
    return [cell.strip() for cell in line.strip("\u2502").split("\u2502")]


def test_headline_variables_have_a_column_for_each_lead(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, result(*range(6, 246, 6)))
    assert "f[1].nc: 60 predictions, up to 240 h ahead" in lines
    assert cells(lines, "2t") == ["2t (K)", "3", "9", "15", "30"]
    # Only differences from persistence that are significant have a mark.
    assert cells(lines, "z_500") == ["z_500", *["1.5*"] * 4]
    assert any("1.25 to 1.75" in line for line in lines)
    assert "* the difference from persistence is significant" in lines
    assert not any("u_50" in line for line in lines)
    few = shown(capsys, result(6, 12))
    assert cells(few, "2t") == ["2t (K)", "0.75", "1.5"]


def test_everything_is_shown_on_request_and_where_there_is_one_lead(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, result(6, 12), table="full")
    assert [line for line in lines if line.endswith("h ahead")][1:] == ["6 h ahead", "12 h ahead"]
    assert len([line for line in lines if "u_50" in line]) == 2
    assert cells(shown(capsys, result(6)), "u_50") == ["u_50", "1.5", "1", "-0.25", "2", "0.25"]


def test_anomaly_correlations_have_a_column_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(6)
    found["leads"]["006h"]["2t"]["acc"] = 0.975
    lines = shown(capsys, found)
    assert cells(lines, "2t")[-1] == "0.975"
    assert cells(lines, "u_50")[-1] == "-"


def test_dates_that_training_saw_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    seen = {"stage": "base: HRES", "split": "train", "period": "2016/2021", "start": 5, "inputs": 6, "targets": 7}
    apart = {**seen, "stage": "stage 1 (lora)", "start": 0, "inputs": 0, "targets": 0}
    # When it was trained on is not known, but that it was on another made-up world.
    elsewhere = {**apart, "stage": "stage 0", "period": "unknown"}
    unknown = dict.fromkeys(seen, "unknown") | {"stage": "base", "split": "valid"}
    lines = shown(capsys, result(6, leakage=[seen, apart, elsewhere, unknown], left_out={"starts": 1, "states": 6}))
    (warning,) = (line for line in lines if line.startswith("warning"))
    assert "base: HRES saw 5 of the start dates, 6 input states and 7 targets (train, 2016/2021)" in warning
    assert "unknown whether these saw the dates that are scored: base (valid)" in lines
    assert any("6 predictions, among them all of 1 initial times" in line for line in lines)
    assert not any("left out" in line or "warning" in line for line in shown(capsys, result(6)))


def test_members_of_an_ensemble_have_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"dates": 60, "crps": 0.4, "crps_low": 0.3, "crps_high": 0.5, "rmse": 0.75, "spread": 0.6}
    row |= {"spread_error": 0.82, "crps_skill": 0.9, "persistence_crps_significant": True}
    members = {f"{hour:03d}h": {"2t": row, "u_50": row, "headlines": {"energy_score": 1.0}} for hour in (6, 12)}
    found = result(6, 12, members=8, ensemble=members)
    lines = shown(capsys, found)
    # The last table of the variable.
    (line,) = (line for line in lines if line.startswith("\u2502 2t (K)") and "6 h" in line)
    assert [cell.strip() for cell in line.strip("\u2502").split("\u2502")][1:] == [
        "6 h", "0.4", "0.75", "0.6", "0.82", "0.9*"
    ]  # fmt: skip
    assert any("0.3 to 0.5" in line for line in lines)
    assert not any("u_50" in line for line in lines)
    assert len([line for line in shown(capsys, found, table="full") if "u_50" in line and "6 h" in line]) == 1
