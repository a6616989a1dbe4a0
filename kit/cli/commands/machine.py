"""Commands about this machine and its tracking store."""

import logging
from collections.abc import Sequence
from functools import partial

from kit.bench.settings import BenchSettings
from kit.cli.commands.common import Outcome, resolve_settings
from kit.cli.views.machine import show_bench, show_examination, show_page
from kit.cli.views.progress import loading, log_to_screen
from kit.cli.views.tables import show_facts
from kit.doctor.settings import DoctorSettings
from kit.tracking.settings import SyncSettings, UiSettings


def doctor(arguments: Sequence[str]) -> Outcome:
    """Look for what is wrong with this machine before a run does, and say what to do about it.

    Looks at driver, GPUs, attention, packages, host, disks, cache and tracking store; at the network with --network.
    Exits with 2 if something would stop a run.
    """
    settings, options = resolve_settings(doctor, DoctorSettings, arguments)
    with loading("PyTorch"):
        from kit.doctor.examination import examine

        examined = examine(settings)
    result = examined.to_dict()
    return Outcome(result, options.as_json, show_examination, 0 if examined.passed else 2)


def bench(arguments: Sequence[str]) -> Outcome:
    """Measure memory, speed and exactness, beside upstream's documented way, and write the page of benchmarks.

    With no arguments at all, suite step: one training step of the small model in several ways, some minutes on a CPU.
    """
    settings, options = resolve_settings(bench, BenchSettings, arguments)
    log_to_screen(logging.INFO)
    with loading("PyTorch and Aurora"):
        from kit.bench.bench import bench as run
    result = run(settings)
    return Outcome(result, options.as_json, show_bench)


def sync(arguments: Sequence[str]) -> Outcome:
    """Send to MLflow what it lacks of a run: after a server was away, or to a server that the run never saw."""
    settings, options = resolve_settings(sync, SyncSettings, arguments)
    with loading("MLflow"):
        from kit.tracking.run_records import sync as run
    result = run(settings.run, settings.track.uri)
    return Outcome(result, options.as_json, partial(show_facts, "Sent"))


def ui(arguments: Sequence[str]) -> Outcome:
    """Open MLflow's page on this machine's loopback address, for you alone, to compare runs; ends with Ctrl-C."""
    settings, options = resolve_settings(ui, UiSettings, arguments)
    with loading("MLflow"):
        from kit.tracking.ui import serve
    serve(settings.track.uri, settings.run.dir, settings.port, show_page)
    return Outcome({}, options.as_json, lambda _: None)
