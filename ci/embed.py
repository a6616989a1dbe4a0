"""Put a file that this repository makes itself into the package, and its hash into the data registry.

Used by the scripts that make the embedded sample and the tiny model: the file goes to ``kit/resources``
in one atomic step, then the entry's ``sha256`` and ``size`` lines in ``kit/data-registry.toml`` follow.
Everything else in the registry, comments included, stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["REGISTRY", "RESOURCES", "embed", "update_entry", "write_atomically"]

_PACKAGE = Path(__file__).resolve().parents[1] / "kit"
RESOURCES = _PACKAGE / "resources"
"""Where embedded files live; package resources, so an installed kit has them too."""
REGISTRY = _PACKAGE / "data-registry.toml"
"""Every file the kit may use, by hash."""

_log = logging.getLogger(__name__)


def embed(name: str, file: str, content: bytes, labels: Mapping[str, str | bool]) -> Path:
    """Write one embedded file and bring its registry entry up to date.

    Args:
        name: the registry entry, such as ``era5-sample``.
        file: the file's name below ``kit/resources``.
        content: the whole file.
        labels: licence, kind, description and so on; written only where the entry does not exist yet, so
            that wording edited in the registry is kept.

    Returns:
        The path written.
    """
    path = RESOURCES / file
    write_atomically(path, content)
    text = REGISTRY.read_text(encoding="utf-8") if REGISTRY.exists() else ""
    digest = hashlib.sha256(content).hexdigest()
    if not _section(text, name):
        text = _append_entry(text, name, {"file": file, "url": f"embedded:{file}", **labels})
    write_atomically(REGISTRY, update_entry(text, name, digest, len(content)).encode())
    _log.info("%s: %d bytes, SHA-256 %s", path, len(content), digest)
    return path


def update_entry(text: str, name: str, sha256: str, size: int) -> str:
    """Replace the hash and the size of one entry in a registry's text.

    Args:
        text: the registry, TOML.
        name: the entry's table name.
        sha256: 64 hexadecimal digits.
        size: bytes.

    Returns:
        The registry with the entry's ``sha256`` and ``size`` lines replaced, or added where it had none.

    Raises:
        ValueError: the registry has no such entry.
    """
    section = _section(text, name)
    if section is None:
        msg = f"the registry has no entry [{name}]; add one with a file, url, licence, kind and description"
        raise ValueError(msg)
    body = _set_line(section.group("body"), "sha256", json.dumps(sha256))
    body = _set_line(body, "size", str(size))
    return text[: section.start("body")] + body + text[section.end("body") :]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either absent, old or whole, never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _section(text: str, name: str) -> re.Match[str] | None:
    """Find one table: its header line, and its body up to the next header or the end."""
    header = rf'^\[(?:{re.escape(name)}|"{re.escape(name)}")\][^\n]*\n'
    return re.search(rf"{header}(?P<body>.*?)(?=^\[|\Z)", text, flags=re.MULTILINE | re.DOTALL)


def _set_line(body: str, key: str, value: str) -> str:
    """Replace ``key = ...`` in a table's body, or put it on top of the body."""
    line = f"{key} = {value}\n"
    changed, count = re.subn(rf"^{key}\s*=[^\n]*\n?", line, body, count=1, flags=re.MULTILINE)
    return changed if count else line + body


def _append_entry(text: str, name: str, labels: Mapping[str, str | bool]) -> str:
    """Add a table at the end of the registry's text."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in labels.items())
    gap = "\n" if text and not text.endswith("\n\n") else ""
    return f"{text}{gap}[{name}]\n{lines}"
