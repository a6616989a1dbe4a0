"""Resolution of settings for denoising: what excludes each other, and states where there is no Aurora."""

from dataclasses import replace
from typing import Any

from kit.config.schema import differing
from kit.data.dataset import Selection
from kit.data.region import select_grid
from kit.data.settings import DataSettings
from kit.data.store.reader import Store
from kit.diffusion.loading import operator_network
from kit.io.errors import SettingsError, StoreError
from kit.memory.settings import MemorySettings
from kit.models.resolve import resolve_spec, select
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec
from kit.models.transforms import default_for_networks, with_non_negative
from kit.models.variants import Precision, drop_names, keep_names
from kit.models.weights.load import Weights
from kit.models.weights.locate import RANDOM
from kit.settings import Settings

# Settings of the model that describe states, whatever predicts them.
_OF_STATES = ("timestep", "transforms")
# Settings of memory that a network, its optimiser, or the operator's forecasts have.
_OF_OPERATORS = ("latitude_bands", "window_bands")
_OF_NETWORKS = ("fit", "recompute", "stages", "offload", "step_in_backward")


def check_denoising(settings: Settings) -> None:
    """Check that settings of other rooms have an effect on denoising, and those of diffusion on nothing else.

    Raises:
        SettingsError: names a setting without effect, and what to do.
    """
    if settings.task.name != "denoise":
        if given := differing(settings.diffusion):
            msg = (
                f"diffusion.{given[0]} has no effect with task.name {settings.task.name}; use denoise, or leave it out"
            )
            raise SettingsError(msg)
        return
    sections = (
        ("adapt", settings.adapt, "the network trains in full"),
        ("rollout", settings.rollout, "one step is learned"),
        ("model.heads", settings.model.heads, "values are drawn, not chances"),
    )
    for name, section, why in sections:
        given = differing(section) if not isinstance(section, dict) else list(section)
        if given:
            msg = f"{name}.{given[0]} has no effect with task.name denoise: {why}; leave it out"
            raise SettingsError(msg)
    if settings.loss.name not in ("paper-mae", "mse"):
        msg = f"loss.name {settings.loss.name}: task.name denoise has the squared error of what is predicted; use mse"
        raise SettingsError(msg)
    if settings.data.halo and settings.diffusion.coarsen > 1:
        msg = "diffusion.coarsen and data.halo exclude each other: a region may cut squares of points; leave one out"
        raise SettingsError(msg)
    if settings.track.activations is not None:
        msg = "track.activations watches Aurora's modules, and task.name denoise trains none; leave it out"
        raise SettingsError(msg)
    if settings.diffusion.crop is not None and (settings.loss.area_weights or settings.data.halo):
        name = "loss.area_weights" if settings.loss.area_weights else "data.halo"
        msg = f"{name} is of the whole grid, and diffusion.crop trains on parts of it; leave one of them out"
        raise SettingsError(msg)
    has_operator = settings.diffusion.has_operator
    if has_operator and settings.model.weights == RANDOM:
        msg = "model.weights random: an operator whose forecasts are learned from has weights; name a checkpoint"
        raise SettingsError(msg)
    without_effect = [] if has_operator else drop_names(differing(settings.model), _OF_STATES)
    if without_effect:
        msg = (
            f"model.{without_effect[0]} has no effect with diffusion.of {settings.diffusion.of}, which has no operator"
        )
        raise SettingsError(msg)
    _check_memory(settings.memory, has_operator=has_operator)


def _check_memory(memory: MemorySettings, *, has_operator: bool) -> None:
    known = (*_OF_NETWORKS, *_OF_OPERATORS) if has_operator else _OF_NETWORKS
    for name in differing(memory):
        if name not in known:
            msg = f"memory.{name} has no effect with task.name denoise; leave it out ({', '.join(known)} have one)"
            raise SettingsError(msg)
    if memory.recompute not in ("none", "blocks"):
        msg = f"memory.recompute {memory.recompute} is of Aurora's backbone; with task.name denoise use blocks"
        raise SettingsError(msg)
    if memory.stages is not None and memory.recompute == "none":
        msg = "memory.stages has no effect with memory.recompute none; leave it out, or use --memory.recompute blocks"
        raise SettingsError(msg)
    if "inputs" in memory.offload:
        msg = "memory.offload inputs is of Aurora's backbone; leave it out with task.name denoise"
        raise SettingsError(msg)


