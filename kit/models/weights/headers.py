"""Files of tensors in the safetensors format, and PEFT's configuration beside them, read within bounds."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from kit.io.documents import DocumentError, parse_json, read_json
from kit.io.errors import CheckpointError
from kit.models.weights.description import name_faults

_MAX_HEADER = 2**24
"""Most bytes of a safetensors file's header; one of a thousand tensors has 100 KB."""

_MAX_RANK = 2**14
"""Most parts of an adapter; more than a layer of upstream's has channels."""


class _AdapterConfig(BaseModel):
    """What is read of PEFT's ``adapter_config.json``: what is left of pruned adapters."""

    rank_pattern: dict[str, Annotated[list[bool], Field(max_length=_MAX_RANK)]] | None = None


def check_header(file: Path) -> None:
    """Check the header of a safetensors file before the library reads it, which takes headers of 100 MB.

    Raises:
        CheckpointError: it is longer than any that the kit writes, nested, or not JSON.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MAX_HEADER:
            msg = (
                f"{file}: not a readable safetensors file (it states a header of {length} bytes, {_MAX_HEADER} are "
                "read at most); fetch or write it again"
            )
            raise CheckpointError(msg)
        header = stream.read(length)
    try:
        parse_json(header)
    except DocumentError as error:
        msg = f"{file}: not a readable safetensors file (its header: {error}); fetch or write it again"
        raise CheckpointError(msg) from error


def read_safetensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file, on the CPU.

    Raises:
        CheckpointError: it cannot be read.
    """
    check_header(file)
    try:
        with safe_open(str(file), framework="pt") as opened:
            return load_file(str(file)), opened.metadata() or {}
    except SafetensorError as error:
        msg = f"{file}: not a readable safetensors file ({error}); fetch or write it again"
        raise CheckpointError(msg) from error


def read_rank_pattern(file: Path) -> dict[str, list[bool]] | None:
    """Read from ``adapter_config.json`` which parts of pruned adapters are left; None where nothing was pruned.

    Raises:
        CheckpointError: it is no such configuration.
    """
    try:
        return _AdapterConfig.model_validate(read_json(file)).rank_pattern
    except (OSError, DocumentError, ValidationError) as error:
        what = name_faults(error) if isinstance(error, ValidationError) else str(error)
        msg = f"{file}: not the configuration of an adapter as PEFT writes it ({what}); take another copy"
        raise CheckpointError(msg) from error
