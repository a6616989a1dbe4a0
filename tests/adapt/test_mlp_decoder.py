"""Light decoders: small networks on the frozen model's latents."""

from __future__ import annotations

import copy

import pytest
import torch
from aurora.model.util import unpatchify

from kit.adapt.mlp_decoder import LightHeads, attach, heads_of
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from tests.adapt.models import awake_model, equal, predicted
from tests.batches import small_spec, synthetic_batch


def test_heads_worked_out_by_hand() -> None:
    # Two latent levels of width 1, two patches side by side, patches of 2 x 2, one hidden unit.
    heads = LightHeads(["tp"], levels=2, width=1, hidden=[1], patch_size=2)
    first, second = heads["tp"][0], heads["tp"][2]  # type: ignore[index]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -2.0]]))
        first.bias.fill_(0.5)
        second.weight.copy_(torch.tensor([[1.0], [10.0], [100.0], [1000.0]]))
        second.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 7.0]))
    # Backbone order: level by level, and in each level patch by patch.
    tokens = torch.tensor([3.0, 1.0, 1.0, 4.0]).view(1, 4, 1)
    values = heads(heads.read(tokens, (2, 1, 2)), (1, 2))["tp"]
    # West: 3 - 2 x 1 + 0.5 = 1.5. East: 1 - 2 x 4 + 0.5 < 0, which ReLU cuts off.
    assert values.tolist() == [[[1.5, 15.0, 0.0, 0.0], [150.0, 1507.0, 0.0, 7.0]]]


def test_surface_latent_alone_is_the_first_level() -> None:
    heads = LightHeads(["tp"], levels=1, width=3, hidden=[], patch_size=2)
    tokens = torch.arange(24.0).view(1, 8, 3)
    assert torch.equal(heads.read(tokens, (4, 1, 2)), tokens[:, :2].view(1, 1, 2, 3))


def test_patches_are_put_together_as_upstream_does() -> None:
    heads = LightHeads(["tp", "r"], levels=1, width=5, hidden=[4], patch_size=3)
    latents = torch.randn(2, 1, 8, 5)
    values = heads(latents, (2, 4))
    stacked = torch.stack([heads[name](latents[:, 0]) for name in ("tp", "r")], -1).flatten(2)[:, :, None]
    together = unpatchify(stacked, 2, 6, 12, 3)[:, :, 0]
    assert torch.equal(values["tp"], together[:, 0])
    assert torch.equal(values["r"], together[:, 1])


@pytest.mark.parametrize("variant", ["pretrained", "highres", "air-pollution", "wave", "v1p5"])
def test_other_variables_stay_bit_equal(variant: str) -> None:
    spec = small_spec(variant)
    model = awake_model(spec)
    before = predicted(model, spec)
    attach(model, ["2t"], hidden=(8,), latents="all")
    after = predicted(model, spec)
    assert not torch.equal(before.surface.pop("2t"), after.surface.pop("2t"))
    assert equal(before, after)


def test_parameters_have_names_below_the_decoder() -> None:
    model = awake_model(small_spec("pretrained"))
    attach(model, ["2t"], hidden=(8,), latents="all")
    names = [name for name, _ in model.named_parameters() if "light" in name]
    assert names == [f"decoder.light_heads.2t.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    # Four latent levels of twice 32.
    assert heads_of(model).get_parameter("2t.0.weight").shape == (8, 256)


def test_heads_are_physical_output_like_any_other() -> None:
    spec = small_spec("pretrained")
    model = awake_model(spec)
    attach(model, ["2t"], hidden=(8,), latents="surface")
    space = TrainingSpace(model, spec)
    location, scale = spec.statistics.values["2t"]
    batch = synthetic_batch(spec)
    fields, physical = space.predict_fields(space.inputs(batch)), space.predict(batch)
    torch.testing.assert_close(physical.surf_vars["2t"][:, 0], fields.surface["2t"] * scale + location)


def test_bands_of_latitude_change_no_bit() -> None:
    spec = small_spec("pretrained")
    results = []
    for bands in (1, 3):
        model = awake_model(spec)
        attach(model, ["2t"], hidden=(8,), latents="all")
        engine.install(model, MemorySettings(latitude_bands=bands))
        space = TrainingSpace(model, spec)
        fields = space.predict_fields(space.inputs(synthetic_batch(spec)))
        fields.surface["2t"].square().mean().backward()  # type: ignore[no-untyped-call]
        gradient = heads_of(model).get_parameter("2t.0.weight").grad
        assert gradient is not None
        results.append((fields, gradient))
    assert equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_heads_read_rounded_latents_in_bf16_precision() -> None:
    model = awake_model(small_spec("pretrained"), autocast=True)
    heads = attach(model, ["2t"], hidden=(8,), latents="all")
    tokens = torch.randn(1, 8, 64)
    latents = heads.read(tokens, (4, 1, 2))
    assert latents.dtype is torch.bfloat16
    assert heads(latents, (1, 2))["2t"].dtype is torch.float32


def test_copied_model_uses_its_own_heads() -> None:
    spec = small_spec("pretrained")
    model = awake_model(spec)
    attach(model, ["2t"], hidden=(8,), latents="all")
    copied = copy.deepcopy(model)
    before = predicted(model, spec)
    torch.nn.init.zeros_(heads_of(copied).get_parameter("2t.2.weight"))
    assert equal(before, predicted(model, spec))
    assert not predicted(copied, spec).surface["2t"].any()
