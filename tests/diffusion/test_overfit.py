"""The recipe's network in small, on ten fields that it sees again and again: samples are as fine as the fields are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.cli.main import main
from tests.diffusion.storms import VARIABLES, storm_store

_STEPS, _MUST = 240, 1.5
"""Steps, and by how much the power of samples at 2 to 8 grid lengths may differ from that of targets."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_samples_are_as_fine_as_the_fields_that_were_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    storm_store(tmp_path / "store")
    # One pair of validation, which is looked at after every ten steps.
    data = ("--data.store", "store", "--data.workers", "0", "--data.valid", "2024-06-02T00/2024-06-02T01")
    learning = ("--train.accumulate", "1", "--optim.lr", "1e-3", "--optim.warmup", "20", "--train.ema", "none")
    smaller = ("--diffusion.width", "24", "--train.steps", str(_STEPS), "--track.uri", "none", "--run.name", "ten")
    assert main(["finetune", "--recipe", "hrrr-50m", *data, *learning, *smaller]) == 0
    quality = json.loads((tmp_path / "runs" / "ten" / "samples.json").read_text())
    assert quality["fine_by_channel"].keys() == set(VARIABLES)
    assert 1 / _MUST < quality["fine"] < _MUST
