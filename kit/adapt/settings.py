"""Settings of what trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from kit.config.suggestions import near_names
from kit.io.errors import SettingsError

Method = Literal["full", "freeze", "head", "lora", "dora", "adalora", "qlora", "rollout-lora", "prefix", "prompt"]
RolloutMode = Literal["single", "from_second", "all"]

_PEFT: tuple[Method, ...] = ("lora", "dora", "adalora", "qlora")
_ADALORA: tuple[Method, ...] = ("adalora",)
# Methods that each setting belongs to; with any other it would have no effect.
_METHODS_OF: Mapping[str, tuple[Method, ...]] = {
    "rank": _PEFT,
    "alpha": _PEFT,
    "targets": _PEFT,
    "target_rank": _ADALORA,
    "tinit": _ADALORA,
    "tfinal": _ADALORA,
    "interval": _ADALORA,
    "orthogonality": _ADALORA,
    "mode": ("rollout-lora",),
    "freeze": ("freeze",),
    "train_only": ("freeze",),
    "decoder_stages": ("head",),
    "decoder": ("head",),
    "hidden": ("head",),
    "latents": ("head",),
    "cache": ("head",),
    "cache_budget": ("head",),
    "tokens": ("prefix",),
    "coarse": ("prompt",),
}

_LIGHT_DECODER_SETTINGS = ("hidden", "latents", "cache", "cache_budget")
# Settings that decide nothing about what is learned.
_STORAGE_SETTINGS = ("cache", "cache_budget")
# Methods that add what no weights of upstream's can give.
_NOT_MERGEABLE = ("prefix", "prompt")
# Of the decoders that the authors of arXiv 2506.19088 published.
_HIDDEN = (512, 512, 256)

_RANK = 8
_INITIAL_RANK = 12
# A fiftieth of PEFT's: against losses near 0.1 its 0.5 makes the gradient the term's everywhere but in E.
_ORTHOGONALITY = 0.01
# Linear layers of attention and MLP in the blocks of upstream's backbone.
_TARGETS = ("qkv", "proj", "fc1", "fc2")
_TOKENS = 16


class Adapter(NamedTuple):
    """An adapter, every default filled in; the fields are settings that only methods with adapters have."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """Factor of what the adapter adds."""
        return self.alpha / self.rank


class Budget(NamedTuple):
    """How adapters are pruned: settings of ``adalora`` alone; times in steps, None where they follow from the run's."""

    target_rank: int
    tinit: int | None
    tfinal: int | None
    interval: int | None
    orthogonality: float


