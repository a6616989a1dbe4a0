"""Losses over a region: the model sees its halo, and nothing of it counts."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from kit.data.dataset import Pairs, Selection
from kit.data.grid import Grid
from kit.data.region import select_grid
from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.models.space import Fields, TrainingSpace
from kit.train.loss import PaperMAE
from kit.train.settings import RolloutSettings
from kit.train.tasks.forecast import roll_out
from tests.batches import small_spec, synthetic_batch
from tests.factories import synthetic_store

LEVELS = (300, 500, 850)
WINDOW = (slice(4, 20), slice(8, 40))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every 5 degrees around the globe: 36 rows, 72 columns."""
    return synthetic_store(tmp_path_factory.mktemp("regions") / "globe", height=36, width=72, times=6, levels=LEVELS)


def pairs(store: Store, grid: Grid, steps: int = 1) -> Pairs:
    spec = small_spec("pretrained")
    selection = Selection(
        spec.surface, spec.surface, spec.atmospheric, spec.static, LEVELS, 2, timedelta(hours=6), grid
    )
    return Pairs(store, selection, Period.parse("2020-01-01/2020-01-03"), steps=steps)


def test_the_model_sees_the_halo_as_it_would_see_a_larger_box(store: Store) -> None:
    """58 to 22 N and 10 W to 30 E with 10 degrees around, and the box that this comes to."""
    inner = select_grid(store, (58, -10, 22, 30), 4, halo=10)
    outer = select_grid(store, (68, -20, 12, 55), 4)
    assert inner.window is not None
    assert outer.window is None
    assert (inner.rows, inner.columns) == (outer.rows, outer.columns)
    here, there = pairs(store, inner)[0], pairs(store, outer)[0]
    for one, other in ((here.inputs, there.inputs), (here.target, there.target)):
        assert all(torch.equal(value, other.surf_vars[name]) for name, value in one.surf_vars.items())
        assert torch.equal(one.metadata.lon, other.metadata.lon)


@pytest.mark.parametrize("variant", ("pretrained", "wave", "air-pollution"))
def test_fields_of_losses_are_those_of_the_window(variant: str) -> None:
    spec = small_spec(variant)
    torch.manual_seed(0)
    whole = TrainingSpace(spec.build().eval(), spec)
    part = TrainingSpace(whole.model, spec, WINDOW)
    inputs, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)
    with torch.no_grad():
        (all_fields, everywhere), (fields, prediction) = (s.step(s.inputs(inputs)) for s in (whole, part))
        for there, here in ((all_fields, fields), (whole.targets(target), part.targets(target))):
            assert_within(there, here)
        assert torch.equal(fields.surface["2t"], part.predict_fields(part.inputs(inputs)).surface["2t"])
    # What re-enters a roll-out is everything that the model sees.
    assert torch.equal(prediction.atmos_vars["t"], everywhere.atmos_vars["t"])


def assert_within(there: Fields, here: Fields) -> None:
    rows, columns = WINDOW
    for name in ("surface", "atmospheric", "masks"):
        values, parts = getattr(there, name), getattr(here, name)
        assert values.keys() == parts.keys()
        assert all(torch.equal(value[..., rows, columns], parts[key]) for key, value in values.items())


def test_what_is_missing_in_the_halo_does_not_count(store: Store) -> None:
    """A target that is NaN all around the region: the loss is that of the region, and so is its gradient."""
    grid = select_grid(store, (58, 100, 22, 135), 4, halo=10)
    spec = small_spec("pretrained")
    torch.manual_seed(0)
    space = TrainingSpace(spec.build(), spec, grid.window)
    losses = []
    for spoilt in (False, True):
        pair = pairs(store, grid, steps=2)[0]
        if spoilt:
            assert grid.window is not None
            kept = torch.zeros(grid.shape, dtype=torch.bool)
            kept[grid.window] = True
            pair.target.surf_vars["2t"][...] = pair.target.surf_vars["2t"].where(kept, torch.nan)
        (graded,) = roll_out(space, PaperMAE(), pair, RolloutSettings(steps=2), torch.device("cpu"))
        losses.append(graded.loss.total)
        assert all(bool(finite) for finite in graded.target.values())
    assert torch.isfinite(losses[0])
    assert torch.equal(*losses)
