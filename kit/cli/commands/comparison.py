"""Commands about runs that are there: compare them, and report on one."""

from collections.abc import Sequence

from kit.cli.commands.common import Outcome, resolve_settings
from kit.cli.views.comparison import show_comparison, show_report
from kit.cli.views.progress import loading
from kit.experiments.settings import ReportSettings
from kit.verification.comparison_settings import CompareSettings


def compare(arguments: Sequence[str]) -> Outcome:
    """Compare runs with the first: what differs, memory, time, losses, and scores on the dates that all were tested on.

    Takes run folders, checkpoints, exports, sums and scorecards of kit evaluate, and ids of MLflow runs.
    """
    settings, options = resolve_settings(compare, CompareSettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.plots.comparison_page import compare as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, show_comparison)


def report(arguments: Sequence[str]) -> Outcome:
    """Write one page about a run: what was asked, data, what trained, memory, time, losses, scores, maps, licences.

    The page needs nothing beside it, and is readable on a phone and on paper. It holds what is there: scores of kit
    evaluate, maps of kit plot; what is not is said with the command that makes it.
    """
    settings, options = resolve_settings(report, ReportSettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.experiments.report import report as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, show_report)
