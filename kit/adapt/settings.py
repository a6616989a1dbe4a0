"""Settings of what trains."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["AdaptSettings"]


class AdaptSettings(BaseModel):
    """The way of fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    method: Literal["full"] = "full"
    """``full`` trains every parameter."""
