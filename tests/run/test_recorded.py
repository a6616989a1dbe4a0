"""Runs that an earlier kit began, whose configuration lacks a newer setting: they go on with its default alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.run_folder import RunFolder
from kit.config.schema import leaves, nest
from kit.io.errors import SettingsError
from kit.run.recorded import as_begun, missing_settings
from kit.run.records import public_settings
from kit.run.resume import MemoryHistory, RunOrigin, check_same
from kit.settings import Settings
from kit.train.build import Job, build_job
from tests.everyday import one_in
from tests.factories import synthetic_store

FREEZE = {"adapt.method": "freeze"}
LORA = {"adapt.method": "lora"}
ADALORA = {"adapt.method": "adalora"}
NEW = {"model.new_variables": ["tp"]}
LIGHT = NEW | {"model.output_only": ["tp"], "adapt.method": "head", "adapt.decoder": "mlp", "adapt.cache": "off"}
BLOCKS = {"memory.recompute": "blocks"}
AHEAD = {"rollout.steps": 2}
REPLAY = AHEAD | {"rollout.buffer": 2}

REFUSED: dict[str, dict[str, Any]] = {
    "data.region": {"data.region": [80.0, 0.0, -40.0, 150.0]},
    "data.halo": {"data.region": [80.0, 30.0, -40.0, 180.0], "data.halo": 12.0},
    "data.variables": {"data.variables": ["2t", "10u", "10v", "msl", "t", "u", "v", "z"]},
    "data.levels": {"data.levels": [500.0, 850.0]},
    "data.statics": {"data.statics": ["lsm", "z"]},
    "data.train": {"data.train": "2020-01-01/2020-01-02"},
    "data.valid": {"data.valid": "2020-01-05T18/2020-01-06T12"},
    "data.test": {"data.test": "2020-01-07T06/2020-01-08"},
    "data.history": {"data.history": 1, "model.weights": "random"},
    "data.batch_size": {"data.batch_size": 2},
    "model.variant": {"model.variant": "small", "model.weights": "random"},
    "model.weights": {"model.weights": "random"},
    "model.new_variables": NEW,
    "model.output_only": NEW | {"model.output_only": ["tp"]},
    "model.new_init": NEW | {"model.new_init": "random"},
    "model.stabilise_level_agg": {"model.stabilise_level_agg": True},
    "model.timestep": {"model.timestep": "12h"},
    "model.statistics": {"model.statistics": "store"},
    "model.transforms": NEW | {"model.transforms": {"tp": "sqrt"}},
    "model.heads": NEW | {"model.output_only": ["tp"], "model.heads": {"tp": "two-part"}},
    "adapt.method": LORA,
    "adapt.freeze": FREEZE | {"adapt.freeze": ["encoder"]},
    "adapt.train_only": FREEZE | {"adapt.train_only": ["decoder"]},
    "adapt.decoder_stages": {"adapt.method": "head", "adapt.decoder_stages": 1},
    "adapt.decoder": LIGHT,
    "adapt.hidden": LIGHT | {"adapt.hidden": [8]},
    "adapt.latents": LIGHT | {"adapt.latents": "surface"},
    "adapt.rank": LORA | {"adapt.rank": 2},
    "adapt.alpha": LORA | {"adapt.alpha": 2.0},
    "adapt.targets": LORA | {"adapt.targets": ["qkv"]},
    "adapt.target_rank": ADALORA | {"adapt.target_rank": 4},
    "adapt.tinit": ADALORA | {"adapt.tinit": 1},
    "adapt.tfinal": ADALORA | {"adapt.tfinal": 1},
    "adapt.interval": ADALORA | {"adapt.interval": 2},
    "adapt.orthogonality": ADALORA | {"adapt.orthogonality": 0.5},
    "adapt.mode": AHEAD | {"adapt.method": "rollout-lora", "adapt.mode": "all", "rollout.graded": "all"},
    "adapt.tokens": {"adapt.method": "prefix", "adapt.tokens": 4},
    "adapt.coarse": {"adapt.method": "prompt", "adapt.coarse": "2x2"},
    "memory.saved_inputs": BLOCKS | {"memory.saved_inputs": "bf16"},
    "memory.compile": {"memory.compile": True},
    "loss.name": {"loss.name": "mae"},
    "loss.delta": {"loss.name": "huber", "loss.delta": 0.5},
    "loss.area_weights": {"loss.area_weights": True},
    "loss.weights": {"loss.weights": {"2t": 3.0}},
    "optim.name": {"optim.name": "adafactor"},
    "optim.lr": {"optim.lr": 0.5},
    "optim.final_lr": {"optim.final_lr": 0.5},
    "optim.weight_decay": {"optim.weight_decay": 0.5},
    "optim.warmup": {"optim.warmup": 3},
    "optim.clip": {"optim.clip": None},
    "optim.groups": {"optim.groups": {"encoder": {"lr": 1e-5}}},
    "train.steps": {"train.steps": 3},
    "train.seed": {"train.seed": 7},
    "train.precision": {"train.precision": "bf16", "train.valid_precision": "fp32"},
    "train.valid_precision": {"train.precision": "bf16", "train.valid_precision": "fp32"},
    "train.accumulate": {"train.accumulate": 2},
    "train.ema": {"train.ema": 0.9},
    "train.patience": {"train.patience": 2},
    "train.checkpoint_every": {"train.checkpoint_every": 2},
    "rollout.steps": AHEAD,
    "rollout.graded": AHEAD | {"rollout.graded": "all"},
    "rollout.buffer": REPLAY,
    "rollout.refresh": REPLAY | {"rollout.refresh": 3},
    "rollout.keep": REPLAY | {"rollout.keep": "disk"},
}
"""Settings with which a run that lacks the first of them must not go on."""
EXACT: dict[str, dict[str, Any]] = {
    "memory.latitude_bands": {"memory.latitude_bands": 2},
    "memory.window_bands": BLOCKS | {"memory.window_bands": 2},
    "memory.recompute": BLOCKS,
    "memory.stages": BLOCKS | {"memory.stages": 1},
    "memory.step_in_backward": {"memory.step_in_backward": True, "optim.clip": None},
}
"""Settings with which it may go on, and which are recorded."""
FREE: dict[str, dict[str, Any]] = {
    "run.name": {"run.name": "other"},
    "run.dir": {"run.dir": "elsewhere"},
    "data.accept": {"data.accept": ["nan:2t"]},
    "data.workers": {"data.workers": 1},
    "adapt.cache": LIGHT,
    "adapt.cache_budget": {key: LIGHT[key] for key in LIGHT if key != "adapt.cache"} | {"adapt.cache_budget": "1GiB"},
    "train.check_after": {"train.check_after": 5},
    "train.resume": {"train.resume": "auto"},
    "track.uri": {"track.uri": "sqlite:///other.db"},
    "track.experiment": {"track.experiment": "other"},
    "track.checkpoint": {"track.checkpoint": False},
    "track.system_seconds": {"track.system_seconds": None},
    "track.activations": {"track.activations": 2},
    "registry.strict": {"registry.strict": True},
}
"""Settings with which it may go on as it was."""
ELSEWHERE = {
    "data.store": "given in every run",
    "train.epochs": "recorded as steps",
    "model.rollout_lora": "needs weights that were published with one",
    "train.device": "another needs a GPU",
    "memory.fit": "chooses other settings of memory",
    "memory.offload": "needs a GPU",
    "memory.frozen_weights": "needs a GPU",
}
TABLE = {
    **{key: (given, "refused") for key, given in REFUSED.items()},
    **{key: (given, "recorded") for key, given in EXACT.items()},
    **{key: (given, "free") for key, given in FREE.items()},
}
QUICK = ("adapt.rank", "memory.recompute", "optim.groups")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    surface = ("2t", "10u", "10v", "msl", "tp")
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=32, surface=surface).path


def settings_of(store: Path, given: dict[str, Any]) -> Settings:
    """Settings of a run without rain, unless it is asked for."""
    plain: dict[str, Any] = {"data.store": str(store)}
    return Settings.model_validate(nest(plain | given, Settings))


def without(recorded: dict[str, Any], path: Iterable[str]) -> dict[str, Any]:
    """Settings as a kit recorded them that had one fewer."""
    *sections, name = path
    left = tree = deepcopy(recorded)
    for section in sections:
        tree = tree[section]
    del tree[name]
    return left


def resume(job: Job, recorded: dict[str, Any], settings: Settings) -> MemoryHistory:
    """Check whether a run of which this was recorded after a step may go on."""
    state = {"settings": recorded, "store_sha256": job.store.fingerprint(), "loop": {"step": 1}}
    return check_same(RunOrigin(RunFolder(Path("runs/old")), state=state), settings, job)


def all_paths(tree: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key in leaves(Settings):
        section, name = key.split(".")
        assert name in tree[section]
        yield section, name


def test_the_table_names_settings() -> None:
    assert set(TABLE) | set(ELSEWHERE) <= set(leaves(Settings))


@pytest.mark.slow
def test_a_run_goes_on_with_the_default_of_any_setting_that_it_is_older_than(store: Path) -> None:
    settings = settings_of(store, {})
    job = build_job(settings)
    recorded = public_settings(job.settings)
    for path in all_paths(recorded):
        if path == ("data", "store"):
            continue
        older = without(recorded, path)
        assert missing_settings(older) == [path]
        assert resume(job, older, settings) == MemoryHistory(), path
    # And one that is older than a whole section, or than all of them.
    assert resume(job, without(recorded, ["registry"]), settings) == MemoryHistory()
    assert resume(job, {"data": {"store": str(store)}}, settings) == MemoryHistory()
    assert missing_settings(recorded) == []


@pytest.mark.parametrize("key", [pytest.param(key, marks=() if key in QUICK else pytest.mark.slow) for key in TABLE])
def test_another_value_of_a_newer_setting(key: str, store: Path) -> None:
    given, wanted = TABLE[key]
    settings = settings_of(store, given)
    job = build_job(settings)
    recorded = public_settings(job.settings)
    assert resume(job, recorded, settings) == MemoryHistory()
    older = without(recorded, key.split("."))
    if wanted == "refused":
        with pytest.raises(SettingsError, match=rf"{key}(\.\S+)? was .*, is ") as caught:
            resume(job, older, settings)
        assert "runs/old: cannot go on with other settings or data" in str(caught.value)
        return
    history = resume(job, older, settings)
    if wanted == "free":
        assert history == MemoryHistory()
        return
    default = Settings().model_dump(mode="json")["memory"][key.removeprefix("memory.")]
    change = {"before": default, "now": recorded["memory"][key.removeprefix("memory.")]}
    assert history.newest == {"step": 1, "settings": {key: change}}


def test_a_default_that_was_written_out_is_the_default(store: Path) -> None:
    """``config.toml`` has every default filled in, those of newer settings too, from the first resumption on."""
    given: dict[str, Any] = LORA | {"optim.groups": {"attn.qkv": {"lr": 1e-4}}}
    job = build_job(settings_of(store, given))
    recorded = public_settings(job.settings)
    for path in (("adapt", "rank"), ("optim", "lr"), ("train", "steps"), ("optim", "groups", "attn.qkv", "warmup")):
        assert resume(job, without(recorded, path), job.settings) == MemoryHistory()
    other = settings_of(store, given | {"adapt.rank": 2})
    with pytest.raises(SettingsError, match=r"adapt.rank was 8 \(by default: the run is older than this setting\), is"):
        resume(build_job(other), without(recorded, ["adapt", "rank"]), other)


def test_an_entry_of_a_table_that_is_gone_is_noticed(store: Path) -> None:
    before = settings_of(store, {"loss.weights": {"2t": 3.0, "msl": 2.0}})
    recorded = public_settings(build_job(before).settings)
    fewer = settings_of(store, {"loss.weights": {"2t": 3.0}})
    job = build_job(fewer)
    with pytest.raises(SettingsError, match=r"data: loss\.weights\.msl was 2\.0, is not given\. Start"):
        resume(job, recorded, fewer)


@pytest.mark.parametrize("precision", one_in(2, ("fp32", "bf16")))
def test_validation_goes_on_in_the_precision_that_it_began_in(store: Path, precision: str) -> None:
    """Before it had a precision of its own it had that of training, and the best loss so far is of that."""
    settings = settings_of(store, {"train.precision": precision})
    recorded = public_settings(build_job(settings).settings)
    older = without(recorded, ["train", "valid_precision"])
    begun = as_begun(older, settings)
    assert begun.train.valid_precision == precision
    job = build_job(begun)
    assert job.trainer.valid_precision == precision
    assert resume(job, older, begun) == MemoryHistory()
    # A choice of today stays, as does what was recorded.
    chosen = settings_of(store, {"train.precision": precision, "train.valid_precision": "fp16"})
    assert as_begun(older, chosen) == chosen
    assert as_begun(recorded, settings) == settings
