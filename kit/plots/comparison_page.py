"""Comparisons, and the page of one: scores, what differs, losses and maps of several runs beside each other."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kit.io.atomic import check_free
from kit.io.errors import KitError
from kit.plots.pages import embedded, picture, render, write_page
from kit.plots.styles import INK, framed, gridded
from kit.tracking.download import add_artifact
from kit.tracking.run_records import attach
from kit.verification import comparison as room
from kit.verification.comparison import Comparison
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_scores import PairedScore
from kit.verification.regions import ALL
from kit.verification.results import HEADLINE_VARIABLES
from kit.verification.subjects import Subject

_logger = logging.getLogger(__name__)

# Colours that people with any colour vision tell apart: Okabe and Ito 2008, "Color universal design".
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLES: Mapping[str, Mapping[str, Any]] = {
    "train": {"linewidth": 0.9, "alpha": 0.6},
    "valid": {"linewidth": 1.4, "marker": "o", "markersize": 4},
}
"""How training and validation losses are drawn."""
_MOST_COLUMNS = 12
"""Leads of a table; of more, some are shown, evenly spread, and the rest stand in the list."""
_MANY_ROWS = 20
"""Variables above which those that people ask for first stand by themselves, above all others."""
_AS_SHARE = ("rmse", "mae", "activity")
"""Scores whose change is a share of the first one's."""
_MOST_ROWS = 2000
"""Rows of the list of all scores."""


def compare(settings: CompareSettings) -> Comparison:
    """Compare runs, checkpoints, sums and scorecards with the first of them, and write a page if one is asked for.

    The page goes into the MLflow run of each run that has one.

    Args:
        settings: What is compared, by which scores, and where the page goes.

    Raises:
        KitError: one of them cannot be compared, or they were scored against different data or on no common dates;
            nothing is written.
    """
    if settings.out is not None:
        check_free(settings.out)
    found, subjects = room.compare(settings)
    if settings.out is None:
        return found
    write_page(page(found), settings.out)
    for subject in subjects:
        _attach(subject, settings)
    return replace(found, html=str(settings.out))


def _attach(subject: Subject, settings: CompareSettings) -> None:
    assert settings.out is not None
    if subject.mlflow_run_id is None:
        if subject.folder is not None:
            attach(subject.folder.path, files=[settings.out])
        return
    try:
        add_artifact(subject.mlflow_run_id, settings.track.uri, settings.run.dir, settings.out)
    except KitError as error:
        _logger.warning("not recorded in MLflow: %s", error)


@dataclass(frozen=True)
class ScoreTable:
    """One run's scores of one kind in one region beside the first's, variables by leads.

    Attributes:
        run: Name of what is compared with the first.
        region: Region.
        score: Name of the score.
        leads: Leads that are shown.
        rows: Comparisons by variable and lead.
    """

    run: str
    region: str
    score: str
    leads: Sequence[str]
    rows: Mapping[str, Mapping[str, PairedScore]]


def score_tables(found: Comparison) -> list[ScoreTable]:
    """Sort scores into tables, those of everything together first."""
    sorted_rows: dict[tuple[str, str, str], dict[str, dict[str, PairedScore]]] = {}
    for row in found.scores:
        table = sorted_rows.setdefault((row.run, row.region, row.score), {})
        table.setdefault(row.variable, {})[row.lead] = row
    tables = []
    for (run, region, score), rows in sorted_rows.items():
        leads = list(dict.fromkeys(lead for of_one in rows.values() for lead in of_one))
        if len(leads) > _MOST_COLUMNS:
            shown = np.linspace(0, len(leads) - 1, _MOST_COLUMNS).round().astype(int)
            leads = [leads[position] for position in shown]
        tables.append(ScoreTable(run, region, score, leads, rows))
    return sorted(tables, key=lambda table: table.region != ALL)


def relative(row: PairedScore) -> float | None:
    """Return a difference as a share of the first one's score; None where that is not above zero."""
    reference = row.values[0]
    return row.difference / reference if reference is not None and reference > 0 else None


def overlaid_losses(names: Sequence[str], losses: Sequence[Sequence[Mapping[str, Any]]]) -> Figure | None:
    """Draw training (thin) and validation losses (marked) of several runs against the step; None without any."""
    figure = framed(8.0, 3.9, "Losses", "lines: training; marks: validation")
    axes = figure.subplots()
    drawn = False
    for position, (name, records) in enumerate(zip(names, losses, strict=True)):
        colour = COLOURS[position % len(COLOURS)]
        label = f" {name}"
        for kind, style in _STYLES.items():
            points = [
                (line["step"], line["loss"])
                for line in records
                if line.get("kind") == kind and line.get("loss") is not None
            ]
            if points:
                step, loss = np.array(sorted(points)).T
                axes.plot(step, loss, color=colour, label=label, **style)
                # A label that begins with an underscore is left out of the legend: each run stands there once.
                label, drawn = "_", True
    if not drawn:
        return None
    if min(axes.dataLim.intervaly) > 0 and axes.dataLim.intervaly[1] > 5 * axes.dataLim.intervaly[0]:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=9.5, color=INK)
    axes.set_ylabel("loss", fontsize=9.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    gridded(axes, "y")
    legend = axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    # Dollar signs in a run's name are no formula.
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def page(found: Comparison) -> str:
    """Write the page.

    Returns:
        HTML without scripts and without references to anything outside of it.
    """
    names = [run["name"] for run in found.runs]
    losses = overlaid_losses(names, found.losses)
    maps = {}
    for file in dict.fromkeys(name for figures in found.figures for name in figures):
        shown = [embedded(figures[file]) if file in figures else None for figures in found.figures]
        if file != "loss.png" and any(shown):
            maps[file] = shown
    return render(
        "comparison.html.j2",
        {"losses": None if losses is None else picture(losses), "maps": maps},
        names=names,
        runs=found.runs,
        settings=found.settings,
        provenance=found.provenance,
        dates=found.dates,
        tests=found.tests,
        units=found.units,
        notes=found.notes,
        leaking=[run["name"] for run in found.runs if run.get("test_dates_seen") == "yes"],
        statements=[(run["name"], row) for run in found.runs for row in run.get("leakage", [])],
        tables=[_cells(table) for table in score_tables(found)],
        rows=[vars(row) | {"verdict": row.verdict} for row in found.scores[:_MOST_ROWS]],
        left_out=max(0, len(found.scores) - _MOST_ROWS),
    )


def _cells(table: ScoreTable) -> dict[str, Any]:
    """Turn a table into texts' values: of each cell the relative change, its verdict and how strong its colour is."""
    rows = {}
    for variable, of_leads in table.rows.items():
        cells: list[dict[str, Any] | None] = []
        for lead in table.leads:
            row = of_leads.get(lead)
            if row is None:
                cells.append(None)
                continue
            change = relative(row) if table.score in _AS_SHARE else row.difference
            cells.append({"change": change, "verdict": row.verdict, "row": vars(row)})
        rows[variable] = cells
    headline = {}
    if table.region == ALL:
        headline = rows
        usual = {name: rows[name] for name in HEADLINE_VARIABLES if name in rows}
        if len(rows) > _MANY_ROWS and usual:
            headline = usual
    return {**vars(table), "rows": rows, "headline": headline, "as_share": table.score in _AS_SHARE}
