"""Transforms of what lies at its least or largest value in most places: that value comes back exactly, and often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kit.data.dataset import Pairs
from kit.data.settings import DataSettings
from kit.data.store.reader import Store
from kit.diffusion.drawing import DrawingSpace
from kit.diffusion.network import build_network
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.space import DiffusionSpace
from kit.diffusion.spec import describe_network
from kit.io.errors import SettingsError
from kit.models.resolve import resolve_spec
from kit.models.settings import ModelSettings
from kit.models.transforms import default_for_networks, parse_transform, with_non_negative
from kit.planning.settings import PlanSettings
from kit.planning.workload import workload_of
from kit.settings import Settings
from kit.train.denoising import resolve_states
from tests.diffusion.networks import woken
from tests.factories import synthetic_dataset, write_synthetic

NAMES = ("refc", "cape", "cin", "2t")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Reflectivity, energy and inhibition as HRRR has them: 70 % of each at its limit."""
    dataset = synthetic_dataset(surface=NAMES, atmospheric=(), static=("z",), times=12, height=12, width=16)
    random = np.random.default_rng(0)
    for name, sign, limit in (("refc", 1, -10.0), ("cape", 1, 0.0), ("cin", -1, 0.0)):
        size = random.gamma(1.0, 20.0, dataset[name].shape)
        there = random.random(dataset[name].shape) > 0.7
        dataset[name].values[:] = limit + sign * size * there
    return write_synthetic(dataset, tmp_path_factory.mktemp("atoms") / "store")


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [("floor:-10", 25.0, 35.0), ("floor:-10", -32.0, 0.0), ("negative-sqrt", -49.0, 7.0), ("negative-sqrt", 3.0, 0.0)],
)
def test_values_by_hand(text: str, value: float, expected: float) -> None:
    transform = parse_transform(text, where="")
    assert transform.forward(torch.tensor([value])).tolist() == [expected]
    assert transform.forward(np.array([value])).tolist() == [expected]
    assert parse_transform(str(transform), where="") == transform


@pytest.mark.parametrize(("text", "limit", "sign"), [("floor:-10", -10.0, 1), ("negative-sqrt", 0.0, -1)])
def test_the_limit_comes_back_exactly(text: str, limit: float, sign: int) -> None:
    transform = parse_transform(text, where="")
    field = torch.full((1000,), limit)
    field[:300] += sign * torch.linspace(0.5, 60, 300)
    back = transform.inverse(transform.forward(field))
    assert (back[300:] == limit).all()
    torch.testing.assert_close(back, field)
    beyond = field - sign * 5
    assert (sign * (transform.within(beyond) - limit) >= 0).all()
    assert (transform.inverse(-transform.forward(field)) == limit).all()
    missing = torch.tensor([torch.nan])
    assert transform.inverse(transform.forward(missing)).isnan().all()


def test_defaults_go_by_the_data(store: Store) -> None:
    found = {name: str(default_for_networks(store, name)) for name in NAMES}
    assert found == {"refc": "floor:-10", "cape": "sqrt", "cin": "negative-sqrt", "2t": "None"}
    assert with_non_negative({"refc": "floor:-10", "cape": "sqrt", "cin": "negative-sqrt"}) == {"cape"}


def test_recipes_of_hrrr_can_be_planned() -> None:
    raw = {"data": {"variables": NAMES, "statics": (), "history": 1}, "task": {"name": "denoise"}, "grid": "32x64"}
    spec = workload_of(PlanSettings.model_validate({**raw, "diffusion": {"of": "next"}})).spec
    assert {"refc", "cape", "cin"} == spec.transforms.keys()


def states(store: Store, **model: Any) -> dict[str, str]:
    raw = {"data": {"store": str(store.path), "history": 1}, "model": model, "task": {"name": "denoise"}}
    return dict(resolve_states(Settings.model_validate({**raw, "diffusion": {"of": "next"}}), store)[0].transforms)


def test_networks_alone_have_them(store: Store) -> None:
    assert states(store) == {"refc": "floor:-10", "cape": "sqrt", "cin": "negative-sqrt"}
    chosen = {"refc": "floor:0", "cape": "none"}
    assert states(store, transforms=chosen) == {"refc": "floor:0", "cin": "negative-sqrt"}
    data = DataSettings(store=str(store.path))
    assert resolve_spec(ModelSettings(weights="random"), data, store, None).transforms == {}


def test_roots_are_of_what_is_never_below_zero(store: Store) -> None:
    with pytest.raises(SettingsError, match="model.transforms.refc: sqrt cannot be had: it is for what may be zero"):
        states(store, transforms={"refc": "sqrt"})


def test_samples_have_the_limit_in_many_places(store: Store) -> None:
    settings = Settings.model_validate({"data": {"store": str(store.path), "history": 1}})
    spec, selection = resolve_states(settings, store)
    chosen = DiffusionSettings(of="next", width=8, multiples=(1, 2), blocks=1, steps=3)
    network = describe_network(chosen, spec, selection, store)
    torch.manual_seed(0)
    model = woken(build_network(network, 0), 0.02)
    model.bound.fill_(4)
    space = DrawingSpace(DiffusionSpace(model, network, None), spec)
    pairs = Pairs(store, selection, store.splits["train"])
    drawn = space.predict(pairs.inputs([0]))
    for name, limit, sign in (("refc", -10, 1), ("cape", 0, 1), ("cin", 0, -1)):
        values = drawn.surf_vars[name]
        assert (sign * (values - limit) >= 0).all()
        assert 0.2 < (values == limit).float().mean() < 0.8, name
