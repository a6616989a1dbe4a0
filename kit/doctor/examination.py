"""All checks of the machine, one after the other."""

import os
from collections.abc import Iterator
from pathlib import Path

from kit.doctor import disk
from kit.doctor.attention import examine_attention
from kit.doctor.diagnosis import Diagnosis, Examination, skipped
from kit.doctor.gpu import check_driver, check_gpu, probe_driver
from kit.doctor.host import check_host, probe_host
from kit.doctor.network import check_key, examine_network
from kit.doctor.packages import check_lock, check_pins, check_torch, probe_packages, probe_torch
from kit.doctor.settings import DoctorSettings
from kit.doctor.tracking import examine_tracking


def examine(settings: DoctorSettings) -> Examination:
    """Look at this machine.

    Importing PyTorch takes some seconds, everything else about one; on a GPU some seconds more, to start it.

    Args:
        settings: Run that is meant: its folders, data workers and tracking store, and whether to ask the network.
    """
    return Examination(tuple(_diagnoses(settings)))


def _diagnoses(settings: DoctorSettings) -> Iterator[Diagnosis]:
    # PyTorch comes first: driver and GPUs are judged by the CUDA that it was built for.
    torch, packages = probe_torch(), probe_packages()
    yield from check_torch(torch)
    yield from check_pins(packages)
    yield check_lock(packages)
    driver = probe_driver()
    yield check_driver(driver, torch)
    for gpu in driver.devices:
        yield from check_gpu(gpu, torch.architectures)
    if not driver.devices:
        yield skipped("gpu", "no GPU that can be looked at" if driver.version else "no driver")
    if torch.version is None:
        yield skipped("attention", "PyTorch cannot be imported")
    else:
        yield from examine_attention("cpu")
    for index in range(torch.devices):
        yield from examine_attention(f"cuda:{index}")
    yield from check_host(probe_host(torch.threads), settings.data.workers)
    for folder in disk.watched_folders(settings.run.dir):
        yield disk.check_folder(disk.probe_folder(folder))
    yield from disk.check_files(verify=settings.verify)
    yield examine_tracking(settings.track, settings.run.dir)
    yield check_key(os.environ, Path.home())
    yield from examine_network(asked=settings.network)
