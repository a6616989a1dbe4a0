"""Members trained together: scores worked by hand, gradients of one member at a time and of all at once."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scores.probability import crps_for_ensemble

from kit.adapt import factory
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair
from kit.io.errors import SettingsError
from kit.models.noise import NamedNoise
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.ensemble_loss import EnsembleLoss, member_score
from kit.train.resolve import resolve_step
from kit.train.settings import LossSettings, RolloutSettings, TaskSettings
from kit.train.task import StepLoss, unobserved
from kit.train.tasks.crps import CrpsTask
from tests.batches import small_spec, synthetic_batch

VARIANTS = ("pretrained", "12h", "air-pollution", "wave", "v1p5", "v1p5-ensemble", "tiny")
CPU = torch.device("cpu")


def score(members: list[float], target: float, alpha: float = 1.0) -> float:
    first, *others = (torch.tensor([value], dtype=torch.float64) for value in members)
    found = member_score(first, torch.tensor([target], dtype=torch.float64), others=others, alpha=alpha)
    return found.item()


def test_scores_worked_by_hand() -> None:
    # Errors 1 and 3 have the mean 2; the members are 4 apart, and the fair score takes half of that.
    assert score([1.0, -3.0], 0.0) == pytest.approx(2 - 2)
    # With alpha 0 it is the score of the step function: a quarter of the distance.
    assert score([1.0, -3.0], 0.0, alpha=0.0) == pytest.approx(2 - 1)
    # Almost fair: 1 - (1 - 0.95) / 2 of the fair spread.
    assert score([1.0, -3.0], 0.0, alpha=0.95) == pytest.approx(2 - 0.975 * 2)
    # Three members: errors 1, 2, 3; distances 3, 2, 5 and 1 / (3 x 2) of their sum.
    assert score([1.0, -2.0, 3.0], 0.0) == pytest.approx(2 - 10 / 6)


@pytest.mark.parametrize(("alpha", "method"), ((1.0, "fair"), (0.0, "ecdf")))
def test_scores_of_the_library(alpha: float, method: Any) -> None:
    random = np.random.default_rng(0)
    members, target = random.normal(size=(5, 40)), random.normal(size=40)
    due = crps_for_ensemble(
        xr.DataArray(members, dims=("member", "case")), xr.DataArray(target, dims="case"), "member", method=method
    )
    first, *others = torch.from_numpy(members)
    found = member_score(first, torch.from_numpy(target), others=others, alpha=alpha)
    assert found.mean().item() == pytest.approx(float(due), rel=1e-12)


def test_the_score_of_normals() -> None:
    """Of N(0, 1) against N(0, 1) it is 1 / sqrt(pi) = 0.564, whatever the number of members."""
    generator = torch.Generator().manual_seed(0)
    for count in (2, 4, 8):
        first, *others = torch.randn(count, 200_000, generator=generator)
        target = torch.randn(200_000, generator=generator)
        found = member_score(first, target, others=others, alpha=1.0)
        assert found.mean().item() == pytest.approx(1 / math.sqrt(math.pi), abs=0.005)


@pytest.mark.parametrize("alpha", (0.0, 0.95, 1.0))
def test_derivatives_are_those_of_the_formula(alpha: float) -> None:
    members = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 5, dtype=torch.float64)
    spread = (1 - (1 - alpha) / 4) / (2 * 4 * 3)
    due = (members - target).abs().mean(0) - spread * (members[:, None] - members[None]).abs().sum((0, 1))
    (gradient,) = torch.autograd.grad(due.sum(), members)
    for position in range(4):
        member = members[position].detach().requires_grad_()
        others = [members[other].detach() for other in range(4) if other != position]
        found = member_score(member, target, others=others, alpha=alpha)
        torch.testing.assert_close(found, due.detach())
        (slope,) = torch.autograd.grad(found.sum(), member)
        torch.testing.assert_close(slope, gradient[position])


def stochastic(variant: str) -> ModelSpec:
    spec = small_spec(variant, levels=(500, 850))
    return dataclasses.replace(spec, arguments={**spec.arguments, "stochastic": True})


def pair_of(spec: ModelSpec, steps: int) -> Pair:
    inputs = synthetic_batch(spec)
    targets = []
    for step in range(1, steps + 1):
        target = synthetic_batch(spec, states=1, inputs=False, seed=step)
        time = tuple(moment + step * spec.timestep for moment in inputs.metadata.time)
        targets.append(dataclasses.replace(target, metadata=dataclasses.replace(target.metadata, time=time)))
    return Pair(inputs, targets[-1], tuple(targets[:-1]))


def built(spec: ModelSpec, method: str = "full") -> tuple[TrainingSpace, dict[str, torch.nn.Parameter]]:
    torch.manual_seed(0)
    model, trained = factory.for_training(spec, None, AdaptSettings(method=method), autocast=False)
    with torch.no_grad():
        # Away from where noise, adapters and the blocks of a new model add nothing.
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return TrainingSpace(model.train(), spec), trained.parameters


def gradients(
    space: TrainingSpace, parameters: dict[str, torch.nn.Parameter], rollout: RolloutSettings, *, together: bool
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of a batch, and the gradients of their mean, as the trainer takes it."""
    settings = TaskSettings(name="crps", members=3, together=together)
    loss = EnsembleLoss(LossSettings(), levels=space.spec.levels)
    task = CrpsTask(space, loss, rollout, None, settings)
    for parameter in parameters.values():
        parameter.grad = None
    values = []
    for found in task.losses(pair_of(space.spec, len(rollout.loss_steps)), unobserved):
        torch.autograd.backward(found.loss.total / task.losses_per_batch)
        values.append(found.loss.total.item())
    assert len(values) == task.losses_per_batch
    return values, {name: value.grad.clone() for name, value in parameters.items() if value.grad is not None}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    largest = max(value.abs().max().item() for value in one.values())
    assert largest > 0
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-6 * largest, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_one_member_at_a_time_are_those_of_all_together(variant: str) -> None:
    space, parameters = built(stochastic(variant))
    rollout = RolloutSettings()
    ones, by_one = gradients(space, parameters, rollout, together=False)
    alls, together = gradients(space, parameters, rollout, together=True)
    assert ones == pytest.approx([alls[0]] * 3, rel=1e-6)
    close(by_one, together)


