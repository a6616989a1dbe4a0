"""The replay buffer: right targets, predictions that come back, one graded step, and what cannot be done."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aurora import Batch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.config.layers import Layer, resolve
from kit.data.dataset import Pair, Pairs, Selection
from kit.data.readers import reader_for
from kit.data.region import select_grid
from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.io.errors import CheckpointError, SettingsError, StoreError
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.models.variants import VARIANTS
from kit.settings import Settings
from kit.train.loss import PaperMAE
from kit.train.optim import DivergenceError
from kit.train.settings import OptimSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask, roll_out
from kit.train.tasks.pairs import TaskData
from kit.train.tasks.replay import ReplayBatch, ReplayBuffer, ReplayTask, one_step
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch
from tests.factories import synthetic_dataset

CPU = torch.device("cpu")
ALL = Period.parse("2020-01-01/2020-12-31")
START = datetime(2020, 1, 1, tzinfo=UTC)
STEP = timedelta(hours=6)


def counting_store(folder: Path, times: int = 12, missing: tuple[int, ...] = ()) -> Store:
    """``2t`` is the number of the state, everywhere."""
    dataset = synthetic_dataset(times=times, surface=("2t",), atmospheric=("t",), levels=(500,))
    dataset["2t"][:] = np.arange(times, dtype=np.float32)[:, None, None]
    kept = dataset.isel(time=[index for index in range(times) if index not in missing])
    return write_store(kept, folder / "store", splits={"train": ALL}, attributes={})


def pairs_of(store: Store, period: Period = ALL) -> Pairs:
    grid = select_grid(store, None, 4)
    return Pairs(store, Selection(("2t",), ("2t",), ("t",), ("lsm",), (500,), 2, STEP, grid), period)


def buffer_of(pairs: Pairs, *, batch_size: int = 1, accumulate: int = 1, seed: int = 0, **rollout: Any) -> ReplayBuffer:
    settings = RolloutSettings.model_validate({"steps": 3, "buffer": 4, "refresh": 1000, **rollout})
    data = TaskData(pairs, pairs, reader_for(0), batch_size, 0, seed)
    return ReplayBuffer(data, settings, accumulate)


def number(time: datetime) -> float:
    return (time - START) / STEP


def advanced(drawn: ReplayBatch, value: float) -> Batch:
    """What a model would make that predicts ``value`` for everything."""

    def shifted(states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: torch.cat([state[:, 1:], torch.full_like(state[:, :1], value)], 1) for name, state in states.items()
        }

    old = drawn.inputs.metadata
    metadata = dataclasses.replace(old, time=tuple(t + STEP for t in old.time), rollout_step=old.rollout_step + 1)
    inputs = drawn.inputs
    return Batch(shifted(inputs.surf_vars), inputs.static_vars, shifted(inputs.atmos_vars), metadata)


@pytest.mark.parametrize("keep", ("host", "disk"))
def test_targets_are_one_step_after_states_that_come_back_as_they_were_put(tmp_path: Path, keep: str) -> None:
    buffer = buffer_of(pairs_of(counting_store(tmp_path)), keep=keep)
    buffer.open(tmp_path / "replay")
    made: dict[datetime, list[float]] = {}
    depths = []
    for step, drawn in enumerate(buffer.batches(0, 60)):
        (time,), depth = drawn.inputs.metadata.time, drawn.inputs.metadata.rollout_step
        assert drawn.target.metadata.time == (time + STEP,)
        assert float(drawn.target.surf_vars["2t"][0, 0, 3, 3]) == number(time) + 1
        states = drawn.inputs.surf_vars["2t"][0, :, 3, 3].tolist()
        if depth == 0:
            assert states == [number(time) - 1, number(time)]
        else:
            # One that was made of the state before: the newest is what was predicted then.
            assert states[-1] in made[time]
            assert states[0] == number(time) - 1 or states[0] < 0
        depths.append(depth)
        if drawn.take_back is not None:
            made.setdefault(time + STEP, []).append(-float(step + 1))
            drawn.take_back(advanced(drawn, -float(step + 1)))
        else:
            assert depth == 2 or number(time) == 10  # rollout.steps is 3, and the last state is 11
    assert {0, 1, 2} == set(depths)
    buffer.close()
    assert not (tmp_path / "replay").exists()


def test_a_batch_holds_several_items_of_one_age(tmp_path: Path) -> None:
    buffer = buffer_of(pairs_of(counting_store(tmp_path)), batch_size=2, buffer=6)
    seen = []
    for drawn in buffer.batches(0, 40):
        times = drawn.inputs.metadata.time
        assert drawn.target.metadata.time == tuple(time + STEP for time in times)
        assert drawn.target.surf_vars["2t"][:, 0, 0, 0].tolist() == [number(time) + 1 for time in times]
        seen.append((drawn.inputs.metadata.rollout_step, len(times)))
        if drawn.take_back is not None:
            drawn.take_back(advanced(drawn, -1.0))
    assert {(0, 2), (1, 2), (2, 2)} <= set(seen)


def test_an_item_that_meets_a_gap_is_replaced(tmp_path: Path) -> None:
    """Of 0 to 11 state 6 is missing: items begin at 1, 2, 3, 4 and 8, 9, 10, and none may need 6."""
    pairs = pairs_of(counting_store(tmp_path, missing=(6,)))
    assert sorted(number(pairs.time(index)) for index in range(len(pairs))) == [1, 2, 3, 4, 8, 9, 10]
    last: dict[float, int] = {}
    for drawn in play(buffer_of(pairs), 120):
        (time,), depth = drawn.inputs.metadata.time, drawn.inputs.metadata.rollout_step
        begun = number(time) - depth
        last[begun] = max(last.get(begun, 0), depth)
        assert drawn.target.surf_vars["2t"][0, 0, 0, 0] == number(time) + 1
    assert last == {1: 2, 2: 2, 3: 1, 4: 0, 8: 2, 9: 1, 10: 0}


def play(buffer: ReplayBuffer, stop: int, start: int = 0) -> Any:
    """Draw, and give back what says when it was made."""
    for step, drawn in enumerate(buffer.batches(start, stop), start=start):
        yield drawn
        if drawn.take_back is not None:
            drawn.take_back(advanced(drawn, -float(step + 1)))


def test_targets_stay_inside_the_period(tmp_path: Path) -> None:
    pairs = pairs_of(counting_store(tmp_path), Period.parse("2020-01-01/2020-01-02T12"))  # 0 to 6
    times = [drawn.target.metadata.time[0] for drawn in play(buffer_of(pairs), 60)]
    assert max(map(number, times)) == 6


@pytest.mark.parametrize("keep", ("host", "disk"))
def test_a_buffer_goes_on_from_a_checkpoint(tmp_path: Path, keep: str) -> None:
    pairs = pairs_of(counting_store(tmp_path))
    options: dict[str, Any] = {"keep": keep, "refresh": 3, "batch_size": 2, "buffer": 5}

    def told(drawn: ReplayBatch) -> tuple[Any, ...]:
        return drawn.inputs.metadata.time, drawn.inputs.surf_vars["2t"][:, :, 0, 0].tolist()

    whole = buffer_of(pairs, **options)
    whole.open(tmp_path / "whole")
    expected = [told(drawn) for drawn in play(whole, 40)]
    cut = buffer_of(pairs, **options)
    cut.open(tmp_path / "cut")
    assert [told(drawn) for drawn in play(cut, 17)] == expected[:17]
    cut.save(tmp_path / "checkpoint")
    again = buffer_of(pairs, **options)
    again.open(tmp_path / "again")
    again.load(tmp_path / "checkpoint")
    assert [told(drawn) for drawn in play(again, 40, start=17)] == expected[17:]
    with pytest.raises(CheckpointError, match=r"cannot be resumed without resume/replay, the items of the replay buff"):
        again.load(tmp_path)


def test_states_from_the_data_take_no_memory(tmp_path: Path) -> None:
    buffer = buffer_of(pairs_of(counting_store(tmp_path)))
    buffer.open(tmp_path / "replay")
    buffer.save(tmp_path / "checkpoint")
    assert list((tmp_path / "checkpoint" / "resume" / "replay").iterdir()) == []


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    pairs = pairs_of(counting_store(tmp_path, times=6))
    with pytest.raises(SettingsError, match=r"rollout.buffer is 4, but a step draws 6 items \(data.batch_size x train"):
        buffer_of(pairs, batch_size=2, accumulate=3)
    wanted = r"rollout.steps is 5, but no input states in .* have more than 4 states after them without a gap"
    with pytest.raises(StoreError, match=wanted):
        buffer_of(pairs, steps=5)


# One step of the model.


def trainer_of(variant: str, rollout: RolloutSettings, rollout_lora: Any = None) -> Trainer:
    torch.manual_seed(0)
    spec = small_spec(variant, rollout_lora=rollout_lora)
    model = spec.build()
    for parameter in model.parameters():  # so that none begins at zero, LoRA's B among them
        torch.nn.init.normal_(parameter, std=0.02)
    trained = trainable.select(model, AdaptSettings())
    updater = build_updater(trained.parameters, OptimSettings(warmup=0, lr=1e-3, clip=None), MemorySettings(), steps=10)
    space = TrainingSpace(model, spec)
    if rollout.buffer is None:
        return Trainer(ForecastTask(space, PaperMAE(), rollout), trained, updater)
    return Trainer(ReplayTask(space, PaperMAE(), rollout, None, None), trained, updater)


def states_of(trainer: Trainer, steps: int, samples: int = 1) -> tuple[Batch, list[Batch]]:
    """Input states, and the targets of the steps after them."""
    spec = trainer.space.spec
    inputs = synthetic_batch(spec, samples=samples)
    targets = []
    for step in range(1, steps + 1):
        target = synthetic_batch(spec, states=1, seed=step, inputs=False, samples=samples)
        time = tuple(moment + step * spec.timestep for moment in inputs.metadata.time)
        targets.append(dataclasses.replace(target, metadata=dataclasses.replace(target.metadata, time=time)))
    return inputs, targets


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Take the gradients away."""
    found = {name: value.grad for name, value in trainer.trained.parameters.items() if value.grad is not None}
    trainer.space.model.zero_grad(set_to_none=True)
    return found


