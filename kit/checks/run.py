"""Run every check on a store.

A check yields its findings; one that yields none has passed. What it found is evidence (which variable, how
many, where first), and comes with what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit.checks import coordinates, geography, physics, structure, training, units, values, variant
from kit.checks.check import Examined
from kit.checks.expected import Expected
from kit.checks.results import Report
from kit.checks.scan import Bounds, survey
from kit.checks.store_reader import open_subject

__all__ = ["CHECKS", "VERSION", "examine", "report_on"]

VERSION = 4
"""Of the checks: a report of another one is not taken for one of these."""

_ROOMS = (structure, variant, coordinates, values, units, physics, geography, training)
CHECKS = {check.name: check for room in _ROOMS for check in room.CHECKS}
"""All checks by name, in the order in which they are reported."""


def examine(path: Path, expected: Expected | None = None, watch: Callable[[], None] = lambda: None) -> Examined:
    """Read each value of a store once, even of one that cannot be trained on.

    Args:
        path: the store's folder.
        expected: what it should hold; what upstream's models usually read, by default.
        watch: called after each state of each variable.

    Raises:
        StoreError: there is no store at ``path`` at all.
    """
    subject = open_subject(path)
    trains, weights = subject.training, subject.weights
    surveys = {
        channel.name: survey(channel, Bounds.of(channel, subject.statistics_of(channel)), trains, watch, weights)
        for channel in subject.channels
    }
    return Examined(subject, surveys, expected or Expected())


def report_on(store: Examined) -> Report:
    """Run all checks: one entry for each finding, or one that says that it passed or was skipped."""
    return Report(str(store.subject.path), tuple(entry for check in CHECKS.values() for entry in check.run(store)))
