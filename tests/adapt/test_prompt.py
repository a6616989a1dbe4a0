"""Prompts: neutral at the start, and on a coarse grid tied to places on the globe."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from kit.adapt import trainable
from kit.adapt.prompt import Prompt, check_prompt_cells
from kit.adapt.settings import AdaptSettings
from kit.data.longitudes import EastwardLongitudes, longitudes
from kit.io.errors import SettingsError
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.variants import VARIANTS
from kit.planning.simulation import simulated_gpu
from tests.adapt.models import awake_model, equal, predicted, size
from tests.adapt.test_prefix import GRADIENT_TOLERANCE, MEMORY, distance, run
from tests.batches import small_spec
from tests.everyday import one_in

GLOBE = (torch.linspace(78.75, -78.75, 8), torch.arange(16) * 22.5 + 11.25)
"""Latitudes and longitudes of 8 x 16 points, in the middle of as many cells of the globe."""


def settings(coarse: str | None) -> AdaptSettings:
    return AdaptSettings(method="prompt", coarse=coarse)


def sampled(term: torch.Tensor, latitude: torch.Tensor, longitude: torch.Tensor, patch: int = 1) -> torch.Tensor:
    """What a prompt of one level and one channel, [h, w], is at the patches of a grid: [H, W]."""
    layer = Prompt(1, 1, patch, tuple(term.shape))  # type: ignore[arg-type]
    layer.term.data.copy_(term[None, :, :, None])
    height, width = latitude.shape[0] // patch, longitude.shape[-1] // patch
    found: torch.Tensor = layer(torch.zeros(1, height * width, 1), latitude, longitude)
    return found.view(height, width).detach()


def test_one_vector_for_each_level() -> None:
    layer = Prompt(2, 3, 4, None)
    assert layer.term.shape == (2, 3)
    layer.term.data.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    tokens = torch.ones(2, 2 * 6, 3)
    expected = torch.tensor([[2.0, 3, 4]] * 6 + [[5, 6, 7]] * 6).expand(2, 12, 3)
    assert torch.equal(layer(tokens, *GLOBE), expected)


def test_levels_and_channels_do_not_mix() -> None:
    layer = Prompt(2, 3, 1, (1, 1))
    values = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    layer.term.data.copy_(values[:, None, None])
    got = layer(torch.zeros(2, 2 * 8 * 16, 3), *GLOBE).view(2, 2, 8 * 16, 3)
    torch.testing.assert_close(got, values[None, :, None].expand(2, 2, 128, 3))


def test_cells_as_fine_as_the_grid_are_its_points() -> None:
    term = torch.randn(8, 16)
    torch.testing.assert_close(sampled(term, *GLOBE), term)


def test_between_centres_by_hand() -> None:
    """Two rows, centred on 45 north and south, and four columns, centred on 45, 135, 225 and 315 east."""
    term = torch.tensor([[0.0, 10, 20, 30], [100, 110, 120, 130]])
    latitude = torch.tensor([90.0, 45, 22.5, 0, -80])
    longitude = torch.tensor([0.0, 45, 67.5, 225, 337.5])
    # Over Greenwich, halfway from 30 back to 0; at 67.5 a quarter of the way from 0 to 10; at 337.5 one from 30 to 0.
    across = torch.tensor([15, 0, 2.5, 20, 22.5])
    down = torch.tensor([0, 0, 25, 50, 100])
    torch.testing.assert_close(sampled(term, latitude, longitude), down[:, None] + across)


def test_a_patch_is_where_its_middle_is() -> None:
    """Points at 0, 90, 180 and 270 east, two to a patch: at 45 and 225."""
    term = torch.tensor([[0.0, 10, 20, 30]])
    latitude, longitude = torch.tensor([60.0, 30]), torch.tensor([0.0, 90, 180, 270])
    torch.testing.assert_close(sampled(term, latitude, longitude, patch=2), torch.tensor([[0.0, 20]]))


def test_a_region_has_what_the_globe_has_there() -> None:
    term = torch.randn(3, 5)
    whole = sampled(term, *GLOBE, patch=2)
    region = sampled(term, GLOBE[0][2:6], GLOBE[1][10:14], patch=2)
    torch.testing.assert_close(region, whole[1:3, 5:7])


def test_longitudes_beyond_greenwich_are_the_same_places() -> None:
    term = torch.randn(3, 5)
    inside, beyond = (sampled(term, GLOBE[0], GLOBE[1][:4] + turn) for turn in (0, 360))
    torch.testing.assert_close(inside, beyond)
    torch.testing.assert_close(sampled(term, GLOBE[0], GLOBE[1][:4] - 360), inside)
    # A box that crosses Greenwich has the longitudes of the globe, those west of it first.
    across = longitudes(np.roll(GLOBE[1].numpy(), 8))
    assert isinstance(across, EastwardLongitudes)
    whole = sampled(term, *GLOBE, patch=2)
    torch.testing.assert_close(sampled(term, GLOBE[0], across, patch=2), whole.roll(4, 1))


def test_coordinates_of_two_dimensions_give_the_same() -> None:
    term = torch.randn(3, 5)
    latitude, longitude = torch.meshgrid(*GLOBE, indexing="ij")
    torch.testing.assert_close(sampled(term, latitude, longitude, patch=2), sampled(term, *GLOBE, patch=2))


def test_one_column_is_the_same_all_round() -> None:
    got = sampled(torch.tensor([[2.0], [4.0]]), *GLOBE)
    assert torch.equal(got[0], torch.full((16,), 2.0))
    assert torch.equal(got[-1], torch.full((16,), 4.0))


@pytest.mark.parametrize("coarse", (None, "3x5"))
@pytest.mark.parametrize("variant", one_in(4, VARIANTS))
@torch.no_grad()
def test_it_starts_from_nothing(variant: str, coarse: str | None) -> None:
    spec = small_spec(variant)
    model = awake_model(spec)
    before = predicted(model, spec)
    names = list(model.state_dict())
    trainable.select(model, settings(coarse))
    assert equal(predicted(model, spec), before)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"encoder.prompt.term"}
    assert [name for name in model.state_dict() if name != "encoder.prompt.term"] == names
    engine.install(model, MemorySettings(latitude_bands=2, window_bands=2))
    assert equal(predicted(model, spec), before)


def prompted(spec: Any, coarse: str | None) -> Any:
    model = awake_model(spec)
    trainable.select(model, settings(coarse))
    torch.nn.init.normal_(model.get_parameter("encoder.prompt.term"), std=0.1)
    return model.train()


@pytest.mark.parametrize("coarse", (None, "3x5"))
@pytest.mark.parametrize("memory", one_in(2, MEMORY.values(), MEMORY))
def test_memory_settings_give_the_same(memory: dict[str, Any], coarse: str | None) -> None:
    spec = small_spec("small")
    fields, expected = run(prompted(spec, coarse), spec)
    model = prompted(spec, coarse)
    engine.install(model, MemorySettings.model_validate(memory))
    own, found = run(model, spec)
    assert equal(own, fields)
    assert found.keys() == {"encoder.prompt.term"}
    assert distance(found, expected) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("coarse", (None, "3x5"))
def test_every_value_trains_from_the_first_step(coarse: str | None) -> None:
    spec = small_spec("small")
    model = awake_model(spec)
    trainable.select(model, settings(coarse))
    size(predicted(model, spec)).backward()  # type: ignore[no-untyped-call]
    gradient = model.get_parameter("encoder.prompt.term").grad
    assert gradient is not None
    assert gradient.all()


@torch.no_grad()
def test_a_copy_has_a_prompt_of_its_own() -> None:
    spec = small_spec("small")
    model = prompted(spec, "3x5").eval()
    copied = copy.deepcopy(model)
    before = predicted(model, spec)
    assert equal(predicted(copied, spec), before)
    copied.get_parameter("encoder.prompt.term").zero_()
    assert equal(predicted(model, spec), before)
    assert not equal(predicted(copied, spec), before)


@pytest.mark.parametrize("coarse", one_in(2, (None, "3x5")))
def test_a_step_can_be_planned_on_fake_tensors(coarse: str | None) -> None:
    spec = small_spec("small")
    with simulated_gpu():
        _, planned = run(prompted(spec, coarse), spec)
    _, found = run(prompted(spec, coarse), spec)
    assert {n: v.shape for n, v in planned.items()} == {n: v.shape for n, v in found.items()}


def test_cells_smaller_than_patches_are_refused() -> None:
    latitude, longitude = np.linspace(90, -90, 721), np.arange(1440) / 4
    check_prompt_cells(settings("180x360"), latitude, longitude, 4)
    for cells in ("181x360", "180x361"):
        with pytest.raises(SettingsError, match=rf"at most 180x360 cells of the globe.* got {cells}"):
            check_prompt_cells(settings(cells), latitude, longitude, 4)
        with pytest.raises(SettingsError, match=r"at most 180x360"):
            check_prompt_cells(settings(cells), *np.meshgrid(latitude, longitude, indexing="ij"), 4)
    # A region's patches are as large as the globe's.
    check_prompt_cells(settings("180x360"), latitude[100:180], longitude[:80], 4)
    check_prompt_cells(settings(None), latitude, longitude, 4)
    check_prompt_cells(AdaptSettings(), latitude, longitude, 4)
