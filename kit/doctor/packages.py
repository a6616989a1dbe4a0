"""The installed packages: what the kit pins, whether PyTorch and torchvision load, and the lock of a checkout."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kit
from kit.doctor.finding import Finding, error, ok, skipped, warning

__all__ = ["Packages", "Torch", "check_lock", "check_pins", "check_torch", "probe_packages", "probe_torch"]

_DISTRIBUTION = "aurora-finetune-kit"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*==\s*([A-Za-z0-9.+!]+)")
_LOCK = Path(kit.__file__).parents[1] / "requirements.lock"
_REINSTALL = "install the kit again from its lock: uv pip install -r requirements.lock, or use the image"


@dataclass(frozen=True)
class Torch:
    """What the installed PyTorch tells.

    Attributes:
        version: None if it cannot be imported.
        trouble: why not.
        cuda: that it was built for; None for a CPU-only build.
        architectures: GPU code in it.
        usable: whether it can use a GPU.
        refusal: why not, in its words.
        devices: GPUs that it sees.
        threads: of its own on the CPU.
        vision: version of torchvision.
        vision_trouble: why torchvision, without which upstream's model cannot be imported, does not work.
    """

    version: str | None = None
    trouble: str = ""
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    usable: bool = False
    refusal: str = ""
    devices: int = 0
    threads: int = 0
    vision: str | None = None
    vision_trouble: str = ""


@dataclass(frozen=True)
class Packages:
    """Versions, by name in lower case with hyphens.

    Attributes:
        pinned: what the kit's own metadata asks for exactly.
        installed: what there is.
        locked: versions that the lock of a checkout allows; None outside a checkout.
    """

    pinned: Mapping[str, str] = field(default_factory=dict)
    installed: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, frozenset[str]] | None = None


def probe_torch() -> Torch:
    """Import PyTorch and torchvision, and try the operator that fails where their builds differ."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as trouble:
        return Torch(trouble=_first_line(trouble))
    usable, refusal = torch.cuda.is_available(), ""
    if not usable and torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as trouble:
            refusal = _first_line(trouble)
    vision, vision_trouble = _probe_vision()
    return Torch(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        usable=usable,
        refusal=refusal,
        devices=torch.cuda.device_count() if usable else 0,
        threads=torch.get_num_threads(),
        vision=vision,
        vision_trouble=vision_trouble,
    )


def _probe_vision() -> tuple[str | None, str]:
    import torch

    try:
        import torchvision

        kept = torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
        assert kept.tolist() == [0]
    except (ImportError, OSError, RuntimeError, AttributeError, AssertionError) as trouble:
        return None, _first_line(trouble) or "its operators give wrong results"
    return str(torchvision.__version__), ""


def probe_packages(lock: Path = _LOCK) -> Packages:
    """Read the metadata of what is installed, and the lock of a checkout where there is one."""
    wanted = importlib.metadata.requires(_DISTRIBUTION) or []
    pinned = {_name(match[1]): match[2] for line in wanted if ";" not in line and (match := _PIN.match(line))}
    installed = {
        _name(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
        if found.metadata["Name"]
    }
    locked: dict[str, set[str]] | None = None
    if lock.is_file():
        locked = {}
        for match in filter(None, map(_PIN.match, lock.read_text(encoding="utf-8").splitlines())):
            locked.setdefault(_name(match[1]), set()).add(match[2])
    frozen = None if locked is None else {name: frozenset(versions) for name, versions in locked.items()}
    return Packages(pinned, installed, frozen)


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _first_line(trouble: BaseException) -> str:
    return (str(trouble).strip().splitlines() or [type(trouble).__name__])[0]


def check_torch(torch: Torch) -> list[Finding]:
    """Decide whether PyTorch and torchvision work at all."""
    if torch.version is None:
        return [error("torch", f"PyTorch cannot be imported: {torch.trouble}", _REINSTALL, trouble=torch.trouble)]
    built = f"CUDA {torch.cuda}" if torch.cuda else "no CUDA"
    facts = {"torch": torch.version, "cuda": torch.cuda, "python": platform.python_version()}
    found = [ok("torch", f"PyTorch {torch.version}, {built}, on Python {platform.python_version()}", **facts)]
    if torch.vision_trouble:
        detail = f"torchvision does not work beside PyTorch {torch.version}: {torch.vision_trouble}"
        remedy = "the two must come from one build; upstream's model cannot be imported without it. " + _REINSTALL
        return [*found, error("torchvision", detail, remedy, trouble=torch.vision_trouble)]
    return [*found, ok("torchvision", f"{torch.vision}, its operators work", torchvision=torch.vision)]


def check_pins(packages: Packages) -> list[Finding]:
    """Compare what is installed with what the kit's metadata pins."""
    found = []
    for name, wanted in packages.pinned.items():
        have = packages.installed.get(name)
        title, facts = f"pin {name}", {"wanted": wanted, "installed": have}
        if have is None:
            found.append(error(title, f"{name} is not installed", _REINSTALL, **facts))
        elif have.partition("+")[0] == wanted:
            found.append(ok(title, f"{have}, as pinned", **facts))
        elif name == "torch":
            detail = f"torch {have} is installed, the kit pins {wanted}: figures differ, and runs made with it "
            found.append(warning(title, detail + "are not gone on with by another", _REINSTALL, **facts))
        else:
            detail = f"{name} {have} is installed, the kit is written for {wanted}"
            found.append(error(title, detail, _REINSTALL, **facts))
    return found


def check_lock(packages: Packages) -> list[Finding]:
    """Compare everything that is installed with the lock of a checkout."""
    if packages.locked is None:
        return [skipped("lock", "no requirements.lock beside the package: not a checkout")]
    shared = sorted(packages.locked.keys() & packages.installed.keys())
    others = {
        name: packages.installed[name]
        for name in shared
        if packages.installed[name].partition("+")[0] not in packages.locked[name]
    }
    if not others:
        return [ok("lock", f"all {len(shared)} installed packages that requirements.lock names are as it has them")]
    named = ", ".join(f"{name} {have} (lock: {' or '.join(packages.locked[name])})" for name, have in others.items())
    return [warning("lock", f"{len(others)} of {len(shared)} packages differ: {named}", _REINSTALL, packages=others)]
