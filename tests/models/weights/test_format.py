"""Pickled checkpoints: what training scripts write, mapped into memory; nothing else, and nothing executed."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kit.adapt import factory
from kit.adapt.settings import AdaptSettings
from kit.data.settings import DataSettings
from kit.io.errors import CheckpointError
from kit.models.resolve import resolve_spec
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS
from kit.models.weights.format import Pickled, read_pickled
from kit.models.weights.load import Weights, install, load
from tests.batches import SMALL, small_spec
from tests.everyday import one_in
from tests.factories import synthetic_store
from tests.hostile import Command

SPEC = small_spec("small")
NEW = ("2t", "10u", "10v", "msl", "tcc", "tclw", "uvb", "ssrdc")
"""Surface variables of vibe-kit's module; the last four are none of upstream's."""


def state_of(spec: ModelSpec = SPEC) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in spec.build().state_dict().items()}


def lightning(state: dict[str, torch.Tensor], **more: Any) -> dict[str, Any]:
    """What Lightning's trainer writes of vibe-kit's module: keys, order and kinds of values."""
    model = OrderedDict((f"model.{name}", value) for name, value in state.items())
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    group = {"lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    saver = "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1}"
    return {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "2.5.5",
        "state_dict": model,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1, "completed": 0}}}},
        "callbacks": {saver: {"best_model_score": None, "dirpath": "logs/finetuning/version_0/checkpoints"}},
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"T_max": 3, "eta_min": 0, "base_lrs": [2e-4], "last_epoch": 0, "_last_lr": [2e-4]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "surf_vars": NEW,
            "target_vars": ("tcc",),
            "init_mode": "pretrained_and_custom",
            "surf_stats": {name: (float(number), 2.0 + number) for number, name in enumerate(NEW)},
            "norm_stats": {"tcc": (4.0, 6.0)},
            "learning_rate": 2e-4,
            "lr_scheduler": None,
            "initializer_checkpoint_path": None,
        },
        **more,
    }


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_weights(file: Path) -> Weights:
    found = load(str(file), VARIANTS["small"])
    assert found is not None
    return found


def assert_fits(file: Path, state: dict[str, torch.Tensor], spec: ModelSpec = SPEC) -> None:
    """Loaded into a model, the file's tensors are these."""
    model = spec.build()
    install(model, spec, load_weights(file))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "prefix", one_in(3, ("", "net.", "model.", "module.", "model._orig_mod.", "_forward_module.model.net."))
)
@pytest.mark.parametrize("key", (None, "state_dict", "model", "model_state_dict"))
def test_every_wrapping_in_use(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = state_of()
    wrapped = {prefix + name: value for name, value in state.items()}
    torch.save(wrapped if key is None else {key: wrapped, "step": 3}, tmp_path / "w.ckpt")
    assert_fits(tmp_path / "w.ckpt", state)


def test_names_that_wrappers_changed_inside(tmp_path: Path) -> None:
    state = state_of()
    changed = {name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): v for name, v in state.items()}
    assert changed.keys() != state.keys()
    torch.save(changed, tmp_path / "w.ckpt")
    assert_fits(tmp_path / "w.ckpt", state)
    save_file({f"model.{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    assert_fits(tmp_path / "w.safetensors", state)


def test_the_old_format_is_read_whole_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_of()
    torch.save(state, tmp_path / "w.ckpt", _use_new_zipfile_serialization=False)
    with caplog.at_level(logging.WARNING, "kit"):
        assert_fits(tmp_path / "w.ckpt", state)
    assert "w.ckpt is in the format of PyTorch before 1.6, which cannot be mapped" in caplog.text


def test_a_module_of_lightning_with_its_own_variables(tmp_path: Path) -> None:
    """Names and statistics of the added variables stand in the module's arguments, and so are known to the kit."""
    spec = replace(SPEC, surface=NEW)
    state = state_of(spec)
    torch.save(lightning(state), tmp_path / "last.ckpt")
    found = load_weights(tmp_path / "last.ckpt")
    assert found.spec is not None
    assert found.spec.surface == NEW
    assert found.spec.statistics.values["tcc"] == (4.0, 6.0)
    assert found.spec.statistics.values["2t"] == (0.0, 2.0)
    assert found.spec.statistics.values["t_850"] == SPEC.statistics.values["t_850"]
    assert_fits(tmp_path / "last.ckpt", state, spec)


def test_training_goes_on_from_it(tmp_path: Path) -> None:
    torch.save(lightning(state_of(replace(SPEC, surface=NEW))), tmp_path / "last.ckpt")
    store = synthetic_store(tmp_path / "store", surface=NEW, levels=SPEC.levels)
    found = load_weights(tmp_path / "last.ckpt")
    spec = resolve_spec(ModelSettings(variant="small"), DataSettings(store=str(store.path)), store, found)
    assert (spec.surface, spec.statistics.values["tcc"]) == (NEW, (4.0, 6.0))
    model, _ = factory.for_training(replace(spec, arguments=SMALL), found, AdaptSettings(method="head"), autocast=False)
    assert torch.equal(model.decoder.surf_heads["tcc"].weight, found.state["decoder.surf_heads.tcc.weight"])


@pytest.mark.parametrize("arguments", ({"init_mode": "pretrained", "surf_vars": NEW, "surf_stats": {}}, {"lr": 1.0}))
def test_a_module_around_upstreams_own_model(tmp_path: Path, arguments: Any) -> None:
    state = state_of()
    torch.save(lightning(state, hyper_parameters=arguments), tmp_path / "init.ckpt")
    assert load_weights(tmp_path / "init.ckpt").spec is None
    assert_fits(tmp_path / "init.ckpt", state)


@pytest.mark.parametrize(
    "arguments",
    (
        {"surf_vars": "2t", "surf_stats": {}},
        {"surf_vars": ("2t",), "surf_stats": {"2t": (1.0,)}},
        {"surf_vars": ("2t",), "surf_stats": {"2t": (1.0, float("nan"))}},
        {"surf_vars": ("2t",), "surf_stats": [1]},
    ),
)
def test_arguments_of_another_form_are_refused(tmp_path: Path, arguments: Any) -> None:
    torch.save(lightning(state_of(), hyper_parameters=arguments), tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"w.ckpt: hyper_parameters: expected the names of variables in surf_v"):
        load_weights(tmp_path / "w.ckpt")


def test_harmless_objects_beside_the_weights_are_passed_over(tmp_path: Path) -> None:
    import numpy as np

    state = state_of()
    odd = {"folder": PurePosixPath("a/b"), "rate": np.float64(0.5), "table": np.arange(3)}
    torch.save(lightning(state, hyper_parameters=odd), tmp_path / "w.ckpt")
    assert_fits(tmp_path / "w.ckpt", state)
    assert not isinstance(read_pickled(tmp_path / "w.ckpt").arguments["folder"], PurePosixPath)


def test_what_is_no_checkpoint_is_refused_without_the_loaders_advice(tmp_path: Path) -> None:
    (tmp_path / "w.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"of tensors alone \(at position 0, opcode .* unknown\); nothing"):
        load_weights(tmp_path / "w.ckpt")


def test_other_objects_are_refused_by_name(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    torch.save(lightning(state_of(), callbacks={"x": Command(f"touch {witness}")}), tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"nothing in it was executed"):
        load_weights(tmp_path / "w.ckpt")
    torch.save(lightning(state_of(), callbacks={"x": io.BytesIO()}), tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"it asks for _io.BytesIO.*save its tensors alone: torch.save"):
        load_weights(tmp_path / "w.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": Command(f"touch {witness}")}, protocol=2))
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        load_weights(tmp_path / "old.ckpt")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    (
        ({"state_dict": {"model.a": 1}, "epoch": 2}, r"got dict; it holds state_dict, epoch"),
        ([torch.zeros(1)], "got list"),
        ({"state_dict": {}}, "got dict; it holds state_dict"),
        ({"a": torch.zeros(1), "b": PurePosixPath("x")}, "got dict; it holds a, b"),
    ),
)
def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=message):
        load_weights(tmp_path / "w.ckpt")


