"""Dates that are scored, held against those that the weights saw in training and validation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kit.data.settings import Period
from kit.models.pretraining_periods import PRETRAINING_PERIODS
from kit.verification.climatology import valid_times
from kit.verification.evaluation import Scoring

UNKNOWN = "unknown"
"""What stands for periods and counts that nobody recorded: these are not 0."""
STATEMENTS = TypeAdapter(list[dict[str, str | int | float | None]])
"""What a scorecard says of leakage."""


@dataclass(frozen=True)
class SeenPeriod:
    """Times that weights saw.

    Attributes:
        stage: Stage of training, such as ``base: HRES`` or ``stage 1 (lora)``.
        split: ``train`` or ``valid``.
        period: Times; None where they are unknown.
        synthetic: Whether the states were made up, so that real ones of the same dates are others; None where nobody
            knows.
        store: Hash of the store of made-up states, whose dates mean nothing in another one; None where it is unknown.
    """

    stage: str
    split: str
    period: Period | None
    synthetic: bool | None
    store: str | None = None

    def is_of(self, store: str | None, *, synthetic: bool) -> bool:
        """Decide whether states of the same dates in a store may be the same states."""
        if self.synthetic is None:
            return True
        return self.synthetic == synthetic and (not synthetic or self.store in (None, store))


def find_leakage(description: Mapping[str, Any] | None, scoring: Scoring, *, synthetic: bool) -> list[dict[str, Any]]:
    """Count the dates of an evaluation that lie in what each stage of training saw; see ``count_seen``.

    Args:
        description: Contents of the checkpoint's ``kit.json``; None of forecasts whose model is unknown.
        scoring: Start dates and steps that are scored.
        synthetic: Whether the states that are scored are made up.
    """
    selection = scoring.pairs.selection
    dates = dates_of(scoring.times, valid_times(scoring), selection.history, selection.timestep)
    return count_seen(description, dates, scoring.pairs.store.fingerprint(), synthetic=synthetic)


def dates_of(
    starts: Sequence[datetime], targets: Sequence[datetime], history: int, timestep: timedelta
) -> dict[str, Sequence[datetime]]:
    """List the dates of forecasts: ``start`` of initial times, ``inputs`` of input states, ``targets``.

    Args:
        starts: Initial times, UTC.
        targets: Times of the states that forecasts are compared with, UTC.
        history: Number of input states.
        timestep: Time between them.
    """
    inputs = {start - step * timestep for start in starts for step in range(history)}
    return {"start": starts, "inputs": sorted(inputs), "targets": targets}


def count_seen(
    description: Mapping[str, Any] | None,
    dates: Mapping[str, Sequence[datetime]],
    store: str | None,
    *,
    synthetic: bool | None,
) -> list[dict[str, Any]]:
    """Count dates that lie in what each stage of training saw.

    Periods of published weights are those of ``kit.models.pretraining_periods``; those of fine-tuning are in the
    lineage of the checkpoint.

    Args:
        description: Contents of the checkpoint's ``kit.json``; None of forecasts whose model is unknown.
        dates: Dates as ``dates_of`` lists them.
        store: Hash of the store of their states.
        synthetic: Whether the states of these dates are made up; None where that is not recorded.

    Returns:
        For each stage and split: ``stage``, ``split``, ``period`` (``START/END``), and the numbers of dates in it:
        ``start`` of initial times, ``inputs`` of input states, ``targets`` of states that are predicted. ``unknown``
        stands for a period that is not recorded, and for its numbers.
    """
    found = []
    for seen in seen_periods(description):
        entry: dict[str, Any] = {"stage": seen.stage, "split": seen.split, "period": UNKNOWN}
        if seen.period is not None:
            entry["period"] = str(seen.period)
        if synthetic is not None and not seen.is_of(store, synthetic=synthetic):
            # Of another world nothing was seen here, whenever it was.
            entry |= dict.fromkeys(dates, 0)
        elif seen.period is None or synthetic is None:
            entry |= dict.fromkeys(dates, UNKNOWN)
        else:
            entry |= {name: _count(times, seen.period) for name, times in dates.items()}
        found.append(entry)
    return found


def valid_leakage(held: Any) -> list[dict[str, Any]]:
    """Take what a scorecard says of leakage, if it is as this kit writes it; empty where it is not, or says nothing."""
    try:
        return list(STATEMENTS.validate_python(held))
    except ValidationError:
        return []


def dates_seen(leakage: Sequence[Mapping[str, Any]]) -> str:
    """Say in a word whether training saw dates that were scored: ``yes``, ``no``, or ``unknown`` where none is known.

    Args:
        leakage: Statements, one for each stage and split.
    """
    counts = [entry.get(name, UNKNOWN) for entry in leakage for name in ("start", "inputs", "targets")]
    if any(isinstance(count, int) and count > 0 for count in counts):
        return "yes"
    if not counts or any(not isinstance(count, int) for count in counts):
        return UNKNOWN
    return "no"


def seen_periods(description: Mapping[str, Any] | None) -> Iterator[SeenPeriod]:
    """List what weights saw, first what they were published with, then every stage of fine-tuning.

    Args:
        description: Contents of ``kit.json``; None where the model is unknown.
    """
    if description is None:
        yield SeenPeriod("the forecasts' model", "train", None, synthetic=None)
        return
    stages = list(_stages(description.get("lineage") or []))
    if not stages or stages[0].get("base") is not None:
        published = PRETRAINING_PERIODS.get(str(description["model"]["variant"]))
        for what, when in published or ():
            yield SeenPeriod(f"base: {what}", "train", Period.parse(when), synthetic=False)
        if not published:
            yield SeenPeriod("base", "train", None, synthetic=False)
        # Nobody published on which times these were chosen.
        yield SeenPeriod("base", "valid", None, synthetic=False)
    for number, stage in enumerate(stages, start=1):
        name, synthetic = f"stage {number} ({stage.get('method')})", bool(stage.get("synthetic"))
        store = stage.get("store_sha256")
        yield SeenPeriod(name, "train", _period(stage.get("train")), synthetic, store)
        valid = stage.get("valid")
        # Checkpoints of earlier versions record the validation of their last stage alone, beside the data.
        if valid is None and number == len(stages):
            valid = (description.get("data") or {}).get("valid")
        yield SeenPeriod(name, "valid", _period(valid), synthetic, store)


def _stages(lineage: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """List stages of training, those behind an average of checkpoints among them."""
    for stage in lineage:
        members = stage.get("of")
        if not members:
            yield stage
            continue
        for member in members:
            yield from _stages(member.get("lineage") or [])


def _period(text: Any) -> Period | None:
    try:
        return Period.parse(text)
    except ValueError:
        return None


def _count(times: Sequence[datetime], period: Period) -> int:
    return sum(period.start <= time <= period.end for time in times)
