"""Forecasts: initial states from a store, the model's own predictions from there on, and a file in the end."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from aurora import Batch

from kit.adapt.specialists import Specialist, Specialists, check_same_base
from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.forecasting.describing import attributes_of, layout_of
from kit.forecasting.initial_states import chosen_starts, initial_store
from kit.forecasting.predictor import Conditions, Predictor, load_forecast_predictor
from kit.forecasting.rolling import check_finite, check_prediction, roll_out, valid_time
from kit.forecasting.settings import ForecastSettings
from kit.forecasting.writing import ForecastLayout, Writer, bytes_of, writing
from kit.io.atomic import check_free
from kit.io.errors import SettingsError
from kit.memory.out_of_memory import readable
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
        self._predictor = predictor
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
        if noise is None or not self._space.spec.stochastic:
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
                check_finite(state, self._space, f"{self._store.path}: the initial state of {valid_time(state)}")
                rolled = roll_out(self._space, state, steps)
                # Held by the roll-out alone, which lets go of it after the first step.
                del state
                for step, prediction in enumerate(rolled):
                    check_prediction(prediction, self._space, step + 1, name)
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
        paths = [checkpoint.path for checkpoint in self._checkpoints]
        attributes = attributes_of(self._predictor, paths, self._settings.data.store)
        if (seed := self._seed()) is not None:
            attributes["seed"] = seed
        members: Sequence[int] = ()
        method = ""
        if self._has_members:
            members = range(len(paths))
        elif len(paths) > 1:
            method = "realization: mean"
        starts = [self._pairs.time(index) for index in self._starts]
        return layout_of(
            prediction, self._predictor, starts, self._settings.steps, attributes, members=members, method=method
        )
