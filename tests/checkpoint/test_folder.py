"""The checkpoint folder: whole or absent, readable by itself, and never executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from kit.checkpoint import folder as folder_module
from kit.checkpoint.folder import finish_exchange, open_checkpoint, write_checkpoint
from kit.io.errors import CheckpointError
from tests.batches import small_spec
from tests.checkpoints import redescribe
from tests.hostile import Command


def write(path: Path, value: float, resume: dict[str, Any] | None = None) -> None:
    description = {"kit_version": "0", "model": small_spec("small").as_dict(), "value": value}
    write_checkpoint(path, {"weight": torch.full((2,), value)}, description, resume)


def value_of(path: Path) -> float:
    value: float = open_checkpoint(path).description["value"]
    return value


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "last", 1.0, resume={"step": 3, "rng": torch.get_rng_state()})
    checkpoint = open_checkpoint(tmp_path / "last")
    assert checkpoint.spec == small_spec("small")
    state = checkpoint.resume_state()
    assert state["step"] == 3
    assert torch.equal(state["rng"], torch.get_rng_state())


def test_an_adapter_has_the_files_that_peft_reads(tmp_path: Path) -> None:
    base = {"name": "base", "file": "base.safetensors", "sha256": "0" * 64}
    model = small_spec("small").as_dict()
    description = {"kit_version": "0", "model": model, "adapter": {"settings": {}, "base": base}}
    adapter = {"base_model.model.a.lora_A.weight": torch.ones(1, 2)}
    for name, others in (("alone", {}), ("more", {"decoder.head.bias": torch.ones(3)})):
        write_checkpoint(tmp_path / name, adapter | others, description, adapter_config={"r": 1, "peft_type": "LORA"})
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert files == {"adapter_model.safetensors", "adapter_config.json", "kit.json"} | (
            {"trained.safetensors"} if others else set()
        )
        with safe_open(tmp_path / name / "adapter_model.safetensors", framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert list(opened.keys()) == list(adapter)
        assert json.loads((tmp_path / name / "adapter_config.json").read_text())["r"] == 1
        assert open_checkpoint(tmp_path / name).tensors().keys() == (adapter | others).keys()


def test_a_new_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        write(tmp_path / "last", value)
    assert value_of(tmp_path / "last") == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "last", 1.0)

    def full_disk(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "last", 2.0)
    assert value_of(tmp_path / "last") == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_disk_that_fills_up_under_pytorchs_writer_is_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexplained(*_args: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    monkeypatch.setattr(torch, "save", unexplained)
    with pytest.raises(OSError, match=r"could not be written to its end: a quota, or the limit .*state\.pt"):
        write(tmp_path / "last", 1.0, resume={"step": 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "last", 1.0, resume={"step": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("present", "expected"),
    (
        # What a kill leaves: the new one half-written; whole and not yet exchanged; the old one already moved away;
        # both exchanged and the old one not yet deleted.
        (("last", ".last.new half"), 1.0),
        (("last", ".last.new"), 2.0),
        ((".last.old", ".last.new"), 2.0),
        ((".last.old",), 1.0),
        (("last", ".last.old"), 1.0),
    ),
)
def test_an_exchange_that_was_cut_short_is_finished(tmp_path: Path, present: tuple[str, ...], expected: float) -> None:
    for name in present:
        write(tmp_path / "made", 2.0 if ".new" in name else 1.0)
        (tmp_path / "made").rename(tmp_path / name.split()[0])
        if name.endswith("half"):
            (tmp_path / ".last.new" / "kit.json").unlink()
    finish_exchange(tmp_path / "last")
    assert value_of(tmp_path / "last") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_missing_checkpoint_names_those_nearby(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints" / "best", 1.0)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint folder with kit.json.*checkpoints/best"):
        open_checkpoint(tmp_path)


def test_a_newer_format_says_which_kit_to_install(tmp_path: Path) -> None:
    write(tmp_path / "last", 1.0)
    file = tmp_path / "last" / "kit.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99, "kit_version": "9.9"}))
    with pytest.raises(CheckpointError, match=r"format 99, but this kit reads format 1; install version 9.9"):
        open_checkpoint(tmp_path / "last")


def test_training_state_that_runs_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    write(tmp_path / "last", 1.0, resume={"step": 1})
    torch.save({"step": Command(f"touch {tmp_path / 'executed'}")}, tmp_path / "last" / "resume" / "state.pt")
    # As a stranger would write it, who can write hashes too.
    redescribe(tmp_path / "last", str)
    with pytest.raises(CheckpointError, match="nothing was executed"):
        open_checkpoint(tmp_path / "last").resume_state()
    assert not (tmp_path / "executed").exists()


def test_the_training_state_may_be_deleted(tmp_path: Path) -> None:
    write(tmp_path / "last", 1.0, resume={"step": 1})
    shutil.rmtree(tmp_path / "last" / "resume")
    with pytest.raises(CheckpointError, match="cannot be resumed without resume/state.pt"):
        open_checkpoint(tmp_path / "last").resume_state()
