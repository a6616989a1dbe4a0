"""The root settings: one section for each room that has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from kit.adapt.settings import AdaptSettings
from kit.checkpoint.settings import RunSettings
from kit.data.settings import DataSettings
from kit.diffusion.settings import DiffusionSettings
from kit.memory.settings import MemorySettings
from kit.models.settings import ModelSettings
from kit.registry.settings import RegistrySettings
from kit.tracking.settings import TrackSettings
from kit.train.settings import LossSettings, OptimSettings, RolloutSettings, TaskSettings, TrainSettings


class Settings(BaseModel):
    """Everything that decides a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    adapt: AdaptSettings = AdaptSettings()
    memory: MemorySettings = MemorySettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    rollout: RolloutSettings = RolloutSettings()
    task: TaskSettings = TaskSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    track: TrackSettings = TrackSettings()
    registry: RegistrySettings = RegistrySettings()

    if TYPE_CHECKING:
        # Sections are given as tables too, which pydantic validates and a type checker would refuse.
        def __init__(self, **sections: BaseModel | Mapping[str, Any]) -> None: ...
