"""Hostile inputs of all formats: nothing runs, nothing hangs, memory stays within bounds, and one message says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.grammar import RULES

ROOT = Path(__file__).parents[2]
MIB = 1024
"""Most memory of a case beyond that of a process that does nothing."""


def attack(seed: int, count: int, folder: Path) -> None:
    """Try so many inputs, and hold each against what must become of it."""
    words = [sys.executable, "-m", "tests.security.run", str(seed), str(count), str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == count, done.stderr[-2000:]
    wrong = []
    for result in results:
        refused = result["code"] == 2 and not result["traceback"] and not result["left"]
        if not refused or result["canary"] or result["mib"] > MIB:
            wrong.append(result)
    assert not wrong, json.dumps(wrong, indent=1)
    # Each rule was tried, or as many of them as there are inputs.
    assert len({result["rule"] for result in results}) == min(count, len(RULES))


@pytest.mark.timeout(240)
def test_hostile_inputs_are_refused(tmp_path: Path) -> None:
    attack(1, 40, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_500_hostile_inputs_are_refused(tmp_path: Path) -> None:
    attack(2, 500, tmp_path)
