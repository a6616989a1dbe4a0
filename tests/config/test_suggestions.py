"""Names that a person may have meant."""

from __future__ import annotations

from kit.config.suggestions import near_names


def test_near_names_come_closest_first() -> None:
    # 2 * matching letters / all letters: 8/9 for "step" and "steps", 8/10 for "stepps".
    assert near_names("step", ["seed", "stepps", "steps", "epochs"]) == ["steps", "stepps"]
    assert near_names("step", ["seed", "stepps", "steps"], count=1) == ["steps"]
    assert near_names("step", iter(["stepps", "steps"]), cutoff=0.85) == ["steps"]


def test_nothing_is_near() -> None:
    assert near_names("xyzzy", ["steps", "seed"]) == []
    assert near_names("steps", []) == []
