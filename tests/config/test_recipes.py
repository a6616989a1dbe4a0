"""Every recipe parses, and says what it is."""

from __future__ import annotations

from importlib import resources

import pytest

from kit.config.layers import read_recipe, recipe_names, resolve
from kit.settings import Settings


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_parses(name: str) -> None:
    settings = resolve(Settings, [read_recipe(name, Settings)])
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_begins_with_what_it_is_for(name: str) -> None:
    text = (resources.files("kit.config.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")


PRECIPITATION = [name for name in recipe_names() if name.startswith("europe-precipitation")]


@pytest.mark.parametrize("name", PRECIPITATION)
def test_a_region_of_whole_patches(name: str) -> None:
    """Grid points between the borders, both included, at the spacing that the store's name ends with."""
    data = resolve(Settings, [read_recipe(name, Settings)]).data
    spacing = float(data.store.rpartition("-")[2])
    assert data.region is not None
    north, west, south, east = data.region
    for first, last in ((south, north), (west, east)):
        points = (last - first) / spacing + 1
        assert points == pytest.approx(round(points))
        assert round(points) % 4 == 0
        assert first / spacing == pytest.approx(round(first / spacing))


@pytest.mark.parametrize("name", PRECIPITATION)
def test_validation_and_test_are_new_to_the_weights(name: str) -> None:
    from kit.models.pretraining_periods import leaks
    from kit.models.weights.load import Weights

    settings = resolve(Settings, [read_recipe(name, Settings)])
    periods = {"valid": settings.data.valid, "test": settings.data.test}
    assert None not in periods.values()
    upstream = Weights({}, {"name": "w", "file": "f", "sha256": "0"})
    assert leaks(settings.model.variant, upstream, periods, None, synthetic=False) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in PRECIPITATION if name.endswith("-all")])
def test_the_second_stage_goes_on_from_the_first(name: str) -> None:
    first, second = (resolve(Settings, [read_recipe(n, Settings)]) for n in (name.removesuffix("-all"), name))
    assert second.model.weights == f"runs/{name.removesuffix('-all')}/checkpoints/best"
    assert (first.data.store, first.data.region, first.model.variant) == (
        second.data.store,
        second.data.region,
        second.model.variant,
    )
