"""Looking things up in a settings class: dotted keys, sections, and the short forms that text may take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["entry_settings", "flatten", "is_table", "leaves", "nest", "section_of", "value_type"]

_SEQUENCES = (tuple, list)


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the annotation of every setting that is not a section, by dotted key."""
    found: dict[str, Any] = {}
    for name, annotation in _annotations(model).items():
        section = _as_section(annotation)
        found |= leaves(section, f"{prefix}{name}.") if section else {prefix + name: annotation}
    return found


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the class of a section by its dotted key; None if the key is no section."""
    section: type[BaseModel] | None = model
    for name in key.split("."):
        section = _as_section(_annotations(section).get(name)) if section else None
    return section


def value_type(model: type[BaseModel], key: str) -> Any:
    """Return the annotation of a setting, or of one value in a table such as ``loss.weights.2t``.

    In a table of sections, such as ``optim.groups``, whose names may have dots, that of a setting of an entry, such
    as ``optim.groups.encoder.*.lr``; else the entry's class. None if the key is none of these.
    """
    known = leaves(model)
    if key in known:
        return known[key]
    table = _table_above(model, key)
    if table is not None:
        section = entry_settings(known[table])
        return _annotations(section).get(key.rpartition(".")[2], section) if section else None
    parent = known.get(key.rpartition(".")[0])
    return get_args(_table(parent))[1] if is_table(parent) else None


def entry_settings(annotation: Any) -> type[BaseModel] | None:
    """Return the class of a table's entries, if they are sections themselves."""
    return _as_section(get_args(_table(annotation))[1]) if is_table(annotation) else None


def _table_above(model: type[BaseModel], key: str) -> str | None:
    """Return the table of sections that a key lies in."""
    return next(
        (name for name, kind in leaves(model).items() if key.startswith(f"{name}.") and entry_settings(kind)), None
    )


def nest(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Turn dotted keys into nested values: the inverse of ``flatten``."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = _path(key, model)
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        if value == {}:
            # An empty table may come after what is to be in it.
            branch.setdefault(name, {})
        else:
            branch[name] = value
    return tree


def _path(key: str, model: type[BaseModel]) -> list[str]:
    table = _table_above(model, key)
    if table is None:
        return key.split(".")
    entry, _, name = key[len(table) + 1 :].rpartition(".")
    section = entry_settings(leaves(model)[table])
    known = bool(entry) and section is not None and name in _annotations(section)
    return [*table.split("."), *([entry, name] if known else [key[len(table) + 1 :]])]


def is_table(annotation: Any) -> bool:
    """Say whether a setting's value is itself a table."""
    return _table(annotation) is not None


def flatten(tree: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Turn nested values into dotted keys, and the short forms of text into values.

    Descends into sections, tables and whatever the model does not know. An empty section yields nothing, any
    other empty table itself.
    """
    return dict(_flat(tree, model, ()))


def _flat(tree: Mapping[str, Any], model: type[BaseModel] | None, path: tuple[str, ...]) -> list[tuple[str, Any]]:
    annotations = _annotations(model) if model else {}
    found: list[tuple[str, Any]] = []
    for name, raw in tree.items():
        annotation = annotations.get(name)
        value = _coerce(raw, annotation)
        here = (*path, name)
        section = _as_section(annotation)
        if isinstance(value, Mapping) and (value or section):
            found += _flat(value, section, here)
        else:
            found.append((".".join(here), value))
    return found


def _coerce(value: Any, annotation: Any) -> Any:
    """Read the short forms: ``none``, ``a,b`` for sequences, ``a=1,b=2`` for tables, JSON for these and sections."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    kinds = _alternants(annotation)
    if text.lower() == "none" and type(None) in kinds:
        return None
    table = is_table(annotation)
    sequence = any(get_origin(kind) in _SEQUENCES for kind in kinds)
    if text[:1] in {"[", "{"} and (table or sequence or _as_section(annotation)):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return value
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if table and parts and "=" in parts[0]:
        return _pairs(parts)
    return parts if sequence else value


def _pairs(parts: Sequence[str]) -> dict[str, str]:
    """A table from ``a=1`` and ``b=2``; what has no name belongs to the value before it: ``tp=quantile:0.1,0.5``."""
    pairs: list[tuple[str, str]] = []
    for part in parts:
        if "=" in part:
            name, _, value = part.partition("=")
            pairs.append((name, value))
        else:
            name, value = pairs.pop()
            pairs.append((name, f"{value},{part}"))
    return dict(pairs)


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _as_section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _alternants(annotation: Any) -> list[Any]:
    """Split unions and take off ``Annotated``: the plain types that a value may have."""
    if hasattr(annotation, "__metadata__"):
        return _alternants(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternants(part)]
    return [annotation]


def _table(annotation: Any) -> Any:
    return next((kind for kind in _alternants(annotation) if get_origin(kind) is dict), None)
