"""Forecasts: initial states from a store, the model's own predictions from there on, and a file in the end."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from aurora import Batch

from kit import __version__
from kit.adapt.specialists import Specialist, Specialists, check_same_base
from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.data.variables import Kind, lookup
from kit.forecasting.initial_states import chosen_starts, initial_store
from kit.forecasting.predictor import Conditions, Predictor, load_forecast_predictor
from kit.forecasting.settings import ForecastSettings
from kit.forecasting.writing import ForecastLayout, Writer, bytes_of, portable_name, writing
from kit.io.atomic import check_free
from kit.io.errors import CheckpointError, KitError, SettingsError
from kit.memory.out_of_memory import readable
from kit.models.space import TrainingSpace
from kit.registry.fetching import strictly

_logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0
"""Seconds between words on the progress of a long forecast."""


@dataclass(frozen=True)
class ForecastResult:
    """A forecast that was written.

    Attributes:
        out: NetCDF file or Zarr group.
        checkpoint: Folder of the checkpoint; of an ensemble, the folders of all.
        store: Store or file of the initial states.
        synthetic: Whether the initial states are made up.
        start: Initial times, UTC, such as ``2020-01-01T06:00``.
        steps: Number of model steps.
        lead_hours: Lead time of each step, hours.
        members: Number of checkpoints.
        written: ``each`` member's forecast, or their ``mean``.
        variables: Variables written, those at the surface first.
        levels: Pressure levels, hPa.
        grid: Number of rows and of columns.
        bytes: Size on the disk.
        precision: Precision of the predictions, such as ``fp32``.
        seed: Seed of the noise of a stochastic model; None where it draws none.
    """

    out: str
    checkpoint: str | list[str]
    store: str
    synthetic: bool
    start: list[str]
    steps: int
    lead_hours: list[float]
    members: int
    written: str
    variables: list[str]
    levels: list[float]
    grid: list[int]
    bytes: int
    precision: str = "fp32"
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit forecast --json`` prints; ``seed`` only where there is one."""
        found = asdict(self)
        if self.seed is None:
            del found["seed"]
        return found


def forecast(settings: ForecastSettings) -> ForecastResult:
    """Roll checkpoints out from initial states and write what they predict.

    Memory does not depend on the number of steps: every prediction is written before the next one is made.

    Args:
        settings: Checkpoints, initial times (UTC), number of model steps, file to write, device and memory.

    Returns:
        What was written, and where.

    Raises:
        KitError: checkpoints, store and settings do not fit together, a prediction is not finite, or memory runs out.
        OSError: the disk is full, or refuses; nothing is left behind.
    """
    check_free(settings.out)
    checkpoints = [open_checkpoint(folder) for folder in settings.checkpoint]
    # Members take each other's place in one model, which only deltas on one base can.
    if len(checkpoints) > 1:
        check_same_base([(str(checkpoint.path), checkpoint.description) for checkpoint in checkpoints])
        if settings.members == "mean" and checkpoints[0].spec.upstream.is_wave:
            msg = (
                "members: the wave model predicts directions, which have no plain mean, and waves that are absent in "
                "some members; write each member and average what you need"
            )
            raise SettingsError(msg)
    with strictly(settings.registry.strict), initial_store(settings.data.store, checkpoints[0]) as name:
        conditions = Conditions(name, None, settings.device, settings.precision, settings.memory, seed=settings.seed)
        with readable(conditions.out_of_memory) as watched:
            predictor = load_forecast_predictor(checkpoints[0], conditions)
            watched.model = predictor.space.model
            job = ForecastJob(settings, checkpoints, predictor)
            with torch.no_grad():
                return job.run()


class _Position(NamedTuple):
    """Member, initial time and step of a prediction, each counted from 0."""

    member: int
    start: int
    step: int


