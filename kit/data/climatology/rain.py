"""How often it is dry, and from which amount on rain is heavy: what the score SEEPS knows of the climate.

Names and meaning are those of WeatherBench 2 (google-research/weatherbench2, ``scripts/compute_climatology.py`` and
``weatherbench2/utils.py``). Dimensions: B time, H latitude, W longitude.
"""

from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr
from torch import Tensor

from kit.data.climatology.matching import Match
from kit.data.units import conversion

DRY_FRACTION, HEAVY = "_seeps_dry_fraction", "_seeps_threshold"
"""What follows the name of a variable, such as ``total_precipitation_6hr``."""


def dry_mm(window: float | None) -> float:
    """Return the amount in mm below which a window is dry: of whole days 0.25, of fewer hours 0.1.

    google-research/weatherbench2, ``scripts/compute_climatology.py``, which has windows of 6 and 24 hours.

    Args:
        window: Hours of the window; None where nobody says.
    """
    return 0.25 if window is None or window >= 24 else 0.1


class RainClimate(NamedTuple):
    """What SEEPS knows of the climate.

    Attributes:
        dry_fraction: Share of windows that are dry, [H, W] or [B, H, W].
        heavy: Amount in metres that a third of the windows with rain exceed, [H, W] or [B, H, W].
        dry_mm: Amount in mm below which a window is dry.
    """

    dry_fraction: Tensor
    heavy: Tensor
    dry_mm: float = 0.25


def match_rain(dataset: xr.Dataset, matches: Mapping[str, Match]) -> dict[str, Match]:
    """Find both arrays beside the mean of each variable that has them; their names begin with the store's."""
    found = {}
    for name, match in matches.items():
        dry, heavy = (dataset.get(match.key + ending) for ending in (DRY_FRACTION, HEAVY))
        if dry is None or heavy is None or not {"hour", "dayofyear"} <= set(dry.dims) & set(heavy.dims):
            continue
        # WeatherBench 2 states no unit, and has metres.
        scale, offset = conversion(name, str(heavy.attrs.get("units") or "m"), "m", of_water=True) or (1.0, 0.0)
        found[name + DRY_FRACTION] = Match(str(dry.name), None, 1.0, 0.0)
        found[name + HEAVY] = Match(str(heavy.name), None, scale, offset)
    return found
