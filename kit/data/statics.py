"""Static fields: those of the data, of a file such as upstream publishes beside its weights, or derived ones.

Upstream's files (``aurora-0.25-static.pickle`` and its like) are pickles of a dictionary from names to arrays on the
whole grid of a model, without coordinates: 721 x 1440 at 0.25 degrees, 1801 x 3600 at 0.1, 451 x 900 at 0.4. Rows go
from 90 degrees north southwards, the last of them (the pole) may be missing; columns go from 0 degrees eastwards. A
store takes the values at its own grid points, which must be points of the file's grid at the same spacing: static
fields are never interpolated.

Dimension letters: H latitude, W longitude.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.config.suggestions import near_names
from kit.data.sources.base import SourceData, file_facts
from kit.data.sources.coordinates import canonical_coordinates, coordinate_names
from kit.data.sources.fields import IN_STORE_UNITS, Note, canonical_name, canonical_values
from kit.data.sources.leads import TIME_DIMENSIONS, split_by_lead
from kit.data.sources.merging import constant_field
from kit.data.sources.netcdf import open_file
from kit.data.sources.pickle.unpickle import Array, load
from kit.data.sources.versions import final_before_preliminary
from kit.data.sources.verticals import kind_of
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX, grid_dimensions
from kit.data.variables import STATIC
from kit.io.errors import StoreError

_NETCDF = (b"CDF", b"\x89HDF")
"""First bytes of NetCDF files: of the classic format, and of HDF5, on which NetCDF 4 is built."""
_TOLERANCE = 1e-3
"""Share of the grid spacing by which coordinates may differ: they come in single precision."""


def with_statics(source: SourceData, reference: str | None, names: Sequence[str] | None) -> SourceData:
    """Lay static fields from a file of their own over those of a source.

    Args:
        source: Source at whose grid points they are taken.
        reference: A registry entry of the kind ``statics``, a pickle or a NetCDF file; None for none.
        names: Static variables that the store will hold; None for all that there are.

    Returns:
        The source with them, the file among its files, and a note that names file and hash.

    Raises:
        StoreError: the file cannot be read, lies on another grid, or has nothing that is asked for.
        RegistryError: the registry's file cannot be had, or is not the one that it describes.
    """
    # All fields of a source lie on one grid.
    grid = next(iter(source.fields.values()), None)
    if reference is None or grid is None:
        return source
    file, origin = _locate(reference)
    notes = list(source.notes)
    fields = _at_points(grid, _open(file, grid, notes.append), file, notes.append)
    held = sorted(name.removeprefix(STATIC_PREFIX) for name in fields)
    used = held
    if names is not None:
        # Those that are to be in the store, or that one there is derived from, as ``slt_3`` is from ``slt``.
        wanted = {*names, *(name.rpartition("_")[0] for name in names)}
        used = [name for name in held if name in wanted]
    if not used:
        msg = (
            f"--statics_from {reference} has no effect: it holds {', '.join(held) or 'no fields'}, of which --statics "
            "names none"
        )
        raise StoreError(msg)
    facts = {**file_facts([file])[0], **origin}
    note = f"static variables {', '.join(used)} taken from {file.name} (SHA-256 {facts['sha256']})"
    replaced = sorted(name.removeprefix(STATIC_PREFIX) for name in fields.keys() & source.fields.keys())
    if replaced:
        note += f", in the place of the data's own {', '.join(replaced)}"
    return replace(
        source,
        fields={**source.fields, **fields},
        names=tuple(sorted({*source.names, *fields})),
        files=(*source.files, facts),
        notes=tuple(dict.fromkeys([*notes, note])),
        licence="; ".join(filter(None, (source.licence, origin.get("licence", "")))),
    )


def _locate(reference: str) -> tuple[Path, dict[str, str]]:
    """Find the file, and what the registry says of it."""
    path = Path(reference)
    if path.is_file():
        return path, {}
    # Here, because a file needs nothing of the registry.
    from kit import registry

    entries = {name: entry for name, entry in registry.entries().items() if entry.kind == "statics"}
    if reference not in entries:
        near = near_names(reference, entries) or sorted(entries)
        msg = (
            f"--statics_from: {reference!r} is no file, and the registry's static fields are {', '.join(near)} "
            "(all: kit data list)"
        )
        raise StoreError(msg)
    return registry.fetch(reference), {"registry": reference, "licence": entries[reference].licence}


def _open(file: Path, grid: xr.DataArray, note: Note) -> xr.Dataset:
    """Read all static fields of a file, with coordinates in the store's form, north to south and eastwards."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if not start.startswith(_NETCDF):
        return canonical_coordinates(_unpickle(file), file.name, note)
    with open_file(file, file.name, (), note) as parts:
        (dataset,) = parts.values()
        # Of a file with states as well, nothing else is read; levels are those of other fields.
        others = [key for key, array in dataset.data_vars.items() if not _may_be_static(array)]
        levels = [name for name in dataset.coords if kind_of(dataset, name)]
        alone = final_before_preliminary(dataset.drop_vars([*others, *levels]), note)
        # The first lead of forecasts stands for all, as in every source.
        states = _between_corners(next(split_by_lead(alone, file.name)), grid)
        ordered = canonical_coordinates(states, file.name, note)
        return ordered.assign({key: _constant(array, file) for key, array in ordered.data_vars.items()}).load()


