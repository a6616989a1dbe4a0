"""Readers of JSON and TOML within bounds of size, depth and digits; the only module that parses either.

A text of a few kilobytes can exhaust the parser's recursion (nesting) or its time (Python converts an integer of n
digits in n**2 steps), so a document from elsewhere is held to what any of the kit's own documents needs, many times
over.
"""

import io
import json
import re
import tomllib
from itertools import accumulate
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""Largest document that is read; the description of a store with ten thousand variables is a tenth of it."""
MAX_TOML_BYTES = 4 << 20
"""Largest TOML text: its parser, in Python, reads a megabyte a second or less."""
MAX_DEPTH = 64
"""Deepest nesting of lists and tables; also the longest key of TOML, in names with dots between them."""
MAX_VALUES = 2_000_000
"""Most values, which take about 100 bytes each in memory: an empty list is two bytes of text."""
MAX_DIGITS = 400
"""Longest run of digits; the longest finite double has 309 before its point."""

# What stands between separators in TOML: a key, or a value. Numbers have one dot, keys one before each further name.
_KEY = re.compile(r"[^,=\n{}\[\]]+")
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
# Strings of JSON and TOML, and TOML's comments. JSON has neither '...' nor #, so that its parser stops at either.
# A string may lack its end, and nothing is tried twice (*+): the time is linear whatever the text.
_TEXT = re.compile(r""""(?:[^"\\\n]+|\\.)*+"?|'[^'\n]*'|#[^\n]*""")


class DocumentError(ValueError):
    """A document that cannot be read or parsed, or is beyond the bounds.

    The message names no file; of a text that cannot be parsed it is the parser's own.
    """


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file of bounded size; endless files, such as ``/dev/zero`` and FIFOs, are refused.

    Raises:
        OSError: the file is missing, a folder, or cannot be opened.
        DocumentError: it is no regular file, too large, or not UTF-8.
    """
    # A folder is left to ``open``, whose error says so.
    if path.exists() and not path.is_file() and not path.is_dir():
        msg = "it is no regular file"
        raise DocumentError(msg)
    # More than allowed tells a file that is too large; its size alone would not, while another writes to it. In pieces:
    # one read would allocate all that is allowed at once, also where a run has just run out of memory.
    data = bytearray()
    with path.open("rb") as stream:
        while len(data) <= max_bytes and (piece := stream.read(2**16)):
            data += piece
    if len(data) > max_bytes:
        msg = f"it is larger than {max_bytes} bytes"
        raise DocumentError(msg)
    try:
        # Line ends become newlines, as ``Path.read_text`` makes them.
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        msg = f"it is not UTF-8 text: {error}"
        raise DocumentError(msg) from error


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
        DocumentError: it is not UTF-8, no JSON, or beyond the bounds.
    """
    try:
        if isinstance(text, bytes):
            # A byte order mark at the start is no part of the text, as for json.loads.
            text = text.decode("utf-8-sig")
        _check_bounds(text)
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # What a quote hides from the bounds may still be deeper than the parser can go.
        raise DocumentError(str(error)) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        DocumentError: it is no TOML, or beyond the bounds.
    """
    try:
        if len(text) > MAX_TOML_BYTES:
            msg = f"it is larger than {MAX_TOML_BYTES} bytes"
            raise DocumentError(msg)
        bare = _check_bounds(text)
        # The parser makes a table of each name, and compares each with all before it.
        for key in _KEY.finditer(bare):
            if key[0].count(".") > MAX_DEPTH:
                msg = f"it holds a key of more than {MAX_DEPTH} names"
                raise DocumentError(msg)
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(str(error)) from error


def _check_bounds(text: str) -> str:
    """Check nesting, number of values and lengths of numbers before a parser sees them.

    Returns:
        The text without what is in strings and comments, which does not count.
    """
    bare = _TEXT.sub('""', text)
    values = sum(map(bare.count, ",[{"))
    if values > MAX_VALUES:
        msg = f"it holds {values} values, more than {MAX_VALUES}"
        raise DocumentError(msg)
    if _LONG_NUMBER.search(bare):
        msg = f"it holds a number of more than {MAX_DIGITS} digits"
        raise DocumentError(msg)
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", bare))
    deepest = max(accumulate(steps), default=0)
    if deepest > MAX_DEPTH:
        msg = f"it is nested {deepest} levels deep, more than {MAX_DEPTH}"
        raise DocumentError(msg)
    return bare
