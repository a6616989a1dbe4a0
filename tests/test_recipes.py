"""Every recipe parses, and says what it is."""

from __future__ import annotations

from importlib import resources

import pytest

from kit.config import read_recipe, recipe_names, resolve
from kit.settings import Settings


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_parses(name: str) -> None:
    settings = resolve(Settings, [read_recipe(name, Settings)])
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_begins_with_what_it_is_for(name: str) -> None:
    text = (resources.files("kit.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
