"""What is compared: runs, checkpoints, exports, sums and scorecards, from this machine or from others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from kit.checkpoint.run_folder import RunFolder, load_side_file
from kit.io.documents import DocumentError
from kit.io.errors import SettingsError
from kit.io.hashes import sha256_of_file
from kit.models.weights.integrity import DESCRIPTION, read_description
from kit.tracking.download import RUN_ID, download_run
from kit.verification.archive import Archive, read_archive
from kit.verification.comparison_settings import CompareSettings

Kind = Literal["run", "checkpoint", "export", "sums", "scorecard", "mlflow"]

_SCORECARD = {"store", "period", "samples", "leads"}
_Rows = dict[str, dict[str, dict[str, FiniteFloat | None]]]
_EXPECTED = (
    "expected a run folder, a checkpoint, an export, sums that `kit evaluate` keeps (a Zarr), a scorecard "
    "(scores.json), or the id of an MLflow run"
)


class _Card(BaseModel):
    """What of a scorecard is computed with; everything else is taken as it is."""

    model_config = ConfigDict(extra="allow")

    leads: _Rows
    regions: dict[str, _Rows] = {}
    units: dict[str, str] = {}


@dataclass(frozen=True)
class Subject:
    """One of those that are compared.

    Attributes:
        name: Name for tables.
        kind: What it is.
        path: Place that it was found at; of an MLflow run without a folder here, where its files were fetched to.
        folder: Run folder; None of what lies in none.
        checkpoint: Checkpoint that is compared; None where there is none.
        description: Contents of the checkpoint's ``kit.json``; empty where there is none.
        archives: Sums of the checkpoint.
        card: Scorecard; None where there is none.
        mlflow_run_id: Id that it was found by in a tracking store; None of what is here.
    """

    name: str
    kind: Kind
    path: Path
    folder: RunFolder | None = None
    checkpoint: Path | None = None
    description: Mapping[str, Any] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()
    card: Mapping[str, Any] | None = None
    mlflow_run_id: str | None = None


def find_subjects(settings: CompareSettings, scratch: Path) -> list[Subject]:
    """Find everything that is to be compared, in the order given, each with a name of its own.

    Args:
        settings: What is compared.
        scratch: Empty folder for what a tracking store has to be asked for.

    Raises:
        KitError: one of them is nothing that can be compared, is damaged, or is given twice.
    """
    found = []
    for position, text in enumerate(settings.runs):
        found.append(_find(text, settings, scratch / str(position)))
    given = dict(zip(map(id, found), settings.runs, strict=True))
    places: dict[Path, str] = {}
    for subject in found:
        place = (subject.checkpoint or subject.path).resolve()
        text = given[id(subject)]
        if place in places:
            msg = f"{text}: is given twice (as {places[place]}, too); name two different ones"
            raise SettingsError(msg)
        places[place] = text
    names = [subject.name for subject in found]
    return [
        subject if names.count(subject.name) == 1 else replace(subject, name=given[id(subject)]) for subject in found
    ]


def _find(text: str, settings: CompareSettings, scratch: Path) -> Subject:
    path = Path(text)
    if path.is_file() and path.suffix == ".tar":
        msg = f"{text}: is an archive; unpack it, and name the folder"
        raise SettingsError(msg)
    if path.is_file():
        return Subject(path.parent.name or path.name, "scorecard", path, card=read_scorecard(path))
    if path.is_dir():
        return _of_folder(path)
    if RUN_ID.fullmatch(text):
        return _of_mlflow(text, settings, scratch)
    msg = f"{text}: there is no such file or folder; {_EXPECTED}"
    raise SettingsError(msg)


def _of_folder(path: Path) -> Subject:
    run = RunFolder(path)
    if run.has_begun or run.metrics.is_file():
        return of_run(run)
    if (path / DESCRIPTION).is_file():
        return _of_checkpoint(path)
    if (path / "zarr.json").is_file():
        return _of_sums(path, (read_archive(path),))
    kept = sorted(path.glob("*.zarr"))
    if kept:
        return _of_sums(path, tuple(map(read_archive, kept)))
    msg = f"{path}: is none of what can be compared; {_EXPECTED}"
    raise SettingsError(msg)


def of_run(run: RunFolder) -> Subject:
    """Take a run by its best checkpoint.

    Raises:
        KitError: its checkpoint's description, its sums or its scorecard are damaged.
    """
    name = run.path.absolute().name
    card = read_scorecard(run.scores) if run.scores.is_file() else None
    if not (run.best / DESCRIPTION).is_file():
        return Subject(name, "run", run.path, folder=run, card=card)
    description = read_description(run.best)
    return Subject(name, "run", run.path, run, run.best, description, _sums_of(run, run.best), card)


def _of_checkpoint(path: Path) -> Subject:
    description = read_description(path)
    run = RunFolder(path.absolute().parent.parent)
    if path.absolute().parent != run.last.parent or not run.has_begun:
        kind: Kind = "export" if "exported" in description else "checkpoint"
        return Subject(path.absolute().name, kind, path, None, path, description)
    name, card = run.path.name, None
    if path.absolute() != run.best:
        name = f"{name}/{path.absolute().name}"
    elif run.scores.is_file():
        card = read_scorecard(run.scores)
    return Subject(name, "checkpoint", path, run, path, description, _sums_of(run, path), card)


def _of_sums(path: Path, archives: tuple[Archive, ...]) -> Subject:
    """Take sums by themselves, with their run where they still lie in it."""
    run = RunFolder(path.absolute().parent.parent)
    name = path.absolute().stem
    if path.absolute().parent != run.sums or not run.has_begun:
        return Subject(name, "sums", path, archives=archives)
    for checkpoint in (run.best, run.last):
        if (checkpoint / DESCRIPTION).is_file() and _is_of(archives[0], checkpoint):
            # The same checkpoint may be compared with itself in another precision: its place is that of its sums.
            described = read_description(checkpoint)
            return Subject(f"{run.path.name} {name}", "sums", path, run, None, described, archives)
    return Subject(name, "sums", path, archives=archives)


def _of_mlflow(run_id: str, settings: CompareSettings, scratch: Path) -> Subject:
    """Take the run with an id from this machine's run folders, or else what a tracking store has of it."""
    for file in sorted(settings.run.dir.glob("*/provenance.json")):
        try:
            record = load_side_file(file, {"mlflow_run_id"})
        except DocumentError:
            continue
        if record["mlflow_run_id"] == run_id:
            return of_run(RunFolder(file.parent))
    scratch.mkdir(parents=True)
    name = download_run(run_id, settings.track.uri, settings.run.dir, scratch)
    found = of_run(RunFolder(scratch))
    return replace(found, name=name, kind="mlflow", mlflow_run_id=run_id)


