"""Runs of suites, recorded in the file of results, on the page, and in MLflow."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any

import psutil
import torch

from kit.bench import report, results
from kit.bench.results import BenchRow
from kit.bench.settings import BenchSettings
from kit.planning.cost import card_named
from kit.tracking import provenance
from kit.tracking.tracker import RunStatus, Tracker

_logger = logging.getLogger(__name__)

_EXPERIMENT = "bench"
_MODULES = {"plan": "planning", "fit": "fitting"}
"""Modules of suites that have another name."""
_GIB = 2**30


def bench(settings: BenchSettings) -> dict[str, Any]:
    """Run the chosen suites, or make the page from results.

    Returns:
        The rows of this run, and where everything is.

    Raises:
        KitError: files cannot be written or read, or MLflow's store cannot be opened; said before anything is run.
    """
    suites = results.load(settings.source) if settings.source is not None else None
    # Before anything is run: hours of measuring must not end at a file that cannot be written, or read.
    for path in (settings.out, settings.results):
        results.check_writable(path)
    rows: list[dict[str, Any]] = []
    result = {"rows": rows, "results": str(settings.results), "page": str(settings.out)}
    if suites is not None:
        _publish(settings, suites)
        for suite in suites.values():
            rows += suite["rows"]
        return result
    if settings.results.exists():
        results.load(settings.results)
    card_named(settings.card)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with recording(settings) as recorder:
        for name in settings.chosen:
            # Imported when its turn comes: each brings other libraries.
            module = import_module(f"kit.bench.{_MODULES.get(name, name)}")
            rows += recorder.run(name, command_of(settings, name), partial(module.run, settings))
    return result | {"mlflow_run_id": recorder.tracker.run_id}


@dataclass(frozen=True)
class BenchRecorder:
    """What runs suites and records their rows; made by ``recording``.

    Attributes:
        settings: Settings that say where the numbers go.
        machine: Machine that they are taken on.
        tracker: MLflow run.
    """

    settings: BenchSettings
    machine: Mapping[str, Any]
    tracker: Tracker

    def run(self, suite: str, command: str, measure: Callable[[], Iterable[BenchRow]]) -> list[dict[str, Any]]:
        """Run a suite, and add its rows to the results at once: the next one may fail.

        Args:
            suite: Name of the suite; rows that it had before are replaced, those of other suites stay.
            command: Command line that repeats the numbers.
            measure: Function that takes them.

        Returns:
            The rows in their JSON form.
        """
        _logger.info("suite %s", suite)
        settings, started = self.settings, time.monotonic()
        rows = [row.as_dict(suite, self.machine["name"]) for row in measure()]
        # Read anew each time, because another process may have added a suite meanwhile.
        suites = results.load(settings.results) if settings.results.exists() else {}
        suites[suite] = {
            "command": command,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": dict(self.machine),
            "seconds": round(time.monotonic() - started),
            "card": settings.card,
            "rows": rows,
        }
        _publish(settings, suites)
        metrics = {}
        for row in rows:
            for kind in ("value", "baseline", "ratio"):
                if row[kind] is not None:
                    metrics[f"{suite}/{row['name']}/{kind}"] = row[kind]
        self.tracker.log(0, metrics, time.time_ns() // 10**6)
        return rows


@contextmanager
def recording(settings: BenchSettings) -> Iterator[BenchRecorder]:
    """Start an MLflow run for suites, and finish it with the results and the page as artifacts.

    Args:
        settings: Settings that say where the numbers go.

    Yields:
        What runs and records the suites.
    """
    dump = settings.model_dump(mode="json", by_alias=True)
    origin = provenance.collect(settings=dump, data={})
    machine = machine_of(origin)
    tracker = Tracker.start(
        uri=settings.track.uri,
        run_dir=settings.run.dir,
        experiment=settings.track.experiment or _EXPERIMENT,
        run_name=settings.run.name or "-".join(settings.chosen),
        params=dump,
        tags=provenance.tags(origin) | {"kit.machine": machine["name"]},
    )
    status: RunStatus = "FAILED"
    try:
        yield BenchRecorder(settings, machine, tracker)
        for path in (settings.results, settings.out):
            tracker.artifact(path)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)


def _publish(settings: BenchSettings, suites: Mapping[str, Any]) -> None:
    # Results first: the page can be made again from them.
    results.write(settings.results, suites)
    settings.out.write_text(report.page(suites), encoding="utf-8")


def machine_of(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what numbers were taken on, as far as they depend on it; no name of a host, no path.

    Args:
        origin: Provenance of the process.
    """
    cpu, gpus = origin["cpu"], [gpu["name"] for gpu in origin["gpus"]]
    memory = round(psutil.virtual_memory().total / _GIB)
    parts = [f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads", f"{memory} GiB", *gpus]
    versions = {name: origin["packages"].get(name) for name in ("torch", "microsoft-aurora")}
    return {
        "name": f"{', '.join(parts)}, torch {versions['torch']}",
        "cpu": dict(cpu),
        "memory_gib": memory,
        "gpus": gpus,
        "packages": versions,
        "kit": origin["kit"],
    }


def command_of(settings: BenchSettings, suite: str) -> str:
    """Return the command that a suite's numbers come from: with what was not left to the defaults."""
    # What changes numbers; where they go does not.
    kinds = {"repeats", "steps", "threads", "device", "variant", "grid", "precision"}
    default = BenchSettings().model_dump(mode="json")
    words = ["kit bench", suite]
    for name, value in settings.model_dump(mode="json", include=kinds).items():
        if value != default[name]:
            words.append(f"--{name} {value}")
    return " ".join(words)
