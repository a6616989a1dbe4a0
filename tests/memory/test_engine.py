"""The engine against upstream's own forward: predictions bit for bit, gradients within 2e-6, for every variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aurora import Aurora, Batch

from kit.bench.exactness import distance
from kit.io.errors import SettingsError
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS
from kit.planning.counter import Counter
from kit.train.loss import PaperMAE
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

EXACT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "blocks": {"recompute": "blocks"},
    "bands": {"recompute": "blocks", "latitude_bands": 3, "window_bands": 2},
    "latitudes": {"latitude_bands": 3},
    "stages": {"recompute": "blocks", "latitude_bands": 2, "stages": 1},
    "selective": {"recompute": "selective", "latitude_bands": 2},
    "offload": {"recompute": "blocks", "latitude_bands": 2, "window_bands": 2, "offload": ["inputs"]},
    "upstream": {"recompute": "upstream"},
}
EVERYDAY = ("pretrained", "v1p5-ensemble")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in EVERYDAY]
# Sums over bands are added in another order.
GRADIENT_TOLERANCE = 2e-6


def fresh(spec: ModelSpec, *, autocast: bool = False) -> Aurora:
    """The same model each time, with the parts that upstream starts at zero moved away from it."""
    torch.manual_seed(0)
    model = spec.build(autocast=autocast)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_modulation" in name:
                parameter.normal_(std=0.2)
    return model


def predicted(spec: ModelSpec, model: Aurora, batch: Batch, target: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Decoder outputs and the loss; the ensemble's noise is drawn from the same seed."""
    torch.manual_seed(1)
    space = TrainingSpace(model, spec)
    fields = space.predict_fields(space.inputs(batch))
    loss = PaperMAE()(fields, space.targets(target))
    return [*fields.surface.values(), *fields.atmospheric.values()], loss.total


def gradients(model: Aurora) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", one_in(2, EXACT))
@pytest.mark.parametrize("variant", [*EVERYDAY, *OTHERS])
def test_is_exact_for_every_variant(variant: str, name: str) -> None:
    spec = small_spec(variant)
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)
    theirs, ours = fresh(spec), fresh(spec)
    engine.install(ours, MemorySettings.model_validate(EXACT[name]))
    fields, loss = predicted(spec, theirs, batch, target)
    loss.backward()  # type: ignore[no-untyped-call]
    own_fields, own_loss = predicted(spec, ours, batch, target)
    own_loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(own, field) for own, field in zip(own_fields, fields, strict=True))
    assert torch.equal(own_loss, loss)
    assert distance(gradients(ours), gradients(theirs)) < GRADIENT_TOLERANCE
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("variant", ["pretrained", "v1p5-ensemble", "air-pollution"])
def test_bf16_predicts_the_same_and_is_no_further_from_fp32(variant: str) -> None:
    spec = small_spec(variant)
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)

    def run(*, autocast: bool, **settings: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        model = fresh(spec, autocast=autocast)
        engine.install(model, MemorySettings.model_validate(settings))
        fields, loss = predicted(spec, model, batch, target)
        loss.backward()  # type: ignore[no-untyped-call]
        return fields, gradients(model)

    _, exact = run(autocast=False)
    theirs, their_gradients = run(autocast=True)
    ours, our_gradients = run(autocast=True, recompute="blocks", latitude_bands=3, window_bands=2)
    assert all(torch.equal(own, field) for own, field in zip(ours, theirs, strict=True))
    assert distance(our_gradients, exact) < 1.2 * distance(their_gradients, exact)


def test_dropout_is_drawn_again_as_it_was() -> None:
    spec = small_spec("pretrained")
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)
    found = []
    for recompute in ("selective", "blocks"):
        model = fresh(spec)
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        engine.install(model, MemorySettings.model_validate({"recompute": recompute}))
        _, loss = predicted(spec, model, batch, target)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(gradients(model))
    assert distance(*found) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_in_bands_are_upstreams(variant: str) -> None:
    spec = small_spec(variant)
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)
    theirs, ours = fresh(spec).eval(), fresh(spec).eval()
    engine.install(ours, MemorySettings(latitude_bands=4, window_bands=2))
    with torch.no_grad():
        fields, _ = predicted(spec, theirs, batch, target)
        own_fields, _ = predicted(spec, ours, batch, target)
    assert all(torch.equal(own, field) for own, field in zip(own_fields, fields, strict=True))


def test_frozen_weights_in_bf16_are_exact_under_autocast() -> None:
    spec = small_spec("pretrained")
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)
    found = []
    for frozen in ("fp32", "bf16"):
        model = fresh(spec, autocast=True)
        model.backbone.requires_grad_(requires_grad=False)
        engine.install(model, MemorySettings.model_validate({"frozen_weights": frozen}))
        fields, loss = predicted(spec, model, batch, target)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((fields, gradients(model)))
    halved = {p.dtype for n, p in model.named_parameters() if n.startswith("backbone") and n.endswith("weight")}
    assert torch.bfloat16 in halved
    assert all(torch.equal(own, field) for own, field in zip(found[0][0], found[1][0], strict=True))
    assert distance(found[1][1], found[0][1]) == 0


def test_upstreams_policy_holds_what_upstreams_own_call_holds() -> None:
    spec = small_spec("pretrained")
    batch, target = synthetic_batch(spec), synthetic_batch(spec, states=1, seed=1, inputs=False)

    def peak(model: Aurora) -> int:
        with Counter(model) as counter:
            _, loss = predicted(spec, model, batch, target)
            loss.backward()  # type: ignore[no-untyped-call]
        return counter.peak.bytes

    theirs, ours, plain = fresh(spec), fresh(spec), fresh(spec)
    theirs.configure_activation_checkpointing()
    engine.install(ours, MemorySettings(recompute="upstream"))
    assert peak(ours) == pytest.approx(peak(theirs), rel=0.01)
    assert peak(ours) < 0.8 * peak(plain)


def test_bands_refuse_more_than_rows() -> None:
    spec = small_spec("pretrained")
    model = fresh(spec)
    engine.install(model, MemorySettings(latitude_bands=9))
    with pytest.raises(SettingsError, match=r"latitude_bands is 9, but the grid has 8 rows"):
        predicted(spec, model, synthetic_batch(spec), synthetic_batch(spec, states=1, inputs=False))


def test_refuses_more_stages_than_there_are() -> None:
    with pytest.raises(SettingsError, match=r"memory.stages is 3, but the backbone has 2"):
        engine.install(fresh(small_spec("pretrained")), MemorySettings(recompute="blocks", stages=3))
