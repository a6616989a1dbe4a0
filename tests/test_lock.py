"""The lock names every package that the kit and its extras install here.

Constraints say nothing of a package that they do not name: it would come without a hash, in the newest version. That
happens where the wheels of one version differ in what they require, as ecCodes' do.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

KIT = "aurora-finetune-kit"
LOCK = Path(__file__).parents[1] / "requirements.lock"


def pins() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def required(name: str, extras: frozenset[str]) -> set[tuple[NormalizedName, frozenset[str]]]:
    """What one installed package requires in this environment."""
    found = [Requirement(text) for text in metadata.requires(name) or []]
    needed = [
        one for one in found if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras or {""})
    ]
    return {(canonicalize_name(one.name), frozenset(one.extras)) for one in needed}


def test_every_package_is_pinned() -> None:
    extras = frozenset(metadata.metadata(KIT).get_all("Provides-Extra") or [])
    waiting = {(canonicalize_name(KIT), extras)}
    seen: set[tuple[NormalizedName, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        waiting |= required(*one) - seen
    names = {name for name, _ in seen} - {KIT}
    assert len(names) > 100
    assert names <= pins().keys(), f"not in {LOCK.name}, run nox -s lock: {sorted(names - pins().keys())}"


def test_every_pin_has_a_hash() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.read_text().strip())
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
