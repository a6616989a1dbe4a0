from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.cli import main as cli
from kit.data.store.reader import Store
from kit.data.store.verify import verify
from kit.io.errors import StoreError
from tests.data.store.builds import build

CHUNK = "t/c/2/0/0/0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("verify") / "store").path


@pytest.fixture
def store(made: Path) -> Iterator[Path]:
    """A store whose files are put back after the test."""
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    yield made
    for file in made.rglob("*"):
        if file.is_file() and file not in before:
            file.unlink()
    for file, content in before.items():
        file.write_bytes(content)


def test_what_was_not_touched_passes(store: Path) -> None:
    result = verify(store)
    assert result.problems == ()
    # A chunk for each of 8 states of two variables, one static, three coordinates; times, manifest, statistics; and
    # the metadata of 7 arrays and of the whole.
    assert result.files == 8 * 2 + 1 + 3 + 1 + 1 + 1 + 7 + 1
    assert result.size == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def test_a_report_of_the_checks_is_no_stranger(store: Path) -> None:
    (store / "qa.json").write_text("{}")
    assert verify(store).problems == ()


def edited(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(store: Path) -> None:
        content = json.loads((store / name).read_text())
        change(content)
        (store / name).write_text(json.dumps(content))

    return edit


def flipped(name: str) -> Callable[[Path], None]:
    def flip(store: Path) -> None:
        content = bytearray((store / name).read_bytes())
        content[len(content) // 2] ^= 1
        (store / name).write_bytes(bytes(content))

    return flip


@pytest.mark.parametrize(
    ("change", "file", "problem"),
    (
        (flipped(CHUNK), CHUNK, "was changed"),
        (lambda s: (s / CHUNK).write_bytes((s / CHUNK).read_bytes()[:-5]), CHUNK, " bytes, "),
        (lambda s: (s / CHUNK).unlink(), CHUNK, "is gone"),
        (flipped("latitude/c/0"), "latitude/c/0", "was changed"),
        (flipped("static_z/c/0/0"), "static_z/c/0/0", "was changed"),
        (lambda s: (s / "t" / "c" / "8").write_text(""), "t/c/8", "is none of the store's files"),
        (lambda s: (s / "notes.txt").write_text(""), "notes.txt", "is none of the store's files"),
        (flipped("time/c/0"), "time", "was changed|cannot be read"),
        (lambda s: (s / "time" / "c" / "0").unlink(), "time", "was changed"),
        (flipped("stats.json"), "stats.json", "was changed"),
        (lambda s: (s / "stats.json").unlink(), "stats.json", "is gone"),
        (edited("zarr.json", lambda d: d["attributes"].update(licence="mine")), "zarr.json", "was changed"),
        (edited("2t/zarr.json", lambda d: d["attributes"].update(units="C")), "2t/zarr.json", "was changed"),
        (lambda s: (s / "2t" / "zarr.json").write_text("{"), "2t/zarr.json", "was changed"),
        (lambda s: (s / "2t" / "zarr.json").unlink(), "2t/zarr.json", "is gone"),
        (lambda s: (s / "manifest.txt").unlink(), "manifest.txt", "is gone"),
        (lambda s: (s / "manifest.txt").write_text("?\n"), "manifest.txt", "cannot be read"),
    ),
)
def test_every_damage_is_named(store: Path, change: Callable[[Path], object], file: str, problem: str) -> None:
    change(store)
    found = verify(store).problems
    assert any(one.file == file and any(words in one.problem for words in problem.split("|")) for one in found), found
    if file not in ("manifest.txt", "time"):
        assert len(found) == 1


def test_a_store_tells_of_it_too(store: Path) -> None:
    opened = Store.open(store)
    opened.verify()
    (store / CHUNK).unlink()
    (store / "2t" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(StoreError, match=rf"store: 2t/c/0/0/0 is gone, and 1 more \(all: kit data verify {store}\)"):
        opened.verify()


def test_a_line_of_the_manifest_is_traced_to_its_variable(store: Path) -> None:
    lines = (store / "manifest.txt").read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.endswith(f"{CHUNK}\n"))
    lines[place] = "0" + lines[place][1:] if lines[place][0] != "0" else "1" + lines[place][1:]
    (store / "manifest.txt").write_text("".join(lines))
    (manifest, chunk) = verify(store).problems
    assert (manifest.file, manifest.problem) == ("manifest.txt", "was changed: the lines of t")
    assert chunk.file == CHUNK


def test_what_is_no_store(tmp_path: Path, store: Path) -> None:
    with pytest.raises(StoreError, match="no such store; build one"):
        verify(tmp_path / "absent")
    with pytest.raises(StoreError, match="no readable Zarr v3 group"):
        verify(tmp_path)
    edited("zarr.json", lambda d: d["attributes"].pop("integrity"))(store)
    with pytest.raises(StoreError, match="holds no hashes of its files"):
        verify(store)


def test_the_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "verify", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    (store / CHUNK).unlink()
    assert cli.main(["data", "verify", str(store), "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["problems"] == [{"file": CHUNK, "problem": "is gone"}]
    assert set(result) == {"store", "passed", "files", "bytes", "problems"}
    assert cli.main(["data", "verify", str(store)]) == 2
    assert f"{CHUNK} is gone" in capsys.readouterr().err
