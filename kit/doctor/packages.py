"""The installed packages: what the kit pins, whether PyTorch and torchvision load, and the lock of a checkout."""

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kit
from kit.doctor.diagnosis import Diagnosis, error, ok, skipped, warning

_DISTRIBUTION = "aurora-finetune-kit"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*==\s*([A-Za-z0-9.+!]+)")
_LOCK = Path(kit.__file__).parents[1] / "requirements.lock"
_REINSTALL = "install the kit again from its lock: uv pip install -r requirements.lock, or use the image"


@dataclass(frozen=True)
class Torch:
    """The installed PyTorch.

    Attributes:
        version: Its version; None if it cannot be imported.
        trouble: Why not.
        cuda: CUDA that it was built for; None for a CPU-only build.
        architectures: Architectures of the GPU code in it, such as ``sm_90``.
        usable: Whether it can use a GPU.
        refusal: Why not, in its words.
        devices: Number of GPUs that it sees.
        threads: Number of its threads on the CPU.
        vision: Version of torchvision.
        vision_trouble: Why torchvision, without which upstream's model cannot be imported, does not work.
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
        pinned: Versions that the kit's own metadata asks for exactly.
        installed: Versions that there are.
        locked: Versions that the lock of a checkout allows; None outside a checkout.
    """

    pinned: Mapping[str, str] = field(default_factory=dict)
    installed: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, frozenset[str]] | None = None


def probe_torch() -> Torch:
    """Import PyTorch and torchvision, and try the operator that fails where their builds differ."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as failure:
        return Torch(trouble=first_line(failure))
    usable, refusal = torch.cuda.is_available(), ""
    if not usable and torch.version.cuda:
        # Only starting CUDA says why it cannot be used.
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as failure:
            refusal = first_line(failure)
    vision, vision_trouble = None, ""
    try:
        import torchvision

        # A torchvision of another build imports, and fails at its own operators.
        kept = torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
        assert kept.tolist() == [0], "its operators give wrong results"
        vision = str(torchvision.__version__)
    except (ImportError, OSError, RuntimeError, AttributeError, AssertionError) as failure:
        vision_trouble = first_line(failure)
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


def probe_packages(lock: Path = _LOCK) -> Packages:
    """Read the metadata of what is installed, and the lock of a checkout where there is one."""
    pinned = {}
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        # What only an extra or another system needs is behind a semicolon.
        if ";" not in line and (match := _PIN.match(line)):
            pinned[_normalised(match[1])] = match[2]
    installed = {}
    for found in importlib.metadata.distributions():
        if found.metadata["Name"]:
            installed[_normalised(found.metadata["Name"])] = found.version
    if not lock.is_file():
        return Packages(pinned, installed)
    # A package may be locked at several versions, each for some versions of Python.
    locked: dict[str, frozenset[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if match := _PIN.match(line):
            name = _normalised(match[1])
            locked[name] = locked.get(name, frozenset()) | {match[2]}
    return Packages(pinned, installed, locked)


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def first_line(failure: BaseException) -> str:
    """Return the first line of a failure's message, or its kind where it has none."""
    lines = str(failure).strip().splitlines()
    return lines[0] if lines else type(failure).__name__


def check_torch(torch: Torch) -> list[Diagnosis]:
    """Decide whether PyTorch and torchvision work at all."""
    if torch.version is None:
        return [error("torch", f"PyTorch cannot be imported: {torch.trouble}", _REINSTALL, trouble=torch.trouble)]
    python = platform.python_version()
    built = f"CUDA {torch.cuda}" if torch.cuda else "no CUDA"
    detail = f"PyTorch {torch.version}, {built}, on Python {python}"
    found = [ok("torch", detail, torch=torch.version, cuda=torch.cuda, python=python)]
    if torch.vision_trouble:
        detail = f"torchvision does not work beside PyTorch {torch.version}: {torch.vision_trouble}"
        remedy = "the two must come from one build; upstream's model cannot be imported without it. " + _REINSTALL
        found.append(error("torchvision", detail, remedy, trouble=torch.vision_trouble))
    else:
        found.append(ok("torchvision", f"{torch.vision}, its operators work", torchvision=torch.vision))
    return found


def check_pins(packages: Packages) -> list[Diagnosis]:
    """Compare what is installed with what the kit's metadata pins."""
    found = []
    for name, wanted in packages.pinned.items():
        have = packages.installed.get(name)
        title, facts = f"pin {name}", {"wanted": wanted, "installed": have}
        if have is None:
            found.append(error(title, f"{name} is not installed", _REINSTALL, **facts))
        elif have.partition("+")[0] == wanted:
            found.append(ok(title, f"{have}, as pinned", **facts))
        # Another PyTorch works, with other last bits; another Aurora may be another model.
        elif name == "torch":
            detail = f"torch {have} is installed, the kit pins {wanted}: figures differ, and runs made with it "
            found.append(warning(title, detail + "are not gone on with by another", _REINSTALL, **facts))
        else:
            detail = f"{name} {have} is installed, the kit is written for {wanted}"
            found.append(error(title, detail, _REINSTALL, **facts))
    return found


def check_lock(packages: Packages) -> Diagnosis:
    """Compare everything that is installed with the lock of a checkout."""
    if packages.locked is None:
        return skipped("lock", "no requirements.lock beside the package: not a checkout")
    shared = sorted(packages.locked.keys() & packages.installed.keys())
    others, named = {}, []
    for name in shared:
        have, locked = packages.installed[name], packages.locked[name]
        # A local version, such as +cu130, is a build of the same code.
        if have.partition("+")[0] not in locked:
            others[name] = have
            named.append(f"{name} {have} (lock: {' or '.join(locked)})")
    if not others:
        return ok("lock", f"all {len(shared)} installed packages that requirements.lock names are as it has them")
    detail = f"{len(others)} of {len(shared)} packages differ: {', '.join(named)}"
    return warning("lock", detail, _REINSTALL, packages=others)
