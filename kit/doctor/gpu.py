"""Driver and GPUs: whether PyTorch can use them, what each has and who uses it."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kit.doctor.diagnosis import Diagnosis, error, ok, warning
from kit.doctor.packages import Torch

T = TypeVar("T")
_GIB = 2**30
_BF16 = (8, 0)
"""Ampere: the first whose tensor cores take bf16 (NVIDIA, CUDA C++ Programming Guide, "Compute Capabilities")."""
_BUSY = 0.1
"""Part of the memory that others may hold without a word."""
_OLDEST = {12: 525, 13: 580}
"""Oldest driver branch for each major version of CUDA, whichever the minor one: NVIDIA's table of minor version
compatibility, docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, read 2026-11-21."""
_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_IN_CONTAINER = (
    "in a container, start it with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility, on a host that has the "
    "NVIDIA container toolkit"
)


@dataclass(frozen=True)
class Gpu:
    """One GPU, by the driver's words.

    Attributes:
        index: The driver's number of it.
        name: Name of the product.
        total: Bytes of memory.
        free: Bytes of it that nobody uses.
        capability: Compute capability, major and minor.
        processes: Number of processes that use it, this one not counted.
        mig: Whether it is cut into instances.
    """

    index: int
    name: str
    total: int
    free: int
    capability: tuple[int, int]
    processes: int = 0
    mig: bool = False


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, by the words of its own library.

    Attributes:
        version: Version such as ``580.65.06``; None where the library is not there or does not answer.
        cuda: Highest CUDA that it supports by itself, major and minor.
        trouble: Why the library does not answer.
        mismatch: Whether it does not because the kernel still runs another version's module.
        devices: GPUs by its count.
        nodes: Device files that are there in any case.
        visible: The variable that hides GPUs from CUDA; None where it is not set.
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
    except pynvml.NVMLError as failure:
        mismatch = failure.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        return Driver(trouble=str(failure), mismatch=mismatch, nodes=nodes, visible=visible)
    try:
        # 12080 stands for 12.8.
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        version = _text(pynvml.nvmlSystemGetDriverVersion())
        devices = tuple(_probe_gpus())
    except pynvml.NVMLError as failure:
        return Driver(trouble=str(failure), nodes=nodes, visible=visible)
    finally:
        pynvml.nvmlShutdown()
    return Driver(version, (cuda // 1000, cuda % 1000 // 10), nodes=nodes, visible=visible, devices=devices)


def _probe_gpus() -> Iterator[Gpu]:
    import pynvml

    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = _text(pynvml.nvmlDeviceGetName(handle))
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        users = _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        mig = _ask(pynvml.nvmlDeviceGetMigMode, handle) or [0]
        # This process is none of the others.
        processes = sum(user.pid != os.getpid() for user in users)
        capability = (int(major), int(minor))
        yield Gpu(index, name, int(memory.total), int(memory.free), capability, processes, bool(mig[0]))


def _text(value: str | bytes) -> str:
    """Return a name as text; older releases of the library's binding give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _ask(question: Callable[..., T], *arguments: Any) -> T | None:
    """Ask what not every GPU has an answer to; None stands for no answer."""
    import pynvml

    with suppress(pynvml.NVMLError):
        return question(*arguments)
    return None


def check_gpu(gpu: Gpu, architectures: Sequence[str]) -> list[Diagnosis]:
    """Decide what one GPU is good for.

    Args:
        gpu: GPU as the driver describes it.
        architectures: Architectures that PyTorch was compiled for, such as ``sm_90``; empty where they are not known.
    """
    name = f"gpu {gpu.index}"
    free, total, capability = round(gpu.free / _GIB, 2), round(gpu.total / _GIB, 2), "{}.{}".format(*gpu.capability)
    facts: dict[str, Any] = {
        "name": gpu.name,
        "memory_gib": total,
        "free_gib": free,
        "capability": capability,
        "bf16": gpu.capability >= _BF16,
        "mig": gpu.mig,
    }
    room = f"{free:g} of {total:g} GiB free"
    detail = f"{gpu.name}, {room}, compute capability {capability}{', MIG' if gpu.mig else ''}"
    if architectures and not has_kernels(gpu.capability, architectures):
        remedy = "use another GPU, or a PyTorch that was built for this one: CUDA 13 begins at 7.5 (Turing)"
        detail += f": the installed PyTorch has no kernels for it, only for {', '.join(architectures)}"
        return [error(name, detail, remedy, **facts, architectures=list(architectures))]
    found = []
    if not facts["bf16"]:
        fault = f"{gpu.name}: compute capability {capability} has no bf16, in which train.precision auto runs"
        remedy = "train with --train.precision fp32 (more memory, slower), or on Ampere (8.0) or newer"
        found.append(warning(name, fault, remedy, **facts))
    # A display or another program takes some in any case.
    if gpu.total - gpu.free > _BUSY * gpu.total:
        fault = f"{gpu.name}: {room}, the driver names {gpu.processes} other processes"
        remedy = "nvidia-smi lists who uses it; choose another GPU with CUDA_VISIBLE_DEVICES, or wait"
        found.append(warning(name, fault, remedy, **facts, processes=gpu.processes))
    if not found:
        found.append(ok(name, f"{detail}; kit plan --memory.fit {gpu.total // _GIB}GiB says what fits", **facts))
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


