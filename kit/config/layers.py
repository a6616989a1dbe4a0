"""Settings in layers: command line, then environment, then ``--config``, then ``--recipe``, then defaults.

Each source is read into a ``Layer``: dotted keys, values, and a name for messages. A key that the command does
not have is an error in any layer. Only then are the layers laid over each other and validated, so that every
message can say where a value came from.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kit.config.schema import can_be_none, entry_settings, flatten, is_table, leaves, nest, section_of, value_type
from kit.config.suggestions import near_names
from kit.io.documents import DocumentError, parse_toml, read_text
from kit.io.errors import SettingsError
from kit.io.sealed import toml_seal_holds
from kit.io.secrets import remember

_logger = logging.getLogger(__name__)

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

_SHOWN = 200
"""Letters of a value that a message shows."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Layer:
    """Settings that one source gives.

    Attributes:
        origin: Source as a message names it, such as ``the command line``.
        values: Values by dotted key, known or not.
        spell: Function that writes a dotted key as the source would, such as ``KIT_TRAIN__STEPS``.
    """

    origin: str
    values: Mapping[str, Any]
    spell: Callable[[str], str] = str

    def where(self, key: str) -> str:
        """Name the place that a value came from."""
        spelt = self.spell(key)
        return self.origin if spelt == key else spelt

    def only(self, model: type[BaseModel]) -> Layer:
        """Keep the keys that a class has."""
        return replace(self, values={key: value for key, value in self.values.items() if _has(model, key)})

    def without(self, model: type[BaseModel]) -> Layer:
        """Keep the keys that a class lacks."""
        return replace(self, values={key: value for key, value in self.values.items() if not _has(model, key)})


def command_line_layer(tree: Mapping[str, Any], model: type[BaseModel]) -> Layer:
    """Make the layer of what was given on the command line."""
    values = flatten(tree, model)
    for key, value in values.items():
        # pydantic-settings takes the word for an absent value wherever it stands; of a setting that cannot be absent it
        # is one of the values, as in memory.recompute, or a name.
        if value is None and not can_be_none(value_type(model, key)):
            values[key] = "none"
        elif isinstance(value, list):
            values[key] = ["none" if part is None else part for part in value]
    return Layer("the command line", values, lambda key: f"--{key}")


def from_keywords(model: type[M], settings: BaseModel | None, keywords: Mapping[str, Any]) -> M:
    """Make settings of what a function of the Python API was called with.

    Args:
        model: Settings class of the function.
        settings: Settings object, of this class or of one whose settings it shares; keywords go before it.
        keywords: Settings by name; sections are tables or settings objects.

    Raises:
        SettingsError: a setting is unknown or malformed.
    """
    if isinstance(settings, model) and not keywords:
        return settings
    layers = [Layer("the call", flatten(_plain(keywords), model))]
    if settings is not None:
        layers.append(Layer(type(settings).__name__, flatten(settings.model_dump(exclude_unset=True), model)))
    return resolve(model, layers)


