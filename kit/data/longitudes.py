"""Longitudes of a box that crosses Greenwich: 350, 355, 0, 5 go east, though one is smaller than the one before.

Aurora's encoder describes each patch by the mean and the extremes of its own longitudes and latitudes
(``aurora/model/posencoding.py``), so that where 0 degrees begins a patch, every patch of such a box is described as it
is on the global grid. Only ``aurora.Metadata`` is in the way, and it asks one thing: that the differences of
neighbouring longitudes be positive. On a circle they are: the step from 355 to 0 is 5 degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class EastwardLongitudes(torch.Tensor):
    """Longitudes in [0, 360) whose differences are taken eastwards, in [0, 360).

    Copies, slices and conversions, which upstream makes of the coordinates of a batch on its way through the model,
    stay what they are; anything else computed from them is a plain tensor.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run any function of PyTorch on the plain tensor."""
        # As plain tensors: a function that sees the subclass would come back here.
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func in _STAYS:
            return result.as_subclass(cls)
        return result

    def __sub__(self, other: Any) -> torch.Tensor:
        """How far east of another longitude each one is, degrees."""
        return torch.remainder(torch.sub(self, other), 360)

    def __deepcopy__(self, memo: dict[int, Any]) -> EastwardLongitudes:
        """Copy the values; PyTorch's own way wants empty tensors of this kind, which mean nothing."""
        copied = self.clone().as_subclass(type(self))
        memo[id(self)] = copied
        return copied


# What upstream does with the coordinates of a batch on its way through the model: all of it makes new tensors.
_STAYS = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        "__getitem__", "clone", "contiguous", "cpu", "cuda", "detach", "double", "float", "pin_memory", "to", "type",
    )
)  # fmt: skip


def longitudes(values: npt.ArrayLike) -> torch.Tensor:
    """Make a tensor of longitudes that ``aurora.Metadata`` takes.

    Args:
        values: Degrees east in [0, 360), each one east of the one before, [W] or [H, W]; a row may pass 0 once.

    Returns:
        The same in float32; a plain tensor where they increase.
    """
    degrees = np.asarray(values, dtype=np.float64)
    tensor = torch.from_numpy(degrees.astype(np.float32))
    if (np.diff(degrees) > 0).all():
        return tensor
    return tensor.as_subclass(EastwardLongitudes)
