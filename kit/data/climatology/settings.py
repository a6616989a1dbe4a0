"""Settings of ``kit data climatology``: what is averaged, over which times."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kit.data.settings import TimeRange


class ClimatologySettings(BaseModel):
    """What a climatology is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str
    """A store's folder, or the name of a registry entry that the kit builds into one."""
    out: Path
    """Folder of the new climatology, a Zarr; must not exist."""
    period: TimeRange | None = None
    """Times to average, ``START/END`` inclusive, such as ``1990/2019``; by default the store's training split, so that
    the times that evaluation scores are none of them."""
    window_days: int = Field(default=61, ge=1, le=365)
    """Days around each day of the year that are averaged, with weights that fall linearly to zero at both ends; an odd
    number, 1 for the day alone."""
    variables: tuple[str, ...] | None = None
    """Surface and atmospheric variables by Aurora's short names, and speeds of the wind (``10ws``, ``100ws``, ``ws``);
    by default all that the store holds, and the speeds of its winds."""

    seeps: bool = True
    """Of precipitation (``tp``) find out too how often it is dry and from which amount on it is heavy, for the score
    SEEPS; it takes longer than the means. ``--no-seeps`` leaves that out."""

    @field_validator("window_days")
    @classmethod
    def _check_window(cls, value: int) -> int:
        if value % 2 == 0:
            msg = f"expected an odd number of days, as many before a day as after it, got {value}"
            raise ValueError(msg)
        return value
