"""The main job: fine-tune, in a run folder, on the record, and resumable after any interruption."""

import logging
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from kit.adapt import trainable
from kit.checkpoint.run_folder import MetricsLog, RunFolder, claimed
from kit.io.errors import KitError
from kit.io.secrets import MaskedFormatter
from kit.memory.device import choose_device, peak_memory_gib
from kit.memory.out_of_memory import Shortage, readable
from kit.metrics.epochs import epoch_losses
from kit.planning.fit import Fitted, choose_memory, preflight
from kit.registry.fetching import strictly
from kit.run.callbacks import Recorder, Saver, TrainableCheck, cut_back, watch_signals
from kit.run.display import Display, OpenProgress, training_progress
from kit.run.drawing import look_at_samples
from kit.run.endings import AverageSaver, EarlyStop
from kit.run.failure_messages import ended_badly, ended_readably, no_room, no_room_to_start
from kit.run.quality import Quality, fit_for_training
from kit.run.recorded import as_begun
from kit.run.records import RunRecords, changed_settings, open_records, public_settings
from kit.run.resume import MemoryHistory, RunOrigin, check_same, find_folder, find_origin, restore
from kit.settings import Settings
from kit.tracking.store import reach, resolve_uri
from kit.tracking.system import visible_gpus, watching
from kit.tracking.tracker import RunStatus
from kit.train.build import Job, build_job
from kit.train.callback import Callback
from kit.train.loop import LoopState, fit

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """Outcome of a fine-tuning run.

    Attributes:
        run: Folder of the run.
        mlflow_run_id: Identifier of its MLflow run.
        device: Device that it ran on: ``cpu`` or ``cuda``.
        steps: Optimiser steps taken, those before a resumption among them.
        epochs: Passes over the training pairs.
        loss: Training loss of the ``first`` and of the ``last`` step, and its means over the first epoch
            (``first_epoch``) and the last complete one (``last_epoch``), which single batches do not sway; None before
            any step.
        valid: Validation loss ``before`` the first step, ``after`` the last, and the ``best``; ``ema`` is the lowest of
            the average of the weights, where one is kept.
        trainable_parameters: Number of parameters that train.
        total_parameters: Number of all parameters.
        step_seconds: Mean duration of a step, seconds.
        samples_per_second: Pairs trained on per second.
        data_wait_fraction: Share of the time that was spent waiting for data.
        peak_memory_gib: Highest memory, GiB: of the GPU, or of the process on a CPU.
        checkpoint: Folder of the checkpoint with the lowest validation loss.
        leaks: What of validation and test the base weights saw in training, a sentence each.
        precision: Precision of training (``train``) and of validation (``valid``), such as ``bf16``.
        draws: What the network that was trained draws: ``state``, ``next`` or ``residual``; None where Aurora was
            trained.
        operator: Weights that the operator beside it has; None where there is none.
        interrupted: Signal that ended the run early, such as ``SIGTERM``; None where it came to its end.
        early: Whether it ended early because validation had found no lower loss for ``train.patience``.
    """

    run: str
    mlflow_run_id: str
    device: str
    steps: int
    epochs: float
    loss: dict[str, float | None]
    valid: dict[str, float]
    trainable_parameters: int
    total_parameters: int
    step_seconds: float
    samples_per_second: float
    data_wait_fraction: float
    peak_memory_gib: float
    checkpoint: str
    leaks: list[str]
    precision: dict[str, str]
    draws: str | None
    operator: str | None
    interrupted: str | None = None
    early: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit finetune --json`` prints."""
        result = asdict(self)
        if self.interrupted is None:
            del result["interrupted"]
        if not self.early:
            del result["early"]
        return result


@dataclass(frozen=True)
class _Prepared:
    """A run before anything is made of it on the disk."""

    job: Job
    origin: RunOrigin
    quality: Quality
    fitted: Fitted | None
    history: MemoryHistory
    changed: Mapping[str, str]


def finetune(
    settings: Settings, *, recipe: str | None = None, progress: OpenProgress = training_progress
) -> FinetuneResult:
    """Fine-tune Aurora, in a folder of its own, with a record in MLflow.

    Args:
        settings: Settings of the run, such as ``Settings(run={"name": "a"}, train={"steps": 20})``.
        recipe: Name of the recipe that the settings start from, for the names of run and experiment.
        progress: Opens the view of progress; by default a bar on a terminal, and a line now and then elsewhere.

    Returns:
        Outcome of the run. Where SIGINT or SIGTERM ended it early, ``interrupted`` names the signal, and the run can be
        resumed from its last checkpoint.

    Raises:
        KitError: something that the user can mend.
    """
    folder = find_folder(settings, recipe)
    fresh = not folder.path.exists()
    with nullcontext() if fresh else claimed(folder.path), strictly(settings.registry.strict):
        with readable(partial(no_room_to_start, settings)):
            prepared = _prepare(settings, folder, fresh=fresh)
        return _run(prepared, recipe, progress)


def _prepare(settings: Settings, folder: RunFolder, *, fresh: bool) -> _Prepared:
    """Do everything that may be refused, before anything is made."""
    origin = find_origin(settings, folder, fresh=fresh)
    changed = changed_settings(settings)
    if origin.fresh:
        # A server that was never there is a wrong address; one that a run has begun with may be away for a while.
        reach(resolve_uri(settings.track.uri, settings.run.dir), settings.run.dir)
    if origin.checkpoint is not None:
        # Sums are split over threads, so that another number of them gives other last bits.
        torch.set_num_threads(origin.state["threads"])
        settings = as_begun(origin.state["settings"], settings)
    settings, fitted = choose_memory(settings, choose_device(settings.train.device))
    job = build_job(settings)
    step = job.run.step
    aurora = step.diffusion is None or (job.operator is not None and step.operator is None)
    quality = fit_for_training(job.store.path, settings.data.accept, aurora=aurora)
    history = MemoryHistory() if origin.checkpoint is None else check_same(origin, settings, job)
    return _Prepared(job, origin, quality, fitted, history, changed)


def _run(prepared: _Prepared, recipe: str | None, progress: OpenProgress) -> FinetuneResult:
    """Train in the run folder, which is free again if nothing began."""
    job, folder = prepared.job, prepared.origin.folder
    state = LoopState(**prepared.origin.state.get("loop", {}))
    begun: list[RunRecords] = []

    def out_of_memory(shortage: Shortage) -> str:
        return no_room(shortage, job, folder, state.step + 1)

    with (
        _holding(prepared.origin, begun),
        progress(job.schedule.steps, state.step) as view,
        ended_readably(folder),
        readable(out_of_memory, job.model),
    ):
        display = Display(view, job.trainer.device)
        check = TrainableCheck(job.trainer, folder, job.schedule.steps, job.settings.train.check_after, display.say)
        job.trainer.task.open(folder.replay)
        restore(prepared.origin, job)
        check.begin(state.step, prepared.origin.state.get("check"))
        kept = cut_back(folder, state.step if prepared.origin.checkpoint else -1)
        recorded = prepared.origin.state.get("provenance")
        records = open_records(
            job, folder, prepared.quality, recipe, check.params(), kept, prepared.history, recorded, prepared.changed
        )
        begun.append(records)
        status: RunStatus = "FAILED"
        try:
            gpus = visible_gpus() if job.trainer.device.type == "cuda" else []
            watched = watching(folder, records.tracker, job.settings.track.system_seconds, gpus)
            # Inside, because closing the run takes memory too.
            with watched, watch_signals(display.say) as stop, readable(out_of_memory, job.model):
                _announce(prepared, state, check, display)
                recorder = Recorder(folder, records.tracker, job.trainer.device)
                saver = Saver(job, folder, check, public_settings(job.settings), prepared.history)
                callbacks = [recorder, display, check, *_averaging(job, folder, recorder, saver), saver]
                if job.settings.train.patience is not None:
                    callbacks.append(EarlyStop(job.settings.train.patience, display.say))
                fit(job.trainer, job.schedule, state, [*callbacks, stop])
                if stop.caught is None:
                    look_at_samples(job, folder, display.say)
            # A signal during the last step changes nothing.
            stopped = stop.caught if state.step < job.schedule.steps else None
            status = "FINISHED" if stopped is None else "KILLED"
            return _result(records, state, stopped, display)
        except KeyboardInterrupt:
            status = "KILLED"
            display.say(f"ended at once, after step {state.step}. {ended_badly(folder)}")
            raise
        finally:
            job.trainer.task.close()
            records.close(status)


@contextmanager
def _holding(origin: RunOrigin, begun: list[RunRecords]) -> Iterator[None]:
    """Make the run folder if it is new, hold it, and write the kit's log to it.

    Args:
        origin: Where the run begins.
        begun: Empty as long as nothing has begun; the folder of a new run is then removed if it is refused.
    """
    folder = origin.folder
    if not origin.fresh:
        with _log(folder):
            yield
        return
    folder.create()
    with claimed(folder.path), _log(folder):
        try:
            yield
        except (KitError, KeyboardInterrupt):
            if not begun:
                # The name is free again.
                shutil.rmtree(folder.path, ignore_errors=True)
            raise


@contextmanager
def _log(folder: RunFolder) -> Iterator[None]:
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(MaskedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("kit")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def _averaging(job: Job, folder: RunFolder, recorder: Recorder, saver: Saver) -> list[Callback]:
    average = job.trainer.average
    return [] if average is None else [AverageSaver(job.trainer, average, folder, recorder, saver)]


def _announce(prepared: _Prepared, state: LoopState, check: TrainableCheck, display: Display) -> None:
    """Say what will happen, and what a person should know before it does."""
    job = prepared.job
    trains, total = trainable.count(job.model)
    verb = f"goes on from step {state.step}" if state.step else "starts"
    display.say(
        f"run {prepared.origin.folder.path} {verb}: {trains:,} of {total:,} parameters train, {len(job.train)} pairs, "
        f"{job.schedule.steps} steps on {job.trainer.device.type}, in "
        f"{job.settings.train.precision}, validated in {job.settings.train.valid_precision}"
    )
    display.say(check.report.text())
    for line in (*prepared.quality.accepted, *job.run.leaks):
        display.say(f"warning: {line}")
    for line in prepared.history.lines():
        display.say(f"memory: {line}")
    for note in job.trainer.task.notes:
        display.say(note)
    if prepared.fitted is not None:
        display.say(f"memory.fit chose {prepared.fitted}")
    elif warning := preflight(job):
        display.say(f"warning: {warning}")


def _result(records: RunRecords, state: LoopState, stopped: signal.Signals | None, display: Display) -> FinetuneResult:
    job, folder = records.job, records.folder
    if stopped is not None:
        display.say(
            f"stopped by {stopped.name} after step {state.step}; the checkpoint is {folder.last}. Go on with "
            f"the same settings and --run.name {folder.path.name} --train.resume auto"
        )
    trains, total = trainable.count(job.model)
    seconds = max(state.seconds, 1e-9)
    # Every run begins with a validation.
    assert state.before is not None
    assert state.after is not None
    assert state.best is not None
    # From the log, as the figure of the losses takes them.
    means = epoch_losses(MetricsLog(folder.metrics).records())
    first, last = (None, None) if means is None else (means.first, means.last)
    valid = {"before": state.before, "after": state.after, "best": state.best}
    if state.averaged_best is not None:
        valid["ema"] = state.averaged_best
    return FinetuneResult(
        run=str(folder.path),
        mlflow_run_id=records.tracker.run_id,
        device=job.trainer.device.type,
        steps=state.step,
        epochs=state.step / job.schedule.per_epoch,
        loss={"first": state.first, "last": state.latest, "first_epoch": first, "last_epoch": last},
        valid=valid,
        trainable_parameters=trains,
        total_parameters=total,
        step_seconds=seconds / max(state.step, 1),
        samples_per_second=state.samples / seconds,
        data_wait_fraction=state.wait_seconds / seconds,
        peak_memory_gib=peak_memory_gib(job.trainer.device),
        checkpoint=str(folder.best),
        leaks=list(job.run.leaks),
        precision={"train": job.settings.train.precision, "valid": job.settings.train.valid_precision},
        draws=None if job.run.step.diffusion is None else job.run.step.diffusion.settings.of,
        operator=None if job.operator is None else job.settings.model.weights,
        interrupted=None if stopped is None else stopped.name,
        early=stopped is None and state.step < job.schedule.steps,
    )
