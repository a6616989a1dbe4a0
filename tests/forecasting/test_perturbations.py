"""Perturbations: gaussian ones have the covariance of the model's own errors, and leave all else alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr

from kit.checkpoint.folder import open_checkpoint
from kit.forecasting.bounds import possible
from kit.forecasting.ensemble import ensemble
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.error_samples import ErrorSamples, make_error_samples, spread_dates
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.perturbations import PERTURBATIONS, Gaussian
from kit.forecasting.predictor import Conditions, load_forecast_predictor, load_predictor
from kit.forecasting.rolling import roll_out
from kit.io.errors import CheckpointError, KitError
from tests.checkpoints import store_for, write_whole
from tests.forecasting.ensembles import COMMAND, hashes
from tests.processes import Python

START = datetime(2020, 1, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model, its errors by hand, and what the kit makes of them: ten states to train on give eight dates."""
    folder = tmp_path_factory.mktemp("perturbations")
    store = store_for(folder / "store", times=17)
    base = write_whole(folder / "base", store)
    train = Conditions(device="cpu", period=store.splits["train"])
    predictor = load_predictor(open_checkpoint(base), train)
    errors: dict[str, list[npt.NDArray[np.float32]]] = {}
    for index in range(len(predictor.pairs)):
        pair = predictor.pairs[index]
        with torch.no_grad():
            prediction = predictor.space.predict(pair.inputs)
        for kind in ("surf_vars", "atmos_vars"):
            came: Mapping[str, torch.Tensor] = getattr(pair.target, kind)
            for name, value in getattr(prediction, kind).items():
                errors.setdefault(name, []).append((value - came[name])[0, 0].numpy())
    dates = spread_dates(predictor.pairs, 40)
    with torch.no_grad():
        make_error_samples(predictor, predictor.pairs, dates, folder / "errors")
    samples = ErrorSamples(folder / "errors")
    return SimpleNamespace(
        folder=folder, store=store, base=base, samples=samples, errors=errors, predictor=predictor, dates=dates
    )


def settings(out: Path, *checkpoints: Path, **changes: Any) -> EnsembleSettings:
    raw = {"checkpoint": checkpoints, "out": out, "device": "cpu", "perturb": "gaussian", "members": 3, "steps": 1}
    return EnsembleSettings.model_validate({**raw, "start": (f"{START:%Y-%m-%dT%H}",), **changes})


def prepared(made: SimpleNamespace, **changes: Any) -> Gaussian:
    gaussian = Gaussian(settings(Path("e.zarr"), made.base, **changes))
    gaussian._samples = made.samples
    return gaussian


def test_dates_are_spread_over_the_period(made: SimpleNamespace) -> None:
    assert made.dates == list(range(8))
    assert spread_dates(made.predictor.pairs, 2) == [0, 7]
    assert spread_dates(made.predictor.pairs, 3) == [0, 4, 7]


