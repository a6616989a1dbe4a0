"""How much memory there is to be had: of a GPU, or of the host within the limits that this process has."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

__all__ = ["available", "host_available"]

_GROUP = Path("/sys/fs/cgroup")
_PAGES = Path("/proc/self/statm")


def available(device: torch.device) -> int:
    """Bytes that this process can still have on a device, those that PyTorch holds there and does not use included."""
    if device.type != "cuda":
        return host_available()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def host_available() -> int:
    """Bytes of the host that this process can still have: what is free, what its container may use, its own limit."""
    free: int = psutil.virtual_memory().available
    return max(min([free, *_left_in_container(), *_left_of_addresses()]), 0)


def _left_in_container() -> Iterator[int]:
    """By the control group at the root of what this process sees, version 2 or 1, which is a container's own."""
    for limit, used, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        most = _read(_GROUP / limit)
        if not most.isdigit():
            continue
        # Cached files count as used, and go when memory is needed.
        words = _read(_GROUP / statistics).split()
        cached = dict(zip(words[::2], words[1::2], strict=False)).get("inactive_file", "0")
        yield int(most) - int(_read(_GROUP / used) or 0) + int(cached)


def _left_of_addresses() -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _read(_PAGES).split()
    if limit != resource.RLIM_INFINITY and used:
        yield limit - int(used[0]) * resource.getpagesize()


def _read(path: Path) -> str:
    """Contents of a file of the system; empty where it does not exist."""
    return path.read_text(encoding="ascii").strip() if path.exists() else ""
