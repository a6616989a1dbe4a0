"""The command itself, on this machine, and with a cause faked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from kit.cli.main import main
from kit.doctor import examination
from kit.doctor.diagnosis import Diagnosis, Examination, error, ok, skipped, warning
from kit.doctor.packages import Torch
from kit.doctor.settings import DoctorSettings


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--json"]) == 0
    out, _ = capsys.readouterr()
    result = json.loads(out)
    assert result["passed"] is True
    checks = result["checks"]
    assert all(check.keys() == {"name", "status", "detail", "remedy", "evidence"} for check in checks)
    assert result["counts"] == {**dict.fromkeys(("ok", "warning", "error", "skipped"), 0)} | Counter(
        check["status"] for check in checks
    )
    # Whatever wants doing says what.
    assert all(check["remedy"] for check in checks if check["status"] in ("warning", "error"))
    names = {check["name"] for check in checks}
    assert names >= {
        "driver", "torch", "torchvision", "pin torch", "lock", "attention cpu chosen", "memory", "threads",
        "disk runs", "disk cache", "file era5-sample", "mlflow", "data stores", "network",
    }  # fmt: skip
    assert len(names) == len(checks)
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_shown_with_its_remedy_and_exits_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["doctor", "--run.dir", "taken"]) == 2
    out, err = capsys.readouterr()
    assert not out
    told = " ".join(err.split())
    assert "taken is not a folder" in told
    assert "remedy: move it away, or choose another folder with --run.dir" in told
    assert "not ready: 1 errors" in told


def test_a_machine_whose_pytorch_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "probe_torch", lambda: Torch(trouble="libcudart.so.13: no such file"))
    examined = examination.examine(DoctorSettings())
    assert not examined.passed
    statuses = {one.name: one.status for one in examined.diagnoses}
    assert statuses["torch"] == "error"
    assert statuses["attention"] == "skipped"
    assert statuses["disk runs"] in ("ok", "warning")


def test_a_warning_does_not_fail() -> None:
    assert Examination((ok("a", "b"), warning("c", "d", "e"), skipped("f", "g"))).passed
    assert not Examination((error("a", "b", "c"),)).passed
    assert Diagnosis("a", "ok", "b").evidence == {}


def test_settings_that_the_doctor_lacks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--run.dri", "x"]) == 2
    assert "run.dir" in capsys.readouterr().err
