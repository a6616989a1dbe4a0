"""Roll-out in training: what is graded, where gradients go, and what is held meanwhile."""

from __future__ import annotations

import dataclasses
import math
import weakref
from typing import Any

import pytest
import torch
from aurora import Batch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.config.layers import Layer, resolve
from kit.data.dataset import Pair
from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.settings import Settings
from kit.train.loss import PaperMAE
from kit.train.optim import DivergenceError
from kit.train.settings import OptimSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask, roll_out
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch

CPU = torch.device("cpu")
LAST, ALL = "last", "all"


def trainer_of(variant: str = "small", *, autocast: bool = False, **rollout: Any) -> Trainer:
    torch.manual_seed(0)
    spec = small_spec(variant)
    model = spec.build(autocast=autocast)
    for parameter in model.parameters():  # so that none begins at zero, where gradients of others stop
        torch.nn.init.normal_(parameter, std=0.02)
    trained = trainable.select(model, AdaptSettings())
    updater = build_updater(trained.parameters, OptimSettings(warmup=0, lr=1e-3, clip=None), MemorySettings(), steps=10)
    return Trainer(ForecastTask(TrainingSpace(model, spec), PaperMAE(), RolloutSettings(**rollout)), trained, updater)


def rollout_of(trainer: Trainer) -> RolloutSettings:
    assert isinstance(trainer.task, ForecastTask)
    return trainer.task.rollout


def pair_of(trainer: Trainer, seed: int = 0) -> Pair:
    """Input states, and the targets that the trainer's roll-out needs, at their times."""
    spec = trainer.space.spec
    inputs = synthetic_batch(spec, seed=seed)
    (start,) = inputs.metadata.time
    targets = []
    for step in rollout_of(trainer).loss_steps:
        target = synthetic_batch(spec, states=1, seed=seed + step, inputs=False)
        time = start + step * spec.timestep
        targets.append(dataclasses.replace(target, metadata=dataclasses.replace(target.metadata, time=(time,))))
    return Pair(inputs, targets[-1], tuple(targets[:-1]))


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Take the gradients away."""
    found = {
        name: parameter.grad for name, parameter in trainer.trained.parameters.items() if parameter.grad is not None
    }
    trainer.space.model.zero_grad(set_to_none=True)
    return found


def rolled(trainer: Trainer, pair: Pair) -> list[float]:
    """Backward of every graded step; returns the losses."""
    losses = []
    for graded in roll_out(trainer.space, PaperMAE(), pair, rollout_of(trainer), CPU):
        graded.loss.total.backward()  # type: ignore[no-untyped-call]
        losses.append(graded.loss.total.item())
    return losses


def state_after(trainer: Trainer, state: Batch, steps: int) -> Batch:
    """Upstream's forward, and the shift written out."""
    model = trainer.space.model
    for _ in range(steps):
        with torch.no_grad(), trainer.space.spec.statistics.installed():
            prediction = model.forward(state)

        def shifted(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: torch.stack([old[name][:, 1], new[name][:, 0]], 1) for name in old}

        surface, atmospheric = (
            shifted(getattr(state, kind), getattr(prediction, kind)) for kind in ("surf_vars", "atmos_vars")
        )
        state = Batch(surface, prediction.static_vars, atmospheric, prediction.metadata)
    return state


def by_hand(trainer: Trainer, state: Batch, target: Batch) -> float:
    """The step as it is without a roll-out."""
    space = trainer.space
    loss = PaperMAE()(space.predict_fields(space.inputs(state)), space.targets(target))
    loss.total.backward()  # type: ignore[no-untyped-call]
    return loss.total.item()


@pytest.mark.parametrize("steps", (1, 2, 3))
def test_push_forward_is_the_step_from_the_state_that_the_model_made(steps: int) -> None:
    """Losses and gradients, bit for bit; with one step, those of the step as it always was."""
    trainer = trainer_of(steps=steps)
    pair = pair_of(trainer)
    losses = rolled(trainer, pair)
    ours = gradients(trainer)
    assert losses == [by_hand(trainer, state_after(trainer, pair.inputs, steps - 1), pair.target)]
    theirs = gradients(trainer)
    assert ours.keys() == theirs.keys()
    assert [name for name, gradient in theirs.items() if not torch.equal(ours[name], gradient)] == []


