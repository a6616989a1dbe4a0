"""What is planned on: a model's variables and levels on a grid, from a store, or from the size of a grid alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kit.adapt import rollout_lora
from kit.data.dataset import Selection
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics, VariableStatistics
from kit.data.store.build import open_store
from kit.data.store.format import STATIC_PREFIX
from kit.data.store.reader import Store
from kit.data.variables import ATMOSPHERIC, SURFACE
from kit.io.errors import SettingsError
from kit.models.resolve import resolve_spec, select
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.variants import Variant, variant_named
from kit.models.weights import load as weights_room
from kit.models.weights.load import Weights
from kit.models.weights.locate import is_official
from kit.planning.settings import GridSize, PlanSettings

__all__ = ["ERA5_LEVELS", "Subject", "subject_of"]

ERA5_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels of ERA5, hPa, that Aurora was pretrained on (Bodnar et al. 2025)."""

Axis = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """A model and what it reads.

    Attributes:
        spec: the model.
        selection: what it reads and predicts.
        latitude: of the rows that are read, degrees, decreasing, [H]; [H, W] on a curvilinear grid.
        longitude: of the columns, degrees, each one east of the one before, [W] or [H, W].
    """

    spec: ModelSpec
    selection: Selection
    latitude: Axis
    longitude: Axis

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


def subject_of(settings: PlanSettings) -> Subject:
    """Find out what training with these settings would read, in the way that training does.

    Raises:
        KitError: settings, grid, store and weights do not fit together.
    """
    variant = variant_named(settings.model.variant)
    weights = _weights(settings.model, variant)
    store = open_store(settings.data.store) if settings.grid is None else _imaginary(settings, settings.grid, weights)
    spec = resolve_spec(settings.model, settings.data, store, weights)
    spec = rollout_lora.spec_for(
        spec, weights, settings.adapt, settings.rollout.graded_steps, merge=settings.model.rollout_lora == "merge"
    )
    selection = select(spec, settings.data, store, spec.patch_size)
    return Subject(spec, selection, selection.grid.latitude(store), selection.grid.longitude(store))


def _weights(model: ModelSettings, variant: Variant) -> Weights | None:
    """What training would start from, or a stand-in for weights that would first have to be downloaded."""
    if is_official(model.weights, variant):
        return Weights(state={}, base={"name": f"{variant.name}'s own"})
    return weights_room.load(model.weights, variant)


def _imaginary(settings: PlanSettings, size: GridSize, weights: Weights | None) -> Store:
    """A global store that holds all that the model may ask for, and no data."""
    variant = variant_named(settings.model.variant)
    _check_size(size, variant.default("patch_size"))
    spec = None if weights is None else weights.spec
    channels = (*variant.surface, *(spec.surface if spec else ()))
    new = _kinds(settings.model.new_variables)
    surface = tuple(dict.fromkeys((*variant.physical(channels), *new["surface"])))
    atmospheric = tuple(dict.fromkeys((*variant.atmospheric, *(spec.atmospheric if spec else ()), *new["atmospheric"])))
    static = tuple(dict.fromkeys((*variant.static, *(spec.static if spec else ()), *new["static"])))
    levels = settings.data.levels or variant.default("level_condition") or ERA5_LEVELS
    levels = tuple(int(level) if level == int(level) else level for level in sorted(levels))
    keys = (*surface, *(f"static_{name}" for name in static))
    keys = (*keys, *(level_key(name, level) for name in atmospheric for level in levels))
    latitude, longitude = _axes(size)
    return Store(
        path=Path(f"grid {size}"),
        surface=surface,
        atmospheric=atmospheric,
        static=static,
        levels=levels,
        latitude=latitude,
        longitude=longitude,
        times=np.array([], dtype="datetime64[s]"),
        splits={},
        attributes={},
        statistics=_standard(keys),
        _group=cast("Any", None),
    )


def _kinds(names: Iterable[str]) -> dict[str, list[str]]:
    """New variables by kind, as the table of variables has them; what it does not know is at the surface."""
    kinds: dict[str, list[str]] = {"surface": [], "atmospheric": [], "static": []}
    for name in names:
        bare = name.removeprefix(STATIC_PREFIX)
        on_levels = bare not in SURFACE and bare in ATMOSPHERIC
        kinds["static" if bare != name else "atmospheric" if on_levels else "surface"].append(bare)
    return kinds


def _check_size(size: GridSize, patch: int) -> None:
    """Refuse grids that the model cannot have.

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


def _axes(size: GridSize) -> tuple[Axis, Axis]:
    """Latitudes with both poles if their number is odd, as ERA5's, else centres of rows; longitudes from Greenwich."""
    height = size.rows
    north = 90.0 if height % 2 else 90.0 - 90.0 / height
    return np.linspace(north, -north, height), np.linspace(0, 360, size.columns, endpoint=False)


def _standard(keys: Iterable[str]) -> StoreStatistics:
    """Location 0 and scale 1, for channels of which upstream publishes none."""
    one = VariableStatistics(mean=0, std=1, min=0, max=0, quantiles={}, zero_fraction=0, nan_fraction=0)
    period = Period.parse("2020-01-01/2020-01-01")
    return StoreStatistics(train=period, states=0, variables=dict.fromkeys(keys, one))