def _between_corners(dataset: xr.Dataset, grid: xr.DataArray) -> xr.Dataset:
    """Cut a curvilinear grid to the rectangle between the corners of another one, which may be a part of it.

    Before it is put in order, which a grid that crosses Greenwich has not, though its part has.
    """
    named = dataset.rename(coordinate_names(dataset))
    matrices = [name for name in GRID if name in named.variables and named[name].ndim == len(GRID)]
    if grid_dimensions(grid) != CURVILINEAR or len(matrices) < len(GRID):
        return dataset
    dims = named["latitude"].dims
    latitude, longitude = named["latitude"].values, named["longitude"].transpose(*dims).values
    rows, columns = [], []
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        north, east = (float(grid[name].values[corner]) for name in GRID)
        apart = (latitude - north) ** 2 + ((longitude - east + 180) % 360 - 180) ** 2
        row, column = divmod(int(np.nanargmin(apart)), apart.shape[1])
        rows.append(row)
        columns.append(column)
    return named.isel({dims[0]: slice(min(rows), max(rows) + 1), dims[1]: slice(min(columns), max(columns) + 1)})


def _may_be_static(array: xr.DataArray) -> bool:
    """Whether an array is a static field, or one of coordinates; one that the table lacks is one without times."""
    _, variable = canonical_name(array)
    if variable is None:
        return not any(str(name).lower() in TIME_DIMENSIONS for name in array.dims)
    return variable.kind == "static"


def _constant(array: xr.DataArray, file: Path) -> xr.DataArray:
    """Take the one state of a field that comes with each of the times, and is the same at all."""
    if "time" not in array.dims:
        return array
    return constant_field(str(array.name), [(file.name, array)])


def _unpickle(file: Path) -> xr.Dataset:
    content = load(file)
    if not isinstance(content, dict) or not content:
        msg = f"{file}: holds a {type(content).__name__}, expected a dictionary from names to arrays [H, W]"
        raise StoreError(msg)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, item in content.items():
        values = None
        if isinstance(item, Array):
            values = item.values
        if values is None or values.dtype.kind not in "biuf":
            kind = getattr(values, "dtype", type(item).__name__)
            msg = f"{file}: {str(name)!r} holds a {kind}, expected an array of numbers [H, W]"
            raise StoreError(msg)
        arrays[str(name)] = values
    coordinates = {name: arrays.pop(name) for name in GRID if name in arrays}
    shapes = sorted({values.shape for values in arrays.values()})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        msg = f"{file}: expected arrays of one shape [H, W], got the shapes {', '.join(map(str, shapes)) or 'of none'}"
        raise StoreError(msg)
    height, width = shapes[0]
    if len(coordinates) < len(GRID):
        coordinates = _implied_coordinates(height, width, file)
    given = [coordinates[name].shape for name in GRID]
    if given != [(height,), (width,)]:
        msg = f"{file}: coordinates of the shapes {given} for arrays {shapes[0]}"
        raise StoreError(msg)
    fields = {name: (GRID, values, {IN_STORE_UNITS: 1}) for name, values in arrays.items()}
    return xr.Dataset(fields, coords=coordinates)


