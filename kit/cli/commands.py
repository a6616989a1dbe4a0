"""What each command does with its arguments: settle them, call the room that does the work, say how to show it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from kit.bench.settings import BenchSettings
from kit.checks.settings import StatsSettings
from kit.cli.views import console
from kit.config import layers as config
from kit.config.command_line import parse
from kit.doctor.settings import DoctorSettings
from kit.export.settings import ExportSettings
from kit.forecasting.settings import ForecastSettings
from kit.planning.settings import PlanSettings
from kit.plots.settings import PlotSettings
from kit.settings import RunSettings, Settings
from kit.tracking.artifacts import attach, run_folder_of
from kit.tracking.settings import TrackSettings
from kit.verification.settings import EvaluateSettings

__all__ = [
    "Outcome",
    "bench",
    "data_build",
    "data_fetch",
    "data_list",
    "data_pin",
    "data_qa",
    "data_stats",
    "data_verify",
    "doctor",
    "evaluate",
    "finetune",
    "forecast",
    "plan",
    "plot",
    "sync",
    "ui",
]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Outcome:
    """What a command came to.

    Attributes:
        result: for machines, with ``--json``.
        as_json: whether that was asked for.
        show: writes the same for people, on standard error.
        exit_code: 0, or 2 where the result is that something is unfit.
    """

    result: Mapping[str, Any]
    as_json: bool
    show: Callable[[], None]
    exit_code: int = 0


class _Options(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    as_json: bool = Field(default=False, alias="json")
    """Write the result to standard output as one JSON object."""


class _Layers(_Options):
    recipe: str | None = None
    """Settings to start from: a recipe that the kit carries."""
    config: Path | None = None
    """TOML file of settings; they go before the recipe's."""


class _BuildOptions(_Options):
    dry_run: bool = Field(default=False, alias="dry-run")
    """Say how many GB, requests and hours the build will take, by one block of it that is read; build nothing."""


class UiSettings(BaseModel):
    """Where the tracking page looks, and where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: RunSettings = RunSettings()
    track: TrackSettings = TrackSettings()
    port: int = Field(default=5000, ge=1, le=65535)
    """Port on the loopback address."""


class StoreSettings(BaseModel):
    """Which tracking store."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    uri: str | None = None
    """Tracking store or server that the run is sent to, made there if need be; by default the one it began in."""


class SyncSettings(BaseModel):
    """What is sent where."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: CliPositionalArg[Path]
    """The run's folder."""
    track: StoreSettings = StoreSettings()


class QaSettings(BaseModel):
    """What is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: CliPositionalArg[str]
    """A store's folder, or the name of a registry entry that the kit builds into one."""
    variant: str | None = None
    """Variant of Aurora that is to read it: what it lacks for that is then a warning."""
    accept: tuple[str, ...] = ()
    """Errors to accept, by name, such as ``nan:2t``; each must be one that was found."""
    html: Path | None = None
    """File to write a page to: the findings, with maps and histograms."""
    fresh: bool = False
    """Read the store even if the report of an earlier check still holds."""


class VerifySettings(BaseModel):
    """What is verified."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: CliPositionalArg[Path]
    """A store's folder."""
    workers: int | None = Field(default=None, ge=1)
    """Threads that read; by default as many as there are processors."""


class ListSettings(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FetchSettings(BaseModel):
    """What is fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    names: CliPositionalArg[tuple[str, ...]] = Field(min_length=1)
    """Names of registry entries or of data sets."""


class PinSettings(BaseModel):
    """What is pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    names: CliPositionalArg[tuple[str, ...]] = Field(min_length=1)
    """Names of registry entries or of data sets."""


_IN_ENVIRONMENT: tuple[type[BaseModel], ...] = (
    Settings,
    PlanSettings,
    EvaluateSettings,
    ForecastSettings,
    ExportSettings,
    PlotSettings,
    BenchSettings,
    UiSettings,
    DoctorSettings,
    SyncSettings,
    _Layers,
)


def doctor(arguments: Sequence[str]) -> Outcome:
    """Look for what is wrong with this machine before a run does, and say what to do about it.

    Looks at driver, GPUs, attention, packages, host, disks, cache and tracking store; at the network with --network.
    Exits with 2 if something would stop a run.
    """
    settings, options = _settle(doctor, DoctorSettings, arguments)
    with console.loading("PyTorch"):
        from kit.doctor.examination import examine

        examined = examine(settings)
    result = examined.to_dict()
    return Outcome(result, options.as_json, lambda: console.show_examination(result), 0 if examined.passed else 2)


def finetune(arguments: Sequence[str]) -> Outcome:
    """Fine-tune Aurora.

    Settings come from this command line, then KIT_* variables (KIT_TRAIN__STEPS for train.steps), then --config,
    then --recipe, then the defaults below; "none" unsets. With no arguments at all, the tiny Aurora is fine-tuned on
    the sample that the kit carries.
    """
    settings, options = _settle(finetune, Settings, arguments, _Layers)
    with console.loading("PyTorch, Aurora and PEFT" if settings.adapt.adds_adapter else "PyTorch and Aurora"):
        from kit.adapt.method import import_packages
        from kit.run.finetune import finetune as run

        import_packages(settings.adapt.method)
    result = run(settings, recipe=options.recipe).to_dict()
    stopped = result.get("interrupted")
    code = 128 + signal.Signals[str(stopped)].value if stopped else 0
    return Outcome(result, options.as_json, lambda: console.show_training(result), code)


def plan(arguments: Sequence[str]) -> Outcome:
    """Say what a run would need of a GPU: memory and of what, arithmetic, time.

    Takes the settings of kit finetune, and traces the very step that it would run, without data, weights or a GPU:
    --grid 721x1440 stands for a store of that size with all that the variant reads.
    """
    settings, options = _settle(plan, PlanSettings, arguments, _Layers)
    with console.loading("PyTorch and Aurora"):
        from kit.planning.plan import plan as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, lambda: console.show_plan(result))


