"""The lines of a run folder's logs, under MLflow's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kit.tracking.tracker import Record
from kit.train.run_folder import MetricsLog, RunFolder

__all__ = ["numbers", "peaks", "recorded", "system_values"]

_NO_METRICS = ("step", "time_ms", "kind")


def recorded(folder: RunFolder) -> Iterator[Record]:
    """All that a run has recorded: steps and validations, activations, samples of the machine."""
    for log, named in ((folder.metrics, numbers), (folder.activations, peaks), (folder.system, system_values)):
        for line in MetricsLog(log).records():
            yield Record(line["step"], named(line), line["time_ms"])


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a line of ``metrics.jsonl``: ``train/loss``."""
    kind = line["kind"]
    return {f"{kind}/{key}": value for key, value in line.items() if key not in _NO_METRICS}


def peaks(line: Mapping[str, Any]) -> dict[str, float]:
    """Largest magnitudes of a line of ``activations.jsonl``; what is no number is left out."""
    found = {f"activation/{name}/max": seen["max"] for name, seen in line["modules"].items()}
    return {name: value for name, value in found.items() if value is not None}


def system_values(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``system.jsonl``, under the names that MLflow's page of system metrics shows."""
    return {f"system/{key}": value for key, value in line.items() if key not in _NO_METRICS}
