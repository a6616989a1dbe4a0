"""CUDA's autocast, on the CPU: a step that is planned there must run in the precisions that a GPU would use.

Both run matrix products, convolutions and attention in the lower precision. CUDA also runs layer norm, softmax,
powers, sums and some others in fp32, which the CPU leaves in the precision that they are given; what they return, and
keep for the backward pass, is then twice as large. The lists are PyTorch's ("Autocast Op Reference" in its
documentation of ``torch.amp``; ``aten/src/ATen/autocast_mode.h``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["cuda_autocast_on_cpu"]

_KEY = "AutocastCPU"

_IN_FP32 = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar "
    "pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm cosine_similarity "
    "poisson_nll_loss cosine_embedding_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss mse_loss huber_loss "
    "margin_ranking_loss soft_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp "
    "norm.Scalar norm.ScalarOpt_dim"
)
_INTO_FP32 = (
    "prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm sum "
    "sum.dim_IntList"
)
"""Those that read the lower precision and write fp32, unless they are told what to write."""


@contextmanager
def cuda_autocast_on_cpu() -> Iterator[None]:
    """Have the CPU's autocast follow CUDA's lists while the block runs."""
    library = torch.library.Library("aten", "IMPL", _KEY)  # type: ignore[no-untyped-call]
    try:
        for names, wrap in ((_IN_FP32, _in_fp32), (_INTO_FP32, _into_fp32)):
            for name in names.split():
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", _KEY):
                    library.impl(name, wrap(_overload(name)), _KEY)  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _overload(name: str) -> torch._ops.OpOverload[..., Any]:
    packet, _, overload = name.partition(".")
    found: torch._ops.OpOverload[..., Any] = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return found


def _in_fp32(operation: torch._ops.OpOverload[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return operation(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})

    return run


def _into_fp32(operation: torch._ops.OpOverload[..., Any]) -> Callable[..., Any]:
    place = [argument.name for argument in operation._schema.arguments].index("dtype")

    def run(*args: Any, **kwargs: Any) -> Any:
        if _is_narrow(args[0]) and kwargs.get("dtype", args[place] if place < len(args) else None) is None:
            args, kwargs = args[:place], {**kwargs, "dtype": torch.float32}
        with torch.autocast("cpu", enabled=False):
            return operation(*args, **kwargs)

    return run


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype.itemsize < 4


def _widened(value: Any) -> Any:
    return value.to(torch.float32) if _is_narrow(value) else value
