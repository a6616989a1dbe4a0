"""Each method's report agrees with what changed, for each variant; and the check tells when it would not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from kit.adapt import trainable
from kit.adapt.rollout_lora import spec_for
from kit.adapt.settings import AdaptSettings
from kit.adapt.trainable_report import GroupSchedule, report
from kit.adapt.training_check import TrainingCheck, UntrainedError, Verdict
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.extend import added_names
from kit.models.space import TrainingSpace
from kit.models.statistics import Statistics
from kit.models.variants import VARIANTS
from kit.train.loss import PaperMAE
from kit.train.settings import OptimSettings
from kit.train.updaters import Updater, build_updater
from tests.adapt.models import awake_model
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

STEPS = 3
# One line for each method; more than one where its settings choose other parts.
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "full"},
    {"method": "freeze", "freeze": ("backbone",)},
    {"method": "head", "decoder_stages": 1},
    {"method": "lora"},
    {"method": "dora"},
    {"method": "adalora", "rank": 4, "target_rank": 2, "tinit": 1, "tfinal": 1},
    {"method": "qlora"},
    {"method": "rollout-lora", "mode": "single"},
    {"method": "prefix", "tokens": 2},
    {"method": "prompt"},
    {"method": "prompt", "coarse": "3x5"},
)
LEVEL = "the data lack its level"
CLOCK = "its sine or cosine was as good as 0 at every time that was read"
NOTHING = "its variable was 0 everywhere in what was read"
_ONLY_PREDICTED = r"surf_token_embeds\.weights\.(blh|i10fg|scaled_(sf|tp)_1h|(ssrd|ttr|uvb)_1h)$"
# The parameters that get no gradient, and why: of the tests' batches, at 6 UTC and on three levels.
ZEROS: dict[str, dict[str, str]] = {
    "air-pollution": {
        LEVEL: r"\.layers\.(?!300\.|500\.|850\.)\d+\.(weights\.|weight$|bias$)",
        CLOCK: r"(surf_token_embeds|layers\.(300|500|850))\.weights\.(static_)?tod_cos$",
    },
    # Version 1.5 pads what it only predicts with zeros.
    "v1p5": {NOTHING: _ONLY_PREDICTED},
    "v1p5-ensemble": {NOTHING: _ONLY_PREDICTED},
}


def zeros_of(variant: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Those of some parameters that are to have no gradient, by the reason."""
    patterns = ZEROS.get(variant, {})
    found = {reason: [n for n in names if re.search(pattern, n)] for reason, pattern in patterns.items()}
    return {reason: own for reason, own in found.items() if own}


