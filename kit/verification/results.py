"""What an evaluation finds: the scorecard, and the numbers of it that others take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.store.reader import Store
from kit.metrics.contingency import THRESHOLDS_MM
from kit.metrics.precipitation import RainBoard, flattened
from kit.models.transforms import PRECIPITATION
from kit.verification.scoring import ScoreRow, lead_name
from kit.verification.sums import WIND_SPEED, States

HEADLINE_HOURS = (24, 72, 120, 240)
"""Leads that people ask for first: 1, 3, 5 and 10 days."""
HEADLINE_VARIABLES = ("z_500", "t_850", "q_700", "2t", "10ws", "msl", "tp")
"""Variables that people ask for first."""
_MANY_LEADS = 10
_ROW = ("rmse", "mae", "bias", "persistence_rmse", "skill", "base_rmse", "skill_over_base")


@dataclass(frozen=True)
class Scorecard:
    """Scores of a checkpoint, or of forecasts in a file, over the states of one period.

    Attributes:
        checkpoint: Folder of the checkpoint, as it was given; None of a file.
        store: Folder of the store with the states.
        synthetic: Whether the states are made up.
        period: Times of the states, ``START/END``, UTC.
        samples: Number of forecasts scored.
        steps: Model steps of each forecast, or leads of a file; ``scores`` are of the last one.
        lead_hours: Lead of the last one in hours.
        samples_per_second: Forecasts per second, reading included.
        data_wait_fraction: Share of the time that was spent waiting for data, from 0 to 1.
        edge: Errors of a regional model by distance from the edge, as ``EdgeBoard.results`` lists them; None on the
            globe.
        rain: Scores of precipitation (RMSE in mm, critical success index and frequency bias by threshold) of ``model``
            and of ``persistence``; None where there is no precipitation.
        scores: Of the last lead, by variable and level: ``rmse``, ``mae`` and ``bias`` in its unit, weighted by area;
            ``persistence_rmse`` and ``skill`` against it; and where the base weights were scored ``base_rmse`` and
            ``skill_over_base``.
        forgetting: By variable and level that the base weights predict: ``before``, ``after`` and ``change``, as
            ``forgetting`` makes them.
        leads: By lead (``024h``), then by variable and level, the wind's speed among them: scores of every lead that
            was ever evaluated, as ``kit.verification.scoring.score_rows`` lists them.
        regions: The same of each region but the whole, by its name.
        units: Unit of each variable and level.
        precision: Precision of the predictions, such as ``fp32``; None of a file.
        seed: Seed of the noise of a stochastic model; None where it draws none.
        checkpoint_sha256: Hash of the checkpoint's ``kit.json``, which changes with any of its files.
        forecast_file: File of the forecasts, as it was given; None of a checkpoint.
        regridding: How a forecast file on another grid was interpolated: ``from``, ``to``, ``methods`` by variable and
            ``library``; None where it was not.
        left_out: Number of ``starts`` and of ``states`` in the file for which the store has no analyses.
        leakage: Dates that training or validation saw, by stage, as ``kit.verification.leakage`` lists them.
        spectra: By lead, channel and band of latitude the power of forecasts divided by that of what came, of large,
            medium and small scales, as ``kit.verification.spectra.power_ratios`` has it; None of grids that do not go
            around the globe.
        neighbourhoods_km: Width in km of the neighbourhoods that rain is scored over, such as ``3x3``; None without.
        members: Number of members of an ensemble; None of a single forecast, as the two below.
        ensemble: By lead, then by variable and level: scores of the members, as
            ``kit.verification.ensemble_scores.ensemble_table`` lists them; all other scores are of their mean.
        ensemble_regions: The same of each region but the whole, by its name.
    """

    checkpoint: str | None
    store: str
    synthetic: bool
    period: str
    samples: int
    steps: int
    lead_hours: float
    samples_per_second: float
    data_wait_fraction: float
    edge: Sequence[Mapping[str, Any]] | None
    rain: Mapping[str, Mapping[str, float]] | None
    scores: Mapping[str, ScoreRow]
    forgetting: Mapping[str, ScoreRow]
    leads: Mapping[str, Mapping[str, ScoreRow]] = field(default_factory=dict)
    regions: Mapping[str, Mapping[str, Mapping[str, ScoreRow]]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    precision: str | None = "fp32"
    seed: int | None = None
    checkpoint_sha256: str | None = None
    forecast_file: str | None = None
    left_out: Mapping[str, int] | None = None
    regridding: Mapping[str, Any] | None = None
    leakage: Sequence[Mapping[str, Any]] = ()
    spectra: Mapping[str, Mapping[str, Mapping[str, ScoreRow]]] | None = None
    neighbourhoods_km: Mapping[str, float] | None = None
    members: int | None = None
    ensemble: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None
    ensemble_regions: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit evaluate --json`` prints; what is None is left out."""
        found = dict(vars(self))
        optional = ("edge", "rain", "seed", "checkpoint_sha256", "forecast_file", "left_out", "precision", "regridding")
        for name in (*optional, "spectra", "neighbourhoods_km", "members", "ensemble", "ensemble_regions"):
            if found[name] is None:
                del found[name]
        return found


