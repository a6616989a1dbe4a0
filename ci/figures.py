"""Draw the manual's maps again: the run of the first page on the sample, and the day of real ERA5 over Europe."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from manual import DOCS, europe, first_run, kit


def sample(folder: Path) -> None:
    """Map temperature of the run on the embedded sample."""
    first_run(folder)
    kit(folder, "plot --run runs/first --variables t_850 --out figures")


def real(folder: Path) -> None:
    """Map the dew point of the run on the European day."""
    europe(folder)
    kit(folder, "plot --run runs/europe --variables 2d --out figures")


FIGURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "sample": (sample, "t_850_*.png"),
    "europe": (real, "2d_*.png"),
}
"""Runs, and the map that the manual shows of each."""


def main(arguments: list[str]) -> None:
    """Draw the figures that are named, or all."""
    unknown = set(arguments) - set(FIGURES)
    if unknown:
        sys.exit(f"figures: there are none named {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    for name in arguments or FIGURES:
        draw, pattern = FIGURES[name]
        with tempfile.TemporaryDirectory(prefix="kit-figures-") as folder:
            draw(Path(folder))
            (drawn,) = (Path(folder) / "figures").glob(pattern)
            part = DOCS / "figures" / f".{name}.png"
            shutil.copyfile(drawn, part)
            part.replace(DOCS / "figures" / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
