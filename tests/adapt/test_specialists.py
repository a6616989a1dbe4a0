"""Several deltas on one base: each is itself after any number of switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kit.adapt import factory
from kit.adapt.settings import AdaptSettings
from kit.adapt.specialists import Specialist, Specialists
from kit.checkpoint.folder import open_checkpoint
from kit.io.errors import CheckpointError
from kit.models.space import Fields
from kit.models.weights.load import load
from tests.adapt.models import equal, predicted
from tests.checkpoints import SPEC, store_for, write_delta, write_whole
from tests.everyday import one_in

METHODS = {
    "lora": AdaptSettings(method="lora", rank=2, targets=("attn.proj",)),
    "qlora": AdaptSettings(method="qlora", rank=2, targets=("fc1",)),
    "freeze": AdaptSettings(method="freeze", train_only=("decoder",)),
    "head": AdaptSettings(method="head"),
    "dora": AdaptSettings(method="dora", rank=2, targets=("attn.proj",)),
    "adalora": AdaptSettings(method="adalora", targets=("attn.proj",)),
    "prefix": AdaptSettings(method="prefix"),
    "prompt": AdaptSettings(method="prompt"),
}


@torch.no_grad()
def fields(model: Any) -> Fields:
    return predicted(model.eval(), SPEC)


def alone(folder: Path) -> Any:
    """As a forecast has it: nothing trains."""
    weights = load(str(folder), SPEC.upstream)
    return factory.for_prediction(SPEC, weights, autocast=False).requires_grad_(False)


def specialist(folder: Path) -> Specialist:
    checkpoint = open_checkpoint(folder)
    return Specialist(folder.name, checkpoint.description, checkpoint.tensors())


@pytest.mark.parametrize("method", one_in(3, METHODS))
def test_a_switch_makes_the_model_the_other_one(method: str, tmp_path: Path) -> None:
    store = store_for(tmp_path / "store")
    base = write_whole(tmp_path / "base", store)
    folders = [write_delta(tmp_path / f"{n}", base, store, seed=n, settings=METHODS[method]) for n in (1, 2)]
    expected = [fields(alone(folder)) for folder in folders]
    assert not equal(*expected)
    model = alone(folders[0])
    both = Specialists(model, [specialist(folder) for folder in folders])
    assert both.names == ("1", "2")
    for name in ("1", "2", "2", "1"):
        both.switch(name)
        assert both.current == name
        assert equal(fields(model), expected[int(name) - 1])


def test_what_differs_is_named(tmp_path: Path) -> None:
    store = store_for(tmp_path / "store")
    base = write_whole(tmp_path / "base", store)
    one = specialist(write_delta(tmp_path / "one", base, store))
    model = alone(tmp_path / "one")
    larger = AdaptSettings(method="lora", rank=4, targets=("attn.proj",))
    other = specialist(write_delta(tmp_path / "larger", base, store, settings=larger))
    with pytest.raises(CheckpointError, match=r"one and larger differ in adapt.alpha \(4.0 and 8.0\)"):
        Specialists(model, [one, other])
    description = {**one.description, "model": {**one.description["model"], "history": 3}}
    with pytest.raises(CheckpointError, match=r"one and longer differ in model.history \(2 and 3\)"):
        Specialists(model, [one, Specialist("longer", description, one.state)])
    fewer = dict(list(one.state.items())[1:])
    with pytest.raises(CheckpointError, match="fewer and one trained other tensors: 1 are in one alone"):
        Specialists(model, [one, Specialist("fewer", one.description, fewer)])