def headlines(card: Scorecard) -> dict[str, float | None]:
    """Pick the numbers of a scorecard that go to a page on which runs are compared.

    Returns:
        ``test/rmse/2t`` and ``test/skill/2t`` for each variable and level, precipitation, means over all variables and
        levels, and ``test/024h/rmse/2t`` of each lead (of many, those of ``HEADLINE_HOURS`` and the last), of rain
        ``test/024h/csi_1mm/tp`` and the like.
    """
    # All numbers of a scorecard would be hundreds, among which nobody finds the losses.
    found: dict[str, float | None] = {}
    for kind in ("rmse", "skill"):
        for name, row in card.scores.items():
            found[f"test/{kind}/{name}"] = row[kind]
    if card.rain is not None:
        for name, value in card.rain["model"].items():
            found[f"test/{name}"] = value
    skills = [row["skill"] for row in card.scores.values() if row["skill"] is not None]
    changes = [row["change"] for row in card.forgetting.values() if row["change"] is not None]
    if skills:
        found["test/mean_skill"] = sum(skills) / len(skills)
        found["test/better_than_persistence"] = sum(skill > 0 for skill in skills) / len(skills)
    if changes:
        found["test/mean_change_from_base"] = sum(changes) / len(changes)
    leads = list(card.leads)
    if len(leads) > _MANY_LEADS:
        wanted = {lead_name(hours) for hours in HEADLINE_HOURS}
        leads = [lead for lead in leads if lead in wanted or lead == leads[-1]]
    for lead in leads:
        for name, row in card.leads[lead].items():
            for kind in ("rmse", "acc", *_rain_kinds(row)):
                if row.get(kind) is not None:
                    found[f"test/{lead}/{kind}/{name}"] = row[kind]
    return found


def _rain_kinds(row: ScoreRow) -> list[str]:
    """List the scores of rain in a row: critical success and frequency bias at each amount, and SEEPS; no intervals."""
    kinds = ("csi", "frequency_bias", "seeps")
    return [name for name in row if name.startswith(kinds) and not name.endswith(("_low", "_high"))]


def old_row(row: ScoreRow) -> ScoreRow:
    """Take the numbers that ``scores`` has had from the beginning."""
    return {name: row[name] for name in _ROW if name in row}


def units_of(channels: npt.NDArray[np.str_], store: Store) -> dict[str, str]:
    """Look up the unit of each channel; winds' speed has that of the wind."""
    found = {}
    for channel in map(str, channels):
        name = channel.rpartition("_")[0] if channel not in (*store.surface, "10ws", "100ws") else channel
        if name in (WIND_SPEED, "10ws", "100ws"):
            found[channel] = "m s-1"
        else:
            found[channel] = str(store.variable_attributes(name).get("units", ""))
    return found


def forgetting(scores: Mapping[str, ScoreRow]) -> dict[str, ScoreRow]:
    """Compare errors with those of the weights that training started from, on the same samples.

    Args:
        scores: Scores by variable and level; ``base_rmse`` among them where the base weights predict it.

    Returns:
        For each variable and level that both predict ``before`` and ``after``, the RMSE in its unit, and ``change``,
        the relative change: above 0 it got worse. None where there is no such number.
    """
    found: dict[str, ScoreRow] = {}
    for key, row in scores.items():
        if "base_rmse" in row:
            old, new, change = row["base_rmse"], row["rmse"], None
            if old and new is not None:
                change = new / old - 1
            found[key] = {"before": old, "after": new, "change": change}
    return found


class RainCard:
    """Scores of a model's precipitation, and of persistence: what fell in the step before falls again."""

    def __init__(self, thresholds_mm: Sequence[float] = THRESHOLDS_MM) -> None:
        """Start with no forecasts.

        Args:
            thresholds_mm: Amounts in an accumulation window from which on rain counts.
        """
        self._model = RainBoard(thresholds_mm)
        self._persistence = RainBoard(thresholds_mm)

    def update(
        self,
        predicted: States,
        target: States,
        last: States,
    ) -> None:
        """Add one batch.

        Args:
            predicted: Physical values by variable where they are scored, in metres, [B, H, W] at the surface.
            target: Values that came, the same shapes.
            last: Values that were last observed, the same shapes.
        """
        # Grid points are counted without area weights, as contingency tables do.
        for name in PRECIPITATION:
            if name in target:
                self._model.update({name: predicted[name]}, {name: target[name]})
                self._persistence.update({name: last[name]}, {name: target[name]})

    def results(self) -> dict[str, dict[str, float]] | None:
        """Return the scores of ``model`` and ``persistence``; None where there is no precipitation."""
        model = flattened(self._model.results())
        if not model:
            return None
        return {"model": model, "persistence": flattened(self._persistence.results())}
