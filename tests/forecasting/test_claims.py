"""Claims: one holder at a time, and what a process that was killed held is free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from kit.forecasting.claims import Claims, Owner
from tests.everyday import one_in


def write(file: Path, owner: Owner) -> None:
    file.write_text(json.dumps(asdict(owner)))


def ended() -> Owner:
    """A process of this machine that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        started = psutil.Process(process.pid).create_time()
    return replace(Owner.present(), process=process.pid, started=started)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    claims, others = Claims(tmp_path), Claims(tmp_path)
    with claims.held("a") as mine, others.held("a") as theirs, others.held("b") as another:
        assert (mine, theirs, another) == (True, False, True)
    assert list(tmp_path.iterdir()) == []
    with others.held("a") as theirs:
        assert theirs


def test_the_claim_of_a_process_that_is_gone_is_taken_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a", ended())
    with Claims(tmp_path).held("a") as mine:
        assert mine


def test_a_process_that_has_the_number_of_one_that_is_gone_is_another(tmp_path: Path) -> None:
    """Numbers of processes are given out again: this very process did not begin in 1970."""
    write(tmp_path / "a", replace(Owner.present(), started=1.0))
    with Claims(tmp_path).held("a") as mine:
        assert mine


def test_a_process_of_this_machine_that_lives_keeps_its_claim_however_old(tmp_path: Path) -> None:
    write(tmp_path / "a", Owner.present())
    os.utime(tmp_path / "a", (0, 0))
    claims = Claims(tmp_path, given_up_after=0)
    for _ in range(3):
        with claims.held("a") as mine:
            assert not mine


@pytest.mark.parametrize("content", one_in(3, ("elsewhere", "", "{}", "[]", "no number")))
def test_a_claim_of_another_machine_is_given_up_when_it_is_not_renewed(tmp_path: Path, content: str) -> None:
    """A claim whose owner was killed before it wrote its name is nobody's, and is waited for as well."""
    if content == "elsewhere":
        content = json.dumps(asdict(replace(Owner.present(), machine="another")))
    if content == "no number":
        content = json.dumps({**asdict(Owner.present()), "process": "one"})
    (tmp_path / "a").write_text(content)
    claims = Claims(tmp_path, given_up_after=0.2)
    for moment in (10, 20):
        # It is renewed once more, whatever the clock of its machine says.
        os.utime(tmp_path / "a", (moment, moment))
        with claims.held("a") as mine:
            assert not mine
        time.sleep(0.15)
    time.sleep(0.15)
    with claims.held("a") as mine:
        assert mine


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    with Claims(tmp_path, renewed_every=0.02).held("a"):
        os.utime(tmp_path / "a", (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / "a").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_claim_that_was_given_up_is_not_taken_back(tmp_path: Path) -> None:
    """Whoever slept too long leaves the claim of the next holder alone."""
    with Claims(tmp_path).held("a"):
        write(tmp_path / "a", replace(Owner.present(), token="next"))
    assert json.loads((tmp_path / "a").read_text())["token"] == "next"


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Claims(tmp_path / "gone").held("a"):
        pass
