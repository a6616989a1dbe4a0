"""Every command that the documentation shows, in its order, in one folder, as a reader would type it."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.cli.main import main
from tests.real_data import real_data

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
KIT = Path(sys.executable).with_name("kit")
# Fewer steps than a reader takes, where the page does not say how many.
QUICK = {"KIT_TRAIN__STEPS": "2"}


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks that run the kit."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("kit ")]


# The README's commands run every day; those of the manual take too long together.
PAGES = [pytest.param(page, marks=() if page == "README.md" else pytest.mark.slow) for page in TEXTS if commands(page)]


def failures(page: str) -> list[tuple[str, str]]:
    """The commands of a page that fail, each with what it prints."""
    shown = re.compile(r"^```console\n\$ (kit .*?)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    return shown.findall((ROOT / page).read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def serves() -> Callable[[], None]:
    """The check of ``kit ui``, made once: two pages show the same command, and MLflow's server takes its time."""
    return functools.cache(assert_serves)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(
    page: str,
    tmp_path: Path,
    cache: Path,
    empty_database: Path,
    serves: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in {**QUICK, "KIT_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_database.read_bytes())
    for shown in commands(page):
        command = shown
        if "ERA5_FOLDER" in shown:
            command = shown.replace("ERA5_FOLDER", str(real_data("era5-europe-2020-01-01")))
        if command == "kit ui":
            serves()
        else:
            # In this process, which has loaded PyTorch: a reader's shell does it anew for each command.
            assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err[-3000:]}"


@pytest.fixture(scope="module")
def first_run(cache: Path, tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A folder with the run that the page's failures follow."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "runs").mkdir()
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("KIT_CACHE", str(cache))
        assert main(["finetune", "--run.name", "first", "--train.steps", "2"]) == 0
    return folder


@pytest.mark.parametrize(("command", "printed"), failures("docs/troubleshooting.md"))
def test_every_failure_of_the_troubleshooting_page_is_printed(
    command: str,
    printed: str,
    first_run: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(first_run)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KIT_CACHE", str(cache))
    assert main(shlex.split(command)[1:]) == 2
    parts = [re.escape(" ".join(part.split())) for part in printed.split("...")]
    assert re.search(r"\s*.*?\s*".join(parts), " ".join(capsys.readouterr().err.split())), printed


def assert_serves() -> None:
    """The page's server is still there after a moment, and goes when asked to."""
    process = subprocess.Popen([KIT, "ui", "--port", "5987"], stderr=subprocess.DEVNULL)
    time.sleep(5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) in (0, 130)


def test_the_readmes_tasks_are_tasks() -> None:
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"nox -s (\w+)", "".join((ROOT / page).read_text() for page in TEXTS)))
    assert named >= {"smoke", "tests"}
    assert named <= sessions


def test_every_page_that_is_linked_exists() -> None:
    for page in TEXTS:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
