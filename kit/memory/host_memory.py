"""Host memory that stands in for the device's: allocated here, so that it can be counted apart, and how much is left.

A step is planned on the CPU, where the device's tensors and the host's look the same. What is allocated here is the
host's, and ``is_host`` says so of its storage, whether it is real or fake.
"""

import math
import resource
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import psutil
import torch
from torch.utils.weak import WeakIdKeyDictionary

_storages = WeakIdKeyDictionary()
_allocating: ContextVar[bool] = ContextVar("allocating_host", default=False)

# Bytes of a slab: four times Aurora's largest parameter, so that little of one stays empty.
_SLAB = 2**28
# Bytes to a multiple of which tensors begin inside a slab: a cache line.
_ALIGNED = 64


def empty_host(shape: Sequence[int], dtype: torch.dtype, *, pin: bool = False) -> torch.Tensor:
    """Allocate host memory, uninitialised.

    Args:
        shape: Shape of the tensor.
        dtype: Type of the tensor.
        pin: Whether it is page-locked, so that a GPU copies to and from it while it computes; needs one. PyTorch
            rounds each such allocation up to a power of two bytes, and keeps it for the next one of that size.
    """
    token = _allocating.set(True)
    try:
        return mark_host(torch.empty(tuple(shape), dtype=dtype, device="cpu", pin_memory=pin))
    finally:
        _allocating.reset(token)


def empty_hosts(shapes: Sequence[Sequence[int]], dtype: torch.dtype, *, pin: bool = False) -> list[torch.Tensor]:
    """Allocate many tensors that live as long as each other.

    They share slabs, because pinned memory is rounded up to a power of two: a slab is nearly one, a parameter is not.
    """
    step = _ALIGNED // dtype.itemsize
    sizes = [-(-math.prod(shape) // step) * step for shape in shapes]
    slabs: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not slabs or size > room:
            slabs.append([])
            room = _SLAB // dtype.itemsize
        slabs[-1].append(index)
        room -= size
    found: list[torch.Tensor] = []
    for members in slabs:
        own = [sizes[index] for index in members]
        slab = empty_host([sum(own)], dtype, pin=pin)
        for index, part in zip(members, torch.split(slab, own), strict=True):
            shape = tuple(shapes[index])
            found.append(part[: math.prod(shape)].view(shape))
    return found


def mark_host(tensor: torch.Tensor) -> torch.Tensor:
    """Count a tensor that was allocated elsewhere as the host's."""
    _storages[tensor.untyped_storage()] = True
    return tensor


def is_host(storage: torch.UntypedStorage) -> bool:
    """Decide whether a storage was allocated here, or marked; a view's is its base's."""
    return storage in _storages


def allocating_host() -> bool:
    """Decide whether the tensor that is being made right now will be the host's: for counters of operations."""
    return _allocating.get()


# How much memory there is to be had: of a GPU, or of the host within the limits that this process has.

_GROUP = Path("/sys/fs/cgroup")
_PAGES = Path("/proc/self/statm")
# Limit, use and statistics of the control group at the root of what this process sees, which is a container's own:
# version 2, and version 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available(device: torch.device) -> int:
    """Count the bytes that this process can still have on a device.

    Those that PyTorch holds there and does not use are included.
    """
    if device.type != "cuda":
        return host_available()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def host_available() -> int:
    """Count the bytes of the host that this process can still have.

    The least of what is free, what its container may use, and its own limit.
    """
    left: list[int] = [psutil.virtual_memory().available]
    for limit, used, statistics in _GROUP_FILES:
        most = _read(_GROUP / limit)
        if most.isdigit():
            # Cached files count as used, and go when memory is needed.
            words = _read(_GROUP / statistics).split()
            cached = dict(zip(words[::2], words[1::2], strict=False)).get("inactive_file", "0")
            left.append(int(most) - int(_read(_GROUP / used) or 0) + int(cached))
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(_PAGES).split()
    if addresses != resource.RLIM_INFINITY and pages:
        left.append(addresses - int(pages[0]) * resource.getpagesize())
    return max(min(left), 0)


def _read(path: Path) -> str:
    """Read a file of the system; empty where it does not exist."""
    return path.read_text(encoding="ascii").strip() if path.exists() else ""
