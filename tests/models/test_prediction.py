"""Precision of predictions: upstream's own or better, whatever training's is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aurora
import pytest
import torch

from kit.io.errors import SettingsError
from kit.memory import engine
from kit.memory.device import prediction_precision
from kit.memory.settings import MemorySettings
from kit.models.noise import NamedNoise
from kit.models.prediction import predicting, set_precision
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS, Precision
from tests.adapt.models import awake_model
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


@pytest.mark.parametrize("name", VARIANTS)
def test_auto_is_upstreams_own_on_a_gpu_and_fp32_on_a_cpu(name: str) -> None:
    """Upstream's version 1.5 predicts in fp16; all other classes autocast only where they are asked to."""
    variant = VARIANTS[name]
    own = "fp16" if name.startswith("v1p5") else "fp32"
    assert variant.own_precision == own
    assert prediction_precision("auto", variant, GPU) == own
    assert prediction_precision("auto", variant, CPU) == "fp32"
    # Weights that are kept in bf16 are exact in bf16 alone.
    assert prediction_precision("auto", variant, GPU, MemorySettings(frozen_weights="bf16")) == "bf16"
    for precision in PRECISIONS:
        assert prediction_precision(precision, variant, GPU) == precision
        assert prediction_precision(precision, variant, CPU) == precision


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="precision: expected auto, fp32, bf16, fp16, got 'float32'"):
        prediction_precision("float32", VARIANTS["small"], CPU)


def upstreams(spec: ModelSpec, model: aurora.Aurora) -> aurora.Aurora:
    """Upstream's own class as it comes, with these weights."""
    theirs: Any = spec.upstream.constructor(
        **{**spec.upstream.arguments, **spec.arguments},
        surf_vars=spec.surface,
        static_vars=spec.static,
        atmos_vars=spec.atmospheric,
        max_history_size=spec.history,
        timestep=spec.timestep,
    )
    theirs.load_state_dict(model.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("memory", ({}, {"latitude_bands": 2, "window_bands": 2}))
@pytest.mark.parametrize("variant", ("v1p5", "v1p5-ensemble"))
@pytest.mark.filterwarnings("ignore:no explicit representation of timezones")
@torch.no_grad()
def test_version_1p5_in_fp16_is_upstreams_bit_for_bit(variant: str, memory: dict[str, Any]) -> None:
    """Its class with its own defaults: fp16 throughout, and scores of attention that are clamped."""
    spec = small_spec(variant)
    model = awake_model(spec)
    theirs = upstreams(spec, model)
    assert (theirs.autocast, theirs.autocast_dtype) == (True, torch.float16)
    engine.install(model, MemorySettings.model_validate(memory))
    set_precision(model, spec.upstream, "fp16")
    space = TrainingSpace(model, spec)
    inputs = space.inputs(synthetic_batch(spec))
    torch.manual_seed(1)
    _, ours = space.step(inputs)
    torch.manual_seed(1)
    with spec.statistics.installed():
        expected = theirs.forward(inputs, torch.full((1,), spec.lead_hours))
    for kind in ("surf_vars", "atmos_vars"):
        for name, value in getattr(expected, kind).items():
            assert torch.equal(value, getattr(ours, kind)[name]), name


@pytest.mark.parametrize("variant", one_in(3, VARIANTS))
@torch.no_grad()
def test_precisions_are_those_that_a_model_is_built_in(variant: str) -> None:
    spec = small_spec(variant)
    for autocast, precision in ((False, PRECISIONS[0]), (True, PRECISIONS[1])):
        built, turned = spec.build(autocast=autocast), spec.build(autocast=not autocast)
        set_precision(turned, spec.upstream, precision)
        for name in ("autocast", "autocast_encoder", "autocast_backbone", "autocast_decoder", "autocast_dtype"):
            assert getattr(built, name) == getattr(turned, name), name


@torch.no_grad()
def rounding(variant: str, precision: Precision) -> tuple[float, float]:
    """Root mean square difference from fp32 of z at 500 hPa, in m2/s2, and of 2t, in K."""
    spec = small_spec(variant)
    space = TrainingSpace(awake_model(spec), spec)
    space.noise = NamedNoise(0)
    found = []
    for chosen in (precision, PRECISIONS[0]):
        set_precision(space.model, spec.upstream, chosen)
        prediction = space.predict(synthetic_batch(spec))
        found.append((prediction.atmos_vars["z"][:, :, 1], prediction.surf_vars["2t"]))
    z, t = ((one - other).double().square().mean().sqrt() for one, other in zip(*found, strict=True))
    return float(z), float(t)


def test_the_manuals_table_of_precisions_and_the_eighth_that_fp16_rounds() -> None:
    """Three bits more of a mantissa: an eighth, give or take what accumulates."""
    text = (Path(__file__).parents[2] / "docs" / "forecast.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (fp16|bf16) \| (\S+) \| (\S+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 6
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for variant, precision, z, t in rows:
        measured = rounding(variant, precision)
        # Two digits are printed; another CPU's kernels round elsewhere.
        assert (float(z), float(t)) == pytest.approx(measured, rel=0.2)
        found.setdefault(variant, {})[precision] = measured
    for by_precision in found.values():
        for half, brain in zip(by_precision["fp16"], by_precision["bf16"], strict=True):
            assert 5 * half < brain < 12 * half


@torch.no_grad()
def test_a_model_that_trains_in_bf16_predicts_in_fp32_and_goes_on_in_bf16() -> None:
    spec = small_spec("v1p5-ensemble")
    space = TrainingSpace(awake_model(spec, autocast=True), spec)
    exact = TrainingSpace(awake_model(spec), spec)
    exact.noise = NamedNoise(3)
    batch = synthetic_batch(spec)
    expected = exact.predict(batch).surf_vars["2t"]
    with predicting(space, "fp32", NamedNoise(3)):
        assert torch.equal(space.predict(batch).surf_vars["2t"], expected)
    assert space.noise is None
    space.noise = NamedNoise(3)
    assert not torch.equal(space.predict(batch).surf_vars["2t"], expected)
    with predicting(space, "fp16", NamedNoise(3)), pytest.raises(ZeroDivisionError):
        1 / 0  # noqa: B018
    assert space.model.autocast_dtype is torch.bfloat16
    assert not any(getattr(module, "use_fp16_safe_attention", False) for module in space.model.modules())
