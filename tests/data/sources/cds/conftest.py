"""A data store, its key, an empty cache, and little patience."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.data.sources.cds import source as cds
from kit.data.sources.cds.queue import PollingPolicy
from kit.io.retry import Limits
from tests.data_stores import KEY, DataStores, serving_stores


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DataStores]:
    """What ``--source cds`` finds in the environment."""
    monkeypatch.setattr(cds, "LIMITS", Limits(connect=2, read=0.4, attempts=3, backoff=0.01))
    monkeypatch.setattr(cds, "POLLING", PollingPolicy(shortest=0.005, longest=0.02))
    with serving_stores() as server:
        monkeypatch.setenv("ECMWF_DATASTORES_URL", server.url)
        monkeypatch.setenv("ECMWF_DATASTORES_KEY", KEY)
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
        yield server
