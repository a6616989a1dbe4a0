"""A sound store, made once, and copies of it to be spoiled."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.checks import run as checks
from kit.checks.scan import Bounds, Survey, survey
from kit.checks.store_reader import Channel
from tests.checks.stores import make_sound

_SURVEYS: dict[str, Survey] = {}


@pytest.fixture(autouse=True)
def _surveyed_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a variable once for all tests in which it has the same files and is held against the same bounds."""
    if "each_reads" in request.fixturenames:
        return

    def known(
        channel: Channel,
        bounds: Bounds,
        trains: frozenset[int],
        watch: Callable[[], None] = lambda: None,
        weights: Any = None,
    ) -> Survey:
        facts = f"{channel.name} {bounds} {sorted(trains)} {channel.array.attrs.asdict()} {weights is None}"
        digest = hashlib.sha256(facts.encode())
        for file in sorted(channel.folder.rglob("*")):
            digest.update(f"{file.relative_to(channel.folder)} ".encode())
            digest.update(file.read_bytes() if file.is_file() else b"")
        key = digest.hexdigest()
        if key not in _SURVEYS:
            _SURVEYS[key] = survey(channel, bounds, trains, watch, weights)
        return replace(_SURVEYS[key], channel=channel)

    monkeypatch.setattr(checks, "survey", known)


@pytest.fixture
def each_reads() -> None:
    """Every value is read anew."""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sound(tmp_path_factory.mktemp("qa") / "store")


@pytest.fixture(scope="session")
def _copy(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(pristine, tmp_path_factory.mktemp("qa") / "copy"))


@pytest.fixture
def path(pristine: Path, _copy: Path) -> Iterator[Path]:
    """A sound store to be spoiled; it is mended afterwards, which is quicker than a copy for each test."""
    yield _copy
    wanted, found = _files(pristine), _files(_copy)
    for name in found.keys() - wanted.keys():
        (_copy / name).unlink()
    for name, facts in wanted.items():
        if found.get(name) != facts:
            (_copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(pristine / name, _copy / name)
    for folder in _copy.iterdir():
        if not (pristine / folder.name).exists():
            shutil.rmtree(folder)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of change."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            file = os.path.join(root, name)  # noqa: PTH118 - Path is slow, and these are many
            facts = os.stat(file)  # noqa: PTH116
            found[os.path.relpath(file, folder)] = (facts.st_size, facts.st_mtime_ns)
    return found
