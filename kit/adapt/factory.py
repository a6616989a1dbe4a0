"""Building of models from spec and weights, adapters included."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from aurora import Aurora
from pydantic import ValidationError

from kit.adapt import mlp_decoder, trainable
from kit.adapt.settings import AdaptSettings
from kit.adapt.trainable import Trained
from kit.io.errors import CheckpointError
from kit.models.extend import added_names, start_new
from kit.models.spec import ModelSpec
from kit.models.weights.build import build_model
from kit.models.weights.description import name_faults
from kit.models.weights.load import RolloutLoraMode, Weights, install


def for_training(
    spec: ModelSpec,
    weights: Weights | None,
    settings: AdaptSettings,
    *,
    autocast: bool,
    steps: int | None = None,
    start: Literal["zero", "random"] = "zero",
) -> tuple[Aurora, Trained]:
    """Build a model on the CPU and mark what trains.

    What an earlier stage trained beside frozen weights goes on training where the settings are those that it was
    trained with. Otherwise it is merged into these weights, in fp32, and training starts from there.

    Args:
        spec: the model.
        weights: what it starts from; None for random weights.
        settings: what trains.
        autocast: run the forward pass in bfloat16.
        steps: of the whole run; None where nothing will train.
        start: of the embeddings of variables that the weights lack.

    Returns:
        The model, and what trains.

    Raises:
        CheckpointError: the weights do not fit the model.
        SettingsError: the method cannot be had for this model.
    """
    # Adapters stay beside their layers as long as the method stays the same, so that what is scored is what was
    # validated; only a stage with another method merges them.
    going_on = weights is not None and _goes_on(weights, settings)
    model = build_model(spec, weights, autocast=autocast)
    stabilised, stochastic = (spec.arguments.get(name, False) for name in ("stabilise_level_agg", "stochastic"))
    new = added_names(model, spec.added, stabilised=stabilised, stochastic=stochastic)
    start_new(model, new, start)
    if weights is not None:
        # Under any other method upstream's roll-out LoRA has to come from the weights.
        fresh = settings.method == "rollout-lora"
        new &= _install(model, spec, weights, spec.rollout_lora_mode, merged=not going_on, fresh=fresh)
    if settings.decoder == "mlp":
        # Light decoders take the place of the new variables' own parameters, which stay untrained.
        new = mlp_decoder.install(model, spec, settings, new)
    trained = trainable.select(model, settings, steps=steps, new=new)
    if weights is not None and going_on:
        trainable.load(model, settings, weights.state)
    return model, trained


def rebased(spec: ModelSpec, weights: Weights | None, settings: AdaptSettings) -> ModelSpec:
    """Describe the model as its checkpoints will, which name all that their base weights lack."""
    if weights is None or weights.spec is None or not _goes_on(weights, settings):
        return spec
    return replace(spec, added=(*weights.spec.added, *spec.added))


def for_prediction(spec: ModelSpec, weights: Weights | None, *, autocast: bool) -> Aurora:
    """Build a model as it was trained: adapters stay beside their layers, and what was in NF4 is again.

    Its predictions are then those of the model in training, to the last bit.

    Raises:
        CheckpointError: the weights do not fit the model.
        SettingsError: a package that the adapters need is missing.
    """
    if weights is not None and weights.under is not None:
        own = _own_settings(weights)
        return for_training(rebased(spec, weights, own), weights, own, autocast=autocast)[0]
    model = build_model(spec, weights, autocast=autocast)
    if weights is not None:
        missing = install(model, spec, weights)
        # To predict with parameters that nothing was loaded into is to predict with random ones.
        if missing:
            msg = f"{weights.base['name']}: the weights lack {len(missing)} parameters, the first is {min(missing)}"
            raise CheckpointError(msg)
    return model


def base_of(weights: Weights, settings: AdaptSettings) -> dict[str, Any]:
    """Identify the weights that an adapter belongs to when its training starts from ``weights``.

    By name, file and SHA-256. A path is given in full, so that it is found from any folder.
    """
    if _goes_on(weights, settings) and weights.adapter is not None:
        return dict(weights.adapter["base"])
    base = dict(weights.base)
    path = Path(base["name"])
    if path.exists():
        base["name"] = str(path.absolute())
    return base


def _goes_on(weights: Weights, settings: AdaptSettings) -> bool:
    """Whether training goes on with the weights' own adapters."""
    if weights.under is None:
        return False
    own = _own_settings(weights).defining()
    if settings.mode is None:
        # Where none is asked for, the mode of a roll-out LoRA is the weights'.
        own = own.model_copy(update={"mode": None})
    return settings.defining() == own


def _own_settings(weights: Weights) -> AdaptSettings:
    """The settings that weights were trained with, as far as an adapter among them shows."""
    if weights.adapter is None:
        return AdaptSettings()
    try:
        return AdaptSettings.model_validate(weights.adapter["settings"])
    except ValidationError as error:
        msg = (
            f"{weights.base['name']}: adapter.settings in its kit.json are none of the kit's: {name_faults(error)}; "
            "take another copy of the checkpoint"
        )
        raise CheckpointError(msg) from error


def _install(
    model: Aurora, spec: ModelSpec, weights: Weights, mode: RolloutLoraMode, *, merged: bool, fresh: bool
) -> frozenset[str]:
    """Load weights; of a delta those below it, with the delta merged into them or left out.

    Args:
        model: built from ``spec``.
        spec: the model's.
        weights: what is loaded.
        mode: what becomes of a roll-out LoRA among these weights.
        merged: whether a delta is, or will be loaded later.
        fresh: whether a roll-out LoRA may begin where no weights have one.

    Returns:
        Parameters of added variables that the weights lack, and that are as they were.
    """
    if weights.under is None:
        return install(model, spec, weights, mode, fresh=fresh)
    assert weights.spec is not None
    # A roll-out LoRA below a delta is treated as the delta's is, unless the delta's own takes its place.
    mode_below = mode
    if weights.spec.rollout_lora != "kept":
        mode_below = "merge"
    elif any(".loras." in name for name in weights.state):
        mode_below = "drop"
    # The weights below a delta lack what either stage added.
    below = replace(spec, added=(*spec.added, *weights.spec.added))
    missing = _install(model, below, weights.under, mode_below, merged=True, fresh=fresh)
    if not merged:
        return missing
    trainable.merge(model, _own_settings(weights), weights.state, mode)
    return missing - weights.state.keys()
