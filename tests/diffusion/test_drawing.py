"""Networks that forecast by themselves: every command that takes a checkpoint takes theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import kit
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.data.settings import DataSettings
from kit.diffusion.network import build_network
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.spec import describe_network
from kit.forecasting.predictor import Conditions, load_predictor
from kit.settings import Settings
from kit.train.denoising import resolve_states
from tests.checkpoints import described
from tests.diffusion.networks import woken
from tests.factories import synthetic_store
from tests.forecasting.test_ensemble import opened, run

START = "2020-01-02T12"


@pytest.fixture(scope="module", params=["global", "curvilinear, surface alone"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store, and a network of random weights that draws its next state."""
    folder = tmp_path_factory.mktemp("drawn")
    more: dict[str, Any] = {}
    if request.param != "global":
        # Odd sides, no levels, as convective-scale models have it.
        more = {"curvilinear": True, "height": 13, "width": 19, "atmospheric": (), "surface": ("2t", "10u", "10v")}
    store = synthetic_store(folder / "store", times=16, **more)
    data = DataSettings(store=str(store.path), history=1)
    settings = Settings(data=data, diffusion=DiffusionSettings(of="next"))
    spec, selection = resolve_states(settings, store)
    chosen = DiffusionSettings(of="next", width=8, multiples=(1, 2), blocks=1, steps=4)
    network_spec = describe_network(chosen, spec, selection, store)
    torch.manual_seed(0)
    network = woken(build_network(network_spec, 0), 0.02)
    network.bound.fill_(3)
    facts = described(store, spec, diffusion=network_spec.as_dict(), operator=None)
    facts["data"] |= {"grid": selection.grid.as_dict(), "levels": list(spec.levels)}
    write_checkpoint(folder / "network", network.state_dict(), facts)
    return SimpleNamespace(folder=folder, store=store, network=folder / "network", spec=spec)


def test_members_are_drawn_by_their_names(made: SimpleNamespace, tmp_path: Path) -> None:
    run(tmp_path / "e.zarr", made.network, perturb="noise", members=3)
    members = opened(tmp_path / "e.zarr")
    assert members.sizes["member"] == 3
    values = members["2t"].values
    assert np.isfinite(values).all()
    assert (values[0] != values[1]).mean() > 0.5
    run(tmp_path / "one.zarr", made.network, perturb="noise", members=3, only_members=(2,))
    np.testing.assert_array_equal(opened(tmp_path / "one.zarr")["2t"].values[0], values[2])


def test_a_forecast_is_the_first_member(made: SimpleNamespace, tmp_path: Path) -> None:
    run(tmp_path / "e.zarr", made.network, perturb="noise", members=2)
    kit.forecast(checkpoint=made.network, out=tmp_path / "f.nc", start=START, steps=2, device="cpu")
    with xr.open_dataset(tmp_path / "f.nc") as single:
        np.testing.assert_array_equal(single["2t"].values, opened(tmp_path / "e.zarr")["2t"].values[0])


def test_it_is_scored(made: SimpleNamespace) -> None:
    card = kit.evaluate(checkpoint=made.network, base=False, device="cpu")
    assert np.isfinite(card.to_dict()["scores"]["2t"]["rmse"])


def test_samples_of_a_batch_are_as_if_alone(made: SimpleNamespace) -> None:
    predictor = load_predictor(open_checkpoint(made.network), Conditions(device="cpu"))
    together = predictor.space.predict(predictor.pairs.inputs([0, 1]))
    for place in (0, 1):
        alone = predictor.space.predict(predictor.pairs.inputs([place]))
        torch.testing.assert_close(together.surf_vars["2t"][place], alone.surf_vars["2t"][0], rtol=1e-4, atol=1e-2)