@pytest.mark.parametrize("method", ("full", "lora", "dora", "head", "prefix"))
def test_gradients_of_a_roll_out(method: str) -> None:
    spec = stochastic("pretrained")
    if method != "full":
        pytest.importorskip("peft")
    space, parameters = built(spec, method)
    rollout = RolloutSettings(steps=2, graded="all")
    ones, by_one = gradients(space, parameters, rollout, together=False)
    alls, together = gradients(space, parameters, rollout, together=True)
    assert ones == pytest.approx([alls[0]] * 3 + [alls[1]] * 3, rel=1e-6)
    close(by_one, together)


def test_members_are_those_that_are_predicted_by_themselves() -> None:
    """The loss is the score of members whose noise is drawn independently, worked out from their predictions."""
    space, _ = built(stochastic("pretrained"))
    seen: list[Fields] = []
    settings = TaskSettings(name="crps", members=3, alpha=1.0)
    loss = EnsembleLoss(LossSettings(name="mae"), levels=space.spec.levels)
    task = CrpsTask(space, loss, RolloutSettings(), None, settings)
    (pair,) = [pair_of(space.spec, 1)]
    totals = [found.loss.total.item() for found in task.losses(pair, lambda prediction, _: seen.append(prediction))]
    assert not torch.equal(seen[0].surface["2t"], seen[1].surface["2t"])
    target = space.targets(pair.target)
    per_channel = []
    for kind in ("surface", "atmospheric"):
        for name, value in getattr(target, kind).items():
            x = torch.stack([getattr(one, kind)[name].detach() for one in seen])
            errors = (x - value).abs().mean(0) - (x[:, None] - x[None]).abs().sum((0, 1)) / 12
            weight = 1 if kind == "surface" else value.shape[1]
            per_channel += [errors.mean().item()] * weight
    assert totals == pytest.approx([np.mean(per_channel)] * 3, rel=1e-5)


def test_noise_differs_between_batches_and_is_the_same_after_resuming() -> None:
    space, _ = built(stochastic("pretrained"))
    pair = pair_of(space.spec, 1)

    def losses(start: int, count: int) -> Iterator[float]:
        task = CrpsTask(space, EnsembleLoss(LossSettings()), RolloutSettings(), None, TaskSettings(name="crps"))
        task._position = start
        for _ in range(count):
            found: StepLoss = next(iter(task.losses(pair, unobserved)))
            yield found.loss.total.item()

    whole = list(losses(0, 3))
    assert len(set(whole)) == 3
    assert list(losses(1, 2)) == whole[1:]


