"""The manual's table of variables is what the code says."""

from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE
from kit.models.variants import INSOLATION, VARIANTS
from variables_page import PAGE, read_by, text


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == text(), "python ci/variables_page.py writes it anew"


def test_all_that_a_variant_reads_is_in_the_table() -> None:
    for variant in VARIANTS.values():
        surface = variant.physical((*variant.surface, *variant.output_only))
        assert set(surface) - {INSOLATION} <= SURFACE.keys(), variant.name
        assert set(variant.atmospheric) <= ATMOSPHERIC.keys(), variant.name
        assert {name for name in variant.static if not name.rpartition("_")[2].isdigit()} <= STATIC.keys()


def test_which_variants_read_a_variable() -> None:
    assert read_by(SURFACE["2t"]) == list(VARIANTS)
    assert read_by(SURFACE["tp"]) == ["v1p5", "v1p5-ensemble"]
    assert read_by(SURFACE["swh"]) == ["wave"]
    assert read_by(ATMOSPHERIC["go3"]) == ["air-pollution"]
    assert read_by(STATIC["slt"]) == list(VARIANTS)
