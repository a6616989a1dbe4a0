"""Every command that the documentation shows, in its order, in one folder, as a reader would type it."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.cli import main
from tests.real_data import real_data

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "docs/first-run.md", "docs/your-data.md", "docs/methods.md", "docs/memory.md", "docs/plan.md",
    "docs/regions.md", "docs/rollout.md", "docs/forecast.md", "docs/sharing.md",
    "docs/precipitation.md",
)  # fmt: skip
KIT = Path(sys.executable).with_name("kit")
# Fewer steps than a reader takes, where the page does not say how many.
QUICK = {"KIT_TRAIN__STEPS": "2"}


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks that run the kit."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("kit ")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(
    page: str,
    tmp_path: Path,
    cache: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = commands(page)
    assert found
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in {**QUICK, "KIT_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_database.read_bytes())
    for shown in found:
        command = shown
        if "ERA5_FOLDER" in shown:
            command = shown.replace("ERA5_FOLDER", str(real_data("era5-europe-2020-01-01")))
        if command == "kit ui":
            assert_serves()
        else:
            # In this process, which has loaded PyTorch: a reader's shell does it anew for each command.
            assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err[-3000:]}"


def assert_serves() -> None:
    """The page's server is still there after a moment, and goes when asked to."""
    process = subprocess.Popen([KIT, "ui", "--port", "5987"], stderr=subprocess.DEVNULL)
    time.sleep(5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) in (0, 130)


def test_the_readmes_tasks_are_tasks() -> None:
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"nox -s (\w+)", "".join((ROOT / page).read_text() for page in PAGES)))
    assert named >= {"smoke", "tests"}
    assert named <= sessions


def test_every_page_that_is_linked_exists() -> None:
    for page in (*PAGES, "docs/decisions.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
