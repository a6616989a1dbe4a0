"""Plan of a build, which determines the content of a store: builds of one plan write the same bytes."""

import importlib.metadata
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from kit.data.settings import Codec, Period
from kit.data.statistics import Weighting
from kit.data.store.format import STORE_FORMAT, coordinate_values, period_indices, plain_attributes, times_of
from kit.data.store.manifest import values_hash
from kit.io.documents import parse_json
from kit.io.hashes import sha256_of_text

BLOCK_BYTES = 32 * 2**20
"""Values in a block of small states, float32."""
LARGEST_BLOCK = 256 * 2**20
"""Values in a block of several states at most."""
_SHOWN = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class BuildPlan:
    """Everything that the bytes of a store follow from."""

    content: Mapping[str, Any]
    """As JSON knows it."""

    @cached_property
    def text(self) -> str:
        """The same for the same content."""
        return json.dumps(self.content, sort_keys=True, indent=1)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return sha256_of_text(self.text)

    @property
    def edges(self) -> tuple[int, ...]:
        """Positions of states at which blocks begin, and the end of the last."""
        return tuple(self.content["edges"])

    @property
    def codec(self) -> Codec:
        """How chunks are packed."""
        codec: Codec = self.content["codec"]
        return codec

    @property
    def weights(self) -> Weighting:
        """How points are weighted in the statistics."""
        weights: Weighting = self.content["weights"]
        return weights

    @property
    def splits(self) -> dict[str, Period]:
        """Periods by name."""
        return {name: Period.parse(text) for name, text in self.content["splits"].items()}


def plan_of(
    dataset: xr.Dataset,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    codec: Codec,
    weights: Weighting = "none",
    settings: Mapping[str, Any],
    counted: int | None = None,
    base: Mapping[str, Any] | None = None,
) -> BuildPlan:
    """Make the plan of a build.

    Args:
        dataset: Dataset in the store's form.
        splits: periods by name.
        attributes: of the store, the hashes of the files that it is built from among them.
        codec: how chunks are packed.
        weights: how points are weighted in the statistics.
        settings: what was asked for.
        counted: states that the statistics are made of; by default those of the dataset in the training split.
        base: for an append, what is known of the store that it adds to.
    """
    times = times_of(dataset)
    if counted is None:
        counted = len(period_indices(times, splits["train"]))
    variables = {}
    for name, array in sorted(dataset.data_vars.items()):
        variables[str(name)] = {
            "dims": list(array.dims),
            "shape": list(array.shape),
            "attributes": plain_attributes(array.attrs),
        }
    content = {
        # Another version may write other bytes for the same settings.
        "format": STORE_FORMAT,
        "kit_version": importlib.metadata.version("aurora-finetune-kit"),
        "settings": settings,
        "attributes": plain_attributes(attributes),
        "splits": {name: str(period) for name, period in splits.items()},
        "times": {"count": len(times), "first": str(times[0]), "last": str(times[-1])},
        "coordinates": {name: values_hash(values) for name, values in coordinate_values(dataset).items()},
        "variables": variables,
        "codec": codec,
        "weights": weights,
        "counted": counted,
        "edges": block_edges([array for array in dataset.data_vars.values() if "time" in array.dims]),
        "base": base,
    }
    # Tuples become lists and the like, so that a plan equals one that was read from its file.
    return BuildPlan(parse_json(json.dumps(content)))


def block_edges(arrays: Sequence[xr.DataArray]) -> list[int]:
    """Cut states into runs that are computed together.

    A lazy array computes whole chunks of its own, so cuts lie where chunks of all arrays end, as far as that leaves
    blocks of ``LARGEST_BLOCK``; beyond that, where those of the largest one do, so that little is computed twice.

    Returns:
        Positions at which blocks begin, and the end of the last.
    """
    states = arrays[0].sizes["time"]
    # Of values in float32, 4 bytes each.
    per_state = max(1, 4 * sum(array.size for array in arrays) // max(1, states))
    length, most = max(1, BLOCK_BYTES // per_state), max(1, LARGEST_BLOCK // per_state)
    shared = set.intersection(*map(_ends, arrays))
    fine = _cut(shared, most, _ends(max(arrays, key=lambda array: array.size)))
    edges, last = [0], 0
    for end in _cut(fine, most, set(range(0, states + 1, length))):
        # As many runs as fit a block; a run that is longer than one stands alone.
        if end - edges[-1] > length and last > edges[-1]:
            edges.append(last)
        last = end
    return [*edges, states]


def _ends(array: xr.DataArray) -> set[int]:
    """Where the chunks of an array end; anywhere, if it is not lazy."""
    if array.chunks is None:
        return set(range(array.sizes["time"] + 1))
    return {0, *np.cumsum(array.chunksizes["time"]).tolist()}


def _cut(ends: set[int] | Sequence[int], most: int, others: set[int]) -> list[int]:
    """Ends, 0 among them; runs that are longer than ``most`` are cut at other ends, too."""
    cuts = set(ends)
    for start, stop in itertools.pairwise(sorted(ends)):
        if stop - start > most:
            cuts.update(end for end in others if start < end < stop)
    return sorted(cuts)


def differences(mine: Any, other: Any, where: str = "") -> Iterator[str]:
    """Say where two plans' contents differ, one place after another."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        for key in sorted({*mine, *other}):
            yield from differences(mine.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    elif mine != other:
        yield f"{where}: {_short(other)} there, {_short(mine)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
