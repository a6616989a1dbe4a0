"""The host: memory, processor time, threads, open files, time zone, encoding."""

from __future__ import annotations

import locale
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psutil

from kit.doctor.finding import Finding, error, ok, warning

__all__ = ["Host", "check_host", "probe_host"]

_GIB = 2**30
_GROUP = Path("/sys/fs/cgroup")
_TINY = 2 * _GIB
"""Host memory below which not even the default run ends well: it peaks at about 1.5 GiB on a CPU."""
_LARGE = 16 * _GIB
"""Host memory below which the 1.3 B model is not loaded: 5 GiB of weights, and as much again on their way."""
_FILES = 1024


@dataclass(frozen=True)
class Host:
    """What the host has for this process.

    Attributes:
        memory: bytes of the whole host.
        available: bytes that this process can still have, its container's and its own limits included.
        swap: bytes of swap.
        cores: processors that it may run on.
        quota: processors' worth of time that its container gets; None without a limit.
        threads: that PyTorch uses, or would.
        threads_set: ``OMP_NUM_THREADS``, where it is set.
        files: how many it may hold open.
        zone: ``TZ``, where it is set.
        zone_known: whether the system knows that zone.
        encoding: of text files and of file names.
    """

    memory: int = 32 * _GIB
    available: int = 32 * _GIB
    swap: int = 0
    cores: int = 4
    quota: float | None = None
    threads: int = 4
    threads_set: str | None = None
    files: int = 65536
    zone: str | None = None
    zone_known: bool = True
    encoding: tuple[str, str] = ("utf-8", "utf-8")


def probe_host(threads: int) -> Host:
    """Look at the host.

    Args:
        threads: that PyTorch uses; 0 where it cannot be imported.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    zone = os.environ.get("TZ")
    return Host(
        memory=psutil.virtual_memory().total,
        available=_available() if threads else psutil.virtual_memory().available,
        swap=psutil.swap_memory().total,
        cores=cores,
        quota=read_quota(_GROUP),
        threads=threads or cores,
        threads_set=os.environ.get("OMP_NUM_THREADS"),
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        zone=zone,
        zone_known=_known(zone),
        encoding=(locale.getpreferredencoding(False), sys.getfilesystemencoding()),
    )


def _available() -> int:
    from kit.memory.host_memory import host_available

    return host_available()


def read_quota(group: Path) -> float | None:
    """Processors' worth of time by a control group, version 2 or 1; None without a limit."""
    newer = group / "cpu.max"
    if newer.is_file():
        limit, period = newer.read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    older = group / "cpu"
    if (older / "cpu.cfs_quota_us").is_file():
        limit = (older / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
        period = (older / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        return None if int(limit) <= 0 else int(limit) / int(period)
    return None


def _known(zone: str | None) -> bool:
    if not zone:
        return True
    try:
        ZoneInfo(zone.removeprefix(":"))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A rule such as CET-1CEST needs no database.
        return any(letter.isdigit() for letter in zone)
    return True


def check_host(host: Host, workers: int) -> list[Finding]:
    """Decide what the host is good for.

    Args:
        host: what it has.
        workers: processes that would read data.
    """
    return [*_memory(host), *_threads(host, workers), *_files(host), *_text(host)]


def _memory(host: Host) -> Iterator[Finding]:
    gib = {"total_gib": host.memory / _GIB, "available_gib": host.available / _GIB, "swap_gib": host.swap / _GIB}
    facts = {name: round(value, 2) for name, value in gib.items()}
    told = f"{facts['available_gib']:g} of {facts['total_gib']:g} GiB to be had, swap {facts['swap_gib']:g}"
    remedy = "end other processes, or raise the container's limit (docker run --memory, SLURM's --mem)"
    if host.available < _TINY:
        yield error("memory", f"{told}: not even the tiny model's run has room", remedy, **facts)
    elif host.available < _LARGE:
        more = f"{remedy}; kit plan says how much of the host a run needs"
        yield warning("memory", f"{told}: too little to load the 1.3 B model (5 GB in fp32, twice)", more, **facts)
    else:
        yield ok("memory", told, **facts)


def _threads(host: Host, workers: int) -> Iterator[Finding]:
    room = min(host.cores, host.quota or host.cores)
    whole = max(1, int(room))
    facts = {"threads": host.threads, "cores": host.cores, "quota": host.quota, "workers": workers}
    limit = f", of whose time the container gets {host.quota:g}" if host.quota is not None else ""
    told = f"{host.threads} threads on {host.cores} cores{limit}"
    if host.threads > room:
        detail = f"{told}: threads wait for each other"
        yield warning("threads", detail, f"set OMP_NUM_THREADS={whole}", **facts)
    elif workers and host.threads + workers > room:
        fewer = max(1, whole - workers)
        remedy = f"set OMP_NUM_THREADS={fewer}, or fewer data.workers"
        yield warning("threads", f"{told}, and {workers} data.workers beside them", remedy, **facts)
    else:
        note = f" (OMP_NUM_THREADS={host.threads_set})" if host.threads_set else ""
        yield ok("threads", told + note, **facts)


def _files(host: Host) -> Iterator[Finding]:
    # -1 stands for no limit.
    if 0 <= host.files < _FILES:
        detail = f"{host.files} files may be open at once; {_FILES} are wanted"
        yield warning("open files", detail, "raise the limit in the shell: ulimit -n 65536", limit=host.files)
    else:
        many = host.files if host.files >= 0 else "any number"
        yield ok("open files", f"{many} may be open at once", limit=host.files)


def _text(host: Host) -> Iterator[Finding]:
    if host.zone_known:
        zone = f"TZ={host.zone}" if host.zone else "the system's"
        yield ok("time zone", f"{zone}; the kit's times are UTC whatever it is", zone=host.zone)
    else:
        detail = f"TZ={host.zone} is no zone that this system knows: its clock then reads UTC under a wrong name"
        remedy = "set TZ=UTC, or install the system's tzdata; the kit's own times are UTC whatever it is"
        yield warning("time zone", detail, remedy, zone=host.zone)
    plain = [name for name in host.encoding if name.lower().replace("-", "") != "utf8"]
    if plain:
        detail = f"text files are {host.encoding[0]}, file names {host.encoding[1]}"
        yield warning("encoding", detail, "set LC_ALL=C.UTF-8, or PYTHONUTF8=1", encoding=list(host.encoding))
    else:
        yield ok("encoding", "UTF-8", encoding=list(host.encoding))
