"""How a run begins: in a fresh folder, or from a checkpoint of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kit.adapt import trainable
from kit.checkpoint.folder import Checkpoint, finish_exchange, open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.config.schema import value_type
from kit.io.errors import CheckpointError, SettingsError
from kit.memory.changes import changed_settings, why_inexact
from kit.run.recorded import completed, missing_settings
from kit.settings import Settings
from kit.tracking.params import flatten
from kit.train.build import Job

# Settings that a resumed run may change: where it is, how it is followed and checked, and how fast data are read, and
# which files are taken; those that were are known by their hashes.
_FREE = (
    "run",
    "track",
    "train.resume",
    "train.check_after",
    "data.workers",
    "data.accept",
    "adapt.cache",
    "adapt.cache_budget",
    "registry",
)
_EMPTY_TABLE = "{}"


@dataclass(frozen=True)
class RunOrigin:
    """Where a run begins.

    Attributes:
        folder: Folder of the run.
        checkpoint: Checkpoint to resume from, if there is one.
        state: Training state of that checkpoint.
        fresh: Whether the folder is still to be made.
    """

    folder: RunFolder
    checkpoint: Checkpoint | None = None
    state: dict[str, Any] = field(default_factory=dict)
    fresh: bool = True


@dataclass(frozen=True)
class MemoryHistory:
    """Memory settings that were changed in the middle of a run, at resumptions.

    Each change has the ``step`` after which it holds, and ``settings``: by dotted key the value ``before`` and ``now``.

    Attributes:
        earlier: Changes before this resumption.
        newest: Change at this resumption, if there is one.
    """

    earlier: tuple[Mapping[str, Any], ...] = ()
    newest: Mapping[str, Any] | None = None

    @property
    def changes(self) -> list[Mapping[str, Any]]:
        """All changes, from the first one on; empty if the run is the same to the last bit."""
        return [*self.earlier, *([] if self.newest is None else [self.newest])]

    def lines(self) -> list[str]:
        """Describe each change in a sentence."""
        found = []
        for change in self.changes:
            parts = []
            for key, values in change["settings"].items():
                parts.append(f"{key} was {_text(values['before'])}, is {_text(values['now'])}")
            found.append(
                f"after step {change['step']} {', '.join(parts)}: predictions are the same and gradients differ by the "
                "order of sums, so that this is no longer the same run to the last bit"
            )
        return found


def _text(value: Any) -> str:
    """Write a setting's value as it is typed."""
    if isinstance(value, list):
        return ",".join(value) or "nothing"
    return "none" if value is None else str(value).lower()


def find_folder(settings: Settings, recipe: str | None) -> RunFolder:
    """Decide which run folder it is, touching nothing.

    Raises:
        SettingsError: the run exists and was not to be gone on with, has no name to be found by, or its folder cannot
            be made.
        CheckpointError: there is no checkpoint where the run is to go on from.
    """
    resume = settings.train.resume
    if resume not in ("never", "auto"):
        return RunFolder(open_checkpoint(Path(resume)).path.absolute().parent.parent)
    if resume == "auto" and settings.run.name is None:
        msg = "train.resume auto goes on with the run of a given name; set run.name too"
        raise SettingsError(msg)
    stamp = datetime.now(tz=UTC).strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(settings.run.dir / (settings.run.name or f"{recipe or 'finetune'}-{stamp}"))
    if resume == "never":
        folder.check_free()
    if not folder.path.exists():
        folder.check_writable()
    return folder


def find_origin(settings: Settings, folder: RunFolder, *, fresh: bool) -> RunOrigin:
    """Decide whether the run starts or goes on, touching nothing but checkpoints whose exchange was cut short.

    Args:
        settings: Settings of the run.
        folder: Folder of the run; where it is not fresh, this process has claimed it.
        fresh: Whether the folder is still to be made.

    Raises:
        CheckpointError: the checkpoint cannot be gone on from.
    """
    path = Path(settings.train.resume)
    if settings.train.resume in ("never", "auto"):
        if fresh:
            return RunOrigin(folder)
        finish_exchange(folder.best)
        finish_exchange(folder.ema)
        finish_exchange(folder.last)
        path = folder.last
        if not path.exists():
            return RunOrigin(folder, fresh=False)
    checkpoint = open_checkpoint(path)
    state = checkpoint.resume_state()
    if state["torch"] != torch.__version__:
        msg = (
            f"{checkpoint.path}: was written with PyTorch {state['torch']}, this is {torch.__version__}; a resumed run "
            "would not be the same run. Install the locked environment of that run, or start a new one from its weights"
        )
        raise CheckpointError(msg)
    return RunOrigin(folder, checkpoint, state, fresh=False)


