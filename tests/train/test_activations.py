"""Looking at activations: right numbers, each value once, and no trace in what is learned."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.memory.settings import MemorySettings
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.activations import Activation, watched_modules, watching
from kit.train.optim import DivergenceError
from kit.train.trainer import Trainer
from tests.everyday import one_in
from tests.factories import synthetic_store
from tests.train.test_trainer import pair_of, trainer_of

MEMORY = {
    "plain": MemorySettings(),
    "blocks": MemorySettings(recompute="blocks", window_bands=2, latitude_bands=2),
    "selective": MemorySettings(recompute="selective"),
    "upstream": MemorySettings(recompute="upstream"),
}


def hooks(trainer: Trainer) -> int:
    modules = trainer.space.model.modules()
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def step(trainer: Trainer, *, watched: bool) -> dict[str, Activation]:
    trainer.activations = 1 if watched else None
    return dict(trainer.step(1, [pair_of(trainer)]).activations)


@pytest.fixture(scope="module")
def plain() -> dict[str, Activation]:
    return step(trainer_of(), watched=True)


@pytest.mark.parametrize("memory", one_in(2, MEMORY))
def test_looking_changes_nothing_and_leaves_no_hook(memory: str) -> None:
    one, other = (trainer_of(memory=MEMORY[memory]) for _ in range(2))
    before = hooks(one)
    step(one, watched=True)
    step(other, watched=False)
    assert hooks(one) == before
    states = [trainer.space.model.state_dict() for trainer in (one, other)]
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


@pytest.mark.parametrize("memory", [name for name in MEMORY if name != "plain"])
def test_what_is_computed_again_is_counted_once(memory: str, plain: dict[str, Activation]) -> None:
    """And what runs in bands is counted whole."""
    seen = step(trainer_of(memory=MEMORY[memory]), watched=True)
    assert seen.keys() == plain.keys()
    for name, activation in plain.items():
        # Embeddings of levels and times are made for each band.
        assert seen[name].values == activation.values or "embed" in name, name
        assert seen[name].max == pytest.approx(activation.max, rel=1e-5), name
        assert seen[name].rms == pytest.approx(activation.rms, rel=1e-5), name


def test_the_numbers_are_those_of_the_outputs() -> None:
    trainer = trainer_of()
    outputs: dict[str, torch.Tensor] = {}
    names = ("encoder", "encoder.level_agg", "backbone.encoder_layers.0.blocks.1", "backbone.decoder_layers.0.upsample")
    model = trainer.space.model
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: outputs.update({name: output.detach()})
        )
    seen = step(trainer, watched=True)
    for name in names:
        assert seen[name].max == outputs[name].abs().max().item()
        assert seen[name].rms == pytest.approx(outputs[name].double().square().mean().sqrt().item(), rel=1e-5)
        assert seen[name].nonfinite == 0
        assert seen[name].values == outputs[name].numel()
    # A batch has many tensors, all of one grid: 9 variables, of which 5 on 3 levels.
    assert seen["decoder"].values == (4 + 5 * 3) * 32 * 64


def test_every_watched_module_runs(plain: dict[str, Activation]) -> None:
    assert set(plain) == set(watched_modules(trainer_of().space.model))
    assert {"encoder", "decoder", "decoder.level_decoder", "backbone.encoder_layers.1.blocks.0.attn.qkv"} <= set(plain)


def test_what_is_not_finite_is_counted() -> None:
    """Of the encoder's output one value is NaN and one infinite."""
    trainer = trainer_of()
    model = trainer.space.model

    def spoil(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        spoilt = output.clone()
        spoilt.view(-1)[:2] = torch.tensor([math.nan, math.inf])
        return spoilt

    handle = model.encoder.register_forward_hook(spoil)
    space = trainer.space
    with watching(model, 1, 1) as seen, torch.no_grad():
        space.predict_fields(space.inputs(pair_of(trainer).inputs))
    handle.remove()
    assert seen["encoder"].nonfinite == 2 / seen["encoder"].values
    assert seen["encoder.level_agg"].nonfinite == 0
    assert math.isnan(seen["encoder"].max)
    assert seen["encoder"].as_dict()["max"] is None
    json.dumps(seen["encoder"].as_dict(), allow_nan=False)


def test_a_step_that_diverges_says_where_it_began(caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of()
    model = trainer.space.model
    with torch.no_grad():
        model.get_parameter("backbone.encoder_layers.1.blocks.0.mlp.fc1.bias").fill_(math.nan)
    before = hooks(trainer)
    with caplog.at_level(logging.WARNING), pytest.raises(DivergenceError):
        step(trainer, watched=True)
    assert "first module to put out NaN or Inf is backbone.encoder_layers.1.blocks.0.mlp" in caplog.text
    assert hooks(trainer) == before


def test_only_steps_whose_turn_it_is_are_watched() -> None:
    trainer = trainer_of()
    before = hooks(trainer)
    for number, watched in ((1, False), (2, False), (3, True), (4, False), (6, True)):
        with watching(trainer.space.model, 3, number) as seen:
            assert (hooks(trainer) > before) is watched
        assert seen == {}  # nothing ran


@pytest.mark.slow
def test_a_run_writes_them_down_and_tells_mlflow(tmp_path: Path, run_dir: Path) -> None:
    from kit.tracking.store import connect, resolve_uri

    store = synthetic_store(tmp_path / "store", times=16).path
    raw: dict[str, Any] = {
        "run": {"name": "looked", "dir": run_dir},
        "data": {"store": str(store)},
        "model": {"weights": "random"},
        "train": {"steps": 4, "checkpoint_every": 2},
        "track": {"activations": 2},
    }
    result = finetune(Settings.model_validate(raw))
    run = Path(result.run)
    records = [json.loads(line) for line in (run / "activations.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4]
    client = connect(resolve_uri(None, run_dir), run_dir)
    name = "backbone.encoder_layers.0.blocks.0"
    points = client.get_metric_history(result.mlflow_run_id, f"activation/{name}/max")
    assert [(point.step, point.value) for point in points] == [
        (record["step"], record["modules"][name]["max"]) for record in records
    ]
