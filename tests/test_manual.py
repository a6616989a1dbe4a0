"""Numbers of the manual: pages state what was recorded, and the runs that it comes from give it again."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.real_data import real_data

ROOT = Path(__file__).parents[1]
SESSIONS = ("first-run", "roll-out", "methods", "europe")


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    """``ci/manual.py``, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("manual", ROOT / "ci" / "manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((ROOT / "docs" / "numbers.json").read_text())
    return numbers


def test_pages_state_what_was_recorded(manual: ModuleType, recorded: dict[str, Any]) -> None:
    assert set(SESSIONS) == set(manual.SESSIONS) == set(manual.TEXTS) == set(recorded)
    stated = ""
    for page in manual.PAGES:
        text = (ROOT / "docs" / page).read_text()
        assert manual.with_numbers(text, recorded) == text, f"{page}: nox -s manual writes it anew"
        stated += text
    for name in SESSIONS:
        assert f"<!-- numbers: {name} -->" in stated


def test_another_number_changes_the_page(manual: ModuleType, recorded: dict[str, Any]) -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in manual.PAGES)
    for name in SESSIONS:
        assert manual.with_numbers(text, {**recorded, name: changed(recorded[name])}) != text


def changed(value: Any) -> Any:
    """A record with other numbers."""
    if isinstance(value, dict):
        return {key: changed(part) for key, part in value.items()}
    if isinstance(value, list):
        return [changed(part) for part in value]
    return value if isinstance(value, str) else 2 * value + 1


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a record by their places in it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}/{index}")
    elif not isinstance(value, str):
        yield path, float(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", SESSIONS)
def test_runs_give_the_numbers_again(
    name: str, manual: ModuleType, recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "europe":
        monkeypatch.setenv("KIT_TEST_DATA", str(real_data(manual.DATA).parent))
    found = dict(leaves(manual.SESSIONS[name](tmp_path)))
    expected = dict(leaves({key: value for key, value in recorded[name].items() if key != "machine"}))
    assert found.keys() == expected.keys()
    # Another processor, or another number of threads, adds in another order, which training amplifies.
    far = {key: (found[key], value) for key, value in expected.items() if not near(key, found[key], value)}
    assert far == {}


def near(key: str, found: float, expected: float) -> bool:
    """Whether a number is the recorded one: counts within two, skills within 0.03, errors and losses within 2 %."""
    if key in ("/better", "/of", "/steps"):
        return abs(found - expected) <= 2
    if "skill" in key:
        return math.isclose(found, expected, rel_tol=0.03, abs_tol=0.03)
    return math.isclose(found, expected, rel_tol=0.02)