def test_validation_is_fair_and_the_same_for_every_batch() -> None:
    space, _ = built(stochastic("pretrained"))
    space.model.eval()
    pair = pair_of(space.spec, 1)
    found = []
    for alpha in (0.0, 1.0):
        settings = TaskSettings(name="crps", members=3, alpha=alpha)
        task = CrpsTask(space, EnsembleLoss(LossSettings()), RolloutSettings(), None, settings)
        space.noise = NamedNoise(7)
        with torch.no_grad():
            (loss,) = task.valid_losses(pair, unobserved)
            (again,) = task.valid_losses(pair, unobserved)
        assert loss.loss.total.item() == again.loss.total.item()
        assert space.noise == NamedNoise(7)
        space.noise = None
        found.append(loss.loss.total.item())
    assert found[0] == found[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_begins_near_neutral(variant: str) -> None:
    """Weights that read none predict as before, within rounding of the field's deviation."""
    spec = small_spec(variant, levels=(500, 850))
    if spec.stochastic:
        pytest.skip("reads noise as published")
    torch.manual_seed(0)
    plain = TrainingSpace(spec.build().eval(), spec)
    with_noise = dataclasses.replace(spec, arguments={**spec.arguments, "stochastic": True})
    model, _ = factory.for_training(with_noise, None, AdaptSettings(), autocast=False)
    missing = model.load_state_dict(plain.model.state_dict(), strict=False).missing_keys
    assert missing
    assert all(name.startswith(("backbone.noise_mlp", "backbone.context_down_layers")) for name in missing)
    noisy = TrainingSpace(model.eval(), with_noise)
    with torch.no_grad():
        inputs = synthetic_batch(spec)
        one, other = (space.predict_fields(space.inputs(inputs)) for space in (plain, noisy))
    for name, value in (one.surface | one.atmospheric).items():
        apart = ((other.surface | other.atmospheric)[name] - value).abs().max().item()
        assert apart < 1e-4 * max(value.std().item(), 1e-3), name


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no noise": ({}, {"task": {"name": "crps"}}, "--model.stochastic"),
    "buffer": ({"stochastic": True}, {"task": {"name": "crps"}, "rollout": {"buffer": 2, "steps": 2}}, "buffer"),
    "mse": ({"stochastic": True}, {"task": {"name": "crps"}, "loss": {"name": "mse"}}, "absolute error"),
    "in backward": (
        {"stochastic": True},
        {"task": {"name": "crps"}, "memory": {"step_in_backward": True}, "optim": {"clip": None}},
        "task.together",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_refused(name: str) -> None:
    arguments, sections, message = BAD[name]
    spec = small_spec("pretrained")
    spec = dataclasses.replace(spec, arguments={**spec.arguments, **arguments})
    with pytest.raises(SettingsError, match=message):
        resolve_step(Settings.model_validate(sections), spec, 1, autocast=False)


@pytest.mark.parametrize("task", ({"members": 4}, {"alpha": 0.5}, {"together": True}))
def test_settings_without_effect_are_refused(task: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no effect"):
        TaskSettings.model_validate(task)
    for bad in ({"members": 1}, {"alpha": 1.5}, {"alpha": -0.1}, {"members": 0}):
        with pytest.raises(ValueError, match=r"greater|less"):
            TaskSettings.model_validate({"name": "crps", **bad})


def test_a_step_of_the_trainer() -> None:
    spec = stochastic("pretrained")
    settings = Settings.model_validate({"task": {"name": "crps", "members": 2}})
    torch.manual_seed(0)
    trainer = build_trainer(resolve_step(settings, spec, 3, autocast=False), None, CPU)
    before = {name: value.detach().clone() for name, value in trainer.trained.parameters.items()}
    pair = pair_of(spec, 1)
    losses = [trainer.step(step, [pair]).loss for step in (1, 2, 3)]
    assert all(map(math.isfinite, losses))
    moved = [name for name, value in trainer.trained.parameters.items() if not torch.equal(value, before[name])]
    assert any("noise_mlp" in name for name in moved)
