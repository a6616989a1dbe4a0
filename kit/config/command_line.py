"""Parser of one command's arguments and its ``--help``, both generated from a settings class."""

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

# Kinds of values as pydantic-settings names them, and as a person would write them.
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
    "{auto,int}": "{auto,WHOLE}",
    "{{last,all},int}": "{last,all,WHOLE}",
}


def parse(model: type[BaseModel], arguments: Sequence[str], program: str) -> dict[str, Any]:
    """Read one command's arguments.

    Args:
        model: Settings class; fields are options, sections dotted options, ``CliPositionalArg`` positional.
        arguments: Arguments behind the command's name.
        program: Command as typed, such as ``kit finetune``.

    Returns:
        The values that were given, nested; nothing for options that were left out.

    Raises:
        SettingsError: an unknown option, or one without its value.
        SystemExit: ``--help`` was asked for and has been printed.
    """
    _check_known(model, arguments)
    # argparse would take a number that starts with a minus for an option: it is joined with its own option.
    joined: list[str] = []
    for argument in arguments:
        is_negative = re.match(r"-\d|-\.\d", argument)
        if is_negative and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            cast("type[BaseSettings]", model),
            cli_prog_name=program,
            cli_parse_args=joined,
            # TOML has no null, so that "none" stands for it in every layer.
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
        msg = f"{str(error).removeprefix('error parsing CLI: ').strip()}; see {program} --help"
        raise SettingsError(msg) from None


def _check_known(model: type[BaseModel], arguments: Iterable[str]) -> None:
    """Check that the command has all options; ``argparse`` itself would accept any unambiguous beginning."""
    options = list(leaves(model))
    for key in leaves(model):
        section, _, name = key.rpartition(".")
        field = (section_of(model, section) or model).model_fields.get(name)
        # A setting that is true by default is turned off by an option of its own.
        if field is not None and field.default is True:
            options.append(f"no-{key}")
    # pydantic-settings takes a whole section, too, as JSON.
    known = {*options, *model.model_fields, "help"}
    layer = command_line_layer({}, model)
    names = [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")]
    faults = [explain_unknown(name, layer, options) for name in names if name not in known]
    if faults:
        raise SettingsError(together(faults))


def _as_given(values: str) -> str:
    """Write the values of a tuple's text as a command line takes them: ``'a', 'b'`` is ``a,b``."""
    return ",".join(part.strip(" '") for part in values.split(",") if part.strip())


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
        words = [self._prog]
        for action in actions:
            if not action.option_strings:
                words += self._metavar_formatter(action, action.dest)(1)
        super().add_usage(usage or f"{' '.join(words)} [options]", [], [], prefix)

    def _expand_help(self, action: argparse.Action) -> str:
        # Docstrings of settings mark code with two backquotes. A default of none or off says nothing.
        text = super()._expand_help(action).replace("``", "")
        text = re.sub(r" ?\(default: (None|none|False|True|\{\}|\(\))\)$", "", text)
        # Several values are written as they are given.
        return re.sub(r"\(default: \((.*)\)\)$", lambda values: f"(default: {_as_given(values[1])})", text)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        if isinstance(action.metavar, str):
            action.metavar = _METAVARS.get(action.metavar, action.metavar)
        return super()._metavar_formatter(action, default_metavar)
