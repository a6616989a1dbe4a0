"""Callbacks of a run: its record, its checkpoints, the check that everything trains, signals that end it."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from kit import __version__
from kit.adapt import trainable
from kit.adapt.trainable_report import GroupSchedule, report
from kit.checkpoint.folder import write_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder, read_side_file
from kit.io.sealed import write_sealed
from kit.memory.device import peak_memory_gib
from kit.models.space import Fields
from kit.run.resume import MemoryHistory
from kit.tracking.run_records import numbers, peaks
from kit.tracking.tracker import MetricRecord, Tracker
from kit.train.build import Job
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import StepReport, Trainer, Validation

_logger = logging.getLogger(__name__)


def cut_back(folder: RunFolder, step: int) -> list[MetricRecord]:
    """Drop from a run's logs what came after a step, and return the rest under MLflow's names.

    Args:
        folder: Folder of the run.
        step: Step that training resumes after; -1 keeps nothing.
    """
    records: list[MetricRecord] = []
    for log, named in ((folder.metrics, numbers), (folder.activations, peaks)):
        lines = MetricsLog(log).cut(step)
        records += [MetricRecord(line["step"], named(line), line["time_ms"]) for line in lines]
        if log == folder.metrics:
            trained = {line["step"] for line in lines if line["kind"] == "train"}
            lost = max(step, 0) - len(trained)
            if lost:
                _logger.warning("%s lacks %d of %d steps; figures show the others", log, lost, step)
    return records


class Recorder(Callback):
    """Records steps and validations in ``metrics.jsonl``, ``activations.jsonl`` and MLflow.

    Args:
        folder: Folder of the run.
        tracker: MLflow run.
        device: Device of the model, whose peak memory is recorded.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker, device: torch.device) -> None:
        self._metrics = MetricsLog(folder.metrics)
        self._activations = MetricsLog(folder.activations)
        self._tracker = tracker
        self._device = device

    def on_step(self, report: StepReport, state: LoopState) -> None:  # noqa: ARG002
        """Record one step."""
        seconds = report.compute_seconds + report.wait_seconds
        values = {
            "loss": report.loss,
            "lr": report.learning_rate,
            **_prefixed("lr", report.group_rates),
            "epoch": report.epoch,
            "grad_norm": float(report.gradients.total),
            "step_seconds": seconds,
            "wait_seconds": report.wait_seconds,
            "samples_per_second": report.samples / seconds,
            "peak_memory_gib": peak_memory_gib(self._device),
        }
        if report.depth is not None:
            values["depth"] = report.depth
        values |= _prefixed("loss", report.parts)
        values |= _prefixed("grad_norm", report.gradients.groups)
        self._record(report.step, "train", values)
        if report.activations:
            modules = {name: activation.as_dict() for name, activation in report.activations.items()}
            record: dict[str, Any] = {"step": report.step, "time_ms": _now_ms(), "modules": modules}
            self._activations.append(record)
            self._tracker.log(report.step, peaks(record), record["time_ms"])

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Record one validation."""
        self.record_validation("valid", validation, state)

    def record_validation(self, kind: str, validation: Validation, state: LoopState) -> None:
        """Record a validation of the weights (``valid``), or of their average (``ema``)."""
        values = {"loss": validation.loss, **_prefixed("loss", validation.parts), **validation.scores}
        self._record(state.step, kind, values)

    def on_checkpoint(self, state: LoopState) -> None:  # noqa: ARG002
        """Send what is buffered, and put what is recorded safely on the disk: a run may end here."""
        self._tracker.send_soon()
        self._metrics.sync()
        self._activations.sync()

    def _record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        record: dict[str, Any] = {"step": step, "time_ms": _now_ms(), "kind": kind, **values}
        self._metrics.append(record)
        self._tracker.log(step, numbers(record), record["time_ms"])


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _now_ms() -> int:
    return time.time_ns() // 10**6


class TrainableCheck(Callback):
    """Reports what trains, and checks after some steps, and at the end, that all of it does.

    Args:
        trainer: Trainer of the run, with what trains.
        folder: Folder of the run, where ``trains.json`` is written.
        steps: Optimiser steps of the whole run.
        after: Steps after which to check; None for never.
        say: Called with the verdict.

    Attributes:
        report: Table of what trains.
    """

    def __init__(
        self, trainer: Trainer, folder: RunFolder, steps: int, after: int | None, say: Callable[[str], None]
    ) -> None:
        groups = trainer.updater.groups
        schedules: dict[str, GroupSchedule] = {}
        for group in groups:
            schedule = GroupSchedule(group.settings.peak, group.settings.weight_decay)
            schedules |= dict.fromkeys(group.parameters, schedule)
        self.report = report(trainer.model, schedules, trainer.trained.new)
        self._say = say
        self._file = folder.trains
        self._check = trainer.check
        self._warmup = max(group.settings.warmup for group in groups)
        self._steps = steps
        self._after = after

    def params(self) -> dict[str, Any]:
        """Return what a tracking store shows of it."""
        return {"parameters": self.report.trains, "of": self.report.parameters, "share": self.report.share}

    def begin(self, step: int, state: dict[str, Any] | None) -> None:
        """Write the report, and note what the weights are.

        Args:
            step: Step that training resumes after; 0 at the start.
            state: State of the check in the checkpoint that training resumes from, if it has one.
        """
        written = self.report.as_dict()
        # The verdict of the process before stays with the report.
        if state is not None:
            earlier = read_side_file(self._file, set(), "it is written anew, without what the check found before")
            if earlier is not None and "check" in earlier:
                written["check"] = earlier["check"]
        write_sealed(self._file, written)
        if self._check is None:
            return
        if state is None:
            self._check.begin(step)
        else:
            self._check.load_state_dict(state)

    def on_prediction(self, prediction: Fields, target: Fields) -> None:  # noqa: ARG002
        """Note which targets are there: what has none gets no gradient, and need not move."""
        if self._check is not None:
            self._check.see(target)

    def on_step(self, report: StepReport, state: LoopState) -> None:  # noqa: ARG002
        """Check where it is time to.

        Raises:
            UntrainedError: something that was to train does not, or something else has changed.
        """
        check, step = self._check, report.step
        if check is None or self._after is None:
            return
        final = step == self._steps
        if final or (check.watching and step >= check.due(self._after)):
            verdict = check.judge(step, warmup=self._warmup, final=final)
            write_sealed(self._file, {**self.report.as_dict(), "check": verdict.as_dict()})
            self._say(verdict.text())

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a resumed run needs to go on checking."""
        return None if self._check is None else self._check.state_dict()


