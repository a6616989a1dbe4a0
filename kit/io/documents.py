"""JSON and TOML, read within bounds of size, depth and digits; the only module that parses either.

A text of a few kilobytes can exhaust the parser's recursion (nesting) or its time (Python converts an integer of n
digits in n**2 steps), so a document from elsewhere is held to what any of the kit's own documents needs, many times
over.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["DocumentError", "parse_json", "parse_toml", "read_json", "read_text", "read_toml"]

MAX_BYTES = 64 << 20
"""Largest document that is read; the description of a store with ten thousand variables is a tenth of it."""
MAX_DEPTH = 64
"""Deepest nesting of lists and tables."""
MAX_DIGITS = 400
"""Longest run of digits; the longest finite double has 309 before its point."""

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')


class DocumentError(ValueError):
    """A document that cannot be read or parsed, or is beyond the bounds; the message names no file."""


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file of bounded size; endless files, such as ``/dev/zero`` and FIFOs, are refused.

    Raises:
        OSError: the file is missing or cannot be opened.
        DocumentError: it is no regular file, too large, or no UTF-8.
    """
    if path.exists() and not path.is_file():
        msg = "it is no regular file"
        raise DocumentError(msg)
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        msg = f"it is larger than {max_bytes} bytes"
        raise DocumentError(msg)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"it is no UTF-8 text: {error}"
        raise DocumentError(msg) from None


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file is missing or cannot be opened.
        DocumentError: it is no JSON, or beyond the bounds.
    """
    return parse_json(read_text(path, max_bytes))


def read_toml(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: the file is missing or cannot be opened.
        DocumentError: it is no TOML, or beyond the bounds.
    """
    return parse_toml(read_text(path, max_bytes))


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        DocumentError: it is no JSON, or beyond the bounds.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    _check_bounds(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"it is no JSON: {error}"
        raise DocumentError(msg) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        DocumentError: it is no TOML, or beyond the bounds.
    """
    _check_bounds(text)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"it is no TOML: {error}"
        raise DocumentError(msg) from None


def _check_bounds(text: str) -> None:
    """Refuse deep nesting and long numbers before a parser sees them; what stands in strings does not count."""
    bare = _STRING.sub('""', text)
    if _LONG_NUMBER.search(bare):
        msg = f"it holds a number of more than {MAX_DIGITS} digits"
        raise DocumentError(msg)
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        msg = f"it is nested {deepest} levels deep, more than {MAX_DEPTH}"
        raise DocumentError(msg)
