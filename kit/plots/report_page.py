"""The page of a report on a run, for those who were not there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.plots.curves import loss_curves
from kit.plots.ensemble_plots import ensemble_figures
from kit.plots.mean_error_maps import MEAN_ERROR
from kit.plots.pages import embedded, picture, render
from kit.verification.archive import Archive
from kit.verification.ensemble_scores import ensemble_table, members_of
from kit.verification.regions import ALL
from kit.verification.results import HEADLINE_VARIABLES
from kit.verification.significance import LEVEL

_USUAL_LEADS = ("024h", "072h", "120h", "240h")
_MOST_LEADS = 4
_MOST_MAPS = 24
_LOSSES = "loss.png"


def report_page(
    content: Mapping[str, Any], losses: Sequence[Mapping[str, Any]], figures: Path, ensembles: Sequence[Archive] = ()
) -> str:
    """Write the page.

    Args:
        content: What the run folder holds, as ``kit.experiments.report`` gathers it.
        losses: Lines of ``metrics.jsonl``.
        figures: Folder of the run's figures.
        ensembles: Sums of ensembles to be shown.

    Returns:
        HTML without scripts and without references to anything outside of it.
    """
    name = content["facts"]["name"]
    synthetic = any(isinstance(stage, Mapping) and stage.get("synthetic") for stage in content["lineage"][-1:])
    curves = None
    if any(line.get("kind") in ("train", "valid") for line in losses):
        curves = picture(loss_curves(losses, title="Loss", synthetic=synthetic))
    files = [file for file in sorted(figures.glob("*.png")) if file.name != _LOSSES]
    errors = [file for file in files if file.name.startswith(MEAN_ERROR)]
    others = [file for file in files if file not in errors]
    pictures = {
        "losses": curves,
        "errors": _pictures(errors[:_MOST_MAPS]),
        "maps": _pictures(others[:_MOST_MAPS]),
        "ensembles": [_drawn(archive) for archive in ensembles],
    }
    return render(
        "report.html.j2",
        pictures,
        **content,
        name=name,
        synthetic=synthetic,
        maps_left_out=max(0, len(errors) - _MOST_MAPS) + max(0, len(others) - _MOST_MAPS),
        headline={} if content["scores"] is None else _headline(content["scores"]["leads"]),
        ensembles=[_described(archive) for archive in ensembles],
        verdicts=_verdicts(content["scores"]),
    )


def _pictures(files: Sequence[Path]) -> dict[str, str]:
    """Embed figures, by name."""
    found = {}
    for file in files:
        address = embedded(file)
        if address is not None:
            found[file.stem] = address
    return found


def _drawn(archive: Archive) -> dict[str, str]:
    """Draw spread, error and ranks of an ensemble, by name."""
    figures = ensemble_figures(archive)
    return {name: picture(figure) for name, figure in figures if not name.startswith("reliability")}


def _described(archive: Archive) -> dict[str, Any]:
    """Describe an ensemble: its file, number of members and initial times, and scores by lead and variable."""
    by_region = ensemble_table(archive)
    return {
        "file": archive.attributes.get("forecast_file", archive.path.name),
        "folder": str(archive.path.parent),
        "members": members_of(archive),
        "dates": len(archive.coordinates["start"]),
        "headline": _headline(by_region.get(ALL, {})),
    }


def _headline(leads_and_rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Choose the scores that people look at first, by lead and variable."""
    leads = list(leads_and_rows)
    if len(leads) > _MOST_LEADS:
        leads = [lead for lead in leads if lead in _USUAL_LEADS] or leads[-1:]
    found = {}
    for lead in leads:
        rows = leads_and_rows[lead]
        usual = {name: rows[name] for name in HEADLINE_VARIABLES if name in rows}
        found[lead] = usual or dict(list(rows.items())[: len(HEADLINE_VARIABLES)])
    return found


def _verdicts(card: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Count, for each reference, over all leads, regions and variables: better, worse, tested, significant."""
    if card is None:
        return {}
    counts: dict[str, dict[str, float]] = {}
    tables = {ALL: card["leads"], **card["regions"]}
    for reference, skill in (("persistence", "skill"), ("base", "skill_over_base")):
        rows = [row for leads in tables.values() for of_lead in leads.values() for row in of_lead.values()]
        skills = [row[skill] for row in rows if row.get(skill) is not None]
        tested = [row for row in rows if row.get(f"{reference}_significant") is not None]
        sure = [row for row in tested if row[f"{reference}_significant"]]
        if skills:
            counts[reference] = {
                "count": len(skills),
                "better": sum(value > 0 for value in skills),
                "tested": len(tested),
                "surely_better": sum((row.get(skill) or 0) > 0 for row in sure),
                "surely_worse": sum((row.get(skill) or 0) < 0 for row in sure),
                "by_chance": (1 - LEVEL) * len(tested),
            }
    return counts
