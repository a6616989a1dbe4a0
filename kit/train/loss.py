"""Losses in training space.

Dimensions: B batch, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, mse_loss

from kit.io.errors import SettingsError
from kit.metrics.scores import area_weights
from kit.models.heads import Head, Quantiles, TwoPart
from kit.models.space import Fields
from kit.models.statistics import level_key
from kit.train.settings import LossSettings

if TYPE_CHECKING:
    from kit.metrics.scores import Coordinates

__all__ = [
    "LossFunction",
    "FieldLoss",
    "Loss",
    "PAPER_WEIGHTS",
    "PaperMAE",
    "PointError",
    "absolute",
    "cross_entropy",
    "mean_error",
    "pinball",
    "point_error",
    "point_weights",
]

PAPER_WEIGHTS: Mapping[str, float] = {
    "msl": 1.5,
    "10u": 0.77,
    "10v": 0.66,
    "2t": 3.0,
    "z": 2.8,
    "q": 0.78,
    "t": 1.7,
    "u": 0.87,
    "v": 0.6,
}
"""Variable weights of the Aurora paper (Bodnar et al. 2025, supplement D.1); variables it lacks weigh 1."""

REST = "*"
"""In ``loss.weights``: every variable that is not named there."""

_GAMMA = 2.0
_ALPHA = 0.25
_BETA = 1.0


@dataclass(frozen=True)
class Loss:
    """A loss and its parts.

    Attributes:
        total: what is minimised, dimensionless.
        parts: mean error of each decoder output in training space, unweighted by variable: the absolute error,
            unless the loss or a head measures another.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class LossFunction(Protocol):
    """Compares a prediction with its target, both in training space."""

    def __call__(self, prediction: Fields, target: Fields) -> Loss:
        """Compare them.

        Raises:
            SettingsError: they do not hold the same variables, or a weight names none of them.
        """


