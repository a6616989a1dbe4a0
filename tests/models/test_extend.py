import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora import Aurora

from kit.adapt import factory
from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError
from kit.models.extend import add_variables, added_names
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics, level_key
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights
from tests.adapt.models import awake_model, predicted, size
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in
from tests.factories import synthetic_store

UPSTREAM = [name for name in VARIANTS if name != "tiny"]
NEW = ("new", "rain", "static_height", "cloud")


def wider(spec: ModelSpec, **change: Any) -> ModelSpec:
    """A spec with a surface variable more, one that is only predicted, a static and an atmospheric one."""
    more = ["new", "rain", "height", *(level_key("cloud", level) for level in spec.levels)]
    return replace(
        spec,
        surface=(*spec.surface, "new", "rain"),
        static=(*spec.static, "height"),
        atmospheric=(*spec.atmospheric, "cloud"),
        added=NEW,
        never_read=("rain",),
        statistics=Statistics({**spec.statistics.values, **dict.fromkeys(more, (1.0, 2.0))}),
        **change,
    )


def weights_of(spec: ModelSpec) -> Weights:
    return Weights(awake_model(spec).state_dict(), {"name": "w", "file": "f", "sha256": "0"}, {"model": spec.as_dict()})


@torch.no_grad()
def before_and_after(spec: ModelSpec, wide: ModelSpec, model: Aurora) -> tuple[Fields, Fields]:
    """Predictions of the old model and of the wider one from the same states."""
    old, new = synthetic_batch(spec), synthetic_batch(wide)
    # Of the wave model everything but weather is drawn with gaps.
    new.surf_vars = {name: old.surf_vars.get(name, value.nan_to_num()) for name, value in new.surf_vars.items()}
    new.static_vars.update(old.static_vars)
    new.atmos_vars.update(old.atmos_vars)
    found = []
    # Frozen as the old one is: PyTorch folds products with a parameter that trains in another way.
    frozen = copy.deepcopy(model).requires_grad_(False).eval()
    for each, its, batch in ((awake_model(spec), spec, old), (frozen, wide, new)):
        torch.manual_seed(0)  # the ensemble model draws noise
        space = TrainingSpace(each, its)
        found.append(space.predict_fields(space.inputs(batch)))
    return found[0], found[1]


@pytest.mark.parametrize("variant", one_in(3, UPSTREAM))
def test_old_predictions_stay_and_what_is_new_trains_under_every_method(variant: str) -> None:
    spec = small_spec(variant)
    wide = wider(spec)
    lora = AdaptSettings(method="lora", rank=2)
    model, trained = factory.for_training(wide, weights_of(spec), lora, autocast=False)
    before, after = before_and_after(spec, wide, model)
    assert after.surface.keys() - before.surface.keys() == {"new", "rain"}
    assert after.atmospheric.keys() - before.atmospheric.keys() == {"cloud"}
    assert all(torch.equal(after.surface[name], value) for name, value in before.surface.items())
    assert all(torch.equal(after.atmospheric[name], value) for name, value in before.atmospheric.items())
    assert {"new", "rain", "cloud", "height"} <= {part for name in trained.new for part in name.split(".")}
    assert all(trained.parameters[name].requires_grad for name in trained.new)
    size(predicted(model, wide)).backward()  # type: ignore[no-untyped-call]
    idle = {name for name in trained.new if trained.parameters[name].grad is None}
    assert all((".rain" in name and "_token_embeds." in name) or ".layers." in name for name in idle), idle


@pytest.mark.parametrize("variant", one_in(3, UPSTREAM))
@pytest.mark.parametrize("never_read", ((), ("rain",)))
def test_zero_embeddings_leave_old_predictions_as_they_were_to_the_last_bit(
    variant: str, never_read: tuple[str, ...]
) -> None:
    spec = small_spec(variant)
    wide = replace(
        spec,
        surface=(*spec.surface, "rain"),
        added=("rain",),
        never_read=never_read,
        statistics=Statistics({**spec.statistics.values, "rain": (0.0, 1.0)}),
    )
    model, _ = factory.for_training(wide, weights_of(spec), AdaptSettings(), autocast=False)
    before, after = before_and_after(spec, wide, model)
    assert all(torch.equal(after.surface[name], value) for name, value in before.surface.items())
    assert all(torch.equal(after.atmospheric[name], value) for name, value in before.atmospheric.items())


def test_random_embeddings_do_not() -> None:
    spec = small_spec("small")
    weights = weights_of(spec)
    model, _ = factory.for_training(wider(spec), weights, AdaptSettings(), autocast=False, start="random")
    before, after = before_and_after(spec, wider(spec), model)
    assert not torch.equal(before.surface["2t"], after.surface["2t"])


@pytest.mark.parametrize("variant", ("small", "air-pollution", "v1p5"))
def test_what_is_only_predicted_is_in_physical_predictions(variant: str) -> None:
    wide = wider(small_spec(variant))
    space = TrainingSpace(wide.build(), wide)
    with torch.no_grad():
        found = space.predict(synthetic_batch(wide)).surf_vars["rain"]
        field = space.predict_fields(space.inputs(synthetic_batch(wide))).surface["rain"]
    assert found.shape[1] == 1
    torch.testing.assert_close(found[:, 0], 1 + 2 * field)


def test_a_spec_survives_json() -> None:
    wide = wider(small_spec("small"))
    assert ModelSpec.from_dict(wide.as_dict()) == wide


def test_parameters_of_added_variables() -> None:
    names = added_names(wider(small_spec("small")).build(), ("static_height", "rain"))
    assert names == {
        "encoder.surf_token_embeds.weights.height",
        "encoder.surf_token_embeds.weights.rain",
        "decoder.surf_heads.rain.weight",
        "decoder.surf_heads.rain.bias",
    }


@pytest.mark.parametrize(
    ("names", "output_only", "message"),
    (
        (("rain",), (), r"has no 'rain'; it holds .*2t, .*static_lsm"),
        (("2t",), (), r"'2t' is no new variable: the weights have it"),
        (("tp",), ("2t",), r"model.output_only: '2t' is not among model.new_variables"),
        (("static_height",), ("static_height",), r"'static_height' is static"),
    ),
)
def test_what_cannot_be_added_is_refused(
    tmp_path: Path, names: tuple[str, ...], output_only: tuple[str, ...], message: str
) -> None:
    surface, static = ("2t", "10u", "10v", "msl", "tp"), ("lsm", "slt", "z", "height")
    store = synthetic_store(tmp_path / "s", surface=surface, static=static)
    with pytest.raises(SettingsError, match=message):
        add_variables(small_spec("small"), names, output_only, store)


def test_the_kind_is_the_stores(tmp_path: Path) -> None:
    store = synthetic_store(
        tmp_path / "s", surface=("2t", "tp"), atmospheric=("t", "r"), static=("lsm", "slt", "z", "height")
    )
    wide = add_variables(small_spec("small"), ("tp", "r", "static_height"), ("tp",), store)
    assert (wide.surface[-1], wide.atmospheric[-1], wide.static[-1]) == ("tp", "r", "height")
    assert wide.output_only == ("tp",)
    assert wide.added == ("tp", "r", "static_height")
