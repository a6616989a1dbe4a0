import pytest

from kit.adapt.settings import matches, matching
from kit.io.errors import SettingsError

NAMES = ["encoder.level_agg.a.weight", "decoder.surf_heads.2t.weight", "decoder.surf_heads.2t.bias"]


@pytest.mark.parametrize(
    "pattern",
    (
        "decoder",
        "surf_heads",
        "surf_heads.2t",
        "2t.weight",
        "decoder.*.weight",
        "*heads*",
        "decoder.surf_heads.2t.weight",
    ),
)
def test_a_pattern_is_any_run_of_parts(pattern: str) -> None:
    assert matches("decoder.surf_heads.2t.weight", pattern)


@pytest.mark.parametrize("pattern", ("heads", "surf", "decoder.2t", "weight.2t", "t.weight"))
def test_a_part_is_whole(pattern: str) -> None:
    assert not matches("decoder.surf_heads.2t.weight", pattern)


def test_names_keep_their_order() -> None:
    assert matching(NAMES, "*.weight", "adapt.freeze") == NAMES[:2]


def test_a_pattern_that_selects_nothing_names_what_is_near() -> None:
    with pytest.raises(SettingsError, match=r"adapt.freeze: 'surf_head' selects no parameter; .* surf_heads\?"):
        matching(NAMES, "surf_head", "adapt.freeze")
    with pytest.raises(SettingsError, match=r"there are encoder.level_agg, decoder.surf_heads"):
        matching(NAMES, "xyz", "adapt.freeze")
