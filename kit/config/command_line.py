"""One command's arguments: parsing and ``--help``, both generated from a settings class."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource
from pydantic_settings import SettingsError as SourceError

from kit.config.layers import command_line_layer, explain_unknown, together
from kit.config.schema import leaves, section_of
from kit.io.errors import SettingsError

__all__ = ["parse"]

_METAVARS = {
    "Period": "START/END",
    "GridSize": "ROWSxCOLUMNS",
    "timedelta": "HOURS",
    "datetime": "TIME",
    "Path": "PATH",
    "str": "TEXT",
    "float": "NUMBER",
    "int": "WHOLE",
    "tuple[str,...]": "NAME,...",
    "tuple[Rule,...]": "NAME=METHOD,...",
    "tuple[float,...]": "NUMBER,...",
    "tuple[int,...]": "WHOLE,...",
    "tuple[float,float,float,float]": "N,W,S,E",
    "dict[str,float]": "NAME=NUMBER,...",
    "dict[str,str]": "NAME=TEXT,...",
    "dict[str,JSON]": "PATTERN.SETTING=VALUE,...",
    "{{last,all},int}": "{last,all,WHOLE}",
}


def parse(model: type[BaseModel], arguments: Sequence[str], program: str) -> dict[str, Any]:
    """Read one command's arguments.

    Args:
        model: the settings class; fields are options, sections dotted options, ``CliPositionalArg`` positional.
        arguments: what follows the command's name.
        program: the command as typed, such as ``kit finetune``.

    Returns:
        The values that were given, nested; nothing for options that were left out.

    Raises:
        SettingsError: an unknown option, or one without its value.
        SystemExit: ``--help`` was asked for and has been printed.
    """
    _refuse_unknown(model, arguments)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            cast("type[BaseSettings]", model),
            cli_prog_name=program,
            cli_parse_args=_joined(arguments),
            cli_parse_none_str="none",
            cli_implicit_flags="toggle",
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_exit_on_error=False,
            cli_use_class_docs_for_groups=True,
            formatter_class=_Formatter,
        )
        return source()
    except SourceError as error:
        told = str(error).removeprefix("error parsing CLI: ").strip()
        msg = f"{told}; see {program} --help"
        raise SettingsError(msg) from None


def _refuse_unknown(model: type[BaseModel], arguments: Iterable[str]) -> None:
    """Refuse options that the command lacks; ``argparse`` itself would accept any unambiguous beginning."""
    keys = leaves(model)
    sections = [name for name in model.model_fields if name not in keys]
    toggles = [f"no-{key}" for key in keys if _default(model, key) is True]
    names = (argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--"))
    layer = command_line_layer({}, model)
    faults = [
        explain_unknown(name, layer, [*keys, *toggles])
        for name in names
        if name not in {*keys, *sections, *toggles, "help"}
    ]
    if faults:
        raise SettingsError(together(faults))


def _default(model: type[BaseModel], key: str) -> Any:
    """The default of a setting, by its dotted key."""
    parent, _, name = key.rpartition(".")
    section = section_of(model, parent) if parent else model
    field = section.model_fields.get(name) if section else None
    return field.default if field else None


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join an option with a value that starts with a minus, which ``argparse`` would take for an option."""
    joined: list[str] = []
    for argument in arguments:
        previous = joined[-1] if joined else ""
        if re.match(r"-\d|-\.\d", argument) and previous.startswith("--") and "=" not in previous:
            joined[-1] = f"{previous}={argument}"
        else:
            joined.append(argument)
    return joined


class _Formatter(argparse.HelpFormatter):
    """Help with a short usage line, readable kinds of values, and defaults only where there is one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(120, argparse.HelpFormatter(prog)._width))

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],  # noqa: ARG002
        prefix: str | None = None,
    ) -> None:
        """List positional arguments only; the options follow one by one anyway."""
        positional = [action for action in actions if not action.option_strings]
        shown = " ".join([self._prog, *(self._metavar_formatter(action, action.dest)(1)[0] for action in positional)])
        super().add_usage(f"{shown} [options]" if usage is None else usage, [], [], prefix)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action).replace("``", "")
        return re.sub(r" ?\(default: (None|none|False|True|\{\})\)$", "", text)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        if isinstance(action.metavar, str):
            action.metavar = _METAVARS.get(action.metavar, action.metavar)
        return super()._metavar_formatter(action, default_metavar)
