"""Samples of the machine: what they hold, where they go, and what ends them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.tracking.store import connect
from kit.tracking.system import Probe, SystemMonitor, watching
from tests.tracking.conftest import StartRun

HOST = {
    "cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage",
    "process_cpu_percentage", "process_memory_megabytes", "disk_usage_percentage", "disk_usage_megabytes",
    "disk_available_megabytes", "network_receive_megabytes", "network_transmit_megabytes",
}  # fmt: skip


def test_a_sample_has_mlflows_names(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    probe.begin()
    values = probe.sample()
    assert set(values) == HOST
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["process_memory_megabytes"] > 10


def test_a_gpu_tells_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    gpu = SimpleNamespace(used=8e9, total=16e9)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda name: name)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _handle: gpu)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _handle: SimpleNamespace(gpu=97))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda _handle: 350_000)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", lambda _handle: 700_000)
    values = Probe(tmp_path, ["GPU-1"]).sample()
    assert {name: value for name, value in values.items() if name.startswith("gpu")} == {
        "gpu_0_memory_usage_percentage": 50.0,
        "gpu_0_memory_usage_megabytes": 8000.0,
        "gpu_0_utilization_percentage": 97,
        "gpu_0_power_usage_watts": 350.0,
        "gpu_0_power_usage_percentage": 50.0,
    }
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    partial = Probe(tmp_path, ["MIG-1"]).sample()
    assert set(partial) - HOST == {"gpu_0_memory_usage_percentage", "gpu_0_memory_usage_megabytes"}


def test_a_gpu_that_nvml_does_not_know_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert set(Probe(tmp_path, ["GPU-1"]).sample()) == HOST
    assert "GPU 0 of 1 cannot be watched" in caplog.text


def test_a_monitor_samples_until_it_is_stopped(tmp_path: Path) -> None:
    taken, three = [], threading.Event()

    def keep(values: dict[str, float]) -> None:
        taken.append(values)
        if len(taken) == 3:
            three.set()

    monitor = SystemMonitor(Probe(tmp_path), keep, 0.01)
    monitor.start()
    assert three.wait(10)
    monitor.stop()
    count = len(taken)
    time.sleep(0.05)
    assert len(taken) == count


def test_a_full_disk_ends_the_samples_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def keep(_values: dict[str, float]) -> None:
        raise OSError(28, "No space left on device")

    monitor = SystemMonitor(Probe(tmp_path), keep, 0.01)
    monitor.start()
    monitor.stop()
    assert "no more system metrics: [Errno 28] No space left on device" in caplog.text


def test_samples_are_counted_through_resumes(start: StartRun, run_dir: Path) -> None:
    folder = RunFolder(run_dir / "first")
    folder.path.mkdir()
    tracker = start()
    with watching(folder, tracker, None):
        pass
    assert not folder.system.exists()
    with watching(folder, tracker, 60.0):
        folder.metrics.write_text("")  # until there is a loss, samples wait
    tracker.finish("KILLED")
    with folder.system.open("a") as cut_short:
        cut_short.write('{"step": 1, "cp')
    again = start(run_id=tracker.run_id)
    with watching(folder, again, 60.0):
        pass
    again.finish("FINISHED")
    assert [line["step"] for line in MetricsLog(folder.system).records()] == [0, 1]
    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    points = client.get_metric_history(tracker.run_id, "system/process_memory_megabytes")
    assert [point.step for point in points] == [0, 1]


@pytest.mark.parametrize("given", (0, -1))
def test_seconds_are_positive(given: float) -> None:
    from pydantic import ValidationError

    from kit.tracking.settings import TrackSettings

    assert TrackSettings(system_seconds=None).system_seconds is None
    with pytest.raises(ValidationError):
        TrackSettings(system_seconds=given)
