"""Commands about data: files of the registry, and stores."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from kit.checks.settings import QaSettings, StatsSettings
from kit.cli.commands.common import BuildOptions, Outcome, resolve_settings
from kit.cli.views.progress import build_progress, loading, log_to_screen
from kit.cli.views.stores import show_estimate, show_quality, show_verification
from kit.cli.views.tables import show_facts
from kit.data.climatology.settings import ClimatologySettings
from kit.data.settings import BuildSettings, VerifySettings
from kit.registry.settings import FetchSettings, ListSettings, PinSettings


def data_list(arguments: Sequence[str]) -> Outcome:
    """List the files that the kit may use, with origin, size, hash and licence, and which are here already."""
    from kit import registry
    from kit.cli.views.registry import show_entries

    _, options = resolve_settings(data_list, ListSettings, arguments)
    result = {"entries": [registry.state(entry) for entry in registry.entries().values()]}
    return Outcome(result, options.as_json, show_entries)


def data_fetch(arguments: Sequence[str]) -> Outcome:
    """Have files of the registry on this machine: downloads what is absent, verifies all, says whom to credit."""
    from kit import registry
    from kit.cli.views.registry import show_fetched

    settings, options = resolve_settings(data_fetch, FetchSettings, arguments)
    with registry.strictly(settings.registry.strict):
        fetched = registry.fetch_all(registry.chosen(settings.names))
    result = {"files": [{**registry.state(one), "path": str(path)} for one, path in fetched]}
    return Outcome(result, options.as_json, show_fetched)


def data_pin(arguments: Sequence[str]) -> Outcome:
    """Record the hash of files that have none in your own registry: a hub's own record, else that of the bytes."""
    from kit import registry
    from kit.cli.views.registry import show_pins

    settings, options = resolve_settings(data_pin, PinSettings, arguments)
    pins = [asdict(registry.pin(entry.name)) for entry in registry.chosen(settings.names)]
    result = {"pins": pins, "registry": str(registry.user_registry())}
    return Outcome(result, options.as_json, show_pins)


def data_build(arguments: Sequence[str]) -> Outcome:
    """Build a store from files, archives or data stores: read, reconcile, check, compute statistics, write.

    An interrupted build is gone on with by the same command, and several processes that run it share the work.
    """
    settings, options = resolve_settings(data_build, BuildSettings, arguments, BuildOptions)
    with loading("the array libraries"):
        from kit.data.store.build import build_store, estimate
    if options.dry_run:
        told = estimate(settings).as_dict()
        return Outcome(told, options.as_json, show_estimate)
    with build_progress() as progress:
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
    return Outcome(result, options.as_json, partial(show_facts, "Store"))


def data_climatology(arguments: Sequence[str]) -> Outcome:
    """Average a store by day of the year and hour of the day, as WeatherBench 2 does, for kit evaluate --climatology.

    The speed of the wind is averaged as such, and directions of waves as points on a circle. Days of the year that the
    period does not cover are left out.
    """
    settings, options = resolve_settings(data_climatology, ClimatologySettings, arguments)
    with loading("the array libraries"):
        from kit.data.climatology.build import build_climatology
    with build_progress() as progress:
        result = build_climatology(settings, progress).to_dict()
    return Outcome(result, options.as_json, partial(show_facts, "Climatology"))


def data_verify(arguments: Sequence[str]) -> Outcome:
    """Read every file of a store or a climatology, and compare it with its recorded hash.

    Names every file that was changed, cut off or lost, and every one that is none of the store's; exits with 2 if there
    is any.
    """
    settings, options = resolve_settings(data_verify, VerifySettings, arguments)
    with loading("the array libraries"):
        from kit.data.store.verify import verify
    result = verify(settings.store, settings.workers).as_dict()
    code = 0 if result["passed"] else 2
    return Outcome(result, options.as_json, show_verification, code)


def data_qa(arguments: Sequence[str]) -> Outcome:
    """Check a store: structure, coordinates, values, units, physics, statistics. Exits with 2 if it is unfit."""
    settings, options = resolve_settings(data_qa, QaSettings, arguments)
    with loading("the array libraries"):
        from kit.data.store.build import open_store
        from kit.run import quality
    expected = None
    if settings.variant is not None:
        with loading("PyTorch and Aurora"):
            expected = quality.expected_of(settings.variant)
    path = Path(settings.store)
    path = path if path.exists() else open_store(settings.store).path
    found = quality.quality_of(path, expected=expected, accepted=settings.accept, fresh=settings.fresh)
    result = found.report.as_dict()
    if settings.html is not None:
        result["html"] = str(quality.write_page(found, settings.html))
    return Outcome(result, options.as_json, show_quality, 0 if found.report.passed else 2)


def data_stats(arguments: Sequence[str]) -> Outcome:
    """Show a store's statistics, and hold them against upstream's, and its splits against each other.

    A JSON file of statistics is read as well. Exits with 2 if a verdict is an error.
    """
    settings, options = resolve_settings(data_stats, StatsSettings, arguments)
    log_to_screen(logging.INFO)
    with loading("the array libraries"):
        from kit.checks.statistics_report import statistics_report
        from kit.cli.views.statistics import show_statistics
    result = statistics_report(settings)
    return Outcome(result, options.as_json, show_statistics, 0 if result["passed"] else 2)
