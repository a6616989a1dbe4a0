"""Comparison of runs: what differs between them, and whether one is better than the first."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from kit.tracking.params import flatten
from kit.verification.archive import Archive
from kit.verification.card_scores import card_scores
from kit.verification.comparison_settings import CompareSettings
from kit.verification.leakage import count_seen, dates_of, dates_seen, valid_leakage
from kit.verification.paired_scores import PairedScore, PairedScores, choose_archives, paired_scores
from kit.verification.run_facts import differing, loss_records, recorded_provenance, recorded_settings, run_facts
from kit.verification.significance import LEVEL
from kit.verification.subjects import Subject, find_subjects

# Of where and when a run was recorded, and not of what it is.
_NOT_COMPARED = ("run.name", "run.dir", "train.resume")
_PROVENANCE = ("kit", "git", "lock_sha256", "packages", "python", "platform", "cpu", "gpus", "data", "base_weights")
"""What of ``provenance.json`` is compared."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of runs, the first of which the others are held against.

    Attributes:
        runs: Facts about each, as ``run_facts`` collects them; where scores are compared also ``leakage``, what
            training saw of their dates as ``count_seen`` lists it, and ``test_dates_seen`` (``dates_seen``).
        settings: Settings that are not the same in all, one value for each; None where it is not recorded.
        provenance: The same of code, packages, machine, data and base weights.
        dates: ``count``, ``first`` and ``last`` of the start dates that all were scored on; None without sums.
        scores: Scores, and differences from the first.
        tests: ``count`` of comparisons with a test of significance, how many are ``significant``, and how many of so
            many would be called so ``by_chance`` if there were no difference at all.
        units: Unit of each variable, as far as scorecards state it.
        notes: What could not be compared, and why.
        losses: Losses of each, as ``metrics.jsonl`` holds them.
        figures: Figures of each, by name of the file.
        html: Page that was written; None without one.
    """

    runs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Sequence[Any]]
    provenance: Mapping[str, Sequence[Any]]
    dates: Mapping[str, Any] | None
    scores: Sequence[PairedScore]
    tests: Mapping[str, float]
    units: Mapping[str, str]
    notes: Sequence[str]
    losses: Sequence[Sequence[Mapping[str, Any]]] = ()
    figures: Sequence[Mapping[str, Path]] = ()
    html: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit compare --json`` prints; ``html`` only where a page was written."""
        found = {
            name: getattr(self, name) for name in ("runs", "settings", "provenance", "dates", "tests", "units", "notes")
        }
        found["scores"] = [row.to_dict() for row in self.scores]
        if self.html is not None:
            found["html"] = self.html
        return found


def compare(settings: CompareSettings) -> tuple[Comparison, list[Subject]]:
    """Compare runs, checkpoints, sums and scorecards with the first of them.

    Returns:
        The comparison, and what was compared.

    Raises:
        KitError: one of them cannot be compared, or they were scored against different data or on no common dates.
    """
    with tempfile.TemporaryDirectory(prefix="kit-compare-") as scratch:
        subjects = find_subjects(settings, Path(scratch))
        return _compared(subjects, settings), subjects


def _compared(subjects: Sequence[Subject], settings: CompareSettings) -> Comparison:
    scores, archives = None, None
    if not settings.settings_only:
        # Where one has nothing but a scorecard, the scorecards of all are what is left to compare.
        if any(not subject.archives and subject.card is not None for subject in subjects):
            scores = card_scores(subjects, settings)
        else:
            archives = choose_archives(subjects)
            scores = paired_scores(subjects, archives, settings)
    flat = [recorded_settings(subject) for subject in subjects]
    of_runs = differing(flat)
    made_of = []
    for subject in subjects:
        record = recorded_provenance(subject)
        made_of.append(flatten({name: record[name] for name in _PROVENANCE if name in record}))
    notes = list(scores.notes) if scores is not None else []
    unknown = [subject.name for subject, known in zip(subjects, flat, strict=True) if not known]
    if unknown:
        notes.append(f"{', '.join(unknown)}: no settings are recorded there")
    return Comparison(
        runs=_facts(subjects, archives, scores),
        settings={key: values for key, values in of_runs.items() if key not in _NOT_COMPARED},
        provenance=differing(made_of),
        dates=_dates(scores),
        scores=scores.rows if scores is not None else (),
        tests=_tests(scores.rows if scores is not None else ()),
        units={name: unit for subject in subjects if subject.card for name, unit in subject.card["units"].items()},
        notes=notes,
        losses=[loss_records(subject.folder) for subject in subjects],
        figures=[_figures(subject) for subject in subjects],
    )


def _facts(
    subjects: Sequence[Subject], archives: Sequence[Archive] | None, scores: PairedScores | None
) -> list[dict[str, Any]]:
    """Collect facts about each, with what its scores were computed from, and what training saw of their dates."""
    found = []
    for position, subject in enumerate(subjects):
        facts = run_facts(subject)
        leakage: list[dict[str, Any]] = []
        if archives is not None and scores is not None:
            archive = archives[position]
            evaluated: dict[str, Any] = {"sums": str(archive.path)}
            for name in ("store_name", "store_fingerprint", "precision", "seed"):
                evaluated[name] = archive.attributes.get(name)
            facts["evaluated"] = evaluated
            leakage = _leakage(subject, archive, scores)
        elif scores is not None and subject.card is not None:
            # A scorecard holds no dates, but what was counted when they were scored.
            leakage = valid_leakage(subject.card.get("leakage"))
        if scores is not None:
            facts |= {"leakage": leakage, "test_dates_seen": dates_seen(leakage)}
        found.append(facts)
    return found


def _leakage(subject: Subject, archive: Archive, scores: PairedScores) -> list[dict[str, Any]]:
    """Count what training saw of the dates that are compared."""
    starts = [moment.replace(tzinfo=UTC) for moment in scores.starts.astype("datetime64[s]").tolist()]
    leads = {float(row.lead.removesuffix("h")) for row in scores.rows}
    targets = sorted({start + timedelta(hours=lead) for start in starts for lead in leads})
    model = subject.description.get("model") or {}
    timestep = timedelta(hours=float(model.get("timestep_hours", 0)))
    dates = dates_of(starts, targets, int(model.get("history", 1)), timestep)
    # Sums of earlier versions do not say whether their states are made up.
    facts = archive.attributes
    return count_seen(
        subject.description or None, dates, facts.get("store_fingerprint"), synthetic=facts.get("synthetic")
    )


def _dates(scores: PairedScores | None) -> dict[str, Any] | None:
    if scores is None or not len(scores.starts):
        return None
    first, last = scores.starts[[0, -1]].astype("datetime64[m]")
    return {"count": len(scores.starts), "first": str(first), "last": str(last)}


def _tests(rows: Sequence[PairedScore]) -> dict[str, float]:
    judged = [row for row in rows if row.significant is not None]
    significant = sum(row.significant is True for row in judged)
    return {"count": len(judged), "significant": significant, "by_chance": round((1 - LEVEL) * len(judged), 2)}


def _figures(subject: Subject) -> dict[str, Path]:
    if subject.folder is None or subject.mlflow_run_id is not None:
        return {}
    return {file.name: file for file in sorted(subject.folder.figures.glob("*.png"))}
