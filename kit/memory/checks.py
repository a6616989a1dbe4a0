"""Checks of memory settings: those that would do nothing, or not what they say."""

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
    half, recompute = memory.frozen_weights == "bf16", memory.recompute
    nothing, upstream = recompute == "none" and memory.latitude_bands == 1, recompute == "upstream"
    early = "step_in_backward" if memory.step_in_backward else "offload optimizer"
    blocks = "leave it out, or use --memory.recompute blocks"
    not_kept = f"has no effect where nothing is recomputed; {blocks} or --memory.latitude_bands"
    found = [
        (
            device.type == "cpu",
            (
                f"memory.offload {kept} needs a GPU: the run is on a CPU, whose memory is the host's; "
                "leave it out, or use --train.device cuda"
            ),
        )
        for kept in memory.offload
    ]
    found += [
        (
            half and not autocast,
            (
                "memory.frozen_weights bf16 is not exact here, because the forward pass runs in fp32; "
                "leave it out, or use --train.precision bf16"
            ),
        ),
        (
            half and method == "full",
            "memory.frozen_weights bf16 has no effect with adapt.method full, which freezes nothing; leave it out",
        ),
        (
            method == "adalora" and (memory.step_in_backward or "optimizer" in memory.offload),
            (
                f"memory.{early} frees or moves gradients before adapt.method adalora has read them, which scores its "
                "parts by them; leave it out, or use --adapt.method lora"
            ),
        ),
        (
            half and method == "qlora",
            "memory.frozen_weights bf16 has no effect with adapt.method qlora, which has them in 4 bits; leave it out",
        ),
        (
            memory.window_bands > 1 and recompute != "blocks",
            f"memory.window_bands {memory.window_bands} has no effect with memory.recompute {recompute}; {blocks}",
        ),
        (
            memory.stages is not None and recompute in ("none", "upstream"),
            f"memory.stages {memory.stages} has no effect with memory.recompute {recompute}; {blocks}",
        ),
        (nothing and memory.saved_inputs == "bf16", f"memory.saved_inputs bf16 {not_kept}"),
        (nothing and "inputs" in memory.offload, f"memory.offload inputs {not_kept}"),
        # Upstream's own recomputation runs encoder, decoder and blocks whole, through its own modules.
        (
            upstream and memory.latitude_bands > 1,
            f"memory.latitude_bands {memory.latitude_bands} has no effect with memory.recompute upstream; {blocks}",
        ),
        (upstream and memory.compile, f"memory.compile has no effect with memory.recompute upstream; {blocks}"),
    ]
    if problems := [problem for applies, problem in found if applies]:
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
