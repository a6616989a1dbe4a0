"""Checks of memory settings: those that would do nothing, or not what they say."""

from collections.abc import Iterator

import torch

from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings

# What changes how a forecast runs; the rest is about gradients, or about training as a whole.
_OF_FORECASTS = ("latitude_bands", "window_bands", "frozen_weights", "compile")


def check_training_memory(memory: MemorySettings, method: str, device: torch.device, *, autocast: bool) -> None:
    """Check that every setting has an effect where it is used.

    For runs, not for plans: those are made on a CPU for a GPU.

    Args:
        memory: Settings of memory.
        method: Method of adaptation, ``adapt.method``.
        device: Device that the run will use.
        autocast: Whether the forward pass runs in bf16.

    Raises:
        SettingsError: names every such setting, and what to do.
    """
    problems = [*_of_run(memory, method, device, autocast=autocast), *_of_recompute(memory)]
    if problems:
        raise SettingsError("; ".join(problems))


def check_forecast_memory(memory: MemorySettings, *, autocast: bool) -> None:
    """Check that every setting has an effect in a forecast.

    Args:
        memory: Settings of memory.
        autocast: Whether the forward pass runs in bf16.

    Raises:
        SettingsError: names every such setting, and what to do.
    """
    problems = [
        f"memory.{name} has no effect in a forecast; leave it out ({', '.join(_OF_FORECASTS)} have one)"
        for name, field in MemorySettings.model_fields.items()
        if name not in _OF_FORECASTS and getattr(memory, name) != field.default
    ]
    if memory.frozen_weights == "bf16" and not autocast:
        problems.append(
            "memory.frozen_weights bf16 is not exact here, because the forward pass runs in fp32; "
            "leave it out, or use --precision bf16"
        )
    if problems:
        raise SettingsError("; ".join(problems))


def _of_run(memory: MemorySettings, method: str, device: torch.device, *, autocast: bool) -> Iterator[str]:
    for kept in memory.offload:
        if device.type == "cpu":
            yield (
                f"memory.offload {kept} needs a GPU: the run is on a CPU, whose memory is the host's; "
                "leave it out, or use --train.device cuda"
            )
    if memory.frozen_weights == "bf16" and not autocast:
        yield (
            "memory.frozen_weights bf16 is not exact here, because the forward pass runs in fp32; "
            "leave it out, or use --train.precision bf16"
        )
    if memory.frozen_weights == "bf16" and method == "full":
        yield "memory.frozen_weights bf16 has no effect with adapt.method full, which freezes nothing; leave it out"
    if method == "adalora" and (memory.step_in_backward or "optimizer" in memory.offload):
        given = "step_in_backward" if memory.step_in_backward else "offload optimizer"
        yield (
            f"memory.{given} frees or moves gradients before adapt.method adalora has read them, which scores its "
            "parts by them; leave it out, or use --adapt.method lora"
        )
    if memory.frozen_weights == "bf16" and method == "qlora":
        yield "memory.frozen_weights bf16 has no effect with adapt.method qlora, which has them in 4 bits; leave it out"


def _of_recompute(memory: MemorySettings) -> Iterator[str]:
    recompute = memory.recompute
    if memory.window_bands > 1 and recompute != "blocks":
        yield (
            f"memory.window_bands {memory.window_bands} has no effect with memory.recompute {recompute}; "
            "leave it out, or use --memory.recompute blocks"
        )
    if memory.stages is not None and recompute in ("none", "upstream"):
        yield (
            f"memory.stages {memory.stages} has no effect with memory.recompute {recompute}; "
            "leave it out, or use --memory.recompute blocks"
        )
    about_inputs = []
    if memory.saved_inputs == "bf16":
        about_inputs.append("memory.saved_inputs bf16")
    if "inputs" in memory.offload:
        about_inputs.append("memory.offload inputs")
    if recompute == "none" and memory.latitude_bands == 1:
        for setting in about_inputs:
            yield (
                f"{setting} has no effect where nothing is recomputed; leave it out, or use --memory.recompute blocks "
                "or --memory.latitude_bands"
            )
    # Upstream's own recomputation runs encoder, decoder and blocks whole, through its own modules.
    unused = []
    if memory.latitude_bands > 1:
        unused.append(f"memory.latitude_bands {memory.latitude_bands}")
    if memory.compile:
        unused.append("memory.compile")
    if recompute == "upstream":
        for setting in unused:
            yield (
                f"{setting} has no effect with memory.recompute upstream; "
                "leave it out, or use --memory.recompute blocks"
            )
