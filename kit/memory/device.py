"""Device and precision of a step, and kernels that give the same result every time."""

import os
import resource
from typing import get_args

import torch

from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.models.variants import Precision, Variant


def choose_device(name: str) -> torch.device:
    """Find the device that a setting names.

    Args:
        name: ``auto`` for a GPU where there is one, ``cpu`` or ``cuda``.

    Raises:
        SettingsError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        msg = "train.device is cuda, but PyTorch finds no GPU; check the driver (nvidia-smi), or use --train.device cpu"
        raise SettingsError(msg)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def uses_autocast(precision: str, device: torch.device) -> bool:
    """Decide whether a training step's forward pass runs in bfloat16: ``auto`` means on a GPU."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def prediction_precision(
    wanted: str, variant: Variant, device: torch.device, memory: MemorySettings | None = None
) -> Precision:
    """Choose the precision of predictions, which is not that of training.

    Args:
        wanted: ``fp32``, ``bf16`` or ``fp16``, or ``auto`` for that in which upstream's class predicts on a GPU, and
            fp32 on a CPU.
        variant: Variant of the model.
        device: Device of the model.
        memory: Settings of memory: frozen weights that are kept in bf16 ask for bf16.

    Raises:
        SettingsError: there is no such precision.
    """
    if wanted not in ("auto", *get_args(Precision)):
        msg = f"precision: expected auto, {', '.join(get_args(Precision))}, got {wanted!r}"
        raise SettingsError(msg)
    if wanted != "auto":
        chosen: Precision = wanted  # type: ignore[assignment]
        return chosen
    if device.type != "cuda":
        return "fp32"
    if memory is not None and memory.frozen_weights == "bf16":
        return "bf16"
    return variant.own_precision


def make_deterministic(seed: int) -> None:
    """Seed PyTorch, and have it use deterministic kernels alone."""
    # cuBLAS is deterministic only with a fixed workspace (CUDA documentation, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def peak_memory_gib(device: torch.device) -> float:
    """Return the highest memory so far, GiB: of the GPU's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux counts the resident set in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