def _sums_of(run: RunFolder, checkpoint: Path) -> tuple[Archive, ...]:
    """Open the sums of a checkpoint as it is now; those of one that training has replaced are left out."""
    archives = map(read_archive, sorted(run.sums.glob("*.zarr")))
    return tuple(archive for archive in archives if _is_of(archive, checkpoint))


def _is_of(archive: Archive, checkpoint: Path) -> bool:
    return bool(archive.attributes.get("checkpoint_sha256") == sha256_of_file(checkpoint / DESCRIPTION))


def read_scorecard(path: Path) -> dict[str, Any]:
    """Read a scorecard that ``kit evaluate`` wrote, here or elsewhere.

    Raises:
        SettingsError: it is none, or was changed since it was written.
    """
    try:
        return _Card.model_validate(load_side_file(path, _SCORECARD)).model_dump()
    except DocumentError as error:
        msg = f"{error}; expected a scorecard that `kit evaluate` wrote (scores.json)"
        raise SettingsError(msg) from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        msg = f"{path}: expected a scorecard that `kit evaluate` wrote (scores.json), found no scores at {place!r}"
        raise SettingsError(msg) from error


def grid_of(archive: Archive) -> str:
    """Name the region whose points were scored, for comparing and for messages."""
    grid = archive.attributes.get("grid")
    if not isinstance(grid, Mapping):
        return "an unknown region"
    if "region" in grid:
        return "the globe" if grid["region"] is None else f"the region {json.dumps(grid['region'])}"
    # Forecasts of others have rows and columns of the store. All of the globe begins with the first of either, and a
    # part of it that does has fewer points, which is found when sums are paired.
    spans = [grid.get(name) for name in ("rows", "columns")]
    if all(isinstance(span, list) and span[:1] == [0] for span in spans):
        return "the globe"
    return f"rows {spans[0]} and columns {spans[1]} of the store"
