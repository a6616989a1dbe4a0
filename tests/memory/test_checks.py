"""Settings of memory that would do nothing are refused, each with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit.io.errors import SettingsError
from kit.memory.checks import check_training_memory
from kit.memory.settings import MemorySettings


def check(settings: dict[str, Any], *, method: str = "lora", device: str = "cuda", autocast: bool = True) -> None:
    memory = MemorySettings.model_validate(settings)
    check_training_memory(memory, method, torch.device(device), autocast=autocast)


@pytest.mark.parametrize(
    "settings",
    (
        {},
        {"latitude_bands": 4},
        {"latitude_bands": 4, "window_bands": 2, "recompute": "blocks", "compile": True},
        {"latitude_bands": 4, "saved_inputs": "bf16", "offload": ("inputs",)},
        {"recompute": "selective", "saved_inputs": "bf16"},
        {"recompute": "upstream", "offload": ("inputs", "optimizer")},
        {"frozen_weights": "bf16"},
        {"step_in_backward": True, "compile": True},
    ),
)
def test_settings_with_an_effect_pass(settings: dict[str, Any]) -> None:
    check(settings)


@pytest.mark.parametrize(
    ("settings", "conditions", "message"),
    (
        ({"offload": ("optimizer",)}, {"device": "cpu"}, r"memory.offload optimizer needs a GPU"),
        (
            {"offload": ("inputs",), "recompute": "blocks"},
            {"device": "cpu"},
            r"memory.offload inputs needs a GPU.*--train.device cuda",
        ),
        (
            {"frozen_weights": "bf16"},
            {"autocast": False},
            r"memory.frozen_weights bf16 is not exact here, because the forward pass runs in fp32; .*precision bf16",
        ),
        ({"frozen_weights": "bf16"}, {"method": "full"}, r"no effect with adapt.method full, which freezes nothing"),
        ({"frozen_weights": "bf16"}, {"method": "qlora"}, r"no effect with adapt.method qlora, which has them in 4"),
        ({"step_in_backward": True}, {"method": "adalora"}, r"memory.step_in_backward frees .* has read them"),
        ({"offload": ("optimizer",)}, {"method": "adalora"}, r"memory.offload optimizer frees .* adapt.method adalora"),
        ({"stages": 1}, {}, r"memory.stages 1 has no effect with memory.recompute none; .*blocks"),
        ({"window_bands": 2}, {}, r"memory.window_bands 2 has no effect with memory.recompute none; .*blocks"),
        ({"window_bands": 2, "recompute": "upstream"}, {}, r"window_bands 2 has no effect with memory.recompute upst"),
        ({"saved_inputs": "bf16"}, {}, r"memory.saved_inputs bf16 has no effect where nothing is recomputed"),
        ({"offload": ("inputs",)}, {}, r"memory.offload inputs has no effect where nothing is recomputed"),
        ({"latitude_bands": 2, "recompute": "upstream"}, {}, r"latitude_bands 2 has no effect with memory.recompute u"),
        ({"compile": True, "recompute": "upstream"}, {}, r"memory.compile has no effect with memory.recompute upstrea"),
    ),
)
def test_settings_without_effect_are_refused(
    settings: dict[str, Any], conditions: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check(settings, **conditions)


def test_all_of_them_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"offload inputs needs a GPU.*window_bands 3 has.*offload inputs has no"):
        check({"offload": ("inputs",), "window_bands": 3}, device="cpu")
