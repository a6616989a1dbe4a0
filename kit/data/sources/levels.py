"""Levels of files in the store's form: pressures in hPa, increasing; what is none is refused for what it is."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from kit.data.source_names import pressure
from kit.data.sources.fields import ABOVE_GROUND, Note, own_names, recognise
from kit.data.sources.geopotential import is_of_level
from kit.data.sources.verticals import (
    BARE,
    HEIGHT,
    MODEL,
    PRESSURE,
    SURFACE,
    in_hectopascals,
    is_standard,
    kind_of,
    surface_height,
)
from kit.data.store.format import listed
from kit.io.errors import StoreError

_HIGHEST = 1100.0
"""Pressure in hPa that no place on Earth exceeds."""
_LISTED = 8
"""Most levels in a message."""
_NO_LEVEL = (0, -1)
"""What some write for the level of fields at the surface."""
_MODEL_LEVELS = 137
"""Levels of ECMWF's model, counted from the top."""


@dataclass(frozen=True)
class LevelRules:
    """What the user says of levels.

    Attributes:
        are_pressure: Levels of which files do not say what they are are pressures in hPa.
        at: Level in hPa of fields that come without one; None where nobody says.
        used: Settings that made a difference.
    """

    are_pressure: bool = False
    at: float | None = None
    used: set[str] = field(default_factory=set, compare=False)


def by_levels(
    dataset: xr.Dataset, where: str, rules: LevelRules, takes: Callable[[xr.DataArray], bool], note: Note
) -> Iterator[xr.Dataset]:
    """Divide a file into fields at the surface and fields on pressure levels; refuse levels of other kinds.

    Args:
        dataset: One file, or one part of it.
        where: Its name, for messages.
        rules: What is known beside it.
        takes: Whether a field is wanted.
        note: Takes what was found.

    Yields:
        Fields with one dimension ``level`` in hPa, or without levels.

    Raises:
        StoreError: Wanted fields lie on levels that are no pressures, or of which nothing says what they are, or on
            none where one is needed.
    """
    dataset = with_units_of_levels(dataset, rules, note)
    vertical = {name: kind for name in (*dataset.dims, *dataset.coords) if (kind := kind_of(dataset, name))}
    for name, kind in vertical.items():
        if kind in (PRESSURE, BARE) and name in dataset.coords:
            _check_numbers(dataset[name], where)
    scalars = [name for name, kind in vertical.items() if kind == PRESSURE and _is_scalar(dataset, name)]
    level = _one_level(dataset, scalars, rules, where)
    on_pressure: dict[Hashable, list[Hashable]] = {}
    surface: list[Hashable] = []
    lifted: list[Hashable] = []
    named: dict[float, list[Hashable]] = {}
    for key, array in dataset.data_vars.items():
        along = [name for name in array.dims if name in vertical]
        if along and not all(_is_surface(array, name, vertical[name]) for name in along):
            if vertical[along[0]] == PRESSURE:
                on_pressure.setdefault(along[0], []).append(key)
            elif takes(array):
                raise StoreError(_not_pressure(array, along[0], vertical[along[0]], where))
            elif is_field(array):
                dataset = dataset.drop_vars([key])
            continue
        stated = next((number for name in own_names(array) if (number := pressure(name)) is not None), None)
        if stated is not None and not along:
            named.setdefault(stated, []).append(key)
            continue
        height = surface_height(array)
        if height is not None:
            dataset = dataset.assign({key: array.assign_attrs({ABOVE_GROUND: height})})
        if not _lives_on_levels(array, level, height, rules, where):
            surface.append(key)
        elif level is not None:
            lifted.append(key)
        elif takes(array):
            raise StoreError(_without_level(array, vertical, where))
        else:
            dataset = dataset.drop_vars([key])
    # What is no field, such as matrices of coordinates and grid mappings, goes with every part.
    fields = {key for key in surface if is_field(dataset[key]) or "time" in dataset[key].dims}
    fields = fields.union(lifted, *on_pressure.values(), *named.values())
    for name, keys in on_pressure.items():
        yield _renamed(dataset.drop_vars(fields.difference(keys)).drop_vars(scalars), name, note)
    bare = dataset.drop_vars([name for name in vertical if name in dataset.coords and _is_scalar(dataset, name)])
    if lifted and level is not None:
        if rules.at is not None:
            rules.used.add("--at_level")
            note(f"{', '.join(map(str, lifted))} taken to lie at {level:g} hPa, as --at_level says")
        yield _at_level(bare.drop_vars(fields.difference(lifted)), lifted, level)
    for pressure_of_names, keys in named.items():
        yield _at_level(bare.drop_vars(fields.difference(keys)), keys, pressure_of_names)
    if surface or not fields:
        bare = bare.drop_vars(fields.difference(surface))
        bare = bare.squeeze([name for name in vertical if bare.sizes.get(name) == 1], drop=True)
        yield bare.drop_vars([name for name in vertical if name in bare.variables])


