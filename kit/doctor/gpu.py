"""Each GPU: what it has, who uses it, and whether the installed PyTorch has kernels for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from kit.doctor.finding import Finding, error, ok, warning

__all__ = ["Gpu", "check_gpu", "check_gpus", "has_kernels", "read_gpus"]

T = TypeVar("T")
_GIB = 2**30
_BF16 = (8, 0)
"""Ampere: the first whose tensor cores take bf16 (NVIDIA, CUDA C++ Programming Guide, "Compute Capabilities")."""
_BUSY = 0.1
"""Part of the memory that others may hold without a word."""


@dataclass(frozen=True)
class Gpu:
    """What the driver tells of one GPU.

    Attributes:
        index: the driver's.
        name: of the product.
        total: bytes of memory.
        free: bytes of it that nobody uses.
        capability: compute capability.
        processes: that use it, this one not counted.
        ecc: whether memory errors are corrected; None where it cannot say.
        ecc_errors: uncorrected memory errors since the driver was loaded.
        mig: whether it is cut into instances.
    """

    index: int
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    processes: int = 0
    ecc: bool | None = None
    ecc_errors: int = 0
    mig: bool = False


def read_gpus() -> tuple[Gpu, ...]:
    """Ask the driver's management library, which has been opened, for all GPUs."""
    import pynvml

    return tuple(_read(index) for index in range(pynvml.nvmlDeviceGetCount()))


def _read(index: int) -> Gpu:
    import os

    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    users = _try(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    ecc = _try(lambda: pynvml.nvmlDeviceGetEccMode(handle)[0])
    mig = _try(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    kind, counter = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    errors = _try(lambda: pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter)) if ecc else 0
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else name,
        int(memory.total),
        int(memory.free),
        (int(major), int(minor)),
        sum(user.pid != os.getpid() for user in users),
        None if ecc is None else bool(ecc),
        int(errors or 0),
        bool(mig),
    )


def _try(ask: Callable[[], T]) -> T | None:
    """What a GPU has no answer to is None."""
    import pynvml

    with suppress(pynvml.NVMLError):
        return ask()
    return None


def check_gpus(gpus: Sequence[Gpu], architectures: Sequence[str]) -> list[Finding]:
    """Look at each GPU, and at how they go together.

    Args:
        gpus: all of them.
        architectures: what PyTorch was compiled for, such as ``sm_90``; empty where that is not known.
    """
    found = [finding for gpu in gpus for finding in check_gpu(gpu, architectures)]
    kinds = sorted({gpu.name for gpu in gpus})
    if len(kinds) > 1:
        detail = f"{len(gpus)} GPUs of {len(kinds)} kinds: {', '.join(kinds)}"
        remedy = "a run on several waits for the slowest and fits by the smallest; choose with CUDA_VISIBLE_DEVICES"
        found.append(warning("gpus", detail, remedy, kinds=kinds))
    return found


def check_gpu(gpu: Gpu, architectures: Sequence[str]) -> list[Finding]:
    """Decide what one GPU is good for."""
    name = f"gpu {gpu.index}"
    facts: dict[str, Any] = {
        "name": gpu.name,
        "memory_gib": round(gpu.total / _GIB, 2),
        "free_gib": round(gpu.free / _GIB, 2),
        "capability": "{}.{}".format(*gpu.capability),
        "bf16": gpu.capability >= _BF16,
        "ecc": gpu.ecc,
        "mig": gpu.mig,
    }
    told = f"{gpu.name}, {facts['free_gib']:g} of {facts['memory_gib']:g} GiB free, compute capability "
    told += f"{facts['capability']}{', MIG' if gpu.mig else ''}"
    if architectures and not has_kernels(gpu.capability, architectures):
        remedy = "use another GPU, or a PyTorch that was built for this one: CUDA 13 begins at 7.5 (Turing)"
        detail = f"{told}: the installed PyTorch has no kernels for it, only for {', '.join(architectures)}"
        return [error(name, detail, remedy, **facts, architectures=list(architectures))]
    faults = list(_faults(name, gpu, facts))
    plan = f"; kit plan --memory.fit {gpu.total // _GIB}GiB says what fits"
    return faults or [ok(name, told + plan, **facts)]


def _faults(name: str, gpu: Gpu, facts: dict[str, Any]) -> Sequence[Finding]:
    found: list[Finding] = []
    if gpu.ecc_errors:
        detail = f"{gpu.name}: {gpu.ecc_errors} uncorrected memory errors since the driver was loaded"
        remedy = "reset the GPU or reboot, and have it looked at if they come back: results cannot be trusted"
        found.append(warning(name, detail, remedy, **facts, ecc_errors=gpu.ecc_errors))
    if not facts["bf16"]:
        detail = f"{gpu.name}: compute capability {facts['capability']} has no bf16, in which train.precision auto runs"
        remedy = "train with --train.precision fp32 (more memory, slower), or on Ampere (8.0) or newer"
        found.append(warning(name, detail, remedy, **facts))
    if gpu.total - gpu.free > _BUSY * gpu.total:
        left = f"{facts['free_gib']:g} of {facts['memory_gib']:g} GiB free"
        detail = f"{gpu.name}: {left}, the driver names {gpu.processes} other processes"
        remedy = "nvidia-smi lists who uses it; choose another GPU with CUDA_VISIBLE_DEVICES, or wait"
        found.append(warning(name, detail, remedy, **facts, processes=gpu.processes))
    return found


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code that was compiled for these architectures runs on a GPU.

    Binary code (``sm_86``) runs on its own major version from its minor version on; code for one architecture alone
    (``sm_90a``) only there; intermediate code (``compute_90``) on all that came later, compiled at load. NVIDIA, CUDA
    C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        if match[1] == "compute":
            fits = not match[4] and built <= capability
        elif match[4] == "a":
            fits = built == capability
        else:
            fits = built[0] == capability[0] and built[1] <= capability[1]
        if fits:
            return True
    return False
