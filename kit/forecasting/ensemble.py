"""Ensembles: one list of initial times and members, which can be killed, resumed and shared by several processes.

Every member's forecast from every initial time follows from the plan and its own name alone: neither the order in
which they are made nor the process that makes them changes a bit.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from aurora import Batch

from kit.checkpoint.folder import open_checkpoint
from kit.forecasting.describing import attributes_of, layout_of
from kit.forecasting.diffused import check_one_checkpoint
from kit.forecasting.ensemble_folder import EnsembleFolder, Pass, check_plan, joined
from kit.forecasting.ensemble_plan import (
    PLAN,
    as_attribute,
    conditions_of,
    finished_plan,
    plan_of,
    recorded_members_per_pass,
)
from kit.forecasting.ensemble_result import EnsembleResult, read_result
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates, chosen_starts
from kit.forecasting.perturbations import PERTURBATIONS
from kit.forecasting.predictor import Conditions, Predictor, load_forecast_predictor
from kit.forecasting.products import check_products, make_products
from kit.forecasting.rolling import check_finite, check_prediction, roll_out, valid_time
from kit.forecasting.unperturbed import Perturbation, Perturbing
from kit.forecasting.writing import ForecastLayout
from kit.io.retry import poll
from kit.memory.out_of_memory import readable
from kit.models.noise import NamedNoise
from kit.models.space import indexed
from kit.registry.fetching import strictly

_logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0
"""Seconds between words on the progress."""
_LOOK_EVERY = 1.0
"""Seconds between two looks at what other processes have done."""

MembersPerPass = Callable[[EnsembleSettings, InitialStates], int]
"""Chooses the number of members that go through the model together."""


def one_member(_settings: EnsembleSettings, _source: InitialStates) -> int:
    """Let members go through the model one by one."""
    return 1


def ensemble(settings: EnsembleSettings, members_per_pass: MembersPerPass = one_member) -> EnsembleResult:
    """Forecast the members of an ensemble and write them to one Zarr.

    Processes that are started with the same settings share the work; one that was killed is made up for by the others,
    or by the same call afterwards.

    Args:
        settings: Checkpoints, members and what they differ by, initial times (UTC), number of model steps, Zarr to
            write, device and memory.
        members_per_pass: Chooses the members of a forward pass where the settings leave it open.

    Returns:
        What was written, and where, when all of it is there.

    Raises:
        KitError: checkpoints, store and settings do not fit together, another ensemble is there, a prediction is not
            finite, or memory runs out. What is done is kept, beside ``out``.
        OSError: the disk is full, or refuses; what is done is kept in the same way.
    """
    check_one_checkpoint(settings)
    checkpoints = [open_checkpoint(folder) for folder in settings.checkpoint]
    with strictly(settings.registry.strict), ExitStack() as opened:
        opening = (InitialStates.opened(settings.data.store, checkpoint) for checkpoint in checkpoints)
        sources = [opened.enter_context(each) for each in opening]
        job = EnsembleJob(settings, sources)
        plan = {**job.plan(), "members_per_pass": settings.members_per_pass}
        adopted = []
        if settings.members_per_pass == "auto":
            adopted = ["members_per_pass"]
            recorded = recorded_members_per_pass(settings.out)
            plan["members_per_pass"] = recorded or members_per_pass(settings, sources[0])
        if settings.out.exists() or settings.out.is_symlink():
            check_plan(settings.out, plan, finished_plan(settings.out))
        spec = sources[0].checkpoint.spec
        variables = (*spec.upstream.physical(spec.surface), *spec.atmospheric)
        check_products(settings, variables, plan, wave=spec.upstream.is_wave)
        with joined(settings.out, plan, adopted) as folder, torch.no_grad():
            job.run(folder)
            return read_result(settings, sources[0], folder.plan)


class EnsembleJob:
    """One ensemble: checkpoints, initial times, members.

    Args:
        settings: What is asked for.
        sources: Initial states of each checkpoint.
    """

    def __init__(self, settings: EnsembleSettings, sources: Sequence[InitialStates]) -> None:
        self._settings = settings
        self._sources = sources
        first = sources[0]
        self._starts = [first.pairs.time(index) for index in chosen_starts(settings, first.checkpoint, first.pairs)]
        self._perturbations: list[Perturbation] = [PERTURBATIONS[settings.perturb](settings) for _ in sources]
        # One model at a time, with the index of its checkpoint.
        self._loaded: tuple[int, Predictor] | None = None
        self._layout: ForecastLayout | None = None
        self._said = time.monotonic()
        self._waits = False

    def plan(self) -> dict[str, Any]:
        """Collect everything that the members' values follow from.

        Raises:
            KitError: they cannot be made from these checkpoints and states.
        """
        checked = zip(self._sources, self._perturbations, strict=True)
        described = [perturbation.check(source, self._starts) for source, perturbation in checked]
        more: dict[str, Any] = {}
        for name in described[0]:
            values = [each[name] for each in described]
            more[name] = values
            if all(value == values[0] for value in values):
                more[name] = values[0]
        return plan_of(self._settings, self._sources, self._starts, more)

    def run(self, folder: EnsembleFolder) -> None:
        """Make what is missing, until all is there."""
        passes = self._passes(folder.plan["members_per_pass"])

        def all_is_there() -> bool:
            if not self._settings.out.exists():
                while left := self._left(folder, passes):
                    if not self._take_free(folder, left, len(passes)):
                        self._say_waiting(len(left), len(passes))
                        return False
            with folder.claims.held("end") as mine:
                if mine:
                    self._end(folder)
            return mine

        poll(all_is_there, _LOOK_EVERY)

    def _left(self, folder: EnsembleFolder, passes: Sequence[Pass]) -> list[Pass]:
        done = folder.done()
        return [each for each in passes if each.name not in done]

    def _say_waiting(self, left: int, total: int) -> None:
        if not self._waits:
            self._waits = True
            _logger.info("waiting for %d of %d passes, which other processes make", left, total)

    def _end(self, folder: EnsembleFolder) -> None:
        """Do what is left when all members are there, as far as no other process has done it."""
        if not self._settings.out.exists():
            folder.publish()
        make_products(self._settings, folder.plan)

    def _passes(self, members_per_pass: int) -> list[Pass]:
        """List all passes, checkpoints outermost: each is loaded once."""
        passes = []
        count = len(self._sources)
        for checkpoint in range(count):
            own = [member for member in self._settings.numbers if member % count == checkpoint]
            for start in range(len(self._starts)):
                parts = [own[first : first + members_per_pass] for first in range(0, len(own), members_per_pass)]
                passes += [Pass(checkpoint, start, tuple(members)) for members in parts]
        return passes

    def _take_free(self, folder: EnsembleFolder, left: Iterable[Pass], total: int) -> bool:
        """Make the passes that nobody else makes; return whether there was one."""
        any_made = False
        for each in left:
            with folder.claims.held(each.name) as mine:
                # Another process may have recorded it since this one looked.
                if not mine or each.name in folder.done():
                    continue
                self._make(folder, each)
                any_made = True
            if time.monotonic() - self._said >= _SAY_EVERY:
                self._said = time.monotonic()
                _logger.info("%d of %d passes are done", len(folder.done()), total)
        return any_made

    def _make(self, folder: EnsembleFolder, each: Pass) -> None:
        """Forecast the members of a pass, and record that it is done."""
        conditions = conditions_of(self._settings, self._sources[each.checkpoint])
        with readable(lambda shortage: conditions.out_of_memory(shortage, len(each.members))) as watched:
            predictor = self._predictor(each.checkpoint, conditions, folder)
            watched.model = predictor.space.model
            for sample, lead, prediction in self._predictions(each, predictor):
                if self._layout is None:
                    self._layout = self._lay_out(prediction, predictor, folder)
                self._write(folder, each, sample, lead, prediction, predictor)
        assert self._layout is not None
        folder.record(each, self._layout)

    def _predictor(self, checkpoint: int, conditions: Conditions, folder: EnsembleFolder) -> Predictor:
        if self._loaded is None or self._loaded[0] != checkpoint:
            # The one before it goes first: there is memory for one.
            self._loaded = None
            source, perturbation = self._sources[checkpoint], self._perturbations[checkpoint]
            predictor = load_forecast_predictor(source.checkpoint, conditions)
            perturbation.prepare(source, predictor, folder)
            self._loaded = (checkpoint, predictor)
        return self._loaded[1]

    def _predictions(self, each: Pass, predictor: Predictor) -> Iterator[tuple[int, int, Batch]]:
        """Predict the members of a pass: sample and lead in the file, each from 0, and the prediction of all."""
        source, perturbation = self._sources[each.checkpoint], self._perturbations[each.checkpoint]
        space, start, steps = predictor.space, self._starts[each.start], self._settings.steps
        lags = [perturbation.lag(member) for member in each.members]
        state = _states(predictor, [source.index(start, lag) for lag in lags])
        check_finite(state, space, f"{source.store.path}: the initial state of {valid_time(state)}")
        amplitude = perturbation.noise_amplitude
        space.noise = NamedNoise(self._settings.seed, members=each.members, amplitude=amplitude)
        rolled = roll_out(space, state, steps + max(lags), Perturbing(perturbation, each.members, start))
        # Held by the roll-out alone, which lets go of it after the first step.
        del state
        whose = f"member(s) {', '.join(map(str, each.members))} from {start:%Y-%m-%dT%H:%M}"
        for step, prediction in enumerate(rolled):
            check_prediction(prediction, space, step + 1, whose)
            for sample, lag in enumerate(lags):
                # Steps before the initial time bring a lagged member to it.
                if 0 <= step - lag < steps:
                    yield sample, step - lag, prediction

    def _lay_out(self, prediction: Batch, predictor: Predictor, folder: EnsembleFolder) -> ForecastLayout:
        settings = self._settings
        attributes = attributes_of(predictor, settings.checkpoint, settings.data.store)
        plan = dict(folder.plan)
        attributes |= {name: plan[name] for name in ("perturb", "seed", "members_per_pass")}
        attributes[PLAN] = as_attribute(plan)
        return layout_of(prediction, predictor, self._starts, settings.steps, attributes, members=settings.numbers)

    def _write(
        self, folder: EnsembleFolder, each: Pass, sample: int, lead: int, prediction: Batch, predictor: Predictor
    ) -> None:
        assert self._layout is not None
        writer = folder.writer(self._layout)
        # Rows and columns that are written: without the halo, which is context alone.
        window = predictor.pairs.selection.grid.window or (slice(None), slice(None))
        place = (self._settings.numbers.index(each.members[sample]), each.start, lead)
        for name, value in (prediction.surf_vars | prediction.atmos_vars).items():
            # NumPy has no bfloat16.
            writer.write(name, place, value[(sample, 0, ..., *window)].float().cpu().numpy())


def _states(predictor: Predictor, indices: Sequence[int]) -> Batch:
    """Read input states, those that several members start from once."""
    distinct = sorted(set(indices))
    state = predictor.pairs.inputs(distinct)
    places = [distinct.index(index) for index in indices]
    metadata = replace(state.metadata, time=tuple(state.metadata.time[place] for place in places))
    picked = (torch.tensor(places),)
    surface, atmospheric = indexed(state.surf_vars, picked), indexed(state.atmos_vars, picked)
    return replace(state, surf_vars=surface, atmos_vars=atmospheric, metadata=metadata)
