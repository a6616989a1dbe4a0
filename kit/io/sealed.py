"""JSON and TOML files that carry the SHA-256 of their own text: whoever reads one knows whether it was changed.

The hash is the last value of a JSON object, and is taken of the text in which zeros stand in its place; in a TOML file
it is a comment at the end. So a file needs no other one beside it, and every byte counts, spaces too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, parse_json, read_text
from kit.io.hashes import sha256_of_text

SEAL = "sha256"
"""Key of the hash."""
_BLANK = "0" * 64
_TOML_SEAL = "# SHA-256 of the lines above: "


def sealed_text(content: Mapping[str, Any]) -> str:
    """Write an object as JSON for people to read, with its seal as the last key; a former seal is replaced."""
    kept = {key: value for key, value in content.items() if key != SEAL}
    blank = json.dumps({**kept, SEAL: _BLANK}, indent=2) + "\n"
    return blank.removesuffix(_ending(_BLANK)) + _ending(sha256_of_text(blank))


def _ending(seal: str) -> str:
    return f'"{seal}"\n}}\n'


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed JSON file, whole or not at all; what is there is replaced."""
    write_atomically(path, sealed_text(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; where it has a seal, the seal is compared.

    Returns:
        The object, its seal included; a file of an earlier version has none.

    Raises:
        OSError: the file is missing or cannot be opened.
        DocumentError: it is no JSON object within the bounds, or was changed since it was written.
    """
    text = read_text(path)
    content = parse_object(text)
    check_seal(text, content)
    return content


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON text that holds an object.

    Raises:
        DocumentError: it is no JSON object within the bounds.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        msg = f"it holds {type(content).__name__}, not an object"
        raise DocumentError(msg)
    return content


def check_seal(text: str, content: Mapping[str, Any]) -> None:
    """Compare a text with the seal that it holds, if it holds one.

    Raises:
        DocumentError: it was changed since it was written.
    """
    if SEAL not in content:
        return
    ending = _ending(str(content[SEAL]))
    found = sha256_of_text(text.removesuffix(ending) + _ending(_BLANK))
    if found != content[SEAL] or not text.endswith(ending):
        msg = f"it was changed since it was written (SHA-256 {found[:12]}... instead of {str(content[SEAL])[:12]}...)"
        raise DocumentError(msg)


def sealed_toml(text: str) -> str:
    """Add a comment with the hash of the text above it to a TOML text."""
    return f"{text}{_TOML_SEAL}{sha256_of_text(text)}\n"


def toml_seal_holds(text: str) -> bool | None:
    """Check whether a TOML text is as it was sealed; None if it has no seal."""
    above, seal, digits = text.rpartition(_TOML_SEAL)
    if not seal:
        return None
    return digits == f"{sha256_of_text(above)}\n"