def _is_scalar(dataset: xr.Dataset, name: Hashable) -> bool:
    return name in dataset.coords and dataset[name].ndim == 0


def _check_numbers(coordinate: xr.DataArray, where: str) -> None:
    values = coordinate.values.ravel()
    wrong = values
    if values.dtype.kind in "iuf":
        wrong = values[~np.isfinite(values)]
    if wrong.size or not values.size:
        found = f"{wrong[0]!s} (type {values.dtype})" if wrong.size else "no values"
        msg = f"{where}: {coordinate.name} must hold finite numbers, found {found}; mend the file"
        raise StoreError(msg)


def _one_level(dataset: xr.Dataset, scalars: list[Hashable], rules: LevelRules, where: str) -> float | None:
    """Find the one pressure in hPa that the file or the user states for fields without levels; None where none does."""
    stated = {name: float(in_hectopascals(dataset[name])) for name in scalars}
    if rules.at is not None:
        stated["--at_level"] = rules.at
    if len(set(stated.values())) > 1:
        found = ", ".join(f"{name} {value:g}" for name, value in stated.items())
        msg = f"{where}: fields without levels can lie on one level alone, found {found} hPa; leave one of them out"
        raise StoreError(msg)
    return next(iter(stated.values()), None)


def _at_level(dataset: xr.Dataset, names: list[Hashable], level: float) -> xr.Dataset:
    """Give fields, and nothing else, a dimension of one level in hPa."""
    bare = dataset.drop_vars("level", errors="ignore")
    fields = {name: bare[name].expand_dims(level=1) for name in names}
    return bare.assign(fields).assign_coords(level=("level", [level], {"units": "hPa"}))


def with_level_dimension(dataset: xr.Dataset, where: str, rules: LevelRules, note: Note) -> xr.Dataset:
    """Call a dimension of pressure ``level``, in hPa, where there is one alone; refuse nothing but what is no number.

    Args:
        dataset: One file; its fields are not touched.
        where: Its name, for messages.
        rules: What is known beside it.
        note: Takes what was found.

    Raises:
        StoreError: Levels are no numbers.
    """
    dataset = with_units_of_levels(dataset, rules, note)
    kinds = {name: kind_of(dataset, name) for name in dataset.dims if name in dataset.coords}
    for name, kind in kinds.items():
        if kind in (PRESSURE, BARE):
            _check_numbers(dataset[name], where)
    found = [name for name, kind in kinds.items() if kind == PRESSURE]
    if len(found) != 1:
        return dataset
    return _renamed(dataset, found[0], note)


def with_units_of_levels(dataset: xr.Dataset, rules: LevelRules, note: Note) -> xr.Dataset:
    """State hPa as the unit of levels that say nothing, where their numbers or the user say that they are pressures.

    Args:
        dataset: One file.
        rules: What is known beside it.
        note: Takes what was found.
    """
    for name in list(dataset.coords):
        if name not in dataset.coords:
            continue
        coordinate = dataset[name]
        is_level = coordinate.ndim == 0 or coordinate.dims == (name,)
        if not is_level or kind_of(dataset, name) != BARE or coordinate.dtype.kind not in "iuf":
            continue
        values = np.asarray(coordinate.values, dtype=np.float64).ravel()
        if values.size == 1 and values[0] in _NO_LEVEL:
            continue
        beside = _pressures_along(dataset, name)
        if beside is not None:
            note(f"levels taken from {beside}, which lies along {name}")
            values = in_hectopascals(dataset[beside])
            dataset = dataset.drop_vars([beside])
        elif rules.are_pressure:
            rules.used.add("--levels_are")
            note(f"levels {listed(values.tolist())} taken for hPa, as --levels_are says")
        elif is_standard(values):
            note("levels without units taken for hPa: they are those of ERA5")
        else:
            continue
        described = {**coordinate.attrs, "units": "hPa", "standard_name": "air_pressure"}
        dataset = dataset.assign_coords({name: (coordinate.dims, values.reshape(coordinate.shape), described)})
    return dataset


