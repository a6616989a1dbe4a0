"""Advice: in order, with effect, and accepted by those who check settings."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

import pytest
import torch

from kit.config.command_line import parse
from kit.config.layers import command_line_layer, resolve
from kit.memory.advice import Situation, advise, advise_forecast
from kit.memory.checks import check_training_memory
from kit.memory.settings import MemorySettings
from kit.planning.workload import situation_of
from kit.settings import Settings
from kit.train.updaters import build_updater, check_updater
from tests.everyday import one_in


def options(now: Situation, **about: Any) -> list[str]:
    return [advice.options for advice in advise(now, **about)]


def test_a_gpu_is_relieved_from_the_cheapest_saving_on() -> None:
    assert options(Situation(MemorySettings(), "cuda", autocast=True)) == [
        "--memory.recompute blocks --memory.latitude_bands 8",
        "--memory.latitude_bands 32",
        "--memory.window_bands 8",
        "--memory.offload inputs",
        "--memory.offload inputs,optimizer",
        "--adapt.method lora",
        "--adapt.method qlora",
    ]


def test_a_cpu_has_nowhere_to_offload_to() -> None:
    found = options(Situation(MemorySettings(), "cpu", batch_size=4, accumulate=2))
    assert found[0] == "--data.batch_size 1 --train.accumulate 8"
    assert not any("offload" in text for text in found)
    assert "--optim.name adafactor" in found


def test_there_are_no_more_bands_than_rows() -> None:
    found = options(Situation(MemorySettings(), "cpu", rows=6))
    assert found[0] == "--memory.recompute blocks --memory.latitude_bands 6"
    assert not any("latitude_bands" in text for text in found[1:])


def test_the_part_that_ran_out_comes_first() -> None:
    now = Situation(MemorySettings(recompute="blocks"), "cpu")
    assert options(now, place="backbone")[:2] == ["--memory.window_bands 8", "--memory.latitude_bands 8"]
    assert options(now, place="decoder")[:2] == ["--memory.latitude_bands 8", "--memory.window_bands 8"]


def test_activations_do_not_matter_when_gradients_are_applied() -> None:
    found = options(Situation(MemorySettings(), "cuda", autocast=True), updating=True)
    assert found == ["--memory.offload optimizer", "--adapt.method lora", "--adapt.method qlora"]


def test_a_forecast_has_its_own() -> None:
    now = Situation(MemorySettings(latitude_bands=8), "cuda", autocast=True)
    found = [advice.options for advice in advise_forecast(now)]
    assert found == ["--memory.latitude_bands 32", "--memory.window_bands 8", "--memory.frozen_weights bf16"]


@pytest.mark.parametrize("device", ("cpu", "cuda"))
@pytest.mark.parametrize("updating", (False, True))
@pytest.mark.parametrize(
    ("memory", "others"),
    one_in(
        3,
        (
            ({}, []),
            ({}, ["--data.batch_size", "2"]),
            ({"recompute": "upstream"}, []),
            ({"recompute": "blocks", "offload": ["inputs"]}, []),
            ({"step_in_backward": True}, ["--optim.clip", "none"]),
            ({}, ["--rollout.steps", "2", "--rollout.graded", "all"]),
            ({"frozen_weights": "bf16"}, ["--adapt.method", "lora"]),
        ),
    ),
)
def test_all_advice_together_is_accepted(
    device: str, updating: bool, memory: dict[str, Any], others: list[str]
) -> None:
    """Each list taken up to any point, on top of the settings that it was given for."""
    if device == "cpu" and ("offload" in memory or "frozen_weights" in memory):
        pytest.skip("refused on a CPU to begin with")
    before = settled(memory, others)
    advice = advise(situation_of(before, torch.device(device)), updating=updating)
    parameters = {"weight": torch.nn.Parameter(torch.ones(2))}
    for words in itertools.accumulate((shlex.split(item.options) for item in advice), lambda a, b: [*a, *b]):
        after = settled(memory, [*others, *words])
        check_training_memory(after.memory, after.adapt.method, torch.device(device), autocast=device == "cuda")
        losses = len(after.rollout.loss_steps)
        optim = after.optim.resolved(after.adapt.method)
        check_updater(optim, after.memory, after.train.accumulate, losses)
        build_updater(parameters, optim, after.memory, steps=1)


def settled(memory: dict[str, Any], words: list[str]) -> Settings:
    """As the command line settles it; what is given again replaces what was given before."""
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            given.pop(word, None)
            given[word] = []
        else:
            given[[*given][-1]].append(word)
    arguments = [part for name, values in given.items() for part in (name, *values)]
    for name, value in memory.items():
        if f"--memory.{name}" not in given:
            text = ",".join(value) if isinstance(value, list) else str(value)
            arguments += [f"--memory.{name}"] if value is True else [f"--memory.{name}", text]
    return resolve(Settings, [command_line_layer(parse(Settings, arguments, "kit finetune"), Settings)])