def test_a_model_and_its_average_are_told_apart(tmp_path: Path) -> None:
    both = {f"{prefix}{name}": value for prefix in ("model.", "ema.") for name, value in state_of().items()}
    torch.save({"state_dict": both}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"holds several models, under 'ema.', 'model.'"):
        load_weights(tmp_path / "w.ckpt")


def test_what_lies_beside_the_model_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_of()
    wrapped = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": {**wrapped, "loss.weight": torch.ones(3)}}, tmp_path / "w.ckpt")
    with caplog.at_level(logging.INFO, "kit"):
        assert_fits(tmp_path / "w.ckpt", state)
    assert "1 tensors beside 'model.' are no part of the model (loss.weight)" in caplog.text


@pytest.mark.parametrize("name", ("w.ckpt", "w.safetensors"))
def test_a_file_is_mapped_and_never_written_to(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    (torch.save if name == "w.ckpt" else save_file)(state_of(), file)
    before = sha256(file)
    found = load_weights(file)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(file) in maps.read_text()
    model, _ = factory.for_training(SPEC, found, AdaptSettings(method="full"), autocast=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimiser.step()
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    for tensor in found.state.values():
        tensor.fill_(7)
    assert sha256(file) == before
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), trained, strict=True))


@pytest.mark.parametrize("name", ("w.ckpt", "w.safetensors"))
def test_what_becomes_of_the_file_later_is_no_matter(tmp_path: Path, name: str) -> None:
    state, file = state_of(), tmp_path / name
    (torch.save if name == "w.ckpt" else save_file)(state, file)
    model = SPEC.build()
    install(model, SPEC, load_weights(file))
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.write(b"\xff" * size)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.ckpt"
    torch.save(state_of(), file)
    found = load_weights(file)
    with file.open("r+b") as stream:
        stream.seek(-1, io.SEEK_END)
        stream.write(b"\0")
    with pytest.raises(CheckpointError, match=r"w.ckpt: changed while it was being read"):
        install(SPEC.build(), SPEC, found)

    def slow(path: Path) -> Pickled:
        content = read_pickled(path)
        torch.save(state_of(), file)
        return content

    torch.save(state_of(), file)
    monkeypatch.setattr("kit.models.weights.load.read_pickled", slow)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        load_weights(file)


def test_a_file_that_is_replaced_or_removed_meanwhile_is_what_it_was(tmp_path: Path) -> None:
    state, file = state_of(), tmp_path / "w.ckpt"
    torch.save(state, file)
    found, again = load_weights(file), load_weights(file)
    torch.save({}, tmp_path / "other")
    (tmp_path / "other").replace(file)
    model = SPEC.build()
    install(model, SPEC, found)
    file.unlink()
    install(model, SPEC, again)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
