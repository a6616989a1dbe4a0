"""Zarr stores in the registry: known by name, read where they are, never fetched."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kit.data.sources.resolve_path import locate
from kit.io.errors import RegistryError, StoreError
from kit.registry.entry import Entry, state
from kit.registry.fetching import fetch_all

STORE: dict[str, Any] = {
    "name": "era5",
    "file": "a.zarr",
    "url": "gs://bucket/a.zarr",
    "licence": "CC BY 4.0",
    "kind": "zarr",
    "description": "states",
}


def test_a_store_is_never_fetched() -> None:
    entry = Entry(**STORE)
    assert (state(entry)["fetched"], state(entry)["cached"], entry.scheme) == (False, False, "gs")
    told = r"era5: is a Zarr store at gs://bucket/a.zarr, .* kit data build --source zarr --path era5"
    with pytest.raises(RegistryError, match=told):
        fetch_all([entry])


def test_a_climatology_is_read_by_evaluations() -> None:
    entry = Entry(**{**STORE, "kind": "climatology"})
    assert not state(entry)["fetched"]
    with pytest.raises(RegistryError, match="is a climatology at gs:.* kit evaluate --climatology era5"):
        fetch_all([entry])
    with pytest.raises(StoreError, match="hold climatology; a store is built from states"):
        locate("weatherbench2-climatology", "zarr")


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"sha256": "0" * 64, "size": 3}, "has neither a hash nor a size"),
        ({"url": ["gs://bucket/a.zarr", "https://example.org/a.zarr"]}, "url of a Zarr store is one address"),
        ({"url": "embedded:a.zarr"}, "url of a Zarr store is one address"),
        ({"url": "gs:///a.zarr"}, "expected gs://HOST/PATH"),
        ({"kind": "states"}, "gs:// leads to a Zarr store alone"),
    ),
)
def test_what_is_no_store(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Entry(**{**STORE, **changes})