def check_driver(driver: Driver, torch: Torch) -> Diagnosis:
    """Decide whether PyTorch can use the GPUs, and if it cannot, why."""
    if driver.mismatch:
        remedy = "reboot: the driver was updated, and its old kernel module still runs"
        return error("driver", f"driver and kernel module differ ({driver.trouble})", remedy)
    if driver.version is None:
        return _check_no_driver(driver, torch)
    built = ".".join(torch.cuda.split(".")[:2]) if torch.cuda else None
    highest = "{}.{}".format(*driver.cuda) if driver.cuda else None
    facts = {"driver": driver.version, "driver_cuda": highest, "torch_cuda": built}
    detail = f"driver {driver.version}, CUDA up to {highest}"
    if not driver.devices:
        return warning("driver", f"{detail}, but no GPU", f"see whether nvidia-smi lists one; {_IN_CONTAINER}", **facts)
    # There is nothing to compare the driver with.
    if not torch.version:
        return ok("driver", detail, **facts)
    if built is None:
        detail += f"; {len(driver.devices)} GPU, but PyTorch {torch.version} is built without CUDA"
        remedy = "install what requirements.lock names: torch from the registry has CUDA, and torchvision needs it"
        return error("driver", detail, remedy, **facts)
    return _check_cuda(driver, torch, built, detail, facts)


def _check_cuda(driver: Driver, torch: Torch, built: str, detail: str, facts: dict[str, str | None]) -> Diagnosis:
    """Compare the driver with the CUDA that PyTorch was built for."""
    major, minor = map(int, built.split("."))
    have = driver.cuda or (0, 0)
    # Any driver of a branch serves all minor versions of its CUDA. Of a CUDA newer than the table only that is known.
    branch = _OLDEST.get(major)
    if branch is not None:
        old, needed, wanted = driver.branch < branch, str(branch), f">= {branch}"
    else:
        old, needed, wanted = have[0] < major, f"with CUDA {major}", f"with CUDA {major}"
    # Where PyTorch can use the GPU in spite of an old driver, it is believed.
    if torch.usable:
        note = f"{detail}; PyTorch {torch.version} (CUDA {built}) uses {torch.devices} GPU"
        if old:
            note += " through a forward compatibility package"
        return ok("driver", note, **facts)
    if old:
        detail = f"driver {driver.version} is too old for CUDA {built}, which PyTorch {torch.version} is built for"
        remedy = (
            f"CUDA {major} needs a driver {wanted}: install a driver of branch {needed} or newer on the host (a "
            "container uses the host's), then reboot"
        )
        return error("driver", detail, remedy, needs=branch, **facts)
    if driver.visible is not None and driver.visible.strip() in ("", "-1"):
        detail += f", but {_VISIBLE}={driver.visible!r} hides all {len(driver.devices)} GPU"
        return warning("driver", detail, f"unset {_VISIBLE}, or name a GPU in it, to train on one", **facts)
    # By minor version compatibility all works but intermediate code that is compiled at load.
    if have < (major, minor):
        detail += f" (built for {built}: kernels that are compiled at load do not work)"
    detail += f", but PyTorch {torch.version} cannot use the GPU: {torch.refusal or 'it gives no reason'}"
    remedy = _IN_CONTAINER
    if any(gpu.mig for gpu in driver.devices):
        remedy = "a GPU in MIG mode needs an instance, by name: nvidia-smi -L lists them"
    return error("driver", detail, f"{remedy}; see too that {_VISIBLE} names GPUs that exist", **facts)


def _check_no_driver(driver: Driver, torch: Torch) -> Diagnosis:
    """Judge a machine without a GPU, or a container that was not given it."""
    # A container can be given the device without the library.
    if driver.nodes:
        detail = f"{', '.join(driver.nodes)} exists, but the driver's library does not answer ({driver.trouble})"
        return error("driver", detail, f"{_IN_CONTAINER}; on a host, install the driver again", trouble=driver.trouble)
    built = torch.cuda or "13.0"
    needed = _OLDEST.get(int(built.split(".")[0]), max(_OLDEST.values()))
    detail = f"no NVIDIA driver ({driver.trouble}): runs are on the CPU, which suits the tiny model"
    remedy = f"Aurora itself needs a machine with a GPU, and a driver >= {needed} for CUDA {built}; {_IN_CONTAINER}"
    return warning("driver", detail, remedy, trouble=driver.trouble)
