"""Settings as MLflow parameters: flat, short, valid and without secrets."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime

from kit.io.hashes import sha256_of_text
from kit.io.secrets import is_secret_name, scrub

_MAX_VALUE = 6000  # MLflow's limit, in characters
_MAX_KEY = 250
_INVALID = re.compile(r"[^/\w.\- ]")


def flatten(settings: Mapping[str, object]) -> dict[str, str]:
    """Turn nested settings into one text per dotted key.

    Args:
        settings: Dump of a settings model, in Python or JSON mode; values may be mappings, sequences,
            scalars, paths, dates and ``None``.

    Returns:
        ``{"train.steps": "20", "data.levels": "[500,850]", "model.weights": "none"}``. Settings whose name
        says that they hold a secret are left out, secrets inside texts are masked. An empty mapping is
        kept, as ``{}``, so that nothing resolved goes unrecorded.
    """
    return dict(_leaves(settings, ""))


def fit_value(text: str) -> str:
    """Cut a text to what MLflow takes as a parameter, ending a cut one with its length and SHA-256."""
    if len(text) <= _MAX_VALUE:
        return text
    note = f"... ({len(text)} characters, sha256 {sha256_of_text(text)})"
    return text[: _MAX_VALUE - len(note)] + note


def valid_key(key: str) -> str:
    """Turn a key into one that MLflow takes as the name of a parameter, a metric or a tag.

    A key that has to change ends with six digits of its hash, so that two keys never become one.
    """
    # MLflow wants plain relative paths: no empty part, and none that leads upwards.
    parts = [part for part in _INVALID.sub("_", key).split("/") if part not in {"", ".", ".."}]
    valid = "/".join(parts)[:_MAX_KEY]
    return key if valid == key else f"{valid[: _MAX_KEY - 7]}-{sha256_of_text(key)[:6]}"


def _leaves(value: object, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping) or (key and not value):
        yield key, scrub(_text(value))
        return
    for name, inner in value.items():
        if not is_secret_name(str(name)):
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    # JSON, so that MLflow's page shows a list or a switch as the settings file writes it.
    if isinstance(value, (bool, list, tuple, set, frozenset, Mapping)):
        return json.dumps(_plain(value), separators=(",", ":"))
    return str(value)


def _plain(value: object) -> object:
    """Turn containers into what JSON can hold, without the secrets in them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items() if not is_secret_name(str(name))}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(inner) for inner in value), key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _text(value)
