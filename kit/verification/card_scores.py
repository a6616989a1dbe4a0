"""Scores of scorecards beside each other: what is left where the sums behind them are not there.

A scorecard holds no start dates. Its scores are compared where store, period and number of dates are the same, and
nothing is said of how sure the differences are.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kit.io.errors import SettingsError
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_scores import PairedScore, PairedScores, chosen
from kit.verification.regions import ALL
from kit.verification.scoring import SCORES, lead_name
from kit.verification.subjects import Subject

_NO_DATES = (
    "scorecards hold no start dates: there are no intervals, and nothing is said of significance; compare the sums "
    "that `kit evaluate` keeps"
)

Table = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float | None]]]]
"""Scores by region, lead, variable and name."""


def card_scores(subjects: Sequence[Subject], settings: CompareSettings) -> PairedScores:
    """Compare scorecards with the first.

    Raises:
        SettingsError: one has none, or they are of other data, of other periods or of other numbers of dates.
    """
    _check_same_data(subjects)
    tables = []
    for subject in subjects:
        card = subject.card or {}
        tables.append({ALL: card["leads"], **card["regions"]})
    regions = chosen("regions", settings.regions, [list(table) for table in tables])
    # As the scorecards name them.
    asked = None if settings.leads is None else [lead_name(lead) for lead in settings.leads]
    of_all = [table[ALL] for table in tables]
    leads = chosen("leads", asked, [list(of_leads) for of_leads in of_all])
    variables = chosen(
        "variables", settings.variables, [[name for rows in t.values() for name in rows] for t in of_all]
    )
    rows: list[PairedScore] = []
    for lead in leads:
        for region in regions:
            for variable in variables:
                rows += _rows(subjects, tables, (lead, region, variable), settings.scores)
    if not rows:
        msg = "nothing is left to compare: the scorecards have no lead, region and variable in common"
        raise SettingsError(msg)
    return PairedScores(np.array([], dtype="datetime64[s]"), tuple(rows), (_NO_DATES,))


def _rows(
    subjects: Sequence[Subject], tables: Sequence[Table], place: tuple[str, str, str], scores: Sequence[str]
) -> list[PairedScore]:
    lead, region, variable = place
    found = []
    held = [table.get(region, {}).get(lead, {}).get(variable, {}) for table in tables]
    dates = held[0].get("dates")
    for score in chosen("scores", scores, [list(SCORES)]):
        # Scores over other numbers of dates are of other weather.
        values = tuple(row.get(score) if row.get("dates") == dates else None for row in held)
        for subject, value in list(zip(subjects, values, strict=True))[1:]:
            if dates is not None and value is not None and values[0] is not None:
                apart = value - values[0]
                row = PairedScore(variable, lead, region, score, subject.name, values, apart, dates=int(dates))
                found.append(row)
    return found


def _check_same_data(subjects: Sequence[Subject]) -> None:
    facts: dict[tuple[Any, ...], list[str]] = {}
    for subject in subjects:
        if subject.card is None:
            msg = (
                f"{subject.name}: has no scorecard, and another one of those that are compared has nothing else; "
                "evaluate it with `kit evaluate`, or compare without scores: --settings_only"
            )
            raise SettingsError(msg)
        card = subject.card
        # The folder of the store is that of another machine.
        store = PurePosixPath(str(card["store"])).name
        facts.setdefault((store, str(card["period"]), str(card["samples"])), []).append(subject.name)
    if len(facts) > 1:
        listed = "; ".join(
            f"{', '.join(names)}: {samples} dates of {store} in {period}"
            for (store, period, samples), names in facts.items()
        )
        msg = f"scores against different data are not compared ({listed}); evaluate all on the same"
        raise SettingsError(msg)
