"""Settings of the memory engine."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Recompute = Literal["none", "selective", "blocks", "upstream"]
Offload = Literal["inputs", "optimizer"]


class MemorySettings(BaseModel):
    """How a step fits the device. All of it is exact, except where a setting says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    fit: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?\s*GiB$")
    """Memory that the step must fit into, such as ``24GiB``: the planner then chooses the fastest of the settings
    below that do, and says which."""
    latitude_bands: PositiveInt = 1
    """Bands of latitudes on which encoder and decoder run one after the other, each recomputed in the backward
    pass; 1 runs them whole and recomputes nothing."""
    window_bands: PositiveInt = 1
    """Bands of attention windows on which each backbone block runs one after the other, which bounds what one block
    holds at a time. Takes effect with ``recompute`` blocks, and in forecasts."""
    recompute: Recompute = "none"
    """What the backbone recomputes in the backward pass: ``none``; ``selective`` (all but matrix products and
    attention); ``blocks`` (everything inside a block); ``upstream`` (Aurora's own
    ``configure_activation_checkpointing``, which recomputes some parts several times)."""
    stages: PositiveInt | None = None
    """Stages of the backbone that ``recompute`` blocks or selective reaches, from the finest on; all by default. The
    finest hold most for the same arithmetic: 1 or 2 save much of the memory for little time."""
    saved_inputs: Literal["fp32", "bf16"] = "fp32"
    """Precision in which inputs of recomputed blocks are kept; ``bf16`` halves them and rounds what is recomputed."""
    offload: tuple[Offload, ...] = ()
    """What is kept in the host's memory instead of the device's: ``inputs`` of recomputed blocks and bands, the
    ``optimizer`` (states, gradients and AdamW's arithmetic)."""
    frozen_weights: Literal["fp32", "bf16"] = "fp32"
    """Precision in which frozen linear layers are kept; ``bf16`` is exact where the forward pass runs in bf16."""
    step_in_backward: bool = False
    """Apply each gradient as soon as it is complete and free it; excludes ``optim.clip``, ``train.accumulate``,
    ``rollout.graded`` all and ``offload`` optimizer."""
    compile: bool = False
    """Compile the backbone's normalisation with ``torch.compile``; results then differ in the last bits."""