class ForecastJob:
    """One forecast: members, initial times, steps."""

    def __init__(self, settings: ForecastSettings, checkpoints: Sequence[Checkpoint], predictor: Predictor) -> None:
        self._settings = settings
        self._checkpoints = checkpoints
        self._space, self._pairs, self._store = predictor.space, predictor.pairs, predictor.store
        self._precision = predictor.precision
        self._starts = chosen_starts(settings, checkpoints[0], predictor.pairs)
        # Rows and columns that are written: without the halo, which is context alone.
        self._window = predictor.pairs.selection.grid.window or (slice(None), slice(None))
        self._has_members = len(checkpoints) > 1 and settings.members == "each"
        self._specialists: Specialists | None = None
        if len(checkpoints) > 1:
            # What each checkpoint has beside the base; the model in ``space`` is the first one's.
            members = [Specialist(str(each.path), each.description, each.tensors()) for each in checkpoints]
            self._specialists = Specialists(predictor.space.model, members)

    def run(self) -> ForecastResult:
        """Predict and write everything."""
        settings = self._settings
        predictions = self._predictions()
        # The layout needs names and levels, which the first prediction has.
        position, first = next(predictions)
        layout = self._layout(first)
        with writing(settings.out, layout) as writer:
            self._write(writer, position, first)
            del first
            for position, prediction in predictions:
                self._write(writer, position, prediction)
        names = [str(checkpoint.path) for checkpoint in self._checkpoints]
        return ForecastResult(
            out=str(settings.out),
            checkpoint=names if len(names) > 1 else names[0],
            store=settings.data.store or str(self._store.path),
            synthetic=bool(self._store.attributes.get("synthetic")),
            start=[f"{start:%Y-%m-%dT%H:%M}" for start in layout.starts],
            steps=settings.steps,
            lead_hours=[self._space.spec.lead_hours * step for step in range(1, settings.steps + 1)],
            members=len(names),
            written=settings.members,
            variables=[*layout.surface, *layout.atmospheric],
            levels=list(layout.levels),
            grid=list(layout.shape),
            bytes=bytes_of(settings.out),
            precision=self._precision,
            seed=self._seed(),
        )

    def _seed(self) -> int | None:
        """Return the seed of the noise; None where no noise is read, or not by name."""
        noise = self._space.noise
        if noise is None or not self._space.model.backbone.stochastic:
            return None
        return noise.seed

    def _predictions(self) -> Iterator[tuple[_Position, Batch]]:
        """Predict under a store's names, members outermost: each takes the model's place once."""
        steps, said = self._settings.steps, time.monotonic()
        names = [""] if self._specialists is None else list(self._specialists.names)
        for member, name in enumerate(names):
            if self._specialists is not None:
                self._specialists.switch(name)
            if self._space.noise is not None:
                self._space.noise = replace(self._space.noise, member=member)
            for start, index in enumerate(self._starts):
                state = self._pairs.inputs([index])
                _check_finite(state, self._space, f"{self._store.path}: the initial state of {_valid_time(state)}")
                rolled = roll_out(self._space, state, steps)
                # Held by the roll-out alone, which lets go of it after the first step.
                del state
                for step, prediction in enumerate(rolled):
                    _check_prediction(prediction, self._space, step + 1, name)
                    yield _Position(member, start, step), prediction
                    if time.monotonic() - said >= _SAY_EVERY:
                        said = time.monotonic()
                        number, runs = member * len(self._starts) + start + 1, len(self._starts) * len(names)
                        _logger.info("forecast %d of %d: step %d of %d", number, runs, step + 1, steps)

    def _write(self, writer: Writer, position: _Position, prediction: Batch) -> None:
        members = len(self._checkpoints)
        index = position[1:]
        for name, value in (prediction.surf_vars | prediction.atmos_vars).items():
            # NumPy has no bfloat16, and a halo is not written.
            values = value[(0, 0, ..., *self._window)].float().cpu().numpy()
            if self._has_members:
                writer.write(name, tuple(position), values)
                continue
            # The sum so far stands in the file, so that no member's forecast has to be held.
            if position.member > 0:
                values = writer.read(name, index) + values
            if members > 1 and position.member == members - 1:
                values = values / members
            writer.write(name, index, values)

    def _layout(self, prediction: Batch) -> ForecastLayout:
        store, spec = self._store, self._space.spec
        latitude, longitude = self._pairs.selection.grid.scored_coordinates(store)
        if longitude.ndim == 1:
            # Readers of files want increasing longitudes: those of a box across Greenwich are negative in its west.
            drop = np.flatnonzero(np.diff(longitude) < 0)
            if drop.size:
                longitude = np.where(np.arange(len(longitude)) <= drop[0], longitude - 360, longitude)
        attributes = {
            "Conventions": "CF-1.11",
            "title": f"Forecast of a fine-tuned Aurora, variant {spec.variant}",
            "source": f"Aurora ({spec.variant}), fine-tuned and run with aurora-finetune-kit {__version__}",
            # Paths are this machine's; a file that is passed on keeps their last parts.
            "checkpoint": [portable_name(checkpoint.path) for checkpoint in self._checkpoints],
            "lead_hours": spec.lead_hours,
            "precision": self._precision,
            "initial_states": Path(self._settings.data.store or store.attributes.get("registry") or store.path).name,
            "licence_of_initial_states": str(store.attributes.get("licence", "")),
            "synthetic": bool(store.attributes.get("synthetic")),
        }
        if (seed := self._seed()) is not None:
            attributes["seed"] = seed
        if projection := store.attributes.get("projection"):
            attributes["projection"] = projection
        return ForecastLayout(
            surface={name: self._described(name, "surface") for name in prediction.surf_vars},
            atmospheric={name: self._described(name, "atmospheric") for name in prediction.atmos_vars},
            levels=[float(level) for level in prediction.metadata.atmos_levels],
            latitude=latitude,
            longitude=longitude,
            starts=[self._pairs.time(index) for index in self._starts],
            timestep=spec.timestep,
            steps=self._settings.steps,
            members=len(self._checkpoints) if self._has_members else 0,
            attributes=attributes,
        )

    def _described(self, name: str, kind: Kind) -> dict[str, Any]:
        """Return the attributes of a variable: the table's, and the store's where the model was given it from there."""
        # A head predicts further channels of its variable, under names that begin with the variable's.
        for parent in self._space.spec.heads:
            if name.startswith(f"{parent}_"):
                return _described_head(name.removeprefix(f"{parent}_"), self._described(parent, kind))
        described: dict[str, Any] = {}
        if known := lookup(name, kind):
            described |= known.attributes()
        # What the store says of its own variables comes before what the table knows in general.
        stored = {"surface": self._store.surface, "atmospheric": self._store.atmospheric}
        if name in stored[kind]:
            described |= self._store.variable_attributes(name)
        if self._specialists is not None and not self._has_members:
            described["cell_methods"] = f"{described.get('cell_methods', '')} realization: mean".strip()
        return described


