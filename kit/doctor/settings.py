"""Settings of the doctor: the run that is meant, and what is asked for beside the machine."""

from pydantic import BaseModel, ConfigDict, Field

from kit.checkpoint.settings import RunSettings
from kit.tracking.settings import TrackSettings


class ReadingSettings(BaseModel):
    """Settings of the data that the run would read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    workers: int = Field(default=0, ge=0)
    """Processes that read ahead: threads are judged with them."""


class DoctorSettings(BaseModel):
    """Settings of the doctor."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: RunSettings = RunSettings()
    data: ReadingSettings = ReadingSettings()
    track: TrackSettings = TrackSettings()
    network: bool = False
    """Try the hosts that files of the registry and weights come from."""
    verify: bool = False
    """Hash every file of the registry that is in the cache."""
