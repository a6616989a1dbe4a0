"""Statistics of a store: one pass over its training states, exact moments, sampled quantiles.

Mean and standard deviation are merged state by state (Chan, Golub and LeVeque's update) in float64, so
they are those of all values at once and memory is bounded by one field. Quantiles come from at most
``SAMPLE_SIZE`` values per key, drawn with a seed that depends on the key alone; they are exact while all
values fit.
"""

from __future__ import annotations

import json
import math
import zlib
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
    "VariableStatistics",
    "channel_key",
]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SAMPLE_SIZE = 65536
"""Values per key that quantiles are taken from."""


def channel_key(name: str, level: float) -> str:
    """Name one level of an atmospheric variable, as upstream does: ``t_500``, ``t_0_5``."""
    return f"{name}_{round(float(level), 3):g}".replace(".", "_")


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


class FieldAccumulator:
    """Running statistics of one key.

    Args:
        key: statistics key; seeds the sample.
        states: number of fields that will be added, which bounds the share of each in the sample.
    """

    def __init__(self, key: str, states: int) -> None:
        self._per_state = max(1, SAMPLE_SIZE // max(1, states))
        self._random = np.random.default_rng(zlib.crc32(key.encode()))
        self._sample: list[npt.NDArray[np.float32]] = []
        self._total = self._zeros = self._nans = self._finite = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, field: npt.NDArray[Any]) -> None:
        """Take in one field of any shape."""
        values = np.asarray(field, dtype=np.float64).ravel()
        self._total += values.size
        self._zeros += int(np.count_nonzero(values == 0))
        self._nans += int(np.count_nonzero(np.isnan(values)))
        finite = values[np.isfinite(values)]
        if finite.size:
            self._merge(finite)
            self._draw(finite)

    def _merge(self, values: npt.NDArray[np.float64]) -> None:
        mean = float(values.mean())
        squares = float(np.square(values - mean).sum())
        count = self._finite + values.size
        shift = mean - self._mean
        self._squares += squares + shift * shift * self._finite * values.size / count
        self._mean += shift * values.size / count
        self._finite = count
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))

    def _draw(self, values: npt.NDArray[np.float64]) -> None:
        if values.size > self._per_state:
            values = values[self._random.integers(0, values.size, self._per_state)]
        self._sample.append(values.astype(np.float32))

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