BUFFER = RolloutSettings(steps=2, buffer=4)


@pytest.mark.parametrize(
    ("variant", "rollout_lora"), [*((name, None) for name in VARIANTS if name != "tiny"), ("wave", "kept")]
)
def test_drawn_steps_are_those_of_a_push_forward(variant: str, rollout_lora: Any) -> None:
    """Bit for bit, losses and gradients: so the state that comes back is right, and the roll-out step is seen."""
    trainer = trainer_of(variant, BUFFER, rollout_lora)
    state, targets = states_of(trainer, 2)
    torch.manual_seed(1)
    ours, losses = [], []
    for target in targets:
        back: list[Batch] = []
        for graded in one_step(trainer.space, PaperMAE(), ReplayBatch(state, target), CPU, back.append):
            graded.loss.total.backward()  # type: ignore[no-untyped-call]
            losses.append(graded.loss.total.item())
        ours.append(gradients(trainer))
        (state,) = back
        assert state.metadata.time == target.metadata.time
        assert not any(value.requires_grad for value in (state.surf_vars | state.atmos_vars).values())
    assert state.metadata.rollout_step == 2
    pair = ReplayBatch(states_of(trainer, 2)[0], targets[1], tuple(targets[:1]))
    torch.manual_seed(1)
    for step, graded in enumerate(roll_out(trainer.space, PaperMAE(), pair, BUFFER.validated, CPU)):
        assert graded.step == step + 1
        graded.loss.total.backward()  # type: ignore[no-untyped-call]
        assert graded.loss.total.item() == losses[step]
        theirs = gradients(trainer)
        assert [name for name in theirs if not torch.equal(theirs[name], ours[step][name])] == []


