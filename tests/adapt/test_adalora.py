"""AdaLoRA: a neutral start, ranks that fall to their budget, and what is left of them in files and in a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kit.adapt import lora, trainable
from kit.adapt.adalora import Allocation, orthogonality, pruning
from kit.adapt.lora import import_packages
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.io.errors import SettingsError
from kit.models.variants import VARIANTS
from kit.models.weights.convert import drop_pruned, restore_pruned
from tests.adapt.models import awake_model, equal, predicted, size
from tests.adapt.test_dora import close
from tests.batches import small_spec
from tests.everyday import one_in

UPSTREAM = [name for name in VARIANTS if name != "tiny"]
ADALORA = AdaptSettings(method="adalora", rank=6, target_rank=2)
STEPS = 20
BASE = {"name": "base", "file": "base.safetensors", "sha256": "0" * 64}
DELTA: dict[str, Any] = {
    "kit_version": "0",
    "model": small_spec("small").as_dict(),
    "adapter": {"settings": {}, "base": BASE},
}


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    import_packages("adalora")


@pytest.mark.parametrize("variant", one_in(4, UPSTREAM))
def test_it_changes_nothing_at_first(variant: str) -> None:
    spec = small_spec(variant)
    model = awake_model(spec)
    with torch.no_grad():
        before = predicted(model, spec)
        parameters = trainable.select(model, ADALORA).parameters
        assert equal(before, predicted(model, spec))
    # A, E and B beside each of four layers in two stages of two blocks on each side; never the rank that PEFT notes.
    assert len(parameters) == 2 * 4 * 4 * 3
    assert {name.split(".")[-2] for name in parameters} == {"lora_A", "lora_E", "lora_B"}


def four_layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(12, 12) for _ in range(4)))


class Run:
    """A small regression that AdaLoRA trains: four layers, of which one alone has something to learn."""

    def __init__(self, settings: AdaptSettings = ADALORA, steps: int = STEPS) -> None:
        self.model = four_layers()
        self.settings = AdaptSettings.model_validate({**settings.model_dump(), "targets": ("*",)})
        attached = lora.attach(self.model, self.settings, steps)
        assert isinstance(attached.schedule, Allocation)
        assert attached.penalty is not None
        self.allocation, self.penalty = attached.schedule, attached.penalty
        own = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(own, lr=1e-2)
        self.x = torch.randn(32, 12)
        self.y = torch.randn(32, 12)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            loss = (self.model(self.x) - self.y).square().mean() + self.penalty()
            loss.backward()
            self.optimizer.step()
            self.allocation.after_update(step)
            self.optimizer.zero_grad()

    @property
    def ranks(self) -> list[int]:
        return [int(value.count_nonzero()) for name, value in self.model.named_parameters() if "lora_E" in name]

    @property
    def state(self) -> dict[str, Any]:
        return {"allocation": self.allocation.state_dict(), "optimizer": self.optimizer.state_dict()}


def test_ranks_fall_to_the_target() -> None:
    """Of 20 steps 2 pass before and 6 after the pruning; each step in between has its own budget, (24 - 8) x^3 + 8."""
    run = Run()
    seen = []
    for step in range(1, STEPS + 1):
        run.train(step, step)
        seen.append(sum(run.ranks))
    budgets = [int(16 * (1 - (step - 2) / 12) ** 3 + 8) for step in range(3, 14)]
    assert seen == [24, 24, *budgets, 8, *[8] * 6]
    # They are shared out by importance, not evenly.
    assert run.ranks != [2, 2, 2, 2]
    pattern = run.allocation.pattern
    assert pattern is not None
    assert [sum(kept) for kept in pattern.values()] == run.ranks


def test_what_is_pruned_stays_so_between_allocations() -> None:
    run = Run(AdaptSettings(method="adalora", rank=6, target_rank=2, tinit=2, tfinal=6, interval=5))
    seen = []
    for step in range(1, STEPS + 1):
        run.train(step, step)
        seen.append(sum(run.ranks))
    # Steps 5 and 10 by the interval, 14 because it is the last one.
    five, ten = (int(16 * (1 - (step - 2) / 12) ** 3 + 8) for step in (5, 10))
    assert seen == [24] * 4 + [five] * 5 + [ten] * 4 + [8] * 7


@pytest.mark.parametrize("stop", (1, 7, 15))
def test_a_resumed_run_is_the_same_to_the_last_bit(stop: int, tmp_path: Path) -> None:
    through, before = Run(), Run()
    through.train(1, STEPS)
    before.train(1, stop)
    tensors, config = lora.tensors(before.model), lora.config(before.model)
    write_checkpoint(tmp_path / "last", tensors, DELTA, before.state, config)

    after = Run()
    checkpoint = open_checkpoint(tmp_path / "last")
    lora.load(after.model, checkpoint.tensors())
    state = checkpoint.resume_state()
    after.optimizer.load_state_dict(state["optimizer"])
    after.allocation.load_state_dict(state["allocation"])
    after.train(stop + 1, STEPS)
    expected = through.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in after.model.state_dict().items())
    assert after.allocation.pattern == through.allocation.pattern


# PEFT looks for LoRA's kind of pattern in AdaLoRA's, which has another, and says that it found none.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("stop", (10, STEPS))
def test_files_hold_what_is_left_and_predict_the_same(stop: int, tmp_path: Path) -> None:
    from peft import PeftModel

    run = Run()
    run.train(1, stop)
    expected = run.model(run.x).detach()
    write_checkpoint(tmp_path / "best", lora.tensors(run.model), DELTA, adapter_config=lora.config(run.model))
    config = json.loads((tmp_path / "best" / "adapter_config.json").read_text())
    assert [sum(kept) for kept in config["rank_pattern"].values()] == run.ranks
    from safetensors.torch import load_file

    held = load_file(tmp_path / "best" / "adapter_model.safetensors")
    assert sum(value.numel() for value in held.values()) == sum(run.ranks) * (12 + 1 + 12)

    saved = open_checkpoint(tmp_path / "best").tensors()
    again = Run()
    lora.load(again.model, saved)
    assert torch.equal(again.model(run.x), expected)

    merged = four_layers()
    trainable.merge_adapters(merged, run.settings, saved)
    torch.testing.assert_close(merged(run.x), expected, rtol=1e-5, atol=1e-5)

    loaded = PeftModel.from_pretrained(four_layers(), str(tmp_path / "best")).eval()
    torch.testing.assert_close(loaded(run.x), expected, rtol=1e-5, atol=1e-5)


def test_training_goes_on_with_the_ranks_that_are_left() -> None:
    first, second = Run(), Run()
    first.train(1, STEPS)
    pattern = first.allocation.pattern
    assert pattern is not None
    named = {name.removesuffix(".default"): kept for name, kept in pattern.items()}
    saved = lora.tensors(first.model)
    lora.load(second.model, restore_pruned(drop_pruned(saved, named, "base_model.model."), named, "base_model.model."))
    assert second.ranks == first.ranks
    second.train(1, STEPS)
    assert second.allocation.pattern == pattern


def test_what_is_left_by_hand() -> None:
    tensors = {
        "p.x.lora_A": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "p.x.lora_E": torch.tensor([[0.0], [5.0]]),
        "p.x.lora_B": torch.tensor([[6.0, 7.0]]),
        "p.y.lora_A": torch.tensor([[8.0]]),
    }
    small = drop_pruned(tensors, {"x.lora_E": [False, True]}, "p.")
    assert {name: value.tolist() for name, value in small.items()} == {
        "p.x.lora_A": [[3, 4]],
        "p.x.lora_E": [[5]],
        "p.x.lora_B": [[7]],
        "p.y.lora_A": [[8]],
    }
    whole = restore_pruned(small, {"x.lora_E": [False, True]}, "p.")
    assert {name: value.tolist() for name, value in whole.items()} == {
        "p.x.lora_A": [[0, 0], [3, 4]],
        "p.x.lora_E": [[0], [5]],
        "p.x.lora_B": [[0, 7]],
        "p.y.lora_A": [[8]],
    }


def test_the_orthogonality_term_by_hand() -> None:
    """A A^T - I = diag(3, 0), of norm 3; B^T B - I = [[0, 1], [1, 0]], of norm sqrt(2); half their mean."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    lora.attach(model, AdaptSettings(method="adalora", rank=2, target_rank=1, targets=("0",)), 10)
    model.get_parameter("0.lora_A.default").data = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    model.get_parameter("0.lora_B.default").data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    penalty = orthogonality(model, lora.NAME, 0.5)()
    assert float(penalty.detach()) == pytest.approx(0.5 * (3 + 2**0.5) / 2)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert model.get_parameter("0.lora_E.default").grad is None
    # d|A A^T - I| / dA = 2 (A A^T - I) A / norm
    expected = 0.25 * 2 * torch.tensor([[3.0, 0.0], [0.0, 0.0]]) @ torch.tensor([[2.0, 0.0], [0.0, 1.0]]) / 3
    torch.testing.assert_close(model.get_parameter("0.lora_A.default").grad, expected)


