"""The Python API: light to import, typed, the same as the command line, and at home in a notebook."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import assert_type

import numpy as np
import pytest
import torch
import xarray as xr
from aurora import Batch

import kit
from kit.checkpoint.folder import Checkpoint
from kit.cli.main import main
from kit.data.store.reader import Store
from kit.forecasting.forecast import ForecastResult
from kit.forecasting.loaded import LoadedCheckpoint
from kit.io.errors import CheckpointError, SettingsError
from kit.memory.settings import MemorySettings
from kit.planning.plan import Plan
from kit.run.finetune import FinetuneResult
from kit.verification.results import Scorecard
from tests.checkpoints import LEVELS, store_for, write_whole
from tests.factories import synthetic_dataset

ROOT = Path(__file__).parents[1]
API = (
    "build_store",
    "compare",
    "ensemble",
    "evaluate",
    "finetune",
    "forecast",
    "load_checkpoint",
    "open_store",
    "plan",
    "report",
)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "kit").rglob("*.py")
    if path.name != "__main__.py"
)


def script() -> str:
    """The script that the README shows."""
    (found,) = re.findall(r"^ *```python\n(.*?)^ *```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_for(tmp_path_factory.mktemp("api") / "store")


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("api") / "checkpoint", store)


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'aurora', 'xarray', 'mlflow', 'pydantic', 'numpy'}"
    code = f"import sys, kit; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_module_takes_the_place_of_a_function() -> None:
    for module in MODULES:
        importlib.import_module(module)
    for name in API:
        assert callable(getattr(kit, name))
        assert "Raises:" in (getattr(kit, name).__doc__ or "")
    with pytest.raises(AttributeError, match="has no attribute 'train_model'"):
        _ = kit.train_model
    assert set(kit.__all__) == {*API, "Settings", "__version__"}


def test_results_have_their_types_and_are_what_json_prints(
    store: Store, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = assert_type(kit.evaluate(checkpoint=checkpoint, data={"store": str(store.path)}, base=False), Scorecard)
    assert (
        main(["evaluate", "--checkpoint", str(checkpoint), "--data.store", str(store.path), "--no-base", "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    timed = {"samples_per_second", "data_wait_fraction"}
    assert {key: value for key, value in card.to_dict().items() if key not in timed} == {
        key: value for key, value in printed.items() if key not in timed
    }
    where = {"checkpoint": checkpoint, "data": {"store": str(store.path)}}
    written = assert_type(kit.forecast(**where, steps=2, out=tmp_path / "f.nc"), ForecastResult)
    assert written.to_dict()["steps"] == 2
    planned = assert_type(kit.plan(kit.Settings(model={"variant": "small"}), grid="32x64"), Plan)
    assert planned.to_dict()["grid"] == [32, 64]


@pytest.mark.slow
def test_settings_are_given_keyword_by_keyword_or_as_an_object(tmp_path: Path) -> None:
    run = {"name": "api", "dir": tmp_path}
    settings = kit.Settings(run=run, train={"steps": 1, "device": "cpu"}, memory=MemorySettings())
    result = assert_type(kit.finetune(settings), FinetuneResult)
    assert (result.steps, result.to_dict()["steps"]) == (1, 1)
    assert Path(result.checkpoint).is_dir()
    # Keywords go before an object: the same settings, another name.
    again = kit.finetune(settings, run={"name": "again", "dir": tmp_path})
    assert again.valid == result.valid
    with pytest.raises(AttributeError):
        result.steps = 2  # type: ignore[misc]


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting train.stps.*did you mean train.steps"):
        kit.finetune(train={"stps": 3})


def test_a_checkpoint_predicts_from_a_dataset_as_kit_forecast_does(
    store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    loaded = assert_type(kit.load_checkpoint(checkpoint, device="cpu"), LoadedCheckpoint)
    states = synthetic_dataset(levels=LEVELS)
    predicted = assert_type(loaded.predict(states, steps=2), xr.Dataset)
    start = str(states["time"].values[-1])[:16]
    kit.forecast(checkpoint=checkpoint, data={"store": str(store.path)}, start=start, steps=2, out=tmp_path / "f.nc")
    expected = xr.load_dataset(tmp_path / "f.nc")
    assert expected.sizes == predicted.sizes
    for name in ("2t", "t", "z"):
        np.testing.assert_array_equal(predicted[name], expected[name])


def test_a_checkpoint_predicts_from_a_batch_and_gives_its_model(checkpoint: Path, store: Store) -> None:
    loaded = kit.load_checkpoint(checkpoint, device="cpu")
    batch = kit_inputs(store, loaded)
    one, two = (assert_type(loaded.predict(batch, steps=steps), Batch) for steps in (1, 2))
    first, second = loaded.roll_out(batch, 2)
    assert torch.equal(one.surf_vars["2t"], first.surf_vars["2t"])
    assert torch.equal(two.atmos_vars["t"], second.atmos_vars["t"])
    assert not loaded.model.training
    assert loaded.spec.variant == "small"
    with pytest.raises(CheckpointError, match="expected a checkpoint folder"):
        kit.load_checkpoint(checkpoint / "elsewhere")


def kit_inputs(store: Store, loaded: LoadedCheckpoint) -> Batch:
    from kit.forecasting.predictor import Conditions, pairs_of

    assert isinstance(loaded.checkpoint, Checkpoint)
    return pairs_of(loaded.checkpoint, loaded.spec, store, Conditions(), targets=False).inputs([0])


@pytest.mark.slow
def test_the_script_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len([line for line in script().splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(script(), "README.md", "exec"), {})  # noqa: S102 - the very text that a reader copies
    assert (tmp_path / "forecast.nc").is_file()


@pytest.mark.slow
def test_a_notebook_shows_progress_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cell = f"import os; os.chdir({str(tmp_path)!r})\n" + script().replace("20}", "2}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
    shown = json.dumps(notebook.cells[0].outputs)
    assert "step 2/2" in shown
    assert "validation after step 2" in shown