class FieldLoss:
    """A weighted mean of errors over variables, levels and points.

    ``paper-mae``: gamma / (V_S + V_A) x [alpha x sum over surface variables of w x mean|error| + beta x sum over
    atmospheric variables of w x mean|error|], means over batch, levels and grid; alpha = 1/4, beta = 1, gamma =
    2.0, the paper's value for ERA5 (Bodnar et al. 2025, supplement D.1). V_S and V_A count the decoder's outputs,
    so that the sines, cosines and densities of the wave model count one each.

    ``mae``, ``mse``, ``huber``: the sum over surface variables, and over levels of atmospheric ones, of w x mean
    error, divided by the sum of w: with weights of 1, the plain mean over all channels.

    Channels of a head have the weight of its variable, unless they are named. The quantiles of one variable share
    it, so that they count as one variable.
    """

    def __init__(
        self,
        settings: LossSettings,
        *,
        levels: Sequence[float] = (),
        heads: Mapping[str, Head] | None = None,
        points: torch.Tensor | None = None,
    ) -> None:
        """Prepare a loss.

        Args:
            settings: which one.
            levels: pressures of the C levels, hPa; weights per level are told by them.
            heads: of variables that have one.
            points: weights of the points, [H, 1] or [H, W], as ``point_weights`` makes them; None for equal ones.
        """
        self._given = settings.weights
        self._paper = settings.name == "paper-mae"
        self._levels = tuple(levels)
        self._points = points
        self._error = point_error(settings)
        self._errors: dict[str, PointError] = {}
        self._shares: dict[str, float] = {}
        self._variables: dict[str, str] = {}
        for name, head in (heads or {}).items():
            self._measure(name, head)

    def _measure(self, name: str, head: Head) -> None:
        """Note how the channels of a head are scored."""
        self._variables |= dict.fromkeys(head.channels(name), name)
        if isinstance(head, TwoPart):
            self._errors |= dict.fromkeys(head.channels(name), cross_entropy)
        elif isinstance(head, Quantiles):
            keys = head.keys(name)
            orders = dict(zip(keys, head.orders, strict=True))
            self._errors |= {key: partial(pinball, order=order) for key, order in orders.items()}
            self._shares |= dict.fromkeys(keys, 1 / len(keys))

    def __call__(self, prediction: Fields, target: Fields) -> Loss:
        """Compare a prediction with its target.

        Raises:
            SettingsError: they do not hold the same variables, or a weight names none of them.
        """
        self._check(prediction, target)
        surface = [
            self._term(name, value, target.surface[name], target.masks.get(name))
            for name, value in prediction.surface.items()
        ]
        atmospheric = [
            self._level_term(name, value, target.atmospheric[name]) for name, value in prediction.atmospheric.items()
        ]
        parts = {term.name: term.error.detach() for term in (*surface, *atmospheric)}
        total = self._paper_total(surface, atmospheric) if self._paper else _plain_total([*surface, *atmospheric])
        return Loss(total, parts)

    def _paper_total(self, surface: Sequence[_Term], atmospheric: Sequence[_Term]) -> torch.Tensor:
        scale = _GAMMA / sum(self._shares.get(term.name, 1) for term in (*surface, *atmospheric))
        counted = [
            factor * torch.stack(weighted).sum()
            for factor, terms in ((_ALPHA, surface), (_BETA, atmospheric))
            if (weighted := [term.weighted for term in terms if term.weight])
        ]
        return scale * torch.stack(counted).sum()

    def _term(self, name: str, value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> _Term:
        weight = self._weight(name)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            error = mean_error(self._errors.get(name, self._error), value, target, mask, self._placed(value))
            return _Term(name, error, weight * error, weight, 1)

    def _level_term(self, name: str, value: torch.Tensor, target: torch.Tensor) -> _Term:
        weights = self._level_weights(name)
        weight, points = sum(weights) / len(weights), self._placed(value)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            if len(set(weights)) == 1:
                error = mean_error(self._error, value, target, None, points)
                return _Term(name, error, weights[0] * error, weights[0], value.shape[1])
            levels = [
                mean_error(self._error, value[:, level], target[:, level], None, points)
                for level in range(len(weights))
            ]
            errors_C = torch.stack(levels)
            weighted = (errors_C * errors_C.new_tensor(weights)).mean()
            return _Term(name, errors_C.mean(), weighted, weight, len(weights))

    def _weight(self, name: str, key: str | None = None) -> float:
        """The weight of a decoder output, at a level: as given for it, its variable, all others, or as published."""
        variable = self._variables.get(name, name)
        for given in (key, name, variable, REST):
            if given in self._given:
                return self._given[given] * self._shares.get(name, 1.0)
        published = PAPER_WEIGHTS.get(variable, 1.0) if self._paper else 1.0
        return published * self._shares.get(name, 1.0)

    def refuse_unknown(self, surface: Collection[str], atmospheric: Collection[str]) -> None:
        """Refuse weights of what is not predicted.

        Args:
            surface: decoder outputs at the surface.
            atmospheric: those on levels.

        Raises:
            SettingsError: names the weights, and what they may be for.
        """
        names = {*surface, *atmospheric}
        levels = {level_key(name, level) for name in atmospheric for level in self._levels}
        if unused := sorted(self._given.keys() - names - levels - {REST}):
            at = f", on levels of {', '.join(f'{level:g}' for level in self._levels)} hPa" if levels else ""
            msg = f"loss.weights: {', '.join(unused)} weigh nothing; the loss is over {', '.join(sorted(names))}{at}"
            raise SettingsError(msg)

    def unscored(self, names: Iterable[str]) -> list[str]:
        """Those decoder outputs that weigh nothing on any level: their heads get no gradient."""
        return [name for name in names if not any((*self._level_weights(name), self._weight(name)))]

    def _level_weights(self, name: str) -> list[float]:
        return [self._weight(name, level_key(name, level)) for level in self._levels] or [self._weight(name)]

    def _placed(self, value: torch.Tensor) -> torch.Tensor | None:
        if self._points is not None:
            self._points = self._points.to(value.device)
        return self._points

    def _check(self, prediction: Fields, target: Fields) -> None:
        predicted = prediction.surface.keys() | prediction.atmospheric.keys()
        wanted = target.surface.keys() | target.atmospheric.keys()
        if predicted != wanted:
            msg = (
                f"loss: predicted without a target: {sorted(predicted - wanted)}; target without a prediction: "
                f"{sorted(wanted - predicted)}"
            )
            raise SettingsError(msg)
        self.refuse_unknown(prediction.surface, prediction.atmospheric)
        weights = [self._weight(name) for name in prediction.surface]
        if not any(sum((self._level_weights(name) for name in prediction.atmospheric), start=weights)):
            msg = "loss.weights: everything weighs 0, so that there is nothing to minimise; give a variable a weight"
            raise SettingsError(msg)


class PaperMAE(FieldLoss):
    """The default: mean absolute error with the Aurora paper's weights, every point weighing the same."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(LossSettings(weights=dict(weights or {})))


@dataclass(frozen=True)
class _Term:
    """What one decoder output adds.

    Attributes:
        name: of the output.
        error: mean error.
        weighted: the same, weighted; a mean over levels.
        weight: mean over levels; 0 where nothing is added, and no gradient taken.
        channels: levels, or 1 at the surface.
    """

    name: str
    error: torch.Tensor
    weighted: torch.Tensor
    weight: float
    channels: int


def _plain_total(terms: Sequence[_Term]) -> torch.Tensor:
    weighing = [term for term in terms if term.weight]
    total = torch.stack([term.channels * term.weighted for term in weighing]).sum()
    return total / sum(term.channels * term.weight for term in weighing)


def point_weights(
    settings: LossSettings, latitude: Coordinates, longitude: Coordinates | None = None
) -> torch.Tensor | None:
    """How much each point counts, of mean 1.

    Args:
        settings: whether points count by the area of their cells.
        latitude: of the rows that are scored, degrees north, decreasing, [H]; or of all points, [H, W].
        longitude: of all points, [H, W], where latitudes are of all points.

    Returns:
        [H, 1] or [H, W] in float32, or None where all count the same.
    """
    if not settings.area_weights:
        return None
    weights = area_weights(latitude, longitude).float()
    return weights[:, None] if weights.ndim == 1 else weights


# Errors point by point, in training space.
#
# Dimensions: B batch, C level, H latitude, W longitude.

PointError = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a prediction and a target, of one shape, to an error in every point of it."""


def absolute(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """|error|."""
    return (value - target).abs()


def pinball(value: torch.Tensor, target: torch.Tensor, *, order: float) -> torch.Tensor:
    """Twice the quantile loss, so that the median's is the absolute error (Koenker and Bassett 1978).

    Args:
        value: predicted quantile.
        target: what came.
        order: of the quantile, in (0, 1).
    """
    error = target - value
    return 2 * torch.maximum(order * error, (order - 1) * error)


def cross_entropy(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of a logit with what came, 0 or 1, in nats."""
    return binary_cross_entropy_with_logits(value, target, reduction="none")


def point_error(settings: LossSettings) -> PointError:
    """The error that a loss is the mean of, where a head does not ask for another."""
    if settings.name == "mse":
        return partial(mse_loss, reduction="none")
    if settings.name == "huber":
        return partial(huber_loss, reduction="none", delta=settings.huber_delta)
    return absolute


def mean_error(
    error: PointError,
    value: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    points: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the scored points; 0 where none is scored, as in a field without waves.

    Args:
        error: 0 where prediction and target are equal, if there is a mask.
        value: prediction, [B, H, W] or [B, C, H, W].
        target: of the same shape.
        mask: of the same shape, True where it is scored; everywhere without one.
        points: weights of the points, of mean 1, [H, 1] or [H, W]; all weigh the same without them.
    """
    if mask is None:
        found = error(value, target)
        return found.mean() if points is None else (found * points).mean()
    # A masked NaN must not reach the error: its gradient would be NaN even where it is multiplied by 0.
    found = error(value, torch.where(mask, target, value.detach()))
    if points is None:
        return found.sum() / mask.sum().clamp(min=1)
    weight = (mask * points).sum()
    return (found * points).sum() / weight.where(weight > 0, 1)
