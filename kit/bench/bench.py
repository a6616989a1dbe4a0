"""Runs suites, and puts what they find into the file of results, the page, and MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import psutil
import torch

from kit.bench import report, results
from kit.bench.results import Row
from kit.bench.settings import SUITES, BenchSettings
from kit.planning.cost import card_named
from kit.tracking import provenance
from kit.tracking.tracker import RunStatus, Tracker

__all__ = ["bench", "command_of", "machine_of"]

_logger = logging.getLogger(__name__)

_EXPERIMENT = "bench"
_MODULES = {
    "step": "step",
    "plan": "targets",
    "scale": "scale",
    "fit": "fitting",
    "methods": "methods",
    "data": "data",
}
_GIB = 2**30


def bench(settings: BenchSettings) -> dict[str, Any]:
    """Run the chosen suites, or make the page from results.

    Returns:
        The rows of this run, and where everything is.

    Raises:
        KitError: files cannot be written or read, or MLflow's store cannot be opened; said before anything is run.
    """
    suites = None if settings.source is None else results.load(settings.source)
    for path in (settings.out, settings.results):
        results.refuse_unwritable(path)
    if suites is not None:
        return _published(settings, suites, [row for suite in suites.values() for row in suite["rows"]])
    if settings.results.exists():
        results.load(settings.results)
    card_named(settings.card)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return _run(settings)


def _run(settings: BenchSettings) -> dict[str, Any]:
    dump = settings.model_dump(mode="json", by_alias=True)
    made_of = provenance.collect(settings=dump, data={})
    machine = machine_of(made_of)
    tracker = Tracker.start(
        uri=settings.track.uri,
        run_dir=settings.run.dir,
        experiment=settings.track.experiment or _EXPERIMENT,
        run_name=settings.run.name or "-".join(settings.chosen),
        params=dump,
        tags=provenance.tags(made_of) | {"kit.machine": machine["name"]},
    )
    status: RunStatus = "FAILED"
    try:
        rows: list[dict[str, Any]] = []
        for name in settings.chosen:
            rows += _suite(name, settings, machine, tracker)
        for path in (settings.results, settings.out):
            tracker.artifact(path)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return _told(settings, rows) | {"mlflow_run_id": tracker.run_id}


def _suite(name: str, settings: BenchSettings, machine: Mapping[str, Any], tracker: Tracker) -> list[dict[str, Any]]:
    """Run a suite, and add it to the results at once: the next one may fail."""
    _logger.info("suite %s", name)
    run: Callable[[BenchSettings], Iterable[Row]] = import_module(f"kit.bench.{_MODULES[name]}").run
    started = time.monotonic()
    rows = [row.as_dict(name, machine["name"]) for row in run(settings)]
    suite = {
        "command": command_of(settings, name),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": dict(machine),
        "seconds": round(time.monotonic() - started),
        "card": settings.card,
        "rows": rows,
    }
    old = results.load(settings.results) if settings.results.exists() else {}
    _published(settings, results.merged(old, {name: suite}), rows)
    tracker.log(0, _metrics(name, rows), time.time_ns() // 10**6)
    return rows


def _published(settings: BenchSettings, suites: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    results.write(settings.results, suites)
    settings.out.write_text(report.page(suites), encoding="utf-8")
    return _told(settings, rows)


def _told(settings: BenchSettings, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"rows": list(rows), "results": str(settings.results), "page": str(settings.out)}


def _metrics(suite: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    found = {f"{suite}/{row['name']}/{kind}": row[kind] for row in rows for kind in ("value", "baseline", "ratio")}
    return {name: value for name, value in found.items() if value is not None}


def machine_of(made_of: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers were taken on, as far as they depend on it; no name of a host, no path.

    Args:
        made_of: provenance of the process.
    """
    cpu, gpus = made_of["cpu"], [gpu["name"] for gpu in made_of["gpus"]]
    memory = round(psutil.virtual_memory().total / _GIB)
    parts = [f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads", f"{memory} GiB", *gpus]
    versions = {name: made_of["packages"].get(name) for name in ("torch", "microsoft-aurora")}
    return {
        "name": f"{', '.join(parts)}, torch {versions['torch']}",
        "cpu": dict(cpu),
        "memory_gib": memory,
        "gpus": gpus,
        "packages": versions,
        "kit": made_of["kit"],
    }


def command_of(settings: BenchSettings, suite: str) -> str:
    """The command that a suite's numbers come from."""
    told_of = {"repeats", "steps", "threads", "device", "variant", "grid", "precision"}
    given = settings.model_dump(mode="json", include=told_of)
    default = BenchSettings().model_dump(mode="json")
    told = [f"--{name} {value}" for name, value in given.items() if value != default[name]]
    assert suite in SUITES
    return " ".join(("kit bench", suite, *told))