def _implied_coordinates(height: int, width: int, file: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Compute coordinates of a global grid that are known from its shape, as upstream's examples build them."""
    whole = width // 2
    if width < 2 or width % 2 or height not in (whole, whole + 1):
        msg = (
            f"{file}: arrays of {height} x {width} points are no global grid whose coordinates follow from its shape: "
            f"expected {whole + 1} rows (or {whole}, without the south pole) for {width} columns. Give a NetCDF file, "
            "or add 'latitude' and 'longitude' to the dictionary"
        )
        raise StoreError(msg)
    spacing = 360 / width
    # Rounded, so that sums of a spacing such as 0.1 are equal to what files of that grid hold.
    return {
        "latitude": np.round(90 - spacing * np.arange(height), 9),
        "longitude": np.round(spacing * np.arange(width), 9),
    }


def _at_points(grid: xr.DataArray, dataset: xr.Dataset, file: Path, note: Note) -> dict[str, xr.DataArray]:
    """Take the static fields of a file at the points of a grid, by the store's names."""
    dimensions = grid_dimensions(grid)
    places = {}
    for axis in GRID:
        held, wanted = dataset[axis].values, grid[axis].values
        if CURVILINEAR not in (dimensions, grid_dimensions(dataset)):
            places[axis] = _match(axis, held, wanted, file)
        elif held.shape != wanted.shape or np.abs(held - wanted).max() > _TOLERANCE:
            msg = (
                f"{file}: its {axis}s are {_described(held)}, those of the data {_described(wanted)}; static fields "
                "are not interpolated: on a curvilinear grid they must come on the data's own points"
            )
            raise StoreError(msg)
    fields = {}
    for array in dataset.data_vars.values():
        if not set(dimensions) <= set(array.dims):
            continue
        name, variable = canonical_name(array)
        if variable is None:
            name = STATIC_PREFIX + name.removeprefix(STATIC_PREFIX)
        elif variable.kind != "static":
            continue
        extra = [dim for dim in array.dims if dim not in dimensions]
        if any(array.sizes[dim] > 1 for dim in extra):
            msg = f"{file}: {array.name} has the dimensions {array.dims}; a static field has latitude and longitude"
            raise StoreError(msg)
        points = array.squeeze(extra, drop=True).isel(places)
        points = points.assign_coords({axis: grid[axis] for axis in GRID})
        fields[name] = canonical_values(points, name, variable, file.name, note)
    return fields


def _described(values: npt.NDArray[np.float64]) -> str:
    return f"{' x '.join(map(str, values.shape))} from {values.min():g} to {values.max():g}"


def _match(
    axis: str, held: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], file: Path
) -> npt.NDArray[np.intp]:
    """Find the index in a file of each of a grid's coordinates.

    Raises:
        StoreError: the spacings differ, or a coordinate is not among the file's.
    """
    spacing, asked = _spacing(axis, held), _spacing(axis, wanted)
    if asked and abs(spacing - asked) > _TOLERANCE * spacing:
        msg = (
            f"{file}: its {axis}s are {spacing:g} degrees apart, those of the data {asked:g}; static fields are not "
            "interpolated: give a file of the data's own grid"
        )
        raise StoreError(msg)
    # The nearest of the file's coordinates, in whichever order they are, then how far off it is.
    order = np.argsort(held)
    found = order[np.rint(np.interp(wanted, held[order], np.arange(len(held)))).astype(np.intp)]
    off = np.abs(held[found] - wanted)
    worst = int(off.argmax())
    if off[worst] > _TOLERANCE * (spacing or 1):
        msg = (
            f"{file}: has no {axis} {wanted[worst]:g}; it holds {len(held)} from {held[0]:g} to {held[-1]:g}, "
            f"{spacing:g} degrees apart. Give a file of the data's own grid, or crop the data to it"
        )
        raise StoreError(msg)
    return found


def _spacing(axis: str, values: npt.NDArray[np.float64]) -> float:
    """Compute the degrees between neighbours, around the circle in longitude; 0 where there is but one."""
    if len(values) < 2:
        return 0.0
    step = np.abs(np.diff(values)).min()
    if axis == "longitude":
        step = min(step, 360 - abs(values[-1] - values[0]))
    return float(step)


