"""The workload of a plan: a model's variables and levels on a grid, from a store or from the size of a grid alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from kit.adapt import rollout_lora
from kit.data.dataset import Selection
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics, VariableStatistics
from kit.data.store.build import open_store
from kit.data.store.format import STATIC_PREFIX
from kit.data.store.reader import Store
from kit.data.variables import ATMOSPHERIC, SURFACE
from kit.diffusion.loading import operator_network
from kit.diffusion.spec import DiffusionSpec, describe_network
from kit.io.errors import SettingsError
from kit.memory.advice import Situation
from kit.memory.device import uses_autocast
from kit.models.resolve import resolve_spec, select
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.variants import variant_named
from kit.models.weights import load as weights_room
from kit.models.weights.load import Weights
from kit.models.weights.locate import is_official
from kit.planning.settings import GridSize, PlanSettings
from kit.settings import Settings
from kit.train.denoising import check_denoising, resolve_operator, resolve_states

ERA5_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels of ERA5, hPa, that Aurora was pretrained on (Bodnar et al. 2025)."""

DEPTHS = ("encoder_depths", "decoder_depths")
"""Arguments of a model that say how many blocks each stage of its backbone has."""

SHALLOW = 2
"""Blocks of each stage of a model of few blocks: one with shifted windows, one without."""

