"""Efficiencies of a card are found again from steps that had them, and read from results alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.io.errors import SettingsError
from kit.planning.calibration import calibrate_card, read_calibration
from kit.planning.cost import ASSUMED, CARDS, Cost, Efficiency, card_like
from kit.planning.plan import plan
from kit.planning.settings import PlanSettings

H100 = CARDS["H100 SXM"]
SHARES = st.floats(0.1, 1.0)
# Kernels of 0.1 s and more at best: of each kind in other numbers, in steps of every mixture.
STEPS = [
    Cost(
        {("bf16", 10**15, 8): one, ("fp32", 10**14, 8): two, ("bf16", 8, 10**12): three, ("tf32", 10**15, 4): one}, 0, 0
    )
    for one, two, three in ((1, 9, 2), (7, 1, 1), (2, 2, 9), (5, 5, 1), (1, 3, 3))
]


@given(bf16=SHARES, fp32=SHARES, traffic=SHARES, tf32=SHARES)
@settings(max_examples=30, deadline=None)
def test_efficiencies_are_found_again(bf16: float, fp32: float, traffic: float, tf32: float) -> None:
    due = Efficiency(bf16, tf32, fp32, traffic)
    seconds = [cost.seconds(replace(H100, efficiency=due)) for cost in STEPS]
    found = calibrate_card(H100, STEPS, seconds)
    # bf16 and tf32 occur together: their sum is told, and times are.
    for cost, taken in zip(STEPS, seconds, strict=True):
        assert cost.seconds(replace(H100, efficiency=found)) == pytest.approx(taken, rel=0.01)
    assert (found.fp32, found.traffic) == pytest.approx((fp32, traffic), rel=0.02)


def test_what_does_not_occur_is_assumed() -> None:
    costs = [Cost({("bf16", 10**15, 8): count}, 0, 0) for count in (1, 2, 3)]
    found = calibrate_card(H100, costs, [cost.seconds(H100) / 2 for cost in costs])
    # Twice as fast as 0.6 of the best is faster than the best.
    assert found.bf16 == pytest.approx(1)
    assert replace(found, bf16=0.6) == ASSUMED


def test_launches_are_no_inefficiency() -> None:
    costs = [Cost({("bf16", 10**15, 8): count, ("fp32", 1, 1): 100_000}, 0, 0) for count in (1, 2)]
    found = calibrate_card(H100, costs, [cost.seconds(H100) for cost in costs])
    assert found.bf16 == pytest.approx(0.6, rel=1e-6)


def results(file: Path, **changes: Any) -> Path:
    values = {"card": "H100 SXM", "bf16": 0.7, "tf32": 0.6, "fp32": 0.5, "traffic": 0.8, **changes}
    file.write_text(json.dumps({"format": 1, "suites": {"card": {"rows": [{"name": "x"}, {"calibration": values}]}}}))
    return file


def test_a_plan_is_made_with_what_was_measured(tmp_path: Path) -> None:
    file = results(tmp_path / "b.json")
    assert read_calibration(file) == ("H100 SXM", Efficiency(0.7, 0.6, 0.5, 0.8))
    raw = {"model": {"variant": "tiny"}, "grid": "32x64", "card": "H100"}
    usual = plan(PlanSettings.model_validate(raw))
    measured = plan(PlanSettings.model_validate({**raw, "calibration": file}))
    assert measured.to_dict()["efficiency"] == {"bf16": 0.7, "tf32": 0.6, "fp32": 0.5, "traffic": 0.8}
    assert usual.to_dict()["efficiency"] == dict.fromkeys(("bf16", "tf32", "fp32", "traffic"), 0.6)
    assert measured.to_dict()["cards"]["H200"] == usual.to_dict()["cards"]["H200"]
    assert measured.trace.peak == usual.trace.peak


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suites": {"card": {"rows": []}}}', '{"suites": []}'])
def test_files_without_one_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match="expected results of kit bench card"):
        read_calibration(file)


@pytest.mark.parametrize(
    "changes", [{"bf16": 0}, {"fp32": 1.5}, {"traffic": "nan"}, {"tf32": None}, {"card": 3}], ids=str
)
def test_values_that_no_card_has_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected results of kit bench card"):
        read_calibration(results(tmp_path / "b.json", **changes))


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA A10", "A10"),
    ],
)
def test_a_drivers_name_is_known(device: str, card: str) -> None:
    assert card_like(device).name == card


def test_a_card_that_is_not_known_is_said() -> None:
    with pytest.raises(SettingsError, match="there is no card 'Tesla V100-SXM2-16GB'"):
        card_like("Tesla V100-SXM2-16GB")
