"""Settings of ``kit data list``, ``fetch`` and ``pin``."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


class ListSettings(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(BaseModel):
    """Which files of the registry are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    strict: bool = False
    """Refuse files that neither the kit's list nor your own has a hash for; by default the hash that a model hub
    states for the pinned commit is taken, verified and recorded at the first use."""


class PinSettings(BaseModel):
    """What is pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    names: CliPositionalArg[tuple[str, ...]] = Field(min_length=1)
    """Names of registry entries or of data sets."""


class FetchSettings(PinSettings):
    """What is fetched."""

    registry: RegistrySettings = RegistrySettings()
