"""What a person is told when a run has no room: what happened, which settings would help, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.io.errors import KitError, WorkerError, refusal_of
from kit.memory.advice import Situation
from kit.memory.out_of_memory import Shortage, explain_training
from kit.settings import Settings
from kit.train.build import Job, uses_autocast

__all__ = ["ended_badly", "ended_readably", "no_room", "no_room_to_start"]


def no_room_to_start(settings: Settings, shortage: Shortage) -> str:
    """For a run that could not even be put together.

    Args:
        settings: as they were given.
        shortage: what happened.
    """
    on_gpu = settings.train.device != "cpu" and torch.cuda.is_available()
    lines = explain_training(shortage, _situation(settings, "cuda" if on_gpu else "cpu"), workers=settings.data.workers)
    return "\n".join([*lines, "What a step needs with them: kit plan with the same settings and these."])


def no_room(shortage: Shortage, job: Job, folder: RunFolder, step: int) -> str:
    """For a run that failed on the way.

    Args:
        shortage: what happened.
        job: what was run.
        folder: of the run.
        step: that was being taken, or would have come next.
    """
    north, south = job.selection.grid.rows
    now = _situation(job.settings, job.trainer.device.type, (south - north) // job.spec.patch_size)
    when = "validation" if "validate" in shortage.calls else f"step {step}"
    what, *rest = explain_training(shortage, now, workers=job.settings.data.workers)
    plan = f"What a step needs with them: kit plan --config {folder.config} and these settings."
    return "\n".join([f"{when}: {what}", *rest, plan, _how_to_go_on(folder)])


def _situation(settings: Settings, device: str, rows: int | None = None) -> Situation:
    return Situation(
        settings.memory,
        device,
        uses_autocast(settings.train.precision, torch.device(device)),
        settings.optim.name,
        settings.adapt.method,
        settings.data.batch_size,
        settings.train.accumulate,
        len(settings.rollout.graded_steps),
        rows,
    )


def _how_to_go_on(folder: RunFolder) -> str:
    """In a run of another name: with other settings of memory, gradients are added up in another order."""
    if not folder.last.exists():
        return f"{folder.path} has no checkpoint of a step yet: start again, with another --run.name."
    steps = open_checkpoint(folder.last).description["lineage"][-1]["steps"]
    return (
        f"The checkpoint after step {steps} is whole. Go on from its weights in a new run: "
        f"--model.weights {folder.last}, with another --run.name."
    )


@contextmanager
def ended_readably(folder: RunFolder) -> Iterator[None]:
    """Tell what the machine did to a run, and how it goes on.

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
    if not folder.last.exists():
        return f"{folder.path} has no checkpoint of a step yet: it starts from the beginning {again}"
    steps = open_checkpoint(folder.last).description["lineage"][-1]["steps"]
    return f"The checkpoint after step {steps} is whole: go on {again}"