def _plain(value: Any) -> Any:
    """Write settings objects as tables, and paths as text, in which the short forms of the command line are read."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value


def environment_layer(
    model: type[BaseModel], others: Sequence[type[BaseModel]] = (), environment: Mapping[str, str] | None = None
) -> Layer:
    """Read ``KIT_*`` variables; ``__`` stands for the dot.

    Args:
        model: Settings class of this command.
        others: Settings classes of other commands; what only they have is left out, and is no mistake. So is what the
            command's own class names in ``NOT_IN_ENVIRONMENT``: another command's setting of that name.
        environment: Variables; by default the process's own.
    """
    if environment is None:
        environment = os.environ
    values: dict[str, Any] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OPERATIONAL:
            continue
        # Shells have no dots in names of variables.
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if key in getattr(model, "NOT_IN_ENVIRONMENT", ()):
            continue
        found = flatten(nest({key: text}, model), model)
        values |= {name: found[name] for name in found if _has(model, name) or not _is_in_any(others, name)}
    return Layer("the environment", values, _as_variable)


def read_toml(path: Path, model: type[BaseModel]) -> Layer:
    """Read a ``--config`` file; one that the kit wrote and that was changed since is read with a warning.

    Raises:
        SettingsError: no such file, or not TOML.
    """
    try:
        text = read_text(path)
    except (FileNotFoundError, IsADirectoryError):
        msg = f"--config: there is no file {str(path)!r}"
        raise SettingsError(msg) from None
    except DocumentError as error:
        msg = f"--config: {path} {str(error).removeprefix('it ')}"
        raise SettingsError(msg) from None
    if toml_seal_holds(text) is False:
        _logger.warning("%s was changed since the kit wrote it; its settings are taken as they stand", path)
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
    """Lay the layers over each other and validate the result.

    Args:
        model: Settings class; may hold sections.
        layers: Layers, the most important first.

    Raises:
        SettingsError: an unknown key in any layer, or values that do not fit; one message for all of them.
    """
    # Before any message repeats a value.
    for layer in layers:
        for value in layer.values.values():
            if isinstance(value, str):
                remember(value)
    # All faults at once: a person who mends one should not meet the next at the next try.
    faults: list[str] = []
    for layer in layers:
        for key in layer.values:
            fault = _misplaced(key, layer, model)
            if fault is not None:
                faults.append(fault)
    if faults:
        raise SettingsError(together(faults))
    # From the least important layer up. The layer of each value is kept, for the messages.
    values: dict[str, Any] = {}
    sources: dict[str, Layer] = {}
    for layer in reversed(layers):
        # An empty table empties what lower layers have in it.
        emptied = tuple(f"{key}." for key, value in layer.values.items() if value == {})
        replaced = {*layer.values, *_displaced(layer, model)}
        # In front of what is below: of the patterns in a table, the first that matches counts.
        below, values = values, dict(layer.values)
        for key, value in below.items():
            if key not in replaced and not key.startswith(emptied):
                values[key] = value
        sources |= dict.fromkeys(layer.values, layer)
    try:
        settings = model.model_validate(nest(values, model))
    except ValidationError as invalid:
        faults += [_explain(error["loc"], error["type"], error["msg"], values, sources) for error in invalid.errors()]
        raise SettingsError(together(faults)) from None
    # TOML and text have numbers that are none, which pass for positive ones or compare with nothing.
    for key, value in flatten(settings.model_dump(), model).items():
        if key in sources and not _is_finite(value):
            faults.append(f"{key}: expected finite numbers, got {values[key]!r} (from {sources[key].where(key)})")
    if faults:
        raise SettingsError(together(faults))
    return settings


def _is_finite(value: Any) -> bool:
    """Check that a value holds neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def together(faults: Sequence[str]) -> str:
    """Make one message of several faults."""
    if len(faults) == 1:
        return faults[0]
    return "\n  ".join((f"{len(faults)} settings cannot be used:", *faults))


def explain_unknown(key: str, layer: Layer, known: Iterable[str]) -> str:
    """Explain that a layer's key is unknown, and which key may have been meant."""
    names, spelt = list(known), layer.spell(key)
    close: list[str] = []
    if layer.spell is _as_variable:
        # Whole variables before single words of settings: KIT_CACHEE is nearer to KIT_CACHE than to KIT_ADAPT__CACHE.
        close = nearest(spelt, OPERATIONAL)
    close = close or list(map(layer.spell, nearest(key, names)))
    hint = _hint(close)
    if not close:
        # A key that resembles nothing: what else its section has, or which sections there are.
        section = key.rpartition(".")[0]
        siblings = [name for name in names if section and name.startswith(f"{section}.")]
        hint = "; there are " + ", ".join(siblings or dict.fromkeys(name.partition(".")[0] for name in names))
    return f"unknown setting {spelt} (from {layer.origin}){hint}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Find up to three names like this one: by the whole, else by what follows the last dot."""
    names = list(known)
    close = near_names(name, names, cutoff=0.75)
    if close:
        return close
    # A person may know a setting's name and not its section.
    by_last: dict[str, list[str]] = {}
    for candidate in names:
        by_last.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    for last in near_names(name.rpartition(".")[2], by_last, cutoff=0.75):
        close += by_last[last]
    return close[:3]


