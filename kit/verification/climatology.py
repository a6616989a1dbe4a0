"""Climatology beside forecasts: opened for what is scored, and refused where it would flatter or mislead."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from kit.data.climatology.matching import Wanted
from kit.data.climatology.reader import open_climatology
from kit.data.settings import Period
from kit.verification.evaluation import Scoring
from kit.verification.sums import wind_speeds

_logger = logging.getLogger(__name__)


@contextmanager
def with_climatology(
    scoring: Scoring, place: str | None, stated: Period | None
) -> Iterator[tuple[Scoring, dict[str, str]]]:
    """Open a climatology beside the forecasts that are scored.

    Args:
        scoring: Start dates and regions.
        place: Folder, address or registry name of the climatology; None without.
        stated: Times that it was averaged over, where it does not say so itself.

    Yields:
        The same with the climatology, and what sums are made of beside all else: nothing without one.

    Raises:
        SettingsError: it was averaged over times that are tested, or lacks some of them.
        StoreError: it cannot be read, or has another grid.
    """
    if place is None:
        yield scoring, {}
        return
    selection, store = scoring.pairs.selection, scoring.pairs.store
    names = [*selection.targets, *selection.atmospheric]
    names += wind_speeds(names)
    wanted = Wanted(store, *selection.grid.scored_coordinates(store), selection.levels, names)
    with open_climatology(place, wanted, stated) as climatology:
        climatology.check(valid_times(scoring))
        if climatology.lacking:
            told = "; ".join(f"{name} {reason}" for name, reason in climatology.lacking.items())
            _logger.warning("%s: no anomalies of %d variables: %s", place, len(climatology.lacking), told)
        made_of = {"climatology": climatology.name, "climatology_sha256": climatology.fingerprint}
        yield dataclasses.replace(scoring, climatology=climatology), made_of


def valid_times(scoring: Scoring) -> list[datetime]:
    """List the times of all states that forecasts are compared with, in order, UTC."""
    timestep = scoring.pairs.selection.timestep
    found: set[datetime] = set()
    for index in scoring.starts:
        start = scoring.pairs.time(index)
        found.update(start + step * timestep for step in scoring.places(index))
    return sorted(found)
