"""Sums that scores of rain are made of: contingency tables, fractions in neighbourhoods, and SEEPS.

Like those of ``kit.verification.sums`` they are of one start date, lead, forecast, variable and region each, weighted
by area, and add up over start dates.

Dimensions: B start date, R region, E event (a sum by name), H latitude, W longitude.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from kit.data.climatology.rain import RainClimate
from kit.metrics.contingency import MM_PER_M, OUTCOMES, THRESHOLDS_MM, events, outcomes
from kit.models.transforms import PRECIPITATION
from kit.verification.regions import Regions
from kit.verification.sums import WEIGHT, States

NEIGHBOURHOODS = (3, 7, 15)
"""Widths of the squares that fractions are taken over, in grid points."""
FSS_ERROR, FSS_REFERENCE = "fss_error", "fss_reference"
SEEPS, SEEPS_WEIGHT = "seeps", "seeps_weight"
DRY_FRACTIONS = (0.1, 0.85)
"""Where windows are dry less or more often, SEEPS is not taken (Rodwell et al. 2010, section 3)."""

EARTH_RADIUS_KM = 6371.0


def millimetres(threshold: float) -> str:
    """Name a threshold as scores do: ``0.1mm``."""
    return f"{threshold:g}mm"


def square(width: int) -> str:
    """Name a neighbourhood as scores do: ``3x3``."""
    return f"{width}x{width}"


def neighbourhood_km(width: int, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]) -> float:
    """Measure a neighbourhood from south to north, in km; on a curvilinear grid along its columns.

    Args:
        width: Grid points.
        latitude: Degrees north, [H] or [H, W].
        longitude: Degrees east, [W] or [H, W].
    """
    if len(latitude) < 2:
        return math.nan
    north = np.radians(latitude)
    south_to_north = np.diff(north, axis=0)
    across = np.zeros_like(south_to_north)
    if latitude.ndim == 2:
        across = np.radians((np.diff(longitude, axis=0) + 180) % 360 - 180) * np.cos(north[1:])
    return float(width * EARTH_RADIUS_KM * np.median(np.hypot(south_to_north, across)))


class EventSums:
    """Sums of rain over regions, start date by start date; a missing value makes all of a start date's NaN.

    Attributes:
        neighbourhoods: Widths of the squares that fractions are taken over, in grid points.
    """

    def __init__(
        self,
        regions: Regions,
        *,
        closed: bool,
        thresholds_mm: Sequence[float] = THRESHOLDS_MM,
        neighbourhoods: Sequence[int] = NEIGHBOURHOODS,
    ) -> None:
        """Prepare the weights.

        Args:
            regions: Regions on the grid that is scored.
            closed: Whether columns go around the whole circle, so that neighbourhoods reach over its seam.
            thresholds_mm: Amounts in an accumulation window from which on rain counts.
            neighbourhoods: Widths in grid points, odd; those wider than the grid are left out.
        """
        self._closed = closed
        self._thresholds = thresholds_mm
        self._weights = torch.from_numpy(regions.weights)
        rows, columns = self._weights.shape[-2:]
        self.neighbourhoods = [width for width in neighbourhoods if width <= min(rows, columns)]

    @property
    def names(self) -> list[str]:
        """Names of the sums, in their order along E."""
        found = [WEIGHT]
        for threshold in map(millimetres, self._thresholds):
            found += [f"{outcome}_{threshold}" for outcome in OUTCOMES]
            for width in map(square, self.neighbourhoods):
                found += [f"{FSS_ERROR}_{threshold}_{width}", f"{FSS_REFERENCE}_{threshold}_{width}"]
        return [*found, SEEPS, SEEPS_WEIGHT]

    def of(
        self, forecast: States, target: States, climate: Mapping[str, RainClimate] | None = None
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Sum up forecasts of one lead.

        Args:
            forecast: Values that were forecast, rain in metres, [B, H, W] at the surface.
            target: Values that came; only their variables are scored, and of them only ``PRECIPITATION``.
            climate: Climate of some variables; SEEPS of the others is NaN.

        Returns:
            Sums by variable, [B, R, E].
        """
        found = {}
        for name in PRECIPITATION:
            if name in target:
                known = None if climate is None else climate.get(name)
                observed = target[name].to(forecast[name].device)
                found[name] = self._of_one(forecast[name].detach(), observed, known).cpu().numpy()
        return found

    def _of_one(self, forecast: Tensor, observed: Tensor, climate: RainClimate | None) -> Tensor:
        weights = self._weights.to(forecast.device)
        summed = [_over(weights, torch.ones_like(forecast))]
        for threshold in self._thresholds:
            pair = events(forecast, threshold), events(observed, threshold)
            summed += [_over(weights, outcome) for outcome in outcomes(*pair)]
            for width in self.neighbourhoods:
                summed += self._fractions(weights, *pair, width)
        if climate is None:
            summed += [torch.full_like(summed[0], math.nan)] * 2
        else:
            penalty, scored = seeps(forecast, observed, climate)
            summed += [_over(weights, penalty), _over(weights, scored)]
        # A missing value fails every comparison: it would pass for no rain.
        missing = forecast.double() + observed.double()
        missing = (missing - missing).sum(dim=(-2, -1))
        return torch.stack(summed, dim=-1) + missing[:, None, None]

    def _fractions(self, weights: Tensor, forecast: Tensor, observed: Tensor, width: int) -> list[Tensor]:
        """Sum up squared differences of fractions, and their squares: the two parts of the fractions skill score.

        Roberts and Lean 2008, "Scale-selective verification of rainfall accumulations from high-resolution forecasts of
        convective events", equations 5 to 7. Squares that reach beyond the grid are left out, as in the library
        ``scores``; each counts by the area of its middle.
        """
        reach = width // 2
        inner = weights[:, reach : weights.shape[1] - reach]
        if not self._closed:
            inner = inner[:, :, reach : weights.shape[2] - reach]
        ours, theirs = (self._fraction(event, width) for event in (forecast, observed))
        return [_over(inner, (ours - theirs).square()), _over(inner, ours.square() + theirs.square())]

    def _fraction(self, event: Tensor, width: int) -> Tensor:
        reach = width // 2
        if self._closed:
            event = torch.cat([event[..., event.shape[-1] - reach :], event, event[..., :reach]], dim=-1)
        # Counts are exact in single precision. Rows first, then columns: 2 x width additions a point.
        counts = avg_pool2d(event.float(), (width, 1), stride=1, divisor_override=1)
        counts = avg_pool2d(counts, (1, width), stride=1, divisor_override=1)
        return counts.double() / width**2


