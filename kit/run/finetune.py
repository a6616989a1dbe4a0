"""The main job: fine-tune, in a run folder, on the record, and able to go on after any interruption."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from kit import __version__
from kit.adapt import trainable
from kit.checkpoint.folder import write_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder, claimed
from kit.io.errors import KitError
from kit.io.secrets import without_user
from kit.memory.out_of_memory import Shortage, readable
from kit.planning.fit import Fitted, preflight, settle
from kit.plots.render import save_loss_curves
from kit.run.description import dataset_of, labels
from kit.run.failure_messages import ended_badly, ended_readably, no_room, no_room_to_start
from kit.run.quality import Quality, fit_for_training, write_page
from kit.run.resume import Origin, check_same, find_folder, find_origin
from kit.settings import Settings
from kit.tracking import provenance
from kit.tracking.params import flatten
from kit.tracking.run_records import Account, begin, first_told, numbers, peaks, send_results
from kit.tracking.store import reach, resolve_uri
from kit.tracking.system import visible_gpus, watching
from kit.tracking.tracker import MetricRecord, RunStatus, Tracker
from kit.train.build import Job, build_job, choose_device
from kit.train.loop import LoopState, fit, watch_signals
from kit.train.trainable_record import WhatTrains
from kit.train.trainer import StepReport

__all__ = ["Progress", "Watch", "finetune"]

_logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Shows a person how training goes."""

    def update(self, *, step: int, loss: float, step_seconds: float, memory_gib: float | None = None) -> None:
        """One step is done."""

    def say(self, text: str) -> None:
        """Something worth a line."""


class Watch(Protocol):
    """Opens a progress display for a run of so many steps, some of them taken before."""

    def __call__(self, total_steps: int, completed: int = 0) -> AbstractContextManager[Progress]:
        """Show progress while the block runs."""


class _Silence:
    def update(self, *, step: int, loss: float, step_seconds: float, memory_gib: float | None = None) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def _unwatched(total_steps: int, completed: int = 0) -> AbstractContextManager[Progress]:  # noqa: ARG001
    return nullcontext(_Silence())


def finetune(settings: Settings, *, recipe: str | None = None, watch: Watch = _unwatched) -> dict[str, Any]:
    """Fine-tune as the settings say.

    Args:
        settings: of the run.
        recipe: its name, for the run's and the experiment's.
        watch: opens the display of progress.

    Returns:
        The summary that ``kit finetune --json`` prints; with ``interrupted`` where SIGINT or SIGTERM ended the run
        early, which can then go on from its last checkpoint.

    Raises:
        KitError: something that the user can mend.
    """
    folder = find_folder(settings, recipe)
    fresh = not folder.path.exists()
    with nullcontext() if fresh else claimed(folder.path):
        with readable(partial(no_room_to_start, settings)):
            run = _prepare(settings, recipe, folder, fresh=fresh)
        with run.logging(), watch(run.job.schedule.steps, run.state.step) as progress:
            run.progress = progress
            with ended_readably(folder), readable(run.out_of_memory, run.job.model):
                return run.execute()


def _prepare(settings: Settings, recipe: str | None, folder: RunFolder, *, fresh: bool) -> _Run:
    """Everything that may be refused, before anything is made."""
    origin = find_origin(settings, folder, fresh=fresh)
    if origin.fresh:
        # A server that was never there is a wrong address; one that a run has begun with may be away for a while.
        reach(resolve_uri(settings.track.uri, settings.run.dir), settings.run.dir)
    if origin.checkpoint is not None:
        torch.set_num_threads(origin.state["threads"])
    settings, fitted = settle(settings, choose_device(settings.train.device))
    job = build_job(settings)
    quality = fit_for_training(job.store.path, settings.data.accept)
    if origin.checkpoint is not None:
        check_same(origin, job)
    return _Run(job, origin, recipe, quality, fitted)


