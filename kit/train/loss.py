"""Losses in training space.

Dimensions: B batch, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from kit.io.errors import SettingsError
from kit.metrics.scores import area_weights
from kit.models.heads import Head, Quantiles, TwoPart
from kit.models.space import Fields
from kit.models.statistics import level_key
from kit.train.point_errors import PointError, cross_entropy, mean_error, pinball, point_error, weight_of
from kit.train.settings import LossSettings

if TYPE_CHECKING:
    from kit.metrics.scores import Coordinates

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

# Supplement D.1 of the Aurora paper: scale for ERA5, weights of surface and of atmospheric variables.
_GAMMA = 2.0
_ALPHA = 0.25
_BETA = 1.0


@dataclass(frozen=True)
class Scored:
    """Amounts that several losses are taken over, all together.

    Attributes:
        samples: Samples, each counted once for every loss that it is in.
        points: Weight of the scored points, by decoder output that is not scored everywhere; scalars.
    """

    samples: int
    points: dict[str, torch.Tensor]

    def __add__(self, other: Scored) -> Scored:
        points = dict(self.points)
        for name, weight in other.points.items():
            points[name] = points[name] + weight if name in points else weight
        return Scored(self.samples + other.samples, points)


@dataclass(frozen=True)
class Loss:
    """A loss and its parts.

    Attributes:
        total: Number to minimise, dimensionless.
        parts: Mean error of each decoder output in training space, unweighted by variable: the absolute error,
            unless the loss or a head measures another.
        shares: Part that each decoder output has in the total; empty where all of them are scored everywhere.
        scored: Amounts that the loss is taken over.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]
    shares: dict[str, torch.Tensor]
    scored: Scored

    def within(self, whole: Scored) -> torch.Tensor:
        """Weigh the loss as one of several, which then add up to the loss of all that they score.

        A mean of means would give a point more weight, the fewer points its batch has.

        Args:
            whole: Amounts that all of them are taken over.
        """
        weighed: list[torch.Tensor] = []
        for name, share in self.shares.items():
            if name in self.scored.points:
                points = whole.points[name]
                # 0 of 0 where none of them scores a point.
                weighed.append(share * (self.scored.points[name] / points.where(points > 0, 1)))
            else:
                weighed.append(share * (self.scored.samples / whole.samples))
        return torch.stack(weighed).sum()


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
            settings: Kind of loss, and weights of variables and levels.
            levels: Pressures of the C levels, hPa; weights of levels name them.
            heads: Heads of the variables that have one.
            points: Weights of the points, [H, 1] or [H, W], as ``point_weights`` makes them, on the device of the
                predictions; None for equal ones.
        """
        self._given = settings.weights
        self._paper = settings.name == "paper-mae"
        self._levels = tuple(levels)
        self._points = points
        self._error = point_error(settings)
        # By channel: errors other than the loss's own, shares of a variable's weight, and the variable.
        self._errors: dict[str, PointError] = {}
        self._shares: dict[str, float] = {}
        self._variables: dict[str, str] = {}
        for name, head in (heads or {}).items():
            channels = head.channels(name)
            self._variables |= dict.fromkeys(channels, name)
            if isinstance(head, TwoPart):
                # Occurrence, a logit; the amount is the variable's own channel and has the error of the loss.
                self._errors |= dict.fromkeys(channels, cross_entropy)
            elif isinstance(head, Quantiles):
                keys = head.keys(name)
                for key, order in zip(keys, head.orders, strict=True):
                    self._errors[key] = partial(pinball, order=order)
                    # Together they weigh what the variable weighs: more quantiles must not outweigh the others.
                    self._shares[key] = 1 / len(keys)

    def __call__(self, prediction: Fields, target: Fields) -> Loss:
        """Compare a prediction with its target.

        Raises:
            SettingsError: they do not hold the same variables, or a weight names none of them.
        """
        self._check(prediction, target)
        # In the order of the model's variables, in which all sums below are taken.
        surface = [
            self._surface_term(name, value, target.surface[name], target.masks.get(name))
            for name, value in prediction.surface.items()
        ]
        atmospheric = [
            self._level_term(name, value, target.atmospheric[name]) for name, value in prediction.atmospheric.items()
        ]
        terms = surface + atmospheric
        parts = {term.name: term.error.detach() for term in terms}
        # Terms without weight have no graph, and a missing value in one would make 0 x NaN of it.
        weighing = [term for term in terms if term.weight]
        if self._paper:
            scale = _GAMMA / sum(self._shares.get(term.name, 1) for term in terms)
            factors = dict.fromkeys((term.name for term in surface), scale * _ALPHA)
            factors |= dict.fromkeys((term.name for term in atmospheric), scale * _BETA)
            total = _paper_total(scale, surface, atmospheric)
        else:
            weights = sum(term.channels * term.weight for term in weighing)
            factors = {term.name: term.channels / weights for term in weighing}
            total = torch.stack([term.channels * term.weighted for term in weighing]).sum() / weights
        shares: dict[str, torch.Tensor] = {}
        # The total is not their sum: that would round otherwise than it always has.
        if target.masks:
            shares = {term.name: factors[term.name] * term.weighted for term in weighing}
        return Loss(total, parts, shares, self.scored(target))

    def scored(self, target: Fields) -> Scored:
        """Measure what a loss against a target is taken over."""
        first = next(iter((*target.surface.values(), *target.atmospheric.values())))
        points = {name: weight_of(mask, self._points) for name, mask in target.masks.items()}
        return Scored(len(first), points)

    def _surface_term(self, name: str, value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> _Term:
        weight = self._weight(name)
        # What weighs nothing is compared without a graph: no zeros go back through decoder and backbone.
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            error = mean_error(self._error_of(name), value, target, mask, self._points)
            return _Term(name, error, weight * error, weight, 1)

    def _level_term(self, name: str, value: torch.Tensor, target: torch.Tensor) -> _Term:
        weights = self._level_weights(name)
        weight = sum(weights) / len(weights)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            if len(set(weights)) == 1:
                # One mean over all levels: a mean of means would differ in the last bits from the published loss.
                error = mean_error(self._error_of(name), value, target, None, self._points)
                return _Term(name, error, weights[0] * error, weights[0], value.shape[1])
            errors = []
            for level in range(len(weights)):
                error_of_level = self._error_of(name, level)
                errors.append(mean_error(error_of_level, value[:, level], target[:, level], None, self._points))
            errors_C = torch.stack(errors)
            weighted = (errors_C * errors_C.new_tensor(weights)).mean()
            return _Term(name, errors_C.mean(), weighted, weight, len(weights))

    def _error_of(self, name: str, level: int | None = None) -> PointError:  # noqa: ARG002
        """Choose the error of a decoder output; ``level`` counts levels where one of them is compared by itself."""
        return self._errors.get(name, self._error)

    def _weight(self, name: str, key: str | None = None) -> float:
        """Look up the weight of a decoder output, at a level if ``key`` names it.

        The most specific entry of ``loss.weights`` counts: level, output, variable, all others; then the paper's.
        """
        variable = self._variables.get(name, name)
        weight = PAPER_WEIGHTS.get(variable, 1.0) if self._paper else 1.0
        for given in (key, name, variable, REST):
            if given in self._given:
                weight = self._given[given]
                break
        return weight * self._shares.get(name, 1.0)

    def _level_weights(self, name: str) -> list[float]:
        return [self._weight(name, level_key(name, level)) for level in self._levels] or [self._weight(name)]

    def check_weights(self, surface: Collection[str], atmospheric: Collection[str]) -> None:
        """Check that every entry of ``loss.weights`` is for something that is predicted.

        Args:
            surface: Decoder outputs at the surface.
            atmospheric: Decoder outputs on levels.

        Raises:
            SettingsError: names the entries without effect, and what they may be for.
        """
        names = {*surface, *atmospheric}
        levels = {level_key(name, level) for name in atmospheric for level in self._levels}
        if unused := sorted(self._given.keys() - names - levels - {REST}):
            at = f", on levels of {', '.join(f'{level:g}' for level in self._levels)} hPa" if levels else ""
            msg = f"loss.weights: {', '.join(unused)} weigh nothing; the loss is over {', '.join(sorted(names))}{at}"
            raise SettingsError(msg)

    def unscored(self, names: Iterable[str]) -> list[str]:
        """Return the decoder outputs that weigh nothing on any level: their heads get no gradient."""
        return [name for name in names if not any((*self._level_weights(name), self._weight(name)))]

    def _check(self, prediction: Fields, target: Fields) -> None:
        """Check that prediction and target hold the same variables, and that at least one of them has a weight.

        Raises:
            SettingsError: names what is on one side only, or the weights.
        """
        predicted = prediction.surface.keys() | prediction.atmospheric.keys()
        wanted = target.surface.keys() | target.atmospheric.keys()
        if predicted != wanted:
            msg = (
                f"loss: predicted without a target: {sorted(predicted - wanted)}; target without a prediction: "
                f"{sorted(wanted - predicted)}"
            )
            raise SettingsError(msg)
        self.check_weights(prediction.surface, prediction.atmospheric)
        weights = [self._weight(name) for name in prediction.surface]
        for name in prediction.atmospheric:
            weights += self._level_weights(name)
        if not any(weights):
            msg = "loss.weights: everything weighs 0, so that there is nothing to minimise; give a variable a weight"
            raise SettingsError(msg)


class PaperMAE(FieldLoss):
    """Default loss: mean absolute error with the Aurora paper's weights, every point weighing the same."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(LossSettings(weights=dict(weights or {})))


