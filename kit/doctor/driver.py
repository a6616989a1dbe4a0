"""The NVIDIA driver, and whether it serves the CUDA that the installed PyTorch was built for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kit.doctor.finding import Finding, error, ok, skipped, warning
from kit.doctor.gpu import Gpu, read_gpus
from kit.doctor.packages import Torch

__all__ = ["Driver", "check_driver", "no_gpu", "probe_driver"]

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