def seeps(forecast: Tensor, observed: Tensor, climate: RainClimate) -> tuple[Tensor, Tensor]:
    """Compute the stable equitable error in probability space of each point: 0 at best, 1 of no skill.

    Rodwell et al. 2010, "A new equitable score suitable for verifying precipitation in numerical weather prediction",
    equation 15, with a third of the windows with rain heavy, as WeatherBench 2 has it (``weatherbench2/metrics.py``,
    ``SEEPS``).

    Args:
        forecast: Rain in metres, [B, H, W].
        observed: Rain in metres, the same shape.
        climate: Share of dry windows and the least heavy rain.

    Returns:
        Penalties in float64, 0 where the climate is too dry or too wet, and whether a point is scored, [B, H, W].
    """
    dry, heavy = climate.dry_fraction.to(forecast.device).double(), climate.heavy.to(forecast)
    least, most = DRY_FRACTIONS
    scored = ((dry >= least) & (dry <= most) & heavy.isfinite()).expand_as(forecast)
    dry = dry.where((dry >= least) & (dry <= most), 0.5)
    ours, theirs = (_category(amount, heavy, climate.dry_mm) for amount in (forecast, observed))
    over, under, far = 1 / dry, 1 / (1 - dry), 3 / (2 + dry)
    # By the categories of forecast and observation, from dry (0) to heavy (2).
    matrix = {(0, 1): under, (0, 2): 4 * under, (1, 0): over, (1, 2): 3 * under, (2, 0): over + far, (2, 1): far}
    penalty = torch.zeros_like(forecast, dtype=torch.float64)
    for (one, other), price in matrix.items():
        penalty = penalty + ((ours == one) & (theirs == other)) * price / 2
    return penalty.where(scored, 0.0), scored


def _category(amount: Tensor, heavy: Tensor, dry_mm: float) -> Tensor:
    """Sort amounts into dry (0), light (1) and heavy (2)."""
    wet = amount > dry_mm / MM_PER_M
    return wet.int() + (wet & (amount > heavy)).int()


def _over(weights: Tensor, field: Tensor) -> Tensor:
    """Sum a field, [B, H, W], over regions, [B, R]."""
    return field.flatten(1).double() @ weights.flatten(1).T