def resolve_states(settings: Settings, store: Store) -> tuple[ModelSpec, Selection]:
    """Describe the states of a store, and what is read of them, where no Aurora limits either.

    Raises:
        KitError: the store lacks a variable, or the region selects nothing.
    """
    # Statistics and transforms as a model with random weights has them, which takes all variables of the data.
    drawn = keep_names(settings.data.variables or store.surface, store.surface)
    defaults = {name: default_for_networks(store, name) for name in drawn}
    transforms = {name: str(found) for name, found in defaults.items() if found is not None}
    transforms |= settings.model.transforms
    model = ModelSettings(weights=RANDOM, timestep=settings.model.timestep, transforms=transforms, statistics="store")
    spec = resolve_spec(model, settings.data, store, None)
    # What is drawn differs from member to member.
    spec = replace(spec, arguments={**spec.arguments, "stochastic": settings.diffusion.of != "mean"})
    return spec, select_states(spec, settings.data, store)


def select_states(spec: ModelSpec, data: DataSettings, store: Store) -> Selection:
    """Select what is read of a store for a network that takes any grid.

    Raises:
        StoreError: nothing is left to draw.
    """
    if not (spec.surface or spec.atmospheric):
        held = ", ".join((*store.surface, *store.atmospheric))
        msg = f"{store.path}: data.variables selects nothing of what it holds: {held}"
        raise StoreError(msg)
    grid = select_grid(store, data.region, 1, data.halo)
    return Selection(
        spec.surface,
        spec.surface,
        spec.atmospheric,
        spec.static,
        spec.levels,
        data.history,
        spec.timestep,
        grid,
        non_negative=with_non_negative(spec.transforms),
    )


def resolve_operator(settings: Settings, store: Store, weights: Weights | None) -> tuple[ModelSpec, Selection]:
    """Describe the operator as its own weights do, so that it forecasts as it was trained to.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    assert weights is not None
    if operator_network(weights) is not None:
        return _resolve_network(settings, store, weights)
    model = resolve_spec(settings.model, settings.data, store, weights)
    if weights.spec is not None:
        model = weights.spec
    return model, select(model, settings.data, store, model.patch_size)


def _resolve_network(settings: Settings, store: Store, weights: Weights) -> tuple[ModelSpec, Selection]:
    """Describe an operator that is a network.

    Raises:
        KitError: settings ask for other states than it reads, or the store lacks them.
    """
    assert weights.description is not None
    model, name = ModelSpec.from_dict(weights.description["model"]), weights.base["name"]
    given = [f"model.{field}" for field in drop_names(differing(settings.model), ("weights", "timestep"))]
    given += [f"memory.{field}" for field in keep_names(differing(settings.memory), _OF_OPERATORS)]
    if given:
        msg = f"{given[0]} has no effect on the operator {name}, a network; leave it out"
        raise SettingsError(msg)
    data, names = settings.data, (*model.surface, *model.atmospheric)
    asked: tuple[tuple[str, Any, Any], ...] = (
        ("data.history", data.history, model.history),
        ("data.variables", frozenset(data.variables or names), frozenset(names)),
        ("data.levels", frozenset(data.levels or model.levels), frozenset(model.levels)),
        ("data.statics", frozenset(data.statics or model.static), frozenset(model.static)),
        ("model.timestep", settings.model.timestep or model.timestep, model.timestep),
    )
    for setting, wanted, due in asked:
        if wanted != due:
            shown = ",".join(sorted(map(str, due))) if isinstance(due, frozenset) else due
            msg = f"{setting}: the operator {name}, a network, was trained with {shown}; set --{setting} {shown}"
            raise SettingsError(msg)
    held = (*store.surface, *store.atmospheric, *store.static)
    lacking = drop_names((*names, *model.static), held)
    lacking += tuple(f"level {level:g} hPa" for level in model.levels if level not in store.levels)
    if lacking:
        msg = f"{store.path}: the operator {name} reads {', '.join(lacking)}, which the store lacks; build it with them"
        raise StoreError(msg)
    return model, select_states(model, data, store)


def denoising_precision(wanted: str, trained: Precision) -> Precision:
    """Choose the precision of validation: by default that of training, of which the losses are.

    Raises:
        SettingsError: the network does not run in it.
    """
    if wanted == "fp16":
        msg = "train.valid_precision fp16 is of Aurora's version 1.5; with task.name denoise use fp32 or bf16"
        raise SettingsError(msg)
    if wanted == "bf16":
        return "bf16"
    return "fp32" if wanted == "fp32" else trained
