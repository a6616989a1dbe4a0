"""From an archive of HRRR's to a store, and from that store to a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import BuildSettings
from kit.data.store.build import build_store, estimate
from kit.data.store.reader import Store
from tests.data.sources.hrrr_files import HEIGHT, WIDTH, put_hour
from tests.servers import Server, serving
from tests.training import trains

HOURS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KIT_HRRR_ARCHIVE", server.url())
        for hour in range(HOURS):
            put_hour(server, f"2024-06-01T{hour:02d}")
        yield server


def asked(out: Path) -> BuildSettings:
    return BuildSettings.model_validate(
        {
            "source": "hrrr",
            "path": "hrrr",
            "out": out,
            "times": f"2024-06-01/2024-06-01T{HOURS - 1:02d}",
            "step": "1h",
            "variables": ("refc", "2t", "2d", "10u", "10v", "cape", "cin", "t", "u", "v", "q"),
            "levels": (500, 850),
            "train": "2024-06-01/2024-06-01T04",
            "valid": "2024-06-01T05/2024-06-01T07",
            "test": "2024-06-01T05/2024-06-01T07",
        }
    )


@pytest.fixture(scope="module")
def store(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = asked(tmp_path_factory.mktemp("hrrr") / "store")
    taken = estimate(settings)
    told, fetched = len(server.requests), len([asked for asked in server.requests if asked.range])
    # Of the first state; its indices are read again for the bytes.
    assert (taken.states, fetched) == (HOURS, len([a for a in server.requests if a.range and "t00z" in a.path]))
    store = build_store(settings)
    assert taken.requests == len(server.requests) - told + fetched + 2
    return store


@pytest.mark.slow
def test_a_store_of_hrrr(store: Store) -> None:
    opened = xr.open_zarr(store.path)
    assert opened["latitude"].dims == opened["longitude"].dims == ("y", "x")
    assert opened["refc"].shape == (HOURS, HEIGHT, WIDTH)
    assert opened["q"].dims == ("time", "level", "y", "x")
    assert opened.attrs["projection"]["longitude_of_central_meridian"] == 262.5
    assert any("10u and 10v turned from the grid's axes" in note for note in opened.attrs["history"])
    assert np.isfinite(opened["cin"].values).all()
    assert float(opened["cin"].max()) <= 0


@pytest.mark.slow
def test_it_trains(store: Store, tmp_path: Path) -> None:
    assert trains(store.path, tmp_path, data={"statics": ("z", "lsm")}, model={"timestep": "1h"})
