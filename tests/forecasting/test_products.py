"""Products of an ensemble: the arithmetic of its members, under names and attributes that say so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.forecasting.ensemble import ensemble
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.products import check_products
from kit.io.errors import SettingsError
from tests.checkpoints import store_for, write_whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An ensemble of three members from two initial times, and its products."""
    folder = tmp_path_factory.mktemp("products")
    base = write_whole(folder / "base", store_for(folder / "store", times=16))
    asked = settings(folder, base)
    result = ensemble(asked).to_dict()
    with xr.open_zarr(folder / "e.zarr") as dataset:
        members = dataset.load()
    with xr.open_dataset(folder / "e.products.nc") as dataset:
        products = dataset.load()
    return SimpleNamespace(folder=folder, base=base, result=result, members=members, products=products)


def settings(folder: Path, *checkpoints: Path, **changes: Any) -> EnsembleSettings:
    raw: dict[str, Any] = {"checkpoint": checkpoints, "out": folder / "e.zarr", "device": "cpu", "steps": 2}
    raw |= {"perturb": "lagged", "members": 3, "start": ("2020-01-02T12/2020-01-02T18",)}
    raw |= {"products": ("mean", "spread", "quantiles", "probabilities"), "quantiles": (0.25, 0.5)}
    return EnsembleSettings.model_validate({**raw, "above": {"2t": 280, "q": 0.004}, **changes})


def test_products_are_those_of_the_members(made: SimpleNamespace) -> None:
    products, members = made.products, made.members
    assert made.result["products"] == str(made.folder / "e.products.nc")
    assert sorted(made.folder.glob(".*")) == []
    for name in members.data_vars:
        values = members[name].values.astype(np.float64)
        np.testing.assert_allclose(products[f"{name}_mean"], values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(products[f"{name}_spread"], values.std(0, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(products[f"{name}_q50"], np.median(values, axis=0), rtol=1e-6)
        # Of three members the lower quartile lies half way from the lowest to the middle one.
        ordered = np.sort(values, axis=0)
        np.testing.assert_allclose(products[f"{name}_q25"], (ordered[0] + ordered[1]) / 2, rtol=1e-6, atol=1e-6)
        assert products[f"{name}_mean"].dims == members[name].dims[1:]
    shares = (members["2t"].values > 280).mean(0)
    np.testing.assert_allclose(products["2t_above_280"], shares, rtol=1e-6)
    assert 0 < products["q_above_0_004"].mean() < 1
    assert len(products.data_vars) == 4 * len(members.data_vars) + 2


def test_the_file_says_what_it_holds(made: SimpleNamespace) -> None:
    products = made.products
    assert products["2t_mean"].attrs["cell_methods"] == "realization: mean"
    assert products["2t_mean"].attrs["standard_name"] == "air_temperature"
    assert products["2t_spread"].attrs["cell_methods"] == "realization: standard_deviation"
    assert "standard_name" not in products["2t_spread"].attrs
    assert products["2t_q25"].attrs["long_name"] == "2 metre temperature, quantile of 25 %"
    told = {key: products["2t_above_280"].attrs[key] for key in ("long_name", "units")}
    assert told == {"long_name": "Probability of 2 metre temperature above 280 K", "units": "1"}
    assert products.attrs["members"] == 3
    assert products.attrs["perturb"] == "lagged"
    np.testing.assert_array_equal(products.valid_time, made.members.valid_time)
    np.testing.assert_array_equal(products.latitude, made.members.latitude)


def test_products_of_a_finished_ensemble_are_made_by_the_same_command(made: SimpleNamespace) -> None:
    file, before = made.folder / "e.products.nc", (made.folder / "e.zarr" / "zarr.json").stat().st_mtime_ns
    content = file.read_bytes()
    file.unlink()
    ensemble(settings(made.folder, made.base))
    assert file.read_bytes() == content
    stamp = file.stat().st_mtime_ns
    ensemble(settings(made.folder, made.base))
    assert file.stat().st_mtime_ns == stamp
    assert (made.folder / "e.zarr" / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"e.products.nc: exists already; choose another"):
        ensemble(settings(made.folder, made.base, quantiles=(0.25, 0.75)))
    assert file.stat().st_mtime_ns == stamp


def test_products_that_cannot_be_are_refused_before_any_work(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="above: the checkpoint predicts no 'msll'; did you mean msl"):
        ensemble(settings(tmp_path, made.base, above={"msll": 280}))
    (tmp_path / "e.products.nc").write_text("mine")
    with pytest.raises(SettingsError, match=r"e.products.nc: exists already"):
        ensemble(settings(tmp_path, made.base))
    assert [path.name for path in tmp_path.iterdir()] == ["e.products.nc"]
    with pytest.raises(SettingsError, match="directions, which have no plain mean"):
        check_products(settings(tmp_path, made.base), ("2t", "q"), {}, wave=True)
