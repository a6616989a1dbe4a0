"""Pickled checkpoints, read as tensors and nothing more, mapped into memory where the format allows it.

``torch.load`` with ``weights_only`` builds tensors and plain containers and calls nothing else. A file of PyTorch's
present format (a zip) is mapped: its tensors lie in the page cache until they are copied into a model, and what is not
asked for, such as the states of an optimiser, is never read. The mapping is private, so that nothing that is done to
the tensors reaches the file.

Lightning keeps the weights under ``state_dict``, named as its module names them (``model.backbone...``), beside
optimisers, callbacks and the module's arguments, ``hyper_parameters``. Objects of some known harmless libraries among
those are passed over: a stand-in takes their place that does nothing. Anything else is refused.
"""

from __future__ import annotations

import logging
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, TypeGuard

import torch

from kit.io.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics, level_key
from kit.models.variants import Variant, keep_names

_logger = logging.getLogger(__name__)

_ZIP = b"PK\x03\x04"
# Keys under which a training script keeps the weights; the first is Lightning's.
_STATES = ("state_dict", "model_state_dict", "model")
# Libraries whose objects lie beside weights and mean nothing to them.
_SET_ASIDE = (
    "pathlib", "datetime", "argparse", "enum", "typing", "omegaconf", "antlr4", "lightning", "pytorch_lightning",
    "lightning_fabric", "lightning_utilities", "torchmetrics", "vibe_tune_aurora", "numpy",
)  # fmt: skip
# What compilation, recomputation and sharding put into names.
_WRAPPERS = re.compile(r"(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
# Every one of upstream's models has a ``backbone``; what stands before it is somebody's wrapper.
_ANCHOR = re.compile(r"(?P<prefix>(?:[^.]+\.)*?)backbone\.")


_MAX_PICKLE = 8 * 2**20
"""Most bytes of a file's pickles, or instructions in them; those of a model of a thousand tensors have 200 KB."""
# What PyTorch raises of bytes that are damaged or made up, and Python's zipfile.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError,
    AttributeError, AssertionError, OSError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Pickled:
    """What a pickled checkpoint holds.

    Attributes:
        state: tensors, under the names of the file.
        arguments: ``hyper_parameters`` of a Lightning module; empty where there are none.
    """

    state: dict[str, torch.Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class _Nothing:
    """Stands for an object that is no part of the weights: takes anything, keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Nothing:  # noqa: PYI034
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget it."""


def read_pickled(file: Path) -> Pickled:
    """Read a pickled checkpoint on the CPU.

    Args:
        file: as ``torch.save`` writes it, in its present or its former format.

    Raises:
        CheckpointError: it holds other things than tensors, or is damaged; nothing in it was executed.
    """
    with file.open("rb") as stream:
        mapped = stream.read(len(_ZIP)) == _ZIP
    if not mapped:
        _logger.warning(
            "%s is in the format of PyTorch before 1.6, which cannot be mapped: all of its %.1f GiB are read into "
            "memory",
            file, file.stat().st_size / 2**30,
        )  # fmt: skip
    try:
        check_pickled(file)
        content = _load_content(file, mapped=mapped)
    except _UNREADABLE as error:
        msg = (
            f"{file}: cannot be read as a checkpoint of tensors alone ({_cause(error)}); nothing in it was executed. "
            "Read are a dictionary from parameter names to tensors, and Lightning's checkpoints; where you trust the "
            "file, save its tensors alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        )
        raise CheckpointError(msg) from error
    if _is_state(content):
        return Pickled(_checked(content, file))
    held = ""
    if isinstance(content, dict):
        arguments = content.get("hyper_parameters")
        if not isinstance(arguments, dict):
            arguments = {}
        for key in _STATES:
            if _is_state(content.get(key)):
                return Pickled(_checked(content[key], file), arguments)
        held = f"; it holds {', '.join(map(str, list(content)[:8]))}"
    msg = (
        f"{file}: expected a dictionary from parameter names to tensors, or one under {' or '.join(_STATES)}, got "
        f"{type(content).__name__}{held}"
    )
    raise CheckpointError(msg)


def check_pickled(file: Path) -> None:
    """Check that a file of PyTorch's formats takes no more memory than a file of its size may.

    PyTorch unpacks whatever a member of a zip claims, and writes none packed; each byte of a pickle can make an object.

    Raises:
        ValueError: a member is packed, all together are larger than the file, or its pickles are too long.
    """
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            # The former format: three pickles of marks, one of the contents, one of the storages' keys, their bytes.
            steps = chain.from_iterable(pickletools.genops(stream) for _ in range(5))
            if next(islice(steps, _MAX_PICKLE, None), None) is not None:
                msg = f"it has more than {_MAX_PICKLE} instructions"
                raise ValueError(msg)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    pickles = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    if pickles > _MAX_PICKLE:
        msg = f"its pickles have {pickles} bytes, more than {_MAX_PICKLE}"
        raise ValueError(msg)
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        msg = f"{packed[0]} in it is packed, which PyTorch never does"
        raise ValueError(msg)
    claimed, held = sum(member.file_size for member in members), file.stat().st_size
    if claimed > held:
        msg = f"what is in it claims {claimed} bytes, and the file has {held}"
        raise ValueError(msg)


def _checked(state: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Check that tensors are plain, and have no more values than the file holds.

    Raises:
        CheckpointError: one is sparse or on another device, or they show the same bytes again and again.
    """
    held = file.stat().st_size
    claimed = 0
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            msg = f"{file}: {name} is no plain tensor; save its values: tensor.dequantize(), .to_dense() or .cpu()"
            raise CheckpointError(msg)
        claimed += tensor.numel() * tensor.element_size()
    # Of a stride of zero, a tensor of any size needs one value; tensors that others are views of count twice.
    if claimed > 2 * held:
        msg = (
            f"{file}: its tensors have {claimed} bytes, and the file {held}: they show the same values again and "
            "again; save contiguous() copies of them"
        )
        raise CheckpointError(msg)
    return dict(state)


def _load_content(file: Path, *, mapped: bool) -> object:
    with warnings.catch_warnings():
        # PyTorch warns of unusual protocols before it refuses what they hold.
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError:
            if not mapped:
                raise
            # What PyTorch refused may be objects of known libraries, whose place a stand-in takes.
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
                (_Nothing, name) for name in asked if name.split(".")[0] in _SET_ASIDE
            ]
            if not known:
                raise
        with torch.serialization.safe_globals(known):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _cause(error: Exception) -> str:
    """What the loader stumbled over, without the advice that it wraps it in."""
    text = str(error)
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it asks for {named[1]}"
    if wrapped := re.search(r"WeightsUnpickler error:\s*(.+)", text):
        return wrapped[1]
    return (text.splitlines() or [type(error).__name__])[0]


def _is_state(content: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def upstream_names(state: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Strip from parameter names what wrappers put before them or between, down to upstream's names.

    Args:
        state: tensors under the names of a file.
        file: for messages.

    Returns:
        The tensors of the one Aurora among them.

    Raises:
        CheckpointError: there are several, such as a model and its running average.
    """
    bare = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    prefixes = sorted({found["prefix"] for found in map(_ANCHOR.match, bare) if found})
    if len(prefixes) > 1:
        listed = ", ".join(map(repr, prefixes))
        msg = f"{file}: holds several models, under {listed}; save the one that is meant by itself"
        raise CheckpointError(msg)
    prefix = "".join(prefixes)
    others = [name for name in bare if not name.startswith(prefix)]
    if others:
        _logger.info("%s: %d tensors beside %r are no part of the model (%s)", file, len(others), prefix, others[0])
    return {name.removeprefix(prefix): tensor for name, tensor in bare.items() if name.startswith(prefix)}


# The model that vibe-kit's Lightning module says that it trained.
#
# Microsoft's vibe-kit (``aurora-finetune``: ``vibe_tune_aurora/aurora_module.py`` and ``model_init.py``) trains
# upstream's small model, to which it adds surface variables: embeddings and heads that upstream's weights lack. Their
# names and the statistics that all surface variables are normalised with stand in the module's arguments, which
# Lightning keeps.

# Levels, in hPa, that upstream publishes statistics for.
_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
# The ``init_mode`` in which the model is upstream's own, whatever the other arguments say.
_UNCHANGED = "pretrained"


def vibe_kit_spec(arguments: Mapping[str, Any], variant: Variant, file: Path) -> ModelSpec | None:
    """Read the model that vibe-kit's module trained from its arguments.

    Args:
        arguments: ``hyper_parameters`` of the checkpoint.
        variant: whose weights they are taken for.
        file: for messages.

    Returns:
        The variant with the module's surface variables and statistics; None where the arguments name none, so that
        the model is the variant's own.

    Raises:
        CheckpointError: names or statistics are not what that module writes.
    """
    if arguments.get("init_mode") == _UNCHANGED or not {"surf_vars", "surf_stats"} <= arguments.keys():
        return None
    names, given = arguments["surf_vars"], arguments["surf_stats"]
    are_names = isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) for name in names)
    if not are_names or not isinstance(given, dict) or not all(map(_is_pair, given.values())):
        msg = (
            f"{file}: hyper_parameters: expected the names of variables in surf_vars and a mean and a standard "
            f"deviation for each in surf_stats, got {names!r} and {given!r}"
        )
        raise CheckpointError(msg)
    levels = [level_key(name, level) for name, level in product(variant.atmospheric, _LEVELS)]
    keys = (*names, *variant.static, *levels)
    values = {key: published for key in keys if (published := Statistics.published(key)) is not None}
    # The module's own statistics stand in the place of upstream's, for surface variables alone.
    for name in keep_names(names, given):
        mean, deviation = given[name]
        values[name] = float(mean), float(deviation)
    return ModelSpec(
        variant=variant.name,
        surface=tuple(names),
        static=variant.static,
        atmospheric=variant.atmospheric,
        levels=_LEVELS,
        history=variant.default("max_history_size"),
        timestep=variant.timestep,
        statistics=Statistics(values),
    )


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) for value in pair)
    )
