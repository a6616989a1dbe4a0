"""Run every check on a store.

A check yields its findings; one that yields none has passed. What it found is evidence (which variable, how
many, where first), and comes with what to do about it.
"""

from collections.abc import Callable
from pathlib import Path

from kit.checks import accumulations, coordinates, physics, profiles, structure, training, units, values, variant, winds
from kit.checks.check import Examined, Expected
from kit.checks.results import Check, QualityReport
from kit.checks.scan import Bounds, survey
from kit.checks.store_reader import open_store_reader

VERSION = 5
"""Of the checks: a report of another one is not taken for one of these."""

_ALL = (
    *structure.CHECKS,
    *variant.CHECKS,
    *coordinates.CHECKS,
    *values.CHECKS,
    *units.CHECKS,
    *accumulations.CHECKS,
    *physics.CHECKS,
    *profiles.CHECKS,
    *winds.CHECKS,
    *training.CHECKS,
)
CHECKS = {check.name: check for check in _ALL}
"""All checks by name, in the order in which they are reported."""


def examine(path: Path, expected: Expected | None = None, watch: Callable[[], None] = lambda: None) -> Examined:
    """Read each value of a store once, even of one that cannot be trained on.

    Args:
        path: Folder of the store.
        expected: What it should hold; what upstream's models usually read, by default.
        watch: Called after each state of each variable.

    Raises:
        StoreError: there is no store at ``path`` at all.
    """
    reader = open_store_reader(path)
    trains, weights = reader.training, reader.weights
    surveys = {}
    for channel in reader.channels:
        bounds = Bounds.of(channel, reader.statistics_of(channel))
        surveys[channel.name] = survey(channel, bounds, trains, watch, weights)
    return Examined(reader, surveys, expected or Expected())


def report_on(store: Examined) -> QualityReport:
    """Run all checks: one entry for each finding, or one that says that it passed or does not apply."""
    results: list[Check] = []
    for check in CHECKS.values():
        results += check.run(store)
    variables = {channel.name: channel.meaning for channel in store.reader.channels if channel.kind != "static"}
    return QualityReport(str(store.reader.path), tuple(results), variables)
