"""A model from its spec and its weights, adapters included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.models import weights as weights_room
from kit.models.spec import ModelSpec
from kit.models.weights import Weights

__all__ = ["base_of", "for_prediction", "for_training"]


def for_training(
    spec: ModelSpec, weights: Weights | None, settings: AdaptSettings, *, autocast: bool
) -> tuple[Aurora, dict[str, torch.nn.Parameter]]:
    """Build a model on the CPU and mark what trains.

    Adapters among the weights go on training where the settings are those that they were trained with. Otherwise
    they are merged into the weights below them, in fp32, and training starts from there.

    Args:
        spec: the model.
        weights: what it starts from; None for random weights.
        settings: what trains.
        autocast: run the forward pass in bfloat16.

    Returns:
        The model, and the parameters that train.

    Raises:
        CheckpointError: the weights do not fit the model.
        SettingsError: the method cannot be had for this model.
    """
    going_on = weights is not None and _goes_on(weights, settings)
    model = spec.build(autocast=autocast)
    if weights is not None:
        _install(model, spec, weights, merged=not going_on)
    parameters = trainable.select(model, settings)
    if weights is not None and going_on:
        trainable.load(model, settings, weights.state)
    return model, parameters


def for_prediction(spec: ModelSpec, weights: Weights | None, *, autocast: bool) -> Aurora:
    """Build a model as it was trained: adapters stay beside their layers, and what was in NF4 is again.

    Its predictions are then those of the model in training, to the last bit.

    Raises:
        CheckpointError: the weights do not fit the model.
        SettingsError: a package that the adapters need is missing.
    """
    if weights is not None and weights.under is not None:
        return for_training(spec, weights, _own(weights), autocast=autocast)[0]
    model = spec.build(autocast=autocast)
    if weights is not None:
        weights_room.install(model, spec, weights)
    return model


def base_of(weights: Weights, settings: AdaptSettings) -> dict[str, Any]:
    """Name, file and SHA-256 of the weights that an adapter belongs to when its training starts from ``weights``.

    A path is given in full, so that it is found from any folder.
    """
    if _goes_on(weights, settings) and weights.adapter is not None:
        return dict(weights.adapter["base"])
    path = Path(weights.base["name"])
    return {**weights.base, "name": str(path.absolute()) if path.exists() else weights.base["name"]}


def _goes_on(weights: Weights, settings: AdaptSettings) -> bool:
    """Whether training goes on with the weights' own adapters."""
    return weights.under is not None and _own(weights) == settings.resolved()


def _own(weights: Weights) -> AdaptSettings:
    """The settings that weights were trained with, as far as an adapter among them tells."""
    return AdaptSettings() if weights.adapter is None else AdaptSettings.model_validate(weights.adapter["settings"])


def _install(model: Aurora, spec: ModelSpec, weights: Weights, *, merged: bool) -> None:
    """Load weights; of an adapter those below it, with the adapter merged into them or left out."""
    if weights.under is None:
        weights_room.install(model, spec, weights)
        return
    _install(model, spec, weights.under, merged=True)
    if merged:
        trainable.merge(model, _own(weights), weights.state)