def _as_variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def _has(model: type[BaseModel], key: str) -> bool:
    """Check whether a class has this key as a setting, a section or a value of a table."""
    return value_type(model, key) is not None or section_of(model, key) is not None


def _is_in_any(models: Iterable[type[BaseModel]], key: str) -> bool:
    return any(_has(model, key) for model in models)


def _hint(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _toml_layer(origin: str, text: str, model: type[BaseModel]) -> Layer:
    try:
        return Layer(origin, flatten(parse_toml(text), model))
    except DocumentError as error:
        msg = f"{origin}: not valid TOML: {error}"
        raise SettingsError(msg) from None


def _misplaced(key: str, layer: Layer, model: type[BaseModel]) -> str | None:
    """Explain what is wrong with a key: it is unknown, or a section or table whose value is no table."""
    expected, value, section = value_type(model, key), layer.values[key], section_of(model, key)
    if section is not None:
        names = ", ".join(f"{key}.{name}" for name in leaves(section))
        return f"{key}: is a section with {names}; got {value!r} (from {layer.where(key)})"
    if expected is None:
        return explain_unknown(key, layer, leaves(model))
    # The values of a table have keys of their own. An empty one is a value: it empties the tables of lower layers.
    if is_table(expected) and value != {}:
        form = "PATTERN.SETTING" if entry_settings(expected) else "NAME"
        return f"{key}: expected a table, such as {form}=VALUE,{form}=VALUE, got {value!r} (from {layer.where(key)})"
    if isinstance(expected, type) and issubclass(expected, BaseModel) and value != {}:
        names = ", ".join(expected.model_fields)
        return f"{key}: expected a pattern and one of its settings ({names}), got {value!r} (from {layer.where(key)})"
    return None


def _displaced(layer: Layer, model: type[BaseModel], prefix: str = "") -> list[str]:
    """Name the keys of lower layers that this layer's choice replaces, such as ``train.epochs`` by ``train.steps``."""
    # Both alternatives go, the layer's own comes back with its value: train.steps is then alone.
    displaced: list[str] = []
    for alternatives in getattr(model, "ALTERNATIVES", ()):
        keys = [prefix + name for name in alternatives]
        if not layer.values.keys().isdisjoint(keys):
            displaced += keys
    for name in model.model_fields:
        section = section_of(model, name)
        if section is not None:
            displaced += _displaced(layer, section, f"{prefix}{name}.")
    return displaced


def _explain(
    loc: Sequence[int | str], kind: str, wanted: str, values: Mapping[str, Any], sources: Mapping[str, Layer]
) -> str:
    """Explain a fault: which setting, what was expected, what it was, and where it came from."""
    # pydantic's place goes on inside a value, such as "data.region.3": the setting is the longest key that was given.
    path = key = ".".join(map(str, loc))
    while key and key not in values:
        key = key.rpartition(".")[0]
    key = key or path
    # pydantic's sentence goes on behind the setting's name.
    wanted = wanted.removeprefix("Value error, ")
    wanted = wanted[:1].lower() + wanted[1:]
    if key in values:
        part = path[len(key) + 1 :]
        if part.isdigit():
            wanted = f"part {int(part) + 1}: {wanted}"
        got = repr(values[key])
        if got not in wanted:
            wanted += f", got {got[:_SHOWN]}"
        return f"{key}: {wanted} (from {sources[key].where(key)})"
    if kind == "missing":
        return f"{key}: is needed and has no default; give --{key}"
    # The fault of a whole section: the settings that the message names, else all that were given in it.
    below = [name for name in values if not key or name.startswith(f"{key}.")]
    named = [name for name in below if name in wanted or name.rpartition(".")[2] in wanted.split()]
    origins = [f"{name} = {values[name]!r} from {sources[name].where(name)}" for name in named or below]
    if key:
        wanted = f"{key}: {wanted}"
    if origins:
        wanted += f" ({', '.join(origins)})"
    return wanted
