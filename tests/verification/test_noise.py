"""Scores and forecasts of a stochastic model: the same from the same seed, however they are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.cli.main import main
from kit.data.store.reader import Store
from kit.forecasting.forecast import forecast
from kit.forecasting.settings import ForecastSettings
from kit.metrics.scores import area_weights
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.checkpoints import SPEC, store_for, write_delta, write_whole

STOCHASTIC = replace(SPEC, arguments={**SPEC.arguments, "stochastic": True})
PERIOD = "2020-01-01T00/2020-01-03T18"
STARTS = ("2020-01-01T12", "2020-01-02T06", "2020-01-02T18")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("noise")
    store = store_for(folder / "store", times=12)
    noisy = write_whole(folder / "noisy", store, spec=STOCHASTIC)
    deltas = [write_delta(folder / f"delta{n}", noisy, store, seed=1, spec=STOCHASTIC) for n in (1, 2)]
    return SimpleNamespace(store=store, noisy=noisy, plain=write_whole(folder / "plain", store), deltas=deltas)


def scored(checkpoint: Path, **changes: Any) -> dict[str, Any]:
    raw = {"checkpoint": checkpoint, "device": "cpu", "base": False, "data": {"test": PERIOD}, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


def forecasted(out: Path, *checkpoints: Path, **changes: Any) -> tuple[dict[str, Any], xr.Dataset]:
    raw = {"checkpoint": checkpoints, "out": out, "device": "cpu", "steps": 2, **changes}
    result = forecast(ForecastSettings.model_validate(raw)).to_dict()
    return result, xr.load_dataset(out)


def rmses(result: dict[str, Any]) -> dict[str, float]:
    return {name: row["rmse"] for name, row in result["scores"].items()}


@pytest.mark.slow
def test_scores_do_not_depend_on_batches(made: SimpleNamespace) -> None:
    alone = scored(made.noisy)
    assert (alone["samples"], alone["seed"], alone["precision"]) == (10, 0, "fp32")
    assert rmses(scored(made.noisy, batch_size=3)) == pytest.approx(rmses(alone), rel=1e-6)
    other = rmses(scored(made.noisy, seed=1))
    assert max(abs(value / rmses(alone)[name] - 1) for name, value in other.items()) > 1e-5


@pytest.mark.slow
def test_a_deterministic_model_has_no_seed_to_speak_of(made: SimpleNamespace, tmp_path: Path) -> None:
    assert "seed" not in scored(made.plain)
    assert rmses(scored(made.plain, seed=1)) == rmses(scored(made.plain))
    result, dataset = forecasted(tmp_path / "f.nc", made.plain)
    assert "seed" not in result
    assert result["precision"] == dataset.attrs["precision"] == "fp32"
    assert "seed" not in dataset.attrs


def test_a_start_is_forecast_alike_whatever_is_forecast_beside_it(made: SimpleNamespace, tmp_path: Path) -> None:
    result, together = forecasted(tmp_path / "all.nc", made.noisy, start=STARTS, seed=7)
    assert result["seed"] == together.attrs["seed"] == 7
    for number, start in enumerate(reversed(STARTS)):
        _, alone = forecasted(tmp_path / f"{number}.nc", made.noisy, start=(start,), seed=7)
        for name in ("2t", "z"):
            np.testing.assert_array_equal(alone[name].values[0], together[name].sel(time=start).values)
    _, other = forecasted(tmp_path / "other.nc", made.noisy, start=STARTS[:1], seed=8)
    assert not np.array_equal(other["2t"].values[0], together["2t"].values[0])


def test_a_scorecard_is_of_the_forecasts_that_the_same_seed_makes(made: SimpleNamespace, tmp_path: Path) -> None:
    """By hand: RMSE of the forecast's second step against the store."""
    _, dataset = forecasted(tmp_path / "f.nc", made.noisy, start=STARTS[1:2], seed=2)
    period = "2020-01-02T00/2020-01-02T18"
    result = scored(made.noisy, steps=2, seed=2, data={"test": period})
    assert result["samples"] == 1
    store = Store.open(Path(made.store.path))
    target = store.read("2t", [7])[0].astype(np.float64)
    weights = area_weights(store.latitude).numpy()[:, None]
    error = dataset["2t"].values[0, 1].astype(np.float64) - target
    assert result["scores"]["2t"]["rmse"] == pytest.approx(np.sqrt((error**2 * weights).mean()), rel=1e-6)


def test_members_have_noise_of_their_own(made: SimpleNamespace, tmp_path: Path) -> None:
    """Two deltas with the same tensors differ by noise alone; the first is what it is by itself."""
    _, members = forecasted(tmp_path / "both.nc", *made.deltas)
    _, alone = forecasted(tmp_path / "one.nc", made.deltas[0])
    np.testing.assert_array_equal(members["2t"].isel(member=0).values, alone["2t"].values)
    assert not np.array_equal(members["2t"].isel(member=0).values, members["2t"].isel(member=1).values)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ("bf16", "fp16"))
def test_the_command_line_takes_and_tells_precisions(
    made: SimpleNamespace, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--checkpoint", str(made.plain), "--no-base", "--precision", precision, "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["precision"] == precision
    exact = scored(made.plain, data={})
    assert 0 < abs(result["scores"]["2t"]["rmse"] / exact["scores"]["2t"]["rmse"] - 1) < 0.01
    assert main(arguments) == 0
    assert f"6 h ahead, in {precision}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    (
        (["--precision", "fp8"], "precision: input should be 'auto', 'fp32', 'bf16' or 'fp16', got 'fp8'"),
        (["--seed", "-1"], "seed: input should be greater than or equal to 0, got '-1'"),
        (["--seed", "one"], "seed: "),
        (["--precision", "fp16", "--memory.frozen_weights", "bf16"], "use --precision bf16"),
    ),
)
def test_what_is_no_precision_and_no_seed_is_refused(
    made: SimpleNamespace, given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["evaluate"], ["forecast", "--out", str(tmp_path / "f.nc")]):
        assert main([*command, "--checkpoint", str(made.plain), *given]) == 2
        err = capsys.readouterr().err
        assert told in " ".join(err.split())
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
