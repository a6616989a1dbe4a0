"""Suite ``methods``: every way of fine-tuning on the embedded sample, with a new variable, by the main job itself."""

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from kit.adapt.lora import import_packages
from kit.bench.planning import BenchPlanner, read_settings, size_of
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.planning.settings import GridSize
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings

_logger = logging.getLogger(__name__)

# The sample has no precipitation; this one can be read off what the model knows, so that it shows which methods learn
# a new variable and which only keep the old ones.
NEW = "10si"
"""The new variable: wind speed at 10 metres, which no variant knows and which follows from what they know."""
METHODS: Mapping[str, str] = {
    "full": "--adapt.method full",
    "freeze, all but the backbone": "--adapt.method freeze --adapt.freeze backbone",
    "head": "--adapt.method head",
    "head, and the last stage": "--adapt.method head --adapt.decoder_stages 1",
    "head, light decoder": f"--adapt.method head --adapt.decoder mlp --adapt.cache off --model.output_only {NEW}",
    "lora": "--adapt.method lora",
    "lora, all layers": "--adapt.method lora --adapt.targets * --adapt.rank 16 --optim.lr 6e-3",
    "dora, all layers": "--adapt.method dora --adapt.targets * --adapt.rank 16 --optim.lr 6e-3",
    "adalora": "--adapt.method adalora",
    "qlora": "--adapt.method qlora",
    "rollout-lora": "--adapt.method rollout-lora",
    "prefix": "--adapt.method prefix",
    "prompt": "--adapt.method prompt",
    "prompt, 8x16 cells": "--adapt.method prompt --adapt.coarse 8x16",
}
"""Settings of each method, by the name that its row has."""
_FULL = "full"
_JUDGED = "lora, all layers"
_WITHIN = 0.05
"""Share of full fine-tuning's skill that LoRA may lack."""
_PLANNED = "--model.variant pretrained --memory.recompute blocks --memory.latitude_bands 8"
_GRID = GridSize(721, 1440)
_MIB = 2**20


def run(settings: BenchSettings) -> list[BenchRow]:
    """Train with each method for the same number of steps, and score each on the test states."""
    planner = BenchPlanner(_GRID)
    with TemporaryDirectory() as folder:
        store = with_wind_speed(open_store("era5-sample"), Path(folder) / "store")
        found = {name: _scored(words, store, Path(folder), settings) for name, words in METHODS.items()}
    full, rows = found[_FULL], []
    for name, scored in found.items():
        words = f"{_PLANNED} --model.new_variables {NEW} {METHODS[name]}"
        must = 1 - (1 - _WITHIN) * full["skill"] if name == _JUDGED else None
        more = {
            "settings": METHODS[name],
            "trainable_share": rounded(scored["trainable_share"]),
            "peak_gib": rounded(size_of(planner.plan(words))),
            "step_seconds": rounded(scored["step_seconds"]),
            "step_ratio": rounded(scored["step_seconds"] / full["step_seconds"]),
            "skill": rounded(scored["skill"]),
            "skill_of_full": rounded(scored["skill"] / full["skill"]),
            "skill_old": rounded(scored["skill_old"]),
            "skill_old_base": rounded(scored["skill_old_base"]),
            "skill_new": rounded(scored["skill_new"]),
            "folder_mib": rounded(scored["folder_mib"]),
            "command": planner.command(words),
        }
        # The mean error in units of persistence's, so that smaller is better.
        value, baseline = 1 - scored["skill"], 1 - full["skill"]
        rows.append(BenchRow(name, value, "of persistence's error", baseline, must=must, more=more))
    return rows


def with_wind_speed(store: Store, out: Path) -> Store:
    """Copy a store, adding the speed of its wind at 10 metres, in m/s."""
    dataset = xr.open_zarr(store.path, consolidated=True).load()
    speed = np.hypot(dataset["10u"], dataset["10v"]).assign_attrs(units="m s-1", long_name="10 metre wind speed")
    kept = ("source", "licence", "synthetic", "source_files")
    attributes = {key: store.attributes[key] for key in kept if key in store.attributes}
    attributes["history"] = [*store.attributes["history"], f"{NEW} made of 10u and 10v"]
    return write_store(dataset.assign({NEW: speed}), out, splits=store.splits, attributes=attributes)


def _scored(words: str, store: Store, folder: Path, settings: BenchSettings) -> dict[str, float]:
    """Train with a method and score the result; skills are means over channels, against persistence."""
    name = f"run-{sum(1 for _ in folder.iterdir())}"
    whole = (
        f"{words} --run.name {name} --run.dir {folder} --data.store {store.path} --model.new_variables {NEW} "
        f"--train.steps {settings.steps} --train.device {settings.device} --track.uri sqlite:///{folder}/mlflow.db"
    )
    _logger.info("training: %s", words)
    # As the command line would, so that the row's words repeat it.
    run_settings = read_settings(Settings, whole, "kit finetune")
    import_packages(run_settings.adapt.method)
    summary = finetune(run_settings).to_dict()
    checkpoint = Path(summary["checkpoint"])
    scores: Mapping[str, Mapping[str, Any]] = evaluate(
        EvaluateSettings(checkpoint=checkpoint, device=settings.device)
    ).scores
    old, new, base = [], [], []
    for row in scores.values():
        # The base weights predict what they had before; the new variable they do not know.
        if "base_rmse" in row:
            old.append(row["skill"])
            base.append(1 - row["base_rmse"] / row["persistence_rmse"])
        else:
            new.append(row["skill"])
    return {
        "trainable_share": summary["trainable_parameters"] / summary["total_parameters"],
        "step_seconds": summary["step_seconds"],
        "skill": fmean(row["skill"] for row in scores.values()),
        "skill_old": fmean(old),
        "skill_old_base": fmean(base),
        "skill_new": fmean(new),
        # Without what resuming needs, which is in a folder of its own.
        "folder_mib": sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file()) / _MIB,
    }
