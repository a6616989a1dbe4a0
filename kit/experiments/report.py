"""The report on a run: one page that says what was asked, what came of it, and how to do it again."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from kit.checkpoint.run_folder import RunFolder, read_side_file
from kit.checkpoint.uses import commands_of
from kit.config.layers import read_toml, resolve
from kit.experiments.settings import ReportSettings
from kit.export.card import card, licence_lines
from kit.io.atomic import check_free
from kit.io.errors import KitError, SettingsError
from kit.planning.plan import plan
from kit.planning.settings import PlanSettings
from kit.plots.ensemble_plots import ensemble_sums
from kit.plots.pages import write_page
from kit.plots.report_page import report_page
from kit.settings import Settings
from kit.tracking.params import flatten
from kit.tracking.run_records import attach
from kit.verification.leakage import STATEMENTS, dates_seen
from kit.verification.run_facts import loss_records, recorded_provenance, recorded_settings, run_facts
from kit.verification.subjects import Subject, of_run

V = TypeVar("V")


class _Group(BaseModel):
    """A line of ``trains.json``."""

    model_config = ConfigDict(extra="ignore")

    group: str
    trains: int
    parameters: int
    learning_rate: float | None = None


class _Finding(BaseModel):
    """A check of ``qa.json``."""

    model_config = ConfigDict(extra="ignore")

    name: str
    status: str
    severity: str
    variable: str | None
    detail: str
    remedy: str
    accepted: bool = False


_GROUPS = TypeAdapter(list[_Group])
_FINDINGS = TypeAdapter(list[_Finding])


@dataclass(frozen=True)
class RunReport:
    """Report that was written.

    Attributes:
        run: Folder of the run.
        html: Page.
        missing: What the page lacks, and the command that makes it, a sentence each.
    """

    run: str
    html: str
    missing: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit report --json`` prints."""
        return dict(vars(self))


def report(settings: ReportSettings) -> RunReport:
    """Write the report on a run, and put it into the run's MLflow run.

    Args:
        settings: Run, and where the page goes.

    Returns:
        Where the page is, and what it lacks.

    Raises:
        KitError: there is no run, its checkpoint's description is damaged, there are no scores of an ensemble where
            they should be, or the page cannot be written.
    """
    folder = RunFolder(settings.run)
    if not folder.has_begun:
        msg = f"{settings.run}: expected the folder of a run, such as runs/first; found none of its records there"
        raise SettingsError(msg)
    if settings.out is not None:
        check_free(settings.out)
    out = settings.out or folder.report
    ensembles = [ensemble_sums(path, "ensembles") for path in settings.ensembles]
    gathered = _Gathered(of_run(folder), folder)
    content = gathered.content(planned=settings.plan)
    write_page(report_page(content, loss_records(folder), folder.figures, ensembles), out)
    attach(folder.path, files=[out])
    return RunReport(str(settings.run), str(out), gathered.missing)


class _Gathered:
    """What a run folder holds, as the page shows it."""

    def __init__(self, subject: Subject, folder: RunFolder) -> None:
        self.missing: list[str] = []
        self._subject = subject
        self._folder = folder

    def content(self, *, planned: bool) -> dict[str, Any]:
        """Collect everything; what is not there is noted in ``missing``."""
        subject, folder = self._subject, self._folder
        provenance = recorded_provenance(subject)
        description = subject.description
        settings = recorded_settings(subject)
        defaults = flatten(Settings().model_dump(mode="json"))
        account = self._side_file("tracking")
        trains = self._side_file("trains")
        if not description:
            self.missing.append("a checkpoint: the run has none yet, and lineage, licences and model card are left out")
        scores = subject.card
        if scores is None and description:
            self.missing.append(f"scores: {'; '.join(commands_of(folder.best, description))}")
        if len(list(folder.figures.glob("*.png"))) <= 1:
            self.missing.append(f"maps: kit plot --run {folder.path}")
        checks = self._side_file("qa")
        leakage = self._leakage(scores)
        return {
            "facts": run_facts(subject),
            "account": account,
            "asked": {key: value for key, value in settings.items() if value != defaults.get(key)},
            "settings": settings,
            "provenance": provenance,
            "command": as_typed(provenance.get("argv") or ()),
            "scoring": commands_of("runs/NEW/checkpoints/best", description),
            "data": description.get("data") or {},
            "dataset": account.get("dataset") or {},
            "checks": self._valid("the checks on the data", _FINDINGS.validate_python, checks.get("checks", [])),
            "has_checks": bool(checks),
            "groups": self._valid("what trains", _GROUPS.validate_python, trains.get("groups", [])),
            "plan": self._plan() if planned else None,
            "scores": scores,
            "leakage": leakage,
            "seen": dates_seen(leakage),
            "leaks": description.get("leaks"),
            "model": description.get("model") or {},
            "lineage": description.get("lineage") or [],
            "files": description.get("files") or {},
            "licences": licence_lines(description) if description else [],
            "card": self._card(description, scores),
            "missing": self.missing,
        }

    def _side_file(self, name: str) -> dict[str, Any]:
        file = {"tracking": self._folder.tracking, "trains": self._folder.trains, "qa": self._folder.quality}[name]
        found = read_side_file(file, set(), "the report does without it") if file.is_file() else None
        if found is None:
            self.missing.append(f"{file.name}: it is not there as the run wrote it; --train.resume auto writes it anew")
        return found or {}

    def _valid(self, what: str, read: Callable[[Any], V], value: Any) -> V | list[Any]:
        try:
            return read(value)
        except ValidationError:
            self.missing.append(f"{what}: not as this kit writes it")
            return []

    def _leakage(self, scores: Mapping[str, Any] | None) -> list[Any]:
        """Return what of the scored dates was seen in training, by stage; empty where nobody looked."""
        if scores is None:
            return []
        return self._valid("what training saw of the test dates", STATEMENTS.validate_python, scores.get("leakage", []))

    def _card(self, description: Mapping[str, Any], scores: Mapping[str, Any] | None) -> str | None:
        if not description:
            return None
        try:
            return card(description, self._subject.name, scores)
        except (LookupError, TypeError, AttributeError):
            self.missing.append("the model card: its scores are not as this kit writes them")
            return card(description, self._subject.name, None)

    def _plan(self) -> dict[str, Any] | None:
        """Plan a step of the run; None where its settings or its store are no longer there."""
        try:
            settings = resolve(PlanSettings, [read_toml(Path(self._folder.config), PlanSettings)])
            return plan(settings).to_dict()
        except KitError as error:
            self.missing.append(f"planned memory and time: {error}")
            return None


def as_typed(arguments: Sequence[Any]) -> str:
    """Write a process's arguments as a shell takes them, without the folder of its program."""
    if not arguments:
        return ""
    program, *words = map(str, arguments)
    name = [Path(program).name]
    if name == ["__main__.py"]:
        name = ["python", "-m", Path(program).parent.name]
    return shlex.join([*name, *words])
