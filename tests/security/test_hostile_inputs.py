"""Hostile inputs of all formats: nothing runs, nothing hangs, memory stays within bounds, and one message says why."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.io.errors import StoreError
from tests.hostile import Command
from tests.security.grammar import RULES, chunk_of, edit_arrays

ROOT = Path(__file__).parents[2]
MIB = 1024
"""Most memory of a case beyond that of a process that does nothing."""


def attack(seed: int, count: int, folder: Path) -> None:
    """Try so many inputs, and hold each against what must become of it."""
    words = [sys.executable, "-m", "tests.security.run", str(seed), str(count), str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == count, done.stderr[-2000:]
    wrong = []
    for result in results:
        refused = result["code"] == 2 and not result["traceback"] and not result["left"]
        if not refused or result["canary"] or result["mib"] > MIB:
            wrong.append(result)
    assert not wrong, json.dumps(wrong, indent=1)
    # Each rule was tried, or as many of them as there are inputs.
    assert len({result["rule"] for result in results}) == min(count, len(RULES))


@pytest.mark.timeout(1200)
def test_hostile_inputs_are_refused(tmp_path: Path) -> None:
    attack(1, 5, tmp_path)


@pytest.mark.parametrize("codec", ("vlen-utf8", "vlen-bytes"))
@pytest.mark.parametrize("name", ("t2m", "latitude", "time"))
def test_a_pickle_behind_another_object_codec_is_not_decoded(name: str, codec: str, tmp_path: Path) -> None:
    """Zarr asks the first codec alone what it makes; numcodecs 0.16.3 then ran what the pickle said."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    coords = {"time": times, "latitude": [50.5, 50.25, 50.0], "longitude": [5.0, 5.25, 5.5]}
    values = np.full((4, 3, 3), 280.0, np.float32)
    data = xr.Dataset({"t2m": (tuple(coords), values, {"units": "K"})}, coords)
    store = tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.to_zarr(store, zarr_format=2, consolidated=True)
    canary = tmp_path / "canary"

    def change(array: str, described: dict[str, Any]) -> None:
        if array == name:
            filters = [{"id": codec}, {"id": "pickle"}]
            described.update(dtype="|O", filters=filters, compressor=None, fill_value=None)

    edit_arrays(store, change)
    chunk_of(store, name).write_bytes(pickle.dumps(Command(f"touch {canary}")))
    with pytest.raises(StoreError, match=f"the array {name} is packed with the codec 'pickle'.*Nothing was decoded"):
        build_store(source="zarr", path=store, out=tmp_path / "out", train="2020/2020")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_500_hostile_inputs_are_refused(tmp_path: Path) -> None:
    attack(2, 500, tmp_path)
