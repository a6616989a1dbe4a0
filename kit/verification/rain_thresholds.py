"""Amounts of rain that events of single forecasts are counted at."""

import dataclasses
from typing import Any

from kit.io.errors import SettingsError
from kit.metrics.contingency import MM_PER_M, THRESHOLDS_MM
from kit.models.transforms import PRECIPITATION
from kit.verification.ensemble_events import exceedances
from kit.verification.evaluation import Scoring
from kit.verification.threshold_settings import Thresholds


def with_thresholds(scoring: Scoring, given: Thresholds) -> tuple[Scoring, dict[str, Any]]:
    """Choose the amounts that rain is scored at.

    Args:
        scoring: Start dates and variables.
        given: Thresholds by variable, in millimetres; those of all variables count for each of them.

    Returns:
        The same with the amounts, and what sums are made of beside all else: nothing with the usual amounts.

    Raises:
        SettingsError: a variable is not scored, or is no rain.
    """
    if not given:
        return scoring, {}
    rain = [name for name in PRECIPITATION if name in scoring.channels]
    for name, _ in given:
        if name in scoring.channels and name not in rain:
            msg = (
                f"thresholds: {name} is no rain, and of single forecasts rain alone is scored by events; leave it out, "
                "or score an ensemble, whose probabilities have thresholds of any variable"
            )
            raise SettingsError(msg)
    named = {name for name, _ in given}
    asked = [one for one in exceedances(given, scoring.channels, rain) if one.channel in named]
    amounts = tuple(sorted({round(one.value * MM_PER_M, 9) for one in asked}))
    if min(amounts) <= 0:
        msg = f"thresholds: expected amounts of rain above 0 mm, got {min(amounts):g}mm"
        raise SettingsError(msg)
    made_of = {} if amounts == THRESHOLDS_MM else {"thresholds_mm": list(amounts)}
    return dataclasses.replace(scoring, thresholds_mm=amounts), made_of
