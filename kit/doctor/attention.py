"""Attention forward and backward, by every implementation that PyTorch has for a device, against fp64.

The shapes are those of Aurora's Swin blocks: windows of 2 x 6 x 12 = 144 tokens, heads of 64 channels, with and
without the mask of a shifted window (``aurora.model.swin3d.WindowAttention``). A driver, a library or a build that
does not belong to the GPU shows here as a refusal, NaN or wrong numbers, in a second instead of after an hour.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kit.doctor.diagnosis import Diagnosis, error, ok, skipped, warning
from kit.doctor.packages import first_line

if TYPE_CHECKING:
    import torch

Attention = Callable[..., "torch.Tensor"]

_WINDOWS, _HEADS, _TOKENS, _CHANNELS = 4, 2, 144, 64
_TOLERANCE = {"fp32": 1e-4, "bf16": 4e-2}
"""Largest difference from fp64, relative to the largest magnitude of the reference: some ten times what is usual (1e-6
in fp32 and 4e-3, half a unit in the last of 8 bits, in bf16; TF32 would be 1e-3 but PyTorch leaves it off)."""
_MASKED = -100.0
"""What upstream adds to the scores of tokens that are no neighbours."""
# cuDNN's backward pass has returned NaN for some lengths of masked windows (docs/plan.md).
_FUSED = {"flash": "FLASH_ATTENTION", "memory-efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


@dataclass(frozen=True)
class AttentionMeasurement:
    """Errors of one implementation on one device.

    Attributes:
        device: ``cpu`` or ``cuda:0``.
        backend: Name of the implementation; ``chosen`` is what PyTorch takes by itself.
        precision: ``fp32`` or ``bf16``.
        masked: Whether the mask of a shifted window was applied.
        refusal: Why it did not run; empty if it did.
        forward: Largest relative error of what comes out; NaN if there is NaN in it.
        backward: The same of the gradients of queries, keys and values.
    """

    device: str
    backend: str
    precision: str
    masked: bool
    refusal: str = ""
    forward: float = 0.0
    backward: float = 0.0

    @property
    def wrong(self) -> bool:
        """Whether it ran and its numbers are not those of attention."""
        limit = _TOLERANCE[self.precision]
        # NaN is not below any limit.
        return not self.refusal and not (self.forward <= limit and self.backward <= limit)


def examine_attention(device: str) -> list[Diagnosis]:
    """Try every implementation on a device.

    Args:
        device: ``cpu``, in fp32, or a GPU such as ``cuda:0``, in bf16, as the kit trains there.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # PyTorch has no others on a CPU.
    fused = {"flash": _FUSED["flash"]} if device == "cpu" else _FUSED
    measured = [measure(device, "chosen", masked=masked) for masked in (False, True)]
    for backend, member in {"math": "MATH", **fused}.items():
        with sdpa_kernel(getattr(SDPBackend, member)):
            measured += [measure(device, backend, masked=masked) for masked in (False, True)]
    return check_attention(device, measured)


def measure(device: str, backend: str, *, masked: bool, attention: Attention | None = None) -> AttentionMeasurement:
    """Run one implementation forward and backward, and compare it with attention that is written out in fp64.

    Args:
        device: Device to run on, such as ``cuda:0``.
        backend: Name of the implementation, for the record.
        masked: Whether to apply the mask of a shifted window.
        attention: Function to run; by default PyTorch's.
    """
    import torch

    precision, dtype = ("fp32", torch.float32) if device == "cpu" else ("bf16", torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    shape = (_WINDOWS, _HEADS, _TOKENS, _CHANNELS)
    # Rounded first, so that both sides see the same numbers.
    given = [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]
    mask = None
    if masked:
        # Half a window is no neighbour of the other half, as behind the seam of a shifted window.
        half = torch.arange(_TOKENS) < _TOKENS // 2
        mask = torch.where(half[:, None] != half[None, :], _MASKED, 0.0)
        mask = mask.expand(_WINDOWS, 1, _TOKENS, _TOKENS).contiguous()
    expected = _results(_written_out, [part.double() for part in given], mask)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            moved = [part.to(device) for part in given]
            if mask is not None:
                mask = mask.to(device, dtype)
            found = _results(attention or torch.nn.functional.scaled_dot_product_attention, moved, mask)
            errors = []
            for one, other in zip(found, expected, strict=True):
                errors.append(float((one.cpu().double() - other).abs().max() / other.abs().max()))
        except RuntimeError as refusal:
            # PyTorch says in warnings why it takes none of its kernels.
            reasons = [str(warned.message).partition(" (Triggered")[0] for warned in caught]
            text = "; ".join([first_line(refusal).rstrip("."), *reasons])
            return AttentionMeasurement(device, backend, precision, masked, text)
    # NaN is the largest error there is, but not to max().
    backward = math.nan if any(map(math.isnan, errors[1:])) else max(errors[1:])
    return AttentionMeasurement(device, backend, precision, masked, "", errors[0], backward)


def _written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ v


def _results(attention: Attention, given: list[torch.Tensor], mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Return what comes out, and the gradients of queries, keys and values."""
    import torch

    q, k, v = (part.detach().clone().requires_grad_() for part in given[:3])
    if mask is not None:
        mask = mask.to(q.dtype)
    out = attention(q, k, v, attn_mask=mask)
    torch.autograd.backward(out, given[3])
    return [part.detach() for part in (out, q.grad, k.grad, v.grad) if part is not None]


def check_attention(device: str, measured: list[AttentionMeasurement]) -> list[Diagnosis]:
    """Judge what was measured on one device: one diagnosis for each implementation."""
    by_backend: dict[str, list[AttentionMeasurement]] = {}
    for one in measured:
        by_backend.setdefault(one.backend, []).append(one)
    found = [_check_backend(runs) for runs in by_backend.values()]
    works = {one.backend for one in measured if not one.refusal and not one.wrong}
    if device != "cpu" and not works & _FUSED.keys():
        detail = f"{device} has no fused attention that works: scores of all windows are held in memory, and time grows"
        remedy = "see the refusals above; a GPU of compute capability 8.0 or newer with the locked PyTorch has them"
        found.append(warning(f"attention {device}", detail, remedy))
    return found


def _check_backend(runs: list[AttentionMeasurement]) -> Diagnosis:
    first = runs[0]
    name = f"attention {first.device} {first.backend}"
    facts: dict[str, Any] = {}
    figures, refusals = [], []
    for run in runs:
        kind, prefix = ("masked", "masked ") if run.masked else ("plain", "")
        if run.refusal:
            refusals.append(run.refusal)
            facts[kind] = {"refusal": run.refusal}
        else:
            facts[kind] = {"forward": run.forward, "backward": run.backward}
            figures.append(f"{prefix}{run.forward:.0e} and {run.backward:.0e}")
    errors = f"{first.precision}: {', '.join(figures)}"
    if any(run.wrong for run in runs):
        detail = f"forward or backward is wrong in {errors} (limit {_TOLERANCE[first.precision]:g})"
        remedy = (
            "install what the lock names, update the driver, try another GPU: they do not go together or one is broken"
        )
        return error(name, detail, remedy, **facts)
    # Every PyTorch has these two for every device.
    if refusals and first.backend in ("chosen", "math"):
        remedy = "training cannot work here: install what requirements.lock names and update the driver"
        return error(name, f"does not run: {refusals[0]}", remedy, **facts)
    if len(refusals) == len(runs):
        return skipped(name, f"not for this device: {refusals[0]}", **facts)
    note = "; with a mask PyTorch takes another" if refusals else ""
    return ok(name, f"forward and backward agree with fp64 in {errors}{note}", **facts)
