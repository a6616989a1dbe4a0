"""Files of statistics in the forms in circulation, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.checks.drift import read_reference, upstream
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.factories import synthetic_store

PAIR = {"2t": (278.5, 21.2)}


@pytest.mark.parametrize(
    "content",
    (
        '{"2t": {"mean": 278.5, "std": 21.2}, "note": "two metres"}',
        '{"2t": [278.5, 21.2], "three": [1, 2, 3], "text": ["a", "b"], "yes": [true, false], "far": [1'
        + "0" * 390
        + ", 1]}",
        '{"variables": {"2t": {"mean": 278.5, "std": 21.2, "min": 200}, "lake": {"mean": null, "std": null}}}',
        '{"locations": {"2t": 278.5, "msl": 1}, "scales": {"2t": 21.2}}',
    ),
)
def test_every_form_gives_the_same(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    found = read_reference(tmp_path / "s.json")
    assert (dict(found.values), found.whole, found.name) == (PAIR, False, str(tmp_path / "s.json"))


@pytest.mark.parametrize("content", (b"", b"{", b"[]", b"{}", b'{"2t": 3}', b"\xff\xfe", b"3", b"[" * 100_000))
def test_what_is_no_statistics_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"s.json: (no statistics found|not a file of statistics).*such as"):
        read_reference(tmp_path / "s.json")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no statistics there; give upstream, a store's folder"):
        read_reference(tmp_path)


def test_a_stores_own(tmp_path: Path) -> None:
    store: Store = synthetic_store(tmp_path / "store", times=4, levels=(500,))
    own = store.statistics.variables["t_500"]
    assert read_reference(store.path).values["t_500"] == (own.mean, own.std)


def test_upstreams_are_of_the_whole_globe() -> None:
    assert upstream().whole
    assert upstream().values["msl"] == pytest.approx((100957.8, 1332.246), rel=1e-5)
