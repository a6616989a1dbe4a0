"""What is said of the base weights beside a checkpoint that reads more than they do, or less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.folder import Checkpoint
from kit.cli import main as cli
from kit.forecasting.predictor import remarks_on_base
from kit.io.errors import CheckpointError
from tests.batches import small_spec
from tests.factories import synthetic_store

BASE = small_spec("small")
NEW = replace(BASE, surface=(*BASE.surface, "2d"), static=(*BASE.static, "sdor"), added=("2d", "static_sdor"))


def checkpoint_of(variables: list[str] | None, statics: list[str] | None) -> Checkpoint:
    description = {"model": NEW.as_dict(), "data": {"variables": variables, "statics": statics}}
    return Checkpoint(Path("c"), description)


@pytest.mark.parametrize(
    ("variables", "statics", "said"),
    [
        (None, None, ["know nothing of 2d, static_sdor, which this run added"]),
        (
            None,
            ["lsm", "sdor"],
            ["know nothing of 2d", "were trained with static_z, static_slt, which this run leaves"],
        ),
        (
            ["2t", "2d", "t"],
            None,
            ["know nothing of 2d", "were trained with 10u, 10v, msl, z, u, v, q, which this run"],
        ),
    ],
)
def test_what_differs_is_said(variables: list[str] | None, statics: list[str] | None, said: list[str]) -> None:
    told = remarks_on_base(checkpoint_of(variables, statics), BASE)
    assert len(told) == len(said)
    for part, whole in zip(said, told, strict=True):
        assert whole.startswith(part)


@pytest.mark.parametrize(
    ("variables", "statics", "match"),
    [
        (["2d", "t"], None, "the surface variables .*, and data.variables of this checkpoint has none of them"),
        (["2d", "2t"], None, "the atmospheric variables .*, and data.variables of this checkpoint has none"),
        (None, ["sdor"], "the static variables .*, and data.statics of this checkpoint has none .*--no-base leaves"),
    ],
)
def test_nothing_in_common_is_a_reason(variables: list[str] | None, statics: list[str] | None, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        remarks_on_base(checkpoint_of(variables, statics), BASE)


def test_the_same_variables_need_no_word() -> None:
    assert remarks_on_base(Checkpoint(Path("c"), {"model": BASE.as_dict(), "data": NOTHING_CHOSEN}), BASE) == []


NOTHING_CHOSEN: dict[str, Any] = {"variables": None, "statics": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statics", "told", "compared"),
    [
        ("lsm,sdor", "know nothing of static_sdor, which this run added", True),
        (
            "sdor",
            "the base weights are not scored: they read the static variables lsm, slt, z, and data.statics",
            False,
        ),
    ],
)
def test_an_evaluation_with_new_statics_explains_itself(
    statics: str, told: str, compared: bool, tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = synthetic_store(tmp_path / "store", static=("lsm", "slt", "z", "sdor"), times=20).path
    words = ["--data.store", str(store), "--data.statics", statics, "--model.new_variables", "static_sdor"]
    words += ["--run.dir", str(run_dir), "--run.name", "a", "--train.steps", "1", "--train.device", "cpu"]
    assert cli.main(["finetune", *words, "--data.accept", "negative:static_sdor", "--track.uri", "none"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--checkpoint", str(run_dir / "a" / "checkpoints" / "best"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert told in " ".join(err.split())
    assert bool(json.loads(out)["forgetting"]) == compared
