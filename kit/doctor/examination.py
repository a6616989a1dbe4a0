"""All checks, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kit.doctor import disk
from kit.doctor.attention import examine_attention
from kit.doctor.finding import Examination, Finding, skipped
from kit.doctor.gpu import check_driver, check_gpus, no_gpu, probe_driver
from kit.doctor.host import check_host, probe_host
from kit.doctor.network import check_key, examine_network
from kit.doctor.packages import Torch, check_lock, check_pins, check_torch, probe_packages, probe_torch
from kit.doctor.settings import DoctorSettings
from kit.doctor.tracking import examine_tracking

__all__ = ["examine"]


def examine(settings: DoctorSettings) -> Examination:
    """Look at this machine.

    Importing PyTorch takes some seconds, everything else about one; on a GPU some seconds more, to start it.

    Args:
        settings: what is looked at beside the machine.
    """
    return Examination(tuple(_findings(settings)))


def _findings(settings: DoctorSettings) -> Iterator[Finding]:
    torch = probe_torch()
    packages = probe_packages()
    yield from check_torch(torch)
    yield from check_pins(packages)
    yield from check_lock(packages)
    yield from _gpus(torch)
    yield from _attention(torch)
    yield from check_host(probe_host(torch.threads), settings.data.workers)
    for place in disk.places(settings.run.dir):
        yield disk.check_place(disk.probe_place(place))
    yield from disk.check_files(verify=settings.verify)
    yield from examine_tracking(settings.track, settings.run.dir)
    yield check_key(os.environ, Path.home())
    yield from examine_network(asked=settings.network)


def _gpus(torch: Torch) -> Iterator[Finding]:
    driver = probe_driver()
    yield from check_driver(driver, torch)
    if driver.devices:
        yield from check_gpus(driver.devices, torch.architectures)
    else:
        yield no_gpu(driver)


def _attention(torch: Torch) -> Iterator[Finding]:
    if torch.version is None:
        yield skipped("attention", "PyTorch cannot be imported")
        return
    yield from examine_attention("cpu")
    for index in range(torch.devices):
        yield from examine_attention(f"cuda:{index}")