class Run:
    """A few steps of a small model under a method, with the check on."""

    def __init__(
        self,
        variant: str,
        adapt: dict[str, Any],
        memory: dict[str, Any] | None = None,
        *,
        keep: bool = True,
        weights: dict[str, float] | None = None,
        added: tuple[str, ...] = (),
        never_read: tuple[str, ...] = (),
    ) -> None:
        lora = "kept" if keep and VARIANTS[variant].has_rollout_lora else None
        settings = AdaptSettings.model_validate(adapt)
        spec = spec_for(small_spec(variant, rollout_lora=lora), None, settings, (1,))
        known = Statistics(dict(spec.statistics.values) | dict.fromkeys(added, (0.0, 1.0)))
        surface = (*spec.surface, *added)
        self.spec = replace(spec, surface=surface, added=added, never_read=never_read, statistics=known)
        self.model = awake_model(self.spec)
        new = added_names(self.model, added)
        self.trained = trainable.select(self.model, settings, steps=STEPS, new=new)
        self.parameters = self.trained.parameters
        where = MemorySettings.model_validate(memory or {})
        engine.install(self.model, where)
        self.loss = PaperMAE(weights)
        unscored = [name for name, weight in (weights or {}).items() if not weight]
        self.check = TrainingCheck(self.model, self.parameters, unscored=unscored)
        optim = OptimSettings(lr=1e-3, warmup=0, clip=None)
        self.updater: Updater = build_updater(self.parameters, optim, where, steps=STEPS)
        self.space = TrainingSpace(self.model, self.spec)
        self.check.begin()

    def take(self, steps: int = STEPS, first: int = 1) -> None:
        self.model.train()
        for step in range(first, first + steps):
            self.updater.begin(step)
            state = self.space.inputs(synthetic_batch(self.spec, seed=step))
            target = self.space.targets(synthetic_batch(self.spec, states=1, seed=100 + step, inputs=False))
            loss = self.loss(self.space.predict_fields(state), target).total
            penalty, schedule = self.trained.penalty, self.trained.schedule
            self.updater.backward(loss if penalty is None else loss + penalty())
            self.updater.update(step, None if schedule is None else schedule.after_update)

    def judge(self, step: int = STEPS, *, warmup: int = 0, final: bool = True) -> Verdict:
        return self.check.judge(step, warmup=warmup, final=final)


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@pytest.mark.parametrize("adapt", METHODS, ids=lambda adapt: "-".join(map(str, adapt.values())))
@pytest.mark.parametrize("variant", one_in(len(VARIANTS), VARIANTS))
def test_the_report_agrees_with_what_changed(variant: str, adapt: dict[str, Any]) -> None:
    run = Run(variant, adapt)
    found = report(run.model, dict.fromkeys(run.parameters, GroupSchedule(1e-3, 0.0)), ())
    before = {name: value.detach().clone() for name, value in named_tensors(run.model)}
    run.take()
    verdict = run.judge()
    changed = {name for name, value in named_tensors(run.model) if not torch.equal(value, before[name])}
    silent = {name for names in verdict.zeros.values() for name in names}
    assert changed == run.parameters.keys() - silent
    assert verdict.moved == len(changed)
    assert verdict.still == len(before) - len(run.parameters)
    assert verdict.waiting == []
    # Half of AdaLoRA's parts are pruned by the second step, of some adapters all: E is zero again, as at the start.
    pruned = verdict.zeros.pop("AdaLoRA has pruned all of its parts", [])
    assert all(adapt["method"] == "adalora" and ".lora_E." in name for name in pruned)
    assert verdict.zeros == zeros_of(variant, run.parameters)
    assert found.trains == sum(trainable.size(parameter) for parameter in run.parameters.values())
    assert found.parameters == trainable.count(run.model)[1]


@pytest.mark.parametrize(
    "memory",
    (
        {"step_in_backward": True},
        pytest.param({"offload": ("optimizer",)}, marks=pytest.mark.slow),
        {"latitude_bands": 2, "recompute": "blocks", "window_bands": 2},
        pytest.param({"recompute": "upstream"}, marks=pytest.mark.slow),
    ),
    ids=str,
)
def test_gradients_are_seen_however_memory_is_kept_low(memory: dict[str, Any]) -> None:
    run = Run("tiny", {"method": "full"}, memory)
    run.take()
    assert run.judge().moved == len(run.parameters)


def test_what_silently_does_not_train_is_named() -> None:
    run = Run("tiny", {"method": "full"})
    lost = run.model.backbone.time_mlp[0]
    forward = lost.forward
    lost.forward = lambda x: forward(x).detach()
    run.take()
    told = (
        r"after step 3, 2 parameters that were to train do not, .* 2 have had no gradient: "
        r"backbone\.time_mlp\.0\.weight, backbone\.time_mlp\.0\.bias\. .*--train\.check_after none"
    )
    with pytest.raises(UntrainedError, match=told):
        run.judge()


def test_what_has_gradients_and_is_not_moved_is_named() -> None:
    run = Run("tiny", {"method": "full"})
    name = "decoder.surf_heads.2t.weight"
    kept = run.parameters[name].detach().clone()
    run.take()
    run.parameters[name].data.copy_(kept)
    with pytest.raises(UntrainedError, match=rf"1 have had gradients and have not moved: {name}\. "):
        run.judge()


