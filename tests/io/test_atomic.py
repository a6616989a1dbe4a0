"""Files and folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kit.io.atomic import (
    check_free,
    exchange,
    move,
    publish,
    published,
    remove_leftovers,
    remove_tree,
    sync,
    write_atomically,
)
from kit.io.errors import SettingsError


def test_a_file_appears_when_the_body_succeeds(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.json"
    with published(out) as part:
        part.write_text("{}")
        assert part.parent == out.parent
        assert not out.exists()
    assert out.read_text() == "{}"
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_appears_with_what_is_in_it(tmp_path: Path) -> None:
    with published(tmp_path / "store") as part:
        (part / "2t").mkdir(parents=True)
        (part / "2t" / "0.0").write_bytes(b"\1\2")
        (part / "link").symlink_to("nowhere")
    assert (tmp_path / "store" / "2t" / "0.0").read_bytes() == b"\1\2"
    assert (tmp_path / "store" / "link").is_symlink()


def fail_in(part: Path, *, folder: bool) -> None:
    if folder:
        part.mkdir()
        (part / "half").touch()
    else:
        part.touch()
    raise KeyboardInterrupt


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_left_of_a_body_that_fails(tmp_path: Path, *, folder: bool) -> None:
    with pytest.raises(KeyboardInterrupt), published(tmp_path / "out") as part:
        fail_in(part, folder=folder)
    assert not list(tmp_path.iterdir())


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write_both() -> None:
        with published(out) as part:
            part.write_text("ours")
            out.write_text("theirs")

    with pytest.raises(SettingsError, match="out: exists already; choose another place with --out"):
        write_both()
    assert out.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_to_nowhere_is_something(tmp_path: Path) -> None:
    check_free(tmp_path / "out")
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="choose another place with --to"):
        check_free(tmp_path / "out", "--to")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_atomically(path, "Grüße\n")
    assert path.read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\n"
    write_atomically(path, b"\0", mode=0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\0", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "notes.txt", "new")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_on_the_disk_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    def fsync(descriptor: int) -> None:
        held.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    part = tmp_path / "part"
    part.mkdir()
    (part / "file").touch()
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    publish(part, tmp_path / "out")
    # What is in the folder, and the folder's names, in any order; then the name of the folder itself.
    assert sorted(held[:-1]) == ["file", "part"]
    assert held[-1] == tmp_path.name
    held.clear()
    move(tmp_path / "out", tmp_path / "other" / "out")
    assert held == ["other", tmp_path.name]


def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")


def test_a_folder_that_a_thread_still_fills_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    folder.mkdir()
    stop = threading.Event()

    def fill() -> None:
        for n in range(1000):
            if stop.wait(0.001) or n == 100:
                return
            folder.mkdir(exist_ok=True)
            (folder / str(n)).write_bytes(b"0")

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join(0.02)
    remove_tree(folder)
    stop.set()
    thread.join()
    remove_tree(folder)
    assert not folder.exists()
    remove_tree(folder)


def test_a_name_that_need_not_last_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        msg = "nothing waits for the disk"
        raise AssertionError(msg)

    (tmp_path / "part").write_text("chunk")
    monkeypatch.setattr(os, "fsync", fsync)
    move(tmp_path / "part", tmp_path / "chunk", durable=False)
    assert (tmp_path / "chunk").read_text() == "chunk"


_KILLED = """
import sys, time
from pathlib import Path
from kit.io.atomic import published
with published(Path(sys.argv[1])) as part:
    part.mkdir()
    (part / "half").touch()
    print("writes", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_goes_on_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writes\n"
    assert remove_leftovers(tmp_path) == []
    process.kill()
    process.wait()
    process.stdout.close()
    # Parts of downloads and builds are gone on with by their own commands.
    (tmp_path / ".states.bin.part").touch()
    (tmp_path / ".store.0123456789ab.part").mkdir()
    (tmp_path / ".loss.png.12345.0123abcd.part").write_bytes(b"half a figure")
    with published(tmp_path / "forecast.nc") as mine:
        mine.touch()
        assert len(remove_leftovers(tmp_path)) == 2
        assert mine.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".states.bin.part", ".store.0123456789ab.part", "forecast.nc"}
    assert remove_leftovers(tmp_path / "missing") == []


def test_where_there_are_no_locks_nothing_is_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".loss.png.12345.0123abcd.part").touch()
    with published(tmp_path / "out") as part:
        part.touch()
        assert remove_leftovers(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {".loss.png.12345.0123abcd.part", "out"}
    assert caplog.text == ""


def test_two_folders_exchange_their_names_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    with pytest.raises(OSError, match="No such file or directory"):
        exchange(tmp_path / "one", tmp_path / "missing")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path / "one", tmp_path / "other")
