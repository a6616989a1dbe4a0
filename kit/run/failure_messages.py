"""What a person reads when a run has no room or ends early: what happened, which settings would help, how to go on.

Here and not in ``kit.memory``, because how a run goes on is read from its checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.io.errors import CheckpointError, KitError, WorkerError, refusal_of
from kit.memory.advice import explain_training
from kit.memory.out_of_memory import Shortage
from kit.planning.workload import situation_of
from kit.settings import Settings
from kit.train.build import Job


def no_room_to_start(settings: Settings, shortage: Shortage) -> str:
    """Explain that a run could not even be put together.

    Args:
        settings: Settings as they were given.
        shortage: What happened.
    """
    device = "cuda" if settings.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    now = situation_of(settings, torch.device(device))
    lines = explain_training(shortage, now, workers=settings.data.workers)
    return "\n".join([*lines, "What a step needs with them: kit plan with the same settings and these."])


def no_room(shortage: Shortage, job: Job, folder: RunFolder, step: int) -> str:
    """Explain that a run ran out of memory on the way.

    Args:
        shortage: What happened.
        job: What was run.
        folder: Folder of the run.
        step: Number of the step that was being taken, or would have come next.
    """
    north, south = job.selection.grid.rows
    now = situation_of(job.settings, job.trainer.device, (south - north) // job.spec.patch_size)
    when = "validation" if "validate" in shortage.calls else f"step {step}"
    what, *rest = explain_training(shortage, now, workers=job.settings.data.workers)
    plan = f"What a step needs with them: kit plan --config {folder.config} and these settings."
    steps, damage = _steps_of_last(folder)
    if damage is not None:
        go_on = damage
    elif steps is None:
        go_on = f"{folder.path} has no checkpoint of a step yet: start again, with another --run.name."
    else:
        go_on = (
            f"The checkpoint after step {steps} is whole. With settings of memory that are exact the run goes on: "
            f"--run.name {folder.path.name} --train.resume auto. With any others, go on from its weights in a new run: "
            f"--model.weights {folder.last}, with another --run.name."
        )
    return "\n".join([f"{when}: {what}", *rest, plan, go_on])


def _steps_of_last(folder: RunFolder) -> tuple[int | None, str | None]:
    """Read how many steps the last checkpoint has behind it.

    Returns:
        The number, None where there is no checkpoint; and what is wrong with a checkpoint that is not whole.
    """
    if not folder.last.exists():
        return None, None
    try:
        return int(open_checkpoint(folder.last).description["lineage"][-1]["steps"]), None
    except (CheckpointError, OSError) as error:
        return None, f"The run cannot go on from its last checkpoint: {error}"


@contextmanager
def ended_readably(folder: RunFolder) -> Iterator[None]:
    """Turn what the machine did to a run into an error that says how the run goes on.

    Raises:
        KitError: a disk that is full, a file that cannot be written, a worker that is gone.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, WorkerError) as error:
        what = str(error) if isinstance(error, WorkerError) else refusal_of(error)
        if what is None:
            raise
        msg = f"{what}. {ended_badly(folder)}"
        raise KitError(msg) from error


def ended_badly(folder: RunFolder) -> str:
    """Say what is left of a run that ended in the middle, and how to take it up."""
    again = f"with the same settings and --run.name {folder.path.name} --train.resume auto"
    steps, damage = _steps_of_last(folder)
    if damage is not None:
        return damage
    if steps is None:
        return f"{folder.path} has no checkpoint of a step yet: it starts from the beginning {again}"
    return f"The checkpoint after step {steps} is whole: go on {again}"
