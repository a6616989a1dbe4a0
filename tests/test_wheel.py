"""The wheel carries all that an installed kit needs, and nothing else; the source archive builds the same one."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CARRIED = (
    "kit/py.typed", "kit/data-registry.toml", "kit/config/recipes/tiny-pretrain.toml",
    "kit/resources/era5-sample.pickle",
    "kit/resources/aurora-tiny.safetensors",
    "kit/resources/coastlines.npz",
    "kit/plots/templates/quality.html.j2",
    "kit/plots/templates/variable.html.j2",
)  # fmt: skip


def build(source: Path, kind: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def sources() -> set[str]:
    files = (path for path in (ROOT / "kit").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(ROOT, "wheel", tmp_path_factory.mktemp("wheel")))


def test_it_carries_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert names.issuperset(CARRIED)


@pytest.mark.parametrize("name", CARRIED)
def test_what_it_carries_is_whole(wheel: zipfile.ZipFile, name: str) -> None:
    """The registry at the root is a link to the package's: there is one, and it is a file here."""
    assert wheel.read(name) == (ROOT / name).read_bytes()


def test_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert wheel.read(f"{info}/entry_points.txt").decode().split() == [
        "[console_scripts]",
        "kit",
        "=",
        "kit.cli.main:main",
    ]
    metadata = wheel.read(f"{info}/METADATA").decode()
    for line in ("License-Expression: MIT", "Requires-Python: >=3.11", "Provides-Extra: grib", "Provides-Extra: peft"):
        assert line in metadata.splitlines()


@pytest.mark.slow
def test_the_source_archive_builds_the_same(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    archive = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = zipfile.ZipFile(build(unpacked, "wheel", tmp_path / "again"))
    assert {entry.filename: entry.CRC for entry in again.infolist()} == {
        entry.filename: entry.CRC for entry in wheel.infolist()
    }
