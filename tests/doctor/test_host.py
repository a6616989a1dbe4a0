"""What is said of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.doctor.diagnosis import Diagnosis
from kit.doctor.host import Host, check_host, probe_host, read_quota

GIB = 2**30


def finding(name: str, host: Host, workers: int = 0) -> Diagnosis:
    return next(one for one in check_host(host, workers) if one.name == name)


def test_a_host_that_will_do() -> None:
    assert {one.status for one in check_host(Host(), 0)} == {"ok"}
    assert not any(one.remedy for one in check_host(Host(), 0))


@pytest.mark.parametrize(
    ("name", "host", "workers", "status", "word"),
    (
        ("memory", Host(available=GIB), 0, "error", "--memory"),
        ("memory", Host(available=8 * GIB), 0, "warning", "1.3 B model"),
        ("threads", Host(cores=2, threads=8), 0, "warning", "OMP_NUM_THREADS=2"),
        ("threads", Host(cores=64, quota=3.5, threads=64), 0, "warning", "OMP_NUM_THREADS=3"),
        ("threads", Host(cores=8, threads=8), 4, "warning", "OMP_NUM_THREADS=4"),
    ),
)
def test_a_host_that_will_not(name: str, host: Host, workers: int, status: str, word: str) -> None:
    found = finding(name, host, workers)
    assert found.status == status
    assert word in found.detail + found.remedy
    assert found.remedy


def test_what_does_no_harm() -> None:
    assert "OMP_NUM_THREADS=1" in finding("threads", Host(threads=1, threads_set="1")).detail


@pytest.mark.parametrize(
    ("files", "quota"),
    (
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ),
)
def test_a_containers_share_of_the_processors(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_quota(tmp_path) == quota


def test_this_host() -> None:
    host = probe_host(3)
    assert host.threads == 3
    assert 0 < host.available <= host.memory
    assert host.cores >= 1
