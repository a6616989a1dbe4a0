"""What is done when the training of a denoising network is: its guidance is calibrated, and its samples looked at."""

from collections.abc import Callable
from pathlib import Path

import torch

from kit.checkpoint.folder import open_checkpoint, write_description
from kit.checkpoint.run_folder import RunFolder
from kit.diffusion.guidance import calibrate
from kit.diffusion.quality import sample_quality
from kit.diffusion.residuals import operator_error, perturbation_spread, spread_places, standardised_states
from kit.diffusion.space import DiffusionSpace, Example
from kit.io.errors import SettingsError
from kit.io.sealed import write_sealed
from kit.plots.render import save_samples
from kit.train.build import Job

_STATES = 2
"""States that are drawn at each guidance: their fields have points enough for a mean over channels."""
_DATES = 16
"""Dates of the operator's error, at most."""


def look_at_samples(job: Job, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Calibrate guidance, and keep how well the best checkpoint draws, if it is a network that draws.

    Args:
        job: The run; its network ends with the weights of another checkpoint.
        folder: Its folder, which gets ``samples.json`` and its figure.
        say: Called with what was found.
    """
    space = job.trainer.task.space
    if not isinstance(space, DiffusionSpace) or space.spec.settings.of == "mean":
        return
    space.model.eval()
    if space.spec.settings.of == "state":
        _calibrate_all(job, space, folder, say)
    space.model.load_state_dict(open_checkpoint(folder.best).tensors())
    pairs = [job.run.valid[index].to(space.device) for index in spread_places(len(job.run.valid), _STATES)]
    examples = [space.examples(pair.inputs, pair.target, [False]) for pair in pairs]
    given = [example.condition for example in examples if example.condition is not None]
    example = Example(torch.cat([each.drawn for each in examples]), torch.cat(given) if given else None)
    quality = sample_quality(space, example)
    write_sealed(folder.samples, quality)
    synthetic = bool(job.store.attributes.get("synthetic"))
    save_samples(folder, folder.figures, synthetic=synthetic)
    say(f"samples have {quality['fine']:.3g} of the targets' power at 2 to 8 grid lengths ({folder.samples})")


def _calibrate_all(job: Job, space: DiffusionSpace, folder: RunFolder, say: Callable[[str], None]) -> None:
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
