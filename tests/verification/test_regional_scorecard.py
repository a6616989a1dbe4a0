"""Scorecards of regions, and of models with more variables than the weights below."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kit.checkpoint.folder import open_checkpoint
from kit.data.dataset import Pairs
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions, load_base_predictor, load_predictor
from kit.metrics.scores import area_weights
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification import scorecard
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.factories import synthetic_dataset, synthetic_store, write_synthetic
from tests.verification.summed import rmse, summed

OLD = {"2t", "10u", "10v", "msl"} | {f"{name}_{level}" for name in "tuvqz" for level in (100, 500, 850)}
REGION = (50.0, -40.0, -50.0, 30.0)


def run(folder: Path, name: str, **sections: Any) -> Path:
    raw: dict[str, Any] = {
        "run": {"name": name, "dir": folder},
        "optim": {"lr": 1e-3, "warmup": 2},
        "train": {"steps": 4},
        **sections,
    }
    return Path(finetune(Settings.model_validate(raw)).checkpoint)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Trained on a box across Greenwich with a halo, and on one variable more than the weights that it began from."""
    folder = tmp_path_factory.mktemp("regions")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    globe = synthetic_store(folder / "globe", times=16)
    more = synthetic_store(folder / "more", times=16, surface=("2t", "10u", "10v", "msl", "2d"))
    base = run(folder, "base", data={"store": str(globe.path)}, model={"weights": "random", "statistics": "store"})
    return run(
        folder,
        "region",
        data={"store": str(more.path), "region": REGION, "halo": 22.5},
        model={"weights": str(base), "new_variables": ("2d",)},
    )


@pytest.fixture(scope="module")
def result(checkpoint: Path) -> dict[str, Any]:
    return evaluate(EvaluateSettings(checkpoint=checkpoint, device="cpu")).to_dict()


@pytest.mark.slow
def test_a_checkpoint_remembers_its_halo(checkpoint: Path) -> None:
    """11.25 degrees between columns: 4 west of Greenwich and 3 east of it (0, 11.25, 22.5), and 2 more on each side."""
    data = json.loads((checkpoint / "kit.json").read_text())["data"]
    assert data["halo"] == 22.5
    assert data["grid"]["columns"] == [-8, 8]
    assert data["grid"]["scored"][1] == [5, 11]


def test_scores_are_of_the_region_alone(checkpoint: Path, result: dict[str, Any]) -> None:
    """Persistence by hand, from the columns of 326.25 to 22.5 degrees east and the rows of 45 N to 45 S."""
    store = Store.open(Path(result["store"]))
    rows = np.flatnonzero((store.latitude <= 50) & (store.latitude >= -50))
    columns = [list(store.longitude).index(degrees) for degrees in (326.25, 337.5, 348.75, 0, 11.25, 22.5)]
    last = len(store.times)
    states = store.read("2t", list(range(last - 3, last))).astype(np.float64)[:, rows][..., columns]
    weights = area_weights(store.latitude[rows]).numpy()[:, None]
    expected = np.sqrt((np.diff(states, axis=0) ** 2 * weights).mean())
    assert result["scores"]["2t"]["persistence_rmse"] == pytest.approx(expected, rel=1e-6)
    assert result["scores"].keys() == OLD | {"2d"}


def test_predictions_are_those_of_the_larger_box(checkpoint: Path, tmp_path: Path) -> None:
    """Scores of the region from predictions of all that the model sees, cut by hand."""
    predictor = load_predictor(open_checkpoint(checkpoint), Conditions(device="cpu"))
    pairs = predictor.pairs
    sums = summed(predictor.space, pairs, tmp_path / "sums.zarr")
    assert pairs.selection.grid.window is not None
    rows, columns = pairs.selection.grid.window
    squares = []
    with torch.no_grad():
        for index in range(len(pairs)):
            predicted = predictor.space.predict(pairs[index].inputs).surf_vars["msl"]
            error = (predicted - pairs[index].target.surf_vars["msl"])[0, 0, rows, columns].double()
            squares.append((error.square() * area_weights(pairs.latitude[rows])[:, None]).mean().item())
    assert rmse(sums, "msl") == pytest.approx(float(np.sqrt(np.mean(squares))), rel=1e-9)


def test_errors_are_told_by_distance_from_the_edge(result: dict[str, Any]) -> None:
    rings = result["edge"]
    assert [ring["distance"] for ring in rings] == [0, 4]
    assert rings[0]["rmse"].keys() == rings[0]["persistence_rmse"].keys() == OLD | {"2d"}
    assert all(value > 0 for ring in rings for value in ring["rmse"].values())
    assert rings[0]["scored"] < rings[1]["scored"]
    json.dumps(result, allow_nan=False)


def test_what_was_known_before_is_compared_with_before(result: dict[str, Any]) -> None:
    table = result["forgetting"]
    assert table.keys() == OLD  # and not of 2d, which the base weights have never heard of
    assert "base_rmse" not in result["scores"]["2d"]
    for name, row in table.items():
        assert row["after"] == result["scores"][name]["rmse"]
        assert row["before"] == result["scores"][name]["base_rmse"]
        assert row["change"] == pytest.approx(row["after"] / row["before"] - 1)


def test_the_base_predicts_what_it_did_by_itself(checkpoint: Path, result: dict[str, Any], tmp_path: Path) -> None:
    """Its own checkpoint, on the same box of the other store."""
    base = json.loads((checkpoint / "kit.json").read_text())["base"]["name"]
    predictor = load_predictor(open_checkpoint(checkpoint), Conditions(device="cpu"))
    own = load_predictor(open_checkpoint(Path(base)), Conditions(device="cpu", store=result["store"]))
    grid = predictor.pairs.selection.grid
    selection = own.pairs.selection
    pairs = Pairs(own.store, type(selection)(**{**vars(selection), "grid": grid}), predictor.pairs.period)
    sums = summed(own.space, pairs, tmp_path / "sums.zarr")
    assert rmse(sums, "2t") == pytest.approx(result["forgetting"]["2t"]["before"], rel=1e-12)


def test_one_model_is_there_at_a_time(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[weakref.ref[torch.nn.Module]] = []

    def noting(*arguments: Any) -> Any:
        predictor = load_predictor(*arguments)
        first.append(weakref.ref(predictor.space.model))
        return predictor

    def asking(*arguments: Any) -> Any:
        assert first[0]() is None
        return load_base_predictor(*arguments)

    monkeypatch.setattr(scorecard, "load_predictor", noting)
    monkeypatch.setattr(scorecard, "load_base_predictor", asking)
    bands: dict[str, Any] = {"latitude_bands": 2, "window_bands": 2}
    evaluate(EvaluateSettings(checkpoint=checkpoint, device="cpu", memory=bands))
    assert len(first) == 1


@pytest.mark.slow
def test_a_store_across_greenwich_trains_and_scores(tmp_path: Path, empty_database: Path) -> None:
    """0 to 33.75 and 315 to 348.75 degrees east: 4 columns in the east and 4 in the west."""
    dataset = synthetic_dataset(times=16, height=8, width=8, box=(40, 0, -40, 70))
    longitude = [0, 11.25, 22.5, 33.75, 315, 326.25, 337.5, 348.75]
    store = write_synthetic(dataset.assign_coords(longitude=longitude), tmp_path / "store")
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    checkpoint = run(tmp_path, "across", data={"store": str(store.path)}, model={"weights": "random"})
    result = evaluate(EvaluateSettings(checkpoint=checkpoint, device="cpu")).to_dict()
    assert result["forgetting"] == {}
    assert [ring["distance"] for ring in result["edge"]] == [0]
