"""Settings of diffusion: what is drawn, given what, by which network and sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

Drawn = Literal["state", "next", "residual", "mean"]
Given = Literal["state", "forecast", "hour", "statics"]
NetworkKind = Literal["unet", "transformer", "flat", "unet2d"]

_Width = Annotated[int, Field(ge=8, le=4096)]
_Few = Annotated[int, Field(ge=1, le=64)]

_GIVEN: Mapping[Drawn, tuple[Given, ...]] = {
    "state": ("state",),
    "next": ("state", "hour", "statics"),
    "residual": ("state", "forecast", "hour", "statics"),
    "mean": ("state", "hour", "statics"),
}
_UNET: tuple[NetworkKind, ...] = ("unet", "unet2d")
# Networks that each setting belongs to; for any other it would have no effect.
_NETWORKS_OF: Mapping[str, tuple[NetworkKind, ...]] = {
    "multiples": _UNET,
    "blocks": _UNET,
    "stem": ("unet",),
    "attention": _UNET,
    "depth": ("transformer",),
    "heads": ("transformer",),
    "patch": ("transformer",),
    "window": ("transformer",),
    "details": ("unet", "transformer"),
}
# With more, a linear estimate of the noise in fields with a spectrum of HRRR's gets hardly better.
_DETAILS = 2
# Settings of noise, which a regression has none of.
_OF_NOISE = ("drop", "schedule", "timesteps", "target", "sampler", "steps", "details")
_SIZES: Mapping[NetworkKind, Mapping[str, Any]] = {
    "unet": {"width": 32, "multiples": (1, 2, 4), "blocks": 2, "attention": 1},
    "unet2d": {"width": 32, "multiples": (1, 2, 4), "blocks": 2, "attention": 1},
    "transformer": {"width": 256, "depth": 8, "heads": 8, "patch": 4, "window": 8},
    "flat": {"width": 16},
}
_TARGETS: Mapping[str, str] = {"cosine": "v", "edm": "edm"}
# DEF's authors draw in 10 steps what stays close to its condition (arXiv 2506.07324).
_STEPS_OF_PERTURBATIONS = 10
_STEPS = 25


class DiffusionSettings(BaseModel):
    """What a denoising network learns to draw, given what, and what it is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    of: Drawn = "state"
    """What is drawn: a ``state`` like a given one, by which DEF perturbs forecasts of an operator (``model.*``); the
    ``next`` state, a step ahead, where there is no operator; the ``residual``, what the operator's forecast of one
    step lacks; or, without noise, the ``mean`` of the next state, by regression, which makes the network an operator
    itself."""
    given: tuple[Given, ...] | None = None
    """What it is drawn from: the ``state`` at the initial time (``data.history`` of them), the operator's ``forecast``,
    the ``hour`` of day and year, and ``statics``. By default all of these that there are; of ``state``, the state
    itself and nothing else."""
    operator_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """With ``of state``: share of the states that are the operator's forecasts, 0.5 by default, as DEF's authors have
    it; 0 needs no operator."""
    coarsen: _Few = 1
    """With ``of residual``: points along each side of squares whose means are drawn; they are interpolated when they
    are added to a forecast, and take as much less memory and time as there are fewer of them."""
    forecasts: Literal["cached", "live"] = "cached"
    """Whether the operator's forecasts from all pairs are made once, before training, and kept on the disk of the run
    folder while it goes on (``cached``), so that no operator is held beside the network, or made at every step
    (``live``)."""
    drop: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of samples whose condition is left out in training, so that guidance can weigh it: 0.1 by default."""
    schedule: Literal["linear", "cosine", "clipped-cosine", "edm"] = "cosine"
    """How noise grows: ``linear`` betas, a ``cosine``, diff-o3-pro's ``clipped-cosine``, or ``edm``."""
    timesteps: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """Timesteps of the schedule, 1000 by default; ``edm`` has none."""
    target: Literal["noise", "v", "edm"] | None = None
    """What the network predicts: the ``noise``, the velocity ``v``, or what ``edm``'s preconditioning leaves. By
    default ``v`` with the schedule ``cosine``, which ends with so little signal that errors of the noise would be all
    that is left of a state; ``edm`` with ``edm``, and ``noise`` with the others."""
    network: NetworkKind = "unet"
    """``unet``, whose stem makes one point of several on large grids; a windowed ``transformer``; ``flat``, the
    reference's convolutions at full resolution; ``unet2d``, diffusers' ``UNet2DModel``."""
    width: _Width | None = None
    """Channels of features at the finest level; 32 by default, of a transformer 256, of a flat network 16."""
    multiples: Annotated[tuple[_Few, ...], Field(min_length=1, max_length=8)] | None = None
    """Of a U-Net: factor of the width at each level, each with half the points of the one before along both sides;
    1,2,4 by default."""
    blocks: _Few | None = None
    """Of a U-Net: residual blocks of each level; 2 by default."""
    stem: _Few | None = None
    """Of ``unet``: points along each side that become one; by default 1 up to 128 rows, 2 up to 512, then 4."""
    attention: Annotated[int, Field(ge=0, le=8)] | None = None
    """Of a U-Net: levels from the coarsest on that have attention; 1 by default."""
    depth: Annotated[int, Field(ge=1, le=256)] | None = None
    """Of a transformer: blocks; 8 by default."""
    heads: _Few | None = None
    """Of a transformer: heads of attention; 8 by default."""
    patch: _Few | None = None
    """Of a transformer: points along each side that become a token; 4 by default."""
    window: Annotated[int, Field(ge=2, le=64, multiple_of=2)] | None = None
    """Of a transformer: tokens along each side that attend to each other; 8 by default."""
    details: Annotated[int, Field(ge=0, le=8)] | None = None
    """Of ``unet`` and ``transformer``: details of the noisy state, each of a smoother field than the one before, that
    the way around the features takes noise from; by default 2 where a feature stands for several points (``stem``,
    ``patch``), else 0."""
    sampler: Literal["ddpm", "ddim", "dpm++", "heun"] | None = None
    """How states are drawn: ``dpm++`` by default; with schedule ``edm`` ``heun``, the only one for it."""
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Steps of the sampler: 10 by default with ``of state``, where samples stay close to what is given, else 25."""
    crop: Annotated[int, Field(ge=8, le=65_536)] | None = None
    """Side, in points, of the tiles of the grid that the network reads, so that memory does not go by the grid:
    training takes one of each sample, at random, and samples are blended of tiles that cover the grid. The network is
    told where in the grid a tile lies. By default it reads the whole grid."""
    overlap: Annotated[int, Field(ge=0)] | None = None
    """With ``crop``: least number of points that neighbouring tiles share where samples are drawn; by default a
    quarter of the side."""
    spread: PositiveFloat | None = None
    """With ``of state``: spread that guidance is calibrated to, in standard deviations of a field over space; by
    default the operator's error of one step, over the validation split."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        for name, kinds in _NETWORKS_OF.items():
            if getattr(self, name) is not None and self.network not in kinds:
                msg = f"diffusion.{name} has no effect with diffusion.network {self.network}; leave it out"
                raise ValueError(msg)
        for name in ("operator_share", "spread"):
            if getattr(self, name) is not None and self.of != "state":
                msg = f"diffusion.{name} has no effect with diffusion.of {self.of}; leave it out"
                raise ValueError(msg)
        if self.coarsen > 1 and self.of != "residual":
            msg = f"diffusion.coarsen has no effect with diffusion.of {self.of}; leave it out, or use residual"
            raise ValueError(msg)
        for name in _OF_NOISE if self.of == "mean" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                msg = f"diffusion.{name} has no effect with diffusion.of mean, a regression without noise; leave it out"
                raise ValueError(msg)
        if self.forecasts != "cached" and not self.has_operator:
            msg = "diffusion.forecasts has no effect where there is no operator; leave it out"
            raise ValueError(msg)
        self._check_given()
        self._check_schedule()
        self._check_tiles()
        return self

    def _check_given(self) -> None:
        if self.given is None:
            return
        if self.of == "state" and self.given != ("state",):
            msg = "diffusion.given: with diffusion.of state, the state itself is given and nothing else; leave it out"
            raise ValueError(msg)
        if self.of in ("next", "mean") and "forecast" in self.given:
            msg = f"diffusion.given forecast: diffusion.of {self.of} has no operator; use diffusion.of residual"
            raise ValueError(msg)
        if self.of == "mean" and "state" not in self.given:
            msg = "diffusion.given: with diffusion.of mean, the change of the state is learned; give state too"
            raise ValueError(msg)
        if len(set(self.given)) < len(self.given):
            msg = f"diffusion.given: one is given twice among {', '.join(self.given)}"
            raise ValueError(msg)
        if not self.given and self.drop:
            msg = "diffusion.drop has no effect where nothing is given; leave it out"
            raise ValueError(msg)

    def _check_schedule(self) -> None:
        is_edm = self.schedule == "edm"
        if is_edm and self.timesteps is not None:
            msg = "diffusion.timesteps has no effect with diffusion.schedule edm, which has none; leave it out"
        elif self.target is not None and (self.target == "v") and is_edm:
            msg = "diffusion.target v is for schedules that keep the variance, not edm; use edm or noise"
        elif self.target == "edm" and not is_edm:
            msg = f"diffusion.target edm needs diffusion.schedule edm, not {self.schedule}; use noise or v"
        elif self.sampler is not None and (self.sampler == "heun") != is_edm:
            fitting = "heun" if is_edm else "ddpm, ddim or dpm++"
            msg = f"diffusion.sampler {self.sampler} is not for schedule {self.schedule}; use {fitting}"
        elif self.steps is not None and not is_edm and self.steps > (self.timesteps or 1000):
            msg = f"diffusion.steps {self.steps} are more than the schedule's {self.timesteps or 1000} timesteps"
        else:
            return
        raise ValueError(msg)

    def _check_tiles(self) -> None:
        if self.overlap is None:
            return
        if self.crop is None:
            msg = "diffusion.overlap has no effect without diffusion.crop; leave it out, or give diffusion.crop"
            raise ValueError(msg)
        if self.overlap > self.crop // 2:
            msg = (
                f"diffusion.overlap {self.overlap}: expected at most half of diffusion.crop {self.crop}, "
                f"{self.crop // 2}; choose less"
            )
            raise ValueError(msg)

    @property
    def has_operator(self) -> bool:
        """Whether an operator's forecasts are part of what is learned."""
        if self.of == "state":
            return self.operator_share != 0
        return self.of == "residual"

    def resolved(self, rows: int) -> DiffusionSettings:
        """Return the settings with every default filled in.

        Args:
            rows: Rows of the grid, which the stem goes by.
        """
        found: dict[str, Any] = {"given": _GIVEN[self.of], **_SIZES[self.network]}
        if self.of != "mean":
            found |= self._default_noise()
        if self.of == "state":
            found["operator_share"] = 0.5
        rows = -(-rows // self.coarsen)
        if self.crop is not None:
            found["overlap"] = self.crop // 4
            rows = self.crop
        if self.network == "unet":
            found["stem"] = 1 if rows <= 128 else 2 if rows <= 512 else 4
        found |= self.model_dump(exclude_none=True)
        if self.network in _NETWORKS_OF["details"] and self.of != "mean":
            points = found.get("stem") or found.get("patch")
            found.setdefault("details", 0 if points == 1 else _DETAILS)
        return self.model_copy(update=found)

    def _default_noise(self) -> dict[str, Any]:
        is_edm = self.schedule == "edm"
        found: dict[str, Any] = {
            "target": _TARGETS.get(self.schedule, "noise"),
            "sampler": "heun" if is_edm else "dpm++",
            "steps": _STEPS_OF_PERTURBATIONS if self.of == "state" else _STEPS,
            "drop": 0.0 if self.given == () else 0.1,
        }
        if not is_edm:
            found["timesteps"] = 1000
        return found
