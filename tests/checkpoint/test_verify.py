"""Verification of what lies on a disk, of each kind, and readers beside a writer."""

from __future__ import annotations

import json
import runpy
import shutil
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kit.checkpoint import folder as folder_module
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.checkpoint.verify import verify_path
from kit.cli.main import main
from kit.export.export import export
from kit.export.settings import ExportSettings
from kit.io import hashes
from kit.io.errors import CheckpointError, KitError
from kit.models.weights.integrity import hash_files, problems_of
from tests.batches import small_spec
from tests.checkpoints import store_for, write_delta, write_whole
from tests.run.test_made_before import MADE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("made")
    store = store_for(folder / "store")
    base = write_whole(folder / "base", store)
    delta = write_delta(folder / "runs" / "a" / "checkpoints" / "best", base, store)
    # What a killed export left here goes with the next one.
    left = folder / ".given.0123456789ab.part"
    (left / "given").mkdir(parents=True)
    left.with_name(f"{left.name}.lock").touch()
    for name in ("given", "given.tar"):
        export(ExportSettings(checkpoint=(delta,), out=folder / name))
    assert not list(folder.glob(".*"))
    return SimpleNamespace(folder=folder, store=store.path, delta=delta)


def test_each_kind_is_verified(made: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {
        "base": "checkpoint", "runs/a/checkpoints/best": "checkpoint", "given": "export", "given.tar": "archive",
        "store": "store",
    }  # fmt: skip
    for name, kind in kinds.items():
        assert main(["verify", str(made.folder / name), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["path"], result["kind"], result["passed"]) == (str(made.folder / name), kind, True)
        assert result["problems"] == []
    given = [path for path in (made.folder / "given").iterdir() if path.is_file()]
    assert verify_path(made.folder / "given")["files"] == len(given) == 3
    assert verify_path(made.folder / "given")["bytes"] == sum(path.stat().st_size for path in given)
    assert verify_path(made.folder / "given.tar")["bytes"] == sum(path.stat().st_size for path in given)


def test_a_run_without_its_records_is_told(made: SimpleNamespace) -> None:
    result = verify_path(made.folder / "runs" / "a")
    assert (result["kind"], result["passed"]) == ("run", False)
    assert {problem["file"] for problem in result["problems"]} == {
        "config.toml", "metrics.jsonl", "provenance.json", "qa.json", "tracking.json", "trains.json",
    }  # fmt: skip


def test_figures_beside_a_checkpoint_are_no_checkpoint(made: SimpleNamespace, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made.folder / "runs" / "a", tmp_path / "a"))
    (run / "checkpoints" / "figures").mkdir()
    (run / "checkpoints" / "figures" / "2t.png").write_bytes(b"a map")
    assert verify_path(run)["problems"] == verify_path(made.folder / "runs" / "a")["problems"]
    # A checkpoint of the run without its description is one still, and so is a copy under another name.
    shutil.copytree(run / "checkpoints" / "best", run / "checkpoints" / "kept")
    for name in ("best", "kept"):
        (run / "checkpoints" / name / "kit.json").unlink()
    told = {problem["file"] for problem in verify_path(run)["problems"]}
    assert {"checkpoints/best/kit.json", "checkpoints/kept/kit.json"} <= told


def test_what_is_none_of_them_is_told(made: SimpleNamespace, tmp_path: Path) -> None:
    for path, found in ((tmp_path, "found none of them"), (tmp_path / "nowhere", "found nothing")):
        with pytest.raises(KitError, match=rf"expected a checkpoint \(kit.json\), a run folder .*{found}"):
            verify_path(path)
    (tmp_path / "file").write_bytes(b"no archive")
    with pytest.raises(KitError, match="cannot be read as an archive that kit export wrote"):
        verify_path(tmp_path / "file")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "file", "other/file")
    with pytest.raises(KitError, match=r"expected an archive with kit.json"):
        verify_path(tmp_path / "other.tar")


