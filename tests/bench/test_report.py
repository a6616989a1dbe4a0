"""The page, from results made up by hand."""

from __future__ import annotations

from typing import Any

from kit.bench.planning import FULL_BELOW_LORA
from kit.bench.report import page
from kit.bench.step import TARGET


def suite(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": "kit bench x --repeats 3",
        "date": "2026-11-21",
        "machine": {"name": "a CPU, 2 cores"},
        "card": "A100 80GB",
        "rows": list(rows),
    }


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def step_row(**more: Any) -> dict[str, Any]:
    row = {
        "name": "blocks",
        "value": 5.61,
        "ratio": 0.7,
        "exact": True,
        "step_seconds": 6.6,
        "samples_per_second": 0.15,
    }
    different = {"predictions": 0.0, "gradients": 3.2e-7, "loss_curve": None}
    return {**row, "peak_gib": 3.5, "peak_ratio": 0.875, "exactness": different, **more}


TARGET_ROW = {"name": TARGET, "value": 0.7, "way": "blocks", "must": 0.78, "aim": 0.65, "verdict": "must"}


def test_steps() -> None:
    text = page({"step": suite(step_row(), TARGET_ROW)})
    assert cells(text, "blocks") == (
        ["blocks", "5.61", "0.70", "6.6", "0.15", "3.5", "0.88", "0", "3.2e-07", "-", "yes"]
    )
    assert f"**{TARGET}: 0.70 of upstream's time** (blocks); must 0.78, aim 0.65: must met." in text
    assert "`kit bench x --repeats 3`, 2026-11-21: a CPU, 2 cores." in text
    assert "allocator" not in text.split("## ")[1]


def test_a_gpus_allocator_has_its_own_column() -> None:
    text = page({"step": suite(step_row(cuda_gib=4.25), {**TARGET_ROW, "value": None, "verdict": "missed"})})
    assert "| allocator, GiB |" in text
    assert "4.25" in cells(text, "blocks")
    assert "**missed**" in text


def plan_row(**more: Any) -> dict[str, Any]:
    row = {"name": "LoRA", "value": 7.91, "baseline": 73.5, "ratio": 0.1076, "exact": True, "plain_gib": 120.0}
    times: dict[str, Any] = {"time_ratio": None, "time_ratio_estimate": 0.93, "inexact": [], "command": "kit plan --x"}
    return {**row, "host_gib": 12.8, **times, **more}


def test_plans() -> None:
    lora = plan_row(must=12, aim=9, verdict="aim", host_must=24)
    forecast = plan_row(name="forecast", reported_gib=37.3, exact=False, inexact=["a", "b"])
    share = {"name": f"{FULL_BELOW_LORA} as published", "percent_below": 87.7, "lora_gib": 7.91, "full_gib": 64.6}
    text = page({"plan": suite(lora, forecast, {**share, "must": 0.3, "aim": None, "verdict": "must"})})
    assert cells(text, "LoRA") == [
        *("LoRA", "7.91", "12 / 9", "aim met", "12.8 (up to 24)"),
        *("73.5", "0.11", "120", "-", "0.93", "yes"),
    ]
    assert "73.5 (37.3 reported)" in cells(text, "forecast")
    assert cells(text, "forecast")[-1] == "no: a; b"
    assert "as published: 88 % below (7.91 of 64.6 GiB); must 0.3: must met." in text
    assert "for A100 80GB" in text
    assert text.count("kit plan --x") == 2


def test_growth_and_fitting() -> None:
    size = {"name": "0.25", "tokens": 64800, "pixels": 1036800, "peak_gib": 12.0, "host_gib": 14.0}
    grown = {"tokens_growth": 16.0, "pixels_growth": 16.0, "peak_growth": 8.0, "seconds_growth": 15.0}
    size |= {"seconds_estimate": 4.0, "command": "kit plan --y"} | grown | {"verdict": "must", "must": 16.0}
    fitted = {"name": "full, 24 GiB", "value": 20.5, "chosen": "", "host_gib": 1.0, "verdict": "must"}
    refused = {"name": "full, 8 GiB", "value": None, "refused": "too | small"}
    rows = ({**row, "command": "kit plan --z"} for row in (fitted, refused))
    text = page({"fit": suite(*rows), "scale": suite(size)})
    assert cells(text, "0.25")[1:] == [
        "64,800",
        "1,036,800",
        "12",
        "14",
        "4",
        "16.00",
        "16.00",
        "8.00",
        "15.00",
        "must met",
    ]
    assert cells(text, "full, 24 GiB")[4] == "`nothing`"
    assert "none: too \\| small" in text
    # In the order of the page, whatever that of the results.
    assert text.index("## Growth") < text.index("## What memory.fit chooses")


def test_an_empty_page_says_how_numbers_are_taken() -> None:
    assert "loss in 20 steps" in page({})
