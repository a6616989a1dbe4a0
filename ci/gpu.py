"""Everything that only a card can tell, in one go: tests, the planner beside the card, steps beside upstream's.

``nox -s gpu`` runs this, and so does ``python ci/gpu.py`` where nothing can be installed. Results go to the page of
benchmarks and the JSON beside it, in which every number stands with the card's name. With ``--dry`` the same pieces run
on a CPU, on the tiny model and a small grid, wherever they can.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_DRY = "--device cpu --variant tiny --grid 32x64"


@dataclass(frozen=True)
class Piece:
    """A command of the session.

    Attributes:
        name: What it tells.
        words: The command, after ``python -m``.
        dry: What it is given on a CPU; None where there is nothing that a CPU can run.
        seconds: Time after which it is given up, so that the others have theirs.
    """

    name: str
    words: str
    dry: str | None
    seconds: float


PIECES = (
    Piece("tests", "pytest --quiet -m gpu", None, 150),
    Piece("the planner beside the card", "kit bench card --repeats 1", _DRY, 240),
    Piece("steps beside upstream's", "kit bench step --repeats 1 --precision bf16", _DRY, 120),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the pieces; return 0 if all of them came to their end."""
    parser = argparse.ArgumentParser(prog="nox -s gpu --", description="Measure and test on a card.")
    parser.add_argument("--dry", action="store_true", help="on a CPU, on a small model, what a CPU can run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page of benchmarks")
    parser.add_argument("--track", default=None, help="MLflow's address; by default the kit's")
    asked = parser.parse_args(arguments)
    failed = []
    for piece in PIECES:
        if asked.dry and piece.dry is None:
            print(f"{piece.name}: needs a card", flush=True)
            continue
        words = [sys.executable, "-m", *piece.words.split()]
        if asked.dry and piece.dry is not None:
            words += piece.dry.split()
        if piece.words.startswith("kit bench"):
            words += ["--out", str(asked.out)]
            words += ["--track.uri", asked.track] if asked.track else []
        started = time.monotonic()
        if not _ends(words, piece.seconds):
            failed.append(piece.name)
        print(f"{piece.name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return len(failed)


def _ends(words: list[str], seconds: float) -> bool:
    try:
        return subprocess.run(words, cwd=ROOT, timeout=seconds, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    sys.exit(main())
