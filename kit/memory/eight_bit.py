"""AdamW with moments in 8 bits, as torchao makes it.

Tensors of fewer than 4096 values, or whose size 256 does not divide, keep moments in fp32; the others hold codes of
one byte into a table of 256 values, and one scale for each block of 256.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch

# Python and PyTorch complain about torchao's source as it is imported; none of it is the reader's to mend.
_complaints = logging.getLogger("torch.utils._pytree")
_level = _complaints.level
_complaints.setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.optim import AdamW8bit as _AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit
_complaints.setLevel(_level)

__all__ = ["AdamW8bit"]


class AdamW8bit(_AdamW8bit):  # type: ignore[misc]
    """torchao's, with a state of plain tensors and values, which loads where torchao was never imported.

    Args:
        parameters: what trains.
        weight_decay: decoupled.
        betas: of the two moments.
        compiled: run its arithmetic through ``torch.compile``, which needs a compiler at hand; else in eager mode,
            slower, and with some 50 bytes of scratch for each value of the tensor that is being updated.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        compiled: bool,
    ) -> None:
        super().__init__(list(parameters), weight_decay=weight_decay, betas=betas)
        self._compiled = compiled

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have a gradient."""
        with nullcontext() if self._compiled else torch.compiler.set_stance("force_eager"):
            loss: float | None = super().step(closure)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State, with each 8-bit tensor taken apart."""
        state: dict[str, Any] = super().state_dict()
        return {**state, "state": _mapped(state["state"], _apart)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict({**state_dict, "state": _mapped(state_dict["state"], _together)})


def _mapped(state: dict[int, dict[str, Any]], change: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    return {index: {key: change(value) for key, value in own.items()} for index, own in state.items()}


def _apart(value: Any) -> Any:
    if not isinstance(value, OptimState8bit):
        return value
    return {"codes": value.codes, "scale": value.scale, "qmap": value.qmap, "signed": value.signed}


def _together(value: Any) -> Any:
    return OptimState8bit(**value, dtype=torch.float32) if isinstance(value, dict) else value
