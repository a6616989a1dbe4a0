"""Hashes, compared with published values."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.io.hashes import digest, new_sha256, sha256_of_bytes, sha256_of_file, sha256_of_text

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of "abc": FIPS 180-2, appendix B.1."""
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_one_text_in_every_form(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    pieces = new_sha256(b"a")
    pieces.update(b"bc")
    found = [sha256_of_bytes(b"abc"), sha256_of_text("abc"), sha256_of_file(file), digest(file, "sha256")]
    assert [*found, pieces.hexdigest()] == [ABC] * 5
    assert new_sha256().hexdigest() == EMPTY


def test_text_is_hashed_as_utf_8() -> None:
    assert sha256_of_text("°") == sha256_of_bytes(b"\xc2\xb0")


def test_a_file_longer_than_a_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "long").write_bytes(content)
    assert sha256_of_file(tmp_path / "long") == sha256_of_bytes(content)


def test_object_ids_are_those_of_git(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert digest(file, "git_blob") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    # What `git hash-object` says of it: the example of the book Pro Git, chapter 10.2.
    file.write_bytes(b"test content\n")
    assert digest(file, "git_blob") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256_of_file(tmp_path / "missing")
