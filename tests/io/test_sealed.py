"""A sealed file is read as it was written, or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.io.documents import DocumentError
from kit.io.hashes import sha256_of_text
from kit.io.sealed import read_sealed, sealed_text, write_sealed

ZEROS = "0" * 64


def test_the_seal_is_the_hash_of_the_text_with_zeros_in_its_place(tmp_path: Path) -> None:
    # The content holds as many zeros, and an older seal, itself.
    write_sealed(tmp_path / "a.json", {"base": ZEROS, "sha256": "f" * 64, "more": 1})
    content = read_sealed(tmp_path / "a.json")
    assert list(content) == ["base", "more", "sha256"]
    blank = json.dumps({"base": ZEROS, "more": 1, "sha256": ZEROS}, indent=2) + "\n"
    assert content["sha256"] == sha256_of_text(blank)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()), st.data())
def test_no_changed_byte_is_read(content: dict[str, Any], data: st.DataObject) -> None:
    content.pop("sha256", None)
    text = sealed_text(content).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 127).filter(lambda value: value not in (text[place], ord("\r"))))
    changed = text[:place] + bytes([byte]) + text[place + 1 :]
    assert _read(text) is not None
    found = _read(changed)
    # A changed key of the seal makes a file without one, which whoever needs a seal refuses.
    assert found is None or "sha256" not in found


def _read(text: bytes) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(text)
        try:
            return read_sealed(path)
        except DocumentError:
            return None


@pytest.mark.parametrize("text", ("", "[1]", "{", '{"a": 1, "sha256": 5}', '{"a": 1, "sha256": ""}'))
def test_what_is_no_sealed_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DocumentError):
        read_sealed(tmp_path / "a.json")


def test_files_of_earlier_versions_have_no_seal(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "a.json") == {"a": 1}
