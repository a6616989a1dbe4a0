"""GPUs that a plan knows: how much they hold, and how fast they are at best.

Arithmetic and bandwidth are those of NVIDIA's data sheets and architecture papers (Ampere GA102, Ada, Blackwell RTX,
A10, L4, L40S, A100, H100, H200), for dense matrices with sums in fp32; PCIe is one direction of 16 lanes of the card's
generation. Memory is what the driver reports, in GiB: cards that keep error correction in the same memory report 6 %
less than their name says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kit.errors import SettingsError

__all__ = ["CARDS", "Card", "card_named"]


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: as people write it.
        memory_gib: what the driver reports.
        bf16_tflops: of matrix products in bf16.
        tf32_tflops: of convolutions in fp32, for which PyTorch uses TF32.
        fp32_tflops: of matrix products in fp32.
        memory_gb_s: bandwidth of its memory, 1e9 bytes a second.
        pcie_gb_s: bandwidth from and to the host.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    tf32_tflops: float
    fp32_tflops: float
    memory_gb_s: float
    pcie_gb_s: float


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
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
}


def card_named(name: str) -> Card:
    """Look a card up; case, spaces, hyphens and the maker's name do not matter, and a part will do.

    Raises:
        SettingsError: no card has that name, or several have it in theirs; names the nearest, or all.
    """
    known = {_bare(card): card for card in CARDS}
    asked = _bare(name)
    found = [asked] if asked in known else [bare for bare in known if asked and asked in bare]
    if len(found) == 1:
        return CARDS[known[found[0]]]
    near = found or difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(known[bare] for bare in near)}?" if near else f"there are {', '.join(CARDS)}"
    msg = f"card: there is no card {name!r}; {hint}"
    raise SettingsError(msg)


def _bare(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