def test_an_adapter_without_a_gradient_is_unimportant() -> None:
    run = Run()
    run.model[3].weight.requires_grad_(False)
    for step in range(1, STEPS + 1):
        # The last layer is left out, as the head of a variable without a target is.
        (run.model[:3](run.x) - run.y).square().mean().backward()
        run.optimizer.step()
        run.allocation.after_update(step)
        run.optimizer.zero_grad()
    assert run.ranks[3] == 0
    assert sum(run.ranks) == 8


@torch.no_grad()
def test_a_trained_model_is_merged_and_loaded_again() -> None:
    spec = small_spec("small")
    model = awake_model(spec)
    with torch.enable_grad():
        parameters = trainable.select(model, ADALORA).parameters
        optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-2)
        for _ in range(2):
            size(predicted(model, spec)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    expected = predicted(model, spec)
    saved = {name: value.clone() for name, value in trainable.tensors(model, ADALORA).items()}
    again, whole = awake_model(spec), awake_model(spec)
    assert not equal(expected, predicted(whole, spec))
    trainable.select(again, ADALORA)
    trainable.load(again, ADALORA, saved)
    assert equal(expected, predicted(again, spec))
    trainable.merge(whole, ADALORA, saved)
    close(expected, predicted(whole, spec), 1e-5)


def test_a_step_can_be_planned_on_fake_tensors() -> None:
    with FakeTensorMode():
        run = Run(steps=1000)
        run.train(1, 1)
    assert all(isinstance(parameter.data, FakeTensor) for parameter in run.model.parameters())
    run = Run(steps=1000)
    run.train(1, 1)
    assert not any(isinstance(parameter.data, FakeTensor) for parameter in run.model.parameters())


@pytest.mark.parametrize(
    ("steps", "given", "expected"),
    (
        (1000, {}, (100, 300, 10)),
        (20, {}, (2, 6, 1)),
        (1, {}, (0, 0, 1)),
        (100, {"tinit": 0, "interval": 7}, (0, 30, 7)),
        (100, {"tinit": 50, "tfinal": 49}, (50, 49, 1)),
        (None, {"tinit": 50}, (0, 0, 1)),
    ),
)
def test_pruning_is_tied_to_the_steps(steps: int | None, given: dict[str, Any], expected: tuple[int, ...]) -> None:
    plan = pruning(AdaptSettings(method="adalora", **given), steps)
    assert (plan.tinit, plan.tfinal, plan.interval) == expected
    assert plan.target_rank == 8


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"tinit": 60, "tfinal": 40}, r"adapt.tinit \(60\) and adapt.tfinal \(40\) leave no step .* less than .* 100"),
        ({"tfinal": 95}, r"adapt.tinit \(10\) and adapt.tfinal \(95\)"),
        ({"tinit": 100}, r"adapt.tinit \(100\)"),
        ({"interval": 61}, r"adapt.interval: expected at most 60, the steps between .* got 61"),
    ),
)
def test_a_schedule_that_leaves_nothing_to_prune_in_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        pruning(AdaptSettings(method="adalora", **given), 100)
