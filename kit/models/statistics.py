"""Normalisation statistics that belong to one checkpoint.

Upstream keeps locations and scales in process-global tables (``aurora/normalisation.py``), and its
``surf_stats`` argument reaches surface variables only. ``Statistics.installed`` lends one checkpoint's values
to those tables for the length of a ``with`` block, so that two checkpoints work in one process.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from aurora import normalisation

from kit.io.errors import SettingsError

# Upstream's tables as the package ships them, copied before anything is installed over them.
_PUBLISHED = {
    key: (float(location), float(normalisation.scales[key]))
    for key, location in normalisation.locations.items()
    if key in normalisation.scales
}
_INSTALLING = threading.RLock()


def level_key(name: str, level: float) -> str:
    """Build the key of an atmospheric variable at a level in hPa, as upstream writes it: ``u_500``."""
    return f"{name}_{normalisation.level_to_str(level)}"


@dataclass(frozen=True)
class Statistics:
    """Location and scale of every channel, under upstream's keys (``2t``, ``u_500``, static ``z``)."""

    values: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        # A constant field has a scale of zero, one without finite values no scale at all.
        for key, (location, scale) in self.values.items():
            if not (scale > 0 and abs(location) < float("inf") and scale < float("inf")):
                msg = (
                    f"statistics of {key}: expected a finite location and a scale above zero, got location "
                    f"{location!r} and scale {scale!r}; leave the variable out, or mend the store's stats.json"
                )
                raise SettingsError(msg)

    @staticmethod
    def published(key: str) -> tuple[float, float] | None:
        """Look up upstream's location and scale of a channel; None where it publishes none."""
        return _PUBLISHED.get(key)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Lend these values to upstream's tables, and restore what was there at the end."""
        tables = (normalisation.locations, normalisation.scales)
        # Other threads' forward passes wait here: the tables are the process's.
        with _INSTALLING:
            before = tuple(map(dict, tables))
            for key, (location, scale) in self.values.items():
                normalisation.locations[key], normalisation.scales[key] = location, scale
            try:
                yield
            finally:
                for table, old in zip(tables, before, strict=True):
                    table.clear()
                    table.update(old)
