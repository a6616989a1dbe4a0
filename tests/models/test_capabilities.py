"""What the docs say of the variants is what the code does."""

from pathlib import Path

import pytest

from kit.io.errors import SettingsError
from kit.models.extend import capability, check_extension
from kit.models.variants import VARIANTS, Variant

PAGE = Path(__file__).parents[2] / "docs" / "variables.md"


def line(variant: Variant) -> str:
    can = capability(variant)
    cells = (
        f"`{variant.name}`",
        "any" if can.hours is None else f"{can.hours:g} h",
        "any" if can.levels is None else f"its {len(can.levels)}",
        "any" if can.history is None else f"up to {can.history}",
        str(len(variant.static)),
        ", ".join(variant.output_only) or "-",
        ("from the second step" if variant.rollout_lora_from_second else "yes") if variant.has_rollout_lora else "-",
    )
    return f"| {' | '.join(cells)} |"


def test_the_docs_show_the_table() -> None:
    table = [text for text in PAGE.read_text().splitlines() if text.startswith("| `")]
    assert table == [line(variant) for variant in VARIANTS.values()]


def test_what_air_pollution_is_bound_to() -> None:
    variant = VARIANTS["air-pollution"]
    check_extension(variant, (50, 1000), 2)
    with pytest.raises(SettingsError, match=r"embeddings and heads for 50, .* hPa alone; selected are 10"):
        check_extension(variant, (10,), 2)
    with pytest.raises(SettingsError, match=r"data.history: variant 'air-pollution' .* history of 2, got 3"):
        check_extension(variant, (50,), 3)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "air-pollution"])
def test_the_others_are_bound_to_nothing(name: str) -> None:
    check_extension(VARIANTS[name], (1, 7, 1013), 5)
