"""The cost of a step: its arithmetic, and an estimate of time from it on the cards that are known.

Every operation takes the longer of two times: that of its arithmetic at the card's rate for the precision, and that of
reading its inputs and writing its results once. This is a roofline (Williams et al. 2009): no kernel is faster, and an
``Efficiency`` says how much slower they usually are.
"""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from kit.config.suggestions import near_names
from kit.io.errors import SettingsError
from kit.memory.host_memory import is_host
from kit.planning.counter import tensors_in

# Seconds that a kernel takes at least.
_LAUNCH = 4e-6
# Bytes that a host reads and writes in a second, of two channels of DDR5 or six of DDR4.
_HOST_BANDWIDTH = 40e9

_Unit = Literal["bf16", "tf32", "fp32"]
_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution.default, _aten.convolution_backward.default)
_NO_KERNEL = frozenset({_aten._unsafe_view.default, _aten._local_scalar_dense.default})


@dataclass(frozen=True)
class Efficiency:
    """Share of a card's best rates that kernels reach, one with the other.

    Attributes:
        bf16: Of products in bf16.
        tf32: Of convolutions in fp32.
        fp32: Of products in fp32.
        traffic: Of kernels that wait for memory, and of copies from and to the host.
    """

    bf16: float
    tf32: float
    fp32: float
    traffic: float


ASSUMED = Efficiency(0.6, 0.6, 0.6, 0.6)
"""Of cards that nobody measured. Large matrix products reach 0.7 to 0.8, normalisation and copies 0.7 to 0.9 of the
bandwidth, small and oddly shaped ones less."""


