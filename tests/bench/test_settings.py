"""What may be asked of the benchmarks, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kit.bench.settings import BenchSettings


def test_suite_step_is_the_default() -> None:
    assert BenchSettings().chosen == ("step",)
    assert BenchSettings().results == Path("docs/benchmarks.json")


def test_suites_run_once_each_in_the_order_given() -> None:
    assert BenchSettings(suites=("fit", "step", "fit")).chosen == ("fit", "step")


def test_a_page_from_results_runs_nothing() -> None:
    assert BenchSettings.model_validate({"from": "x.json"}).chosen == ()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"suites": ["stpe"]}, "there is no suite 'stpe'; did you mean step"),
        ({"suites": ["memory"]}, "there is no suite 'memory'; there are step, plan, scale, fit, methods, data"),
        ({"suites": ["fit"], "from": "x.json"}, "exclude each other.*leave out fit"),
        ({"out": "page.html"}, "expected a file that ends in .md.*got 'page.html'"),
        ({"repeats": 0}, "greater than 0"),
        ({"grid": "96"}, "expected rows x columns"),
    ],
)
def test_refusals(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BenchSettings.model_validate(raw)
