"""The record of a run: metrics in its folder and in MLflow, each step once, however often training is resumed."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.memory.device import peak_memory_gib
from kit.tracking.run_records import numbers, peaks
from kit.tracking.tracker import MetricRecord, Tracker
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import StepReport, Validation


def cut_back(folder: RunFolder, step: int) -> list[MetricRecord]:
    """Drop from a run's logs what came after a step, and return the rest under MLflow's names.

    Args:
        folder: Folder of the run.
        step: Step that training resumes after; -1 keeps nothing.
    """
    metrics = MetricsLog(folder.metrics).cut(step)
    activations = MetricsLog(folder.activations).cut(step)
    records = [MetricRecord(line["step"], numbers(line), line["time_ms"]) for line in metrics]
    records += [MetricRecord(line["step"], peaks(line), line["time_ms"]) for line in activations]
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
        values = {"loss": validation.loss, **_prefixed("loss", validation.parts), **validation.scores}
        self._record(state.step, "valid", values)

    def on_checkpoint(self, state: LoopState) -> None:  # noqa: ARG002
        """Send what is buffered: a run may end here."""
        self._tracker.send_soon()

    def _record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        record: dict[str, Any] = {"step": step, "time_ms": _now_ms(), "kind": kind, **values}
        self._metrics.append(record)
        self._tracker.log(step, numbers(record), record["time_ms"])


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _now_ms() -> int:
    return time.time_ns() // 10**6
