"""Settings of the model: which variant, from which weights."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

VariantName = Literal[
    "hres-finetuned", "pretrained", "small", "12h", "highres", "air-pollution", "wave", "v1p5", "v1p5-ensemble", "tiny"
]


def _parse_hours(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)h", value.strip())
    if match is None or float(match[1]) == 0:
        msg = f"expected a number of hours such as 6h, got {value!r}"
        raise ValueError(msg)
    return timedelta(hours=float(match[1]))


def _write_hours(value: timedelta) -> str:
    return f"{value.total_seconds() / 3600:g}h"


Timestep = Annotated[
    timedelta,
    BeforeValidator(_parse_hours, json_schema_input_type=str),
    PlainSerializer(_write_hours, return_type=str),
]


class ModelSettings(BaseModel):
    """Which Aurora is fine-tuned, and what it starts from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    variant: VariantName = "tiny"
    """Which of upstream's classes; ``tiny`` is upstream's own class with the kit's small settings."""
    weights: str | None = None
    """``hub`` for the weights that upstream publishes of the variant (fetched once, by hash), a file (``.ckpt``,
    ``.safetensors``, Lightning's) or a checkpoint folder, a registry name, or ``random``; by default the variant's own,
    which are ``hub`` for all but ``tiny``."""
    new_variables: tuple[str, ...] = ()
    """Variables of the store that the weights lack and the model shall have, by Aurora's short names; static ones
    with the prefix ``static_``."""
    output_only: tuple[str, ...] = ()
    """Those among the new surface variables that are predicted and never read."""
    new_init: Literal["zero", "random"] | None = None
    """How embeddings of new variables start: ``zero``, so that what is predicted of the old ones stays as it is, or
    ``random``; zero by default. Their heads start random."""
    stabilise_level_agg: bool | None = None
    """Normalise keys and queries of the encoder's level aggregation, which upstream advises where training is
    unstable; by default as the weights have it."""
    stochastic: bool = False
    """Have the model read noise at every step, as upstream's ensemble does, from weights that read none; what is new
    begins so that predictions stay as they are, and trains under every method. Weights that read noise do so anyway."""
    timestep: Timestep | None = None
    """Time from the last input state to the prediction, such as ``6h``; by default the variant's."""
    statistics: Literal["upstream", "store"] | None = None
    """Where normalisation comes from: ``upstream``'s published values (and the store's for variables that
    have none), or the ``store``'s training split alone; by default what the weights were trained with."""
    transforms: dict[str, str] = Field(default_factory=dict)
    """Transform of a new variable's physical values before normalisation, for what may be zero and never less:
    ``tp=log1p:1e-5`` is log(1 + x / 1e-5 m), the default for precipitation; ``sqrt``; ``log:1e-3``, as version 1.5
    has it; ``identity``. Of what lies on one side of another limit: ``refc=floor:-10``, ``cin=negative-sqrt``. What is
    predicted comes back through its inverse, and is never beyond the limit. ``none`` leaves out a default."""
    heads: dict[str, str] = Field(default_factory=dict)
    """More than one number for a new surface variable: ``tp=two-part`` predicts whether it rains, and how much where
    it does; ``tp=quantile:0.1/0.5/0.9`` predicts quantiles, of which the median is the prediction."""
    rollout_lora: Literal["merge", "keep"] | None = None
    """What becomes of upstream's roll-out LoRA in variants that have it: ``merge`` it into the base weights,
    or ``keep`` it frozen; by default it is merged."""

    @model_validator(mode="after")
    def _new_variables_have_an_effect(self) -> Self:
        for setting, given in (("output_only", self.output_only), ("new_init", self.new_init)):
            if given and not self.new_variables:
                msg = f"model.{setting} would have no effect without model.new_variables; give these, or leave it out"
                raise ValueError(msg)
        return self
