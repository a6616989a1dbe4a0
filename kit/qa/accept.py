"""Accept findings by name: what is left unresolved keeps a store from being trained on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from kit.errors import SettingsError
from kit.qa.report import Report

__all__ = ["accept"]


def accept(report: Report, names: Sequence[str], setting: str = "data.accept") -> Report:
    """Mark errors as accepted.

    Args:
        report: of a store.
        names: of the errors, as ``Check.key`` has them: ``nan:2t``.
        setting: where the names come from, for the message.

    Returns:
        The report with these errors marked.

    Raises:
        SettingsError: a name is none of the errors that were found, so that accepting it has no effect.
    """
    errors = {check.key for check in report.failed("error")}
    needless = [name for name in names if name not in errors]
    if needless:
        others = {check.key: check for check in report.checks}
        known = others.get(needless[0])
        reason = "nothing of that name was found"
        if known is not None:
            reason = "it passed" if known.status == "passed" else f"it is no error but {known.severity}: nothing waits"
        near = difflib.get_close_matches(needless[0], errors, n=3, cutoff=0.4) or sorted(errors)[:8]
        msg = (
            f"{setting}: {needless[0]} has no effect on {report.store}: {reason}; leave it out. Errors that were "
            f"found: {', '.join(near) or 'none'}"
        )
        raise SettingsError(msg)
    chosen = frozenset(names)
    checks = (
        replace(check, accepted=True) if check.key in chosen and check in report.failed("error") else check
        for check in report.checks
    )
    return replace(report, checks=tuple(checks))
