"""Frozen linear layers in NF4, the 4-bit format of QLoRA (Dettmers et al. 2023), through bitsandbytes.

Import this module only after ``kit.adapt.lora.import_packages``.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from bitsandbytes import matmul_4bit  # type: ignore[attr-defined]
from bitsandbytes.functional import QuantState, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from torch.utils.flop_counter import register_flop_formula

_BLOCK = 64
"""Weights that share one scale; bitsandbytes' default, and the QLoRA paper's."""


class Nf4Linear(Linear4bit):
    """A frozen linear layer that holds its weight in 4 bits and computes in the precision of the moment.

    It departs from its parent, whose arithmetic it uses, where that does not suit training:

    - The packed weight is a plain parameter and its scales are a buffer. bitsandbytes' own parameter class cannot
      hold a fake tensor, so that no step could be planned, and keeps its scales outside the module.
    - It computes in the precision of autocast where that is on, and else in that of its input. The parent takes the
      precision of the first input that it ever sees, which is fp32 even under autocast.
    - It never repacks the weight: on CPUs with AVX-512 the parent does so in evaluation, after which no gradient
      passes through it any more.

    Nothing but the packed weight is kept for the backward pass, which unpacks it again.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Scales are not packed again: that would save 0.37 bits a weight, and leave a fake table in bitsandbytes where
        # its first call was a plan's.
        packed, state = quantize_4bit(linear.weight.detach(), blocksize=_BLOCK, quant_type="nf4")
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.register_buffer("absmax", state.absmax)
        # PEFT reads these off the layers that it adapts.
        self.compute_dtype = None
        vars(self.weight).update(quant_type="nf4", compress_statistics=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the weight, [..., in_features] to [..., out_features]."""
        kind = x.device.type
        # Asked each time: the first input is fp32 even under autocast, where a layer norm comes before.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias: torch.Tensor | None = self._parameters["bias"]
        if bias is not None:
            bias = bias.to(dtype)
        y: torch.Tensor = matmul_4bit(x.to(dtype), self.weight, self.state(dtype), bias=bias)
        return y

    def state(self, dtype: torch.dtype) -> Any:
        """Describe to bitsandbytes how to unpack the weight to a precision."""
        shape = torch.Size((self.out_features, self.in_features))
        return QuantState(self.absmax, shape=shape, blocksize=_BLOCK, quant_type="nf4", dtype=dtype)  # type: ignore[no-untyped-call]


def quantise(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Put linear layers of a model into NF4, in their places.

    Args:
        model: changed in place; ``is_loaded_in_4bit`` tells PEFT to look for such layers.
        names: of the layers.
    """
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, torch.nn.Linear)
        model.set_submodule(name, Nf4Linear(linear), strict=True)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]


@register_flop_formula(torch.ops.bitsandbytes.gemm_4bit)
def _operations(x: Sequence[int], _packed: Sequence[int], weight: Sequence[int], *_rest: Any, **_options: Any) -> int:
    """Operations of a product with a packed weight, which PyTorch's own list of formulas lacks."""
    return 2 * math.prod(x) * weight[0]
