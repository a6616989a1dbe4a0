"""Attention forward and backward, by every implementation that PyTorch has for a device, against fp64.

The shapes are those of Aurora's Swin blocks: windows of 2 x 6 x 12 = 144 tokens, heads of 64 channels, with and
without the mask of a shifted window (``aurora.model.swin3d.WindowAttention``). A driver, a library or a build that
does not belong to the GPU shows here as a refusal, NaN or wrong numbers, in a second instead of after an hour.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kit.doctor.finding import Finding, error, ok, skipped, warning

if TYPE_CHECKING:
    import torch

__all__ = ["Measured", "check_attention", "examine_attention", "measure"]

Attention = Callable[..., "torch.Tensor"]

_WINDOWS, _HEADS, _TOKENS, _CHANNELS = 4, 2, 144, 64
_TOLERANCE = {"fp32": 1e-4, "bf16": 4e-2}
"""Largest difference from fp64, relative to the largest magnitude of the reference: some ten times what is usual (1e-6
in fp32 and 4e-3, half a unit in the last of 8 bits, in bf16; TF32 would be 1e-3 but PyTorch leaves it off)."""
_MASKED = -100.0
"""What upstream adds to the scores of tokens that are no neighbours."""
_FUSED = {"flash": "FLASH_ATTENTION", "memory-efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


@dataclass(frozen=True)
class Measured:
    """What one implementation came to on one device.

    Attributes:
        device: ``cpu`` or ``cuda:0``.
        backend: ``chosen`` is what PyTorch takes by itself.
        precision: ``fp32`` or ``bf16``.
        masked: with the mask of a shifted window.
        refusal: why it did not run; empty if it did.
        forward: largest relative error of what comes out; NaN if there is NaN in it.
        backward: of the gradients of queries, keys and values.
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


def examine_attention(device: str) -> list[Finding]:
    """Try every implementation on a device, and say what came of it.

    Args:
        device: ``cpu``, in fp32, or a GPU such as ``cuda:0``, in bf16, as the kit trains there.
    """
    return check_attention(device, [*_measured(device)])


def _measured(device: str) -> Iterator[Measured]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = {"chosen": None, "math": "MATH", **_FUSED}
    if device == "cpu":
        # PyTorch has no others there.
        names = {"chosen": None, "math": "MATH", "flash": "FLASH_ATTENTION"}
    for backend, member in names.items():
        for masked in (False, True):
            if member is None:
                yield measure(device, backend, masked=masked)
                continue
            with sdpa_kernel(getattr(SDPBackend, member)):
                yield measure(device, backend, masked=masked)


def measure(device: str, backend: str, *, masked: bool, attention: Attention | None = None) -> Measured:
    """Run one implementation forward and backward, and compare it with attention that is written out in fp64.

    Args:
        device: where.
        backend: its name, for the record.
        masked: with the mask of a shifted window.
        attention: by default PyTorch's.
    """
    import torch

    precision = "fp32" if device == "cpu" else "bf16"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    shape = (_WINDOWS, _HEADS, _TOKENS, _CHANNELS)
    # Rounded first, so that both sides see the same numbers.
    given = [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]
    mask = _mask() if masked else None
    wanted = _results(_written_out, [part.double() for part in given], mask)
    ours = attention or torch.nn.functional.scaled_dot_product_attention
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            moved = [part.to(device) for part in given]
            found = _results(ours, moved, None if mask is None else mask.to(device, dtype))
            errors = [_error(one.cpu().double(), other) for one, other in zip(found, wanted, strict=True)]
        except RuntimeError as refusal:
            words = [str(warning.message).partition(" (Triggered")[0] for warning in told]
            return Measured(device, backend, precision, masked, "; ".join([_first(refusal), *words]))
    # NaN is the largest error there is, but not to max().
    backward = math.nan if any(map(math.isnan, errors[1:])) else max(errors[1:])
    return Measured(device, backend, precision, masked, "", errors[0], backward)


def _mask() -> torch.Tensor:
    """Half a window is no neighbour of the other half, as behind the seam of a shifted window."""
    import torch

    half = torch.arange(_TOKENS) < _TOKENS // 2
    apart = half[:, None] != half[None, :]
    return torch.where(apart, _MASKED, 0.0).expand(_WINDOWS, 1, _TOKENS, _TOKENS).contiguous()


def _written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v


def _results(attention: Attention, given: list[torch.Tensor], mask: torch.Tensor | None) -> list[torch.Tensor]:
    """What comes out, and the gradients of queries, keys and values."""
    import torch

    q, k, v = (part.detach().clone().requires_grad_() for part in given[:3])
    out = attention(q, k, v, attn_mask=mask if mask is None else mask.to(q.dtype))
    torch.autograd.backward(out, given[3])
    return [part.detach() for part in (out, q.grad, k.grad, v.grad) if part is not None]


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _first(trouble: BaseException) -> str:
    return (str(trouble).strip().splitlines() or [type(trouble).__name__])[0].rstrip(".")


def check_attention(device: str, measured: list[Measured]) -> list[Finding]:
    """Judge what was measured on one device: one finding for each implementation."""
    found = [_judge(name, [one for one in measured if one.backend == name]) for name in _names(measured)]
    ran = {one.backend for one in measured if not one.refusal and not one.wrong}
    if device != "cpu" and not ran & _FUSED.keys():
        detail = f"{device} has no fused attention that works: scores of all windows are held in memory, and time grows"
        remedy = "see the refusals above; a GPU of compute capability 8.0 or newer with the locked PyTorch has them"
        found.append(warning(f"attention {device}", detail, remedy))
    return found


def _names(measured: list[Measured]) -> list[str]:
    return list(dict.fromkeys(one.backend for one in measured))


def _judge(backend: str, runs: list[Measured]) -> Finding:
    one = runs[0]
    name = f"attention {one.device} {backend}"
    facts = {("masked" if run.masked else "plain"): _figures(run) for run in runs}
    if any(run.wrong for run in runs):
        detail = f"forward or backward is wrong in {one.precision}: {_told(runs)} (limit {_TOLERANCE[one.precision]:g})"
        remedy = (
            "install what the lock names, update the driver, try another GPU: they do not go together or one is broken"
        )
        return error(name, detail, remedy, **facts)
    refused = [run for run in runs if run.refusal]
    if refused and backend in ("chosen", "math"):
        remedy = "training cannot work here: install what requirements.lock names and update the driver"
        return error(name, f"does not run: {refused[0].refusal}", remedy, **facts)
    if len(refused) == len(runs):
        return skipped(name, f"not for this device: {refused[0].refusal}", **facts)
    note = "; with a mask PyTorch takes another" if refused else ""
    return ok(name, f"forward and backward agree with fp64 in {one.precision}: {_told(runs)}{note}", **facts)


def _figures(run: Measured) -> dict[str, float | str]:
    return {"refusal": run.refusal} if run.refusal else {"forward": run.forward, "backward": run.backward}


def _told(runs: list[Measured]) -> str:
    return ", ".join(
        f"{'masked ' if run.masked else ''}{run.forward:.0e} and {run.backward:.0e}" for run in runs if not run.refusal
    )
