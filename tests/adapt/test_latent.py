"""Training space of light decoders: the trunk runs once for each sample, or not at all."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora import Aurora, Batch

from kit.adapt.feature_cache import FeatureCache, Shape
from kit.adapt.latent import LatentSpace
from kit.adapt.mlp_decoder import attach, heads_of
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pairs
from kit.data.settings import DataSettings
from kit.io.errors import SettingsError
from kit.models.resolve import select
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics
from tests.adapt.models import awake_model
from tests.batches import small_spec, synthetic_batch
from tests.factories import synthetic_store


def light_model(spec: ModelSpec, *, autocast: bool = False) -> Aurora:
    model = awake_model(spec, autocast=autocast)
    attach(model, ["2t"], hidden=(8,), latents="all")
    return model


def cache(root: Path, *, autocast: bool = False) -> FeatureCache:
    dtype = torch.bfloat16 if autocast else torch.float32
    return FeatureCache(root, {"test": autocast}, Shape(4, (8, 16), 64, dtype))


def two_samples(spec: ModelSpec) -> Batch:
    batch = synthetic_batch(spec, samples=2)
    first = batch.metadata.time[0]
    times = (first, first + timedelta(hours=6))
    return dataclasses.replace(batch, metadata=dataclasses.replace(batch.metadata, time=times))


def graded(space: LatentSpace, state: Batch) -> tuple[Fields, list[torch.Tensor]]:
    """Prediction, and gradients of the heads."""
    fields = space.predict_fields(space.inputs(state))
    fields.surface["2t"].square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = []
    for parameter in heads_of(space.model).parameters():
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
        parameter.grad = None
    return fields, gradients


@pytest.mark.parametrize("autocast", [False, True])
def test_cache_changes_no_bit(tmp_path: Path, autocast: bool) -> None:
    spec = small_spec("pretrained")
    model = light_model(spec, autocast=autocast)
    without = graded(LatentSpace(model, spec), two_samples(spec))
    held = cache(tmp_path, autocast=autocast)
    for _ in range(2):
        fields, gradients = graded(LatentSpace(model, spec, cache=held), two_samples(spec))
        assert torch.equal(fields.surface["2t"], without[0].surface["2t"])
        assert all(map(torch.equal, gradients, without[1]))
    assert held.missing(two_samples(spec).metadata.time) == []


def test_second_epoch_does_not_call_the_backbone(tmp_path: Path) -> None:
    spec = small_spec("pretrained")
    model = light_model(spec)
    calls: list[str] = []
    for name in ("encoder", "backbone", "decoder"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    space = LatentSpace(model, spec, cache=cache(tmp_path))
    space.predict_fields(space.inputs(two_samples(spec)))
    assert calls == ["encoder", "backbone"] * 2
    space.predict_fields(space.inputs(two_samples(spec)))
    assert calls == ["encoder", "backbone"] * 2


def test_predicts_what_the_decoder_predicts() -> None:
    spec = small_spec("pretrained")
    model = light_model(spec)
    state = synthetic_batch(spec)
    fields = LatentSpace(model, spec).predict_fields(LatentSpace(model, spec).inputs(state))
    plain = TrainingSpace(model, spec)
    assert fields.atmospheric == {}
    assert list(fields.surface) == ["2t"]
    assert torch.equal(fields.surface["2t"], plain.predict_fields(plain.inputs(state)).surface["2t"])


def test_targets_are_of_the_light_variables_alone() -> None:
    spec = small_spec("pretrained")
    model = light_model(spec)
    target = synthetic_batch(spec, states=1, inputs=False)
    fields = LatentSpace(model, spec).targets(target)
    assert list(fields.surface) == ["2t"]
    assert fields.atmospheric == {}
    assert torch.equal(fields.surface["2t"], TrainingSpace(model, spec).targets(target).surface["2t"])


def test_trunk_runs_as_in_evaluation_and_the_model_goes_on_as_it_was() -> None:
    spec = small_spec("pretrained")
    model = light_model(spec)
    space = LatentSpace(model, spec)
    seen: list[bool] = []
    model.backbone.register_forward_hook(lambda module, *_: seen.append(module.training))
    model.train()
    space.predict_fields(space.inputs(synthetic_batch(spec)))
    assert seen == [False]
    assert model.training
    assert model.backbone.training


def folder(spec: ModelSpec, pairs: Pairs, root: Path, *, seed: int = 0, autocast: bool = False) -> Path:
    """Where the latents of a small model are kept."""
    model = awake_model(spec, autocast=autocast, seed=seed)
    attach(model, ["2t"], hidden=(8,), latents="all")
    space = LatentSpace(model, spec)
    space.open_cache(AdaptSettings(method="head", decoder="mlp", cache=str(root)), [pairs])
    assert space.cache is not None
    return space.cache.folder


def test_whatever_latents_depend_on_has_a_cache_of_its_own(tmp_path: Path) -> None:
    spec = small_spec("pretrained", levels=(100, 500, 850))
    stores = [synthetic_store(tmp_path / str(seed), height=32, width=64, seed=seed) for seed in (0, 1)]

    def pairs(store: int = 0, **data: Any) -> Pairs:
        chosen = select(spec, DataSettings(store=str(store), **data), stores[store], spec.patch_size)
        return Pairs(stores[store], chosen, stores[store].splits["train"])

    first = folder(spec, pairs(), tmp_path)
    assert first == folder(spec, pairs(), tmp_path)
    others = [
        folder(spec, pairs(), tmp_path, seed=1),
        folder(spec, pairs(), tmp_path, autocast=True),
        folder(spec, pairs(store=1), tmp_path),
        folder(spec, pairs(region=(90.0, 0.0, -90.0, 180.0)), tmp_path),
        folder(dataclasses.replace(spec, timestep=timedelta(hours=12)), pairs(), tmp_path),
    ]
    assert len({first, *others}) == 6


def test_what_is_never_read_shares_the_cache(tmp_path: Path) -> None:
    spec = small_spec("pretrained", levels=(100, 500, 850))
    store = synthetic_store(tmp_path / "store", height=32, width=64)
    pairs = Pairs(store, select(spec, DataSettings(), store, spec.patch_size), store.splits["train"])
    statistics = Statistics({**spec.statistics.values, "tcwv": (20.0, 10.0)})
    new = dataclasses.replace(
        spec, surface=(*spec.surface, "tcwv"), added=("tcwv",), never_read=("tcwv",), statistics=statistics
    )
    plain, extended = light_model(spec), light_model(new)
    extended.load_state_dict(plain.state_dict(), strict=False)
    folders = []
    for model, its in ((plain, spec), (extended, new)):
        space = LatentSpace(model, its)
        space.open_cache(AdaptSettings(method="head", decoder="mlp", cache=str(tmp_path)), [pairs])
        assert space.cache is not None
        folders.append(space.cache.folder)
    assert folders[0] == folders[1]


def test_noise_is_not_kept(tmp_path: Path) -> None:
    spec = small_spec("v1p5-ensemble")
    space = LatentSpace(light_model(spec), spec)
    pairs = Pairs.__new__(Pairs)  # refused before any is looked at
    with pytest.raises(SettingsError, match="draws noise at every step.*--adapt.cache off"):
        space.open_cache(AdaptSettings(method="head", decoder="mlp", cache=str(tmp_path)), [pairs])
    space.open_cache(AdaptSettings(method="head", decoder="mlp", cache="off"), [pairs])
    assert space.cache is None


def test_only_the_scored_window_is_in_the_loss() -> None:
    spec = small_spec("pretrained")
    model, state = light_model(spec), synthetic_batch(spec)
    whole, part = (LatentSpace(model, spec, window) for window in (None, (slice(4, 12), slice(8, 24))))
    fields = part.predict_fields(part.inputs(state)).surface["2t"]
    assert torch.equal(fields, whole.predict_fields(whole.inputs(state)).surface["2t"][:, 4:12, 8:24])
    assert part.targets(synthetic_batch(spec, states=1)).surface["2t"].shape == (1, 8, 16)