@dataclass(frozen=True)
class Cost:
    """What operations take, added up.

    Attributes:
        kernels: Number of kernels by unit of arithmetic, floating-point operations, and bytes read and written.
        carried: Bytes between device and host.
        on_host: Bytes that operations on the host read and write.
    """

    kernels: Mapping[tuple[_Unit, int, int], int]
    carried: int
    on_host: int

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products, convolutions and attention; recomputed ones count again."""
        return sum(flops * count for (_, flops, _), count in self.kernels.items())

    @property
    def bytes_moved(self) -> int:
        """Bytes that kernels read and write on the device, each of their inputs and results once."""
        return sum(size * count for (_, _, size), count in self.kernels.items())

    def seconds(self, card: Card) -> float:
        """Estimate the time on a card, in seconds.

        Copies to and from the host go on during the card's arithmetic; the host's own arithmetic is waited for.
        """
        total = 0.0
        for (kind, best), count in self._by_kind(card):
            total += count * max(best / getattr(card.efficiency, kind), _LAUNCH)
        carrying = self.carried / (1e9 * card.pcie_gb_s) / card.efficiency.traffic
        return max(total, carrying) + self.on_host / _HOST_BANDWIDTH

    def best_seconds(self, card: Card) -> dict[str, float]:
        """Add up the best time of kernels by what they wait for: a unit of arithmetic, or ``traffic``, in seconds.

        Without those that are over before the next one is launched.
        """
        found = {field.name: 0.0 for field in fields(Efficiency)}
        for (kind, best), count in self._by_kind(card):
            if best / getattr(ASSUMED, kind) > _LAUNCH:
                found[kind] += count * best
        return found

    def launch_seconds(self, card: Card) -> float:
        """Add up the time of kernels that are over before the next one is launched, in seconds."""
        short = [count for (kind, best), count in self._by_kind(card) if best / getattr(ASSUMED, kind) <= _LAUNCH]
        return _LAUNCH * sum(short)

    def _by_kind(self, card: Card) -> Iterator[tuple[tuple[str, float], int]]:
        rates = {"bf16": card.bf16_tflops, "tf32": card.tf32_tflops, "fp32": card.fp32_tflops}
        for (unit, flops, size), count in self.kernels.items():
            arithmetic, traffic = flops / (1e12 * rates[unit]), size / (1e9 * card.memory_gb_s)
            yield (unit, arithmetic) if arithmetic >= traffic else ("traffic", traffic), count

    def times(self, factor: float) -> Cost:
        """Multiply by a number of steps."""
        kernels = {key: round(count * factor) for key, count in self.kernels.items()}
        return Cost(kernels, round(self.carried * factor), round(self.on_host * factor))


class Meter:
    """Adds up what operations cost; an observer for ``kit.planning.counter.Counter``."""

    def __init__(self) -> None:
        self._kernels: Tally[tuple[_Unit, int, int]] = Tally()
        self._carried = self._on_host = 0

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, hosts: bool) -> None:
        """Take in an operation.

        Args:
            func: The operation.
            args: Its arguments.
            kwargs: Its named arguments.
            result: What it returned.
            hosts: Whether some of the tensors may be the host's.
        """
        if func.is_view or func in _NO_KERNEL:
            return
        tensors, made = list(tensors_in([*args, *kwargs.values()])), list(tensors_in(result))
        if not tensors:
            return
        written = sum(map(_bytes, made))
        size = sum(map(_bytes, tensors)) + written
        if hosts:
            places = {is_host(tensor.untyped_storage()) for tensor in (*tensors, *made)}
            if True in places:
                if False in places:
                    self._carried += written
                else:
                    self._on_host += size
                return
        self._kernels[_unit(func, tensors[0]), _flops(func, args, kwargs, result), size] += 1

    def cost(self) -> Cost:
        """Add up all operations so far."""
        return Cost(dict(self._kernels), self._carried, self._on_host)


def _bytes(tensor: torch.Tensor) -> int:
    # An expanded tensor has more elements than its storage holds.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _unit(func: Any, tensor: torch.Tensor) -> _Unit:
    if tensor.element_size() == 2:
        return "bf16"
    # By default PyTorch lets convolutions in fp32 use TF32, and matrix products not.
    if func in _CONVOLUTIONS:
        return "tf32"
    return "fp32"


def _flops(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    # PyTorch's table has CUDA's attention, and not the CPU's, which stands in for it in a plan.
    if func is _aten._scaled_dot_product_flash_attention_for_cpu.default:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))  # type: ignore[no-untyped-call]
    if func is _aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))  # type: ignore[no-untyped-call]
    count = flop_registry.get(func._overloadpacket)
    if count is None:
        return 0
    return int(count(*args, **kwargs, out_val=result))


# GPUs that a plan knows: how much they hold, and how fast they are at best.
#
# Arithmetic and bandwidth are those of NVIDIA's data sheets and architecture papers (Ampere GA102, Ada, Blackwell
# RTX, A10, L4, L40S, A100, H100, H200), for dense matrices with sums in fp32; PCIe is one direction of 16 lanes of
# the card's generation. Memory is what the driver reports, in GiB: cards that keep error correction in the same
# memory report 6 % less than their name says.


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: Name as people write it.
        memory_gib: Memory that the driver reports, GiB.
        bf16_tflops: Rate of matrix products in bf16, 1e12 operations a second.
        tf32_tflops: Rate of convolutions in fp32, for which PyTorch uses TF32.
        fp32_tflops: Rate of matrix products in fp32.
        memory_gb_s: Bandwidth of its memory, 1e9 bytes a second.
        pcie_gb_s: Bandwidth from and to the host, 1e9 bytes a second.
        efficiency: Share of these rates that kernels reach.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    tf32_tflops: float
    fp32_tflops: float
    memory_gb_s: float
    pcie_gb_s: float
    efficiency: Efficiency = ASSUMED


_KNOWN = (
    Card("RTX 3090", 24.0, 71.0, 35.6, 35.6, 936, 32),
    Card("RTX 4090", 24.0, 165.2, 82.6, 82.6, 1008, 32),
    Card("RTX 5090", 31.8, 209.5, 104.8, 104.8, 1792, 64),
    Card("RTX 6000 Ada", 48.0, 364.2, 182.1, 91.1, 960, 32),
    Card("A10", 22.5, 125.0, 62.5, 31.2, 600, 32),
    Card("L4", 22.5, 121.0, 60.0, 30.3, 300, 32),
    Card("L40S", 45.0, 362.0, 183.0, 91.6, 864, 32),
    Card("A100 40GB", 40.0, 312.0, 156.0, 19.5, 1555, 32),
    Card("A100 80GB", 80.0, 312.0, 156.0, 19.5, 2039, 32),
    Card("H100 SXM", 79.6, 989.0, 494.0, 67.0, 3350, 64),
    Card("H200", 140.4, 989.0, 494.0, 67.0, 4800, 64),
)
CARDS: Mapping[str, Card] = {card.name: card for card in _KNOWN}


def card_named(name: str) -> Card:
    """Look a card up; case, spaces, hyphens and the maker's name do not matter, and a part will do.

    Raises:
        SettingsError: no card has that name, or several have it in theirs; names the nearest, or all.
    """
    known = dict(zip(map(_bare, CARDS), CARDS.values(), strict=True))
    asked = _bare(name)
    if asked in known:
        return known[asked]
    found = [bare for bare in known if asked and asked in bare]
    if len(found) == 1:
        return known[found[0]]
    hint = f"there are {', '.join(CARDS)}"
    if near := found or near_names(asked, known, cutoff=0.5):
        hint = f"did you mean {' or '.join(known[bare].name for bare in near)}?"
    msg = f"card: there is no card {name!r}; {hint}"
    raise SettingsError(msg)


def card_like(device: str) -> Card:
    """Find the card that a driver's name of a device begins like, such as "NVIDIA H100 80GB HBM3".

    Raises:
        SettingsError: none does.
    """
    bare = _bare(device)
    # Memory and form of the module follow the chip, in an order of the driver's.
    chips = {name: _bare(re.sub(r" (\d+GB|SXM)$", "", name)) for name in CARDS}
    begun = [chip for chip in chips.values() if bare.startswith(chip)]
    if not begun:
        return card_named(device)
    chip = max(begun, key=len)
    fitting = [CARDS[name] for name in CARDS if chips[name] == chip]
    memory = re.search(r"\d+gb", bare.removeprefix(chip))
    exact = [card for card in fitting if memory is not None and memory[0] in _bare(card.name)]
    return (exact or fitting)[0]


def _bare(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
