"""Suite ``data``: building stores, and reading them beside a step."""

from __future__ import annotations

from kit.bench.building import GLOBE, building_rows, length_rows, year_rows
from kit.bench.loading import loading_rows, sample_rows, waiting_rows
from kit.bench.results import BenchRow
from kit.bench.settings import BenchSettings

__all__ = ["run"]


def run(settings: BenchSettings) -> list[BenchRow]:
    """Build, then read; another grid than the suite's own takes the place of the globe at 0.25 degrees."""
    grid, repeats = settings.grid or GLOBE, settings.repeats
    built = [*building_rows(grid, repeats), *length_rows(), *year_rows(grid)]
    return [*built, *loading_rows(grid, repeats), *sample_rows(repeats), *waiting_rows(grid)]