def roll_out(space: TrainingSpace, state: Batch, steps: int) -> Iterator[Batch]:
    """Predict step by step, each prediction becoming the newest input state.

    Args:
        space: Model that predicts.
        state: Physical variables of the input states, [1, T, H, W] and [1, T, C, H, W].
        steps: Number of model steps.

    Yields:
        Physical variables under a store's names, [1, 1, H, W] and [1, 1, C, H, W], on the model's device.

    Raises:
        CheckpointError: the model does not predict all that it reads, so that there is no second step.
    """
    state = state.to(next(space.model.parameters()).device)
    for step in range(1, steps + 1):
        _, prediction = space.step(space.inputs(state))
        if step < steps:
            try:
                state = space.advance(state, prediction)
            except KitError:
                raise
            except ValueError as error:
                msg = f"the forecast cannot go on after step {step}: {error}. Ask for no more, with --steps {step}"
                raise CheckpointError(msg) from error
        # Under a store's names the wave model's wind has lost what the next step reads, so that the state above is
        # made of upstream's.
        yield space.physical(prediction)


def _described_head(channel: str, variable: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of what a head predicts beside its variable: a probability, or another quantile."""
    long_name = str(variable.get("long_name", ""))
    if channel == "occurrence":
        return {"long_name": f"Probability of {long_name.lower()} of 0.1 mm or more", "units": "1"}
    order = channel.removeprefix("q").replace("_", ".")
    return {**variable, "long_name": f"{long_name}, quantile of {order} %"}


def _check_prediction(prediction: Batch, space: TrainingSpace, step: int, member: str) -> None:
    whose = f" of {member}" if member else ""
    lead = f"step {step} (+{step * space.spec.lead_hours:g} h, valid {_valid_time(prediction)})"
    _check_finite(prediction, space, f"the forecast{whose} breaks down at {lead}: the prediction")


def _check_finite(batch: Batch, space: TrainingSpace, what: str) -> None:
    """Check that everything that should be a number is one.

    Raises:
        CheckpointError: names the variables.
    """
    bad = []
    for name, value in (batch.surf_vars | batch.atmos_vars).items():
        # Waves are absent over land by design.
        if name not in space.may_be_missing and not value.isfinite().all():
            bad.append(name)
    if bad:
        msg = f"{what} holds NaN or Inf in {', '.join(bad)}; nothing was written"
        raise CheckpointError(msg)


def _valid_time(batch: Batch) -> str:
    return f"{batch.metadata.time[0]:%Y-%m-%dT%H:%M}"