def evaluate(arguments: Sequence[str]) -> Outcome:
    """Score a checkpoint against persistence, and against the weights that its training started from."""
    settings, options = _settle(evaluate, EvaluateSettings, arguments)
    with console.loading("PyTorch and Aurora"):
        from kit.verification import scorecard
    result = scorecard.evaluate(settings).to_dict()
    return Outcome(result, options.as_json, lambda: console.show_scores(result))


def forecast(arguments: Sequence[str]) -> Outcome:
    """Roll a checkpoint out from the states of a store, or of a NetCDF file, and write NetCDF or Zarr as it goes.

    Several checkpoints, deltas on one base, are an ensemble: --checkpoint A --checkpoint B.
    """
    settings, options = _settle(forecast, ForecastSettings, arguments)
    console.log_to_screen(logging.INFO)
    with console.loading("PyTorch and Aurora"):
        from kit.forecasting.forecast import forecast as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, lambda: console.show_facts("Forecast", result))


def export(arguments: Sequence[str]) -> Outcome:
    """Write a checkpoint for others: deltas merged in fp32, a model card with licences, a folder or one archive.

    Several checkpoints from the same weights are averaged: --checkpoint A --checkpoint B --average.
    """
    settings, options = _settle(export, ExportSettings, arguments)
    with console.loading("PyTorch and Aurora"):
        from kit.export.export import export as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, lambda: console.show_facts("Export", result))


def plot(arguments: Sequence[str]) -> Outcome:
    """Draw prediction, target and error maps of a checkpoint, and the loss curves of a run, as PNG."""
    settings, options = _settle(plot, PlotSettings, arguments)
    with console.loading("PyTorch and Aurora"):
        from kit.plots import render
    result = render.plot(settings)
    if run := settings.run or run_folder_of(settings.checkpoint or Path()):
        attach(run, figures=map(Path, result["files"]))
    return Outcome(result, options.as_json, lambda: console.show_files(result))


def data_list(arguments: Sequence[str]) -> Outcome:
    """List the files that the kit may use, with origin, size, hash and licence, and which are here already."""
    from kit import registry
    from kit.cli.views import registry as console_registry

    _, options = _settle(data_list, ListSettings, arguments)
    result = {"entries": [registry.state(entry) for entry in registry.entries().values()]}
    return Outcome(result, options.as_json, lambda: console_registry.show_entries(result["entries"]))


def data_fetch(arguments: Sequence[str]) -> Outcome:
    """Have files of the registry on this machine: downloads what is absent, verifies all, says whom to credit."""
    from kit import registry
    from kit.cli.views import registry as console_registry

    settings, options = _settle(data_fetch, FetchSettings, arguments)
    entries = registry.chosen(settings.names)
    result = {"files": [{**registry.state(one), "path": str(path)} for one, path in registry.fetch_all(entries)]}
    return Outcome(result, options.as_json, lambda: console_registry.show_fetched(result["files"]))


def data_pin(arguments: Sequence[str]) -> Outcome:
    """Record the hash of files that have none in your own registry: a hub's own record, else that of the bytes."""
    from kit import registry
    from kit.cli.views import registry as console_registry

    settings, options = _settle(data_pin, PinSettings, arguments)
    pins = [asdict(registry.pin(entry.name)) for entry in registry.chosen(settings.names)]
    result = {"pins": pins, "registry": str(registry.user_registry())}
    return Outcome(result, options.as_json, lambda: console_registry.show_pins(result))


def data_build(arguments: Sequence[str]) -> Outcome:
    """Build a store from files, archives or data stores: read, reconcile, check, compute statistics, write.

    An interrupted build is gone on with by the same command, and several processes that run it share the work.
    """
    from kit.data.settings import BuildSettings

    settings, options = _settle(data_build, BuildSettings, arguments, _BuildOptions)
    with console.loading("the array libraries"):
        from kit.cli.views import building as console_building
        from kit.data.store.build import build_store, estimate
    if options.dry_run:
        told = estimate(settings).as_dict()
        return Outcome(told, options.as_json, lambda: console_building.show_estimate(told))
    with console_building.build_progress() as progress:
        store = build_store(settings, watch=progress)
    result = {
        "store": str(store.path),
        "states": len(store.times),
        "times": [str(store.times[0]), str(store.times[-1])],
        "grid": list(store.shape),
        "surface": list(store.surface),
        "atmospheric": list(store.atmospheric),
        "static": list(store.static),
        "levels": list(store.levels),
        "splits": {name: str(period) for name, period in store.splits.items()},
        "notes": store.attributes.get("history", []),
    }
    return Outcome(result, options.as_json, lambda: console.show_facts("Store", result))


