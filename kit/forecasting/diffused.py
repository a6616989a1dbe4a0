"""Members that differ by what a denoising network draws.

DEF (arXiv 2506.07324) replaces states by samples that are like them before the operator takes its steps; a residual
model adds what the operator's forecast of a step lacks.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import torch
from aurora import Batch

from kit.diffusion.loading import NetworkCheckpoint
from kit.diffusion.settings import Drawn
from kit.diffusion.space import DiffusionSpace
from kit.forecasting.bounds import within_bounds
from kit.forecasting.ensemble_folder import EnsembleFolder
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.predictor import Predictor
from kit.forecasting.unperturbed import Unperturbed
from kit.io.errors import CheckpointError, SettingsError
from kit.io.hashes import sha256_of_file, sha256_of_text

# DEF's published settings (their code, ``inference``): guidance 0.5 at every step, in 10 steps of DPM-Solver++.
_PUBLISHED_GUIDANCE, _PUBLISHED_STEPS = 0.5, 10


class _Drawing(Unperturbed):
    """Draws with a network that belongs to the ensemble's one checkpoint."""

    drawn: Drawn
    """What its network draws."""

    def __init__(self, settings: EnsembleSettings) -> None:
        super().__init__(settings)
        assert settings.diffusion is not None
        self._network = NetworkCheckpoint.open(settings.diffusion)
        self._space: DiffusionSpace | None = None

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check that the network is one for this checkpoint.

        Raises:
            CheckpointError: it draws something else, other variables, or learned from another operator.
        """
        network, place = self._network, self._network.checkpoint.path
        if network.spec.settings.of != self.drawn:
            msg = (
                f"{place}: draws the {network.spec.settings.of}, and --perturb {self._settings.perturb} needs the "
                f"{self.drawn}; train one with --diffusion.of {self.drawn}"
            )
            raise CheckpointError(msg)
        network.check_operator(source.checkpoint.path)
        self._check_variables(source)
        return {**super().check(source, starts), "diffusion": sha256_of_file(place / "kit.json")}

    def _check_variables(self, source: InitialStates) -> None:
        spec, selection = self._network.spec, source.pairs.selection
        read = (*selection.inputs, *selection.atmospheric)
        missing = [name for name in (*spec.surface, *spec.atmospheric) if name not in read]
        wanted, given = tuple(map(float, spec.levels)), tuple(map(float, selection.levels))
        hours = source.checkpoint.spec.lead_hours
        what = None
        if missing:
            what = f"draws {', '.join(missing)}, which {source.checkpoint.path} does not read"
        elif spec.atmospheric and wanted != given:
            what = f"has levels {wanted}, and {source.checkpoint.path} has {given}"
        elif spec.timestep_hours != hours:
            what = f"is of steps of {spec.timestep_hours:g} h, and {source.checkpoint.path} takes {hours:g} h"
        if what is not None:
            msg = f"{self._network.checkpoint.path}: {what}; train a network for this checkpoint"
            raise CheckpointError(msg)

    def prepare(self, source: InitialStates, predictor: Predictor, folder: EnsembleFolder) -> None:  # noqa: ARG002
        """Load the network beside the operator."""
        device = next(predictor.space.model.parameters()).device
        self._space = self._network.space(device, autocast=predictor.precision == "bf16")

    def _generators(
        self, members: Sequence[int], start: datetime, step: int, sample: str, device: torch.device
    ) -> list[torch.Generator]:
        """Make a generator for each member by its name, whatever is drawn beside it."""
        seeds = []
        for member in members:
            name = f"drawing of seed {self._settings.seed}, member {member}, {start.isoformat()}"
            seeds.append(int(sha256_of_text(f"{name}, step {step}, {sample}")[:15], 16))
        return [torch.Generator(device).manual_seed(seed) for seed in seeds]


class Def(_Drawing):
    """Members whose states are replaced by samples like them, with calibrated guidance."""

    drawn = "state"

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check that guidance is known, too.

        Raises:
            CheckpointError: it was never calibrated.
        """
        described = super().check(source, starts)
        asked = {"walks": self._settings.walks, "at": self._settings.at, "centred": self._is_centred()}
        return {**described, "guidance": self._guidance(), **asked}

    def _is_centred(self) -> bool:
        return self._settings.centred

    def _guidance(self) -> float:
        if self._settings.guidance is not None:
            return self._settings.guidance
        calibrated = self._network.guidance
        if calibrated is None:
            msg = (
                f"{self._network.checkpoint.path}: its guidance was not calibrated, which the end of its training "
                "does; finish it, or give --guidance (1 for samples nearest to the states)"
            )
            raise CheckpointError(msg)
        return float(calibrated["guidance"])

    def _steps(self) -> int | None:
        return None

    def before(self, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:
        """Replace the newest state by one like it; the states before it move by as much."""
        if step and self._settings.at == "start":
            return state
        space = self._space
        assert space is not None
        values = space.values(state)
        own = space.own_scale(values)
        standardised = own.standardised(values)
        for walk in range(self._settings.walks):
            generators = self._generators(members, start, step, f"walk {walk}", space.device)
            sample = self._like(standardised, generators)
            if self._is_centred():
                generators = self._generators(members, start, step, f"walk {walk}, the other", space.device)
                sample = standardised + (sample - self._like(standardised, generators)) / math.sqrt(2)
            standardised = sample
        return within_bounds(space.perturbed(state, standardised, own))

    def _like(self, standardised: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        space = self._space
        assert space is not None
        start = _normal(standardised, generators)
        return space.draw(standardised, start, generators, guidance=self._guidance(), steps=self._steps())


class DefPublished(Def):
    """Members by DEF with the settings that its authors published."""

    def check(self, source: InitialStates, starts: Sequence[datetime]) -> Mapping[str, Any]:
        """Check that the network was trained as published, too.

        Raises:
            CheckpointError: it was not.
        """
        trained = self._network.spec.settings
        if (trained.schedule, trained.target, trained.timesteps) != ("linear", "noise", 1000):
            msg = (
                f"{self._network.checkpoint.path}: was trained with schedule {trained.schedule} and target "
                f"{trained.target}, and def-published is of linear and noise, 1000 timesteps; train one with "
                "--diffusion.schedule linear, or use --perturb def"
            )
            raise CheckpointError(msg)
        return super().check(source, starts)

    def _is_centred(self) -> bool:
        return False

    def _guidance(self) -> float:
        return _PUBLISHED_GUIDANCE

    def _steps(self) -> int:
        return _PUBLISHED_STEPS


class Residual(_Drawing):
    """Members whose every step has what the operator's forecast lacks, as a network draws it."""

    drawn = "residual"

    def after(self, prediction: Batch, state: Batch, members: Sequence[int], start: datetime, step: int) -> Batch:
        """Add a residual to a prediction."""
        space = self._space
        assert space is not None
        values = space.values(prediction)
        condition = space.condition(state, values)
        generators = self._generators(members, start, step, "walk 0", space.device)
        guidance = 1.0 if self._settings.guidance is None else self._settings.guidance
        drawn = space.draw(condition, _normal(space.coarse(values), generators), generators, guidance=guidance)
        return within_bounds(space.corrected(prediction, values, drawn))


def _normal(like: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw standard normal noise of a shape, a sample by each generator."""
    device = like.device
    return torch.stack([torch.randn(like.shape[1:], generator=each, device=device) for each in generators])


def check_one_checkpoint(settings: EnsembleSettings) -> None:
    """Check that a network's operator is the only checkpoint.

    Raises:
        SettingsError: there are several.
    """
    if settings.diffusion is not None and len(settings.checkpoint) > 1:
        msg = f"diffusion: a network belongs to one operator, and {len(settings.checkpoint)} checkpoints were given"
        raise SettingsError(msg)
