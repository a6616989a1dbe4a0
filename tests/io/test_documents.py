"""JSON and TOML are read within bounds."""

from __future__ import annotations

import math
import os
import tomllib
from pathlib import Path

import pytest

from kit.io.documents import (
    MAX_DEPTH,
    MAX_DIGITS,
    DocumentError,
    parse_json,
    parse_toml,
    read_json,
    read_text,
    read_toml,
)


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null], "b": "[[{"}')
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None], "b": "[[{"}
    (tmp_path / "a.toml").write_bytes(b"a = 1\r\n[b]\r\nc = '''x\r\ny'''\r\n")
    assert read_toml(tmp_path / "a.toml") == {"a": 1, "b": {"c": "x\ny"}}
    assert read_text(tmp_path / "a.toml") == (tmp_path / "a.toml").read_text()


def test_numbers_are_the_parsers_own() -> None:
    assert parse_json("[0.1, 1e400, 12345678901234567890123]") == [0.1, math.inf, 12345678901234567890123]
    assert math.isnan(parse_json("NaN"))


def test_bytes_are_utf_8() -> None:
    assert parse_json('"°"'.encode()) == "°"
    assert parse_json(b"\xef\xbb\xbf1") == 1
    with pytest.raises(DocumentError, match="can't decode byte 0xff"):
        parse_json(b'"\xff"')


def test_the_parser_says_what_is_wrong() -> None:
    with pytest.raises(DocumentError, match=r"^Expecting ',' delimiter: line 1 column 4 \(char 3\)$"):
        parse_json("[1 2]")
    with pytest.raises(DocumentError) as caught:
        parse_toml("a = ")
    assert isinstance(caught.value.__cause__, tomllib.TOMLDecodeError)
    assert str(caught.value) == str(caught.value.__cause__)


def test_what_is_no_text_of_bounded_size(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        read_json(file)
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path)
    file.write_text("[1]")
    assert read_json(file, max_bytes=3) == [1]
    with pytest.raises(DocumentError, match="larger than 2 bytes"):
        read_json(file, max_bytes=2)
    file.write_bytes(b"\xff")
    with pytest.raises(DocumentError, match="not UTF-8"):
        read_json(file)
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DocumentError, match="no regular file"):
            read_text(endless)


def test_depth_is_bounded() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    parse_json(deepest)
    parse_toml(f"a = {deepest}")
    too_deep = f"[{deepest}]"
    for text in (too_deep, "[" * 100_000, '{"a":' * 65 + "1" + "}" * 65):
        with pytest.raises(DocumentError, match=r"nested \d+ levels deep, more than 64"):
            parse_json(text)
    with pytest.raises(DocumentError, match="nested 65 levels"):
        parse_toml(f"a = {too_deep}")


def test_numbers_are_bounded() -> None:
    assert parse_json("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    with pytest.raises(DocumentError, match="a number of more than 400 digits"):
        parse_json("9" * (MAX_DIGITS + 1))
    with pytest.raises(DocumentError, match="a number of more than 400 digits"):
        parse_toml("a = " + "9" * (MAX_DIGITS + 1))


def test_strings_and_comments_are_no_structure() -> None:
    assert parse_json('["' + "[" * 100 + '", "\\"' + "9" * 500 + '"]') == ["[" * 100, '"' + "9" * 500]
    comments = "# longitudes in [0, 360), don't say \"90 W\n" * 100
    assert parse_toml(comments + "a = '" + "[" * 100 + "'") == {"a": "[" * 100}


def test_brackets_behind_a_quote_are_still_refused() -> None:
    """The bounds take it for a string; the parser's own recursion ends it."""
    deep = "[" * 20_000
    with pytest.raises(DocumentError):
        parse_toml(f"a = ['\"', {deep}{']' * 20_000}, '\"']")
    with pytest.raises(DocumentError):
        parse_json('"' + '\\"' * 200_000)
