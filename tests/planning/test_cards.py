"""Finding a card by what people call it."""

from __future__ import annotations

import pytest

from kit.io.errors import SettingsError
from kit.planning.cost import CARDS, card_named


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("nvidia geforce rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("a100-80gb", "A100 80GB"),
        ("L4", "L4"),
        ("h100", "H100 SXM"),
    ],
)
def test_a_card_is_found(said: str, name: str) -> None:
    assert card_named(said) is CARDS[name]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("RTX 4095", "did you mean RTX 4090"),
        ("A100", "did you mean A100 40GB or A100 80GB"),
        ("abacus", "there are RTX 3090"),
        ("", "there are RTX 3090"),
    ],
)
def test_an_unknown_card_is_refused(said: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        card_named(said)
