"""What is said of GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kit.doctor.gpu import Gpu, check_gpu, has_kernels

GIB = 2**30
LOCKED = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
A100 = Gpu(0, "NVIDIA A100-SXM4-80GB", 80 * GIB, 79 * GIB, (8, 0))


def test_a_gpu_that_will_do() -> None:
    [found] = check_gpu(A100, LOCKED)
    assert found.status == "ok"
    assert "79 of 80 GiB free, compute capability 8.0" in found.detail
    assert found.evidence["bf16"] is True


@pytest.mark.parametrize(
    ("gpu", "status", "word"),
    (
        (replace(A100, name="Tesla V100", capability=(7, 0)), "error", "no kernels"),
        (replace(A100, name="Tesla T4", capability=(7, 5)), "warning", "--train.precision fp32"),
        (replace(A100, free=30 * GIB, processes=2), "warning", "2 other processes"),
    ),
)
def test_a_gpu_that_will_not(gpu: Gpu, status: str, word: str) -> None:
    [found] = check_gpu(gpu, LOCKED)
    assert found.status == status
    assert word in found.detail + found.remedy
    assert found.remedy


def test_a_slice_of_a_gpu_is_called_one() -> None:
    [found] = check_gpu(replace(A100, mig=True), LOCKED)
    assert "MIG" in found.detail


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    (
        ((8, 9), ("sm_86",), True),  # a later minor version
        ((8, 0), ("sm_86",), False),  # an earlier one
        ((9, 0), ("sm_86",), False),  # another major one
        ((9, 0), ("compute_80",), True),  # compiled at load
        ((7, 5), ("compute_80",), False),
        ((10, 0), ("sm_100",), True),
        ((12, 0), ("sm_100", "sm_120"), True),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100a",), False),  # for one architecture alone
        ((10, 3), ("sm_100f",), True),  # for its family
        ((9, 0), ("nonsense",), False),
    ),
)
def test_which_code_runs_where(capability: tuple[int, int], architectures: tuple[str, ...], runs: bool) -> None:
    assert has_kernels(capability, architectures) is runs
