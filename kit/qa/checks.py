"""Run every check on a store.

A check yields its findings; one that yields none has passed. What it found is evidence (which variable, how
many, where first), and comes with what to do about it.
"""

from __future__ import annotations

from pathlib import Path

from kit.qa import coordinates, structure, values
from kit.qa.report import Report
from kit.qa.subject import open_subject
from kit.qa.survey import survey
from kit.qa.table import Examined

__all__ = ["CHECKS", "run_checks"]

CHECKS = {check.name: check for check in (*structure.CHECKS, *coordinates.CHECKS, *values.CHECKS)}
"""All checks by name, in the order in which they are reported."""


def run_checks(path: Path) -> Report:
    """Examine a store, even one that cannot be trained on, reading each value once.

    Args:
        path: the store's folder.

    Returns:
        The report: for each check one entry for each finding, or one that says that it passed or was skipped.

    Raises:
        StoreError: there is no store at ``path`` at all.
    """
    subject = open_subject(path)
    store = Examined(subject, {channel.name: survey(channel) for channel in subject.channels})
    return Report(str(path), tuple(entry for check in CHECKS.values() for entry in check.run(store)))