class AdaptSettings(BaseModel):
    """The way of fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    method: Method = "full"
    """``full`` trains every parameter; ``freeze`` a part of them, by the patterns of ``freeze`` or ``train_only``;
    ``head`` the decoder's heads; ``lora`` two small matrices beside each targeted layer and nothing else; ``dora`` the
    same and the lengths of the layer's rows; ``adalora`` the same as ``lora``, with ranks that are shared out among the
    layers by importance; ``qlora`` as ``lora`` with the targeted layers' frozen weights in 4 bits (NF4);
    ``rollout-lora`` upstream's own roll-out LoRA; ``prefix`` keys and values that attention also looks at; ``prompt``
    a term that is added to what the encoder gives. What is new trains under every method."""
    freeze: tuple[str, ...] | None = Field(default=None, min_length=1)
    """With ``freeze``: parameters that do not train, by their names or any run of the parts of these, with ``*`` for
    anything, such as ``backbone``, ``encoder.level_agg`` or ``*.attn.qkv``; all others train."""
    train_only: tuple[str, ...] | None = Field(default=None, min_length=1)
    """With ``freeze``, in the place of the setting ``freeze``: the parameters that train; no other does."""
    decoder_stages: PositiveInt | None = None
    """With ``head``: so many of the last stages of the backbone's decoder train as well."""
    decoder: Literal["linear", "mlp"] | None = None
    """With ``head``: ``linear`` trains upstream's own heads; ``mlp`` gives each new output-only surface variable a
    light decoder on the frozen model's latents and trains these alone; linear by default."""
    hidden: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """With ``decoder mlp``: width of each hidden layer; 512,512,256 by default."""
    latents: Literal["all", "surface"] | None = None
    """With ``decoder mlp``: latent levels that a light decoder reads, ``all`` or the ``surface``'s alone, a quarter of
    the cache; all by default."""
    cache: str | None = Field(default=None, min_length=1)
    """With ``decoder mlp``: folder in which the frozen model's latents are kept, or ``off`` to compute them at every
    step; by default ``features`` in the kit's cache."""
    cache_budget: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?\s*GiB$")
    """With ``decoder mlp``: disk space that latents may take, such as ``50GiB``; 20GiB by default. Those of other
    models and stores, longest unused, are removed to make room for a run's."""
    rank: PositiveInt | None = None
    """Rank of the adapters, 8 by default; with ``adalora`` the one that they start with, 12 by default. That of
    ``rollout-lora`` is upstream's, 8."""
    alpha: PositiveFloat | None = None
    """What an adapter adds is scaled by ``alpha / rank``; by default ``alpha`` is twice the rank."""
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Linear layers that get an adapter, by the end of their names, with ``*`` for any part, such as ``attn.qkv`` or
    ``backbone.decoder_layers.*``; by default qkv, proj, fc1 and fc2: attention and MLP of the backbone."""
    tokens: PositiveInt | None = None
    """Prefix tokens of each attention layer with ``prefix``; 16 by default."""
    coarse: str | None = Field(default=None, pattern=r"^[1-9]\d*x[1-9]\d*$")
    """With ``prompt``: rows x columns of cells that divide the globe, such as 6x12, each with a term of its own; what
    lies between their centres is interpolated. By default one term for all places."""

    target_rank: PositiveInt | None = None
    """With ``adalora``: the rank that is left, on average over the layers; 8 by default."""
    tinit: NonNegativeInt | None = None
    """With ``adalora``: steps before pruning begins; by default a tenth of the run's."""
    tfinal: NonNegativeInt | None = None
    """With ``adalora``: steps after pruning has ended; by default three tenths of the run's."""
    interval: PositiveInt | None = None
    """With ``adalora``: steps from one allocation of ranks to the next; by default a hundredth of the run's."""
    orthogonality: NonNegativeFloat | None = None
    """With ``adalora``: weight, in the loss, of the term that keeps the parts of an adapter apart; 0.01 by default."""
    mode: RolloutMode | None = None
    """With ``rollout-lora``: one LoRA for all steps of a roll-out (``single``), one from the second step on
    (``from_second``), or one for each (``all``); by default what the weights have, else ``single``."""

    @model_validator(mode="after")
    def _have_an_effect(self) -> Self:
        for name, methods in _METHODS_OF.items():
            if getattr(self, name) is not None and self.method not in methods:
                msg = (
                    f"adapt.{name} would have no effect: adapt.method is {self.method}; leave it out, or choose "
                    f"{' or '.join(methods)}"
                )
                raise ValueError(msg)
        faults = [
            f"adapt.{name} needs adapt.decoder mlp"
            for name in _LIGHT_DECODER_SETTINGS
            if getattr(self, name) is not None
        ]
        if self.decoder == "mlp":
            faults = []
            if self.decoder_stages is not None:
                faults.append("adapt.decoder_stages needs adapt.decoder linear")
            if self.cache == "off" and self.cache_budget is not None:
                faults.append("adapt.cache_budget needs a cache, and adapt.cache is off")
        if faults:
            msg = f"{'; '.join(faults)}; without it would have no effect"
            raise ValueError(msg)
        if self.method == "freeze" and (self.freeze is None) == (self.train_only is None):
            given = "neither was" if self.freeze is None else "both were"
            msg = f"adapt.method freeze needs adapt.freeze or adapt.train_only, and {given} given; give one"
            raise ValueError(msg)
        # AdaLoRA prunes from the initial rank down.
        if self.method == "adalora" and self.budget.target_rank >= self.adapter.rank:
            msg = (
                f"adapt.target_rank ({self.budget.target_rank}) has to be below adapt.rank ({self.adapter.rank}), from "
                "which adalora prunes; change one, or use lora, whose rank stays"
            )
            raise ValueError(msg)
        return self

    @property
    def cache_bytes(self) -> int | None:
        """Bytes that a feature cache may take; None where it was left to the kit."""
        if self.cache_budget is None:
            return None
        return int(float(self.cache_budget.removesuffix("GiB")) * 2**30)

    def defining(self) -> AdaptSettings:
        """Return the same with defaults filled in, without what decides nothing about what is learned."""
        return self.resolved().model_copy(update=dict.fromkeys(_STORAGE_SETTINGS))

    @property
    def is_delta(self) -> bool:
        """Whether a checkpoint holds what trained alone, and names the weights that it belongs to."""
        return self.method != "full"

    @property
    def can_merge(self) -> bool:
        """Whether what trained can be put into the weights below it: what is no part of upstream's model cannot."""
        return self.method not in _NOT_MERGEABLE and self.decoder != "mlp"

    @property
    def adds_adapter(self) -> bool:
        """Whether PEFT adds adapters beside frozen weights."""
        return self.method in _PEFT

    @property
    def adapter(self) -> Adapter:
        """The adapter that the method adds."""
        assert self.adds_adapter
        rank = self.rank or (_INITIAL_RANK if self.method == "adalora" else _RANK)
        return Adapter(rank, self.alpha or 2.0 * rank, self.targets or _TARGETS)

    @property
    def budget(self) -> Budget:
        """How ``adalora`` prunes."""
        # Zero is a choice: it leaves the term out.
        weight = _ORTHOGONALITY if self.orthogonality is None else self.orthogonality
        return Budget(self.target_rank or _RANK, self.tinit, self.tfinal, self.interval, weight)

    @property
    def prefix_tokens(self) -> int:
        """Tokens of each prefix."""
        return self.tokens or _TOKENS

    @property
    def coarse_cells(self) -> tuple[int, int] | None:
        """Rows and columns of a prompt's cells; None for one term for all places."""
        if self.coarse is None:
            return None
        rows, columns = self.coarse.split("x")
        return int(rows), int(columns)

    def resolved(self) -> AdaptSettings:
        """Return the same with every default filled in."""
        if self.method == "prefix":
            return AdaptSettings(method=self.method, tokens=self.prefix_tokens)
        if self.method == "head" and self.decoder == "mlp":
            return self.model_copy(update={"hidden": self.hidden or _HIDDEN, "latents": self.latents or "all"})
        if self.method == "head":
            return self.model_copy(update={"decoder": "linear"})
        if not self.adds_adapter:
            return self
        filled: dict[str, Any] = self.adapter._asdict()
        if self.method == "adalora":
            filled |= self.budget._asdict()
        return AdaptSettings(method=self.method, **filled)

    def described(self) -> dict[str, Any]:
        """Describe it for the lineage of a checkpoint."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"targets", *_STORAGE_SETTINGS})


# Patterns over names of modules and parameters, as ``adapt`` and ``optim.groups`` take them.

_MOST_SHOWN = 12


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern selects a name: as a whole, or as any run of its parts; ``*`` stands for anything.

    ``decoder.surf_heads.2t.weight`` is selected by itself and by ``decoder``, ``surf_heads``, ``surf_heads.2t``,
    ``2t.weight`` and ``decoder.*.weight``.
    """
    return any(fnmatchcase(name, whole) for whole in (pattern, f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*"))


def matching(names: Iterable[str], pattern: str, setting: str) -> list[str]:
    """List the names that a pattern selects, in their order.

    Args:
        names: of parameters, by upstream's names.
        pattern: to be matched.
        setting: where it was given, for the message.

    Raises:
        SettingsError: it selects none; names those that are nearest.
    """
    known = list(names)
    found = [name for name in known if matches(name, pattern)]
    if not found:
        # What may have been meant: every run of as many parts as the pattern has.
        length = pattern.count(".") + 1
        runs: list[str] = []
        for name in known:
            parts = name.split(".")
            runs += [".".join(parts[start : start + length]) for start in range(len(parts) - length + 1)]
        groups = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in known))
        close = near_names(pattern, dict.fromkeys(runs), cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(groups[:_MOST_SHOWN])}"
        msg = f"{setting}: {pattern!r} selects no parameter; {hint}"
        raise SettingsError(msg)
    return found
