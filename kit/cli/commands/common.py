"""What all commands share: their options, how settings are put together, and what a command ends with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from kit.bench.settings import BenchSettings
from kit.checkpoint.run_folder import RunFolder
from kit.config import layers
from kit.config.command_line import parse
from kit.doctor.settings import DoctorSettings
from kit.export.settings import ExportSettings
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.settings import ForecastSettings
from kit.planning.settings import PlanSettings
from kit.plots.settings import PlotSettings
from kit.registry.settings import RegistrySettings
from kit.settings import Settings
from kit.tracking.settings import SyncSettings, UiSettings
from kit.verification.comparison_settings import CompareSettings
from kit.verification.settings import EvaluateSettings

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Outcome:
    """End of a command.

    Attributes:
        result: Result for machines, printed with ``--json``.
        as_json: Whether that was asked for.
        show: Writes the result for people, on standard error.
        exit_code: 0, or 2 where the result is that something is unfit.
    """

    result: Mapping[str, Any]
    as_json: bool
    show: Callable[[Any], None]
    exit_code: int = 0


class Options(BaseModel):
    """Options that every command has."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    as_json: bool = Field(default=False, alias="json")
    """Write the result to standard output as one JSON object."""


class Layers(Options):
    """Options of commands that take the settings of a run."""

    recipe: str | None = None
    """Settings to start from: a recipe that the kit carries."""
    config: Path | None = None
    """TOML file of settings; they go before the recipe's."""


class BuildOptions(Options):
    """Options of ``kit data build``."""

    dry_run: bool = Field(default=False, alias="dry-run")
    """Say how many GB, requests and hours the build will take, by one block of it that is read; build nothing."""


class _RegistryAlone(BaseModel):
    """What commands that take no other settings from the environment take from it."""

    registry: RegistrySettings = RegistrySettings()


# Commands whose settings may come from KIT_* variables too. A variable that only another of them knows is no mistake.
_IN_ENVIRONMENT: tuple[type[BaseModel], ...] = (
    Settings,
    PlanSettings,
    EvaluateSettings,
    ForecastSettings,
    EnsembleSettings,
    ExportSettings,
    PlotSettings,
    BenchSettings,
    UiSettings,
    DoctorSettings,
    SyncSettings,
    CompareSettings,
    Layers,
)


def resolve_settings(
    command: Callable[..., object], model: type[M], arguments: Sequence[str], extra: type[Options] = Options
) -> tuple[M, Any]:
    """Put one command's settings together: arguments, environment, ``--config``, ``--recipe``, defaults.

    Args:
        command: Function of the command; its name and docstring are those of ``--help``.
        model: Class of its settings.
        arguments: What follows the command's name.
        extra: Class of its options.

    Returns:
        The settings, and the options.

    Raises:
        SettingsError: a setting is unknown or malformed, wherever it comes from.
    """
    words = command.__name__.replace("_", " ")
    accepted = type(command.__name__, (extra, model), {"__doc__": command.__doc__, "__module__": __name__})
    given = [layers.command_line_layer(parse(accepted, arguments, f"kit {words}"), accepted)]
    if model in _IN_ENVIRONMENT:
        given.append(layers.environment_layer(accepted, _IN_ENVIRONMENT))
    elif "registry" in model.model_fields:
        # A machine that is set to refuse files without a hash is to refuse them in every command that fetches some.
        layer = layers.environment_layer(_RegistryAlone)
        section = {key: value for key, value in layer.values.items() if key.startswith("registry.")}
        given.append(replace(layer, values=section))
    options = layers.resolve(extra, [layer.only(extra) for layer in given])
    given = [layer.without(extra) for layer in given]
    if isinstance(options, Layers):
        if options.config is not None:
            # Of a run it can be written anew, before anybody says that it is no TOML.
            run = RunFolder(options.config.absolute().parent)
            if options.config.name == run.config.name:
                run.restore_config()
            given.append(layers.read_toml(options.config, model))
        if options.recipe is not None:
            given.append(layers.read_recipe(options.recipe, model))
    return layers.resolve(model, given), options