def _paper_total(scale: float, surface: Sequence[_Term], atmospheric: Sequence[_Term]) -> torch.Tensor:
    """Add up terms as supplement D.1 of the Aurora paper does."""
    sums: list[torch.Tensor] = []
    for factor, terms in ((_ALPHA, surface), (_BETA, atmospheric)):
        weighted = [term.weighted for term in terms if term.weight]
        if weighted:
            sums.append(factor * torch.stack(weighted).sum())
    return scale * torch.stack(sums).sum()


@dataclass(frozen=True)
class _Term:
    """Contribution of one decoder output to a loss.

    Attributes:
        name: Name of the output.
        error: Mean error.
        weighted: Weighted mean error; a mean over levels.
        weight: Weight, a mean over levels; 0 where nothing is added, and no gradient taken.
        channels: Number of levels, or 1 at the surface.
    """

    name: str
    error: torch.Tensor
    weighted: torch.Tensor
    weight: float
    channels: int


def point_weights(
    settings: LossSettings, latitude: Coordinates, longitude: Coordinates | None = None
) -> torch.Tensor | None:
    """Weigh points of the grid in the loss, by weights of mean 1.

    Args:
        settings: Whether points count by the area of their cells.
        latitude: Latitudes of the scored rows, degrees north, decreasing, [H]; or of all points, [H, W].
        longitude: Longitudes of all points, [H, W], where latitudes are of all points.

    Returns:
        [H, 1] or [H, W] in float32, or None where all count the same.
    """
    if not settings.area_weights:
        return None
    weights = area_weights(latitude, longitude).float()
    return weights[:, None] if weights.ndim == 1 else weights
