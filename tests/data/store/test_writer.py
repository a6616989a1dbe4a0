from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.data.store import finalize as finish
from kit.data.store import writer as write
from kit.data.store.blocks import WriteTask, write_block
from kit.data.store.build_state import OtherPlanError
from kit.data.store.finalize import StoreExistsError
from kit.data.store.reader import Store
from kit.io.errors import StoreError, UnavailableError
from kit.io.locks import take
from tests.data.store.builds import ATTRIBUTES, build, files_of, interrupt, one_state_blocks, small


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        one_state_blocks(patch)
        return files_of(build(tmp_path_factory.mktemp("undisturbed") / "store").path)


@pytest.fixture(autouse=True)
def _blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one_state_blocks(monkeypatch)


@pytest.mark.parametrize(
    "error",
    (
        UnavailableError("no answer"),
        StoreError("a damaged file"),
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
    ),
    ids=lambda error: type(error).__name__,
)
def test_an_interrupted_build_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    undisturbed: dict[str, bytes],
    error: BaseException,
) -> None:
    interrupt(monkeypatch, error, after=4)
    with pytest.raises(type(error)):
        build(tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == [".store.part"]
    assert "3 of 8 blocks are done and kept; the same command goes on" in caplog.text
    written = interrupt(monkeypatch, None, after=0)
    store = build(tmp_path / "store")
    assert written == [3, 4, 5, 6, 7]
    assert files_of(store.path) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_nothing_remains_of_a_build_without_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first block holds the static variables.
    interrupt(monkeypatch, StoreError("damaged"), after=1)
    with pytest.raises(StoreError, match="damaged"):
        build(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_block_whose_chunks_are_not_right_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=5)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store")
    part = tmp_path / ".store.part"
    (chunk,) = part.glob("store-*/2t/c/1/0/0")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    (part / "records" / "00000003.npz").write_bytes(b"")
    written = interrupt(monkeypatch, None, after=0)
    assert files_of(build(tmp_path / "store").path) == undisturbed
    assert written == [1, 3, 4, 5, 6, 7]


def test_another_plan_is_refused_and_can_be_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=5)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store")
    before = files_of(tmp_path)
    interrupt(monkeypatch, None, after=0)
    changed = ATTRIBUTES | {"licence": "other"}
    with pytest.raises(OtherPlanError, match=r'attributes.licence: "none" there, "other" now. .* with --restart'):
        build(tmp_path / "store", attributes=changed)
    assert files_of(tmp_path) == before
    assert build(tmp_path / "store", attributes=changed, restart=True).attributes["licence"] == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_is_being_built_cannot_be_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=5)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store")
    held = take(tmp_path / ".store.part" / "plan.json", shared=True)
    assert held is not None
    with pytest.raises(StoreError, match="another process is building there"):
        build(tmp_path / "store", restart=True)
    held.release()


@pytest.mark.parametrize("stage", range(4))
def test_an_end_that_is_cut_short_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], stage: int
) -> None:
    calls = []

    def cut(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            calls.append(function)
            if len(calls) == stage + 1:
                raise KeyboardInterrupt
            return function(*arguments)

        return counted

    with monkeypatch.context() as patch:
        for name in ("write_file", "publish"):
            patch.setattr(finish, name, cut(getattr(finish, name)))
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "store")
    written = interrupt(monkeypatch, None, after=0)
    assert files_of(build(tmp_path / "store").path) == undisturbed
    assert written == []


def test_what_a_finished_build_left_is_no_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    """Killed between the store's renaming and the removal of the rest; then the store was removed."""
    with monkeypatch.context() as patch:
        patch.setattr(write, "discard", lambda folder: False)
        shutil.rmtree(build(tmp_path / "store").path)
    assert [path.name for path in tmp_path.iterdir()] == [".store.part"]
    assert files_of(build(tmp_path / "store").path) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_several_at_once_share_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    written = interrupt(monkeypatch, None, after=0)
    stores: list[Store] = []
    builders = [threading.Thread(target=lambda: stores.append(build(tmp_path / "store", workers=2))) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(stores) == 3
    assert sorted(written) == [*range(-1, 8)]
    assert files_of(tmp_path / "store") == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_block_of_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    interrupt(monkeypatch, KeyboardInterrupt(), after=3)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "store")
    written = interrupt(monkeypatch, None, after=0)
    held = take(tmp_path / ".store.part" / "claims" / "6")
    assert held is not None

    def look(done: Callable[[], bool], _: float) -> None:
        assert not done()
        assert written == [2, 3, 4, 5, 7]
        held.release()
        assert done()

    monkeypatch.setattr("kit.data.store.executor.poll", look)
    assert files_of(build(tmp_path / "store").path) == undisturbed
    assert written[-1] == 6


def test_the_same_store_is_not_built_twice(tmp_path: Path) -> None:
    """A process that comes late finds what it would have written."""
    assert build(tmp_path / "store").fingerprint() == build(tmp_path / "store").fingerprint()
    with pytest.raises(StoreExistsError, match="exists already"):
        build(tmp_path / "store", small(times=9))


def test_who_watches_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, int]] = []

    class BuildProgressCallback:
        def begin(self, blocks: int, done: int) -> None:
            told.append((blocks, done))

        def advance(self, done: int, size: int) -> None:
            told.append((done, size))

    with caplog.at_level(logging.INFO):
        build(tmp_path / "store", watch=BuildProgressCallback())
    # 8 states of 4 x 8 points at the surface and on three levels, and one static field; 4 bytes each.
    assert (told[0], told[-1]) == ((9, 0), (9, 4 * 32 * (8 * 4 + 1)))


def test_a_failure_ends_what_runs_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are under way in other threads are given up, and no record says that they are done."""
    first = threading.Event()

    def write(block: WriteTask, stop: threading.Event) -> int:
        if block.indices is not None and block.indices[0] == 2:
            first.set()
            raise StoreError("damaged")
        if block.indices is not None and block.indices[0] == 1:
            assert first.wait(10)
            assert stop.wait(10)
        return write_block(block, stop)

    monkeypatch.setattr("kit.data.store.executor.write_block", write)
    with pytest.raises(StoreError, match="damaged"):
        build(tmp_path / "store", workers=2)
    records = {file.name for file in (tmp_path / ".store.part" / "records").iterdir()}
    # What was not begun when the failure came may have been written before it was told.
    assert {"static.npz", "00000000.npz"} <= records
    assert not {"00000001.npz", "00000002.npz"} & records