def test_a_kept_lora_acts_from_the_second_step() -> None:
    """The wave model's: without it the first step is the same, and the second is not."""
    losses = []
    for scale in (1.0, 0.0):
        trainer = trainer_of("wave", BUFFER, "kept")
        for name, parameter in trainer.space.model.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(scale)
        state, targets = states_of(trainer, 2)
        for target in targets:
            back: list[Batch] = []
            (graded,) = one_step(trainer.space, PaperMAE(), ReplayBatch(state, target), CPU, back.append)
            losses.append(graded.loss.total.item())
            (state,) = back
    assert losses[0] == losses[2]
    assert losses[1] != losses[3]


def test_what_is_only_predicted_stays_out_and_what_is_clipped_comes_back_clipped() -> None:
    trainer = trainer_of("v1p5", BUFFER)
    heads: Any = trainer.space.model.decoder.surf_heads
    with torch.no_grad():
        heads["tcc"].bias += 100
    state, targets = states_of(trainer, 1)
    back: list[Batch] = []
    list(one_step(trainer.space, PaperMAE(), ReplayBatch(state, targets[0]), CPU, back.append))
    (state,) = back
    assert trainer.space.spec.output_only
    assert not state.surf_vars.keys() & set(trainer.space.spec.output_only)
    assert state.surf_vars["tcc"][:, -1].min() == state.surf_vars["tcc"][:, -1].max() == 1
    assert all(value.shape[1] == 2 for value in state.surf_vars.values())


