"""Look-ups in a settings class: dotted keys, sections, and the short forms that text may take."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from kit.io.documents import DocumentError, parse_json


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the annotation of every setting that is not a section, by dotted key."""
    found: dict[str, Any] = {}
    for name, annotation in _annotations(model).items():
        section = _as_section(annotation)
        if section is None:
            found[prefix + name] = annotation
        else:
            found |= leaves(section, f"{prefix}{name}.")
    return found


def differing(section: BaseModel) -> list[str]:
    """List the settings of a section that are not the defaults."""
    fields = type(section).model_fields.items()
    return [
        name
        for name, field in fields
        if getattr(section, name) != field.get_default(call_default_factory=True, validated_data={})
    ]


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the class of a section by its dotted key; None if the key is no section."""
    section: type[BaseModel] | None = model
    for name in key.split("."):
        if section is not None:
            section = _as_section(_annotations(section).get(name))
    return section


def value_type(model: type[BaseModel], key: str) -> Any:
    """Return the annotation of a setting, or of one value in a table such as ``loss.weights.2t``.

    In a table of sections, such as ``optim.groups``, whose names may have dots, that of a setting of an entry, such
    as ``optim.groups.encoder.*.lr``; else the entry's class. None if the key is none of these.
    """
    known = leaves(model)
    if key in known:
        return known[key]
    parent, _, name = key.rpartition(".")
    table = _table_above(model, key)
    if table is not None:
        entry = entry_settings(known[table])
        if entry is None:
            return None
        return _annotations(entry).get(name, entry)
    if not is_table(known.get(parent)):
        return None
    return get_args(_table(known[parent]))[1]


def entry_settings(annotation: Any) -> type[BaseModel] | None:
    """Return the class of a table's entries, if they are sections themselves."""
    if not is_table(annotation):
        return None
    return _as_section(get_args(_table(annotation))[1])


def _table_above(model: type[BaseModel], key: str) -> str | None:
    """Return the table of sections that a key lies in."""
    for name, annotation in leaves(model).items():
        if key.startswith(f"{name}.") and entry_settings(annotation) is not None:
            return name
    return None


def nest(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Turn dotted keys into nested values: the inverse of ``flatten``."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = _split(key, model)
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        if value == {}:
            # An empty table may come after what is to be in it.
            branch.setdefault(name, {})
        else:
            branch[name] = value
    return tree


def _split(key: str, model: type[BaseModel]) -> list[str]:
    """Split a dotted key at the dots between sections; names of a table's entries may have dots themselves."""
    table = _table_above(model, key)
    if table is None:
        return key.split(".")
    inside = key.removeprefix(f"{table}.")
    entry, _, name = inside.rpartition(".")
    section = entry_settings(leaves(model)[table])
    if entry and section is not None and name in _annotations(section):
        return [*table.split("."), entry, name]
    return [*table.split("."), inside]


def can_be_none(annotation: Any) -> bool:
    """Check whether a setting's value may be absent."""
    return type(None) in _alternants(annotation)


def is_table(annotation: Any) -> bool:
    """Check whether a setting's value is itself a table."""
    return _table(annotation) is not None


def flatten(tree: Mapping[str, Any], model: type[BaseModel] | None, prefix: str = "") -> dict[str, Any]:
    """Turn nested values into dotted keys, and the short forms of text into values.

    Descends into sections, tables and whatever the model does not know. An empty section yields nothing, any
    other empty table itself.
    """
    annotations = {} if model is None else _annotations(model)
    found: dict[str, Any] = {}
    for name, raw in tree.items():
        annotation = annotations.get(name)
        value = _coerce(raw, annotation)
        section = _as_section(annotation)
        if isinstance(value, Mapping) and (value or section):
            found |= flatten(value, section, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _coerce(value: Any, annotation: Any) -> Any:
    """Read the short forms: ``none``, ``a,b`` for sequences, ``a=1,b=2`` for tables, JSON for these and sections."""
    if not isinstance(value, str):
        return value
    # Only text is coerced: TOML's own values have their types already.
    text = value.strip()
    if text.lower() == "none" and can_be_none(annotation):
        return None
    kinds = _alternants(annotation)
    table = is_table(annotation)
    sequence = any(get_origin(kind) in (tuple, list) for kind in kinds)
    if text[:1] in {"[", "{"} and (table or sequence or _as_section(annotation)):
        try:
            return parse_json(text)
        # The value as it was given: pydantic's message then shows what is wrong with it.
        except DocumentError:
            return value
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if table and parts and "=" in parts[0]:
        pairs: dict[str, str] = {}
        name = ""
        for part in parts:
            if "=" in part:
                name, _, first = part.partition("=")
                pairs[name] = first
            else:
                # What has no name belongs to the value before it: tp=quantile:0.1,0.5.
                pairs[name] += f",{part}"
        return pairs
    return parts if sequence else value


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
