"""Networks from checkpoints: operators are known by their weights, wherever they lie, and files by their shapes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.data.settings import DataSettings
from kit.data.store.reader import Store
from kit.diffusion.loading import NetworkCheckpoint
from kit.diffusion.network import build_network
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.spec import DiffusionSpec, describe_network
from kit.io.errors import CheckpointError
from kit.models.resolve import select
from kit.models.weights.load import load
from tests.checkpoints import SPEC, described, store_for, write_delta, write_whole
from tests.diffusion.networks import woken


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_for(tmp_path / "store")


def spec_of(store: Store, **settings: Any) -> DiffusionSpec:
    chosen = DiffusionSettings(width=8, multiples=(1, 2), blocks=1, **settings)
    selection = select(SPEC, DataSettings(store=str(store.path)), store, SPEC.patch_size)
    return describe_network(chosen, SPEC, selection, store)


def write_network(folder: Path, store: Store, operator: Path | None = None, **settings: Any) -> Path:
    """A checkpoint of a small network with random weights, of an operator or of none."""
    spec = spec_of(store, **settings)
    torch.manual_seed(2)
    network = woken(build_network(spec, 0), 0.02)
    # As training would have found: no state is beyond all others.
    network.bound.fill_(4)
    weights = None if operator is None else load(str(operator), SPEC.upstream)
    more = {"diffusion": spec.as_dict(), "operator": None if weights is None else dict(weights.base)}
    write_checkpoint(folder, network.state_dict(), described(store, SPEC, **more))
    return folder


@pytest.mark.parametrize("kind", ["whole", "delta"])
def test_an_operator_is_known_wherever_it_lies(tmp_path: Path, store: Store, kind: str) -> None:
    base = write_whole(tmp_path / "base", store)
    operator = base if kind == "whole" else write_delta(tmp_path / "delta", base, store)
    network = NetworkCheckpoint.open(write_network(tmp_path / "network", store, operator))
    network.check_operator(operator)
    moved = Path(shutil.copytree(operator, tmp_path / "far" / "away"))
    network.check_operator(moved)
    other = write_whole(tmp_path / "other", store, seed=4)
    with pytest.raises(CheckpointError, match=r"network: learned from forecasts of .* is another model"):
        network.check_operator(other)


def test_a_network_without_an_operator_goes_with_any(tmp_path: Path, store: Store) -> None:
    network = NetworkCheckpoint.open(write_network(tmp_path / "network", store, of="state", operator_share=0))
    network.check_operator(write_whole(tmp_path / "any", store))


def test_a_network_predicts_what_it_did(tmp_path: Path, store: Store) -> None:
    network = NetworkCheckpoint.open(write_network(tmp_path / "network", store, of="next"))
    space = network.space(torch.device("cpu"), autocast=False)
    torch.manual_seed(2)
    before = woken(build_network(network.spec, 0), 0.02)
    state = torch.randn(1, len(network.spec.channels), *network.spec.grid)
    label, given = torch.tensor([7.0]), torch.randn(1, network.spec.conditions, *network.spec.grid)
    assert torch.equal(space.model(state, label, given), before(state, label, given))
    assert not any(parameter.requires_grad for parameter in space.model.parameters())


def test_a_model_is_no_network(tmp_path: Path, store: Store) -> None:
    with pytest.raises(CheckpointError, match="is no denoising network; --diffusion names a checkpoint of"):
        NetworkCheckpoint.open(write_whole(tmp_path / "model", store))


@pytest.mark.parametrize("width", [16, 4096])
def test_a_description_of_another_network_is_refused_before_it_is_built(
    tmp_path: Path, store: Store, width: int
) -> None:
    folder = write_network(tmp_path / "network", store, of="next")
    checkpoint = open_checkpoint(folder)
    spec = checkpoint.description["diffusion"]
    # A hundred gigabytes, if it were built.
    larger = {**spec, "settings": {**spec["settings"], "width": width, "multiples": [1, 8, 16, 16]}}
    write_checkpoint(folder, checkpoint.tensors(), {**checkpoint.description, "diffusion": larger})
    with pytest.raises(CheckpointError, match="its tensors are not those of the network that its kit.json describes"):
        NetworkCheckpoint.open(folder).space(torch.device("cpu"), autocast=False)


@pytest.mark.parametrize(
    "change",
    [
        {"diffusion": 3},
        {"diffusion": {}},
        {"diffusion": {"settings": "state"}},
        {"diffusion": {"settings": {"of": "everything"}}},
        {"operator": "base"},
        {"operator": {"name": "base", "file": "f", "sha256": "abc"}},
        {"guidance": 0.5},
        {"guidance": {"guidance": "much"}},
        {"guidance": {"guidance": 7}},
    ],
    ids=str,
)
def test_a_hostile_description_is_one_message(tmp_path: Path, store: Store, change: dict[str, Any]) -> None:
    folder = write_network(tmp_path / "network", store, of="next")
    checkpoint = open_checkpoint(folder)
    write_checkpoint(folder, checkpoint.tensors(), {**checkpoint.description, **change})
    with pytest.raises(CheckpointError, match="no description of a checkpoint that the kit wrote"):
        NetworkCheckpoint.open(folder)
