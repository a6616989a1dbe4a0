"""Try hostile inputs one by one, each in a process that is forked after the imports, and print what came of it.

``python -m tests.security.run SEED COUNT FOLDER`` prints one line of JSON for each case.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

MODULES = (
    "dask.array", "xarray", "mlflow", "kit.checks.scan", "kit.data.store.build", "kit.export.export",
    "kit.forecasting.forecast", "kit.run.finetune", "kit.verification.scorecard", "kit.cli.commands.data",
    "kit.cli.commands.checkpoints", "kit.cli.commands.runs", "kit.data.sources.zarr.source",
    "kit.data.sources.netcdf", "kit.data.sources.grib.source", "kit.data.sources.pickle.source",
)  # fmt: skip
"""Imported before anything is forked."""
SECONDS = 60
"""Processor time of a case; the slowest takes three."""
WAITING = 10
"""How many times as long it may take by the clock, on a machine that does much else."""


def prepare(folder: Path) -> int:
    """Write the sound examples, in a process of its own: event loops and threads do not outlive a fork."""
    import warnings

    import numpy as np
    import xarray as xr

    from tests.checkpoints import store_for, write_delta, write_whole

    store = store_for(folder / "store")
    whole = write_whole(folder / "whole", store)
    write_delta(folder / "delta", whole, store)
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    values = 280 + np.random.default_rng(1).random((4, 3, 4), np.float32)
    coords = {"time": times, "latitude": [50.5, 50.25, 50.0], "longitude": [5.0, 5.25, 5.5, 5.75]}
    data = xr.Dataset({"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})}, coords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.to_zarr(folder / "source", zarr_format=2, consolidated=True)
    return 0


def forked(run: Callable[[], int], output: Path, limit: int = SECONDS) -> tuple[int, int, float]:
    """Run in a forked process; return its status (negative for a signal), its peak in bytes and its seconds."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.alarm(WAITING * limit)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 99
        try:
            code = run()
        except BaseException:  # noqa: BLE001 - what escapes is a finding
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, time.monotonic() - started


def main(words: list[str]) -> None:
    seed, count, folder = int(words[0]), int(words[1]), Path(words[2])
    for module in MODULES:
        importlib.import_module(module)
    from kit.cli.main import main as kit
    from kit.data.sources.grib.scan import load_eccodes
    from tests.security.grammar import RULES, Sound

    # Not by its name: it brings libraries that others must come before.
    load_eccodes()
    sound = Sound(*(folder / name for name in ("store", "source", "whole", "delta")))
    if not sound.delta.exists():
        code, _, _ = forked(lambda: prepare(folder), folder / "prepared.txt")
        assert code == 0, (folder / "prepared.txt").read_text()
    names = list(RULES)
    # A forked process that looks for garbage would copy all that it looks at.
    gc.freeze()
    _, base, _ = forked(lambda: 0, folder / "nothing.txt")

    def make() -> int:
        for number in range(count):
            place = folder / f"case{number}"
            place.mkdir()
            command = RULES[names[number % len(names)]](random.Random(seed * 100_000 + number), place, sound)
            (place / "command.json").write_text(json.dumps(command))
        return 0

    # In a process of its own: what makes a case takes memory as well.
    code, _, _ = forked(make, folder / "made.txt", 10 * SECONDS)
    assert code == 0, (folder / "made.txt").read_text()
    for number in range(count):
        place = folder / f"case{number}"
        command = json.loads((place / "command.json").read_text())
        before = {path.name for path in place.iterdir()}

        def run(command: list[str] = command, place: Path = place) -> int:
            os.environ["KIT_CACHE"] = str(place / "cache")
            words = command
            if words[0].startswith("KIT_"):
                key, _, value = words[0].partition("=")
                os.environ[key] = value
                words = words[1:]
            os.chdir(place)
            return kit(words)

        code, most, seconds = forked(run, place / "output.txt")
        left = sorted({path.name for path in place.iterdir()} - before - {"cache", "output.txt"})
        text = (place / "output.txt").read_text(errors="replace")
        result = {
            "rule": names[number % len(names)], "number": number, "command": command, "code": code,
            "seconds": round(seconds, 2), "mib": (most - base) >> 20, "canary": (place / "canary").exists(),
            "traceback": "Traceback" in text, "left": left, "said": text[-600:],
        }  # fmt: skip
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        shutil.rmtree(place)
    # Libraries that were loaded here and used in forked processes alone do not always end well.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
