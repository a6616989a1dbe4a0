"""Settings in layers: command line, then environment, then ``--config``, then ``--recipe``, then defaults.

Each source is read into a ``Layer``: dotted keys, values, and a name for messages. A key that the command does
not have is an error in any layer. Only then are the layers laid over each other and validated, so that every
message can say where a value came from.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kit.config.schema import entry_settings, flatten, is_table, leaves, nest, section_of, value_type
from kit.io.errors import SettingsError

__all__ = [
    "ENVIRONMENT_PREFIX",
    "OPERATIONAL",
    "Layer",
    "command_line_layer",
    "environment_layer",
    "explain_unknown",
    "nearest",
    "read_recipe",
    "read_toml",
    "recipe_names",
    "resolve",
    "together",
]

ENVIRONMENT_PREFIX = "KIT_"
OPERATIONAL = {
    "KIT_CACHE": "folder for fetched files and built stores",
    "KIT_REGISTRY": "file of your own registry entries and pins",
    "KIT_HRRR_ARCHIVE": "archives of HRRR, or addresses of mirrors, in the order in which they are asked",
    "KIT_OFFLINE": "1 to use nothing but what is on this machine",
    "KIT_WEIGHTS": "folders of weights, in which the base of a checkpoint is looked for by its hash",
    "KIT_TEST_DATA": "folder of real ERA5 files, for the tests that use them",
}
"""Environment variables with the kit's prefix that are not settings."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Layer:
    """The settings that one source gives.

    Attributes:
        origin: the source as a message names it, such as ``the command line``.
        values: values by dotted key, known or not.
        spell: writes a dotted key as the source would, such as ``KIT_TRAIN__STEPS``.
    """

    origin: str
    values: Mapping[str, Any]
    spell: Callable[[str], str] = str

    def where(self, key: str) -> str:
        """Say where a value came from."""
        spelt = self.spell(key)
        return self.origin if spelt == key else spelt

    def only(self, model: type[BaseModel]) -> Layer:
        """Keep what a class has."""
        return replace(self, values={key: value for key, value in self.values.items() if _has(model, key)})

    def without(self, model: type[BaseModel]) -> Layer:
        """Keep what a class lacks."""
        return replace(self, values={key: value for key, value in self.values.items() if not _has(model, key)})


def command_line_layer(tree: Mapping[str, Any], model: type[BaseModel]) -> Layer:
    """Make the layer of what was given on the command line."""
    return Layer("the command line", flatten(tree, model), lambda key: f"--{key}")