Axis = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """A model and what it reads.

    Attributes:
        spec: The model.
        selection: Variables, levels and grid points that it reads and predicts.
        latitude: Degrees north of the rows that are read, decreasing, [H]; [H, W] on a curvilinear grid.
        longitude: Degrees east of the columns, each one east of the one before, [W] or [H, W].
        diffusion: Network that learns to denoise, with ``task.name denoise``.
        operator: Network that is its operator.
    """

    spec: ModelSpec
    selection: Selection
    latitude: Axis
    longitude: Axis
    diffusion: DiffusionSpec | None = None
    operator: DiffusionSpec | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are read."""
        return self.latitude.shape[0], self.longitude.shape[-1]

    @property
    def eastwards(self) -> Axis:
        """Longitudes of columns that lie as these do, increasing from 0: no plan depends on where a box lies."""
        if self.longitude.ndim == 2:
            return self.longitude
        eastwards: Axis = (self.longitude - self.longitude[0]) % 360
        return eastwards


def workload_of(settings: PlanSettings) -> Workload:
    """Resolve the model and the data that training with these settings would use, in the way that training does.

    Raises:
        KitError: settings, grid, store and weights do not fit together.
    """
    variant = variant_named(settings.model.variant)
    # Upstream's own weights would first have to be downloaded. A plan needs what is done with them, not their values.
    weights: Weights | None = Weights(state={}, base={"name": f"{variant.name}'s own"})
    if not is_official(settings.model.weights, variant):
        weights = weights_room.load(settings.model.weights, variant, network=settings.task.name == "denoise")
    if settings.grid is None:
        store = open_store(settings.data.store)
    else:
        store = _made_up_store(settings, settings.grid, weights)
    if settings.task.name == "denoise":
        return _of_network(settings, store, weights)
    spec = resolve_spec(settings.model, settings.data, store, weights)
    spec = rollout_lora.spec_for(
        spec, weights, settings.adapt, settings.rollout.loss_steps, merge=settings.model.rollout_lora == "merge"
    )
    selection = select(spec, settings.data, store, spec.patch_size)
    return Workload(spec, selection, selection.grid.latitude(store), selection.grid.longitude(store))


def _of_network(settings: PlanSettings, store: Store, weights: Weights | None) -> Workload:
    """Resolve a denoising network and the data that it would learn from."""
    check_denoising(settings)
    if settings.diffusion.has_operator:
        spec, selection = resolve_operator(settings, store, weights)
    else:
        spec, selection = resolve_states(settings, store)
    latitude, longitude = selection.grid.latitude(store), selection.grid.longitude(store)
    network = describe_network(settings.diffusion, spec, selection, store)
    return Workload(spec, selection, latitude, longitude, network, operator_network(weights))


def shallow(workload: Workload) -> Workload:
    """Return the workload of a model of few blocks, that is like it otherwise and faster to trace."""
    spec = workload.spec
    depths = {name: tuple(min(depth, SHALLOW) for depth in spec.argument(name)) for name in DEPTHS}
    return replace(workload, spec=replace(spec, arguments={**spec.arguments, **depths}))


def situation_of(settings: Settings, device: torch.device, rows: int | None = None) -> Situation:
    """Collect the settings that decide what a step holds, for advice on memory.

    Args:
        settings: Settings of the run.
        device: Device that the step runs on.
        rows: Rows of patches in the grid; None if unknown.
    """
    return Situation(
        memory=settings.memory,
        device=device.type,
        autocast=uses_autocast(settings.train.precision, device),
        optimizer=settings.optim.name,
        method=settings.adapt.method,
        batch_size=settings.data.batch_size,
        accumulate=settings.train.accumulate,
        losses=len(settings.rollout.loss_steps),
        rows=rows,
    )


def _made_up_store(settings: PlanSettings, size: GridSize, weights: Weights | None) -> Store:
    """Make up a global store that holds all that the model may ask for, and no data."""
    variant = variant_named(settings.model.variant)
    operator = operator_network(weights)
    is_free = operator is not None or (settings.task.name == "denoise" and not settings.diffusion.has_operator)
    _check_size(size, 1 if is_free else variant.default("patch_size"))
    surface, atmospheric, static = list(variant.surface), list(variant.atmospheric), list(variant.static)
    # Weights of the kit may have been trained with variables that their variant does not have.
    trained = None
    if operator is not None:
        assert weights is not None
        assert weights.description is not None
        surface, atmospheric, static = [], [], []
        trained = ModelSpec.from_dict(weights.description["model"])
    elif weights is not None:
        trained = weights.spec
    if trained is not None:
        surface += trained.surface
        atmospheric += trained.atmospheric
        static += trained.static
    surface = list(variant.physical(tuple(surface)))
    new = settings.model.new_variables
    if is_free and operator is None and settings.data.variables is not None:
        # A network draws whatever the data hold.
        new = settings.data.variables
    for name in new:
        bare = name.removeprefix(STATIC_PREFIX)
        if bare != name:
            static.append(bare)
        elif bare in ATMOSPHERIC and bare not in SURFACE:
            atmospheric.append(bare)
        else:
            # What the table of variables does not know is taken for a variable at the surface.
            surface.append(bare)
    own = None if operator is None else operator.levels
    chosen = sorted(settings.data.levels or own or variant.default("level_condition") or ERA5_LEVELS)
    levels = [int(level) if level == int(level) else level for level in chosen]
    keys = [*surface, *(f"static_{name}" for name in static)]
    keys += [level_key(name, level) for name in atmospheric for level in levels]
    # Location 0 and scale 1, for channels of which upstream publishes none.
    standard = VariableStatistics(mean=0, std=1, min=0, max=0, quantiles={}, zero_fraction=0, nan_fraction=0)
    period = Period.parse("2020-01-01/2020-01-01")
    # An odd number of latitudes has both poles, as ERA5's; else they are the centres of rows.
    north = 90.0
    if size.rows % 2 == 0:
        north -= 90.0 / size.rows
    return Store(
        path=Path(f"grid {size}"),
        surface=tuple(dict.fromkeys(surface)),
        atmospheric=tuple(dict.fromkeys(atmospheric)),
        static=tuple(dict.fromkeys(static)),
        levels=tuple(levels),
        latitude=np.linspace(north, -north, size.rows),
        longitude=np.linspace(0, 360, size.columns, endpoint=False),
        times=np.array([], dtype="datetime64[s]"),
        splits={},
        attributes={},
        statistics=StoreStatistics(train=period, states=0, variables=dict.fromkeys(keys, standard)),
        _group=cast("Any", None),
    )


def _check_size(size: GridSize, patch: int) -> None:
    """Check that the model can have a grid.

    Raises:
        SettingsError: says which side, and what would do.
    """
    height, width = size.rows, size.columns
    if height < patch or width < patch:
        msg = f"grid: {size} is less than a patch of {patch}x{patch} grid points; use a larger grid"
        raise SettingsError(msg)
    if width % patch:
        near = max(round(width / patch), 1) * patch
        msg = (
            f"grid: {width} longitudes around the globe are no multiple of the patch size {patch}, and cropping them "
            f"would open a gap; use {height}x{near}"
        )
        raise SettingsError(msg)
