"""What a perturbation of an ensemble does, and the one that does nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from aurora import Batch

from kit.forecasting.ensemble_folder import EnsembleFolder
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.predictor import Predictor


class Perturbation(Protocol):
    """What the members of one checkpoint differ by."""

    def __init__(self, settings: EnsembleSettings) -> None:
        """Take what the settings say of it."""

    @property
    def noise_amplitude(self) -> float:
        """Standard deviation of the noise that a stochastic model reads."""

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

    def before(self, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:
        """Perturb the states that a step is made from.

        Args:
            state: Physical variables of one sample for each member, [B, T, H, W] and [B, T, C, H, W].
            members: Their numbers.
            start: Initial time of the forecast, UTC.
            step: Steps made before, from 0.
        """

    def after(self, prediction: Batch, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:
        """Perturb what a step predicted, [B, 1, H, W] and [B, 1, C, H, W], before anything is made of it.

        Args:
            prediction: Physical variables under upstream's names.
            state: States that it was made from.
            members: Numbers of the members, one for each sample.
            start: Initial time of the forecast, UTC.
            step: Steps made before, from 0.
        """


class Unperturbed:
    """Members that differ by their checkpoints alone, or by the noise that a trained model reads anyway."""

    def __init__(self, settings: EnsembleSettings) -> None:
        self._settings = settings

    @property
    def noise_amplitude(self) -> float:
        """Return 1, which models learn from."""
        return 1.0

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:  # noqa: ARG002
        """Check nothing."""
        return {}

    def lag(self, member: int) -> int:  # noqa: ARG002
        """Start on time."""
        return 0

    def prepare(self, source: InitialStates, predictor: Predictor, folder: EnsembleFolder) -> None:
        """Prepare nothing."""

    def before(self, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:  # noqa: ARG002
        """Leave the states as they are."""
        return state

    def after(
        self,
        prediction: Batch,
        state: Batch,  # noqa: ARG002
        members: Sequence[int],  # noqa: ARG002
        start: datetime,  # noqa: ARG002
        step: int,  # noqa: ARG002
    ) -> Batch:
        """Leave the prediction as it is."""
        return prediction


@dataclass(frozen=True)
class Perturbing:
    """A perturbation of the members of one pass, as a roll-out calls it.

    Attributes:
        perturbation: Perturbation.
        members: Numbers of the members, one for each sample.
        start: Initial time, UTC.
    """

    perturbation: Perturbation
    members: Sequence[int]
    start: datetime

    def before(self, state: Batch, step: int) -> Batch:
        """Perturb the states that a step is made from."""
        return self.perturbation.before(state, self.members, self.start, step)

    def after(self, prediction: Batch, state: Batch, step: int) -> Batch:
        """Perturb what a step predicted."""
        return self.perturbation.after(prediction, state, self.members, self.start, step)
