"""Sources of data, whatever their kind: what a build asks them for, and what they hand over."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from kit.data.products import Product, Window, product_of_attributes
from kit.data.region import cropped
from kit.data.settings import Period
from kit.data.sources.coordinates import canonical_coordinates, coordinate_names, projection_of
from kit.data.sources.fields import canonical_name, canonical_values
from kit.data.sources.file_formats import describe_format
from kit.data.sources.grid_order import part_of_crossing
from kit.data.sources.leads import BOUND_END, BOUND_START, LEAD, WINDOW, split_by_lead
from kit.data.sources.levels import LevelRules, by_levels
from kit.data.sources.merging import merge, origin_of
from kit.data.sources.meridians import check_repeated, repeated_columns
from kit.data.sources.projections import AngleOfPoints
from kit.data.sources.same_variable import without_doubles
from kit.data.sources.stated_windows import WindowRules, with_window
from kit.data.sources.winds import OTHER_COMPONENT, X_ANGLE, AxisOfPiece, GridDescription, turn_winds
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX, grid_dimensions
from kit.io.errors import StoreError
from kit.io.hashes import sha256_of_file

SourceLocation = str | Path
"""A file, a folder, or an address."""
# Bytes of a layer, a variable's values on one level, up to which states are read together.
LAYER_BYTES = 2**20


@dataclass(frozen=True)
class Request:
    """What a build asks a source for; None stands for everything that the kit knows."""

    variables: frozenset[str] | None = None
    statics: frozenset[str] | None = None
    """With their prefix."""
    times: Period | None = None
    """States of these times, ends included; sources that fetch ask for no others, and those that open files may hand
    over more."""
    levels: tuple[float, ...] | None = None
    """In hPa."""
    region: tuple[float, float, float, float] | None = None
    """North, west, south, east in degrees, context included."""
    step: int | None = None
    """Hours between states; what is accumulated needs the hours between, too."""
    sample: bool = False
    """Nothing is built: a source that fetches may fetch a little, let that stand for all, and say what all would be."""
    statics_elsewhere: bool = False
    """A file of static fields is given as well, which may hold those that the source lacks."""
    leads: tuple[float, float] | None = None
    """First and last lead in hours of the forecasts that states are taken from; None for analyses alone."""
    levels_rules: LevelRules = field(default_factory=LevelRules)
    """What the user says of levels that files do not describe."""
    windows: Mapping[str, Window] = field(default_factory=dict)
    """Windows of accumulated variables that the user names."""
    product: Product | None = None
    """Product that the user or the registry names."""
    absent_chunks: frozenset[str] = frozenset()
    """Variables, statics without prefix, of which a chunk that a Zarr store lacks stands for its fill value."""
    winds_are: str | None = None
    """Whether winds on a curvilinear grid point as on the ``earth`` or along the ``grid``; None for what files say."""
    left_out: frozenset[str] = frozenset()
    """Variables that are not taken, static ones with their prefix."""
    groups: tuple[str, ...] = ()
    """Groups of NetCDF-4 files to read, instead of the root."""

    def takes(self, name: str, *, known: bool) -> bool:
        """Whether a field of this name is to be read; one that the table lacks must be asked for."""
        if name in self.left_out:
            return False
        requested = self.statics if name.startswith(STATIC_PREFIX) else self.variables
        return known if requested is None else name in requested


@dataclass(frozen=True)
class SourceData:
    """Fields in the store's form, each with its own times, still lazy.

    Args:
        fields: Fields asked for, by the store's name; statics carry their prefix.
        names: Names of everything that was found, asked for or not.
        files: Name, SHA-256 and size of every file that was read.
        notes: What was done to the data, one sentence each.
        licence: Licence as the files state it; empty where they do not.
        synthetic: Whether the data say of themselves that they are synthetic.
        projection: Attributes of a CF grid mapping (appendix F) of a curvilinear grid, where they are known.
        requests: Number of requests to servers that reading all fields takes, where that is known.
        download_bytes: Bytes that these requests bring, where that is known.
        regridding: How the fields came to another grid, if they did.
        origins: Files that fields are from, by the store's name, for messages; empty where there are none.
    """

    fields: dict[str, xr.DataArray]
    names: tuple[str, ...]
    files: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    licence: str = ""
    synthetic: bool = False
    projection: Mapping[str, Any] = field(default_factory=dict)
    requests: int | None = None
    download_bytes: int | None = None
    regridding: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Announcement:
    """What a source will fetch before it can open anything, as far as the request alone tells.

    Attributes:
        states: Number of states that the store will have.
        value_bytes: Bytes of all their values, float32.
        requests: Number of requests that will be made.
        download_bytes: Bytes that these bring, as estimated.
    """

    states: int
    value_bytes: int
    requests: int
    download_bytes: int


def states_together(points: int) -> int:
    """Count the states of a variable that are read together: one, or as many small ones as ``LAYER_BYTES`` hold.

    It follows from the grid alone, not from the levels, so that the chunks of all variables end at the same times: a
    block of a build then computes none of them twice.

    Args:
        points: Grid points of a layer.
    """
    return max(1, LAYER_BYTES // (4 * max(1, points)))


class OpenSource(Protocol):
    """The one function of every source module; fields may be read until the context ends."""

    def __call__(self, paths: Sequence[SourceLocation], request: Request) -> AbstractContextManager[SourceData]:
        """Open the data at ``paths``: files, folders or addresses."""


@dataclass
class Pieces:
    """Fields as they are found: the same variable may come in pieces, file by file."""

    request: Request = Request()
    found: dict[str, list[tuple[str, xr.DataArray]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    projection: dict[str, Any] = field(default_factory=dict)
    of_forecasts: set[str] = field(default_factory=set)
    """Names of fields of which some file is not known to be of a reanalysis."""
    winds_by_default: str = ""
    """``earth`` where the form of the source says that winds point east and north."""
    axes: dict[str, list[AxisOfPiece]] = field(default_factory=dict)
    """Files of each component of a wind on a curvilinear grid, with the axis that it points along."""
    angles: dict[tuple[str, ...], AngleOfPoints] = field(default_factory=dict)
    """Angles of projections that files share."""

    def note(self, text: str) -> None:
        """Keep a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def takes(self, name: str, *, known: bool) -> bool:
        """Whether a field that was found is wanted; keeps its name, and a note on one that the table lacks."""
        self.names.add(name)
        if self.request.takes(name, known=known):
            return True
        if not known:
            self.note(f"{name} left out: not in the kit's table of variables; ask for it by name to have it")
        return False

    def add(self, dataset: xr.Dataset, where: str, whole: xr.Dataset | None = None) -> None:
        """Take all fields of one file, lead by lead where it holds forecasts of several.

        Args:
            dataset: Fields of the file.
            where: Name of the file, for messages.
            whole: The file with all that it holds, where the fields are a part of it: projections and angles.

        Raises:
            StoreError: The file's coordinates, units, windows or winds cannot be brought into the store's form.
            SettingsError: Winds are turned with a package that is not installed.
        """
        described = GridDescription.of(
            dataset if whole is None else whole, where, self.request.winds_are, self.winds_by_default, self.angles
        )
        dataset = dataset.assign(described.own_angles())
        named, told = product_of_attributes(dataset.attrs), self.request.product
        if named is not None and told is not None and named is not told:
            self.note(f"{where} taken for {told.name}, as --product or the registry says, though it names {named.name}")
        rules = WindowRules(dict(self.request.windows), told or named)
        for states in split_by_lead(dataset, where):
            for part in by_levels(states, where, self.request.levels_rules, self._is_asked_for, self.note):
                self._add_states(part, where, rules, described)

    def _is_asked_for(self, array: xr.DataArray) -> bool:
        """Whether a field on whatever levels is of a variable that is wanted."""
        for on_levels in (True, False):
            name, variable = canonical_name(array, on_levels=on_levels)
            if variable is not None and self.request.takes(name, known=True):
                return True
        return False

    def _add_states(self, dataset: xr.Dataset, where: str, rules: WindowRules, described: GridDescription) -> None:
        # Read before coordinates are put in order, which drops those of no dimension: a grid mapping may be one.
        projection = projection_of(described.dataset)
        given = part_of_crossing(dataset.rename(coordinate_names(dataset)), self.request.region, where)
        uncropped = canonical_coordinates(given, where, self.note, self.request.times)
        dataset = cropped(uncropped, self.request.region, where)
        grid = grid_dimensions(dataset)
        if grid == CURVILINEAR:
            self.projection = self.projection or projection
        wanted = partial(self.request.takes, known=True)
        encodings = {key: array.encoding for key, array in given.data_vars.items()}
        dataset = without_doubles(dataset, where, wanted, encodings, self.note)
        for array in dataset.data_vars.values():
            # Variables that lie on no grid, such as bounds of coordinates, are no fields.
            if not set(grid) <= set(array.dims) or array.attrs.get("standard_name") == X_ANGLE:
                continue
            name, variable = canonical_name(array)
            is_taken = self.takes(name, known=variable is not None)
            other = OTHER_COMPONENT.get(name)
            # A component along the grid's axes is turned together with the other one, whichever was asked for.
            turns_other = grid == CURVILINEAR and other is not None and self.request.takes(other, known=True)
            if not is_taken and not turns_other:
                continue
            if grid == GRID:
                check_repeated(given[array.name], repeated_columns(given, dataset["longitude"].values), where)
            if grid == CURVILINEAR:
                axis = described.axis(array, name, uncropped, self.note)
                if axis is None and not is_taken:
                    continue
                if axis is not None:
                    axis = replace(axis, degrees=cropped(axis.degrees, self.request.region, where))
                if other is not None:
                    self.axes.setdefault(name, []).append((where, axis))
            extra = [dim for dim in array.dims if dim not in ("time", "level", *grid)]
            if any(array.sizes[dim] != 1 for dim in extra):
                msg = f"{where}: {array.name} has the dimensions {array.dims}; select along {sorted(map(str, extra))}"
                raise StoreError(msg)
            field_alone = array.squeeze(extra, drop=True)
            # A dimension without values could not be matched with that of another file.
            for dim in field_alone.dims:
                if dim not in field_alone.coords and dim not in grid:
                    msg = f"{where}: {array.name} has the dimension {dim} without its values; add that coordinate"
                    raise StoreError(msg)
            windowed = with_window(field_alone, name, variable, rules, where, self.note)
            bare = windowed.drop_vars((BOUND_START, BOUND_END), errors="ignore")
            values = canonical_values(bare, name, variable, where, self.note)
            if rules.product is None or not rules.product.is_reanalysis:
                self.of_forecasts.add(name)
            elif WINDOW in values.coords and LEAD in values.coords and not values[LEAD].values.any():
                # The lead 0 of an accumulation is the reanalysis's, not that of a forecast that has just begun.
                values = values.drop_vars(LEAD)
            self.found.setdefault(name, []).append((where, values))

    def origins(self) -> dict[str, str]:
        """Describe the files that each field is from, by its name."""
        return {name: origin_of(pieces) for name, pieces in self.found.items()}

    def merged(self) -> dict[str, xr.DataArray]:
        """Join what was found to one field for each variable.

        Raises:
            StoreError: Pieces contradict each other, or do not join up.
        """
        for setting, named in (("--window", set(self.request.windows)), ("--leave_out", self.request.left_out)):
            without_effect = sorted(named - self.names)
            if without_effect:
                msg = (
                    f"{setting} {without_effect[0]} has no effect: the data hold no {without_effect[0]}, but "
                    f"{', '.join(sorted(self.names))}; leave it out"
                )
                raise StoreError(msg)
        rules = self.request.levels_rules
        for setting, is_given, without in (
            ("--at_level", rules.at is not None, "all fields state their levels, or lie at the surface"),
            ("--levels_are", rules.are_pressure, "files say themselves what all levels are"),
        ):
            if is_given and setting not in rules.used:
                msg = f"{setting} has no effect: {without}; leave it out"
                raise StoreError(msg)
        fields = merge(self.found, self.note, self.request.leads, self.request.step)
        if fields and self.request.winds_are is not None and not self.axes:
            msg = (
                f"--winds_are {self.request.winds_are} has no effect: no wind that is taken lies on a grid whose rows "
                "are no parallels; leave it out"
            )
            raise StoreError(msg)
        fields = turn_winds(fields, self.axes, self.note)
        # What served to turn the other component only.
        fields = {name: array for name, array in fields.items() if self.request.takes(name, known=True)}
        for name, array in fields.items():
            # A reanalysis's accumulations, which end at the valid time, are analyses, and so is what states no lead.
            is_analysis = "accumulation_hours" in array.attrs or LEAD not in array.coords
            if "time" in array.dims and is_analysis and name not in self.of_forecasts:
                fields[name] = array.assign_coords({LEAD: ("time", np.zeros(array.sizes["time"]))})
        return fields