def environment_layer(
    model: type[BaseModel], others: Sequence[type[BaseModel]] = (), environment: Mapping[str, str] | None = None
) -> Layer:
    """Read ``KIT_*`` variables; ``__`` stands for the dot.

    Args:
        model: the settings class of this command.
        others: those of other commands; what only they have is left out, and is no mistake.
        environment: by default the process's own.
    """
    values: dict[str, Any] = {}
    for variable, text in sorted((os.environ if environment is None else environment).items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OPERATIONAL:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        found = flatten(nest({key: text}, model), model)
        values |= {name: found[name] for name in found if _has(model, name) or not _in_any(others, name)}
    return Layer("the environment", values, _as_variable)


def read_toml(path: Path, model: type[BaseModel]) -> Layer:
    """Read a ``--config`` file.

    Raises:
        SettingsError: no such file, or not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        msg = f"--config: there is no file {str(path)!r}"
        raise SettingsError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"--config: {path} is not UTF-8 text: {error}"
        raise SettingsError(msg) from None
    return _toml_layer(str(path), text, model)


def recipe_names() -> list[str]:
    """Return the names of the recipes that the package carries."""
    files = resources.files("kit.config.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name: str, model: type[BaseModel]) -> Layer:
    """Read one of the package's recipes.

    Raises:
        SettingsError: no such recipe; names the nearest, and all of them.
    """
    names = recipe_names()
    if name not in names:
        msg = f"--recipe: there is no recipe {name!r}{_hint(nearest(name, names))}; there are: {', '.join(names)}"
        raise SettingsError(msg)
    text = (resources.files("kit.config.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    return _toml_layer(f"recipe {name}", text, model)


def resolve(model: type[M], layers: Sequence[Layer]) -> M:
    """Lay the layers over each other and validate what comes out.

    Args:
        model: the settings class; may hold sections.
        layers: the most important first.

    Raises:
        SettingsError: an unknown key in any layer, or values that do not fit; one message for all of them.
    """
    faults = [fault for layer in layers for key in layer.values if (fault := _misplaced(key, layer, model))]
    if faults:
        raise SettingsError(together(faults))
    values: dict[str, Any] = {}
    sources: dict[str, Layer] = {}
    for layer in reversed(layers):
        replaced = {*_displaced(layer, model), *_emptied(layer, values)}
        below = {key: value for key, value in values.items() if key not in replaced}
        # In front of what is below: of the patterns in a table, the first that matches counts.
        values = dict(layer.values) | {key: value for key, value in below.items() if key not in layer.values}
        sources |= dict.fromkeys(layer.values, layer)
    try:
        return model.model_validate(nest(values, model))
    except ValidationError as error:
        told = [_explain(fault["loc"], fault["type"], fault["msg"], values, sources) for fault in error.errors()]
        raise SettingsError(together(told)) from None


def together(faults: Sequence[str]) -> str:
    """Make one message of several faults."""
    return faults[0] if len(faults) == 1 else "\n  ".join((f"{len(faults)} settings cannot be used:", *faults))


def explain_unknown(key: str, layer: Layer, known: Iterable[str]) -> str:
    """Say that a layer has no such key, and which key may have been meant."""
    names = list(known)
    # Whole variables before single words of settings: KIT_CACHEE is nearer to KIT_CACHE than to KIT_ADAPT__CACHE.
    close = nearest(layer.spell(key), OPERATIONAL) if layer.spell is _as_variable else []
    close = close or [layer.spell(name) for name in nearest(key, names)]
    return f"unknown setting {layer.spell(key)} (from {layer.origin}){_hint(close) or _beside(key, names)}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three names like this one: by the whole, else by what follows the last dot."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    if close:
        return close
    by_last: dict[str, list[str]] = {}
    for candidate in names:
        by_last.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    lasts = difflib.get_close_matches(name.rpartition(".")[2], by_last, n=3, cutoff=0.75)
    return [candidate for last in lasts for candidate in by_last[last]][:3]


def _as_variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def _has(model: type[BaseModel], key: str) -> bool:
    """Say whether a class has this key as a setting, a section or a value of a table."""
    return value_type(model, key) is not None or section_of(model, key) is not None


def _in_any(models: Iterable[type[BaseModel]], key: str) -> bool:
    return any(_has(model, key) for model in models)


def _hint(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _beside(key: str, names: Sequence[str]) -> str:
    """List what there is beside a key that resembles nothing."""
    section = key.rpartition(".")[0]
    siblings = [name for name in names if section and name.startswith(f"{section}.")]
    return "; there are " + ", ".join(siblings or dict.fromkeys(name.partition(".")[0] for name in names))


def _toml_layer(origin: str, text: str, model: type[BaseModel]) -> Layer:
    try:
        return Layer(origin, flatten(tomllib.loads(text), model))
    except tomllib.TOMLDecodeError as error:
        msg = f"{origin}: not valid TOML: {error}"
        raise SettingsError(msg) from None


def _misplaced(key: str, layer: Layer, model: type[BaseModel]) -> str | None:
    """Find what is wrong with where a value stands: no such key, or a section or table that is no table."""
    expected = value_type(model, key)
    value = layer.values[key]
    section = section_of(model, key)
    if section is not None:
        names = ", ".join(f"{key}.{name}" for name in leaves(section))
        return f"{key}: is a section with {names}; got {value!r} (from {layer.where(key)})"
    if expected is None:
        return explain_unknown(key, layer, leaves(model))
    if is_table(expected) and value != {}:
        form = "PATTERN.SETTING" if entry_settings(expected) else "NAME"
        return f"{key}: expected a table, such as {form}=VALUE,{form}=VALUE, got {value!r} (from {layer.where(key)})"
    if isinstance(expected, type) and issubclass(expected, BaseModel) and value != {}:
        names = ", ".join(expected.model_fields)
        return f"{key}: expected a pattern and one of its settings ({names}), got {value!r} (from {layer.where(key)})"
    return None


def _displaced(layer: Layer, model: type[BaseModel], prefix: str = "") -> list[str]:
    """Name the keys of lower layers that this layer's choice replaces, such as ``train.epochs`` by ``train.steps``."""
    groups = [[prefix + name for name in group] for group in getattr(model, "ALTERNATIVES", ())]
    displaced = [key for group in groups if any(key in layer.values for key in group) for key in group]
    for name in model.model_fields:
        section = section_of(model, name)
        displaced += _displaced(layer, section, f"{prefix}{name}.") if section else []
    return displaced


def _emptied(layer: Layer, values: Iterable[str]) -> list[str]:
    """Name the keys of lower layers that lie in a table which this layer empties."""
    tables = tuple(f"{key}." for key, value in layer.values.items() if value == {})
    return [key for key in values if key.startswith(tables)]


def _explain(
    loc: Sequence[int | str], kind: str, wanted: str, values: Mapping[str, Any], sources: Mapping[str, Layer]
) -> str:
    """Say which setting, what was expected, what it was, and where it came from."""
    path = [str(part) for part in loc]
    key = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in values), ".".join(path))
    wanted = wanted.removeprefix("Value error, ")
    wanted = wanted[:1].lower() + wanted[1:]
    if kind == "missing" and key not in values:
        return f"{key}: is needed and has no default; give --{key}"
    if key in values:
        part = ".".join(path)[len(key) + 1 :]
        wanted = f"part {int(part) + 1}: {wanted}" if part.isdigit() else wanted
        got = "" if repr(values[key]) in wanted else f", got {values[key]!r}"
        return f"{key}: {wanted}{got} (from {sources[key].where(key)})"
    below = [name for name in values if not key or name.startswith(f"{key}.")]
    named = [name for name in below if name in wanted or name.rpartition(".")[2] in wanted.split()]
    froms = ", ".join(f"{name} = {values[name]!r} from {sources[name].where(name)}" for name in named or below)
    return (f"{key}: " if key else "") + wanted + (f" ({froms})" if froms else "")
