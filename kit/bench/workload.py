"""The workload of a measured step: model, weights, states, device, precision."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import torch
from aurora import Batch, Metadata

from kit.data.dataset import Pair
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.weights.load import Weights
from kit.models.weights.locate import RANDOM
from kit.planning.counter import tensors_in
from kit.planning.settings import GridSize, PlanSettings
from kit.planning.workload import Workload, workload_of
from kit.settings import Settings

S = TypeVar("S", bound=Settings)

_START = datetime(2020, 1, 1, tzinfo=UTC)
_SEED = 0


@dataclass(frozen=True)
class Case:
    """A step's ingredients.

    Attributes:
        spec: Model.
        weights: Weights that it starts from.
        pairs: Pairs of states, different from each other; steps that are timed see the first alone.
        device: Device that the step runs on.
        autocast: Whether the forward pass runs in bf16.
    """

    spec: ModelSpec
    weights: Weights
    pairs: tuple[Pair, ...]
    device: torch.device
    autocast: bool

    @property
    def pair(self) -> Pair:
        """The first pair."""
        return self.pairs[0]

    def clock(self) -> float:
        """Return seconds of a clock, when the device has done what it was asked to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def tensors(self) -> Iterator[torch.Tensor]:
        """Return the tensors of the first pair."""
        for batch in (self.pair.inputs, *self.pair.targets):
            yield from tensors_in([batch.surf_vars, batch.static_vars, batch.atmos_vars])


def make_case(variant: str, grid: GridSize, device: torch.device, *, autocast: bool, pairs: int = 1) -> Case:
    """Make up weights and states, the same each time.

    Args:
        variant: Variant of the model, one that reads what ERA5 has; all its variables and levels are used.
        grid: Number of rows and columns of a global grid.
        device: Device that the step runs on.
        autocast: Whether the forward pass runs in bf16.
        pairs: Number of pairs of states.

    Raises:
        SettingsError: the model cannot have that grid.
    """
    settings = PlanSettings.model_validate({"model": {"variant": variant, "weights": RANDOM}, "grid": grid})
    workload = workload_of(settings)
    drawn = tuple(_pair(workload, seed) for seed in range(_SEED, _SEED + pairs))
    return Case(workload.spec, _weights(workload.spec), drawn, device, autocast)


def _weights(spec: ModelSpec) -> Weights:
    """Random weights, none of them where a gradient could not be told from nothing.

    Upstream starts the modulation of every block's normalisation at zero, and with it all gradients inside a block.
    """
    # The caller's generator is left as it was.
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        model = spec.build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "ln_modulation" in name:
                    parameter.normal_(std=0.2)
    return Weights(model.state_dict(), {"name": RANDOM, "file": RANDOM, "sha256": ""})


def _pair(workload: Workload, seed: int) -> Pair:
    """States drawn around the model's statistics, [1, T, H, W] and [1, T, C, H, W]."""
    selection = workload.selection
    grid = workload.shape
    generator = torch.Generator().manual_seed(seed)
    axes = [torch.from_numpy(axis.astype(np.float32)) for axis in (workload.latitude, workload.eastwards)]
    values = workload.spec.statistics.values

    def draw(key: str, *shape: int) -> torch.Tensor:
        # Around the model's own statistics, so that inputs are of the order of 1 where the model reads them.
        location, scale = values.get(key, (0.0, 1.0))
        return location + scale * torch.randn((*shape, *grid), generator=generator)

    def atmospheric(name: str, states: int) -> torch.Tensor:
        return torch.stack([draw(level_key(name, level), 1, states) for level in selection.levels], 2)

    def batch(surface: Sequence[str], states: int, moment: datetime, static: Mapping[str, torch.Tensor]) -> Batch:
        return Batch(
            {name: draw(name, 1, states) for name in surface},
            dict(static),
            {name: atmospheric(name, states) for name in selection.atmospheric},
            Metadata(*axes, (moment,), selection.levels),
        )

    static = {name: draw(name) for name in selection.static}
    inputs = batch(selection.inputs, selection.history, _START, static)
    return Pair(inputs, batch(selection.targets, 1, _START + selection.timestep, static))


def on_rows(settings: S, rows: int) -> S:
    """Return the same settings, with no more bands of latitudes than there are rows of patches."""
    bands = min(settings.memory.latitude_bands, rows)
    return settings.model_copy(update={"memory": settings.memory.model_copy(update={"latitude_bands": bands})})