def _pressures_along(dataset: xr.Dataset, name: Hashable) -> Hashable | None:
    """Find the coordinate that gives the pressures of a dimension that merely counts; None where there is none."""
    found = [
        other
        for other in dataset.coords
        if other != name and dataset[other].dims == (name,) and kind_of(dataset, other) == PRESSURE
    ]
    return found[0] if len(found) == 1 else None


def _is_surface(array: xr.DataArray, name: Hashable, kind: str) -> bool:
    """Whether a dimension is but the height, or the kind of surface, of a field at the surface."""
    if array.sizes[name] != 1:
        return False
    if kind in (SURFACE, HEIGHT):
        return True
    return kind == BARE and name in array.coords and array[name].values[0] in _NO_LEVEL


def is_field(array: xr.DataArray) -> bool:
    """Whether an array is of a variable that the table knows, at the surface or on levels."""
    return any(recognise(array, on_levels=on_levels) is not None for on_levels in (True, False))


def _lives_on_levels(
    array: xr.DataArray, level: float | None, height: float | None, rules: LevelRules, where: str
) -> bool:
    """Whether a field without a level is of a variable on levels.

    Most are by their names. A geopotential may be the surface's, which does not change in time.
    """
    flat, on_levels = (recognise(array, on_levels=kind) for kind in (False, True))
    if on_levels is None or height is not None:
        return False
    if flat is None:
        return True
    if flat.kind != "static" or level is None:
        return False
    return is_of_level(array, level, where, is_stated=rules.at is not None)


def _not_pressure(array: xr.DataArray, name: Hashable, kind: str, where: str) -> str:
    """Word the refusal of a field on levels that are no pressures."""
    if name not in array.coords:
        if kind == BARE:
            return f"{where}: {array.name} has the dimension {name} without its values; add that coordinate"
        return (
            f"{where}: {array.name} lies on {array.sizes[name]} {kind} ({name}); the store holds pressure levels: "
            "interpolate the data to them first, or leave it out by naming others with --variables"
        )
    values = np.asarray(array[name].values, dtype=np.float64).ravel()
    start = (
        f"{where}: {array.name} lies on {values.size} {kind}, {name} {listed(values[:_LISTED].tolist())}"
        f"{', ...' if values.size > _LISTED else ''}; the store holds pressure levels"
    )
    if kind != BARE:
        return f"{start}: interpolate the data to them first, or leave it out by naming others with --variables"
    hint = ""
    if values.max(initial=0) <= _MODEL_LEVELS:
        hint = f". Numbers up to {_MODEL_LEVELS} look like {MODEL}, which must be interpolated to pressure levels first"
    return (
        f"{start}, and nothing says what these are{hint}. If they are pressures in hPa, say --levels_are pressure, or "
        "give the coordinate its attribute units"
    )


def _without_level(array: xr.DataArray, vertical: Mapping[Hashable, str], where: str) -> str:
    """Word the refusal of a field that needs a level, and has none that is a pressure."""
    for name, kind in vertical.items():
        if kind not in (PRESSURE, SURFACE, HEIGHT) and name in array.coords and array[name].ndim == 0:
            return _not_pressure(array, name, kind, where)
    return (
        f"{where}: {array.name} is a field on pressure levels, and the file does not say on which it lies; name the "
        "level in hPa with --at_level, such as --at_level 850, or leave it out by naming others with --variables"
    )


def _renamed(part: xr.Dataset, name: Hashable, note: Note) -> xr.Dataset:
    """Call levels ``level``, in hPa."""
    values = in_hectopascals(part[name])
    if not np.array_equal(values, part[name].values):
        note(f"levels converted from {part[name].attrs.get('units', 'Pa')} to hPa")
    if name != "level":
        part = part.drop_vars("level", errors="ignore").rename({name: "level"})
    return part.assign_coords(level=("level", values, {"units": "hPa", "standard_name": "air_pressure"}))


def order_levels(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Put levels in increasing order.

    Raises:
        StoreError: they are no distinct pressures.
    """
    values = in_hectopascals(dataset["level"])
    if values.min() <= 0 or values.max() > _HIGHEST or len(np.unique(values)) < len(values):
        msg = (
            f"{where}: levels must be distinct pressures between 0 and {_HIGHEST:g} hPa, found "
            f"{listed(values.tolist())}; correct the coordinate"
        )
        raise StoreError(msg)
    dataset = dataset.assign_coords(level=("level", values))
    return dataset if (np.diff(values) > 0).all() else dataset.isel(level=np.argsort(values))
