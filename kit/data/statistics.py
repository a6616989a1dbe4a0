"""Statistics of a store, from one pass over its training states: exact moments, sampled quantiles.

Mean, standard deviation and skewness are merged state by state in float64 (see ``kit.data.moments``), so they are
those of all values at once and memory is bounded by one field. Quantiles come from at most ``SAMPLE_SIZE`` values per
key, drawn with a seed; they are exact while all values fit. What a field adds depends on the key and on its moment
alone, not on what was added before.

Where points are weighted by area, the moments are, and values for quantiles are drawn with a probability in proportion
to their weight. Shares of zeros and of missing values are counts in any case.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from kit.data.grid import area_weights
from kit.data.moments import FieldMoments, field_moments
from kit.data.settings import TimeRange
from kit.io.errors import StoreError

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SAMPLE_SIZE = 65536
"""Values per key that quantiles are taken from."""

Weighting = Literal["none", "area"]
"""How points are weighted: all alike, or by the area of their cells."""


def channel_key(name: str, level: float) -> str:
    """Name one level of an atmospheric variable, as upstream does: ``t_500``, ``t_0_5``."""
    return f"{name}_{round(float(level), 3):g}".replace(".", "_")


def share_of_sample(states: int) -> int:
    """Return the number of values that each of so many fields gives to the sample of a key."""
    return max(1, SAMPLE_SIZE // max(1, states))


def point_weights(
    weighting: Weighting, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Compute weights of the points of a grid, of mean 1; None where all weigh the same.

    Args:
        weighting: Kind of weights.
        latitude: Degrees north, [H]; [H, W] on a curvilinear grid.
        longitude: Degrees east, [W]; [H, W] on a curvilinear grid.

    Returns:
        Weights of rows, [H]; of points, [H, W], on a curvilinear grid.
    """
    if weighting == "none":
        return None
    return area_weights(latitude, longitude)


def _from_json(value: Any) -> Any:
    return math.nan if value is None else value


def _to_json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# JSON has no NaN: a statistic of no values at all is null in the file and NaN in Python.
Number = Annotated[float, BeforeValidator(_from_json), PlainSerializer(_to_json, return_type=float | None)]


class VariableStatistics(BaseModel):
    """One key's statistics over all training states, in the store's units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: Number
    """Mean of the finite values."""
    std: Number
    """Population standard deviation of the finite values."""
    min: Number
    max: Number
    quantiles: dict[str, Number]
    """Quantiles by their order, such as ``"0.5"``, of a sample of the finite values."""
    zero_fraction: float
    """Share of all values that are exactly zero."""
    nan_fraction: float
    """Share of all values that are missing."""
    inf_fraction: float = 0.0
    """Share of all values that are infinite; these enter no other number."""
    skewness: Number = math.nan
    """Third standardised moment of the finite values: 0 for what is symmetric, above 0 for a long tail of high values;
    0 where all are equal, unknown in stores of earlier versions."""
    transform: Literal["identity"] = "identity"
    """Transform that is applied before the mean and the standard deviation are used."""


class StoreStatistics(BaseModel):
    """Content of ``stats.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    train: TimeRange
    """Period of the states that the statistics are made of."""
    states: int
    """Number of states in this period."""
    weights: Weighting = "none"
    """How points were weighted in means, standard deviations, skewness and quantiles."""
    variables: dict[str, VariableStatistics]
    """By key: ``2t``, ``t_500``, ``static_z``."""

    @classmethod
    def load(cls, path: Path) -> StoreStatistics:
        """Read ``stats.json``.

        Raises:
            StoreError: the file is absent or not of this form.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"{path}: the store has no statistics; build it again with `kit data build`"
        except (ValidationError, UnicodeDecodeError) as error:
            msg = f"{path}: not the statistics of a store ({error}); build the store again with `kit data build`"
        raise StoreError(msg)

    def text(self) -> str:
        """Write the content of ``stats.json``: the same text for the same statistics."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Summary:
    """Contribution of one field to the statistics of a key."""

    total: int
    zeros: int
    nans: int
    finite: int
    weight: float
    """Sum of the weights of the finite values: their number, where all weigh 1."""
    mean: float
    """Of the finite values, as are the next five; NaN where there are none."""
    squares: float
    """Weighted sum of the squared differences from the mean."""
    cubes: float
    """Weighted sum of the cubed differences from the mean."""
    low: float
    high: float
    sample: npt.NDArray[np.float32]
    """Values that quantiles are taken from."""


