"""The host: memory, processor time, threads."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from kit.doctor.diagnosis import Diagnosis, error, ok, warning

_GIB = 2**30
_GROUP = Path("/sys/fs/cgroup")
_TINY = 2 * _GIB
"""Host memory below which not even the default run ends well: it peaks at about 1.5 GiB on a CPU."""
_LARGE = 16 * _GIB
"""Host memory below which the 1.3 B model is not loaded: 5 GiB of weights, and as much again on their way."""


@dataclass(frozen=True)
class Host:
    """What the host has for this process.

    Attributes:
        memory: Bytes of the whole host.
        available: Bytes that this process can still have, its container's and its own limits included.
        swap: Bytes of swap.
        cores: Number of processors that it may run on.
        quota: Processors' worth of time that its container gets; None without a limit.
        threads: Number of threads that PyTorch uses, or would.
        threads_set: ``OMP_NUM_THREADS``, where it is set.
    """

    memory: int = 32 * _GIB
    available: int = 32 * _GIB
    swap: int = 0
    cores: int = 4
    quota: float | None = None
    threads: int = 4
    threads_set: str | None = None


def probe_host(threads: int) -> Host:
    """Look at the host.

    Args:
        threads: Number of threads that PyTorch uses; 0 where it cannot be imported.
    """
    memory = psutil.virtual_memory()
    available = memory.available
    if threads:
        # It imports PyTorch.
        from kit.memory.host_memory import host_available

        available = host_available()
    # A batch system gives a job some of the processors only; macOS cannot say which.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Host(
        memory=memory.total,
        available=available,
        swap=psutil.swap_memory().total,
        cores=cores,
        quota=read_quota(_GROUP),
        threads=threads or cores,
        threads_set=os.environ.get("OMP_NUM_THREADS"),
    )


def read_quota(group: Path) -> float | None:
    """Read processors' worth of time from a control group, version 2 or 1; None without a limit."""
    version_2, version_1 = group / "cpu.max", group / "cpu"
    if version_2.is_file():
        limit, period = version_2.read_text(encoding="ascii").split()
    elif (version_1 / "cpu.cfs_quota_us").is_file():
        limit = (version_1 / "cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (version_1 / "cpu.cfs_period_us").read_text(encoding="ascii")
    else:
        return None
    # No limit is "max" in version 2, and -1 in version 1.
    if limit == "max" or int(limit) <= 0:
        return None
    return int(limit) / int(period)


def check_host(host: Host, workers: int) -> list[Diagnosis]:
    """Decide what the host is good for.

    Args:
        host: Memory and processors that there are.
        workers: Number of processes that would read data.
    """
    return [_check_memory(host), _check_threads(host, workers)]


def _check_memory(host: Host) -> Diagnosis:
    facts = {
        "total_gib": round(host.memory / _GIB, 2),
        "available_gib": round(host.available / _GIB, 2),
        "swap_gib": round(host.swap / _GIB, 2),
    }
    detail = f"{facts['available_gib']:g} of {facts['total_gib']:g} GiB to be had, swap {facts['swap_gib']:g}"
    remedy = "end other processes, or raise the container's limit (docker run --memory, SLURM's --mem)"
    if host.available < _TINY:
        return error("memory", f"{detail}: not even the tiny model's run has room", remedy, **facts)
    if host.available < _LARGE:
        detail += ": too little to load the 1.3 B model (5 GB in fp32, twice)"
        return warning("memory", detail, f"{remedy}; kit plan says how much of the host a run needs", **facts)
    return ok("memory", detail, **facts)


def _check_threads(host: Host, workers: int) -> Diagnosis:
    # Threads beyond a container's share of time wait for each other, however many cores the host has.
    room = min(host.cores, host.quota or host.cores)
    whole = max(1, int(room))
    facts = {"threads": host.threads, "cores": host.cores, "quota": host.quota, "workers": workers}
    detail = f"{host.threads} threads on {host.cores} cores"
    if host.quota is not None:
        detail += f", of whose time the container gets {host.quota:g}"
    if host.threads > room:
        return warning("threads", f"{detail}: threads wait for each other", f"set OMP_NUM_THREADS={whole}", **facts)
    if workers and host.threads + workers > room:
        remedy = f"set OMP_NUM_THREADS={max(1, whole - workers)}, or fewer data.workers"
        return warning("threads", f"{detail}, and {workers} data.workers beside them", remedy, **facts)
    if host.threads_set:
        detail += f" (OMP_NUM_THREADS={host.threads_set})"
    return ok("threads", detail, **facts)