def restore(origin: RunOrigin, job: Job) -> None:
    """Bring model, optimiser and random numbers to where the checkpoint was; without one, leave them as they are.

    Raises:
        CheckpointError: the checkpoint lacks something.
    """
    if origin.checkpoint is None:
        return
    state = origin.state
    trainable.load(job.model, job.settings.adapt, origin.checkpoint.tensors())
    job.trainer.updater.load_state_dict(state["optimizer"])
    if job.trainer.schedule is not None:
        job.trainer.schedule.load_state_dict(state["schedule"])
    if job.trainer.average is not None:
        job.trainer.average.load_state_dict(state["ema"])
    job.trainer.task.load(origin.checkpoint.path)
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state:
        torch.cuda.set_rng_state_all(state["cuda_rng"])


def check_same(origin: RunOrigin, settings: Settings, job: Job) -> MemoryHistory:
    """Check that settings and data are those that the run was started with, but for memory settings that are exact.

    Args:
        origin: Where the run goes on from.
        settings: Settings that it goes on with, before they were resolved.
        job: The run with these settings.

    Returns:
        The memory settings that have changed, at this resumption and at earlier ones.

    Raises:
        SettingsError: names what else has changed, and why a memory setting cannot.
    """
    recorded = origin.state["settings"]
    then, new = completed(recorded, settings, job), job.settings.model_dump(mode="json")
    before, now = _decisive(then), _decisive(new)
    missing = [".".join(path) for path in missing_settings(recorded)]
    changed = []
    for key in dict.fromkeys((*now, *before)):
        if before.get(key) == now.get(key):
            continue
        note = " (by default: the run is older than this setting)" if key in missing else ""
        changed.append(f"{key} was {before.get(key, 'not given')}{note}, is {now.get(key, 'not given')}")
    memory: dict[str, dict[str, Any]] = {}
    for name in changed_settings(then["memory"], new["memory"]):
        earlier, later = then["memory"].get(name), new["memory"][name]
        reason = why_inexact(name, new["memory"])
        if reason is None:
            memory[f"memory.{name}"] = {"before": earlier, "now": later}
        else:
            changed.append(f"memory.{name} was {earlier}, is {later} ({reason})")
    if origin.state["store_sha256"] != job.store.fingerprint():
        changed.append(f"{job.store.path} holds other data")
    base = None if origin.checkpoint is None or job.adapter is None else origin.checkpoint.description["base"]
    if base is not None and job.weights is not None and base["sha256"] != job.weights.base["sha256"]:
        changed.append(f"the weights {base['name']} had SHA-256 {base['sha256']}, have {job.weights.base['sha256']}")
    changed += [*_changed_operator(origin, job), *_changed_transforms(origin, job)]
    if changed:
        what = "; ".join(changed)
        msg = f"{origin.folder.path}: cannot go on with other settings or data: {what}. Start a new run instead"
        raise SettingsError(msg)
    history = _memory_history(origin)
    if memory:
        history = replace(history, newest={"step": origin.state["loop"]["step"], "settings": memory})
    return history


def _changed_operator(origin: RunOrigin, job: Job) -> list[str]:
    """Tell whether the operator of a denoising run has other weights than it had."""
    then = None if origin.checkpoint is None else origin.checkpoint.description.get("operator")
    now = None if job.operator is None else job.operator.base
    if then is None or now is None or then["sha256"] == now["sha256"]:
        return []
    return [f"the operator {then['name']} had SHA-256 {then['sha256']}, has {now['sha256']}"]


def _changed_transforms(origin: RunOrigin, job: Job) -> list[str]:
    """Tell whether a denoising run would transform what it draws in another way than it did: defaults may be newer."""
    network = job.run.step.diffusion
    if origin.checkpoint is None or network is None:
        return []
    then, now = origin.checkpoint.description["diffusion"]["transforms"], dict(network.transforms)
    if then == now:
        return []
    return [f"what is drawn was transformed by {then or 'nothing'}, is by {now or 'nothing'} (see model.transforms)"]


def _memory_history(origin: RunOrigin) -> MemoryHistory:
    """Read from a checkpoint which memory settings had changed before it was written."""
    if origin.checkpoint is None:
        return MemoryHistory()
    stage = origin.checkpoint.description["lineage"][-1]
    return MemoryHistory(tuple(stage.get("memory_changes", ())))


def _decisive(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the values, by dotted key, that must not change; entries of tables one by one."""
    decisive = {}
    for key, value in flatten(settings).items():
        is_free = any(key == free or key.startswith(f"{free}.") for free in (*_FREE, "memory"))
        if not is_free and value != _EMPTY_TABLE and value_type(Settings, key) is not None:
            decisive[key] = value
    return decisive
