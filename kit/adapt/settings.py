"""Settings of what trains."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

__all__ = ["AdaptSettings", "Adapter", "Method"]

Method = Literal["full", "lora", "qlora"]

_RANK = 8
_TARGETS = ("qkv", "proj", "fc1", "fc2")


class Adapter(NamedTuple):
    """An adapter, every default filled in; the fields are settings that only methods with adapters have."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """Factor of what the adapter adds."""
        return self.alpha / self.rank


class AdaptSettings(BaseModel):
    """The way of fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    method: Method = "full"
    """``full`` trains every parameter; ``lora`` trains two small matrices beside each targeted layer and freezes the
    rest; ``qlora`` does the same with the targeted layers' frozen weights in 4 bits (NF4)."""
    rank: PositiveInt | None = None
    """Rank of the adapters of ``lora`` and ``qlora``; 8 by default."""
    alpha: PositiveFloat | None = None
    """What an adapter adds is scaled by ``alpha / rank``; by default ``alpha`` is twice the rank."""
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Linear layers that get an adapter, by the end of their names, with ``*`` for any part, such as ``attn.qkv`` or
    ``backbone.decoder_layers.*``; by default qkv, proj, fc1 and fc2: attention and MLP of the backbone."""

    @model_validator(mode="after")
    def _have_an_effect(self) -> Self:
        given = [f"adapt.{name}" for name in Adapter._fields if getattr(self, name) is not None]
        if given and not self.adds_adapter:
            what = " and ".join(given)
            msg = f"{what} would have no effect: adapt.method is {self.method}; leave it out, or choose lora or qlora"
            raise ValueError(msg)
        return self

    @property
    def adds_adapter(self) -> bool:
        """Whether the method trains an adapter beside frozen weights."""
        return self.method in ("lora", "qlora")

    @property
    def adapter(self) -> Adapter:
        """The adapter that the method adds."""
        assert self.adds_adapter
        rank = self.rank or _RANK
        return Adapter(rank, self.alpha or 2.0 * rank, self.targets or _TARGETS)

    def resolved(self) -> AdaptSettings:
        """The same with every default filled in."""
        return AdaptSettings(method=self.method, **self.adapter._asdict()) if self.adds_adapter else self

    def described(self) -> dict[str, Any]:
        """What the lineage of a checkpoint says of it."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"targets"})
