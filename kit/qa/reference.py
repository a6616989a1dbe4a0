"""Statistics to compare with: upstream's, those of a store, or a file of them in any of the forms in circulation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.store_format import STATISTICS_FILE
from kit.errors import StoreError
from kit.qa.expected import published

__all__ = ["UPSTREAM", "Reference", "read_reference", "upstream"]

UPSTREAM = "upstream"


@dataclass(frozen=True)
class Reference:
    """Mean and scale of channels.

    Attributes:
        name: where they are from.
        values: by key: ``2t``, ``t_500``.
        whole: they are of the globe and of years, of which other data are a part.
    """

    name: str
    values: Mapping[str, tuple[float, float]]
    whole: bool = False


def upstream() -> Reference:
    """What upstream publishes."""
    return Reference(UPSTREAM, published(), whole=True)


def read_reference(path: Path) -> Reference:
    """Read the statistics of a store's folder, or a JSON file.

    A file has, for each channel, ``{"mean": ..., "std": ...}`` (vibe-kit's form) or ``[mean, std]``, on its own or
    under ``variables`` (the form of a store's ``stats.json`` and of ``kit data stats --json``); or ``locations`` and
    ``scales``, a mapping each (upstream's names).

    Raises:
        StoreError: there is no such file, or it is none of these.
    """
    file = path / STATISTICS_FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path}: no statistics there; give upstream, a store's folder, the name of a data set, or a JSON file"
        raise StoreError(msg) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        msg = f"{file}: not a file of statistics: {error}. {_FORMS}"
        raise StoreError(msg) from error
    values = _values(content)
    if not values:
        msg = f"{file}: no statistics found in it. {_FORMS}"
        raise StoreError(msg)
    return Reference(str(path), values)


_FORMS = 'Expected for each channel {"mean": ..., "std": ...} or [mean, std], such as {"2t": [278.5, 21.2]}'


def _values(content: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(content, Mapping):
        return {}
    if isinstance(content.get("variables"), Mapping):
        content = content["variables"]
    locations, scales = content.get("locations"), content.get("scales")
    if isinstance(locations, Mapping) and isinstance(scales, Mapping):
        content = {key: [locations[key], scales[key]] for key in locations if key in scales}
    pairs = {str(key): _pair(value) for key, value in content.items()}
    return {key: pair for key, pair in pairs.items() if pair is not None}


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, Mapping):
        value = [value.get("mean"), value.get("std")]
    if not (isinstance(value, list) and len(value) == 2):
        return None
    mean, scale = value
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in value):
        return None
    try:
        return float(mean), float(scale)
    except OverflowError:
        # JSON's integers have no end.
        return None
