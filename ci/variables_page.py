"""Write the manual's table of variables, from the kit's own table and that of the variants.

python ci/variables_page.py
"""

from __future__ import annotations

from pathlib import Path

from kit.data.source_names import NAMES
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE, Variable
from kit.models.variants import VARIANTS, Variant

PAGE = Path(__file__).parents[1] / "docs" / "variables-known.md"
_HEAD = """# Variables that the kit knows

This page is written by `python ci/variables_page.py` from the kit's own tables.

A store calls a variable by Aurora's short name, which is ECMWF's. Sources call it by any of the other names, in any \
case, by ECMWF's parameter number in GRIB, or by a standard name or description that stands for no other; their units \
are converted to these, in whatever spelling of UDUNITS they come. A name may end in the hours of a \
window: `total_precipitation_6hr` is `tp` accumulated over 6 hours, or in a \
level: `TMP_500mb` is `t` at 500 hPa. Values beyond the range are reported by [the checks](quality.md). What is \
accumulated belongs to the hours that end at its time, and is summed where `--step` \
is longer than they are; all else is taken at its time. A variable that is not listed is taken as it is if it is asked \
for by name.
"""
_TITLES = {"surface": "At the surface", "atmospheric": "On pressure levels", "static": "Static"}


def read_by(variable: Variable) -> list[str]:
    """Names of the variants that read a variable, or predict it."""
    return [variant.name for variant in VARIANTS.values() if variable.name in _of(variant, variable.kind)]


def _of(variant: Variant, kind: str) -> tuple[str, ...]:
    if kind == "surface":
        return variant.physical((*variant.surface, *variant.output_only))
    # slt_3 is made of slt.
    made_of = (name.rpartition("_")[0] if name.rpartition("_")[2].isdigit() else name for name in variant.static)
    return variant.atmospheric if kind == "atmospheric" else tuple(dict.fromkeys(made_of))


def _variants(variable: Variable) -> str:
    """All that use it, or all but a few."""
    used = read_by(variable)
    others = [name for name in VARIANTS if name not in used]
    return "all" if not others else f"all but {', '.join(others)}" if len(others) <= 3 else ", ".join(used) or "-"


def _row(variable: Variable) -> str:
    names = [*variable.aliases, *NAMES[variable.kind].get(variable.name, "").split()]
    cells = (
        f"`{variable.name}`",
        variable.long_name,
        f"`{variable.units}`",
        f"{variable.low:g} to {variable.high:g}",
        "sum" if variable.accumulated else "-",
        " ".join(f"`{alias}`" for alias in names) or "-",
        " ".join(map(str, variable.param_ids)) or "-",
        f"`{variable.standard_name}`" if variable.standard_name else "-",
        _variants(variable),
    )
    return f"| {' | '.join(cells)} |"


def text() -> str:
    """The page."""
    parts = [_HEAD]
    for kind, table in (("surface", SURFACE), ("atmospheric", ATMOSPHERIC), ("static", STATIC)):
        head = "| name | what | units | range | over time | other names | paramId | CF standard name | variants |"
        rows = "\n".join(map(_row, table.values()))
        parts.append(f"## {_TITLES[kind]}\n\n{head}\n{'| --- ' * 9}|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
