"""Device and precision of a step, and kernels that give the same result every time."""

import os
import resource

import torch

from kit.io.errors import SettingsError


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
    """Decide whether the forward pass runs in bfloat16: ``auto`` means on a GPU."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


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
