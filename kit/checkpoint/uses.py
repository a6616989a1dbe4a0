"""The commands that a checkpoint is scored by."""

from collections.abc import Mapping
from typing import Any

_PERTURBATIONS = {"state": "def", "residual": "residual"}


def scoring_commands(place: object, drawn: str | None, operator: str | None) -> tuple[str, ...]:
    """Name the commands that score a checkpoint, one after the other.

    A network that perturbs an operator's forecasts has no scores of its own; its ensembles have.

    Args:
        place: Folder of the checkpoint.
        drawn: What it draws, as ``diffusion.of`` names it; None of everything else.
        operator: Folder of the operator whose forecasts it perturbs, where one is known.
    """
    perturb = _PERTURBATIONS.get(drawn or "")
    if perturb is None:
        return (f"kit evaluate --checkpoint {place}",)
    perturbed = f"kit ensemble --checkpoint {operator or 'OPERATOR'} --diffusion {place} --perturb {perturb}"
    return f"{perturbed} --members 10 --out members.zarr", "kit evaluate --forecast_file members.zarr"


def commands_of(place: object, description: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the commands that score a checkpoint, by its description, which may be of anybody's making."""
    drawn, operator = _text(description, "diffusion", "settings", "of"), _text(description, "operator", "name")
    return scoring_commands(place, drawn, operator)


def _text(description: Any, *keys: str) -> str | None:
    for key in keys:
        if not isinstance(description, Mapping):
            return None
        description = description.get(key)
    return description if isinstance(description, str) else None
