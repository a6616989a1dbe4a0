"""Each GPU: what it has, who uses it, and whether the installed PyTorch has kernels for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kit.doctor.finding import Finding, error, ok, skipped, warning
from kit.doctor.packages import Torch

__all__ = [
    "Driver",
    "Gpu",
    "check_driver",
    "check_gpu",
    "check_gpus",
    "has_kernels",
    "no_gpu",
    "probe_driver",
    "read_gpus",
]

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


# The NVIDIA driver, and whether it serves the CUDA that the installed PyTorch was built for.

_OLDEST = {12: 525, 13: 580}
"""Oldest driver branch for each major version of CUDA, whichever the minor one: NVIDIA's table of minor version
compatibility, docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, read 2026-11-21."""
_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_UPDATE = "install a driver of branch {branch} or newer on the host (a container uses the host's), then reboot"
_IN_CONTAINER = (
    "in a container, start it with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility, on a host that has the "
    "NVIDIA container toolkit"
)


@dataclass(frozen=True)
class Driver:
    """What the driver's own library tells.

    Attributes:
        version: of the driver, such as ``580.65.06``; None where the library is not there or does not answer.
        cuda: highest CUDA that it supports by itself, major and minor.
        trouble: why the library does not answer.
        mismatch: whether it does not because the kernel still runs another version's module.
        devices: GPUs by its count.
        nodes: device files that are there in any case.
        visible: the variable that hides GPUs from CUDA; None where it is not set.
    """

    version: str | None = None
    cuda: tuple[int, int] | None = None
    trouble: str = ""
    mismatch: bool = False
    devices: tuple[Gpu, ...] = ()
    nodes: tuple[str, ...] = ()
    visible: str | None = None

    @property
    def branch(self) -> int:
        """The part of the version that says what it can: 580."""
        return int((self.version or "0").partition(".")[0])


def probe_driver() -> Driver:
    """Ask the driver's management library."""
    import pynvml

    nodes = tuple(node for node in _NODES if Path(node).exists())
    visible = os.environ.get(_VISIBLE)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as trouble:
        mismatch = trouble.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        return Driver(trouble=str(trouble), mismatch=mismatch, nodes=nodes, visible=visible)
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        version = _text(pynvml.nvmlSystemGetDriverVersion())
        found = Driver(version, (cuda // 1000, cuda % 1000 // 10), nodes=nodes, visible=visible, devices=read_gpus())
    except pynvml.NVMLError as trouble:
        return Driver(trouble=str(trouble), nodes=nodes, visible=visible)
    finally:
        pynvml.nvmlShutdown()
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def check_driver(driver: Driver, torch: Torch) -> list[Finding]:
    """Decide whether PyTorch can use the GPUs, and if it cannot, why."""
    name = "driver"
    if driver.mismatch:
        remedy = "reboot: the driver was updated, and its old kernel module still runs"
        return [error(name, f"driver and kernel module differ ({driver.trouble})", remedy)]
    if driver.version is None:
        return [_absent(driver, torch)]
    built = ".".join(torch.cuda.split(".")[:2]) if torch.cuda else None
    facts = {"driver": driver.version, "driver_cuda": _dotted(driver.cuda), "torch_cuda": built}
    told = f"driver {driver.version}, CUDA up to {_dotted(driver.cuda)}"
    if not driver.devices:
        return [warning(name, f"{told}, but no GPU", f"see whether nvidia-smi lists one; {_IN_CONTAINER}", **facts)]
    if not torch.version:
        return [ok(name, told, **facts)]
    if built is None:
        detail = f"{told}; {len(driver.devices)} GPU, but PyTorch {torch.version} is built without CUDA"
        remedy = "install what requirements.lock names: torch from the registry has CUDA, and torchvision needs it"
        return [error(name, detail, remedy, **facts)]
    return [_against(driver, torch, told, facts)]


def _against(driver: Driver, torch: Torch, told: str, facts: dict[str, str | None]) -> Finding:
    """Compare the driver with the CUDA that PyTorch was built for."""
    name, built = "driver", str(facts["torch_cuda"])
    major, minor = (int(part) for part in built.split("."))
    needed = _OLDEST.get(major)
    have = driver.cuda or (0, 0)
    old = driver.branch < needed if needed else have[0] < major
    if torch.usable:
        note = f"{told}; PyTorch {torch.version} (CUDA {built}) uses {torch.devices} GPU"
        note += " through a forward compatibility package" if old else ""
        return ok(name, note, **facts)
    if old:
        wanted = f">= {needed}" if needed else f"with CUDA {major}"
        detail = f"driver {driver.version} is too old for CUDA {built}, which PyTorch {torch.version} is built for"
        remedy = f"CUDA {major} needs a driver {wanted}: {_UPDATE.format(branch=needed or f'with CUDA {major}')}"
        return error(name, detail, remedy, needs=needed, **facts)
    if driver.visible is not None and driver.visible.strip() in ("", "-1"):
        detail = f"{told}, but {_VISIBLE}={driver.visible!r} hides all {len(driver.devices)} GPU"
        return warning(name, detail, f"unset {_VISIBLE}, or name a GPU in it, to train on one", **facts)
    less = f" (built for {built}: kernels that are compiled at load do not work)" if have < (major, minor) else ""
    detail = f"{told}{less}, but PyTorch {torch.version} cannot use the GPU: {torch.refusal or 'it gives no reason'}"
    mig = any(gpu.mig for gpu in driver.devices)
    remedy = "a GPU in MIG mode needs an instance, by name: nvidia-smi -L lists them" if mig else _IN_CONTAINER
    return error(name, detail, f"{remedy}; see too that {_VISIBLE} names GPUs that exist", **facts)


def _absent(driver: Driver, torch: Torch) -> Finding:
    """No driver library: a machine without a GPU, or a container that was not given it."""
    built = torch.cuda or "13.0"
    needed = _OLDEST.get(int(built.split(".")[0]), max(_OLDEST.values()))
    if driver.nodes:
        detail = f"{', '.join(driver.nodes)} exists, but the driver's library does not answer ({driver.trouble})"
        return error("driver", detail, f"{_IN_CONTAINER}; on a host, install the driver again", trouble=driver.trouble)
    detail = f"no NVIDIA driver ({driver.trouble}): runs are on the CPU, which suits the tiny model"
    remedy = f"Aurora itself needs a machine with a GPU, and a driver >= {needed} for CUDA {built}; {_IN_CONTAINER}"
    return warning("driver", detail, remedy, trouble=driver.trouble)


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"


def no_gpu(driver: Driver) -> Finding:
    """What stands for the findings on GPUs where there is none."""
    return skipped("gpu", "no GPU that can be looked at" if driver.version else "no driver")
