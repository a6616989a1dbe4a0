"""The description of a denoising network: everything needed to draw with it on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kit.data.dataset import Selection
from kit.data.grid import is_closed
from kit.data.store.reader import Store
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.tiles import PLACES, Tiling
from kit.io.errors import CheckpointError, SettingsError
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.transforms import default_transform
from kit.models.variants import drop_names, keep_names
from kit.models.weights.description import name_faults

HOUR_CHANNELS = 4
"""Sine and cosine of the time of day and of the time of the year."""


@dataclass(frozen=True)
class DiffusionSpec:
    """A denoising network with its variables, levels and statistics.

    Attributes:
        settings: What is drawn, given what, and the network, every default filled in.
        surface: Surface variables that are drawn, by a store's names.
        atmospheric: Atmospheric variables that are drawn.
        levels: Pressure levels, hPa.
        statics: Static variables that are given; empty where they are not.
        history: States that are given.
        circular: Whether columns go around the globe.
        statistics: Location and scale of every channel, static ones with their prefix, after its transform.
        transforms: Of physical values, by variable, as ``kit.models.transforms`` writes them.
        grid: Rows and columns that it was trained on; it draws on others, too.
        timestep_hours: Hours from the last state that is given to the one that is drawn.
    """

    settings: DiffusionSettings
    surface: tuple[str, ...]
    atmospheric: tuple[str, ...]
    levels: tuple[int | float, ...]
    statics: tuple[str, ...]
    history: int
    circular: bool
    statistics: Mapping[str, tuple[float, float]]
    transforms: Mapping[str, str] = field(default_factory=dict)
    timestep_hours: float = 6.0
    grid: tuple[int, int] = (0, 0)

    @property
    def channels(self) -> tuple[str, ...]:
        """Keys of the channels that are drawn: those of the surface, then levels of each variable."""
        levels = [level_key(name, level) for name in self.atmospheric for level in self.levels]
        return (*self.surface, *levels)

    @property
    def conditions(self) -> int:
        """Number of channels that are given, those of a tile's place among them."""
        settings, count = self.settings, len(self.channels)
        if settings.of == "state":
            return count + self.places
        sizes = {
            "state": self.history * count,
            "forecast": count,
            "hour": HOUR_CHANNELS,
            "statics": len(self.statics),
        }
        return sum(sizes[name] for name in settings.given or ()) + self.places

    @property
    def places(self) -> int:
        """Number of channels that say where in the grid a tile lies, the last of those that are given."""
        return 0 if self.tiling is None else PLACES

    @property
    def tiling(self) -> Tiling | None:
        """Tiles that the network reads; None where it reads the whole grid."""
        side = self.settings.crop
        return None if side is None else Tiling(side, self.settings.overlap or 0, self.circular)

    @property
    def wraps(self) -> bool:
        """Whether columns go around the globe within what the network reads."""
        return self.circular and self.tiling is None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, part of ``kit.json``."""
        return {**asdict(self), "settings": self.settings.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def from_dict(cls, described: Any, where: object) -> DiffusionSpec:
        """Read what ``as_dict`` returned.

        Raises:
            CheckpointError: it is no such description.
        """
        try:
            read = _Described.model_validate(described)
        except ValidationError as error:
            msg = f"{where}: no description of a denoising network that the kit wrote: {name_faults(error)}"
            raise CheckpointError(msg) from error
        return cls(**{name: getattr(read, name) for name in _Described.model_fields})


_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Names = Annotated[tuple[_Name, ...], Field(max_length=1000)]


class _Described(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    settings: DiffusionSettings
    surface: _Names
    atmospheric: _Names
    levels: Annotated[tuple[float, ...], Field(max_length=1000)]
    statics: _Names
    history: Annotated[int, Field(ge=1, le=64)]
    circular: bool
    statistics: dict[str, tuple[float, float]]
    transforms: dict[str, str]
    timestep_hours: Annotated[float, Field(gt=0, le=8784)]
    grid: tuple[int, int]


def describe_network(
    settings: DiffusionSettings, model: ModelSpec, selection: Selection, store: Store
) -> DiffusionSpec:
    """Describe the network for a model's variables, as they are read from a store.

    Args:
        settings: As they were given.
        model: The operator, or a description of the states alone.
        selection: What is read.
        store: Where it is read.

    Raises:
        SettingsError: the model's variables cannot be diffused, or the grid is smaller than a tile.
    """
    variant = model.upstream
    surface = keep_names(selection.inputs, selection.targets)
    if variant.is_wave:
        msg = (
            "task.name denoise: waves have directions, and no values over land, which cannot be drawn; take a variant "
            "of the atmosphere"
        )
        raise SettingsError(msg)
    longitude = selection.grid.longitude(store)
    resolved = settings.resolved(len(selection.grid.latitude(store)))
    encoded = [name for name in surface if variant.channel_name(name) != name]
    if encoded and settings.of != "state":
        msg = (
            f"diffusion.of {settings.of}: variant {model.variant!r} predicts {', '.join(encoded)} in an encoding of "
            "its own; leave them out with data.variables, or choose --diffusion.of state"
        )
        raise SettingsError(msg)
    statics: tuple[str, ...] = ()
    if settings.of != "state" and "statics" in (resolved.given or ()):
        statics = selection.static
    values = model.statistics.values
    statistics = {name: values[name] for name in drop_names(surface, encoded)}
    keys = (level_key(name, level) for name in selection.atmospheric for level in selection.levels)
    statistics |= {key: values[key] for key in keys}
    statistics |= {f"static_{name}": values[name] for name in statics}
    defaults = {name: default_transform(name) for name in surface}
    transforms = {name: str(found) for name, found in defaults.items() if found is not None}
    own = keep_names(model.transforms, (*surface, *selection.atmospheric))
    if settings.of != "state":
        # Statistics are of values as the model transforms them.
        transforms = {}
    transforms |= {name: model.transforms[name] for name in own}
    described = DiffusionSpec(
        settings=resolved,
        surface=surface,
        atmospheric=selection.atmospheric,
        levels=selection.levels,
        statics=statics,
        history=selection.history,
        circular=longitude.ndim == 1 and is_closed(longitude),
        statistics=statistics,
        transforms=transforms,
        timestep_hours=model.lead_hours,
        grid=selection.grid.shape,
    )
    if described.tiling is not None:
        described.tiling.check(tuple(-(-side // resolved.coarsen) for side in described.grid))
    return described