def data_verify(arguments: Sequence[str]) -> Outcome:
    """Read every file of a store and compare it with the hash that was recorded when it was written.

    Names every file that was changed, cut off or lost, and every one that is none of the store's; exits with 2 if there
    is any.
    """
    settings, options = _settle(data_verify, VerifySettings, arguments)
    with console.loading("the array libraries"):
        from kit.cli.views import building as console_building
        from kit.data.store.verify import verify
    result = verify(settings.store, settings.workers).as_dict()
    code = 0 if result["passed"] else 2
    return Outcome(result, options.as_json, lambda: console_building.show_verification(result), code)


def data_qa(arguments: Sequence[str]) -> Outcome:
    """Check a store: structure, coordinates, values, units, physics, statistics. Exits with 2 if it is unfit."""
    settings, options = _settle(data_qa, QaSettings, arguments)
    with console.loading("the array libraries"):
        from kit.data.store.build import open_store
        from kit.run import quality
    expected = None
    if settings.variant is not None:
        with console.loading("PyTorch and Aurora"):
            expected = quality.expected_of(settings.variant)
    path = Path(settings.store)
    path = path if path.exists() else open_store(settings.store).path
    found = quality.quality_of(path, expected=expected, accepted=settings.accept, fresh=settings.fresh)
    result = found.report.as_dict()
    if settings.html is not None:
        result["html"] = str(quality.write_page(found, settings.html))
    return Outcome(result, options.as_json, lambda: console.show_report(result), 0 if found.report.passed else 2)


def data_stats(arguments: Sequence[str]) -> Outcome:
    """Show a store's statistics, and hold them against upstream's, and its splits against each other.

    A JSON file of statistics is read as well. Exits with 2 if a verdict is an error.
    """
    settings, options = _settle(data_stats, StatsSettings, arguments)
    console.log_to_screen(logging.INFO)
    with console.loading("the array libraries"):
        from kit.checks.statistics_report import statistics_report
        from kit.cli.views import statistics as console_stats
    result = statistics_report(settings)
    return Outcome(result, options.as_json, lambda: console_stats.show_stats(result), 0 if result["passed"] else 2)


def bench(arguments: Sequence[str]) -> Outcome:
    """Measure memory, speed and exactness, beside upstream's documented way, and write the page of benchmarks.

    With no arguments at all, suite step: one training step of the small model in several ways, some minutes on a CPU.
    """
    settings, options = _settle(bench, BenchSettings, arguments)
    console.log_to_screen(logging.INFO)
    with console.loading("PyTorch and Aurora"):
        from kit.bench.bench import bench as run
    result = run(settings)
    return Outcome(result, options.as_json, lambda: console.show_bench(result))


def sync(arguments: Sequence[str]) -> Outcome:
    """Send to MLflow what it lacks of a run: after a server was away, or to a server that the run never saw."""
    settings, options = _settle(sync, SyncSettings, arguments)
    with console.loading("MLflow"):
        from kit.tracking.run_records import sync as run
    result = run(settings.run, settings.track.uri)
    return Outcome(result, options.as_json, lambda: console.show_facts("Sent", result))


def ui(arguments: Sequence[str]) -> Outcome:
    """Open MLflow's page on this machine's loopback address, to compare runs; ends with Ctrl-C."""
    settings, options = _settle(ui, UiSettings, arguments)
    console.log_to_screen(logging.INFO)
    with console.loading("MLflow"):
        from kit.tracking.ui import serve
    serve(settings.track.uri, settings.run.dir, settings.port)
    return Outcome({}, options.as_json, lambda: None)


def _settle(
    command: Callable[..., object], model: type[M], arguments: Sequence[str], extra: type[_Options] = _Options
) -> tuple[M, Any]:
    """Settle one command's settings from all their sources.

    Returns:
        The settings, and the options of ``extra``.
    """
    words = command.__name__.replace("_", " ")
    accepted = type(command.__name__, (extra, model), {"__doc__": command.__doc__, "__module__": __name__})
    given = config.command_line_layer(parse(accepted, arguments, f"kit {words}"), accepted)
    layers = [given]
    if model in _IN_ENVIRONMENT:
        layers.append(config.environment_layer(accepted, _IN_ENVIRONMENT))
    options = config.resolve(extra, [layer.only(extra) for layer in layers])
    layers = [layer.without(extra) for layer in layers]
    if isinstance(options, _Layers):
        layers += [config.read_toml(options.config, model)] if options.config else []
        layers += [config.read_recipe(options.recipe, model)] if options.recipe else []
    return config.resolve(model, layers), options
