"""Exponential moving average of what trains: weights that no single batch sways."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from kit.io.errors import CheckpointError


class WeightAverage:
    """Averages parameters over training steps, in float32, beside the parameters themselves.

    After step n the average moves by 1 - d towards the parameters, where d = min(decay, (1 + n) / (10 + n)): a young
    average forgets what training began from (``tf.train.ExponentialMovingAverage`` with ``num_updates``).

    Args:
        parameters: What trains, by name, on its device.
        decay: Share of the average that a late step keeps, from 0 to 1.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self._averages = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters after an optimiser step, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter.float(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the parameters their averages while the body runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # One parameter at a time, so that no second copy of all of them is ever held.
        for name, parameter in self._parameters.items():
            held = parameter.detach().float().clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(held)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by name, for a checkpoint."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the averages of a checkpoint.

        Raises:
            CheckpointError: they are of other parameters.
        """
        ours = {name: value.shape for name, value in self._averages.items()}
        theirs = {name: value.shape for name, value in state.items()}
        if ours != theirs:
            msg = (
                f"the checkpoint's average is of {len(theirs)} parameters, and {len(ours)} train, or their shapes "
                "differ; start a new run instead"
            )
            raise CheckpointError(msg)
        for name, value in state.items():
            self._averages[name].copy_(value)
