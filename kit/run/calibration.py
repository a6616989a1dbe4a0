"""Guidance of a network that draws states, calibrated when its training is done, and kept in its checkpoints."""

from collections.abc import Callable
from pathlib import Path

import torch

from kit.checkpoint.folder import open_checkpoint, write_description
from kit.checkpoint.run_folder import RunFolder
from kit.diffusion.guidance import calibrate
from kit.diffusion.residuals import operator_error, perturbation_spread, standardised_states
from kit.diffusion.space import DiffusionSpace
from kit.io.errors import SettingsError
from kit.train.build import Job

_STATES = 2
"""States that are drawn at each guidance: their fields have points enough for a mean over channels."""
_DATES = 16
"""Dates of the operator's error, at most."""


def calibrate_guidance(job: Job, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Calibrate the guidance of the checkpoints of a run that draws states; of any other run, do nothing.

    Args:
        job: The run; its network ends with the weights of the last checkpoint that was calibrated.
        folder: Its folder.
        say: Called with what was found.
    """
    space = job.trainer.task.space
    if not isinstance(space, DiffusionSpace) or space.spec.settings.of != "state":
        return
    due = space.spec.settings.spread
    if due is None and not space.spec.settings.has_operator:
        say(
            "guidance is not calibrated: without an operator nothing says how far members should depart from a state; "
            "give --diffusion.spread, or kit ensemble --guidance"
        )
        return
    if due is None:
        due = operator_error(space, job.run.valid, _DATES)
    states = standardised_states(space, job.run.valid, _STATES)
    space.model.eval()
    for place in (folder.best, folder.ema):
        if place.exists():
            _calibrate(place, space, states, due, say)


def _calibrate(
    place: Path, space: DiffusionSpace, states: torch.Tensor, due: float, say: Callable[[str], None]
) -> None:
    checkpoint, settings = open_checkpoint(place), space.spec.settings
    space.model.load_state_dict(checkpoint.tensors())
    try:
        found = calibrate(lambda guidance: perturbation_spread(space, states, guidance), due)
    except SettingsError as error:
        say(f"{place}: guidance is not calibrated: {error}")
        return
    described = {
        "guidance": found.guidance,
        "spread": found.spread,
        "due": due,
        "sampler": settings.sampler,
        "steps": settings.steps,
        "curve": [list(point) for point in found.curve],
    }
    write_description(place, {**checkpoint.description, "guidance": described})
    say(
        f"{place.name}: guidance {found.guidance:.4g} gives a spread of {found.spread:.3g} standard deviations over "
        f"space ({due:.3g} were due), with {settings.sampler} in {settings.steps} steps"
    )
