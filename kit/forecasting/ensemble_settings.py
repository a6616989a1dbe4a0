"""Settings of ensembles: which members, what they differ by, and what is made of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from kit.checkpoint.settings import Checkpoints
from kit.forecasting.settings import RollOutSettings

Product = Literal["mean", "spread", "quantiles", "probabilities"]
Order = Annotated[float, Field(gt=0, lt=1)]

# Settings that only some kinds of perturbations read.
_DEF = ("def", "def-published")
_OF_KINDS: Mapping[str, tuple[str, ...]] = {
    "amplitude": ("gaussian", "noise"),
    **dict.fromkeys(("error_dates", "error_store"), ("gaussian",)),
    "diffusion": (*_DEF, "residual"),
    "guidance": ("def", "residual"),
    "walks": _DEF,
    "at": _DEF,
    "centred": ("def",),
}


class EnsembleSettings(RollOutSettings):
    """An ensemble's ingredients."""

    # ``KIT_MEMBERS`` is what a forecast writes of several checkpoints; ``diffusion`` is a section of training's.
    NOT_IN_ENVIRONMENT: ClassVar = ("members", "diffusion")

    checkpoint: Checkpoints
    """Checkpoint folders, given one by one or separated by commas. Of n checkpoints, member m is a forecast of the one
    at place m modulo n, counted from 0; they need not share a base, but variables, levels and step."""
    out: Path
    """Zarr v3 group (``.zarr``) to write. What is there and is this very ensemble, finished or not, is gone on with;
    anything else must not exist."""
    seed: NonNegativeInt = 0
    """Seed of all that is drawn, perturbations and noise; it goes by member, initial time and step, whatever is made
    beside them."""
    perturb: Literal["none", "noise", "gaussian", "lagged", "def", "def-published", "residual"]
    """What members of one checkpoint differ by: the ``noise`` that a stochastic model reads, ``gaussian`` errors of the
    initial state with the covariance of the model's own one-step errors, ``lagged`` initial times, or ``none``; or what
    a denoising network draws (``diffusion``): states like those that a step is made from (``def``, with calibrated
    guidance; ``def-published``, with the settings of its authors), or the ``residual`` of every step."""
    members: PositiveInt | None = None
    """Number of members; with ``--perturb none`` that of the checkpoints, and there by default."""
    only_members: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """Members to make, of all, counted from 0; each is what it is among all."""
    members_per_pass: Literal["auto"] | PositiveInt = "auto"
    """Members that go through the model together; ``auto`` is as many as the planner finds room for on a GPU, and 1 on
    a CPU."""
    amplitude: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Factor of gaussian perturbations, and of the noise that a stochastic model reads: above 1 for members that depart
    from each other more than training has taught them."""
    error_dates: int = Field(default=40, ge=2)
    """Dates, at most, whose one-step errors gaussian perturbations are made of; each is a forecast of one step."""
    error_store: str | None = None
    """Store whose training split these dates are in; by default that of the initial states."""
    diffusion: Path | None = None
    """Checkpoint of the denoising network that draws; ``checkpoint`` is the operator that it was trained for."""
    guidance: float | None = Field(default=None, ge=0, le=1)
    """How far a sample keeps to its condition, from 0 to 1; by default what the network was calibrated to, and 1 with
    ``residual``."""
    walks: Annotated[int, Field(ge=1, le=1000)] = 1
    """With ``def``: samples that follow each other, each like the one before."""
    at: Literal["steps", "start"] = "steps"
    """With ``def``: whether states are replaced before every step, or initial states alone."""
    centred: bool = True
    """With ``def``: whether a state moves by the difference of two samples like it, over the root of 2, instead of
    becoming one, as published. Guidance below 1 draws all samples of a state towards what is usual, which their
    difference is free of."""
    products: tuple[Product, ...] = ()
    """What to write beside the members, into ``NAME.products.nc``: ``mean``, ``spread``, ``quantiles``,
    ``probabilities``."""
    quantiles: tuple[Order, ...] = Field(default=(0.1, 0.5, 0.9), min_length=1)
    """Orders of the quantiles."""
    above: dict[str, float] = Field(default={})
    """Thresholds of the probabilities by variable, in its units: ``2t=300,tp=0.001``."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Members that are made, in order."""
        if self.only_members is not None:
            return tuple(sorted(self.only_members))
        return tuple(range(self.members or len(self.checkpoint)))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.out.suffix != ".zarr":
            msg = f"out: expected a name that ends in .zarr, got {str(self.out)!r}"
            raise ValueError(msg)
        self._check_members()
        for name, kinds in _OF_KINDS.items():
            if self.perturb not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                msg = f"{name}: has no effect with perturb {self.perturb}; leave it out, or give --perturb {kinds[0]}"
                raise ValueError(msg)
        if self.perturb in _OF_KINDS["diffusion"] and self.diffusion is None:
            msg = f"diffusion: --perturb {self.perturb} needs a network that draws; name its checkpoint"
            raise ValueError(msg)
        self._check_products()
        return self

    def _check_members(self) -> None:
        count, checkpoints = self.members, len(self.checkpoint)
        if count is None and self.perturb != "none":
            msg = f"members: say how many members {self.perturb} perturbations make, such as --members 10"
            raise ValueError(msg)
        if self.perturb == "none" and count not in (None, checkpoints):
            msg = (
                f"members: without perturbations members of one checkpoint are equal, so that {checkpoints} "
                f"checkpoint(s) make as many members, not {count}; leave members out, or choose --perturb"
            )
            raise ValueError(msg)
        if count is not None and count < checkpoints:
            msg = f"members: {count} are fewer than the {checkpoints} checkpoints; some would have none"
            raise ValueError(msg)
        chosen = self.only_members or ()
        if len(set(chosen)) < len(chosen):
            msg = f"only_members: one is given twice among {', '.join(map(str, chosen))}"
            raise ValueError(msg)
        last = (count or checkpoints) - 1
        if chosen and max(chosen) > last:
            msg = f"only_members: there is no member {max(chosen)}; they are counted from 0 to {last}"
            raise ValueError(msg)

    def _check_products(self) -> None:
        defaults = type(self).model_fields
        for name, product in (("quantiles", "quantiles"), ("above", "probabilities")):
            if product not in self.products and getattr(self, name) != defaults[name].default:
                msg = f"{name}: has no effect without --products {product}; leave it out, or ask for them"
                raise ValueError(msg)
        for name in ("products", "quantiles"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                msg = f"{name}: one is given twice among {', '.join(map(str, values))}"
                raise ValueError(msg)
        if "probabilities" in self.products and not self.above:
            msg = "above: probabilities need thresholds, such as --above 2t=300"
            raise ValueError(msg)
        if self.products and len(self.numbers) < 2:
            msg = "products: they are of several members, and there is one; leave them out, or make more members"
            raise ValueError(msg)
