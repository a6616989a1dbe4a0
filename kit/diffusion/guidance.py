"""Guidance that gives perturbations the spread that is asked for.

Guidance below 1 makes a sample depart from its condition, by how much depends on schedule, sampler, number of steps and
network: it is no amplitude. So it is searched for, and kept with what it was searched on.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kit.io.errors import SettingsError

TOLERANCE = 0.02
"""Share by which a calibrated spread may miss."""

_FIRST = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_HALVINGS = 20


@dataclass(frozen=True)
class CalibratedGuidance:
    """Guidance that gives a spread.

    Attributes:
        guidance: Guidance, from 0 to 1.
        spread: Spread that it gives, in the unit of what was measured.
        curve: Spread by guidance, of all that was measured, by growing guidance.
    """

    guidance: float
    spread: float
    curve: tuple[tuple[float, float], ...]


def calibrate(spread_of: Callable[[float], float], due: float) -> CalibratedGuidance:
    """Search for the guidance whose perturbations have a spread, by halving.

    Args:
        spread_of: Measures the spread that a guidance gives; falls as guidance grows to 1.
        due: Spread that is due, above 0.

    Raises:
        SettingsError: no guidance from 0 to 1 gives it.
    """
    curve = {guidance: spread_of(guidance) for guidance in _FIRST}
    least, most = curve[_FIRST[-1]], curve[_FIRST[0]]
    if not least <= due <= most:
        msg = (
            f"spread: expected one from {least:.4g} to {most:.4g}, which guidance 1 and 0 give, got {due:.4g}; choose "
            "one between them, or other steps or another sampler"
        )
        raise SettingsError(msg)
    nearest = min(curve, key=lambda guidance: abs(curve[guidance] - due))
    for _ in range(_MOST_HALVINGS):
        if abs(curve[nearest] - due) <= TOLERANCE * due:
            break
        low = max(guidance for guidance, spread in curve.items() if spread >= due)
        high = min(guidance for guidance, spread in curve.items() if spread <= due)
        nearest = (low + high) / 2
        curve[nearest] = spread_of(nearest)
    return CalibratedGuidance(nearest, curve[nearest], tuple(sorted(curve.items())))
