"""Ensembles that cannot be: one message, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kit.cli.main import main
from tests.checkpoints import redescribe, store_for, write_whole
from tests.everyday import one_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("bad")
    store = store_for(folder / "store", times=12)
    return SimpleNamespace(store=store, base=write_whole(folder / "base", store), folder=folder)


NOISE = ("--perturb", "noise", "--members", "3")
GAUSSIAN = ("--perturb", "gaussian", "--members", "3")

SETTINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--members", "3"), "perturb: is needed and has no default; give --perturb"),
    (("--perturb", "noise"), "members: say how many members noise perturbations make, such as --members 10"),
    (("--perturb", "random", "--members", "3"), "perturb: input should be 'none', 'noise', 'gaussian' or 'lagged'"),
    ((*NOISE, "--members", "0"), "members: input should be greater than 0, got '0'"),
    ((*NOISE, "--members", "many"), "members: input should be a valid integer"),
    (("--perturb", "none", "--members", "3"), "without perturbations members of one checkpoint are equal"),
    ((*NOISE, "--only_members", "3"), "only_members: there is no member 3; they are counted from 0 to 2"),
    ((*NOISE, "--only_members", "1,1"), "only_members: one is given twice among 1, 1"),
    ((*NOISE, "--only_members", "-1"), "only_members"),
    ((*NOISE, "--members_per_pass", "0"), "members_per_pass"),
    ((*NOISE, "--members_per_pass", "most"), "members_per_pass"),
    ((*NOISE, "--amplitude", "-2"), "amplitude"),
    ((*NOISE, "--error_dates", "10"), "error_dates: has no effect with perturb noise"),
    ((*NOISE, "--error_store", "a"), "error_store: has no effect with perturb noise"),
    ((*GAUSSIAN, "--amplitude", "0"), "amplitude"),
    ((*GAUSSIAN, "--amplitude", "inf"), "amplitude"),
    ((*GAUSSIAN, "--error_dates", "1"), "error_dates"),
    ((*GAUSSIAN, "--error_store", "nowhere"), "'nowhere': there is no such folder"),
    ((*NOISE, "--quantiles", "0.3"), "quantiles: has no effect without --products quantiles"),
    ((*NOISE, "--products", "quantiles", "--quantiles", "0,1"), "quantiles"),
    ((*NOISE, "--products", "quantiles", "--quantiles", "0.5,0.5"), "quantiles: one is given twice among 0.5, 0.5"),
    ((*NOISE, "--products", "median"), "products"),
    ((*NOISE, "--products", "probabilities"), "above: probabilities need thresholds, such as --above 2t=300"),
    ((*NOISE, "--above", "2t=300"), "above: has no effect without --products probabilities"),
    ((*NOISE, "--products", "probabilities", "--above", "2t=nan"), "above"),
    ((*NOISE, "--products", "mean", "--only_members", "1"), "products: they are of several members, and there is one"),
    ((*NOISE, "--out", "e.nc"), "out: expected a name that ends in .zarr, got 'e.nc'"),
    ((*NOISE, "--steps", "0"), "steps"),
    ((*NOISE, "--seed", "-1"), "seed"),
    ((*NOISE, "--start", "2021-01-01"), "has no initial state at 2021-01-01T00:00"),
    ((*NOISE, "--start", "2020-01-01T09"), "The nearest possible are 2020-01-01T06:00 and 2020-01-01T12:00"),
    (("--perturb", "lagged", "--members", "20"), "lags"),
    ((*NOISE, "--checkpoint", "nowhere"), "nowhere: expected a checkpoint folder with kit.json"),
    ((*NOISE, "--data.store", "nowhere"), "'nowhere': there is no such folder"),
    ((*NOISE, "--memory.recompute", "blocks"), "memory.recompute"),
    ((*NOISE, "--lags", "3"), "unknown setting --lags"),
)


@pytest.mark.parametrize(("arguments", "message"), one_in(3, SETTINGS, [" ".join(given) for given, _ in SETTINGS]))
def test_settings_that_cannot_be_are_told(
    made: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--checkpoint": str(made.base), "--out": "e.zarr", "--device": "cpu", "--steps": "1"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert_refused([part for pair in given.items() for part in pair], message, capsys)
    assert list(tmp_path.iterdir()) == []


def assert_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["ensemble", *arguments])
    told = " ".join(capsys.readouterr().err.split())
    assert code == 2, told
    assert message in told
    assert "Traceback" not in told
    assert told.count("kit ensemble:") == 1


def cut_kit_json(folder: Path) -> None:
    text = (folder / "base" / "kit.json").read_text()
    (folder / "base" / "kit.json").write_text(text[: len(text) // 2])


def change_weights(folder: Path) -> None:
    file = folder / "base" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose_the_store(folder: Path) -> None:
    shutil.rmtree(folder / "store")


def lose_a_chunk(folder: Path) -> None:
    (folder / "store" / "2t" / "c" / "9" / "0" / "0").unlink()


def break_a_chunk(folder: Path) -> None:
    (folder / "store" / "2t" / "c" / "9" / "0" / "0").write_bytes(b"no chunk")


def put_nan_into_the_state(folder: Path) -> None:
    import zarr

    array: Any = zarr.open_group(folder / "store")["10v"]
    array[10, 3, 3] = np.nan


def lose_a_variable(folder: Path) -> None:
    shutil.rmtree(folder / "store" / "msl")
    description = json.loads((folder / "store" / "zarr.json").read_text())
    del description["consolidated_metadata"]["metadata"]["msl"]
    (folder / "store" / "zarr.json").write_text(json.dumps(description))


def put_a_file_there(folder: Path) -> None:
    (folder / "e.zarr").write_text("mine")


def put_a_link_there(folder: Path) -> None:
    (folder / "e.zarr").symlink_to(folder / "nowhere")


def put_another_plan_there(folder: Path) -> None:
    part = folder / ".e.zarr.ensemble.part"
    (part / "done").mkdir(parents=True)
    (part / "done" / "checkpoint0-start0-member0").touch()
    (part / "plan.json").write_text("[")


FILES: tuple[tuple[Callable[[Path], None], str], ...] = (
    (cut_kit_json, "kit.json"),
    (change_weights, "model.safetensors"),
    (lose_the_store, "there is no such folder"),
    (lose_a_chunk, "2t"),
    (break_a_chunk, "2t"),
    (put_nan_into_the_state, "holds NaN or Inf in 10v"),
    (lose_a_variable, "msl"),
    (put_a_file_there, "e.zarr: exists already"),
    (put_a_link_there, "e.zarr: exists already"),
    (put_another_plan_there, "it is no plan of an ensemble"),
)


@pytest.mark.parametrize(("harm", "message"), one_in(2, FILES, [harm.__name__ for harm, _ in FILES]))
def test_files_that_cannot_be_are_told(
    made: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    message: str,
) -> None:
    for name in ("store", "base"):
        shutil.copytree(made.folder / name, tmp_path / name)
    redescribe(tmp_path / "base", lambda text: text.replace(str(made.folder / "store"), str(tmp_path / "store")))
    harm(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = ["--checkpoint", str(tmp_path / "base"), "--out", str(tmp_path / "e.zarr"), "--device", "cpu"]
    assert_refused([*arguments, *NOISE, "--steps", "1"], message, capsys)
    assert sorted(path for path in tmp_path.rglob("*")) == before
