"""A CUDA step simulated on a CPU, without data: fake tensors, CUDA's precisions, a process that is left as it was.

The simulated GPU is PyTorch's CPU device. Fake CUDA tensors would be nearer to the truth, but their backward pass
needs a GPU; and a plan has to be the same on a machine with one and on a machine without.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy.typing as npt
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_aten = torch.ops.aten
_CACHING = ("aurora.", "kit.", "torchao.optim")
# Values that are worth knowing.
_FEW = 1024
_TO_NUMPY = torch.Tensor.numpy


@contextmanager
def simulated_gpu() -> Iterator[FakeTensorMode]:
    """Run a block on fake tensors as a GPU would run it.

    Values that the block reads are made up: every truth is True, every number 1. So assertions about data pass, and
    losses are finite. Afterwards the process is as before: caches that hold tensors are emptied on the way in and on
    the way out, random numbers go on where they were.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=()))
        # Training asks for them; some operations are put together from other ones then.
        stack.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
        torch.use_deterministic_algorithms(True)
        # Upstream picks the device of its autocast by asking for a GPU.
        stack.enter_context(patch.object(torch.cuda, "is_available", lambda: False))
        # It draws again until all values lie within bounds.
        stack.enter_context(patch.object(torch.nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor))
        # PyTorch's own exchanges tensors under their references, of which fake ones have too many.
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _apply))
        # It detaches tensors first, which makes fakes of real ones.
        stack.enter_context(patch.object(torch.Tensor, "numpy", _numpy))
        stack.enter_context(cuda_autocast_on_cpu())
        _empty_caches()
        stack.callback(_empty_caches)
        yield stack.enter_context(_Fake(allow_non_fake_inputs=True))


class _Fake(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fake tensors with values, where somebody insists on reading one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would wrap the method below in what keeps its compiler away, which takes longer than the method.
        return False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] = {},
    ) -> object:
        if func is _aten._local_scalar_dense.default:
            return _read(args[0])
        if func is _aten.linspace.default and int(str(args[2])) <= _FEW:
            # A few values that need no data: upstream reads the rates of its stochastic depth from them.
            with torch.utils._python_dispatch._disable_current_modes():
                values = func(*args, **kwargs)
            return self.fake_tensor_converter.from_real_tensor(self, values, make_constant=True)
        return super().__torch_dispatch__(func, types, args, kwargs)


def _read(tensor: object) -> bool | int | float | complex:
    assert isinstance(tensor, torch.Tensor)
    known = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if known is not None:
        with torch.utils._python_dispatch._disable_current_modes():
            value: bool | int | float | complex = known.item()
        return value
    if tensor.dtype is torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _numpy(tensor: torch.Tensor, **kwargs: bool) -> npt.NDArray[Any]:
    """Values of a real tensor; ones for a fake one."""
    with torch.utils._python_dispatch._disable_current_modes():
        real = torch.ones(tensor.shape, dtype=tensor.dtype) if isinstance(tensor, FakeTensor) else tensor
        return _TO_NUMPY(real, **kwargs)


def _apply(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> object:
    """Move or cast a module's tensors, as ``torch.nn.Module.to`` wants it done."""
    if recurse:
        for child in module.children():
            _apply(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None and (changed := change(parameter.detach())).dtype is not parameter.dtype:
            module._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


def _empty_caches() -> None:
    """Empty every function's cache of upstream's modules, ours and torchao's optimisers.

    A value in one would outlive its world: torchao 0.14 keeps the table of its 8-bit codes, which is made up in here.

    Not that of ``FakeTensorMode``, a class: it holds shapes, no tensors, and spares the next trace half of its time.
    """
    for name, module in list(sys.modules.items()):
        if not name.startswith(_CACHING):
            continue
        for value in list(vars(module).values()):
            if not isinstance(value, type) and callable(getattr(value, "cache_clear", None)):
                value.cache_clear()


# CUDA's autocast, on the CPU: a step that is planned there must run in the precisions that a GPU would use.
#
# Both run matrix products, convolutions and attention in the lower precision. CUDA also runs layer norm, softmax,
# powers, sums and some others in fp32, which the CPU leaves in the precision that they are given; what they return,
# and keep for the backward pass, is then twice as large. The lists are PyTorch's ("Autocast Op Reference" in its
# documentation of ``torch.amp``; ``aten/src/ATen/autocast_mode.h``).

_KEY = "AutocastCPU"

_IN_FP32 = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar "
    "pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm cosine_similarity "
    "poisson_nll_loss cosine_embedding_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss mse_loss huber_loss "
    "margin_ranking_loss soft_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp "
    "norm.Scalar norm.ScalarOpt_dim"
)
# Those that read the lower precision and write fp32, unless they are told what to write.
_INTO_FP32 = (
    "prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm sum "
    "sum.dim_IntList"
)


@contextmanager
def cuda_autocast_on_cpu() -> Iterator[None]:
    """Have the CPU's autocast follow CUDA's lists while the block runs."""
    library = torch.library.Library("aten", "IMPL", _KEY)  # type: ignore[no-untyped-call]
    try:
        for names, wrap in ((_IN_FP32, _in_fp32), (_INTO_FP32, _into_fp32)):
            for name in names.split():
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", _KEY):
                    packet, _, overload = name.partition(".")
                    operation = getattr(getattr(_aten, packet), overload or "default")
                    library.impl(name, wrap(operation), _KEY)  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


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
