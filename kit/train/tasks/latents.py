"""Training of light decoders on latents of a frozen trunk, which a cache keeps between epochs and runs."""

from collections.abc import Callable
from datetime import datetime

from kit.adapt.latent import LatentSpace
from kit.adapt.settings import AdaptSettings
from kit.train.loss import LossFunction
from kit.train.settings import RolloutSettings
from kit.train.tasks.forecast import ForecastTask, TaskData


class LatentTask(ForecastTask):
    """Predict one step ahead by light decoders on the latents of a frozen trunk.

    Args:
        space: The model with light decoders.
        loss_fn: Compares a prediction with its target.
        rollout: A single step.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, without a cache.
        adapt: Where the cache of latents is, and how large it may be.

    Raises:
        SettingsError: the cache would be too large, or the trunk draws random numbers.
    """

    space: LatentSpace

    def __init__(
        self,
        space: LatentSpace,
        loss_fn: LossFunction,
        rollout: RolloutSettings,
        data: TaskData | None,
        adapt: AdaptSettings,
    ) -> None:
        super().__init__(space, loss_fn, rollout, data)
        if data is not None:
            # Refused here if it would grow beyond its budget, before anything is computed.
            space.open_cache(adapt, (data.train, data.valid))
        if space.told is not None:
            self.notes = (space.told,)

    def _prefetch(self) -> Callable[[datetime], None] | None:
        """Return the function that reads the latents of an input time ahead; None without a cache."""
        if self.space.cache is None:
            return None
        return self.space.cache.read_ahead
