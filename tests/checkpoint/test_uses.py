"""The commands that a checkpoint is scored by, whatever its description says."""

from typing import Any

import pytest

from kit.checkpoint.uses import commands_of


def test_what_forecasts_is_evaluated() -> None:
    assert commands_of("runs/a/checkpoints/best", {}) == ("kit evaluate --checkpoint runs/a/checkpoints/best",)
    drawing = {"diffusion": {"settings": {"of": "next"}}}
    assert commands_of("next", drawing) == ("kit evaluate --checkpoint next",)


@pytest.mark.parametrize(("drawn", "perturb"), [("state", "def"), ("residual", "residual")])
def test_what_perturbs_is_scored_by_its_ensembles(drawn: str, perturb: str) -> None:
    description: dict[str, Any] = {"diffusion": {"settings": {"of": drawn}}, "operator": {"name": "runs/o"}}
    ensemble, evaluation = commands_of("network", description)
    assert ensemble.startswith(f"kit ensemble --checkpoint runs/o --diffusion network --perturb {perturb} ")
    assert evaluation == f"kit evaluate --forecast_file {ensemble.split()[-1]}"
    del description["operator"]
    assert "--checkpoint OPERATOR " in commands_of("network", description)[0]


@pytest.mark.parametrize(
    "spoilt", ["state", ["state"], {"settings": "state"}, {"settings": {"of": ["state"]}}, None, 3]
)
def test_descriptions_of_anything_are_read(spoilt: object) -> None:
    assert commands_of("place", {"diffusion": spoilt, "operator": spoilt}) == ("kit evaluate --checkpoint place",)
