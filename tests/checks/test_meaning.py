"""Checks of what values mean: units, physics, statistics, periods, what a variant reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kit.checks.check import LEVELS, Expected
from kit.checks.drift import drift, published
from tests.checks.stores import (
    dry_above,
    failed,
    of,
    report_of,
)  # fmt: skip
from tests.factories import synthetic_dataset, write_synthetic


@pytest.mark.parametrize(
    ("variant", "name", "severity", "detail"),
    (
        (Expected("small", step_hours=6), "time-step", None, ""),
        (Expected("12h", step_hours=12), "time-step", None, ""),
        (Expected("odd", step_hours=9), "time-step", "error", r"every 6 h, and variant odd steps 9 h: no pair fits"),
        (Expected("v1p5", step_hours=6, window_hours=1), "accumulation-window", "error", r"over 6 h, but variant v1p5"),
        (Expected("wave", surface=("2t", "pp1d")), "missing-variables", "warning", r"variant wave .* lacks pp1d"),
        (Expected("small"), "missing-levels", "warning", r"knows 13 levels; the store lacks 50, 150"),
        (Expected("few", levels=(100, 500, 850)), "missing-levels", None, ""),
    ),
)
def test_what_a_variant_reads(pristine: Path, variant: Expected, name: str, severity: str | None, detail: str) -> None:
    (check,) = of(report_of(pristine, variant), name)
    assert check.status == ("passed" if severity is None else "failed")
    assert severity is None or check.severity == severity
    assert re.search(detail, check.detail)


def test_all_of_auroras_levels_are_enough(tmp_path: Path) -> None:
    dataset = synthetic_dataset(levels=LEVELS, times=4)
    write_synthetic(dataset.assign(q=dry_above(dataset["q"])), tmp_path / "store")
    assert {check.status for check in report_of(tmp_path / "store").checks} == {"passed", "not-applicable"}


def test_no_variable_is_held_against_statistics_that_upstream_does_not_publish() -> None:
    assert drift("mystery", 1e9, 1e9) is None
    assert drift("2t", np.nan, 1.0) is None


def test_what_upstream_publishes_is_what_the_installed_package_has() -> None:
    from aurora import normalisation

    assert published() == {key: (normalisation.locations[key], normalisation.scales[key]) for key in published()}
    assert set(published()) == set(normalisation.locations)


def test_longitudes_of_another_order_are_seen_in_the_statics(tmp_path: Path) -> None:
    """The orography of a source that begins at 180 W, beside a surface pressure that begins at Greenwich."""
    dataset = synthetic_dataset(surface=("sp", "2t"), times=4)
    peak = np.exp(-((np.arange(32) - 8) ** 2) / 8)[None] * np.sin(np.linspace(0, np.pi, 16))[:, None]
    dataset["static_z"] = (("latitude", "longitude"), (50000 * np.roll(peak, 16, axis=1)).astype(np.float32))
    dataset["sp"] = dataset["sp"] - np.float32(40000) * peak.astype(np.float32)
    dataset["sp"] = dataset["sp"].astype(np.float32)
    write_synthetic(dataset, tmp_path / "store")
    (found,) = failed(report_of(tmp_path / "store"), "static-alignment")
    assert "half the circle off in longitude" in found.detail
