"""System metrics: samples of the machine while a run trains, named as MLflow's page of system metrics names them.

MLflow's own monitor asks the server about the run at every sample, and ends for good at the first one that is not
answered. This one samples alone; what becomes of a sample is its owner's concern.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.tracking.run_records import system_values
from kit.tracking.tracker import MetricRecord, Tracker

_logger = logging.getLogger(__name__)

_FIRST_SECONDS = 2.0
"""A first sample comes early, so that a short run has one."""
_STOP_SECONDS = 5.0


def visible_gpus() -> list[str]:
    """Return NVML's names of the GPUs that PyTorch sees, in its order; none without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    ids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    # PyTorch leaves out the prefix of a whole GPU, which NVML wants.
    return [found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}" for found in ids]


class Probe:
    """Sampler of this machine.

    Args:
        folder: Folder on the disk to watch.
        gpus: NVML's names of the GPUs to watch; they are counted in this order.
    """

    def __init__(self, folder: Path, gpus: Sequence[str] = ()) -> None:
        self._folder = folder
        self._process = psutil.Process()
        self._network = psutil.net_io_counters()
        self._gpus = _handles(gpus)

    def begin(self) -> None:
        """Count CPU time from now on; in the thread that samples, because psutil keeps a count for each."""
        psutil.cpu_percent()
        self._process.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Take one sample, in 1 ms; CPU shares are means since the previous one, network counts since the start.

        Returns:
            Values by MLflow's names: megabytes are 10^6 bytes. ``process_...`` is this process alone, of which 100 %
            of CPU is one core.

        Raises:
            OSError: the disk is gone.
        """
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(self._folder)), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
        }
        if network is not None and self._network is not None:  # a machine may have no network at all
            values["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / 1e6
            values["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / 1e6
        for index, handle in self._gpus.items():
            values |= {f"gpu_{index}_{name}": value for name, value in _gpu(handle).items()}
        return {name: round(value, 1) for name, value in values.items()}


def _handles(gpus: Sequence[str]) -> dict[int, Any]:
    """Find GPUs by their names; those from the first that NVML does not know on are left out, with a warning."""
    if not gpus:
        return {}
    import pynvml

    found: dict[int, Any] = {}
    try:
        pynvml.nvmlInit()
        for index, name in enumerate(gpus):
            found[index] = pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError as error:
        _logger.warning("GPU %d of %d cannot be watched: %s", len(found), len(gpus), error)
    return found


def _gpu(handle: Any) -> dict[str, float]:
    """Read memory, utilisation and power of one GPU, as far as NVML has them: a slice of a GPU may have no power."""
    import pynvml

    values: dict[str, float] = {}
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        values["memory_usage_percentage"] = 100 * memory.used / memory.total
        values["memory_usage_megabytes"] = memory.used / 1e6
        # Memory came first: of a slice of a GPU, NVML may know nothing else.
        values["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        values["power_usage_watts"] = watts
        values["power_usage_percentage"] = 100 * 1000 * watts / pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    except pynvml.NVMLError as error:
        _logger.debug("a GPU tells only of %s: %s", ", ".join(values) or "nothing", error)
    return values


class SystemMonitor:
    """Thread that takes samples until it is stopped.

    Args:
        probe: Sampler.
        keep: Receiver of each sample, in that thread; an OSError from it, as of a full disk, ends the sampling with a
            warning.
        seconds: Seconds between samples.
    """

    def __init__(self, probe: Probe, keep: Callable[[dict[str, float]], None], seconds: float) -> None:
        self._probe = probe
        self._keep = keep
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample, and end the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        wait = min(_FIRST_SECONDS, self._seconds)
        # A last sample at the end: a run of a second has one, too.
        try:
            self._probe.begin()
            while not self._stopped.wait(wait):
                self._keep(self._probe.sample())
                wait = self._seconds
            self._keep(self._probe.sample())
        except (OSError, psutil.Error) as error:
            _logger.warning("no more system metrics: %s", error)


# Samples of the machine during a run: in ``system.jsonl``, and in MLflow.


@contextmanager
def watching(folder: RunFolder, tracker: Tracker, seconds: float | None, gpus: Sequence[str] = ()) -> Iterator[None]:
    """Sample the machine while the block runs.

    Samples are counted through all resumes: what a run did before its last checkpoint or after it, the machine did.

    Args:
        folder: Folder of the run.
        tracker: Tracker of the run.
        seconds: Seconds between samples; None takes none.
        gpus: NVML's names of the GPUs to watch.
    """
    # Cut at no step: what a run does again after a crash, the machine has done twice.
    log = MetricsLog(folder.system)
    earlier = list(map(_record, log.cut(sys.maxsize)))
    tracker.reconcile(earlier)
    if seconds is None:
        yield
        return
    # After the last one: a damaged line may be missing between.
    steps = count(max((record.step for record in earlier), default=-1) + 1)
    held: list[MetricRecord] = []

    def keep(values: dict[str, float]) -> None:
        line = {"step": next(steps), "time_ms": time.time_ns() // 10**6, **values}
        log.append(line)
        held.append(_record(line))
        # MLflow's page of two runs opens with the metric that came first: a loss, not the CPU.
        while held and folder.metrics.exists():
            tracker.log(*held.pop(0))

    monitor = SystemMonitor(Probe(folder.path, gpus), keep, seconds)
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()


def _record(line: Mapping[str, Any]) -> MetricRecord:
    return MetricRecord(line["step"], system_values(line), line["time_ms"])
