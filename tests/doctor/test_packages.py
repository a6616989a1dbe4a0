"""What is said of the installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kit.doctor.packages import Packages, Torch, check_lock, check_pins, check_torch, probe_packages, probe_torch

PINNED = {"microsoft-aurora": "2.0.1", "torch": "2.13.0"}


def test_this_environment() -> None:
    packages, torch = probe_packages(), probe_torch()
    assert packages.pinned == PINNED
    assert {one.status for one in check_pins(packages)} == {"ok"}
    assert [one.status for one in check_torch(torch)] == ["ok", "ok"]
    assert torch.threads >= 1
    assert not torch.vision_trouble


def test_a_pytorch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    torch = probe_torch()
    assert torch.version is None
    [found] = check_torch(torch)
    assert found.status == "error"
    assert "cannot be imported: import of torch halted" in found.detail
    assert "requirements.lock" in found.remedy


def test_a_torchvision_of_another_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it fails beside a PyTorch without CUDA."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    torch = probe_torch()
    assert torch.vision_trouble == "operator torchvision::nms does not exist"
    found = check_torch(torch)[-1]
    assert (found.name, found.status) == ("torchvision", "error")
    assert torch.vision_trouble in found.detail


@pytest.mark.parametrize(
    ("installed", "statuses"),
    (
        ({"microsoft-aurora": "2.0.1", "torch": "2.13.0+cpu"}, ["ok", "ok"]),
        ({"microsoft-aurora": "2.0.1", "torch": "2.12.0"}, ["ok", "warning"]),
        ({"microsoft-aurora": "2.1.0", "torch": "2.13.0"}, ["error", "ok"]),
        ({"torch": "2.13.0"}, ["error", "ok"]),
    ),
)
def test_packages_that_are_not_as_pinned(installed: dict[str, str], statuses: list[str]) -> None:
    found = check_pins(Packages(PINNED, installed))
    assert [one.status for one in found] == statuses
    assert all(bool(one.remedy) == (one.status != "ok") for one in found)


def test_packages_that_are_not_as_locked(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("NumPy==0.1 ; python_version < '3' \\\n    --hash=sha256:00\npydantic==1.0\nno-such-package==3\n")
    packages = probe_packages(lock)
    expected = {"numpy": "0.1", "pydantic": "1.0", "no-such-package": "3"}
    assert packages.locked == {name: frozenset({version}) for name, version in expected.items()}
    found = check_lock(packages)
    assert found.status == "warning"
    assert found.evidence["packages"].keys() == {"numpy", "pydantic"}
    assert "pydantic" in found.detail


def test_a_lock_with_two_versions_of_a_package() -> None:
    locked = {"numpy": frozenset({"1.26", "2.2"})}
    assert check_lock(Packages({}, {"numpy": "2.2"}, locked)).status == "ok"


def test_an_installed_kit_has_no_lock(tmp_path: Path) -> None:
    assert check_lock(probe_packages(tmp_path / "none")).status == "skipped"


def test_what_pytorch_says_is_one_line() -> None:
    assert check_torch(Torch("2.13.0", vision="0.28"))[0].detail.startswith("PyTorch 2.13.0, no CUDA, on Python 3.")
