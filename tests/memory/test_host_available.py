"""What of the host this process can still have: whatever limits it, or nothing does."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from kit.memory import host_memory as available

FREE = 10 * 2**30


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 10 GiB free; the folder returned stands in for its control groups."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    monkeypatch.setattr(available, "_GROUP", tmp_path)
    limit(monkeypatch, resource.RLIM_INFINITY)
    return tmp_path


def limit(monkeypatch: pytest.MonkeyPatch, addresses: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (addresses, addresses))


def test_a_host_without_limits_has_what_is_free() -> None:
    """As on bare metal: the root control group has no file that limits it."""
    assert available.host_available() == FREE


def test_a_container_has_what_its_group_leaves(host: Path) -> None:
    (host / "memory.max").write_text("4000\n")
    (host / "memory.current").write_text("3000\n")
    (host / "memory.stat").write_text("anon 2500\ninactive_file 500\n")
    assert available.host_available() == 4000 - 3000 + 500


def test_a_group_without_a_limit_limits_nothing(host: Path) -> None:
    (host / "memory.max").write_text("max\n")
    assert available.host_available() == FREE


def test_a_group_that_is_full_leaves_nothing(host: Path) -> None:
    (host / "memory.max").write_text("4000\n")
    (host / "memory.current").write_text("5000\n")
    assert available.host_available() == 0


def test_a_limit_of_addresses(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = host / "statm"
    pages.write_text("100 50 20 1 0 30 0\n")
    monkeypatch.setattr(available, "_PAGES", pages)
    limit(monkeypatch, 2**30)
    assert available.host_available() == 2**30 - 100 * resource.getpagesize()
