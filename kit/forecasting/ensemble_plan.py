"""The plan of an ensemble: everything that its values follow from, and checks that it can be carried out."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kit import __version__
from kit.data.zarr_guard import open_group
from kit.forecasting.ensemble_folder import folder_of, read_plan
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.predictor import Conditions
from kit.io.atomic import check_free
from kit.io.documents import parse_json
from kit.io.errors import CheckpointError
from kit.io.hashes import sha256_of_file
from kit.memory.device import choose_device

EnsemblePlan = Mapping[str, Any]

PLAN = "ensemble_plan"
"""Attribute of a finished ensemble that holds its plan, as JSON: every format has texts."""


def plan_of(
    settings: EnsembleSettings, sources: Sequence[InitialStates], starts: Sequence[datetime], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect everything that the values of an ensemble follow from, but for the members of a forward pass.

    Args:
        settings: What is asked for.
        sources: Initial states of each checkpoint.
        starts: Initial times, UTC.
        more: What its perturbations add.

    Raises:
        KitError: the checkpoints do not fit together.
    """
    for source in sources:
        check_alike(sources[0], source)
        check_starts(source, starts)
    states = sources[0].store.fingerprint()
    if settings.data.store is not None and Path(settings.data.store).is_file():
        # A store that was built of a file for the present process tells nothing.
        states = sha256_of_file(Path(settings.data.store))
    return {
        "kit": __version__,
        "checkpoint": [sha256_of_file(source.checkpoint.path / "kit.json") for source in sources],
        "store": states,
        "start": [f"{start:%Y-%m-%dT%H:%M}" for start in starts],
        "steps": settings.steps,
        "members": settings.members or len(sources),
        "only_members": list(settings.numbers),
        "perturb": settings.perturb,
        **more,
        "seed": settings.seed,
        "precision": _precision(settings, sources),
        "device": choose_device(settings.device).type,
    }


def conditions_of(settings: EnsembleSettings, source: InitialStates) -> Conditions:
    """Collect the conditions that a checkpoint predicts under."""
    place = str(source.store.path)
    return Conditions(place, None, settings.device, settings.precision, settings.memory, seed=settings.seed)


def _precision(settings: EnsembleSettings, sources: Sequence[InitialStates]) -> str:
    chosen: dict[str, str] = {}
    for source in sources:
        precision = conditions_of(settings, source).precision_of(source.checkpoint.spec.upstream)
        chosen[str(source.checkpoint.path)] = precision
    if len(set(chosen.values())) > 1:
        told = ", ".join(f"{path} in {precision}" for path, precision in chosen.items())
        msg = f"the checkpoints predict in several precisions ({told}); choose one with --precision"
        raise CheckpointError(msg)
    return precision


def check_alike(first: InitialStates, other: InitialStates) -> None:
    """Check that two checkpoints predict the same variables on the same grid in the same steps.

    Raises:
        CheckpointError: they do not; names what differs.
    """
    one, another = _layout(first), _layout(other)
    for what, values in one.items():
        if values != another[what]:
            alone = ", ".join(sorted(set(values) ^ set(another[what])))
            msg = (
                f"{first.checkpoint.path} and {other.checkpoint.path} differ in {what} (in one alone: {alone}), and "
                "one ensemble has one layout"
            )
            raise CheckpointError(msg)


def _layout(source: InitialStates) -> dict[str, list[str]]:
    """Describe what a checkpoint predicts, as lists of words."""
    spec, data = source.checkpoint.spec, source.checkpoint.description["data"]
    return {
        "surface variables": sorted(spec.upstream.physical(spec.surface)),
        "atmospheric variables": sorted(spec.atmospheric),
        "levels": sorted(map(str, spec.levels)),
        "step": [f"{spec.lead_hours:g} h"],
        "region": [str(data["region"])],
    }


def check_starts(source: InitialStates, starts: Sequence[datetime]) -> None:
    """Check that a checkpoint can start at all times: one that reads more states than another may not.

    Raises:
        CheckpointError: it cannot; names the first of them.
    """
    for start in starts:
        if not source.has(start):
            msg = (
                f"{source.checkpoint.path}: reads {source.pairs.selection.history} states up to "
                f"{start:%Y-%m-%dT%H:%M}, which {source.store.path} does not have; choose a later --start"
            )
            raise CheckpointError(msg)


def finished_plan(out: Path) -> dict[str, Any]:
    """Read the plan of what is at an ensemble's place.

    Raises:
        SettingsError: it is no ensemble.
    """
    try:
        plan: dict[str, Any] = dict(parse_json(str(open_group(out).attrs[PLAN])))
    except (KeyError, OSError, TypeError, ValueError):
        check_free(out)
        raise
    return plan


def recorded_members_per_pass(out: Path) -> int | None:
    """Read how many members go through the model together in an ensemble that is there, finished or not."""
    plan: dict[str, Any] = {}
    if out.exists():
        plan = finished_plan(out)
    elif folder_of(out).exists():
        plan = read_plan(folder_of(out))
    recorded = plan.get("members_per_pass")
    return recorded if isinstance(recorded, int) else None


def as_attribute(plan: EnsemblePlan) -> str:
    """Write a plan as the attribute of a finished ensemble."""
    return json.dumps(dict(plan))
