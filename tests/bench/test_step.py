"""Suite ``step``: rows of made-up measurements by hand, and all of it on a model that is done in a moment."""

from __future__ import annotations

import pytest
import torch

from kit.bench import exactness, step
from kit.bench.configurations import Seconds, StepMeasurement, by_kit, measure, plain_name, upstreams_loop
from kit.bench.exactness import Exactness, UpstreamReference
from kit.bench.results import BenchRow
from kit.bench.settings import BenchSettings
from kit.bench.step import TARGET, rows_of
from kit.bench.workload import make_case
from kit.io.errors import SettingsError
from kit.planning.counter import Peak
from kit.planning.settings import GridSize
from kit.settings import Settings

GRID = GridSize(32, 32)
EXACT = Exactness(0.0, 1e-7, 1e-8, exact=True)


def took(through_backward: float, update: float, gib: float) -> StepMeasurement:
    peak = Peak(bytes=int(gib * 2**30), where="decoder")
    return StepMeasurement(Seconds(through_backward, update), through_backward + update, peak, 0, None)


def fake_rows(*, has_targets: bool = True, frugal: float = 3.5) -> dict[str, BenchRow]:
    measured = {
        "upstream": took(8.0, 2.0, 4.0),
        "plain": took(4.0, 2.0, 9.0),
        "greedy": took(4.0, 1.0, 4.5),
        "frugal": took(5.6, 1.0, frugal),
        "tight": took(6.0, 1.0, 3.0),
    }
    rows = rows_of(
        measured,
        dict.fromkeys([*measured][1:], EXACT),
        "upstream",
        {"greedy", "frugal", "tight"},
        has_targets=has_targets,
    )
    return {row.name: row for row in rows}


def test_a_way_is_compared_with_upstreams() -> None:
    row = fake_rows()["frugal"].as_dict("step", "m")
    assert (row["value"], row["baseline"], row["ratio"]) == (5.6, 8.0, 0.7)
    assert (row["step_seconds"], row["step_ratio"], row["samples_per_second"]) == (6.6, 0.66, 0.1515)
    assert (row["peak_gib"], row["peak_ratio"], row["fits"]) == (3.5, 0.875, True)
    assert row["exactness"] == {"predictions": 0.0, "gradients": 1e-7, "loss_curve": 1e-8}


def test_the_target_is_the_fastest_that_needs_no_more_memory() -> None:
    # Greedy needs 4.5 of upstream's 4 GiB; frugal takes 5.6 of upstream's 8 s.
    row = fake_rows()[TARGET].as_dict("step", "m")
    assert (row["value"], row["way"], row["verdict"]) == (0.7, "frugal", "must")
    assert (row["must"], row["aim"]) == (0.78, 0.65)
    # As much memory as upstream's is enough, a byte more is not.
    assert fake_rows(frugal=4.0)[TARGET].more["way"] == "frugal"
    assert fake_rows(frugal=4.01)[TARGET].more["way"] == "tight"


def test_without_a_way_that_fits_the_target_is_missed() -> None:
    measured = {"upstream": took(8.0, 2.0, 4.0), "greedy": took(4.0, 1.0, 4.5)}
    *_, target = rows_of(measured, {"greedy": EXACT}, "upstream", {"greedy"}, has_targets=True)
    row = target.as_dict("step", "m")
    assert (row["value"], row["exact"], row["verdict"]) == (None, None, "missed")


def test_on_another_grid_there_are_no_targets() -> None:
    assert fake_rows(has_targets=False)[TARGET].must is None


def test_names_are_upstreams_own() -> None:
    assert plain_name("decoder._checkpoint_wrapped_module.heads.u._checkpoint_wrapped_module") == "decoder.heads.u"


@pytest.mark.slow
def test_the_whole_suite_on_a_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "CURVE_STEPS", 2)
    monkeypatch.setattr(step, "_CURVE_GRID", GRID)
    monkeypatch.setattr(step, "_KITS", {"bands": {"recompute": "blocks", "latitude_bands": 4, "window_bands": 2}})
    rows = {row.name: row for row in step.run(BenchSettings(variant="tiny", grid=GRID, repeats=1))}
    assert list(rows) == ["upstream's loop", "vibe-kit's way", "bands", TARGET]
    bands = rows["bands"]
    assert bands.exact
    assert bands.more["exactness"]["predictions"] == 0
    assert 0 < bands.more["exactness"]["gradients"] < 2e-6
    assert 0 < bands.more["exactness"]["loss_curve"] < 1e-4
    assert rows["vibe-kit's way"].more["exactness"] == {"predictions": 0, "gradients": 0, "loss_curve": None}
    assert bands.more["peak_gib"] < rows["vibe-kit's way"].more["peak_gib"]
    assert all(row.more["step_seconds"] > 0 for name, row in rows.items() if name != TARGET)


def test_what_is_not_exact_is_seen() -> None:
    case = make_case("tiny", GRID, torch.device("cpu"), autocast=False)
    rounded = by_kit("x", Settings.model_validate({"memory": {"recompute": "blocks", "saved_inputs": "bf16"}}))
    found = UpstreamReference(upstreams_loop(), case).compare(rounded, None)
    assert found.predictions == 0
    assert found.gradients > 1e-4
    assert not found.exact


@pytest.mark.slow
def test_the_best_repetition_counts() -> None:
    case = make_case("tiny", GRID, torch.device("cpu"), autocast=False)
    turns: list[str] = []

    class Fake:
        space = None

        def __init__(self, name: str) -> None:
            self.name = name

        def step(self) -> Seconds:
            turns.append(self.name)
            return Seconds(10.0 - len(turns), float(len(turns)))

    from kit.bench.configurations import Configuration

    ways = [Configuration(name, lambda case, name=name: Fake(name)) for name in "ab"]  # type: ignore[misc, arg-type]
    found = measure(ways, case, 2, count=False)
    # Each turn: a step that does not count, and one that does.
    assert turns == ["a", "a", "b", "b", "a", "a", "b", "b"]
    assert found["a"].seconds == Seconds(10.0 - 6, 2.0)
    assert found["a"].whole == 10.0
    assert found["a"].peak is None


def test_a_grid_without_whole_patches_is_refused() -> None:
    with pytest.raises(SettingsError, match="multiple of the patch size"):
        make_case("tiny", GridSize(32, 33), torch.device("cpu"), autocast=False)
