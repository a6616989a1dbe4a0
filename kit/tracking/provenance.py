"""Provenance of a run: code, environment, machine, command and data, as ``provenance.json`` holds them."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kit
from kit.io.documents import read_json
from kit.io.hashes import sha256_of_file, sha256_of_text
from kit.io.secrets import scrub, scrub_argv
from kit.tracking.params import flatten

_FORMAT = 1
_DISTRIBUTION = "aurora-finetune-kit"
_PACKAGES = (
    "bitsandbytes", "dask", "einops", "matplotlib", "microsoft-aurora", "mlflow", "netcdf4", "numpy", "pandas", "peft",
    "pydantic", "safetensors", "scipy", "timm", "torch", "torchvision", "triton", "xarray", "zarr",
)  # fmt: skip
_CHECKOUT = Path(kit.__file__).parents[1]
_IMAGE = Path(sys.prefix) / "image.json"
_COMMAND_SECONDS = 10


def collect(
    *,
    settings: Mapping[str, object],
    data: Mapping[str, object],
    base_weights: Mapping[str, object] | None = None,
    argv: Sequence[str] | None = None,
    started: datetime | None = None,
    checkout: Path = _CHECKOUT,
    image: Path = _IMAGE,
) -> dict[str, Any]:
    """Describe the process that runs now; takes a fraction of a second once torch is imported.

    The environment's variables are never read into it, and secrets in the command line are masked.

    Args:
        settings: Dump of the resolved settings; only their hash is kept.
        data: Marks of the data: the store's fingerprint, the hashes of its source files.
        base_weights: Marks of the weights trained from: repository, file, revision, SHA-256.
        argv: Command line; by default this process's.
        started: Start of the run, with its time zone; by default now.
        checkout: Folder where the git repository and ``requirements.lock`` are looked for.
        image: Record that ``Dockerfile.cuda`` leaves of the commit and the lock that an image was built from.

    Returns:
        A mapping that JSON can hold.
    """
    # A checkout says more than the image that it is mounted into.
    built = read_json(image) if image.is_file() else {}
    lock = checkout / "requirements.lock"
    versions = dict(zip(_PACKAGES, map(_version, _PACKAGES), strict=True))
    return {
        "format": _FORMAT,
        "started": (started or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "kit": _version(_DISTRIBUTION),
        "git": _git(checkout, built.get("revision", "unknown")),
        "lock_sha256": sha256_of_file(lock) if lock.is_file() else built.get("lock_sha256"),
        "packages": {name: version for name, version in versions.items() if version},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpus": _gpus(),
        "argv": scrub_argv(sys.argv if argv is None else argv),
        "settings_sha256": settings_hash(settings),
        "data": dict(data),
        "base_weights": dict(base_weights or {}) or None,
    }


def settings_hash(settings: Mapping[str, object]) -> str:
    """Hash resolved settings with SHA-256; their order does not matter, and secrets do not enter."""
    return sha256_of_text(json.dumps(flatten(settings), sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the MLflow tags of a run: kit, git commit, lock, settings, data and base weights by hash."""
    git = provenance["git"] or {}
    found: dict[str, object] = {
        "kit.version": provenance["kit"],
        "mlflow.source.git.commit": git.get("commit"),  # the name that MLflow's pages show
        "kit.git_dirty": str(git["dirty"]).lower() if git else None,
        "kit.lock_sha256": provenance["lock_sha256"],
        "kit.settings_sha256": provenance["settings_sha256"],
    }
    for section in ("data", "base_weights"):
        found |= {f"kit.{section}.{key}": value for key, value in flatten(provenance[section] or {}).items()}
    return {key: str(value) for key, value in found.items() if value is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(checkout: Path, built: str) -> dict[str, Any] | None:
    """Find commit and dirty flag of the code.

    Args:
        checkout: Folder that may be a checkout of the kit.
        built: Revision that an image was built from; its builder may not have named one.

    Returns:
        ``commit`` and ``dirty``; None for an installed kit, or without git.
    """
    # A kit that is installed inside somebody's repository is not of that commit.
    if (checkout / ".git").exists() and (checkout / "pyproject.toml").exists():
        commit = _output("git", "-C", str(checkout), "rev-parse", "HEAD")
        # Without git's optional locks: two runs that start at once would otherwise collide.
        status = _output("git", "--no-optional-locks", "-C", str(checkout), "status", "--porcelain")
        if commit is not None and status is not None:
            return {"commit": commit, "dirty": bool(status)}
    if built == "unknown":
        return None
    return {"commit": built.removesuffix("-dirty"), "dirty": built.endswith("-dirty")}


def _cpu() -> dict[str, Any]:
    import torch

    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    model = re.search(r"^model name[^:\n]*:(.*)", text, re.MULTILINE)
    name = (model and model[1].strip()) or platform.processor() or platform.machine()
    # A container or a scheduler may leave this process fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": name, "cores": cores, "threads": torch.get_num_threads()}


def _gpus() -> list[dict[str, Any]]:
    """Describe the GPUs that torch can use; the driver is asked of ``nvidia-smi``."""
    import torch

    if not torch.cuda.is_available():
        return []
    # PyTorch knows the CUDA version that it was built with, not the driver.
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or ""
    return [
        {
            "name": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 2),
            "capability": f"{gpu.major}.{gpu.minor}",
            "driver": driver.partition("\n")[0] or None,
            "cuda": torch.version.cuda,
        }
        for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]


def _output(*command: str) -> str | None:
    """Run a command and return what it prints, or ``None`` where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return scrub(done.stdout.strip())
