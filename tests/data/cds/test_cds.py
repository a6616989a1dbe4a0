"""From the Copernicus data stores to a store: what is asked, what comes, what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from kit.data.build import build
from kit.data.build_settings import BuildSettings
from kit.data.cds.queue import Pace
from kit.data.sources import cds
from kit.data.store import Store
from kit.registry.patience import Limits
from tests.data_stores import KEY, DataStores, serving_stores

REGION = (51.0, 5.0, 50.0, 6.0)


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DataStores]:
    """A data store, its key in the environment, an empty cache, and little patience."""
    monkeypatch.setattr(cds, "LIMITS", Limits(connect=2, read=2, attempts=3, backoff=0.01))
    monkeypatch.setattr(cds, "PACE", Pace(shortest=0.01, longest=0.05))
    with serving_stores() as server:
        monkeypatch.setenv("ECMWF_DATASTORES_URL", server.url)
        monkeypatch.setenv("ECMWF_DATASTORES_KEY", KEY)
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
        yield server


def make(out: Path, path: str = "era5", **options: Any) -> Store:
    given: dict[str, Any] = {
        "times": "2020-01-31T12/2020-02-01T12",
        "step": "6h",
        "variables": ("2t", "msl", "t"),
        "levels": (500, 850),
        "statics": ("z", "lsm"),
    }
    return build(BuildSettings(source="cds", path=path, out=out, **(given | options)))


def test_from_requests_to_a_store(stores: DataStores, tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    assert len(stores.jobs) == 5
    dataset = xr.open_zarr(store.path)
    assert list(dataset["time"].values.astype("datetime64[h]").astype(str)) == [
        "2020-01-31T12", "2020-01-31T18", "2020-02-01T00", "2020-02-01T06", "2020-02-01T12",
    ]  # fmt: skip
    assert dataset["t"].shape == (5, 2, 9, 16)
    assert store.static == ("lsm", "z")