def test_a_step_of_the_trainer_reports_the_age_of_what_it_saw() -> None:
    trainer = trainer_of("small", BUFFER)
    state, (first, second) = states_of(trainer, 2, samples=2)
    back: list[Batch] = []
    before = {name: value.clone() for name, value in state.surf_vars.items()}
    report = trainer.step(1, [ReplayBatch(state, first, take_back=back.append)])
    assert (report.depth, report.samples) == (0.0, 2)
    assert all(torch.equal(value, before[name]) for name, value in state.surf_vars.items())
    # Three samples of two ages: 0, 1 and 1.
    single, (target, _) = states_of(trainer, 2)
    report = trainer.step(2, [ReplayBatch(single, target), ReplayBatch(back[0], second)])
    assert report.depth == pytest.approx(2 / 3)
    assert trainer.step(3, [ReplayBatch(single, target)]).loss < 10
    assert trainer_of("small", RolloutSettings()).step(1, [Pair(single, target)]).depth is None


@pytest.mark.parametrize(
    ("depth", "where", "message"),
    (
        (0, "inputs", r"roll-out step 1 of 2: the loss is not finite; input states of msl for 2020-01-01T12"),
        (1, "inputs", r"roll-out step 1 of 2: the loss is not finite; prediction of msl for 2020-01-01T06:00 hold"),
        (1, "target", r"roll-out step 2 of 2: the loss is not finite; target of msl for 2020-01-01T12:00 hold"),
    ),
)
def test_a_nan_is_traced_to_its_step(depth: int, where: str, message: str) -> None:
    trainer = trainer_of("small", BUFFER)
    inputs, (target,) = states_of(trainer, 1)
    inputs.metadata.rollout_step = depth
    (inputs if where == "inputs" else target).surf_vars["msl"][0, 0, 4, 4] = torch.nan
    with pytest.raises(DivergenceError, match=f"step 5, {message}"):
        trainer.step(5, [ReplayBatch(inputs, target)])


# Settings.


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"steps": 2, "refresh": 3}, "rollout.refresh would have no effect: there is no buffer"),
        ({"steps": 2, "keep": "disk"}, "rollout.keep would have no effect: there is no buffer"),
        ({"buffer": 4}, "rollout.buffer has no effect with rollout.steps 1"),
        ({"buffer": 4, "steps": 2, "graded": "all"}, "rollout.graded all has no effect with rollout.buffer"),
        ({"buffer": 4, "steps": 3, "graded": "2"}, "rollout.graded 2 has no effect with rollout.buffer"),
        ({"steps": 3, "graded": "4"}, r"rollout.graded is 4, but the roll-out has 3 steps"),
        ({"steps": 3, "graded": "some"}, "rollout.graded: .*expected last, all, or a number of steps, got 'some'"),
        ({"steps": 3, "graded": "0"}, "rollout.graded: .*expected last, all, or a number of steps, got '0'"),
        ({"graded": "1"}, "rollout.graded 1 has no effect with rollout.steps 1"),
    ),
)
def test_settings_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve(Settings, [Layer("here", {f"rollout.{key}": value for key, value in given.items()})])


def test_the_last_few_steps_can_be_graded() -> None:
    chosen = resolve(Settings, [Layer("here", {"rollout.steps": "4", "rollout.graded": "2"})])
    assert list(RolloutSettings.model_validate(chosen.rollout.model_dump()).loss_steps) == [3, 4]
    assert list(RolloutSettings(steps=4, graded=1).loss_steps) == [4]
    assert list(RolloutSettings(steps=4, graded=4).loss_steps) == [1, 2, 3, 4]


def test_defaults_of_a_buffer_are_filled_in() -> None:
    resolved = RolloutSettings(steps=4, buffer=8).resolved()
    assert (resolved.refresh, resolved.keep) == (10, "host")
    assert resolved.resolved() == resolved
    assert RolloutSettings(steps=4).resolved() == RolloutSettings(steps=4)
    assert list(resolved.validated.loss_steps) == [1, 2, 3, 4]