@pytest.mark.parametrize(("name", "problem"), (("README.md", "was changed"), ("kit.json", "it was changed since")))
def test_a_changed_file_in_an_archive_is_named(made: SimpleNamespace, tmp_path: Path, name: str, problem: str) -> None:
    content = bytearray((made.folder / "given.tar").read_bytes())
    with tarfile.open(made.folder / "given.tar") as archive:
        start = archive.getmember(f"given/{name}").offset_data
    content[start + 30] ^= 1
    (tmp_path / "changed.tar").write_bytes(content)
    (found,) = verify_path(tmp_path / "changed.tar")["problems"]
    assert found["file"] == name
    assert problem in found["problem"]
    (tmp_path / "cut.tar").write_bytes(content[:-20000])
    with pytest.raises(KitError, match=r"cannot be read as an archive .*unexpected end of data"):
        verify_path(tmp_path / "cut.tar")


def test_checkpoints_of_before_load_with_one_warning_and_cannot_be_verified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tarfile.open(MADE) as archive:
        archive.extractall(tmp_path, filter="data")
    last = tmp_path / "runs" / "before" / "checkpoints" / "last"
    for _ in range(2):
        open_checkpoint(last).tensors()
    (told,) = (message for message in caplog.messages if "kept no hashes of files" in message)
    assert told.startswith(f"{last}: was written by a version of the kit")
    (problem,) = verify_path(last)["problems"]
    assert (problem["file"], problem["problem"].split(":")[0]) == ("kit.json", "holds no hashes of files")


def test_a_refusal_says_what_can_be_done(made: SimpleNamespace, tmp_path: Path) -> None:
    checkpoints = tmp_path / "runs" / "a" / "checkpoints"
    for name in ("best", "last"):
        shutil.copytree(made.folder / "base", checkpoints / name)
    write_checkpoint(
        checkpoints / "last", {"weight": torch.ones(2)}, open_checkpoint(checkpoints / "last").description, {"step": 1}
    )
    (checkpoints / "last" / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"notes.txt is none of the checkpoint's files. Move away what is not"):
        open_checkpoint(checkpoints / "last")
    (checkpoints / "last" / "notes.txt").unlink()
    # What a Mac or a network file system leaves is no file of anybody's.
    (checkpoints / "last" / ".DS_Store").touch()
    state = checkpoints / "last" / "resume" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1])
    words = rf"resume/state.pt has \d+ bytes, .* remove {checkpoints}/last/resume to use them, .*--model.weights"
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(checkpoints / "last")
    # Done as it says.
    shutil.rmtree(checkpoints / "last" / "resume")
    open_checkpoint(checkpoints / "last")
    file = checkpoints / "last" / "model.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors was changed .* take {checkpoints}/best beside it, or"
    ):
        open_checkpoint(checkpoints / "last")


@pytest.mark.parametrize("in_one_step", (True, False))
def test_no_reader_meets_a_moment_without_a_checkpoint(
    tmp_path: Path, in_one_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system cannot exchange names in one step."""
    if not in_one_step:
        monkeypatch.setattr(folder_module, "exchange", lambda *_: False)

    def write(value: int) -> None:
        tensors = {name: torch.full((1000,), float(value)) for name in "abc"}
        write_checkpoint(tmp_path / "last", tensors, {"kit_version": "0", "model": small_spec("small").as_dict()})

    stop = threading.Event()

    def train() -> None:
        value = 1
        while not stop.is_set():
            write(value)
            value += 1

    write(0)
    writer = threading.Thread(target=train)
    writer.start()
    seen = set()
    try:
        for _ in range(2000):
            tensors = open_checkpoint(tmp_path / "last").tensors()
            (value,) = {float(part) for tensor in tensors.values() for part in tensor}
            seen.add(value)
            if len(seen) > 10:
                break
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_large_files_are_hashed_once_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hashes, "_LARGE", 1000)
    monkeypatch.setattr(hashes, "_SLOW", 1000)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(2000))
    recorded = hash_files(tmp_path)
    assert caplog.messages == []
    monkeypatch.setattr(hashes, "_remembered", {})
    for _ in range(3):
        assert problems_of(tmp_path, recorded) == {}
    assert caplog.messages == [f"verifying {file} (0.0 GiB)"]
    # Written to, it is read again; the size is as before.
    with file.open("r+b") as stream:
        stream.write(b"\1")
    assert list(problems_of(tmp_path, recorded)) == ["model.safetensors"]


def test_the_time_of_a_verification_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parents[2] / "ci" / "verification_time.py"
    runpy.run_path(str(script))["main"](0.25)
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(told) == ["write", "read alone", "open", "open again"]
    assert float(told["open again"].removesuffix(" s")) < float(told["open"].removesuffix(" s"))
    assert list(tmp_path.iterdir()) == []
