"""Transforms of physical values before normalisation, for quantities that lie at their least value in most places.

Rain is zero in most places and spans four orders of magnitude in the others, so that normalised metres say nothing
of drizzle; reflectivity lies at a floor wherever there is no echo, and HRRR's convective inhibition at zero or below.
What is predicted beyond that limit becomes it. A transform is written ``NAME`` or ``NAME:PARAMETER`` in settings and in
a checkpoint, such as ``log1p:1e-05``.

Upstream's ``positive_surf_vars`` is no substitute: it clamps normalised values, which is right only where the
location is 0, and not before the second step of a roll-out (``aurora/model/aurora.py``, ``Aurora.forward``).
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from kit import registry
from kit.data.sources.fields import check_non_negative
from kit.data.statistics import FieldAccumulator, point_weights
from kit.data.store.reader import Store
from kit.data.variables import Kind, lookup
from kit.io import atomic, documents, hashes
from kit.io.errors import SettingsError, StoreError

if TYPE_CHECKING:
    import torch

PLAIN = "none"
"""What settings write for a variable that is not transformed."""

_WITH_ATOMS = ("refc", "cape", "cin")
PRECIPITATION = ("tp", "cp", "lsp", "sf")
"""Precipitation in metres of water, accumulated over the hours that end at the time stamp."""

Values = TypeVar("Values", "torch.Tensor", npt.NDArray[Any])


@dataclass(frozen=True)
class _Kind:
    """Both directions of a transform on non-negative values, with its parameter's default; None takes none.

    ``is_negative`` is of values that are never above zero, and ``has_floor`` of those above its parameter.
    """

    forward: Callable[[Any, Any, float], Any]
    inverse: Callable[[Any, Any, float], Any]
    default: float | None
    is_negative: bool = False
    has_floor: bool = False


# The first argument is the library: torch and numpy call these functions by the same names.
_KINDS: Mapping[str, _Kind] = {
    "identity": _Kind(lambda _, x, __: x, lambda _, y, __: y, None),
    "floor": _Kind(lambda _, x, __: x, lambda _, y, __: y, 0.0, has_floor=True),
    "sqrt": _Kind(lambda lib, x, _: lib.sqrt(x), lambda _, y, __: y * y, None),
    "negative-sqrt": _Kind(lambda lib, x, _: lib.sqrt(x), lambda _, y, __: y * y, None, is_negative=True),
    # 0.01 mm: drizzle below it is as good as no rain, and 10 mm come out at 6.9.
    "log1p": _Kind(lambda lib, x, eps: lib.log1p(x / eps), lambda lib, y, eps: eps * lib.expm1(y), 1e-5),
    # Version 1.5's, to the letter (``aurora/normalisation.py``); up to rounding it is log1p with another default.
    "log": _Kind(
        lambda lib, x, eps: lib.log(x + eps) - math.log(eps), lambda lib, y, eps: eps * (lib.exp(y) - 1), 1e-3
    ),
}


@dataclass(frozen=True)
class Transform:
    """A transform of values on one side of a limit, 0 or a floor, and its inverse, which never leads to the other.

    Attributes:
        name: which one.
        parameter: epsilon or floor in the variable's own unit; None for those that have none.
    """

    name: str
    parameter: float | None = None

    def __str__(self) -> str:
        if self.parameter is None:
            return self.name
        return f"{self.name}:{self.parameter:g}"

    @property
    def needs_non_negative(self) -> bool:
        """Whether values below zero are faults."""
        kind = _KINDS[self.name]
        return not (kind.is_negative or kind.has_floor)

    def forward(self, values: Values) -> Values:
        """Transform physical values; what lies beyond the limit counts as it, missing values stay missing.

        Readers refuse data that are below zero by more than packing leaves; see ``kit.data.dataset``.
        """
        library, positive = _positive(self._upwards(values))
        return cast("Values", _KINDS[self.name].forward(library, positive, self.parameter or 0.0))

    def inverse(self, transformed: Values) -> Values:
        """Return physical values, none of them beyond the limit: what was predicted beyond it means the limit."""
        library, positive = _positive(transformed)
        return cast("Values", self._back(_KINDS[self.name].inverse(library, positive, self.parameter or 0.0)))

    def within(self, values: Values) -> Values:
        """Bring physical values beyond the limit to it."""
        return cast("Values", self._back(_positive(self._upwards(values))[1]))

    def _upwards(self, values: Any) -> Any:
        """Turn and move values so that their limit is zero, and the others lie above it."""
        kind = _KINDS[self.name]
        if kind.is_negative:
            return -values
        return values - self.parameter if kind.has_floor else values

    def _back(self, values: Any) -> Any:
        kind = _KINDS[self.name]
        if kind.is_negative:
            return -values
        return values + self.parameter if kind.has_floor else values


def _positive(values: Any) -> tuple[Any, Any]:
    """The library that computes with some values, and the values with zero for what lies below it."""
    # What makes a tensor has loaded PyTorch; statistics of arrays do without it.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        return torch, values.clamp(min=0)
    # Not clip, which raises a NumPy warning for NaN; both keep NaN.
    return np, np.maximum(values, values.dtype.type(0))


def default_transform(variable: str) -> Transform | None:
    """Choose the transform of a new variable where settings name none: ``log1p`` for precipitation, None for others."""
    if variable not in PRECIPITATION:
        return None
    return parse_transform("log1p", where="")


def default_for_networks(store: Store, variable: str) -> Transform | None:
    """Choose the transform of a variable that a denoising network draws, where settings name none; None for most.

    By the least and largest values over the store's training states: reflectivity has their least value as its floor,
    -10 dBZ in HRRR's files, which stands for no echo (``docs/hrrr.md``); convective available potential energy is
    above zero; inhibition, both J kg-1, is below zero in HRRR, and left as it is where it is above, as in ERA5.
    """
    found = store.statistics.variables.get(variable)
    if variable not in _WITH_ATOMS or found is None:
        return default_transform(variable)
    quantity = lookup(variable, "surface")
    margin = 0.0 if quantity is None else quantity.margin
    if variable == "refc":
        # As it is written in checkpoints.
        return parse_transform(f"floor:{found.min:g}", where="")
    if quantity is not None and not quantity.non_negative:
        return Transform("negative-sqrt") if found.max <= margin else None
    return Transform("sqrt") if found.min >= -margin else None


def with_non_negative(transforms: Mapping[str, str]) -> frozenset[str]:
    """Choose the variables whose values below zero are faults, among those that are transformed."""
    return frozenset(name for name, found in parse_transforms(transforms).items() if found.needs_non_negative)


def why_not(variable: str, kind: Kind, transform: Transform) -> str | None:
    """Explain why a variable cannot be transformed: it may be below zero. None where it can, or that is unknown."""
    quantity = lookup(variable, kind)
    if quantity is None or quantity.non_negative or not transform.needs_non_negative:
        return None
    return f"it is for what may be zero and never less, and {variable} runs from {quantity.low:g} {quantity.units}"


def parse_transform(text: str, *, where: str) -> Transform:
    """Read ``NAME`` or ``NAME:PARAMETER``.

    Args:
        text: what was written.
        where: the setting, for the message.

    Raises:
        SettingsError: there is no such transform, or its parameter is no number, or none above zero.
    """
    name, colon, given = text.strip().partition(":")
    if name not in _KINDS:
        known = "identity, sqrt, negative-sqrt, floor:VALUE, log1p:EPS, log:EPS"
        msg = f"{where}: expected one of {known}, got {text!r}"
        raise SettingsError(msg)
    default = _KINDS[name].default
    if not colon:
        return Transform(name, default)
    if default is None:
        msg = f"{where}: {name} has no parameter, got {text!r}; write {name}"
        raise SettingsError(msg)
    try:
        parameter = float(given)
    except ValueError:
        parameter = math.nan
    has_floor = _KINDS[name].has_floor
    if has_floor and not math.isfinite(parameter):
        msg = f"{where}: expected a number after the colon, such as -10, got {text!r}"
        raise SettingsError(msg)
    if not (has_floor or 0 < parameter < math.inf):
        msg = f"{where}: expected a number above zero after the colon, such as {default:g}, got {text!r}"
        raise SettingsError(msg)
    return Transform(name, parameter)


def parse_transforms(written: Mapping[str, str]) -> dict[str, Transform]:
    """Read the transforms of a checkpoint or of ``model.transforms``.

    Raises:
        SettingsError: one of them cannot be read; names its variable.
    """
    return {name: parse_transform(text, where=f"model.transforms.{name}") for name, text in written.items()}


# Statistics of transformed variables: those of ``log1p(tp / eps)`` do not follow from those of ``tp``.
#
# They are made of the store's training states, one state in memory at a time, with the points weighted as in the
# store's own statistics, and kept in the kit's cache under the fingerprint of the store.

_logger = logging.getLogger(__name__)


class Fit(NamedTuple):
    """Moments of one level of a transformed variable over the training states; the scale is a standard deviation."""

    mean: float
    scale: float
    skewness: float


def transformed_statistics(store: Store, name: str, level: float | None, transform: Transform) -> tuple[float, float]:
    """Compute location and scale of a transformed variable over the training split.

    The location is 0, not the mean: no rain is then exactly 0 in training space, where most of its values are, the
    encoder's padding, and a new head's first guess; and a prediction below it means no rain. The scale is the
    standard deviation.

    Args:
        store: with the variable.
        name: of the variable.
        level: in hPa; None at the surface.
        transform: of its values.

    Returns:
        0 and the standard deviation; 0 and 1 for a store without states, as a plan imagines one.

    Raises:
        StoreError: a value is below zero, or there is no finite one.
    """
    if not len(store.times):
        return 0.0, 1.0
    position = 0 if level is None else store.levels.index(level)
    return 0.0, fit(store, name, transform)[position].scale


def fit(store: Store, name: str, transform: Transform) -> tuple[Fit, ...]:
    """Compute moments of each level of a transformed variable, or of the one at the surface, over the training split.

    Raises:
        StoreError: a value is below zero, or there is no finite one.
    """
    key = hashes.sha256_of_text(f"{store.fingerprint()} {name} {transform} moments")
    cached = registry.cache_dir() / "statistics" / f"{key}.json"
    if cached.is_file():
        return tuple(starmap(Fit, documents.read_json(cached)))
    _logger.info("statistics of %s, transformed by %s, from the training states of %s", name, transform, store.path)
    indices = store.indices(store.statistics.train)
    levels = 1 if name in store.surface else len(store.levels)
    weights = point_weights(store.statistics.weights, store.latitude, store.longitude)
    # Only moments are asked for; what it samples for quantiles is small.
    accumulators = [FieldAccumulator(f"{name} {transform} {level}", len(indices), weights) for level in range(levels)]
    for index in indices:
        state = store.read(name, [int(index)])
        if transform.needs_non_negative:
            check_non_negative(store, name, [int(index)], state)
        values = transform.forward(state.astype(np.float64)).reshape(levels, *state.shape[-2:])
        for accumulator, field in zip(accumulators, values, strict=True):
            accumulator.add(field)
    found = [accumulator.result() for accumulator in accumulators]
    if not np.isfinite([one.std for one in found]).all():
        msg = f"{store.path}: {name} has no finite value among its training states; leave it out, or mend the source"
        raise StoreError(msg)
    moments = tuple(Fit(one.mean, one.std, one.skewness) for one in found)
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, even if two runs begin together.
    atomic.write_atomically(cached, json.dumps(moments))
    return moments
