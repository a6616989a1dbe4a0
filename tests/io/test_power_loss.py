"""Files and folders under their final names are whole after a power loss at any moment."""

from pathlib import Path
from typing import Literal

import pytest

from tests.power_loss import Events, watched

_WRITE = """
import sys
from pathlib import Path
from kit.io.atomic import published, write_atomically
root = Path(sys.argv[1])
write_atomically(root / "old.txt", "new content")
write_atomically(root / "fresh.txt", "fresh content")
with published(root / "deep" / "folder") as part:
    (part / "inner").mkdir(parents=True)
    (part / "inner" / "a.txt").write_text("a")
    (part / "b.txt").write_text("b")
"""
_CARELESS = """
import sys
from pathlib import Path
root = Path(sys.argv[1])
(root / "part").write_text("content")
(root / "part").rename(root / "final.txt")
with (root / "other").open("w") as file:
    import os
    os.fsync(file.fileno())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "old.txt").write_text("old content")
    return folder


@pytest.mark.parametrize("names", ("durable", "kept"))
def test_final_names_stand_for_whole_files(root: Path, tmp_path: Path, names: Literal["durable", "kept"]) -> None:
    events = watched(["-c", _WRITE, str(root)], root, tmp_path / "log")
    allowed = {
        "old.txt": {"old content", "new content"},
        "fresh.txt": {"fresh content"},
        "a.txt": {"a"},
        "b.txt": {"b"},
    }
    for moment in range(len(events) + 1):
        place = tmp_path / f"{names}-{moment}"
        events.restore(moment, place, names)
        assert (place / "old.txt").exists()
        for path in place.rglob("*.txt"):
            if not any(part.startswith(".") for part in path.relative_to(place).parts):
                assert path.read_text() in allowed[path.name], f"{path} at {moment}"
        folder = place / "deep" / "folder"
        assert not folder.exists() or {path.name for path in folder.rglob("*")} == {"inner", "a.txt", "b.txt"}


def test_what_was_written_outlives_the_loss_after_the_end(root: Path, tmp_path: Path) -> None:
    events = watched(["-c", _WRITE, str(root)], root, tmp_path / "log")
    events.restore(len(events), tmp_path / "after", "durable")
    found = {str(path.relative_to(tmp_path / "after")) for path in (tmp_path / "after").rglob("*.txt")}
    assert found == {"old.txt", "fresh.txt", "deep/folder/inner/a.txt", "deep/folder/b.txt"}
    assert (tmp_path / "after" / "old.txt").read_text() == "new content"


def test_a_rename_without_fsync_is_caught(root: Path, tmp_path: Path) -> None:
    events: Events = watched(["-c", _CARELESS, str(root)], root, tmp_path / "log")
    events.restore(len(events), tmp_path / "kept", "kept")
    assert (tmp_path / "kept" / "final.txt").read_text() == ""
    events.restore(len(events), tmp_path / "durable", "durable")
    assert {path.name for path in (tmp_path / "durable").iterdir()} == {"old.txt"}
