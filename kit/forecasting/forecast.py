"""Forecasts: initial states from a store, the model's own predictions from there on, and a file in the end."""

from __future__ import annotations

import bisect
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from aurora import Batch

from kit import __version__
from kit.adapt.specialists import Specialist, Specialists, refuse_different
from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.data.dataset import Pairs
from kit.data.settings import BuildSettings, Period
from kit.data.store.build import build_store
from kit.data.variables import Kind, lookup
from kit.forecasting.predictor import Conditions, Forecaster, build_starter
from kit.forecasting.settings import ForecastSettings
from kit.forecasting.writing import Layout, Writer, bytes_of, writing
from kit.io.atomic import refuse_existing
from kit.io.errors import CheckpointError, KitError, SettingsError, StoreError
from kit.memory.out_of_memory import readable
from kit.models.space import TrainingSpace

__all__ = ["forecast", "roll_out"]

_logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0
"""Seconds between words on the progress of a long forecast."""
_EVER = Period(datetime(1000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


def forecast(settings: ForecastSettings) -> dict[str, Any]:
    """Roll checkpoints out from initial states and write what they predict.

    Memory does not depend on the number of steps: every prediction is written before the next one is made.

    Returns:
        What ``kit forecast --json`` prints.

    Raises:
        KitError: checkpoints, store and settings do not fit together, or a prediction is not finite.
        OSError: the disk is full, or refuses; nothing is left behind.
    """
    refuse_existing(settings.out)
    checkpoints = [open_checkpoint(folder) for folder in settings.checkpoint]
    _check_members(settings, checkpoints)
    with _initial_store(settings, checkpoints[0]) as name:
        conditions = Conditions(name, None, settings.device, settings.precision, settings.memory)
        with readable(conditions.out_of_memory) as watched:
            forecaster = build_starter(checkpoints[0], conditions)
            watched.model = forecaster.space.model
            job = _Job(settings, checkpoints, forecaster)
            with torch.no_grad():
                return job.run()


def _check_members(settings: ForecastSettings, checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints that are no ensemble.

    Raises:
        CheckpointError: they are not deltas on one base.
        SettingsError: their mean means nothing.
    """
    if len(checkpoints) == 1:
        return
    refuse_different([(str(checkpoint.path), checkpoint.description) for checkpoint in checkpoints])
    if settings.members == "mean" and checkpoints[0].spec.upstream.is_wave:
        msg = (
            "members: the wave model predicts directions, which have no plain mean, and waves that are absent in some "
            "members; write each member and average what you need"
        )
        raise SettingsError(msg)


@contextmanager
def _initial_store(settings: ForecastSettings, checkpoint: Checkpoint) -> Iterator[str | None]:
    """The store to start from; a NetCDF file becomes one for as long as the forecast takes."""
    name = settings.data.store
    if name is None or not Path(name).is_file():
        yield name
        return
    spec, data = checkpoint.spec, checkpoint.description["data"]
    never_read = spec.upstream.physical(spec.output_only)
    with tempfile.TemporaryDirectory(prefix="kit-forecast-") as scratch:
        built = BuildSettings(
            source="netcdf",
            path=Path(name),
            out=Path(scratch) / "store",
            variables=tuple(variable for variable in data["variables"] if variable not in never_read),
            levels=data["levels"],
            train=_EVER,
        )
        yield str(build_store(built).path)


class _Job:
    """One forecast: members, initial times, steps."""

    def __init__(self, settings: ForecastSettings, checkpoints: Sequence[Checkpoint], forecaster: Forecaster) -> None:
        self._settings = settings
        self._checkpoints = checkpoints
        self._space, self._pairs, self._store = forecaster.space, forecaster.pairs, forecaster.store
        self._starts = _chosen_starts(settings, checkpoints[0], forecaster.pairs)
        self._specialists = _specialists(forecaster.space, checkpoints)
        self._said = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Predict, write, and say what was written."""
        out = self._settings.out
        predictions = self._predictions()
        where, first = next(predictions)
        layout = self._layout(first)
        with writing(out, layout) as writer:
            self._write(writer, where, first)
            del first
            for where, prediction in predictions:
                self._write(writer, where, prediction)
        return self._result(layout)

    def _predictions(self) -> Iterator[tuple[_Where, Batch]]:
        """All predictions under a store's names, members outermost: each takes the model's place once."""
        for member, name in enumerate(self._specialists.names if self._specialists else [""]):
            if self._specialists:
                self._specialists.switch(name)
            for start, index in enumerate(self._starts):
                state = self._pairs.inputs([index])
                _check_finite(state, self._space, f"{self._store.path}: the initial state of {_text(state)}")
                rolled = roll_out(self._space, state, self._settings.steps)
                del state
                for step, prediction in enumerate(rolled):
                    _check_prediction(prediction, self._space, step + 1, name)
                    yield _Where(member, start, step), prediction
                    self._say(member, start, step)

    def _write(self, writer: Writer, where: _Where, prediction: Batch) -> None:
        members = len(self._checkpoints)
        for name, value in (prediction.surf_vars | prediction.atmos_vars).items():
            values = value[(0, 0, ..., *self._window)].float().cpu().numpy()
            if members == 1:
                writer.write(name, (where.start, where.step), values)
            elif self._settings.members == "each":
                writer.write(name, (where.member, where.start, where.step), values)
            else:
                # The sum so far stands in the file, so that no member's forecast has to be held.
                index = (where.start, where.step)
                total = values if where.member == 0 else writer.read(name, index) + values
                writer.write(name, index, total / members if where.member == members - 1 else total)

    def _layout(self, prediction: Batch) -> Layout:
        latitude, longitude = self._pairs.selection.grid.scored_coordinates(self._store)
        return Layout(
            surface={name: self._described(name, "surface") for name in prediction.surf_vars},
            atmospheric={name: self._described(name, "atmospheric") for name in prediction.atmos_vars},
            levels=[float(level) for level in prediction.metadata.atmos_levels],
            latitude=latitude,
            longitude=_increasing(longitude),
            starts=[self._pairs.time(index) for index in self._starts],
            timestep=self._space.spec.timestep,
            steps=self._settings.steps,
            members=len(self._checkpoints) if self._members_apart else 0,
            attributes=self._attributes(),
        )

    @property
    def _window(self) -> tuple[slice, slice]:
        """Rows and columns that are written: without the halo, which is context alone."""
        return self._pairs.selection.grid.window or (slice(None), slice(None))

    @property
    def _members_apart(self) -> bool:
        return len(self._checkpoints) > 1 and self._settings.members == "each"

    def _described(self, name: str, kind: Kind) -> dict[str, Any]:
        """Attributes of a variable: the table's, and the store's where the model was given it from there."""
        for parent in self._space.spec.heads:
            if name.startswith(f"{parent}_"):
                return _described_head(name.removeprefix(f"{parent}_"), self._described(parent, kind))
        known = lookup(name, kind)
        held = name in (self._store.surface if kind == "surface" else self._store.atmospheric)
        own = self._store.variable_attributes(name) if held else {}
        described = {**(known.attributes() if known else {}), **own}
        if self._specialists is not None and not self._members_apart:
            described["cell_methods"] = f"{described.get('cell_methods', '')} realization: mean".strip()
        return described

    def _attributes(self) -> dict[str, Any]:
        store, spec = self._store, self._space.spec
        names = [_short(checkpoint.path) for checkpoint in self._checkpoints]
        return {
            "Conventions": "CF-1.11",
            "title": f"Forecast of a fine-tuned Aurora, variant {spec.variant}",
            "source": f"Aurora ({spec.variant}), fine-tuned and run with aurora-finetune-kit {__version__}",
            "checkpoint": names,
            "lead_hours": spec.lead_hours,
            "initial_states": Path(self._settings.data.store or store.attributes.get("registry") or store.path).name,
            "licence_of_initial_states": str(store.attributes.get("licence", "")),
            "synthetic": bool(store.attributes.get("synthetic")),
            **({"projection": projection} if (projection := store.attributes.get("projection")) else {}),
        }

    def _say(self, member: int, start: int, step: int) -> None:
        if time.monotonic() - self._said >= _SAY_EVERY:
            self._said = time.monotonic()
            steps = self._settings.steps
            runs, done = len(self._starts) * len(self._checkpoints), member * len(self._starts) + start
            _logger.info("forecast %d of %d: step %d of %d", done + 1, runs, step + 1, steps)

    def _result(self, layout: Layout) -> dict[str, Any]:
        settings = self._settings
        names = [str(checkpoint.path) for checkpoint in self._checkpoints]
        return {
            "out": str(settings.out),
            "checkpoint": names[0] if len(names) == 1 else names,
            "store": settings.data.store or str(self._store.path),
            "synthetic": bool(self._store.attributes.get("synthetic")),
            "start": [f"{start:%Y-%m-%dT%H:%M}" for start in layout.starts],
            "steps": settings.steps,
            "lead_hours": [self._space.spec.lead_hours * step for step in range(1, settings.steps + 1)],
            "members": len(names),
            "written": "mean" if len(names) > 1 and settings.members == "mean" else "each",
            "variables": [*layout.surface, *layout.atmospheric],
            "levels": list(layout.levels),
            "grid": list(layout.shape),
            "bytes": bytes_of(settings.out),
        }


@dataclass(frozen=True)
class _Where:
    """Place of a prediction: member, initial time and step, each counted from 0."""

    member: int
    start: int
    step: int


def roll_out(space: TrainingSpace, state: Batch, steps: int) -> Iterator[Batch]:
    """Predict step by step, each prediction becoming the newest input state.

    Args:
        space: predicts.
        state: physical variables of the input states, [1, T, H, W] and [1, T, C, H, W].
        steps: how many.

    Yields:
        Physical variables under a store's names, [1, 1, H, W] and [1, 1, C, H, W], on the model's device.

    Raises:
        CheckpointError: the model does not predict all that it reads, so that there is no second step.
    """
    state = state.to(next(space.model.parameters()).device)
    for step in range(1, steps + 1):
        _, prediction = space.step(space.inputs(state))
        if step < steps:
            state = _advanced(space, state, prediction, step)
        yield space.physical(prediction)


def _advanced(space: TrainingSpace, state: Batch, prediction: Batch, step: int) -> Batch:
    """The next input states.

    Raises:
        CheckpointError: the model does not predict all that it reads.
    """
    try:
        return space.advance(state, prediction)
    except KitError:
        raise
    except ValueError as error:
        msg = f"the forecast cannot go on after step {step}: {error}. Ask for no more, with --steps {step}"
        raise CheckpointError(msg) from error


def _described_head(channel: str, variable: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of what a head says beside its variable: a probability, or another quantile."""
    long_name = str(variable.get("long_name", ""))
    if channel == "occurrence":
        return {"long_name": f"Probability of {long_name.lower()} of 0.1 mm or more", "units": "1"}
    order = channel.removeprefix("q").replace("_", ".")
    return {**variable, "long_name": f"{long_name}, quantile of {order} %"}


def _increasing(longitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Longitudes as readers of files want them: those of a box across Greenwich are negative in its west."""
    if longitude.ndim == 2:
        return longitude
    drop = np.flatnonzero(np.diff(longitude) < 0)
    return longitude if not drop.size else np.where(np.arange(len(longitude)) <= drop[0], longitude - 360, longitude)


def _specialists(space: TrainingSpace, checkpoints: Sequence[Checkpoint]) -> Specialists | None:
    """Of several checkpoints, what each has beside the base; the model in ``space`` is the first one's."""
    if len(checkpoints) == 1:
        return None
    members = [Specialist(str(each.path), each.description, each.tensors()) for each in checkpoints]
    return Specialists(space.model, members)


def _chosen_starts(settings: ForecastSettings, checkpoint: Checkpoint, pairs: Pairs) -> list[int]:
    """Positions among the initial states: those asked for, or the first of the test split.

    Raises:
        StoreError: the store has no initial state then; names the nearest.
    """
    possible = [pairs.time(index) for index in range(len(pairs))]
    if settings.start is None:
        return [_default_start(settings, checkpoint, pairs, possible)]
    chosen: list[int] = []
    for period in settings.start:
        found = [index for index, moment in enumerate(possible) if period.start <= moment <= period.end]
        if not found:
            raise StoreError(_no_start(period, pairs, possible))
        chosen += [index for index in found if index not in chosen]
    return sorted(chosen)


def _default_start(
    settings: ForecastSettings, checkpoint: Checkpoint, pairs: Pairs, possible: Sequence[datetime]
) -> int:
    if settings.data.store is not None and len(possible) == 1:
        return 0
    test = Period.parse(checkpoint.description["data"]["test"])
    # Every input state lies in the test split, so that none was trained on.
    earliest = test.start + (pairs.selection.history - 1) * pairs.selection.timestep
    found = [index for index, moment in enumerate(possible) if earliest <= moment <= test.end]
    if not found:
        msg = (
            f"{pairs.store.path}: no initial state in the checkpoint's test split {test}; possible are {len(possible)} "
            f"from {possible[0]:%Y-%m-%dT%H:%M} to {possible[-1]:%Y-%m-%dT%H:%M}: choose with --start"
        )
        raise StoreError(msg)
    return found[0]


def _no_start(period: Period, pairs: Pairs, possible: Sequence[datetime]) -> str:
    single = period.start == period.end
    asked = f"{period.start:%Y-%m-%dT%H:%M}" if single else str(period)
    place = bisect.bisect(possible, period.start)
    nearest = [f"{moment:%Y-%m-%dT%H:%M}" for moment in possible[max(0, place - 1) : place + 1]]
    hours = pairs.selection.timestep.total_seconds() / 3600
    return (
        f"start: {pairs.store.path} has no initial state {'at' if single else 'in'} {asked}: "
        f"{pairs.selection.history} states {hours:g} h apart, the last at the initial time, are needed. The nearest "
        f"possible {'are' if len(nearest) > 1 else 'is'} {' and '.join(nearest)}"
    )


def _check_prediction(prediction: Batch, space: TrainingSpace, step: int, member: str) -> None:
    whose = f" of {member}" if member else ""
    lead = f"step {step} (+{step * space.spec.lead_hours:g} h, valid {_text(prediction)})"
    _check_finite(prediction, space, f"the forecast{whose} breaks down at {lead}: the prediction")


def _check_finite(batch: Batch, space: TrainingSpace, what: str) -> None:
    """Refuse to go on from, or to write, what is no number and should be one.

    Raises:
        CheckpointError: names the variables.
    """
    values: Mapping[str, torch.Tensor] = batch.surf_vars | batch.atmos_vars
    bad = [name for name, value in values.items() if name not in space.may_be_missing and not value.isfinite().all()]
    if bad:
        msg = f"{what} holds NaN or Inf in {', '.join(bad)}; nothing was written"
        raise CheckpointError(msg)


def _text(batch: Batch) -> str:
    return f"{batch.metadata.time[0]:%Y-%m-%dT%H:%M}"


def _short(folder: Path) -> str:
    """A checkpoint's name without the folders that are this machine's."""
    parts = folder.absolute().parts
    return "/".join(parts[-3:] if folder.absolute().parent.name == "checkpoints" else parts[-1:])
