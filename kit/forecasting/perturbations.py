"""What members of an ensemble differ by, beside their checkpoints.

A perturbation is a class with the four methods of ``Perturbation``; ``PERTURBATIONS`` names them. It may change the
initial states, start earlier, or leave it to the model to differ.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from aurora import Batch

from kit.forecasting.ensemble_folder import EnsembleFolder
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.predictor import Predictor
from kit.io.errors import StoreError

_logger = logging.getLogger(__name__)


class Perturbation(Protocol):
    """What the members of one checkpoint differ by."""

    def __init__(self, settings: EnsembleSettings) -> None:
        """Take what the settings say of it."""

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check, before any work is done, that it can be had from these states.

        Returns:
            What the plan of the ensemble holds of it, beside its name.

        Raises:
            KitError: it cannot.
        """

    def lag(self, member: int) -> int:
        """Return the number of steps by which a member starts earlier."""

    def prepare(self, source: InitialStates, predictor: Predictor, folder: EnsembleFolder) -> None:
        """Make what is needed once for each checkpoint, when its model is loaded."""

    def perturbed(self, state: Batch, members: Sequence[int], start: datetime) -> Batch:
        """Perturb initial states.

        Args:
            state: Physical variables of one sample for each member, [B, T, H, W] and [B, T, C, H, W].
            members: Their numbers.
            start: Initial time of the forecast, UTC.
        """


class Unperturbed:
    """Members that differ by their checkpoints alone, or by the noise that a trained model reads anyway."""

    def __init__(self, settings: EnsembleSettings) -> None:
        self._settings = settings

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:  # noqa: ARG002
        """Check nothing."""
        return {}

    def lag(self, member: int) -> int:  # noqa: ARG002
        """Start on time."""
        return 0

    def prepare(self, source: InitialStates, predictor: Predictor, folder: EnsembleFolder) -> None:
        """Prepare nothing."""

    def perturbed(self, state: Batch, members: Sequence[int], start: datetime) -> Batch:  # noqa: ARG002
        """Leave the states as they are."""
        return state


class Noise(Unperturbed):
    """Members that differ by the noise that their model reads."""

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Warn of a model that reads none: with the layers that could, before any training, noise adds nothing."""
        if not source.checkpoint.spec.stochastic:
            _logger.warning(
                "%s was not trained to read noise, so that its members are all alike: train it with --model.stochastic "
                "and --task.name crps, or choose another --perturb",
                source.checkpoint.path,
            )
        return super().check(source, starts)


class Lagged(Unperturbed):
    """Members that start earlier and run longer: the n-th of each checkpoint by n steps."""

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check that the store holds the states of all earlier starts.

        Raises:
            StoreError: it does not; names the first that is missing.
        """
        for start in starts:
            for lag in sorted({self.lag(member) for member in self._settings.numbers}):
                if not source.has(start, lag):
                    earlier = start - lag * source.pairs.selection.timestep
                    msg = (
                        f"{source.store.path}: no initial state at {earlier:%Y-%m-%dT%H:%M}, where the member that "
                        f"lags {lag} step(s) behind {start:%Y-%m-%dT%H:%M} starts; take fewer members, or a later "
                        "--start"
                    )
                    raise StoreError(msg)
        return super().check(source, starts)

    def lag(self, member: int) -> int:
        """Start a step earlier than the member before it of the same checkpoint."""
        return member // len(self._settings.checkpoint)


PERTURBATIONS: Mapping[str, type[Perturbation]] = {"none": Unperturbed, "noise": Noise, "lagged": Lagged}
"""Perturbations by the names of the setting."""