def test_what_a_long_warm_up_has_not_moved_yet_is_waited_for() -> None:
    run = Run("tiny", {"method": "full"})
    name = "decoder.surf_heads.2t.weight"
    kept = run.parameters[name].detach().clone()
    run.take()
    run.parameters[name].data.copy_(kept)
    assert run.judge(warmup=100, final=False).waiting == [name]
    with pytest.raises(UntrainedError, match=name):
        run.judge(warmup=100)


@pytest.mark.parametrize("kind", ("parameter", "buffer"))
def test_what_changes_and_was_to_stay_is_named(kind: str) -> None:
    run = Run("tiny", {"method": "lora"})
    buffer = torch.zeros(3)
    run.model.register_buffer("counter", buffer)
    run.check.begin()
    run.take()
    moved = run.model.encoder.surf_norm.bias if kind == "parameter" else buffer
    moved.data[1] += 1e-7
    name = r"encoder\.surf_norm\.bias" if kind == "parameter" else "counter"
    with pytest.raises(UntrainedError, match=rf"1 parameters or buffers were to stay .* have changed: {name}\. "):
        run.judge()


def test_the_first_steps_are_too_early_to_tell() -> None:
    """In the first step, A of LoRA has no gradient, because B is zero."""
    run = Run("tiny", {"method": "lora"})
    run.take(1)
    verdict = run.judge(1)
    assert verdict.moved == 32
    assert len(verdict.waiting) == 32
    assert all("lora_A" in name for name in verdict.waiting)
    assert "of 32 it is too early to say" in verdict.text()
    assert run.check.due(1) == 3


def test_a_variable_of_no_weight_is_a_reason_for_its_head_alone() -> None:
    run = Run("tiny", {"method": "full"}, weights={"msl": 0.0})
    run.take()
    heads = ["decoder.surf_heads.msl.weight", "decoder.surf_heads.msl.bias"]
    assert run.judge().zeros == {"its variable weighs nothing in the loss": heads}


def test_a_new_variable_trains_under_an_adapter_and_its_unread_embedding_is_told() -> None:
    run = Run("tiny", {"method": "lora"}, added=("rain",), never_read=("rain",))
    head = {"decoder.surf_heads.rain.weight", "decoder.surf_heads.rain.bias"}
    embedding = "encoder.surf_token_embeds.weights.rain"
    assert run.trained.new == {*head, embedding}
    run.take()
    verdict = run.judge()
    assert verdict.zeros == {"its variable is not read": [embedding]}
    assert verdict.moved == 64 + 2
    rows = report(run.model, dict.fromkeys(run.parameters, GroupSchedule(1e-3, 0.0)), run.trained.new).rows
    assert [(row.group, row.trains) for row in rows if row.new] == [
        ("encoder.surf_token_embeds", 32 * 2 * 4 * 4),
        ("decoder.surf_heads", 64 * 16 + 16),
    ]


def test_a_state_goes_on_where_the_other_was() -> None:
    straight, first = Run("tiny", {"method": "lora"}), Run("tiny", {"method": "lora"})
    straight.take(4)
    first.take(2)
    second = Run("tiny", {"method": "lora"})
    second.model.load_state_dict(first.model.state_dict())
    second.updater.load_state_dict(first.updater.state_dict())
    second.check.load_state_dict(first.check.state_dict())
    second.take(2, first=3)
    assert second.judge(4) == straight.judge(4)
    third = Run("tiny", {"method": "lora"})
    third.check.load_state_dict(second.check.state_dict())
    assert not third.check.watching


def test_without_the_start_nothing_that_was_loaded_counts_as_moved() -> None:
    """A check that begins late takes what it finds for the start."""
    run = Run("tiny", {"method": "full"})
    run.take()
    run.check.begin(step=3)
    assert run.check.due(10) == 13
    with pytest.raises(UntrainedError, match="have not moved"):
        run.judge(step=6)
