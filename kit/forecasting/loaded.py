"""A checkpoint for use in Python: predictions from arrays in memory, and the model for one's own loop."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
import xarray as xr
from aurora import Aurora, Batch

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.data.settings import Period
from kit.data.store.build import open_store
from kit.forecasting.forecast import ForecastJob
from kit.forecasting.initial_states import initial_store
from kit.forecasting.predictor import Conditions, Predictor, pairs_of
from kit.forecasting.rolling import roll_out
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import StoreError
from kit.memory.checks import check_forecast_memory
from kit.memory.device import choose_device, prediction_precision
from kit.memory.prediction import build_prediction_space
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.weights.load import load


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint whose model is in memory, ready to predict.

    Attributes:
        checkpoint: Folder and description of the checkpoint.
        space: The model, and the way between physical variables and its own encoding; ``space.step``, ``space.targets``
            and ``space.advance`` are what a training loop of one's own is made of.
    """

    checkpoint: Checkpoint
    space: TrainingSpace

    @property
    def model(self) -> Aurora:
        """Aurora with the checkpoint's weights and adapters, in evaluation mode, on its device."""
        return self.space.model

    @property
    def spec(self) -> ModelSpec:
        """Variables, levels, statistics and time step of the model."""
        return self.checkpoint.spec

    @property
    def description(self) -> Mapping[str, Any]:
        """What ``kit.json`` says of model, data and lineage."""
        return self.checkpoint.description

    @overload
    def predict(self, states: xr.Dataset, steps: int = 1) -> xr.Dataset: ...

    @overload
    def predict(self, states: Batch, steps: int = 1) -> Batch: ...

    @torch.no_grad()
    def predict(self, states: xr.Dataset | Batch, steps: int = 1) -> xr.Dataset | Batch:
        """Predict from input states, each prediction becoming the newest input state of the next step.

        Args:
            states: Input states. A dataset as ``kit data build --source netcdf`` reads it: physical units, dimensions
                time, latitude, longitude and level (hPa), static variables with it; the model starts from its last
                times. Or a batch under Aurora's names, [B, T, H, W] and [B, T, C, H, W], physical units.
            steps: Number of model steps.

        Returns:
            For a dataset, the forecast with all its steps, as ``kit forecast`` writes it. For a batch, the state after
            the last step, [B, 1, H, W] and [B, 1, C, H, W].

        Raises:
            KitError: the states lack what the model reads, or a prediction is not finite.
        """
        if isinstance(states, Batch):
            *_, last = self.roll_out(states, steps)
            return last
        return self._forecast(states, steps)

    def roll_out(self, state: Batch, steps: int) -> Iterator[Batch]:
        """Predict step by step from a batch.

        Args:
            state: Input states under Aurora's names, [B, T, H, W] and [B, T, C, H, W], physical units.
            steps: Number of model steps.

        Yields:
            Physical variables, [B, 1, H, W] and [B, 1, C, H, W], on the model's device.

        Raises:
            CheckpointError: the model does not predict all that it reads, so that there is no second step.
        """
        return roll_out(self.space, state, steps)

    def _forecast(self, states: xr.Dataset, steps: int) -> xr.Dataset:
        with tempfile.TemporaryDirectory(prefix="kit-predict-") as scratch:
            # Through a file, so that a dataset in memory is read, checked and converted exactly as a file is.
            source, out = Path(scratch) / "states.nc", Path(scratch) / "forecast.nc"
            states.to_netcdf(source)
            with initial_store(str(source), self.checkpoint) as name:
                assert name is not None
                store = open_store(name)
                pairs = pairs_of(self.checkpoint, self.spec, store, Conditions(store=name), targets=False)
                if not len(pairs):
                    msg = f"the dataset holds no {self.spec.history} successive states to start from"
                    raise StoreError(msg)
                start = pairs.time(len(pairs) - 1)
                settings = ForecastSettings(
                    checkpoint=(self.checkpoint.path,), out=out, start=(Period(start, start),), steps=steps
                )
                ForecastJob(settings, [self.checkpoint], Predictor(self.space, pairs, store)).run()
            forecast: xr.Dataset = xr.load_dataset(out)
        return forecast


def load_checkpoint(path: str | Path, *, device: str = "auto", precision: str = "auto") -> LoadedCheckpoint:
    """Load a checkpoint for predictions, or for a loop of one's own.

    Args:
        path: Checkpoint folder, such as ``runs/NAME/checkpoints/best``, or an export.
        device: ``auto`` for a GPU where there is one, ``cpu`` or ``cuda``.
        precision: Precision of the forward pass: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for that of upstream's
            class on a GPU and fp32 on a CPU.

    Raises:
        CheckpointError: there is no checkpoint at ``path``, or its base weights are nowhere to be found.
        SettingsError: there is no such device or precision.
    """
    checkpoint = open_checkpoint(Path(path))
    where = choose_device(device)
    chosen = prediction_precision(precision, checkpoint.spec.upstream, where)
    memory = MemorySettings()
    check_forecast_memory(memory, autocast=chosen == "bf16")
    weights = load(str(checkpoint.path), checkpoint.spec.upstream)
    space = build_prediction_space(checkpoint.spec, weights, memory, where, chosen)
    return LoadedCheckpoint(checkpoint, space)
