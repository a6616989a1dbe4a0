"""Checkpoints of a run: the weights with the lowest validation loss, and those that training resumes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kit import __version__
from kit.adapt import trainable
from kit.checkpoint.folder import write_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.run.trainable_check import TrainableCheck
from kit.train.build import Job
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import Validation


class Saver(Callback):
    """Writes ``checkpoints/best`` and ``checkpoints/last``.

    Args:
        job: The run.
        folder: Its folder.
        check: The check that everything trains, whose state is kept for resuming.
        settings: Resolved settings without secrets, which a resumed run has to share.
    """

    def __init__(self, job: Job, folder: RunFolder, check: TrainableCheck, settings: Mapping[str, Any]) -> None:
        self._job = job
        self._folder = folder
        self._check = check
        self._settings = settings

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Write the checkpoint with the lowest validation loss."""
        if improved:
            self._write(self._folder.best, state)

    def on_checkpoint(self, state: LoopState) -> None:
        """Write the checkpoint that training resumes from."""
        trainer = self._job.trainer
        resume: dict[str, Any] = {"loop": state.as_dict(), "optimizer": trainer.updater.state_dict()}
        if trainer.schedule is not None:
            resume["schedule"] = trainer.schedule.state_dict()
        resume |= {
            "rng": torch.get_rng_state(),
            "check": self._check.state_dict(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "store_sha256": self._job.store.fingerprint(),
            "settings": self._settings,
        }
        if torch.cuda.is_available():
            resume["cuda_rng"] = torch.cuda.get_rng_state_all()
        self._write(self._folder.last, state, resume)

    def _write(self, folder: Path, state: LoopState, resume: Mapping[str, Any] | None = None) -> None:
        model, adapt = self._job.model, self._job.settings.adapt
        tensors, config = trainable.tensors(model, adapt), trainable.adapter_config(model, adapt)
        keep = None
        if resume is not None:
            keep = self._job.trainer.task.save
        write_checkpoint(folder, tensors, self._description(state), resume, config, keep)

    def _description(self, state: LoopState) -> dict[str, Any]:
        """Describe the model, its data and its past, as ``kit.json`` holds them."""
        job, data = self._job, self._job.settings.data
        earlier: list[dict[str, Any]] = []
        base = None
        if job.weights is not None:
            base = dict(job.weights.base)
            if job.weights.description is not None:
                earlier = job.weights.description["lineage"]
        stage = {
            "kit_version": __version__,
            **job.settings.adapt.described(),
            "new_variables": list(job.settings.model.new_variables),
            "steps": state.step,
            "rollout": job.settings.rollout.model_dump(exclude_none=True),
            "base": base,
            "store": data.store,
            "store_sha256": job.store.fingerprint(),
            "train": str(data.train),
            "synthetic": bool(job.store.attributes.get("synthetic")),
            "licence": job.store.attributes.get("licence"),
        }
        store = data.store
        if Path(store).exists():
            store = str(Path(store).absolute())
        description: dict[str, Any] = {
            "kit_version": __version__,
            "model": job.spec.as_dict(),
            "data": {
                "store": store,
                "region": data.region,
                "halo": data.halo,
                "variables": data.variables,
                "levels": data.levels,
                "statics": data.statics,
                "grid": job.selection.grid.as_dict(),
                "train": str(data.train),
                "valid": str(data.valid),
                "test": str(data.test),
            },
            "base": base,
        }
        if job.adapter is not None:
            description["adapter"] = job.adapter
        description["lineage"] = [*earlier, stage]
        description["validation"] = {"before": state.before, "best": state.best}
        description["leaks"] = list(job.run.leaks)
        return description