# Static variables: those of the data, or derived from the coordinates or from classes in the data.

DERIVED = {
    "coslat": ("latitude", np.cos),
    "sinlat": ("latitude", np.sin),
    "coslon": ("longitude", np.cos),
    "sinlon": ("longitude", np.sin),
}
"""Names of derived statics, the coordinate each is a function of, and the function."""
CLASSES = ("slt", "tvh", "tvl")
"""Statics that hold the number of a class: soil and vegetation types of ERA5. ``slt_3`` is 1 where it is 3, else 0."""


def choose_statics(
    fields: Mapping[str, xr.DataArray],
    grid: xr.DataArray,
    names: Sequence[str] | None,
    note: Note,
    found: Sequence[str] = (),
) -> dict[str, xr.DataArray]:
    """Choose the static variables of a store, by their names in it.

    Args:
        fields: Static variables of the data, and others that are ignored, by the store's names.
        grid: Any field, for its coordinates.
        names: Names without prefix; None for all that the data hold.
        note: Function that takes in which were derived.
        found: Names of everything in the data, for the message.

    Raises:
        StoreError: there are none, which upstream's encoder cannot bear, or one that was asked for is
            neither in the data nor derived.
    """
    held = [name.removeprefix(STATIC_PREFIX) for name in fields if name.startswith(STATIC_PREFIX)]
    if names is None:
        names = held
    # Upstream's encoder crashes without static variables.
    if not names:
        msg = (
            "the data hold no static variables, and Aurora needs at least one; "
            f"name derived ones, such as `--statics coslat,sinlat` (there are {', '.join(DERIVED)}), or take those of "
            "a file with --statics_from, such as aurora-0.25-static (all that are published: kit data list)"
        )
        raise StoreError(msg)
    missing = [name for name in names if name not in (*held, *DERIVED) and _class_of(name, held) is None]
    if missing:
        prefixed = filter(lambda name: name.startswith(STATIC_PREFIX), {*fields, *found})
        others = sorted(name.removeprefix(STATIC_PREFIX) for name in prefixed)
        msg = (
            f"the data lack the static variables {', '.join(missing)}; they hold {', '.join(others) or 'none'}, "
            f"and the kit derives {', '.join(DERIVED)}, and classes such as slt_3 of {', '.join(CLASSES)}"
        )
        raise StoreError(msg)
    chosen = {}
    for name in dict.fromkeys(names):
        key = STATIC_PREFIX + name
        found_class = _class_of(name, held)
        # What the data hold comes before what could be derived.
        if key in fields:
            chosen[key] = fields[key]
        elif found_class is not None:
            static, number = found_class
            note(f"{name} derived from {static}")
            types = fields[STATIC_PREFIX + static]
            # Packed types are whole but for rounding.
            field: xr.DataArray = (types.round() == number).astype(np.float32)
            chosen[key] = field.rename(key).assign_attrs(
                long_name=f"{types.attrs.get('long_name', static)} is {number}",
                units="1",
                comment=f"derived from {static}",
            )
        else:
            note(f"{name} derived from the coordinates")
            chosen[key] = _derive(name, grid)
    return chosen


def _class_of(name: str, held: Sequence[str]) -> tuple[str, int] | None:
    """Read the static variable and the number of a class from ``slt_3``, where the data hold that variable."""
    static, _, number = name.rpartition("_")
    if static in CLASSES and static in held and number.isdecimal():
        return static, int(number)
    return None


def _derive(name: str, grid: xr.DataArray) -> xr.DataArray:
    coordinate, function = DERIVED[name]
    values = function(np.deg2rad(grid[coordinate].values))
    dimensions = grid_dimensions(grid)
    if dimensions == GRID and coordinate == "latitude":
        values = values[:, None]
    field = np.broadcast_to(values, [grid.sizes[key] for key in dimensions]).astype(np.float32)
    coords = {key: grid[key] for key in GRID}
    attributes = {**STATIC[name].attributes(), "comment": "derived from the coordinates"}
    return xr.DataArray(field, coords, dimensions, name=STATIC_PREFIX + name, attrs=attributes)
