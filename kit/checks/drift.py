"""How far statistics are from others: of what upstream publishes, of another store, of a file of statistics.

Two numbers tell of each channel: by how many of the reference's scales the mean is shifted, and the ratio of the
scales. They are the mean and the standard deviation that values have which are normalised by the reference.
"""

import importlib.resources
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from kit.checks.scan import LONG_TAILED
from kit.data import variables
from kit.data.store.format import STATISTICS_FILE
from kit.io.documents import DocumentError, parse_json, read_json
from kit.io.errors import StoreError

Verdict = Literal["ok", "warning", "error"]

FAR = (4.0, 10.0)
"""Shifts of the mean, in the reference's scales, that are worth a look and that are wrong.

The extremes of a climate are about 4 of the globe's scales from its mean (surface pressure on the highest plateau,
temperature on the ice sheets), so that no region and no season of the same quantity is 10 away."""
WIDE = (2.5, 5.0)
"""Ratios of the scales that are worth a look and that are wrong: a part is as wide as the whole, or less, unless the
whole has long tails."""
_FLAT = 1e-3
"""Ratio of the scales below which even a small region in one season is too flat: a constant, or another unit."""


@dataclass(frozen=True)
class Drift:
    """How one channel's statistics differ from a reference's."""

    key: str
    mean: float
    scale: float
    reference_mean: float
    reference_scale: float
    shift: float
    """Of the mean, in the reference's scales."""
    ratio: float
    """Of the scale to the reference's."""
    verdict: Verdict
    effect: str = ""
    """What training on this normalisation would come to; empty where the verdict is ok."""
    remedy: str = ""

    def described(self, whose: str) -> str:
        """Describe both statistics in words; ``whose`` names the reference."""
        return (
            f"mean {self.mean:.6g} and scale {self.scale:.6g}, where {whose} has {self.reference_mean:.6g} and "
            f"{self.reference_scale:.6g}: {abs(self.shift):.1f} scales away, {self.ratio:.2f} times as wide"
        )


def skewed(key: str) -> bool:
    """Whether a channel is mostly small and sometimes not, so that a region may be many times as wide as the globe."""
    # Without the level, whose point is an underscore in keys: ``go3_0_5``.
    name = re.sub(r"(_\d+)+$", "", key)
    known = variables.lookup(key, "surface") or variables.lookup(name, "atmospheric")
    return (known is not None and known.non_negative) or name in LONG_TAILED | {"q"}


def compared(
    key: str, mean: float, scale: float, reference: tuple[float, float] | None, *, whole: bool = True
) -> Drift | None:
    """Compare a channel's mean and scale with a reference's; None where either is not there, or not a number.

    Args:
        key: Key of the channel: ``2t``, ``t_500``.
        mean: Mean in the store's units.
        scale: Standard deviation in the store's units.
        reference: Mean and scale to compare with.
        whole: Whether the reference is of the globe and of years, of which any other data are a part; if not, a scale
            that is many times smaller than the reference's is worth a look as well.
    """
    if reference is None or not all(map(math.isfinite, (mean, scale, *reference))) or reference[1] <= 0:
        return None
    # Mean and standard deviation of the values once they are normalised by the reference.
    shift, ratio = (mean - reference[0]) / reference[1], scale / reference[1]
    verdict = judged(shift, ratio, key, whole=whole)
    found = Drift(key, mean, scale, *reference, shift, ratio, verdict)
    return found if verdict == "ok" else replace(found, effect=_effect(found), remedy=_remedy(found))


def drift(key: str, mean: float, scale: float) -> Drift | None:
    """Compare the statistics of a channel with those that upstream publishes; None where it publishes none."""
    return compared(key, mean, scale, published().get(key))


def judged(shift: float, ratio: float, key: str = "", *, whole: bool = True) -> Verdict:
    """Say how bad a shift and a ratio are; see ``compared``."""
    if ratio > WIDE[1] or abs(shift) > FAR[1]:
        # A wet or a polluted region is many times as wide as the globe, and no fault.
        return "warning" if skewed(key) else "error"
    narrowest = _FLAT if whole else 1 / WIDE[1]
    # Several times as wide is usual for what is mostly small: a season has more of it than others.
    widest = WIDE[1] if skewed(key) else WIDE[0]
    if ratio > widest or abs(shift) > FAR[0] or 0 < ratio < narrowest:
        return "warning"
    return "ok"


