"""Settings of what trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

__all__ = ["AdaptSettings", "Adapter", "Method"]

Method = Literal["full", "freeze", "head", "lora", "qlora"]

_PEFT: tuple[Method, ...] = ("lora", "qlora")
_BELONGS: Mapping[str, tuple[Method, ...]] = {
    "rank": _PEFT,
    "alpha": _PEFT,
    "targets": _PEFT,
    "freeze": ("freeze",),
    "train_only": ("freeze",),
    "decoder_stages": ("head",),
}
"""Methods that each setting belongs to; with any other it would have no effect."""

_APART: frozenset[str] = frozenset({"prefix", "prompt"})
"""Methods that add what no weights of upstream's can give."""
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
    """``full`` trains every parameter; ``freeze`` a part of them, by the patterns of ``freeze`` or ``train_only``;
    ``head`` the decoder's heads; ``lora`` two small matrices beside each targeted layer and nothing else; ``qlora``
    the same with the targeted layers' frozen weights in 4 bits (NF4). What is new trains under every method."""
    freeze: tuple[str, ...] | None = Field(default=None, min_length=1)
    """With ``freeze``: parameters that do not train, by their names or any run of the parts of these, with ``*`` for
    anything, such as ``backbone``, ``encoder.level_agg`` or ``*.attn.qkv``; all others train."""
    train_only: tuple[str, ...] | None = Field(default=None, min_length=1)
    """With ``freeze``, in the place of the setting ``freeze``: the parameters that train; no other does."""
    decoder_stages: PositiveInt | None = None
    """With ``head``: so many of the last stages of the backbone's decoder train as well."""
    rank: PositiveInt | None = None
    """Rank of the adapters of ``lora`` and ``qlora``; 8 by default."""
    alpha: PositiveFloat | None = None
    """What an adapter adds is scaled by ``alpha / rank``; by default ``alpha`` is twice the rank."""
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Linear layers that get an adapter, by the end of their names, with ``*`` for any part, such as ``attn.qkv`` or
    ``backbone.decoder_layers.*``; by default qkv, proj, fc1 and fc2: attention and MLP of the backbone."""

    @model_validator(mode="after")
    def _have_an_effect(self) -> Self:
        for name, methods in _BELONGS.items():
            if getattr(self, name) is not None and self.method not in methods:
                msg = (
                    f"adapt.{name} would have no effect: adapt.method is {self.method}; leave it out, or choose "
                    f"{' or '.join(methods)}"
                )
                raise ValueError(msg)
        if self.method == "freeze" and (self.freeze is None) == (self.train_only is None):
            given = "both were" if self.freeze else "neither was"
            msg = f"adapt.method freeze needs adapt.freeze or adapt.train_only, and {given} given; give one"
            raise ValueError(msg)
        return self

    @property
    def is_delta(self) -> bool:
        """Whether a checkpoint holds what trained alone, and names the weights that it belongs to."""
        return self.method != "full"

    @property
    def can_merge(self) -> bool:
        """Whether what trained can be put into the weights below it: what is no part of upstream's model cannot."""
        return self.method not in _APART and self.model_dump().get("decoder") != "mlp"

    @property
    def adds_adapter(self) -> bool:
        """Whether PEFT adds adapters beside frozen weights."""
        return self.method in _PEFT

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
