"""Boxes across Greenwich: every patch is described as it is on the globe, whatever upstream does to a batch."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from aurora import Batch, Metadata
from aurora.model.fourier import pos_expansion, scale_expansion
from aurora.model.posencoding import pos_scale_enc

from kit.data.grid import continuous, western_edge
from kit.data.longitudes import EastwardLongitudes, longitudes
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from tests.batches import small_spec, synthetic_batch

TIME = (datetime(2020, 1, 1, tzinfo=UTC),)


def rolled(batch: Batch, columns: int) -> Batch:
    """The same globe, its columns beginning so many further west."""

    def roll(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.roll(columns, -1) for name, value in values.items()}

    metadata = batch.metadata
    lon = longitudes(np.roll(metadata.lon.numpy().astype(np.float64), columns))
    moved = Metadata(metadata.lat, lon, metadata.time, metadata.atmos_levels)
    return Batch(roll(batch.surf_vars), roll(batch.static_vars), roll(batch.atmos_vars), moved)


def test_what_upstream_asks_of_longitudes_holds_on_a_circle() -> None:
    lon = longitudes(np.array([350.0, 355.0, 0.0, 5.0]))
    lat = torch.tensor([3.0, 2.0, 1.0])
    assert (lon[1:] - lon[:-1]).tolist() == [5, 5, 5]
    batch = Batch({"2t": torch.zeros(1, 2, 3, 4)}, {}, {}, Metadata(lat, lon, TIME, (500,)))
    pickled, copied = pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)
    for made in (batch.to("cpu"), batch.type(torch.float64), batch._fmap(torch.Tensor.clone), pickled, copied):
        assert isinstance(made.metadata.lon, EastwardLongitudes)
        assert made.metadata.lon.tolist() == [350, 355, 0, 5]
    # What is computed from them is a plain tensor, and increasing longitudes are one from the beginning.
    assert type(torch.stack([lon, lon])) is type(lon * 2) is type(lon - 2) is torch.Tensor
    assert type(longitudes(np.array([0.0, 5.0]))) is torch.Tensor


def test_two_turns_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        Metadata(torch.tensor([3.0, 2.0]), longitudes(np.array([350.0, 0.0, 0.0])), TIME, (500,))


def test_matrices_of_longitudes_may_cross_too() -> None:
    lon = longitudes(np.array([[350.0, 355.0, 0.0, 5.0]] * 2))
    assert Metadata(torch.tensor([[3.0] * 4, [2.0] * 4]), lon, TIME, (500,)).lon[0, 2] == 0


@pytest.mark.parametrize("matrices", (False, True))
def test_patches_are_described_as_on_the_globe(matrices: bool) -> None:
    """Patches of 4 columns of 5 degrees: those from 340 and from 0 are the globe's last and its first."""
    lat, globe = torch.linspace(60, 25, 8), torch.arange(0.0, 360, 5)
    lon = longitudes(np.array([340.0, 345, 350, 355, 0, 5, 10, 15]))

    def described(lat: torch.Tensor, lon: torch.Tensor) -> list[torch.Tensor]:
        if matrices:
            lat, lon = lat[:, None].expand(8, lon.shape[0]), longitudes(lon.double().numpy()[None].repeat(8, 0))
        codes = pos_scale_enc(32, lat, lon, 4, pos_expansion, scale_expansion)
        return [code.unflatten(0, (2, -1)) for code in codes]

    for box, whole in zip(described(lat, lon), described(lat, globe), strict=True):
        assert torch.equal(box, whole[:, [-1, 0]])


@pytest.mark.parametrize("variant", ("pretrained", "v1p5", "wave", "air-pollution"))
@torch.no_grad()
def test_a_globe_rolled_by_whole_windows_predicts_the_same(variant: str) -> None:
    """8 patches are two windows of 4 in the finest stage and one in the coarser: everything else is local to a patch.

    Insolation of version 1.5 follows from coordinates and must be that of each place.
    """
    spec = small_spec(variant)
    torch.manual_seed(0)
    space = TrainingSpace(spec.build().eval(), spec)
    batch = synthetic_batch(spec)
    columns = 8 * spec.patch_size
    here, there = space.predict(batch), space.predict(rolled(batch, columns))
    for name, value in (here.surf_vars | here.atmos_vars).items():
        moved = (there.surf_vars | there.atmos_vars)[name].roll(-columns, -1)
        assert torch.equal(value.nan_to_num(), moved.nan_to_num()), name
    assert isinstance(there.metadata.lon, EastwardLongitudes)
    assert torch.equal(there.metadata.lon.roll(-columns), here.metadata.lon)


@torch.no_grad()
def test_bands_and_rollouts_keep_the_longitudes() -> None:
    spec = small_spec("pretrained")
    torch.manual_seed(0)
    model = spec.build().eval()
    space = TrainingSpace(model, spec)
    state = rolled(synthetic_batch(spec), 20)
    plain = space.predict(space.advance(state, space.step(space.inputs(state))[1]))
    engine.install(model, MemorySettings(latitude_bands=4, window_bands=2))
    banded = space.predict(space.advance(state, space.step(space.inputs(state))[1]))
    assert torch.equal(banded.metadata.lon, state.metadata.lon)
    assert all(torch.equal(value, banded.atmos_vars[name]) for name, value in plain.atmos_vars.items())


def test_figures_and_files_want_longitudes_without_a_jump() -> None:
    assert continuous(np.array([350.0, 355, 0, 5])).tolist() == [-10, -5, 0, 5]
    assert continuous(np.array([0.0, 5, 10])).tolist() == [0, 5, 10]


def test_a_box_across_greenwich_is_known_by_its_hole() -> None:
    assert western_edge(np.array([0.0, 5, 10, 350, 355])) == 3
    for plain in ([10.0, 15, 20], [0.0, 5, 10], [350.0, 355], [0.0, 90, 180, 270], [0.0, 5, 10, 50, 55], [5.0]):
        assert western_edge(np.array(plain)) == 0
