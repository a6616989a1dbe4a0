"""Settings as a checkpoint recorded them, with those that are newer than the kit that wrote it."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, ValidationError

from kit.config.schema import entry_settings, section_of
from kit.io.errors import KitError
from kit.settings import Settings
from kit.train.build import Job, resolved_settings
from kit.train.resolve import resolve_run

SettingPath = tuple[str, ...]
"""Names of sections, of a table's entry, and of a setting, from the root on."""


def missing_settings(recorded: Mapping[str, Any], model: type[BaseModel] = Settings) -> list[SettingPath]:
    """List the settings that a recorded configuration lacks, being newer than the kit that wrote it.

    Args:
        recorded: Dump of settings.
        model: Class of the settings.
    """
    missing: list[SettingPath] = []
    for name, field in model.model_fields.items():
        section, entry = section_of(model, name), entry_settings(field.annotation)
        if section is not None:
            missing += [(name, *path) for path in missing_settings(recorded.get(name, {}), section)]
        elif name not in recorded:
            missing.append((name,))
        elif entry is not None:
            for key, values in recorded[name].items():
                missing += [(name, key, *path) for path in missing_settings(values, entry)]
    return missing


def as_begun(recorded: Mapping[str, Any], settings: Settings) -> Settings:
    """Replace defaults that are not what an earlier kit did by what it did.

    Args:
        recorded: Settings that the checkpoint recorded.
        settings: Settings that the run goes on with, before they are resolved.
    """
    then, now = recorded.get("train", {}), settings.train
    # Validation was in the precision of training, and its losses are compared with those of the run's beginning.
    if "valid_precision" not in then and now.valid_precision == "auto":
        train = now.model_copy(update={"valid_precision": then.get("precision", now.precision)})
        return settings.model_copy(update={"train": train})
    return settings


def completed(recorded: Mapping[str, Any], settings: Settings, job: Job) -> dict[str, Any]:
    """Fill in settings that were not recorded with the defaults that the run had.

    Args:
        recorded: Settings that the checkpoint recorded.
        settings: Settings that the run goes on with, before they were resolved.
        job: The run with these settings.
    """
    missing = missing_settings(recorded)
    if not missing:
        return dict(recorded)
    asked = settings.model_dump()
    for path in missing:
        _section(asked, path).pop(path[-1], None)
    # What a default comes to may depend on the other settings, on the store and on the weights.
    try:
        by_default = Settings.model_validate(asked)
        if by_default != settings:
            run = resolve_run(by_default, job.store, job.operator or job.weights)
            by_default = resolved_settings(by_default, run, job.trainer.trained)
        else:
            by_default = job.settings
    except (ValidationError, KitError):
        # The other settings exclude the default.
        by_default = Settings()
    defaults, whole = by_default.model_dump(mode="json"), deepcopy(dict(recorded))
    for path in missing:
        section = _section(defaults, path)
        if path[-1] in section:
            _section(whole, path)[path[-1]] = section[path[-1]]
    if ("train", "valid_precision") in missing:
        whole["train"]["valid_precision"] = whole["train"]["precision"]
    return whole


def _section(tree: dict[str, Any], path: SettingPath) -> dict[str, Any]:
    """Return the table that a setting lies in, made where there is none."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    return tree