def data_files(
    paths: Sequence[SourceLocation], kind: str, wanted: str, is_wanted: Callable[[Path], bool]
) -> list[Path]:
    """Find the files of a source.

    Args:
        paths: Files, which are taken as they are, and folders, which are searched to any depth.
        kind: Kind of the source, for the message.
        wanted: Description of its files, for the message.
        is_wanted: Whether a file in a folder is one of them.

    Raises:
        StoreError: A folder holds none; lists what its files end in.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            files.append(path)
            continue
        # In order of names, whatever the file system lists first.
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        taken = list(filter(is_wanted, inside))
        if not taken:
            kinds = sorted({p.suffix for p in inside})
            what = describe_format(path)
            found = f"this is {what}" if what else f"files there end in {kinds or 'nothing'}"
            msg = f"{path}: no {kind} files ({wanted}); {found}"
            raise StoreError(msg)
        files += taken
    return files


def files_left_out(paths: Sequence[SourceLocation], suffixes: Sequence[str]) -> tuple[str, ...]:
    """Note the files of another kind that lie in the folders of a source.

    Args:
        paths: Files and folders of the source.
        suffixes: Endings of the other kind.

    Returns:
        A note on them; none where there are none.
    """
    inside: list[str] = []
    for folder in map(Path, paths):
        if folder.is_dir():
            inside += sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not inside:
        return ()
    names = inside[0]
    if len(inside) > 1:
        names += f" and {len(inside) - 1} more"
    return (f"{names} left out: --source files reads NetCDF and GRIB that lie together",)


def file_facts(paths: Iterable[Path]) -> tuple[dict[str, Any], ...]:
    """Return name, SHA-256 and size of files, for the store's attributes."""
    return tuple({"name": path.name, "sha256": sha256_of_file(path), "size": path.stat().st_size} for path in paths)
