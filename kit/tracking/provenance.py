"""What made a run: code, environment, machine, command and data, as ``provenance.json``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kit
from kit.io.secrets import scrub, scrub_argv
from kit.tracking.params import flatten

__all__ = ["collect", "settings_hash", "tags"]

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
    """Describe the process that runs now; takes a fraction of a second beside importing torch.

    The environment's variables are never read into it, and secrets in the command line are masked.

    Args:
        settings: dump of the resolved settings; only their hash is kept.
        data: what identifies the data: the store's fingerprint, the hashes of its source files.
        base_weights: what identifies the weights trained from: repository, file, revision, SHA-256.
        argv: command line; by default this process's.
        started: start of the run, with its time zone; by default now.
        checkout: where the git repository and ``requirements.lock`` are looked for.
        image: the record that ``Dockerfile.cuda`` leaves of the commit and the lock that an image was built from.

    Returns:
        A mapping that JSON can hold.
    """
    built = json.loads(image.read_text(encoding="utf-8")) if image.is_file() else {}
    return {
        "format": _FORMAT,
        "started": (started or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "kit": _version(_DISTRIBUTION),
        "git": _git(checkout) or _git_of_image(built),
        "lock_sha256": _lock_hash(checkout) or built.get("lock_sha256"),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "gpus": _gpus(),
        "argv": scrub_argv(sys.argv if argv is None else argv),
        "settings_sha256": settings_hash(settings),
        "data": dict(data),
        "base_weights": dict(base_weights) if base_weights else None,
    }


def settings_hash(settings: Mapping[str, object]) -> str:
    """Return the SHA-256 of resolved settings; their order does not matter, and secrets do not enter."""
    text = json.dumps(flatten(settings), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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


def _git(checkout: Path) -> dict[str, Any] | None:
    """Return commit and dirty flag of a checkout of ours; ``None`` for an installed kit, or without git."""
    if not ((checkout / ".git").exists() and (checkout / "pyproject.toml").exists()):
        return None
    commit = _output("git", "-C", str(checkout), "rev-parse", "HEAD")
    status = _output("git", "--no-optional-locks", "-C", str(checkout), "status", "--porcelain")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}


def _git_of_image(built: Mapping[str, str]) -> dict[str, Any] | None:
    """Return commit and dirty flag of what an image was built from; the builder was told of them, or was not."""
    revision = built.get("revision", "unknown")
    if revision == "unknown":
        return None
    return {"commit": revision.removesuffix("-dirty"), "dirty": revision.endswith("-dirty")}


def _lock_hash(checkout: Path) -> str | None:
    lock = checkout / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def _cpu() -> dict[str, Any]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": _cpu_name(), "cores": usable, "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    """Describe the GPUs that torch can use; the driver is asked of ``nvidia-smi``."""
    import torch

    if not torch.cuda.is_available():
        return []
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 2),
            "capability": f"{gpu.major}.{gpu.minor}",
            "driver": (driver or "").partition("\n")[0] or None,
            "cuda": torch.version.cuda,
        }
        for gpu in properties
    ]


def _output(*command: str) -> str | None:
    """Return what a command prints, or ``None`` where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return scrub(done.stdout.strip())
