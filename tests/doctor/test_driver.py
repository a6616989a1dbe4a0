"""What is said of drivers, and how the driver's library is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from kit.doctor.diagnosis import Diagnosis
from kit.doctor.gpu import Driver, Gpu, check_driver, probe_driver
from kit.doctor.packages import Torch

GIB = 2**30
H100 = Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, (9, 0))
WORKS = Torch("2.13.0+cu130", cuda="13.0", usable=True, devices=1, threads=4)
REFUSED = Torch("2.13.0+cu130", cuda="13.0", refusal="the driver is too old")


def one(driver: Driver, torch: Torch) -> Diagnosis:
    return check_driver(driver, torch)


def test_a_driver_that_serves_the_locked_pytorch() -> None:
    found = one(Driver("580.65.06", (13, 0), devices=(H100,)), WORKS)
    assert (found.status, found.remedy) == ("ok", "")
    assert found.evidence == {"driver": "580.65.06", "driver_cuda": "13.0", "torch_cuda": "13.0"}
    assert "uses 1 GPU" in found.detail


@pytest.mark.parametrize(("version", "cuda"), (("570.133.20", (12, 8)), ("535.104.05", (12, 2))))
def test_a_driver_that_is_too_old_for_cuda_13(version: str, cuda: tuple[int, int]) -> None:
    found = one(Driver(version, cuda, devices=(H100,)), REFUSED)
    assert found.status == "error"
    assert f"driver {version} is too old for CUDA 13.0" in found.detail
    assert "CUDA 13 needs a driver >= 580" in found.remedy
    assert found.evidence["needs"] == 580


def test_any_driver_of_the_branch_serves_all_minor_versions() -> None:
    """A PyTorch for CUDA 13.2 on a driver of CUDA 13.0; one for 12.8 needs 525, and a newer driver always does."""
    later = Torch("2.14.0", cuda="13.2", usable=True, devices=1)
    assert one(Driver("580.65.06", (13, 0), devices=(H100,)), later).status == "ok"
    earlier = Torch("2.9.0", cuda="12.8", usable=True, devices=1)
    assert one(Driver("595.10", (13, 3), devices=(H100,)), earlier).status == "ok"
    assert one(Driver("515.1", (11, 7), devices=(H100,)), Torch("2.9.0", cuda="12.8")).evidence["needs"] == 525


def test_a_cuda_that_is_newer_than_this_kit() -> None:
    found = one(Driver("595.10", (13, 3), devices=(H100,)), Torch("3.0", cuda="14.0"))
    assert found.status == "error"
    assert "CUDA 14 needs a driver with CUDA 14" in found.remedy


def test_an_old_driver_with_a_forward_compatibility_package() -> None:
    found = one(Driver("535.104.05", (12, 2), devices=(H100,)), WORKS)
    assert found.status == "ok"
    assert "forward compatibility package" in found.detail


def test_a_build_without_cuda_beside_a_gpu() -> None:
    found = one(Driver("580.65.06", (13, 0), devices=(H100,)), Torch("2.13.0+cpu"))
    assert found.status == "error"
    assert "built without CUDA" in found.detail


def test_gpus_that_are_hidden_on_purpose() -> None:
    for visible in ("", "-1"):
        found = one(Driver("580.65.06", (13, 0), devices=(H100,), visible=visible), REFUSED)
        assert found.status == "warning"
        assert "hides all 1 GPU" in found.detail
    assert one(Driver("580.65.06", (13, 0), devices=(H100,), visible="1"), REFUSED).status == "error"


def test_gpus_that_pytorch_cannot_use_all_the_same() -> None:
    found = one(Driver("580.65.06", (13, 0), devices=(H100,)), Torch("2.13.0", cuda="13.0", refusal="no device"))
    assert found.status == "error"
    assert "cannot use the GPU: no device" in found.detail
    assert "--gpus all" in found.remedy
    cut = Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, (9, 0), mig=True)
    assert "MIG" in one(Driver("580.65.06", (13, 0), devices=(cut,)), REFUSED).remedy


def test_a_machine_without_a_gpu_trains_the_tiny_model() -> None:
    found = one(Driver(trouble="NVML Shared Library Not Found"), Torch("2.13.0", cuda="13.0"))
    assert found.status == "warning"
    assert "driver >= 580 for CUDA 13.0" in found.remedy


def test_a_container_that_was_given_the_device_and_not_the_library() -> None:
    found = one(Driver(trouble="NVML Shared Library Not Found", nodes=("/dev/nvidia0",)), REFUSED)
    assert found.status == "error"
    assert "NVIDIA_DRIVER_CAPABILITIES" in found.remedy


def test_a_driver_that_was_updated_under_its_kernel_module() -> None:
    found = one(Driver(trouble="Driver/library version mismatch", mismatch=True), REFUSED)
    assert found.status == "error"
    assert found.remedy.startswith("reboot")


def test_a_driver_without_gpus() -> None:
    assert one(Driver("580.65.06", (13, 0)), REFUSED).status == "warning"


def test_nothing_is_said_of_cuda_where_pytorch_does_not_load() -> None:
    assert one(Driver("580.65.06", (13, 0), devices=(H100,)), Torch(trouble="no libcudart")).status == "ok"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put answers in the place of the driver's library; an error class in the place of an answer is raised."""

    def replace(**answers: Any) -> None:
        for name, answer in answers.items():

            def give(*_: Any, answer: Any = answer) -> Any:
                if isinstance(answer, pynvml.NVMLError):
                    raise answer
                return answer

            monkeypatch.setattr(pynvml, name, give)

    return replace


def test_the_library_is_asked(library: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    library(
        nvmlInit=None,
        nvmlShutdown=None,
        nvmlSystemGetCudaDriverVersion_v2=12080,
        nvmlSystemGetDriverVersion=b"570.133.20",
        nvmlDeviceGetCount=1,
        nvmlDeviceGetHandleByIndex="handle",
        nvmlDeviceGetMemoryInfo=SimpleNamespace(total=24 * GIB, free=20 * GIB),
        nvmlDeviceGetName="NVIDIA L4",
        nvmlDeviceGetCudaComputeCapability=(8, 9),
        nvmlDeviceGetComputeRunningProcesses=[SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
        nvmlDeviceGetMigMode=pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED),
    )
    found = probe_driver()
    assert (found.version, found.cuda, found.branch, found.visible) == ("570.133.20", (12, 8), 570, "0")
    assert found.devices == (Gpu(0, "NVIDIA L4", 24 * GIB, 20 * GIB, (8, 9), processes=2, mig=False),)


@pytest.mark.parametrize(
    ("code", "mismatch"),
    ((pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, False), (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, True)),
)
def test_a_library_that_does_not_answer(library: Callable[..., None], code: int, mismatch: bool) -> None:
    library(nvmlInit=pynvml.NVMLError(code))
    found = probe_driver()
    assert (found.version, found.mismatch) == (None, mismatch)
    assert found.trouble