class Saver(Callback):
    """Writes ``checkpoints/best`` and ``checkpoints/last``.

    Args:
        job: The run.
        folder: Its folder.
        check: The check that everything trains, whose state is kept for resuming.
        settings: Resolved settings without secrets, which a resumed run has to share.
        history: Memory settings that were changed in the middle of the run, for its lineage.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        check: TrainableCheck,
        settings: Mapping[str, Any],
        history: MemoryHistory,
    ) -> None:
        self._job = job
        self._folder = folder
        self._check = check
        self._settings = settings
        self._history = history

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Write the checkpoint with the lowest validation loss."""
        if improved:
            self.write(self._folder.best, state)

    def on_checkpoint(self, state: LoopState) -> None:
        """Write the checkpoint that training resumes from."""
        trainer = self._job.trainer
        resume: dict[str, Any] = {"loop": state.as_dict(), "optimizer": trainer.updater.state_dict()}
        if trainer.schedule is not None:
            resume["schedule"] = trainer.schedule.state_dict()
        if trainer.average is not None:
            resume["ema"] = trainer.average.state_dict()
        resume |= {
            "rng": torch.get_rng_state(),
            "check": self._check.state_dict(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "store_sha256": self._job.store.fingerprint(),
            "settings": self._settings,
            "provenance": read_side_file(self._folder.provenance, set(), "the checkpoint goes without it"),
        }
        if torch.cuda.is_available():
            resume["cuda_rng"] = torch.cuda.get_rng_state_all()
        self.write(self._folder.last, state, resume)

    def write(
        self, folder: Path, state: LoopState, resume: Mapping[str, Any] | None = None, *, averaged: bool = False
    ) -> None:
        """Write a checkpoint of the model as it is.

        Args:
            folder: Folder of the checkpoint.
            state: Where training is.
            resume: What training goes on from.
            averaged: Whether the model's weights are an average for now.
        """
        model, adapt = self._job.model, self._job.settings.adapt
        tensors, config = trainable.tensors(model, adapt), trainable.adapter_config(model, adapt)
        keep = None if resume is None else self._job.trainer.task.save
        write_checkpoint(folder, tensors, self._description(state, averaged=averaged), resume, config, keep)

    def _description(self, state: LoopState, *, averaged: bool) -> dict[str, Any]:
        """Describe the model, its data and its past, as ``kit.json`` holds them."""
        job, data = self._job, self._job.settings.data
        earlier: list[dict[str, Any]] = []
        if job.weights is not None and job.weights.description is not None:
            earlier = job.weights.description["lineage"]
        base, operator = (None if found is None else dict(found.base) for found in (job.weights, job.operator))
        stage = {
            "kit_version": __version__,
            **job.settings.adapt.described(),
            "new_variables": list(job.settings.model.new_variables),
            "steps": state.step,
            "rollout": job.settings.rollout.model_dump(exclude_none=True),
            "base": base,
            "store": data.store,
            "store_sha256": job.store.fingerprint(),
            "train": str(data.train),
            "valid": str(data.valid),
            "synthetic": bool(job.store.attributes.get("synthetic")),
            "licence": job.store.attributes.get("licence"),
        }
        if job.settings.task.name != "forecast":
            stage["task"] = job.settings.task.model_dump(exclude_none=True)
        if operator is not None:
            stage["operator"] = operator
        if averaged:
            stage["ema"] = job.settings.train.ema
        if self._history.changes:
            stage["memory_changes"] = self._history.changes
        description: dict[str, Any] = {
            "kit_version": __version__,
            "model": job.spec.as_dict(),
            "data": {
                # A store of the registry has a name; a folder is found from everywhere by its whole path.
                "store": str(Path(data.store).absolute()) if Path(data.store).exists() else data.store,
                "region": data.region,
                "halo": data.halo,
                "variables": data.variables,
                "levels": data.levels,
                "statics": data.statics,
                "grid": job.selection.grid.as_dict(),
                **{name: str(getattr(data, name)) for name in ("train", "valid", "test")},
            },
            "base": base,
        }
        if job.adapter is not None:
            description["adapter"] = job.adapter
        if job.run.step.diffusion is not None:
            description["diffusion"] = job.run.step.diffusion.as_dict()
            description["operator"] = operator
        # From which config.toml can be written anew.
        description["settings"] = self._settings
        description["lineage"] = [*earlier, stage]
        description["validation"] = {"before": state.before, "best": state.averaged_best if averaged else state.best}
        description["leaks"] = list(job.run.leaks)
        return description


class StopOnSignal(Callback):
    """Stops training after the step in which a signal came.

    Attributes:
        caught: The first signal that asked for an end, if one did.
    """

    caught: signal.Signals | None = None

    def wants_to_stop(self, state: LoopState) -> bool:  # noqa: ARG002
        """Check whether a signal came."""
        return self.caught is not None


@contextmanager
def watch_signals(say: Callable[[str], None] | None = None) -> Iterator[StopOnSignal]:
    """Note Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes, instead of dying of them.

    The first one asks for an end; a Ctrl-C after it acts as usual. Further ones of the others change nothing: queues
    and terminals send several, and who means it has SIGKILL. What is ignored, as under ``nohup``, stays so. Python
    sets signal handlers in its main thread alone; in another thread, as of a notebook's kernel, nothing is noted.

    Args:
        say: Called with what will happen, in a thread.
    """
    stop = StopOnSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asks = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: handler for number in asks if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def note(number: int, _frame: FrameType | None) -> None:
        if stop.caught is not None:
            return
        stop.caught = signal.Signals(number)
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if say is not None:
            # Not here: the signal may have come in the middle of a write to the same stream.
            text = f"{stop.caught.name}: ends after this step with a checkpoint; Ctrl-C ends it at once"
            threading.Thread(target=say, args=(text,), daemon=True).start()

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
