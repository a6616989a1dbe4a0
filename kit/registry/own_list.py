"""The user's own list: hashes are added to it, and the rest of the file stays as it is."""

import json
import re
from collections.abc import Mapping
from typing import Any

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, parse_toml, read_text
from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback
from kit.registry import catalogue
from kit.registry.entry import user_registry
from kit.registry.locking import locked


def record(name: str, marks: Mapping[str, str | int], watch: ProgressCallback) -> bool:
    """Add an entry's hash and size to the user's list; what the list says of it already stays.

    Args:
        name: Name of the entry.
        marks: Values by field, of ``catalogue.PIN_FIELDS``.
        watch: Receiver of a report where another process is at the list.

    Returns:
        Whether the list lacked any of it.

    Raises:
        RegistryError: the list is not TOML, or cannot be written.
    """
    path = user_registry()
    with locked(path, watch, str(path)):
        tables: dict[str, Any] = {}
        # The file keeps its permissions: addresses in it may be somebody's secret.
        text, mode = "", 0o644
        if path.exists():
            tables, text, mode = catalogue.read_tables(path), read_text(path), path.stat().st_mode & 0o777
        there = tables.get(name, {})
        changed = {**tables, name: {**marks, **there}}
        added = {key: value for key, value in marks.items() if key not in there}
        text = _with_marks(text, name, added)
        try:
            fits = parse_toml(text) == changed
        except DocumentError:
            fits = False
        if not fits:
            # The file writes its tables in a way that lines cannot be added to: written anew, without its comments.
            import tomli_w

            text = tomli_w.dumps(changed)
        try:
            write_atomically(path, text, mode)
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror or error}; set KIT_REGISTRY to a file that can"
            raise RegistryError(msg) from error
    return bool(added)


def _with_marks(text: str, name: str, values: Mapping[str, str | int]) -> str:
    """Add lines to a table, or a table to a text; the comments stay."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    spelling = re.escape(name)
    # Without quotes, a dot would part the names of two nested tables.
    spellings = f'"{spelling}"' if "." in name else f'"{spelling}"|{spelling}'
    header = re.search(rf"^\[(?:{spellings})\][^\n]*(?:\n|\Z)", text, flags=re.MULTILINE)
    if header is not None:
        above, below = text[: header.end()].removesuffix("\n"), text[header.end() :]
        return f"{above}\n{lines}{below}"
    if text:
        text = text.removesuffix("\n") + "\n\n"
    return f"{text}[{json.dumps(name)}]\n{lines}"
