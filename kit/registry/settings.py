"""Settings of ``kit data list``, ``fetch`` and ``pin``."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


class ListSettings(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FetchSettings(BaseModel):
    """What is fetched or pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    names: CliPositionalArg[tuple[str, ...]] = Field(min_length=1)
    """Names of registry entries or of data sets."""
