"""The layout shows the architecture: rooms in order, light packages, one copy of shared things, unique names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit

ROOT = Path(__file__).parents[1]
KIT = ROOT / "kit"
ROOMS = re.findall(r"^- `(\w+)`: ", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
"""As the page of the architecture lists them, from above."""

# Calls that only one module may make; everybody else calls that module.
HOMES = {
    r"\bos\.(replace|rename|fsync)\b": {"io/atomic.py"},
    r"\b(?:folder|part|path|fresh|old|file|temporary|store)\.(?:rename|replace)\((?![\"'])": {"io/atomic.py"},
    r"\bfcntl\b": {"io/locks.py"},
    r"\bhashlib\b": {"io/hashes.py"},
    r"\bdifflib\b": {"config/suggestions.py"},
    r"\btime\.sleep\b": {"io/retry.py", "io/atomic.py"},
    r"\bjson\.loads?\(|\btomllib\b": {"io/documents.py"},
}

# A function that the API offers as ``kit.NAME``.
API = tuple(name for name in kit.__all__ if name not in ("Settings", "__version__"))


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(KIT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(path: Path) -> set[str]:
    """Modules of the kit that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "kit"}


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def test_every_room_is_on_the_page_and_every_line_is_a_room() -> None:
    rooms = {path.parent.name for path in KIT.glob("*/__init__.py")} - {"resources"}
    assert sorted(ROOMS) == sorted(rooms)
    assert not rooms & set(API)


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in ROOMS])
def test_a_room_imports_only_rooms_above_it(module: str) -> None:
    own = ROOMS.index(room(module))
    below = [name for name in imports(MODULES[module]) if room(name) in ROOMS and ROOMS.index(room(name)) > own]
    assert below == []


def test_no_modules_import_each_other() -> None:
    graph = {name: imports_at_top(path) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def imports_at_top(path: Path) -> set[str]:
    """Modules of the kit that are imported when a file is."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_at_most_three_modules_at_the_top_and_none_is_long() -> None:
    assert sorted(path.name for path in KIT.glob("*.py")) == ["__init__.py", "__main__.py", "settings.py"]
    long = {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_names_of_classes_are_unique() -> None:
    names: Counter[str] = Counter()
    for path in MODULES.values():
        names.update(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


@pytest.mark.parametrize("call", HOMES)
def test_shared_things_are_there_once(call: str) -> None:
    users = {str(path.relative_to(KIT)) for path in MODULES.values() if re.search(call, path.read_text())}
    assert users - HOMES[call] == set()


@pytest.mark.parametrize("path", sorted(KIT.rglob("__init__.py")), ids=lambda path: str(path.relative_to(KIT)))
def test_packages_import_nothing_heavy(path: Path) -> None:
    heavy = re.compile(
        r"^\s*(?:import|from) (torch|aurora|xarray|mlflow|zarr|dask|peft|matplotlib|scipy)\b", re.MULTILINE
    )
    assert heavy.findall(path.read_text()) == []


def test_only_tracking_imports_mlflow() -> None:
    users = {
        room(name)
        for name, path in MODULES.items()
        if re.search(r"^\s*(import|from) mlflow", path.read_text(), re.MULTILINE)
    }
    assert users <= {"tracking", "doctor"}


def test_settings_import_nothing_heavy() -> None:
    code = (
        "import sys, kit, kit.settings, kit.verification.settings, kit.forecasting.settings, kit.planning.settings\n"
        "heavy = {'torch', 'aurora', 'xarray', 'mlflow', 'numpy', 'zarr'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
