"""What ``memory.fit`` chooses, and what it says when nothing will do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.planning.fit import RESERVE_GIB, MemoryEstimator, candidates, choose_memory, fit
from kit.planning.settings import PlanSettings
from kit.planning.trace import trace
from kit.planning.workload import Workload, workload_of
from kit.settings import Settings

GIB = 2**30
NARROW = {
    "embed_dim": 32,
    "num_heads": 4,
    "encoder_depths": (3, 4),
    "encoder_num_heads": (4, 8),
    "decoder_depths": (4, 3),
    "decoder_num_heads": (8, 4),
    "window_size": (2, 4, 4),
}


def asked(fit: str | None = None, **sections: Any) -> PlanSettings:
    memory = {} if fit is None else {"fit": fit}
    return PlanSettings.model_validate({"grid": "32x64", "model": {"variant": "small"}, "memory": memory, **sections})


def narrow(settings: PlanSettings) -> Workload:
    workload = workload_of(settings)
    return dataclasses.replace(workload, spec=dataclasses.replace(workload.spec, arguments=NARROW))


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"recompute": "selective", "latitude_bands": 4}, marks=pytest.mark.slow),
        pytest.param({"recompute": "blocks", "latitude_bands": 4, "window_bands": 2}, marks=pytest.mark.slow),
        pytest.param(
            {"recompute": "blocks", "latitude_bands": 4, "window_bands": 2, "offload": ("inputs",)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_short_traces_foresee_the_peak(memory: dict[str, Any]) -> None:
    settings = asked()
    workload, chosen = narrow(settings), MemorySettings(**memory)
    whole = trace(settings.model_copy(update={"memory": chosen}), workload)
    assert MemoryEstimator(settings, workload).estimate_peak(chosen) == pytest.approx(whole.peak.bytes, rel=0.1)


@pytest.mark.slow
def test_takes_the_first_candidate_that_fits() -> None:
    workload = narrow(asked())
    most = trace(asked(), workload).peak.bytes / GIB
    limit = 0.7 * most
    fitted = fit(asked(f"{RESERVE_GIB + limit:.5f}GiB"), workload)
    assert fitted.memory in candidates(asked(), workload)[1:]
    assert fitted.trace.peak.bytes / GIB <= limit


@pytest.mark.slow
def test_plenty_of_memory_changes_nothing() -> None:
    fitted = fit(asked("80GiB"), narrow(asked()))
    assert fitted.memory == MemorySettings()
    assert str(fitted).startswith("nothing to save: a peak of 0.")


@pytest.mark.slow
def test_what_cannot_fit_says_what_is_missing() -> None:
    with pytest.raises(
        SettingsError, match=r"memory.fit 1.001GiB: the least that exact settings need is 1\.\d GiB.*What is left: --"
    ):
        fit(asked("1.001GiB"), narrow(asked()))


def test_refuses_a_setting_that_it_chooses() -> None:
    settings = asked(memory={"fit": "8GiB", "window_bands": 3})
    with pytest.raises(SettingsError, match=r"memory.window_bands and memory.fit were both given"):
        fit(settings, narrow(asked()))


def test_keeps_what_is_the_users() -> None:
    settings = asked(memory={"fit": "80GiB", "saved_inputs": "bf16"})
    assert all(memory.saved_inputs == "bf16" for memory in candidates(settings, narrow(asked())))


def test_frozen_weights_are_halved_where_that_is_exact() -> None:
    workload = narrow(asked())

    def frozen(**sections: Any) -> set[str]:
        return {memory.frozen_weights for memory in candidates(asked("8GiB", **sections), workload)}

    assert frozen(adapt={"method": "lora"}) == {"bf16"}
    assert frozen(adapt={"method": "lora"}, train={"precision": "fp32"}) == {"fp32"}
    assert frozen() == {"fp32"}
    # Predictions are in bf16 where somebody asks for it.
    assert frozen(forecast=True) == {"fp32"}
    assert frozen(forecast=True, train={"precision": "bf16"}) == {"bf16"}


def test_a_cpu_has_no_host_to_offload_to() -> None:
    workload = narrow(asked())
    assert any(memory.offload for memory in candidates(asked("8GiB"), workload))
    assert not any(memory.offload for memory in candidates(asked("8GiB", train={"device": "cpu"}), workload))


@pytest.mark.slow
def test_a_run_gets_settings_and_no_fit() -> None:
    settings = Settings.model_validate({"memory": {"fit": "60GiB"}})
    settled, fitted = choose_memory(settings, torch.device("cpu"))
    assert settled.memory == MemorySettings()
    assert fitted is not None
    assert choose_memory(settled, torch.device("cpu")) == (settled, None)
