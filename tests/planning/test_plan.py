"""What ``kit plan`` says, of which grid, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kit.cli import main as cli
from kit.config.layers import Layer, resolve
from kit.data.settings import DataSettings
from kit.io.errors import SettingsError, StoreError
from kit.planning.counter import CATEGORIES, Peak
from kit.planning.fit import RESERVE_GIB, advise_step
from kit.planning.plan import inexact, plan
from kit.planning.settings import GridSize, PlanSettings
from kit.planning.trace import Trace, trace
from kit.planning.workload import ERA5_LEVELS, workload_of
from tests.factories import synthetic_store

TINY: dict[str, Any] = {"grid": "33x64", "data": {"levels": [500, 850], "variables": ["2t", "t"], "statics": ["lsm"]}}
GIB = 2**30


def settings_of(**sections: Any) -> PlanSettings:
    return PlanSettings.model_validate({**TINY, **sections})


def test_a_plan_holds_what_is_promised() -> None:
    found = plan(settings_of(card="4090")).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["variant"] == "tiny"
    assert found["grid"] == [32, 64]
    assert found["levels"] == [500, 850]
    assert found["method"] == "full"
    assert found["exact"] is True
    assert found["inexact"] == []
    assert found["settings"]["memory"]["recompute"] == "none"
    assert "store" not in found["settings"]["data"]
    assert list(found["breakdown"]) == ["parameters", "gradients", "optimizer", "activations", "batch"]
    assert found["peak_gib"] == pytest.approx(sum(found["breakdown"].values()), abs=0.003)
    assert found["host_gib"] >= 0
    assert found["flops_per_step"] > 0
    assert found["fits"]["16GiB"] is True
    assert found["card"] == "RTX 4090"
    assert found["step_seconds"] == found["cards"]["RTX 4090"]["step_seconds"] > 0
    assert found["trainable_parameters"] == found["total_parameters"] > 10**6


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"memory": {"latitude_bands": 4, "offload": ["optimizer"]}},
        {"memory": {"latitude_bands": 4, "step_in_backward": True}, "optim": {"clip": None}},
    ],
)
def test_heads_of_variables_that_are_left_out_have_no_gradient(sections: dict[str, Any]) -> None:
    """The tiny model has more variables than these settings: a decoder in bands has no gradient for their heads."""
    plain = plan(settings_of()).trace
    found = plan(settings_of(**sections)).trace
    assert found.parameters == plain.parameters
    assert found.peak.breakdown["gradients"] < plain.peak.breakdown["gradients"]


def test_what_fits_leaves_room_for_cuda() -> None:
    found = plan(settings_of())
    assert found.needed_gib == found.trace.peak.bytes / GIB + RESERVE_GIB
    assert found.to_dict()["fits"]["8GiB"] is True


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"memory": {"saved_inputs": "bf16", "recompute": "blocks"}}, "saved_inputs"),
        ({"optim": {"name": "adafactor"}}, "adafactor"),
        ({"optim": {"name": "adamw-8bit"}}, "adamw-8bit"),
        ({"adapt": {"method": "qlora", "rank": 2}}, "qlora"),
    ],
)
def test_what_is_not_exact_is_said(sections: dict[str, Any], told: str) -> None:
    assert [told in reason for reason in inexact(settings_of(**sections))] == [True]
    assert list(inexact(settings_of(forecast=True, **sections))) == []


@pytest.mark.parametrize(
    ("variant", "surface", "levels"),
    [("pretrained", ("2t", "10u", "10v", "msl"), ERA5_LEVELS), ("air-pollution", ("2t", "tcso2"), ERA5_LEVELS)],
)
def test_a_grid_alone_stands_for_all_that_the_variant_reads(
    variant: str, surface: tuple[str, ...], levels: tuple[int, ...]
) -> None:
    workload = workload_of(PlanSettings.model_validate({"grid": "721x1440", "model": {"variant": variant}}))
    assert set(surface) <= set(workload.selection.inputs)
    assert workload.selection.levels == levels
    # Rows beyond whole patches are left out, at the south pole.
    assert len(workload.latitude) == 721 - 721 % workload.spec.patch_size
    assert workload.latitude[0] == 90
    assert (len(workload.longitude), workload.longitude[0]) == (1440, 0)


def test_waves_are_read_as_a_store_holds_them() -> None:
    selection = workload_of(PlanSettings.model_validate({"grid": "33x64", "model": {"variant": "wave"}})).selection
    assert {"swh", "wind", "dwi"} <= set(selection.inputs)
    assert "10u_wave" not in selection.inputs


@pytest.mark.parametrize(
    ("variant", "kept"),
    [("hres-finetuned", "merged"), ("wave", "kept"), ("pretrained", None)],
)
def test_weights_that_are_not_here_are_planned_as_they_would_be_used(variant: str, kept: str | None) -> None:
    settings = PlanSettings.model_validate({"grid": "33x64", "model": {"variant": variant}})
    assert workload_of(settings).spec.rollout_lora == kept


def test_a_region_of_the_grid_can_be_planned() -> None:
    workload = workload_of(settings_of(data={**TINY["data"], "region": [60, 0, 0, 90]}))
    assert workload.latitude[0] <= 60
    assert workload.longitude[-1] <= 90


def test_a_store_is_planned_as_it_would_be_trained_on(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", levels=(500, 850))
    data = {"store": str(store.path)}
    workload = workload_of(PlanSettings.model_validate({"data": data, "model": {"weights": "random"}}))
    assert workload.selection.levels == (500, 850)
    assert (len(workload.latitude), len(workload.longitude)) == (16, 32)


@pytest.mark.parametrize(
    ("text", "size"),
    [("721x1440", (721, 1440)), ("32 X 64", (32, 64))],
)
def test_a_grid_is_read(text: str, size: tuple[int, int]) -> None:
    assert GridSize.parse(text) == GridSize(*size)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"grid": "3x64"}, "less than a patch of 4x4"),
        ({"grid": "32x66"}, r"no multiple of the patch size 4.*use 32x64"),
        ({"card": "RTX 4095"}, "did you mean RTX 4090"),
        (
            {"data": {"levels": [500, 0.1]}, "model": {"variant": "air-pollution"}, "grid": "33x66"},
            "selected are 0.1, 500",
        ),
        ({"data": {"variables": ["2t", "tt"]}}, "tt"),
        ({"memory": {"latitude_bands": 9}}, "use at most 8"),
    ],
)
def test_what_cannot_be_planned_is_refused(sections: dict[str, Any], told: str) -> None:
    with pytest.raises((SettingsError, StoreError), match=told):
        plan(settings_of(**sections))


@pytest.mark.parametrize("text", ["0x64", "64", "axb", "32x64x2", "-1x4"])
def test_what_is_no_grid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected rows x columns, such as 721x1440"):
        PlanSettings.model_validate({"grid": text})


def test_a_grid_and_a_store_are_two_grids() -> None:
    given = Layer("the command line", {"grid": "32x64", "data.store": "somewhere"})
    with pytest.raises(SettingsError, match="both given"):
        resolve(PlanSettings, [given])


def test_a_grid_replaces_a_recipes_store_and_a_store_a_files_grid() -> None:
    grid, store = {"grid": "32x64"}, {"data.store": "somewhere"}
    first = resolve(PlanSettings, [Layer("the command line", grid), Layer("recipe x", store)])
    assert (str(first.grid), first.data) == ("32x64", DataSettings())
    second = resolve(PlanSettings, [Layer("the command line", store), Layer("a file", grid)])
    assert (second.grid, second.data.store) == (None, "somewhere")


@pytest.fixture(scope="module")
def traced() -> Trace:
    settings = settings_of()
    return trace(settings, workload_of(settings))


def with_peak(found: Trace, where: str, **gib: int) -> Trace:
    breakdown = {name: gib.get(name, 0) * GIB for name in CATEGORIES}
    return dataclasses.replace(found, peak=Peak(sum(breakdown.values()), breakdown, where, "backward"))


@pytest.mark.slow
def test_advice_follows_what_the_peak_is_made_of(traced: Trace) -> None:
    settings = settings_of()
    workload = workload_of(settings)
    few = advise_step(settings, workload, with_peak(traced, "decoder.atmos_heads.t", activations=10))
    assert "--memory.recompute blocks" in few[0]
    assert not any("optimizer" in line or "--optim" in line for line in few)
    moved = advise_step(settings, workload, with_peak(traced, "optimizer", optimizer=9, gradients=5, parameters=5))
    assert not any("recompute" in line for line in moved)
    assert any("--memory.offload" in line for line in moved)


@pytest.mark.parametrize(
    ("sections", "first"),
    [
        pytest.param(
            {"card": "L4"},
            "--memory.fit 22.5GiB (chooses the fastest exact settings that stay below the memory of L4,",
            marks=pytest.mark.slow,
        ),
        pytest.param({"card": "A100 40GB"}, "--data.batch_size 1 --train.accumulate 2", marks=pytest.mark.slow),
        pytest.param(
            {},
            "--memory.fit 31.8GiB (chooses the fastest exact settings that stay below the memory of RTX 5090,",
            marks=pytest.mark.slow,
        ),
        ({"card": "L4", "forecast": True}, "--batch_size 1"),
    ],
    ids=["too small", "large enough", "no card", "forecast"],
)
def test_where_a_plan_does_not_fit_the_fit_is_named_first(sections: dict[str, Any], first: str) -> None:
    """38 GiB for two pairs of the tiny model at a quarter of a degree."""
    planned = plan(PlanSettings.model_validate({"grid": "721x1440", "data": {"batch_size": 2}, **sections}))
    told = planned.to_dict()["advice"]
    assert told[0].startswith(first)
    assert sum("memory.fit" in line for line in told) == ("memory.fit" in first)


@pytest.mark.slow
def test_what_memory_fit_chooses_is_not_advised_beside_it() -> None:
    given = {"grid": "721x1440", "data": {"batch_size": 2}, "memory": {"recompute": "blocks", "stages": 1}}
    planned = plan(PlanSettings.model_validate({**given, "card": "L4"}))
    assert planned.advice[0].endswith("or says what is missing; in the place of --memory.recompute, --memory.stages)")


@pytest.mark.slow
def test_what_was_advised_fits() -> None:
    """The advice of a plan that does not fit, followed."""
    asked = {"grid": "721x1440", "data": {"batch_size": 2}, "card": "L4"}
    size = plan(PlanSettings.model_validate(asked)).advice[0].split()[1]
    fitted = plan(PlanSettings.model_validate({**asked, "memory": {"fit": size}}))
    assert fitted.to_dict()["cards"]["L4"]["fits"]
    assert not any("memory.fit" in line for line in fitted.advice)


@pytest.mark.slow
def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.levels", "500,850", "--data.variables", "2t,t", "--data.statics", "lsm"]
    assert cli.main(["plan", "--grid", "33x64", *options, "--card", "4090", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["card"], found["grid"]) == ("RTX 4090", [32, 64])
    assert cli.main(["plan", "--grid", "33x64", *options, "--card", "4090"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "peak of the GPU" in shown.err
    assert "on RTX 4090" in shown.err
    assert "fits RTX 3090" in shown.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--grid", "721"], "expected rows x columns, such as 721x1440, got 721"),
        (["--grid", "32x64", "--data.store", "x"], "both given"),
        (["--grid", "32x64", "--card", "4095"], "there is no card"),
    ],
)
def test_the_command_line_refuses(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *options]) == 2
    assert told in capsys.readouterr().err