def test_grading_every_step_sums_the_gradients_of_each() -> None:
    trainer = trainer_of(steps=3, graded=ALL)
    pair = pair_of(trainer)
    losses = rolled(trainer, pair)
    ours = gradients(trainer)
    expected = [
        by_hand(trainer, state_after(trainer, pair.inputs, step), target) for step, target in enumerate(pair.targets)
    ]
    assert losses == expected
    assert len(set(losses)) == 3
    for name, gradient in gradients(trainer).items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("graded", (LAST, ALL))
def test_a_step_of_the_trainer_averages_over_steps_and_batches(graded: str) -> None:
    trainer = trainer_of(steps=2, graded=graded)
    pairs = [pair_of(trainer, seed) for seed in (0, 10)]
    losses = [loss for pair in pairs for loss in rolled(trainer, pair)]
    mean = {name: gradient / len(losses) for name, gradient in gradients(trainer).items()}
    valid = trainer.validate(pairs).loss
    report = trainer.step(1, pairs)
    assert len(losses) == (4 if graded == ALL else 2)
    assert report.samples == 2
    assert report.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    # Validation follows the same roll-out.
    assert valid == pytest.approx(report.loss, rel=1e-6)
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in mean.values()))
    assert float(report.gradients.total) == pytest.approx(norm, rel=1e-4)


class _Kept:
    """Stands for a tensor that a graph holds, and counts how many there are."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        _Kept.now += 1
        _Kept.most = max(_Kept.most, _Kept.now)

    def __del__(self) -> None:
        _Kept.now -= 1


def most_kept(**rollout: Any) -> int:
    """The most tensors that graphs hold at any moment of a step."""
    trainer = trainer_of(**rollout)
    pair = pair_of(trainer)
    _Kept.now = _Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Kept, lambda kept: kept.tensor):
        trainer.step(1, [pair])
    assert _Kept.now == 0
    return _Kept.most


def test_graphs_hold_no_more_than_those_of_one_step() -> None:
    one = most_kept()
    assert one > 100
    assert most_kept(steps=3) == one
    # Upstream's way from the decoder's output to physical values, which the next input is made of, holds a few more.
    assert one <= most_kept(steps=3, graded=ALL) <= 1.05 * one


def test_no_gradient_flows_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(steps=3, graded=ALL)
    states: list[Batch] = []
    advance = TrainingSpace.advance

    def noting(self: TrainingSpace, state: Batch, prediction: Batch) -> Batch:
        states.append(advance(self, state, prediction))
        return states[-1]

    monkeypatch.setattr(TrainingSpace, "advance", noting)
    held: list[weakref.ref[torch.Tensor]] = []
    for graded in roll_out(trainer.space, PaperMAE(), pair_of(trainer), rollout_of(trainer), CPU):
        assert all(tensor() is None for tensor in held)
        graded.loss.total.backward()  # type: ignore[no-untyped-call]
        held.append(weakref.ref(graded.loss.total))
        del graded
    assert len(states) == 2
    for state in states:
        assert not any(
            value.requires_grad for value in (state.surf_vars | state.atmos_vars | state.static_vars).values()
        )


def test_weights_cast_for_a_step_without_gradient_get_theirs_in_the_graded_one() -> None:
    """Autocast keeps its copies of weights; one made without gradient must not serve the graded step."""
    trainer = trainer_of("v1p5", autocast=True, steps=2)
    rolled(trainer, pair_of(trainer))
    found = gradients(trainer)
    assert not trainer.trained.parameters.keys() - found.keys()
    for part in ("encoder.level_agg.", "backbone.", "decoder.level_decoder."):
        assert all(bool(gradient.any()) for name, gradient in found.items() if name.startswith(part) and "qkv" in name)


@pytest.mark.parametrize("variant", ("wave", "v1p5-ensemble", "hres-finetuned"))
@pytest.mark.parametrize("graded", (LAST, ALL))
def test_variants_learn_from_their_own_predictions(variant: str, graded: str) -> None:
    trainer = trainer_of(variant, steps=2, graded=graded)
    pair = pair_of(trainer)
    reports = [trainer.step(step, [pair]) for step in range(1, 4)]
    assert reports[-1].loss < reports[0].loss


@pytest.mark.parametrize("graded", (LAST, ALL))
def test_what_is_predicted_alone_may_have_no_target(graded: str) -> None:
    """Rain and the like, of data that lack them: the loss is that of all others, and only theirs."""
    trainer = trainer_of("v1p5", steps=2, graded=graded)
    whole, spec = pair_of(trainer), trainer.space.spec
    read = set(spec.upstream.physical(tuple(name for name in spec.surface if name not in spec.output_only)))

    def without(state: Batch) -> Batch:
        return dataclasses.replace(state, surf_vars={name: state.surf_vars[name] for name in read})

    pair = Pair(whole.inputs, without(whole.target), tuple(map(without, whole.between)))
    observed: list[set[str]] = []
    task = trainer.task
    assert isinstance(task, ForecastTask)
    losses = [part.loss for part in task.losses(pair, lambda fields, _: observed.append(set(fields.surface)))]
    assert observed == [set(spec.surface) - set(spec.output_only)] * len(losses)
    losses[-1].total.backward()  # type: ignore[no-untyped-call]
    found = gradients(trainer)
    assert not found["decoder.surf_heads.scaled_tp_1h.weight"].any()
    assert found["decoder.surf_heads.2t.weight"].any()
    # Validation scores no rain where none was observed.
    list(task.valid_losses(pair, lambda *_: None))
    assert task.scores() == {}
    # A target that is missing by mistake is refused still.
    broken = dataclasses.replace(pair.target, surf_vars={"2t": pair.target.surf_vars["2t"]})
    with pytest.raises(SettingsError, match="predicted without a target"):
        list(task.losses(Pair(pair.inputs, broken, pair.between), lambda *_: None))


@pytest.mark.parametrize(
    ("graded", "poisoned", "message"),
    (
        (LAST, "inputs", r"roll-out step 1 of 3: the loss is not finite; input states of msl"),
        (LAST, 2, r"roll-out step 2 of 3: the loss is not finite; prediction of u for 2020-01-01T18:00 hold"),
        (ALL, 2, r"roll-out step 2 of 3: the loss is not finite; prediction of u for 2020-01-01T18:00 hold"),
        (
            LAST,
            "target",
            r"roll-out step 3 of 3: the loss is not finite; target of t for 2020-01-02T00:00 hold",
        ),
        (
            ALL,
            "between",
            r"roll-out step 1 of 3: the loss is not finite; target of t for 2020-01-01T12:00 hold",
        ),
    ),
)
def test_a_nan_is_traced_to_its_step(
    monkeypatch: pytest.MonkeyPatch, graded: str, poisoned: str | int, message: str
) -> None:
    trainer = trainer_of(steps=3, graded=graded)
    pair = pair_of(trainer)
    if poisoned == "inputs":
        pair.inputs.surf_vars["msl"][0, 1, 4, 4] = torch.nan
    elif isinstance(poisoned, str):
        target = pair.target if poisoned == "target" else pair.between[0]
        target.atmos_vars["t"][0, 0, 1, 4, 4] = torch.nan
    else:
        poison(monkeypatch, poisoned)
    with pytest.raises(DivergenceError, match=f"step 5, {message}"):
        trainer.step(5, [pair])


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the decoder's output of one roll-out step, and what follows from it, hold a NaN."""
    forward = TrainingSpace._forward

    def broken(self: TrainingSpace, inputs: Batch) -> tuple[Batch, Batch]:
        prediction, heads = forward(self, inputs)
        if inputs.metadata.rollout_step == step - 1:
            prediction.atmos_vars["u"] = prediction.atmos_vars["u"] * torch.nan
            heads.atmos_vars["u"] = heads.atmos_vars["u"] * torch.nan
        return prediction, heads

    monkeypatch.setattr(TrainingSpace, "_forward", broken)


