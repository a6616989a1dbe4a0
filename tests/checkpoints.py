"""Checkpoints that were never trained, but differ as trained ones do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kit.adapt import factory as build
from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import write_checkpoint, write_description
from kit.data.store.reader import Store
from kit.models.spec import ModelSpec
from kit.models.weights import load as weights_room
from tests.adapt.models import awake_model
from tests.batches import small_spec
from tests.factories import synthetic_store

__all__ = ["LEVELS", "LORA", "SPEC", "described", "old_style", "redescribe", "store_for", "write_delta", "write_whole"]

LEVELS = (300, 500, 850)
SPEC = small_spec("small", levels=LEVELS)
LORA = AdaptSettings(method="lora", rank=2, targets=("attn.proj",))


def store_for(path: Path, **options: Any) -> Store:
    """A store that the small variant reads; 12 states, the test split from 2020-01-03T06."""
    return synthetic_store(path, levels=LEVELS, **options)


def described(store: Store, spec: ModelSpec = SPEC, **more: Any) -> dict[str, Any]:
    """A description as ``kit finetune`` writes it."""
    data = {
        "store": str(store.path),
        "region": None,
        "variables": [*spec.surface, *spec.atmospheric],
        "levels": list(spec.levels),
        "statics": list(spec.static),
        "grid": {"rows": [0, 16], "columns": [0, 32], "cropped": [0, 0]},
        **{name: str(store.splits[name]) for name in ("train", "valid", "test")},
    }
    stage = {"kit_version": "0", "method": "full", "steps": 3, "base": None, "store": str(store.path)}
    return {
        "kit_version": "0",
        "model": spec.as_dict(),
        "data": data,
        "base": None,
        "lineage": [stage],
        "validation": {"before": 1.0, "best": 0.5},
        **more,
    }


def write_whole(folder: Path, store: Store, *, seed: int = 0, spec: ModelSpec = SPEC, **more: Any) -> Path:
    """A checkpoint of a whole model."""
    write_checkpoint(folder, awake_model(spec, seed=seed).state_dict(), described(store, spec, **more))
    return folder


def write_delta(
    folder: Path, base: Path, store: Store, *, seed: int = 1, settings: AdaptSettings = LORA, spec: ModelSpec = SPEC
) -> Path:
    """A checkpoint of a delta on ``base`` whose tensors are random."""
    weights = weights_room.load(str(base), spec.upstream)
    assert weights is not None
    model, _ = build.for_training(spec, weights, settings, autocast=False)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    adapter = {"settings": settings.resolved().model_dump(mode="json"), "base": build.base_of(weights, settings)}
    tensors, config = trainable.tensors(model, settings), trainable.adapter_config(model, settings)
    earlier = [] if weights.description is None else weights.description["lineage"]
    stage = {"kit_version": "0", **settings.described(), "steps": 7, "base": dict(weights.base)}
    more = {"adapter": adapter, "base": dict(weights.base), "lineage": [*earlier, stage]}
    write_checkpoint(folder, tensors, described(store, spec, **more), adapter_config=config)
    return folder


def redescribe(folder: Path, change: Callable[[str], str]) -> None:
    """Change the text of a ``kit.json``, as if it had been written so."""
    text = change((folder / "kit.json").read_text())
    write_description(folder, json.loads(text))


def old_style(state: Mapping[str, torch.Tensor], patch: int) -> dict[str, torch.Tensor]:
    """Tensors under the names of upstream's first checkpoints: variables by number, everything under ``net.``.

    The order of the variables is what ``aurora/model/compat.py`` reads them in.
    """
    surface, atmospheric = ("2t", "10u", "10v", "msl"), ("z", "u", "v", "t", "q")
    old = dict(state)
    embedded: dict[str, tuple[str, ...]] = {"surf": (*surface, "lsm", "z", "slt"), "atmos": atmospheric}
    for place, names in embedded.items():
        weights = [old.pop(f"encoder.{place}_token_embeds.weights.{name}") for name in names]
        old[f"encoder.{place}_token_embeds.weight"] = torch.cat(weights, dim=1)
    predicted: dict[str, tuple[str, ...]] = {"surf": surface, "atmos": atmospheric}
    for place, names in predicted.items():
        for part in ("weight", "bias"):
            heads = [old.pop(f"decoder.{place}_heads.{name}.{part}") for name in names]
            old[f"decoder.{place}_head.{part}"] = torch.stack(heads, dim=1).flatten(0, 1)
    assert old["decoder.surf_head.bias"].shape == (len(surface) * patch**2,)
    return {f"net.{name}": value for name, value in old.items()}