class _Run:
    """One run: what it records, and what it leaves behind."""

    def __init__(self, job: Job, origin: Origin, recipe: str | None, quality: Quality, fitted: Fitted | None) -> None:
        self.job = job
        self.fitted = fitted
        self.origin = origin
        self.folder = origin.folder
        self.recipe = recipe
        self.report = quality.report
        self.quality = quality
        self.progress: Progress = _Silence()
        self.metrics = MetricsLog(self.folder.metrics)
        self.activations = MetricsLog(self.folder.activations)
        self.state = LoopState(**origin.state.get("loop", {}))
        self.tracker: Tracker | None = None
        self.trains = WhatTrains(job.trainer, job.schedule.steps, job.settings.train.check_after)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Make the run folder if it is new, hold it, and write the kit's log to it."""
        if not self.origin.fresh:
            with self._log():
                yield
            return
        self.folder.create()
        with claimed(self.folder.path), self._log():
            try:
                yield
            except (KitError, KeyboardInterrupt):
                if self.tracker is None:
                    # Nothing has begun: the name is free again.
                    shutil.rmtree(self.folder.path, ignore_errors=True)
                raise

    @contextmanager
    def _log(self) -> Iterator[None]:
        handler = logging.FileHandler(self.folder.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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

    def execute(self) -> dict[str, Any]:
        """Train to the end, or until interrupted."""
        if self.job.replay is not None:
            self.job.replay.open(self.folder.replay)
        self._restore()
        self._open_records()
        status: RunStatus = "FAILED"
        try:
            # Before the run is closed: closing it takes memory too.
            readable_step = readable(self.out_of_memory, self.job.model)
            with self._watching(), watch_signals(self._say) as interruption, readable_step:
                self._say(self._opening())
                self._say(self.trains.report.text())
                for line in (*self.quality.accepted, *self.job.leaks):
                    self._say(f"warning: {line}")
                if told := self.job.feature_cache:
                    self._say(told)
                if self.fitted is not None:
                    self._say(f"memory.fit chose {self.fitted}")
                elif warning := preflight(self.job):
                    self._say(f"warning: {warning}")
                fit(
                    self.job.trainer,
                    self.job.training_batches,
                    self.job.validation_batches(),
                    self.job.schedule,
                    self.state,
                    self,
                    self,
                    interruption,
                )
            stopped = interruption.caught if self.state.step < self.job.schedule.steps else None
            status = "FINISHED" if stopped is None else "KILLED"
            return self._summary(stopped)
        except KeyboardInterrupt:
            status = "KILLED"
            self._say(f"ended at once, after step {self.state.step}. {ended_badly(self.folder)}")
            raise
        finally:
            self._close(status)

    def _restore(self) -> None:
        """Bring model, optimiser and random numbers to where the checkpoint was, and forget what came after it."""
        if self.origin.checkpoint is not None:
            state = self.origin.state
            trainable.load(self.job.model, self.job.settings.adapt, self.origin.checkpoint.tensors())
            self.job.trainer.updater.load_state_dict(state["optimizer"])
            if self.job.trainer.schedule is not None:
                self.job.trainer.schedule.load_state_dict(state["schedule"])
            if self.job.replay is not None:
                self.job.replay.load(self.origin.checkpoint.path)
            torch.set_rng_state(state["rng"])
            if "cuda_rng" in state:
                torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.trains.begin(self.folder, self.state.step, self.origin.state.get("check"))
        step = self.state.step if self.origin.checkpoint else -1
        kept = [MetricRecord(kept["step"], numbers(kept), kept["time_ms"]) for kept in self.metrics.cut(step)]
        seen = [MetricRecord(kept["step"], peaks(kept), kept["time_ms"]) for kept in self.activations.cut(step)]
        self._kept = [*kept, *seen]

    def _open_records(self) -> None:
        """Open provenance and MLflow run, or go on with them."""
        settings, dump = self.job.settings, self._dump()
        made_of = provenance.collect(
            settings=dump,
            data={
                "store": settings.data.store,
                "sha256": self.job.store.fingerprint(),
                **({"accepted": ",".join(settings.data.accept)} if settings.data.accept else {}),
            },
            base_weights=None if self.job.weights is None else self.job.weights.base,
        )
        self.folder.write_config(dump)
        self.folder.write_quality(self.report.as_dict())
        write_page(self.quality, self.folder.quality_page)
        # The key is on the disk before MLflow hears of the run, so that a kill in between leaves no second run there.
        record = self.folder.add_provenance(made_of)
        account = Account(
            experiment=settings.track.experiment or self.recipe or "kit",
            run_name=self.folder.path.name,
            params=flatten(dump | {"trains": self.trains.params()}),
            tags=provenance.tags(made_of) | labels(self.job, self.report, self.folder),
            dataset=dataset_of(self.job),
            checkpoint=settings.track.checkpoint,
            started_ms=time.time_ns() // 10**6,
        )
        self.account = first_told(self.folder, account)
        self.account.write(self.folder)
        self.tracker = begin(self.folder, self.account, settings.track.uri)
        self.folder.write_provenance({**record, "mlflow_run_id": self.tracker.run_id})
        self.tracker.reconcile(self._kept)

    def _dump(self) -> dict[str, Any]:
        """Resolved settings, fit to be kept: an address without its password."""
        dump = self.job.settings.model_dump(mode="json")
        dump["track"]["uri"] = dump["track"]["uri"] and without_user(dump["track"]["uri"])
        return dump

    def _watching(self) -> AbstractContextManager[None]:
        assert self.tracker is not None
        gpus = visible_gpus() if self.job.trainer.device.type == "cuda" else []
        return watching(self.folder, self.tracker, self.job.settings.track.system_seconds, gpus)

    def train(self, report: StepReport, *, epoch: float, wait_seconds: float) -> None:
        """Record one step."""
        seconds = report.compute_seconds + wait_seconds
        values = {
            "loss": report.loss,
            "lr": report.learning_rate,
            **{f"lr/{group}": rate for group, rate in report.group_rates.items()},
            "epoch": epoch,
            "grad_norm": float(report.gradients.total),
            "step_seconds": seconds,
            "wait_seconds": wait_seconds,
            "samples_per_second": report.samples / seconds,
            "peak_memory_gib": peak_memory_gib(self.job.trainer.device),
            **({} if report.depth is None else {"depth": report.depth}),
            **{f"loss/{name}": value for name, value in report.parts.items()},
            **{f"grad_norm/{group}": norm for group, norm in report.gradients.groups.items()},
        }
        self._record(report.step, "train", values)
        self._record_activations(report)
        memory = values["peak_memory_gib"]
        self.progress.update(step=report.step, loss=report.loss, step_seconds=seconds, memory_gib=memory)
        if (verdict := self.trains.after_step(self.folder, report.step)) is not None:
            self._say(verdict.text())

    def valid(self, step: int, loss: float, parts: Mapping[str, float]) -> None:
        """Record one validation."""
        named = {f"loss/{name}": value for name, value in parts.items()}
        self._record(step, "valid", {"loss": loss, **named, **self.job.trainer.scores()})
        self._say(f"validation after step {step}: loss {loss:.4f}")

    def _record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        moment = time.time_ns() // 10**6
        record = {"step": step, "time_ms": moment, "kind": kind, **values}
        self.metrics.append(record)
        assert self.tracker is not None
        self.tracker.log(step, numbers(record), moment)

    def _record_activations(self, report: StepReport) -> None:
        if report.activations:
            seen = {name: activation.as_dict() for name, activation in report.activations.items()}
            moment = time.time_ns() // 10**6
            record = {"step": report.step, "time_ms": moment, "modules": seen}
            self.activations.append(record)
            assert self.tracker is not None
            self.tracker.log(report.step, peaks(record), moment)

    def best(self, state: LoopState) -> None:
        """Write the checkpoint with the lowest validation loss."""
        self._write(self.folder.best, state)

    def last(self, state: LoopState) -> None:
        """Write the checkpoint from which training goes on."""
        schedule = self.job.trainer.schedule
        resume: dict[str, Any] = {
            "loop": state.as_dict(),
            "optimizer": self.job.trainer.updater.state_dict(),
            **({} if schedule is None else {"schedule": schedule.state_dict()}),
            "rng": torch.get_rng_state(),
            "check": self.trains.state_dict(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "store_sha256": self.job.store.fingerprint(),
            "settings": self._dump(),
        }
        if torch.cuda.is_available():
            resume["cuda_rng"] = torch.cuda.get_rng_state_all()
        self._write(self.folder.last, state, resume)
        assert self.tracker is not None
        self.tracker.send_soon()

    def _write(self, folder: Path, state: LoopState, resume: Mapping[str, Any] | None = None) -> None:
        model, adapt = self.job.model, self.job.settings.adapt
        tensors, config = trainable.tensors(model, adapt), trainable.adapter_config(model, adapt)
        keep = None if resume is None or self.job.replay is None else self.job.replay.save
        write_checkpoint(folder, tensors, self._description(state), resume, config, keep)

    def _description(self, state: LoopState) -> dict[str, Any]:
        """What ``kit.json`` says of the model, its data and its past."""
        job, data = self.job, self.job.settings.data
        earlier = [] if job.weights is None or job.weights.description is None else job.weights.description["lineage"]
        base = None if job.weights is None else dict(job.weights.base)
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
            "synthetic": bool(job.store.attributes.get("synthetic")),
            "licence": job.store.attributes.get("licence"),
        }
        return {
            "kit_version": __version__,
            "model": job.spec.as_dict(),
            "data": {
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
            **({} if job.adapter is None else {"adapter": job.adapter}),
            "lineage": [*earlier, stage],
            "validation": {"before": state.before, "best": state.best},
            "leaks": list(job.leaks),
        }

    def _summary(self, stopped: signal.Signals | None) -> dict[str, Any]:
        state, job = self.state, self.job
        trains, total = trainable.count(job.model)
        seconds = max(state.seconds, 1e-9)
        assert self.tracker is not None
        if stopped is not None:
            self._say(self._how_to_go_on(stopped))
        return {
            "run": str(self.folder.path),
            "mlflow_run_id": self.tracker.run_id,
            "device": job.trainer.device.type,
            "steps": state.step,
            "epochs": state.step / job.schedule.per_epoch,
            "loss": {"first": state.first, "last": state.latest},
            "valid": {"before": state.before, "after": state.after, "best": state.best},
            "trainable_parameters": trains,
            "total_parameters": total,
            "step_seconds": seconds / max(state.step, 1),
            "samples_per_second": state.samples / seconds,
            "data_wait_fraction": state.wait_seconds / seconds,
            "peak_memory_gib": peak_memory_gib(job.trainer.device),
            "checkpoint": str(self.folder.best),
            "leaks": list(self.job.leaks),
            **({} if stopped is None else {"interrupted": stopped.name}),
        }

    def _opening(self) -> str:
        trains, total = trainable.count(self.job.model)
        verb = f"goes on from step {self.state.step}" if self.state.step else "starts"
        return (
            f"run {self.folder.path} {verb}: {trains:,} of {total:,} parameters train, {len(self.job.train)} pairs, "
            f"{self.job.schedule.steps} steps on {self.job.trainer.device.type}"
        )

    def _how_to_go_on(self, caught: signal.Signals) -> str:
        return (
            f"stopped by {caught.name} after step {self.state.step}; the checkpoint is {self.folder.last}. Go on with "
            f"the same settings and --run.name {self.folder.path.name} --train.resume auto"
        )

    def out_of_memory(self, shortage: Shortage) -> str:
        """Say what a lack of memory means for this run."""
        return no_room(shortage, self.job, self.folder, self.state.step + 1)

    def _close(self, status: RunStatus) -> None:
        assert self.tracker is not None
        if self.job.replay is not None:
            self.job.replay.close()
        try:
            replace(self.account, status=status, ended_ms=time.time_ns() // 10**6).write(self.folder)
            self._attach(status)
        except OSError as error:
            # What was learned is in the checkpoints; a full disk shall not be told twice.
            _logger.warning("what the run leaves behind was not all drawn and recorded: %s", error)
        finally:
            self.tracker.finish(status)
        _logger.info("run %s: %s, MLflow run %s", self.folder.path, status.lower(), self.tracker.run_id)

    def _attach(self, status: RunStatus) -> None:
        """Give MLflow what the run leaves behind."""
        assert self.tracker is not None
        if any(self.metrics.records()):
            synthetic = bool(self.job.store.attributes.get("synthetic"))
            save_loss_curves(self.folder, self.folder.figures, synthetic=synthetic)
        send_results(self.tracker, self.folder, checkpoint=self.account.checkpoint and status == "FINISHED")

    def _say(self, text: str) -> None:
        _logger.info(text)
        self.progress.say(text)


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the GPU's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