def test_an_absent_wave_is_not_taken_for_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves over land are NaN in the input states and on the way; what is broken is the wind."""
    trainer = trainer_of("wave", steps=3)
    poison(monkeypatch, 3)
    with pytest.raises(DivergenceError, match=r"roll-out step 3 of 3: the loss is not finite; prediction of u for"):
        trainer.step(1, [pair_of(trainer)])


def test_a_pair_without_the_targets_of_all_steps_is_a_mistake() -> None:
    trainer = trainer_of(steps=3, graded=ALL)
    pair = dataclasses.replace(pair_of(trainer), between=())
    with pytest.raises(ValueError, match="shorter"):
        trainer.step(1, [pair])


def test_grading_all_of_one_step_has_no_effect_and_is_refused() -> None:
    wanted = r"rollout: rollout.graded all has no effect with rollout.steps 1; set rollout.steps to 2 or more.*here"
    with pytest.raises(SettingsError, match=wanted):
        resolve(Settings, [Layer("here", {"rollout.graded": "all"})])


def test_what_is_graded() -> None:
    assert list(RolloutSettings().loss_steps) == [1]
    assert list(RolloutSettings(steps=4).loss_steps) == [4]
    assert list(RolloutSettings(steps=4, graded="all").loss_steps) == [1, 2, 3, 4]
