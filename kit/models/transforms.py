"""Transforms of physical values before normalisation, for quantities that are mostly zero and never negative.

Rain is zero in most places and spans four orders of magnitude in the others, so that normalised metres say nothing
of drizzle. A transform is written ``NAME`` or ``NAME:PARAMETER`` in settings and in a checkpoint, such as
``log1p:1e-05``.

Upstream's ``positive_surf_vars`` is no substitute: it clamps normalised values, which is right only where the
location is 0, and not before the second step of a roll-out (``aurora/model/aurora.py``, ``Aurora.forward``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from kit.data.variables import Kind, lookup
from kit.errors import SettingsError

if TYPE_CHECKING:
    import torch

__all__ = ["PRECIPITATION", "Transform", "default_transform", "parse_transform", "parse_transforms", "why_not"]

PRECIPITATION = ("tp", "cp", "lsp", "sf")
"""Precipitation in metres of water, accumulated over the hours that end at the time stamp."""

Values = TypeVar("Values", "torch.Tensor", npt.NDArray[Any])


@dataclass(frozen=True)
class _Kind:
    """Both directions of a transform on non-negative values, with its parameter's default; None takes none."""

    forward: Callable[[Any, Any, float], Any]
    inverse: Callable[[Any, Any, float], Any]
    default: float | None


# The first argument is the library: torch and numpy call these functions by the same names.
_KINDS: Mapping[str, _Kind] = {
    "identity": _Kind(lambda _, x, __: x, lambda _, y, __: y, None),
    "sqrt": _Kind(lambda lib, x, _: lib.sqrt(x), lambda _, y, __: y * y, None),
    # 0.01 mm: drizzle below it is as good as no rain, and 10 mm come out at 6.9.
    "log1p": _Kind(lambda lib, x, eps: lib.log1p(x / eps), lambda lib, y, eps: eps * lib.expm1(y), 1e-5),
    # Version 1.5's, to the letter (``aurora/normalisation.py``); up to rounding it is log1p with another default.
    "log": _Kind(
        lambda lib, x, eps: lib.log(x + eps) - math.log(eps), lambda lib, y, eps: eps * (lib.exp(y) - 1), 1e-3
    ),
}


@dataclass(frozen=True)
class Transform:
    """A transform of values that are never negative, and its inverse, which never gives one.

    Attributes:
        name: which one.
        parameter: epsilon in the variable's own unit; None for those that have none.
    """

    name: str
    parameter: float | None = None

    def __str__(self) -> str:
        return self.name if self.parameter is None else f"{self.name}:{self.parameter:g}"

    def forward(self, values: Values) -> Values:
        """Transform physical values; what lies below zero counts as zero, missing values stay missing.

        Readers refuse data that are below zero by more than packing leaves; see ``kit.data.pairs``.
        """
        return cast("Values", self._kind.forward(_library(values), _positive(values), self.parameter or 0.0))

    def inverse(self, transformed: Values) -> Values:
        """Physical values, none of them below zero: what was predicted below zero means zero."""
        return cast("Values", self._kind.inverse(_library(transformed), _positive(transformed), self.parameter or 0.0))

    @property
    def _kind(self) -> _Kind:
        return _KINDS[self.name]


def _library(values: Any) -> Any:
    # What makes a tensor has loaded PyTorch; statistics of arrays do without it.
    loaded = sys.modules.get("torch")
    return loaded if loaded is not None and isinstance(values, loaded.Tensor) else np


def _positive(values: Any) -> Any:
    # Not clip, which raises a NumPy warning for NaN; both keep NaN.
    return np.maximum(values, values.dtype.type(0)) if _library(values) is np else values.clamp(min=0)


def default_transform(variable: str) -> Transform | None:
    """What a new variable is transformed by unless the settings say otherwise: rain by ``log1p``, others not."""
    return parse_transform("log1p", where="") if variable in PRECIPITATION else None


def why_not(variable: str, kind: Kind) -> str | None:
    """Why a variable cannot be transformed: it may be below zero. None where it can, or the kit knows too little."""
    quantity = lookup(variable, kind)
    if quantity is None or quantity.non_negative:
        return None
    return f"it is for what may be zero and never less, and {variable} runs from {quantity.low:g} {quantity.units}"


def parse_transform(text: str, *, where: str) -> Transform:
    """Read ``NAME`` or ``NAME:PARAMETER``.

    Args:
        text: what was written.
        where: the setting, for the message.

    Raises:
        SettingsError: there is no such transform, or its parameter is no number above zero.
    """
    name, colon, given = text.strip().partition(":")
    if name not in _KINDS:
        forms = ", ".join(key if kind.default is None else f"{key}:EPS" for key, kind in _KINDS.items())
        msg = f"{where}: expected one of {forms}, got {text!r}"
        raise SettingsError(msg)
    default = _KINDS[name].default
    if not colon:
        return Transform(name, default)
    if default is None:
        msg = f"{where}: {name} has no parameter, got {text!r}; write {name}"
        raise SettingsError(msg)
    return Transform(name, _positive_number(given, text, where, default))


def _positive_number(given: str, text: str, where: str, default: float) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        msg = f"{where}: expected a number above zero after the colon, such as {default:g}, got {text!r}"
        raise SettingsError(msg)
    return number


def parse_transforms(written: Mapping[str, str]) -> dict[str, Transform]:
    """Read the transforms of a checkpoint or of ``model.transforms``.

    Raises:
        SettingsError: one of them cannot be read; names its variable.
    """
    return {name: parse_transform(text, where=f"model.transforms.{name}") for name, text in written.items()}