def summarise(
    key: str,
    field: npt.NDArray[Any],
    *,
    draw: int,
    moment: int = 0,
    weights: npt.NDArray[np.float64] | None = None,
) -> Summary:
    """Summarise one field; the same field of the same moment gives the same summary.

    Args:
        key: Statistics key; seeds the sample, together with ``moment``.
        field: Values, of any shape; [H, W] where they are weighted.
        draw: Size of the sample, where there are more finite values.
        moment: Time of the field, seconds since 1970.
        weights: Weights of rows, [H], or of points, [H, W]; all weigh 1 by default.
    """
    values = np.asarray(field)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    nothing = np.empty(0, np.float32)
    if not values.size:
        return Summary(0, 0, 0, 0, 0.0, math.nan, 0.0, 0.0, math.nan, math.nan, nothing)
    # NaN and infinity come through: two fast passes tell whether there are any.
    low, high = float(values.min()), float(values.max())
    finite, nans, zeros, count = None, 0, 0, values.size
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = np.isfinite(values)
        nans, count = int(np.count_nonzero(np.isnan(values))), int(np.count_nonzero(finite))
        if not count:
            return Summary(values.size, 0, nans, 0, 0.0, math.nan, 0.0, 0.0, math.nan, math.nan, nothing)
        some = np.where(finite, values, values.flat[int(finite.argmax())])
        low, high = float(some.min()), float(some.max())
    if low <= 0 <= high:
        zeros = int(np.count_nonzero(values == 0))
    found = field_moments(values, finite, weights)
    # The key and the time alone: what a field adds does not depend on what was added before.
    # Moments before 1970 are negative, which a seed must not be.
    random = np.random.default_rng((zlib.crc32(key.encode()), moment % 2**64))
    sample = values.ravel()
    if weights is not None or count > draw:
        # Of places anywhere, those that hold a value are taken: as many more are drawn.
        tries = -(-draw * values.size // count)
        if weights is None:
            places = random.integers(0, values.size, tries)
        else:
            places = _places_by_weight(weights, values.shape, tries, random)
        sample = sample[places]
        if finite is not None:
            sample = sample[finite.ravel()[places]]
    elif finite is not None:
        sample = values[finite]
    return Summary(
        values.size, zeros, nans, count, found.weight, found.mean, found.squares, found.cubes, low, high,
        sample.astype(np.float32, copy=False),
    )  # fmt: skip


def _places_by_weight(
    weights: npt.NDArray[np.float64], shape: tuple[int, ...], draw: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw places in a field, [H, W], with a probability in proportion to their weight.

    One from each of as many equal shares of the area: nearer to the whole than as many from anywhere.
    """
    height, width = shape
    rows_H = weights * width if weights.ndim == 1 else weights.sum(axis=1)
    reached_H = np.cumsum(rows_H)
    places = (np.arange(draw) + random.random(draw)) * (reached_H[-1] / draw)
    row = np.minimum(np.searchsorted(reached_H, places, side="right"), height - 1)
    within = np.clip(1 - (reached_H[row] - places) / rows_H[row], 0, 1)
    if weights.ndim == 1:
        column = (within * width).astype(np.int64)
    else:
        column = np.empty(draw, np.int64)
        for one in np.unique(row):
            reached_W = np.cumsum(weights[one])
            column[row == one] = np.searchsorted(reached_W, within[row == one] * reached_W[-1], side="right")
    places_in_row = np.minimum(column, width - 1)
    return np.asarray(row * width + places_in_row)


class FieldAccumulator:
    """Running statistics of one key; they depend on what was added alone, and on its order in the last digits.

    Args:
        key: Statistics key; seeds the sample.
        states: Number of fields that will be added, which bounds the share of each in the sample.
        weights: Weights of rows, [H], or of points, [H, W], of the fields that are added; all weigh 1 by default.
    """

    def __init__(self, key: str, states: int, weights: npt.NDArray[np.float64] | None = None) -> None:
        self._key, self._draw, self._weights = key, share_of_sample(states), weights
        self._sample: list[npt.NDArray[np.float32]] = []
        self._total = self._zeros = self._nans = self._finite = 0
        self._moments = FieldMoments()
        self._min, self._max = math.inf, -math.inf

    def add(self, field: npt.NDArray[Any], moment: int = 0) -> None:
        """Take in one field of any shape, of a moment in seconds since 1970."""
        self.merge(summarise(self._key, field, draw=self._draw, moment=moment, weights=self._weights))

    def merge(self, part: Summary) -> None:
        """Take in the summary of one field."""
        self._total += part.total
        self._zeros += part.zeros
        self._nans += part.nans
        if not part.finite:
            return
        self._finite += part.finite
        self._moments = self._moments.merged(FieldMoments(part.weight, part.mean, part.squares, part.cubes))
        self._min, self._max = min(self._min, part.low), max(self._max, part.high)
        self._sample.append(part.sample)

    def result(self) -> VariableStatistics:
        """Statistics of everything added so far."""
        total = max(1, self._total)
        mean = std = low = high = skewness = math.nan
        quantiles = [math.nan] * len(QUANTILES)
        if self._finite:
            mean, std, skewness = self._moments.mean, self._moments.scale, self._moments.skewness
            low, high = self._min, self._max
            quantiles = np.quantile(np.concatenate(self._sample).astype(np.float64), QUANTILES).tolist()
            if low == high:
                # What rounding leaves of the moments of equal values.
                std = skewness = 0.0
        return VariableStatistics(
            mean=mean,
            std=std,
            min=low,
            max=high,
            quantiles={f"{order:g}": value for order, value in zip(QUANTILES, quantiles, strict=True)},
            zero_fraction=self._zeros / total,
            nan_fraction=self._nans / total,
            inf_fraction=(self._total - self._nans - self._finite) / total,
            skewness=skewness,
        )