def _effect(found: Drift) -> str:
    """Describe what normalisation by these statistics does to weights that were trained with the reference's."""
    parts = []
    if found.ratio > WIDE[0]:
        parts.append(
            f"normalised by this scale, {found.key} varies {found.ratio:.1f} times less than by the reference's: the "
            f"weights read fields that are nearly flat, and an error in it counts {found.ratio:.1f} times less in the "
            "loss, so that it is hardly trained"
        )
    elif found.ratio < 1 / WIDE[0]:
        parts.append(
            f"normalised by the reference's scale, {found.key} varies {found.ratio:.2g} times as much as the values "
            "that the reference was made of"
        )
    if abs(found.shift) > FAR[0]:
        parts.append(
            f"normalised by the reference's, its values lie {abs(found.shift):.1f} scales from where the weights have "
            "seen any"
        )
    return "; ".join(parts)


def _remedy(found: Drift) -> str:
    if found.ratio > WIDE[0]:
        zeros = ""
        # A share f of zeros among values with mean m and scale s has the mean (1 - f) m and, about it, the variance
        # (1 - f) s^2 + f (1 - f) m^2, which is dominated by its last term where m is many s.
        if found.mean and abs(found.reference_mean) >= 10 * found.reference_scale:
            odds = (found.scale**2 - found.reference_scale**2) / found.mean**2
            share = odds / (1 + odds)
            if share < 0.5:
                zeros = f" ({share:.1%} of zeros among the values would make such a scale)"
        return f"look for fill values, zeros or another unit in what it was made of{zeros}, and do not normalise by it"
    if abs(found.shift) > FAR[0]:
        return "check unit, region and period of the data that the statistics were made of"
    return "check that both are of the same region and period; if so, do not normalise by the reference's"


# Statistics to compare with: upstream's, those of a store, or a file of them in any of the forms in circulation.

UPSTREAM = "upstream"


@cache
def published() -> dict[str, tuple[float, float]]:
    """Read location and scale of each channel that upstream publishes (``aurora/normalisation.py``, MIT licence).

    They are kept here as numbers, because importing them from upstream imports PyTorch.
    """
    text = importlib.resources.files("kit.resources").joinpath("upstream-statistics.json").read_text(encoding="utf-8")
    return {key: (location, scale) for key, (location, scale) in parse_json(text).items()}


@dataclass(frozen=True)
class ReferenceStatistics:
    """Mean and scale of channels.

    Attributes:
        name: Source of the statistics, for messages.
        values: Mean and scale by key: ``2t``, ``t_500``.
        whole: Whether they are of the globe and of years, of which other data are a part.
    """

    name: str
    values: Mapping[str, tuple[float, float]]
    whole: bool = False


def upstream() -> ReferenceStatistics:
    """Return the statistics that upstream publishes."""
    return ReferenceStatistics(UPSTREAM, published(), whole=True)


def read_reference(path: Path) -> ReferenceStatistics:
    """Read the statistics of a store's folder, or a JSON file.

    A file has, for each channel, ``{"mean": ..., "std": ...}`` (vibe-kit's form) or ``[mean, std]``, on its own or
    under ``variables`` (the form of a store's ``stats.json`` and of ``kit data stats --json``); or ``locations`` and
    ``scales``, a mapping each (upstream's names).

    Raises:
        StoreError: there is no such file, or it is none of these.
    """
    file = path / STATISTICS_FILE if path.is_dir() else path
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        msg = f"{path}: no statistics there; give upstream, a store's folder, the name of a data set, or a JSON file"
        raise StoreError(msg) from error
    except DocumentError as error:
        msg = f"{file}: not a file of statistics: {error}. {_FORMS}"
        raise StoreError(msg) from error
    values = _values(content)
    if not values:
        msg = f"{file}: no statistics found in it. {_FORMS}"
        raise StoreError(msg)
    return ReferenceStatistics(str(path), values)


_FORMS = 'Expected for each channel {"mean": ..., "std": ...} or [mean, std], such as {"2t": [278.5, 21.2]}'


def _values(content: Any) -> dict[str, tuple[float, float]]:
    """Find mean and scale of each channel in a document; what has another form is left out."""
    if not isinstance(content, Mapping):
        return {}
    # As in ``stats.json``, and in what ``kit data stats --json`` prints.
    if isinstance(content.get("variables"), Mapping):
        content = content["variables"]
    locations, scales = content.get("locations"), content.get("scales")
    # As upstream names them (``aurora/normalisation.py``).
    if isinstance(locations, Mapping) and isinstance(scales, Mapping):
        content = {key: [locations[key], scales[key]] for key in locations if key in scales}
    values = {}
    for key, one in content.items():
        pair = [one.get("mean"), one.get("std")] if isinstance(one, Mapping) else one
        # By type: a bool is an instance of int.
        if not isinstance(pair, list) or len(pair) != 2 or not {type(pair[0]), type(pair[1])} <= {int, float}:
            continue
        # JSON's integers have no end, and floats have.
        with suppress(OverflowError):
            values[str(key)] = float(pair[0]), float(pair[1])
    return values
