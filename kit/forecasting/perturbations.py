"""What members of an ensemble differ by, beside their checkpoints.

A perturbation is a class with the methods of ``Perturbation``; ``PERTURBATIONS`` names them. It may change states or
predictions, start earlier, or leave it to the model to differ.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from aurora import Batch

from kit.data.dataset import Pairs
from kit.data.settings import Period
from kit.data.variables import Kind
from kit.forecasting.bounds import possible
from kit.forecasting.diffused import Def, DefPublished, Residual
from kit.forecasting.ensemble_folder import EnsembleFolder
from kit.forecasting.error_samples import ErrorSamples, make_error_samples, spread_dates
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.predictor import Conditions, Predictor, pairs_of, store_of
from kit.forecasting.unperturbed import Perturbation, Unperturbed
from kit.io.errors import CheckpointError, SettingsError, StoreError
from kit.io.hashes import sha256_of_file, sha256_of_text
from kit.io.retry import poll

_logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks at what another process makes."""


class Noise(Unperturbed):
    """Members that differ by the noise that their model reads."""

    @property
    def noise_amplitude(self) -> float:
        """Standard deviation of the noise."""
        return self._settings.amplitude

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Warn of a model that reads none: with the layers that could, before any training, noise adds nothing."""
        if not source.checkpoint.spec.stochastic:
            remedy = "train it with --model.stochastic and --task.name crps, or choose another --perturb"
            if source.checkpoint.is_network:
                remedy = "choose another --perturb, such as residual, with a network that was trained for it"
            _logger.warning(
                "%s was not trained to read noise, so that its members are all alike: %s",
                source.checkpoint.path,
                remedy,
            )
        described = super().check(source, starts)
        if self._settings.amplitude == 1:
            return described
        if source.checkpoint.is_network:
            msg = "amplitude: is of Aurora's noise; what a network draws begins with noise of 1; leave it out"
            raise SettingsError(msg)
        return {**described, "amplitude": self._settings.amplitude}


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


class Gaussian(Unperturbed):
    """Members whose initial states have errors with the covariance of the model's own one-step errors.

    A perturbation is a sum of anomalies e of errors at N dates, each times a standard normal weight w:
    sum over i of w_i e_i / sqrt(N - 1). Its covariance, sum over i of e_i e_i^T / (N - 1), is the sample covariance of
    the errors, between all variables, levels and points. All members have one: they are exchangeable, as fair scores
    ask.
    """

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check that there are errors on the grid of the initial states.

        Raises:
            CheckpointError: the model predicts directions, whose differences are no errors.
            StoreError: the store of the errors has too few dates, or another grid.
        """
        checkpoint = source.checkpoint
        if checkpoint.spec.upstream.is_wave:
            msg = (
                f"{checkpoint.path}: predicts directions of waves, of which differences and sums are none; take "
                "another --perturb"
            )
            raise CheckpointError(msg)
        pairs, dates = self._dates(source)
        own = source.pairs
        if not (torch.equal(pairs.latitude, own.latitude) and torch.equal(pairs.longitude, own.longitude)):
            msg = f"{pairs.store.path}: has another grid than {source.store.path}; name a store with --error_store"
            raise StoreError(msg)
        return {
            **super().check(source, starts),
            "amplitude": self._settings.amplitude,
            "error_store": pairs.store.fingerprint(),
            "error_dates": [f"{pairs.time(date):%Y-%m-%dT%H:%M}" for date in dates],
        }

    def _dates(self, source: InitialStates) -> tuple[Pairs, list[int]]:
        """Find the pairs of the training split, and those of them that errors are taken of."""
        settings, checkpoint = self._settings, source.checkpoint
        name = settings.error_store or settings.data.store
        if name is not None and Path(name).is_file():
            # A file of initial states has no training split.
            name = None
        store = store_of(checkpoint, name)
        # The checkpoint's own store was split by the run that trained it.
        period = Period.parse(checkpoint.description["data"]["train"])
        if name is not None:
            if "train" not in store.splits:
                msg = f"{store.path}: has no training split to take errors of; name a store with --error_store"
                raise StoreError(msg)
            period = store.splits["train"]
        pairs = pairs_of(checkpoint, checkpoint.spec, store, Conditions(period=period))
        dates = spread_dates(pairs, settings.error_dates)
        if len(dates) < 2:
            msg = (
                f"{store.path}: holds {len(dates)} date in its training split {period}, and a covariance needs two or "
                "more; name a store with --error_store"
            )
            raise StoreError(msg)
        return pairs, dates

    def prepare(self, source: InitialStates, predictor: Predictor, folder: EnsembleFolder) -> None:
        """Make the errors, or wait for the process that makes them: all read the same bytes."""
        pairs, dates = self._dates(source)
        checkpoint = sha256_of_file(source.checkpoint.path / "kit.json")
        name = f"errors-{checkpoint[:12]}-{pairs.store.fingerprint()[:12]}"
        place = folder.folder / name

        def is_there() -> bool:
            with folder.claims.held(name) as mine:
                if mine and not place.exists():
                    make_error_samples(predictor, pairs, dates, place)
            return place.exists()

        poll(is_there, _LOOK_EVERY)
        self._samples = ErrorSamples(place)

    def before(self, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:
        """Add a member's perturbation to all of its initial states; amounts and shares stay possible."""
        if step:
            return state
        samples, count = self._samples, self._samples.count
        weights = [self._settings.amplitude * self.weights(member, start, count) for member in members]
        surface, atmospheric = dict(state.surf_vars), dict(state.atmos_vars)
        kinds: tuple[tuple[Kind, dict[str, torch.Tensor]], ...] = (("surface", surface), ("atmospheric", atmospheric))
        for kind, values in kinds:
            for name in values.keys() & set(samples.names):
                changes = [torch.from_numpy(samples.combined(name, own)) for own in weights]
                # The same at every input state: the tendency between them is left as it is.
                changed = values[name] + torch.stack(changes)[:, None]
                values[name] = possible(changed, name, kind)
        return replace(state, surf_vars=surface, atmos_vars=atmospheric)

    def weights(self, member: int, start: datetime, count: int) -> npt.NDArray[np.float64]:
        """Draw standard normal weights, [N], by the name of a member and its initial time."""
        name = f"perturbation of seed {self._settings.seed}, member {member}, {start.isoformat()}"
        return np.random.default_rng(int(sha256_of_text(name), 16)).standard_normal(count)


PERTURBATIONS: Mapping[str, type[Perturbation]] = {
    "none": Unperturbed,
    "noise": Noise,
    "lagged": Lagged,
    "gaussian": Gaussian,
    "def": Def,
    "def-published": DefPublished,
    "residual": Residual,
}
"""Perturbations by the names of the setting."""
