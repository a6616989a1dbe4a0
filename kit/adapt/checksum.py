"""Fingerprints of tensors, made where the tensors are, by which any later change shows.

A tensor is read as a row of integers, its own bits. Each is multiplied by an odd number that depends on where it
stands, and all are added up modulo 2^64; two such sums, with other numbers, make a fingerprint. One value that changes
always changes both sums, because an odd number has an inverse modulo 2^64; changes of several values cancel in both
with a chance of about 2^-128.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["Fingerprint", "fingerprints"]

Fingerprint = tuple[int, int]

_CHUNK = 2**19
"""Values that are read at a time: a few times 8 bytes each is all the memory that this takes."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SEEDS = (0x0123_4567_89AB_CDEF, 0x7EDC_BA98_7654_3210)
# Constants of SplitMix64 (Steele, Lea, Flood 2014), as signed integers.
_STEP, _MIX, _MIX_AGAIN = (
    value - 2**64 for value in (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)
)


@torch.no_grad()
def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, Fingerprint]:
    """Fingerprint tensors of any type and size, on any devices, waiting for each device once.

    Args:
        tensors: by name; they have to have memory. Equal bits have equal fingerprints on every device.
    """
    multipliers: dict[torch.device, torch.Tensor] = {}
    sums: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        device = tensor.device
        if device not in multipliers:
            multipliers[device] = _multipliers(device)
        sums.setdefault(device, {})[name] = _sums(tensor, multipliers[device])
    found: dict[str, Fingerprint] = {}
    for own in sums.values():
        found |= {name: (a, b) for name, (a, b) in zip(own, torch.stack(list(own.values())).tolist(), strict=True)}
    return {name: found[name] for name in tensors}


def _multipliers(device: torch.device) -> torch.Tensor:
    """Odd numbers without a pattern, [2, chunk]."""
    position = torch.arange(1, _CHUNK + 1, device=device)
    rows = []
    for seed in _SEEDS:
        x = position * _STEP + seed
        x = (x ^ (x >> 30)) * _MIX
        x = (x ^ (x >> 27)) * _MIX_AGAIN
        rows.append((x ^ (x >> 31)) | 1)
    return torch.stack(rows)


def _sums(tensor: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
    """The two sums of one tensor, [2]."""
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = plain.reshape(-1).view(_BITS[plain.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for chunk in torch.split(bits, _CHUNK):
        # What was before is multiplied by an odd number too, so that chunks cannot change places.
        total = total * _STEP + (multipliers[:, : len(chunk)] * chunk.to(torch.int64)).sum(1)
    return total
