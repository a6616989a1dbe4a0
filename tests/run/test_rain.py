"""Rain from a store to a scorecard: a new variable beside frozen weights, its losses, its scores, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.checkpoint.folder import open_checkpoint
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.everyday import one_in
from tests.factories import synthetic_dataset, synthetic_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("rain") / "s", surface=("2t", "10u", "10v", "msl", "tp"), times=16)


def settings(store: Store, run_dir: Path, **sections: dict[str, Any]) -> Settings:
    raw: dict[str, dict[str, Any]] = {
        "run": {"name": "rain", "dir": run_dir},
        "data": {"store": str(store.path)},
        "model": {"new_variables": ["tp"]},
        "adapt": {"method": "lora"},
        "optim": {"lr": 1e-3, "warmup": 2},
        "train": {"steps": 4, "device": "cpu"},
    }
    return Settings.model_validate({key: raw.get(key, {}) | sections.get(key, {}) for key in raw | sections})


def validations(run: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "valid"]


@pytest.mark.parametrize(
    ("model", "loss"),
    one_in(
        3,
        (
            ({}, {"weights": {"*": 0, "tp": 1}}),
            ({"heads": {"tp": "two-part"}}, {"name": "huber", "area_weights": True}),
            (
                {"heads": {"tp": "quantile:0.1,0.5,0.9"}, "output_only": ["tp"], "transforms": {"tp": "sqrt"}},
                {"name": "mse"},
            ),
        ),
    ),
)
def test_rain_is_learned_scored_and_found_again(
    store: Store, run_dir: Path, model: dict[str, Any], loss: dict[str, Any]
) -> None:
    result = finetune(settings(store, run_dir, model={"new_variables": ["tp"], **model}, loss=loss))
    assert result.leaks == []
    before, after = (line for line in validations(result.run) if line["step"] in (0, 4))
    assert after["loss"] < before["loss"]
    assert {"tp_rmse_mm", "tp_csi_0.1mm", "tp_bias_0.1mm"} <= after.keys()
    checkpoint = open_checkpoint(Path(result.checkpoint))
    assert checkpoint.spec.transforms == {"tp": model.get("transforms", {}).get("tp", "log1p:1e-05")}
    assert checkpoint.spec.heads == model.get("heads", {})
    card = evaluate(EvaluateSettings(checkpoint=Path(result.checkpoint), base=False, device="cpu")).to_dict()
    assert card["rain"]["model"]["tp_rmse_mm"] > 0
    assert card["scores"]["tp"]["rmse"] > 0
    # Persistence by hand: two predictions of the test split, each with the state before it.
    states = 1000 * store.read("tp", [13, 14, 15]).astype(np.float64)
    assert card["rain"]["persistence"]["tp_rmse_mm"] == pytest.approx(
        math.sqrt(np.square(np.diff(states, axis=0)).mean())
    )
    rains = states >= 0.1
    hits, either = (rains[1:] & rains[:-1]).sum(), (rains[1:] | rains[:-1]).sum()
    assert card["rain"]["persistence"]["tp_csi_0.1mm"] == pytest.approx(hits / either, abs=1e-3)


def test_the_scores_in_the_loop_are_those_of_the_scorecard(store: Store, run_dir: Path) -> None:
    """Validated and tested on the same states, the weights after the last step are scored alike."""
    same = "2020-01-04T00:00/2020-01-04T18:00"
    result = finetune(settings(store, run_dir, data={"store": str(store.path), "valid": same, "test": same}))
    last = Path(result.run) / "checkpoints" / "last"
    card = evaluate(EvaluateSettings(checkpoint=last, base=False, device="cpu")).to_dict()["rain"]["model"]
    [loop] = [line for line in validations(result.run) if line["step"] == 4]
    assert {key: loop[key] for key in card} == pytest.approx(card, rel=1e-4)


def test_a_step_of_another_length_is_refused(store: Store, run_dir: Path) -> None:
    with pytest.raises(StoreError, match="tp is accumulated over 6 h, but the model steps 12 h"):
        finetune(settings(store, run_dir, model={"new_variables": ["tp"], "timestep": "12h"}))
    assert not (run_dir / "rain").exists()


def test_rain_below_zero_is_refused(tmp_path: Path, run_dir: Path) -> None:
    from kit.data.settings import Period
    from kit.data.store.writer import write_store

    dataset = synthetic_dataset(surface=("2t", "10u", "10v", "msl", "tp"))
    dataset["tp"][2, 3, 4] = -0.01
    splits = {
        name: Period.parse(f"2020-01-0{a}/2020-01-0{b}")
        for name, a, b in (("train", "1", "2T06"), ("valid", "2T12", "3"), ("test", "3T06", "3T18"))
    }
    bad = write_store(
        dataset, tmp_path / "bad", splits=splits, attributes={"source": "s", "source_files": [], "licence": "n"}
    )
    with pytest.raises(StoreError, match=r"tp at 2020-01-01T12:00:00 is as low as -0.01 m"):
        finetune(settings(bad, run_dir))
    with pytest.raises(StoreError, match="tp"):
        finetune(settings(bad, run_dir, model={"new_variables": ["tp"], "transforms": {"tp": "sqrt"}}))


@pytest.mark.parametrize(
    ("sections", "complaint"),
    (
        ({"loss": {"weights": {"sp": 1}}}, "loss.weights: sp weigh nothing"),
        ({"loss": {"weights": {"*": 0}}}, "everything weighs 0"),
        ({"model": {"new_variables": ["tp"], "transforms": {"tp": "cube"}}}, "model.transforms.tp: expected one of"),
        ({"model": {"new_variables": ["tp"], "heads": {"2t": "two-part"}}}, "model.heads.2t: two-part asks whether"),
    ),
)
def test_settings_that_mean_nothing_are_refused(
    store: Store, run_dir: Path, sections: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        finetune(settings(store, run_dir, **sections))