def test_perturbations_have_the_sample_covariance_of_the_errors(made: SimpleNamespace) -> None:
    """A map of independent weights of variance 1: the covariance is that of its columns, the same between variables."""
    chosen = {"2t": (slice(3, 6), slice(4, 8)), "q": (1, slice(2, 4), slice(0, 3)), "z": (0, 8, slice(0, 32, 5))}

    def chosen_points(fields: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
        return np.concatenate([fields[name][at].ravel() for name, at in chosen.items()]).astype(np.float64)

    one_hot = [{name: made.samples.combined(name, weights) for name in chosen} for weights in np.eye(8)]
    columns = [chosen_points(fields) for fields in one_hot]
    by_date = [{name: made.errors[name][date] for name in chosen} for date in range(8)]
    errors = [chosen_points(fields) for fields in by_date]
    matrix = np.array(columns).T
    expected = np.cov(np.array(errors).T)
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(matrix @ matrix.T / np.outer(scale, scale), expected / np.outer(scale, scale), atol=1e-4)
    assert np.abs(expected / np.outer(scale, scale) - np.eye(len(scale))).max() > 0.5


def test_sums_are_linear(made: SimpleNamespace) -> None:
    weights = np.arange(8) / 3 - 1
    expected = sum(weight * made.samples.combined("t", one) for weight, one in zip(weights, np.eye(8), strict=True))
    np.testing.assert_allclose(made.samples.combined("t", weights), expected, atol=1e-4)
    assert made.samples.combined("t", weights).shape == (3, 16, 32)
    assert made.samples.names == ["10u", "10v", "2t", "msl", "q", "t", "u", "v", "z"]


def test_weights_are_independent_and_standard_normal(made: SimpleNamespace) -> None:
    """Of 4000 members, to five standard errors."""
    gaussian = prepared(made)
    drawn = np.array([gaussian.weights(member, START, 6) for member in range(4000)])
    assert np.abs(drawn.mean(0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(drawn.T) - np.eye(6)).max() < 5 * np.sqrt(2 / 4000)
    again = gaussian.weights(3, START, 6)
    np.testing.assert_array_equal(again, drawn[3])
    assert not np.array_equal(prepared(made, seed=1).weights(3, START, 6), again)
    assert not np.array_equal(gaussian.weights(3, START.replace(hour=6), 6), again)


def test_both_input_states_get_the_same_and_nothing_else_changes(made: SimpleNamespace) -> None:
    gaussian, pairs = prepared(made), made.predictor.pairs
    state = pairs.inputs([2, 2])
    before = {name: value.clone() for name, value in (state.surf_vars | state.atmos_vars).items()}
    found = gaussian.before(state, (4, 1), START, 0)
    for name, value in (found.surf_vars | found.atmos_vars).items():
        change, largest = (value - before[name]).numpy(), float(before[name].abs().max())
        if name != "q":
            np.testing.assert_allclose(change[:, 0], change[:, 1], atol=1e-5 * largest)
        for sample, member in enumerate((4, 1)):
            expected = made.samples.combined(name, gaussian.weights(member, START, 8))
            np.testing.assert_allclose(change[sample, 1], expected, atol=1e-6 * largest)
    for name, value in (state.surf_vars | state.atmos_vars).items():
        assert torch.equal(value, before[name])
    assert found.static_vars is state.static_vars
    assert found.metadata is state.metadata


def test_what_cannot_be_below_zero_is_not(made: SimpleNamespace) -> None:
    pairs = made.predictor.pairs
    state = pairs.inputs([2])
    found = prepared(made, amplitude=1e4).before(state, (0,), START, 0)
    assert found.atmos_vars["q"].min() == 0
    assert found.atmos_vars["t"].min() < 0
    doubled = prepared(made, amplitude=2).before(state, (0,), START, 0).surf_vars["2t"] - state.surf_vars["2t"]
    once = prepared(made).before(state, (0,), START, 0).surf_vars["2t"] - state.surf_vars["2t"]
    torch.testing.assert_close(doubled, 2 * once, atol=2e-4, rtol=0)


def test_shares_stay_shares() -> None:
    values = torch.tensor([-0.5, 0.5, 1.5])
    assert possible(values, "tcc", "surface").tolist() == [0, 0.5, 1]
    assert possible(values, "tp", "surface").tolist() == [0, 0.5, 1.5]
    assert possible(values, "2t", "surface") is values


def test_a_member_is_the_roll_out_of_its_own_state(made: SimpleNamespace, tmp_path: Path) -> None:
    result = ensemble(settings(tmp_path / "e.zarr", made.base, steps=2))
    assert result.to_dict()["perturb"] == "gaussian"
    dataset = xr.open_zarr(tmp_path / "e.zarr").load()
    predictor = load_forecast_predictor(open_checkpoint(made.base), Conditions(device="cpu"))
    gaussian = prepared(made)
    for member in range(3):
        state = gaussian.before(predictor.pairs.inputs([predictor.pairs.times.index(START)]), (member,), START, 0)
        with torch.no_grad():
            for step, prediction in enumerate(roll_out(predictor.space, state, 2)):
                for name, value in (prediction.surf_vars | prediction.atmos_vars).items():
                    np.testing.assert_array_equal(dataset[name].values[member, 0, step], value[0, 0].numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.zarr"]


@pytest.mark.slow
def test_processes_read_the_same_errors(made: SimpleNamespace, tmp_path: Path) -> None:
    ensemble(settings(tmp_path / "one.zarr", made.base))
    out = tmp_path / "two.zarr"
    given = ["--checkpoint", str(made.base), "--out", str(out), "--device", "cpu", "--perturb", "gaussian"]
    given += ["--members", "3", "--steps", "1", "--start", f"{START:%Y-%m-%dT%H}"]
    pair = [Python(COMMAND, *given, output=tmp_path / f"{number}.txt") for number in range(2)]
    for process in pair:
        assert process.wait() == 0
    assert hashes(out) == hashes(tmp_path / "one.zarr")


def refused(made: SimpleNamespace, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(KitError) as caught:
        ensemble(settings(tmp_path / "e.zarr", made.base, **changes))
    assert not (tmp_path / "e.zarr").exists()
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    return str(caught.value)


def test_stores_that_errors_cannot_be_taken_of_are_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    few = store_for(
        tmp_path / "few", times=6, splits={"train": "2020-01-01/2020-01-01T12", "test": "2020-01-01T18/2020-01-02T06"}
    )
    assert "few: holds 1 date in its training split" in refused(made, tmp_path, error_store=str(few.path))
    none = store_for(
        tmp_path / "none", times=6, splits={"train": "2020-01-01/2020-01-01", "test": "2020-01-01T06/2020-01-02"}
    )
    assert "none: no pair in 2020-01-01T00:00" in refused(made, tmp_path, error_store=str(none.path))
    coarse = store_for(tmp_path / "coarse", times=12, height=12, width=24)
    message = f"has another grid than {made.store.path}; name a store with --error_store"
    assert message in refused(made, tmp_path, error_store=str(coarse.path))


def test_directions_have_no_errors() -> None:
    spec = SimpleNamespace(upstream=SimpleNamespace(is_wave=True))
    source: Any = SimpleNamespace(checkpoint=SimpleNamespace(path=Path("c"), spec=spec))
    with pytest.raises(CheckpointError, match="directions of waves, of which differences and sums are none"):
        Gaussian(settings(Path("e.zarr"), Path("c"))).check(source, [START])


def test_errors_come_from_another_store_where_one_is_named(made: SimpleNamespace, tmp_path: Path) -> None:
    other = store_for(tmp_path / "other", times=20, seed=3)
    gaussian = Gaussian(settings(tmp_path / "e.zarr", made.base, error_store=str(other.path), error_dates=5))
    with InitialStates.opened(None, open_checkpoint(made.base)) as source:
        told = gaussian.check(source, [START])
    assert told["error_store"] == other.fingerprint()
    hours = ("01T06:00", "01T18:00", "02T06:00", "03T00:00", "03T12:00")
    assert told["error_dates"] == [f"2020-01-{hour}" for hour in hours]


def test_lags_are_shared_among_checkpoints(made: SimpleNamespace) -> None:
    lagged = PERTURBATIONS["lagged"](settings(Path("e.zarr"), Path("a"), Path("b"), perturb="lagged", members=5))
    assert [lagged.lag(member) for member in range(5)] == [0, 0, 1, 1, 2]
    assert [PERTURBATIONS["noise"](settings(Path("e.zarr"), Path("a"), perturb="noise")).lag(m) for m in range(3)] == [
        0
    ] * 3
