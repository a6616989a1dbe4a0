"""Statistics of a store: one pass over its training states, exact moments, sampled quantiles.

Mean and standard deviation are merged state by state (Chan, Golub and LeVeque's update) in float64, so
they are those of all values at once and memory is bounded by one field. Quantiles come from at most
``SAMPLE_SIZE`` values per key, drawn with a seed; they are exact while all values fit. What a field adds depends on
the key and on its moment alone, not on what was added before.
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

from kit.data.settings import TimeRange
from kit.errors import StoreError

__all__ = [
    "QUANTILES",
    "SAMPLE_SIZE",
    "FieldAccumulator",
    "StoreStatistics",
    "Summary",
    "VariableStatistics",
    "channel_key",
    "share_of_sample",
    "summarise",
]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SAMPLE_SIZE = 65536
"""Values per key that quantiles are taken from."""


def channel_key(name: str, level: float) -> str:
    """Name one level of an atmospheric variable, as upstream does: ``t_500``, ``t_0_5``."""
    return f"{name}_{round(float(level), 3):g}".replace(".", "_")


def share_of_sample(states: int) -> int:
    """Values that each of so many fields gives to the sample of a key."""
    return max(1, SAMPLE_SIZE // max(1, states))


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
    transform: Literal["identity"] = "identity"
    """Transform that is applied before the mean and the standard deviation are used."""


class StoreStatistics(BaseModel):
    """What ``stats.json`` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    train: TimeRange
    """The times that the statistics are made of."""
    states: int
    """Number of states among these times."""
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

    def save(self, path: Path) -> None:
        """Write ``stats.json``, the same bytes for the same statistics."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Summary:
    """What one field adds to the statistics of a key."""

    total: int
    zeros: int
    nans: int
    finite: int
    mean: float
    """Of the finite values, as are the next three; NaN where there are none."""
    squares: float
    """Sum of the squared differences from the mean."""
    low: float
    high: float
    sample: npt.NDArray[np.float32]
    """Values that quantiles are taken from."""


def summarise(key: str, field: npt.NDArray[Any], *, draw: int, moment: int = 0) -> Summary:
    """Summarise one field of any shape; the same field of the same moment gives the same summary.

    Args:
        key: statistics key; seeds the sample, together with ``moment``.
        field: the values.
        draw: size of the sample, where there are more finite values.
        moment: of the field, seconds since 1970.
    """
    values = np.asarray(field, dtype=np.float64).ravel()
    nans = int(np.count_nonzero(np.isnan(values)))
    finite = values if math.isfinite(values.sum()) else values[np.isfinite(values)]
    zeros = int(np.count_nonzero(finite == 0))
    if not finite.size:
        nothing = np.empty(0, np.float32)
        return Summary(values.size, 0, nans, 0, math.nan, 0.0, math.nan, math.nan, nothing)
    mean = float(finite.mean())
    squares = float(np.square(finite - mean).sum())
    low, high = float(finite.min()), float(finite.max())
    sample = finite
    if finite.size > draw:
        random = np.random.default_rng((zlib.crc32(key.encode()), moment))
        sample = finite[random.integers(0, finite.size, draw)]
    return Summary(
        values.size, zeros, nans, finite.size, mean, squares, low, high, sample.astype(np.float32, copy=False)
    )


class FieldAccumulator:
    """Running statistics of one key; they depend on what was added alone, and on its order in the last digits.

    Args:
        key: statistics key; seeds the sample.
        states: number of fields that will be added, which bounds the share of each in the sample.
    """

    def __init__(self, key: str, states: int) -> None:
        self._key, self._draw = key, share_of_sample(states)
        self._sample: list[npt.NDArray[np.float32]] = []
        self._total = self._zeros = self._nans = self._finite = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, field: npt.NDArray[Any], moment: int = 0) -> None:
        """Take in one field of any shape, of a moment in seconds since 1970."""
        self.merge(summarise(self._key, field, draw=self._draw, moment=moment))

    def merge(self, part: Summary) -> None:
        """Take in the summary of one field."""
        self._total += part.total
        self._zeros += part.zeros
        self._nans += part.nans
        if not part.finite:
            return
        count = self._finite + part.finite
        shift = part.mean - self._mean
        self._squares += part.squares + shift * shift * self._finite * part.finite / count
        self._mean += shift * part.finite / count
        self._finite = count
        self._min, self._max = min(self._min, part.low), max(self._max, part.high)
        self._sample.append(part.sample)

    def result(self) -> VariableStatistics:
        """Statistics of everything added so far."""
        total = max(1, self._total)
        known = self._finite > 0
        return VariableStatistics(
            mean=self._mean if known else math.nan,
            std=math.sqrt(self._squares / self._finite) if known else math.nan,
            min=self._min if known else math.nan,
            max=self._max if known else math.nan,
            quantiles=self._quantiles(),
            zero_fraction=self._zeros / total,
            nan_fraction=self._nans / total,
            inf_fraction=(self._total - self._nans - self._finite) / total,
        )

    def _quantiles(self) -> dict[str, float]:
        if not self._sample:
            return {f"{order:g}": math.nan for order in QUANTILES}
        values = np.quantile(np.concatenate(self._sample).astype(np.float64), QUANTILES)
        return {f"{order:g}": float(value) for order, value in zip(QUANTILES, values, strict=True)}
