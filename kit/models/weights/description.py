"""Schema of a checkpoint's description, ``kit.json``: read from a stranger, it builds a model of at most so many parts.

Lengths are bounded where a model is made of as many parts; what is not named here is kept as it is.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kit.data.settings import Period
from kit.io.documents import DocumentError, parse_json
from kit.io.errors import CheckpointError

_MAX_NAMES = 1000
"""Most variables or levels; version 1.5, the largest variant, has 70 variables."""

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Names = Annotated[list[_Name], Field(max_length=_MAX_NAMES)]
_Levels = Annotated[list[Annotated[float, Field(gt=0, le=1e5)]], Field(max_length=_MAX_NAMES)]
_Count = Annotated[int, Field(strict=True, ge=1, le=256)]
_Counts = Annotated[list[_Count], Field(min_length=1, max_length=8)]
_Ratio = Annotated[float, Field(ge=0, le=64)]


def _check_period(text: str) -> str:
    Period.parse(text)
    return text


_Period = Annotated[str, AfterValidator(_check_period)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Architecture(BaseModel):
    """Arguments of upstream's constructors (``aurora/model/aurora.py``) that a description may have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    window_size: Annotated[list[_Count], Field(min_length=3, max_length=3)] = [1, 1, 1]
    encoder_depths: _Counts = [1]
    encoder_num_heads: _Counts = [1]
    decoder_depths: _Counts = [1]
    decoder_num_heads: _Counts = [1]
    latent_levels: _Count = 2
    patch_size: _Count = 1
    embed_dim: Annotated[int, Field(strict=True, ge=1, le=16384)] = 1
    num_heads: _Count = 1
    mlp_ratio: _Ratio = 1
    drop_path: _Ratio = 0
    drop_rate: _Ratio = 0
    enc_depth: _Count = 1
    dec_depth: _Count = 1
    dec_mlp_ratio: _Ratio = 1
    perceiver_ln_eps: _Ratio = 0
    stabilise_level_agg: bool = False
    lora_steps: _Count = 1
    lora_mode: Literal["single", "from_second", "all"] = "single"
    level_condition: _Levels | None = None
    dynamic_vars: bool = False
    atmos_static_vars: bool = False
    separate_perceiver: _Names = []
    modulation_heads: _Names = []
    positive_surf_vars: _Names = []
    positive_atmos_vars: _Names = []
    density_channel_surf_vars: _Names = []
    angle_surf_vars: _Names = []
    clamp_at_first_step: bool = False
    simulate_indexing_bug: bool = False
    stochastic: bool = False
    use_updated_lead_time_embedding: bool = False
    variable_lead_time: bool = False


class _Model(_Part):
    variant: _Name
    surface: _Names
    static: _Names
    atmospheric: _Names
    levels: _Levels
    history: Annotated[int, Field(strict=True, ge=1, le=64)]
    timestep_hours: Annotated[float, Field(gt=0, le=8784)]
    rollout_lora: Literal["merged", "kept"] | None
    arguments: _Architecture
    statistics: dict[str, tuple[float, float]]
    added: _Names = []
    never_read: _Names = []
    transforms: dict[str, str] = {}
    heads: dict[str, str] = {}


class _Base(_Part):
    name: str
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int | None = None
    relative: str | None = None


class _Adapter(_Part):
    settings: dict[str, Any]
    base: _Base


class _Stage(_Part):
    steps: int
    base: _Base | None = None


class _Data(_Part):
    store: str | None = None
    variables: _Names
    levels: _Levels | None = None
    train: _Period | None = None
    valid: _Period | None = None
    test: _Period | None = None


class _NetworkSettings(_Part):
    of: Literal["state", "next", "residual", "mean"]


class _Network(_Part):
    settings: _NetworkSettings


class _Guidance(_Part):
    guidance: Annotated[float, Field(ge=0, le=1)]


class _Description(_Part):
    model: _Model
    data: _Data | None = None
    base: _Base | None = None
    adapter: _Adapter | None = None
    diffusion: _Network | None = None
    operator: _Base | None = None
    guidance: _Guidance | None = None
    lineage: Annotated[list[_Stage], Field(max_length=10_000)] = []


def check_description(description: Any, where: object) -> dict[str, Any]:
    """Check that a description is one that the kit could have written.

    Args:
        description: Contents of ``kit.json``, or of a file of tensors under ``kit``.
        where: File that it comes from, for messages.

    Returns:
        The same, unchanged.

    Raises:
        CheckpointError: a part is missing, of another kind, or beyond its bounds; names the first three.
    """
    if not isinstance(description, Mapping):
        msg = f"{where}: expected the description of a checkpoint, got {type(description).__name__}"
        raise CheckpointError(msg)
    try:
        _Description.model_validate(description)
    except ValidationError as error:
        msg = (
            f"{where}: no description of a checkpoint that the kit wrote: {name_faults(error)}. Nothing of it was "
            "used; take another copy of the checkpoint"
        )
        raise CheckpointError(msg) from error
    return dict(description)


def read_description(text: str, file: object) -> dict[str, Any]:
    """Read the description that the header of a file of tensors carries, and check it.

    Raises:
        CheckpointError: it is no JSON, or none that the kit could have written.
    """
    try:
        described = parse_json(text)
    except DocumentError as error:
        msg = f"{file}: its header's description is not readable ({error}); fetch or write it again"
        raise CheckpointError(msg) from error
    return check_description(described, file)


def name_faults(error: ValidationError) -> str:
    """Name the first three places where something does not fit a schema."""
    faults = []
    for fault in error.errors(include_url=False)[:3]:
        place = ".".join(map(str, fault["loc"]))
        faults.append(f"{place}: {fault['msg'][:200]}, got {str(fault['input'])[:60]!r}")
    if error.error_count() > len(faults):
        faults.append(f"and {error.error_count() - len(faults)} more")
    return "; ".join(faults)
