"""Products whose fields the kit knows: the windows of their accumulations, and the words by which files name them.

A window is the time over which an accumulated value adds up; it ends at the value's valid time. Sources take it from
what a file states (``kit.data.sources.stated_windows``), then from the product, and refuse what neither says.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, PlainSerializer

Kind = Literal["hours", "after", "since-start", "since-00utc", "resets"]
_WINDOW = re.compile(r"(?:(resets)-)?(\d+(?:\.\d+)?) ?h(?:ours?)?(?(1)|(?:-(after))?)")
_LEAD = re.compile(r"(\d+(?:\.\d+)?) ?(?:h|hours?)?")
WINDOW_FORMS = (
    "1h (the hour, or another number of hours, that ends at the time stamp), 24h-after (the hours that begin there), "
    "since-00utc, since-start, resets-6h"
)


@dataclass(frozen=True)
class Window:
    """Rule for the hours before its valid time that an accumulated value adds up over."""

    kind: Kind
    length: float = 0.0
    """Hours, of the kinds ``hours``, ``after`` and ``resets``; of ``after`` they begin at the file's time stamp."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a window: ``1h``, ``24h-after``, ``since-00utc``, ``since-start`` or ``resets-6h``.

        Raises:
            ValueError: the text is none of these.
        """
        plain = text.strip().lower()
        if plain == "since-00utc":
            return cls("since-00utc")
        if plain == "since-start":
            return cls("since-start")
        found = _WINDOW.fullmatch(plain)
        if found is None or float(found[2]) <= 0:
            msg = f"expected a window such as {WINDOW_FORMS}, got {text!r}"
            raise ValueError(msg)
        kind: Kind = found[1] or found[3] or "hours"  # type: ignore[assignment]
        return cls(kind, float(found[2]))

    def before(self, valid: Any, lead: Any) -> Any:
        """Compute the hours that values add up over.

        Args:
            valid: Valid times in seconds since 1970, array of integers.
            lead: Hours from the start of the forecast to the valid times, array; NaN where it is unknown.

        Returns:
            Hours; NaN where they follow from a lead that is unknown.
        """
        if self.kind in ("hours", "after"):
            return valid * 0 + self.length
        if self.kind == "since-00utc":
            # The value at midnight is that of the whole day before.
            return ((valid - 1) % 86400 + 1) / 3600
        if self.kind == "since-start":
            return lead
        # A lead that is a multiple of the length ends a whole window; the start of the forecast has none.
        rest = lead % self.length
        return rest + (rest == 0) * self.length * (lead > 0)

    @property
    def described(self) -> str:
        """The window in words, such as ``over 1 h``."""
        if self.kind == "hours":
            return f"over {self.length:g} h"
        if self.kind == "after":
            return f"over the {self.length:g} h that begin at each time stamp"
        if self.kind == "resets":
            return f"since the last multiple of {self.length:g} h of the forecast"
        return {"since-00utc": "since 00 UTC", "since-start": "since the start of the forecast"}[self.kind]

    def __str__(self) -> str:
        if self.kind == "hours":
            return f"{self.length:g}h"
        if self.kind == "after":
            return f"{self.length:g}h-after"
        if self.kind == "resets":
            return f"resets-{self.length:g}h"
        return self.kind


@dataclass(frozen=True)
class Product:
    """A data set, or a family of them whose files mean the same by the same names.

    Attributes:
        name: Value of ``--product``.
        window: Window of its accumulations.
        is_reanalysis: Whether its accumulations, which end at the valid time, count as analyses.
        words: Pattern of the words by which texts of files (``title``, ``source``, ``history``, ...) name it.
        grib_classes: ECMWF's ``class`` in GRIB headers.
        source: Place where the window is documented.
    """

    name: str
    window: Window
    is_reanalysis: bool
    words: str
    grib_classes: tuple[str, ...] = ()
    source: str = ""


_ALL = (
    Product(
        "era5", Window("hours", 1), is_reanalysis=True,
        words=r"reanalysis[-_ ]era5(?![-_ ]land)|\bera[-_ ]?5\b(?![-_ ]?land)", grib_classes=("ea",),
        source="ECMWF, ERA5: data documentation, table 'Mean rates/fluxes and accumulations'",
    ),
    Product(
        "era5-land", Window("since-00utc"), is_reanalysis=True,
        words=r"era[-_ ]?5[-_ ]?land", grib_classes=("l5",),
        source="ECMWF, ERA5-Land: data documentation, 'Accumulations'",
    ),
    Product(
        "era5-daily", Window("after", 24), is_reanalysis=True,
        words=r"derived[-_ ]era5[-_a-z ]*daily[-_ ]statistics|era5(?:[-_ ]land)? post[-_ ]processed daily statistics",
        source="ECMWF, ERA5 family post-processed daily statistics documentation: of accumulations the time shift is "
        "one hour less, so that a value stamped 00 UTC of a day is of the 24 hours of that day",
    ),
    Product(
        "cams", Window("since-start"), is_reanalysis=False,
        words=r"\bcams\b|atmospheric[-_ ]composition[-_ ]forecasts", grib_classes=("mc",),
        source="ECMWF, CAMS global atmospheric composition forecast data documentation",
    ),
    Product(
        "ifs", Window("since-start"), is_reanalysis=False,
        words=r"\bifs\b|\bhres\b", grib_classes=("od",),
        source="ECMWF parameter database: tp is accumulated from the start of the forecast",
    ),
    Product(
        "gfs", Window("resets", 6), is_reanalysis=False, words=r"\bgfs\b",
        source="NCEP, GFS inventory: APCP of 0-6, 6-12, ... h",
    ),
    Product(
        "hrrr", Window("hours", 1), is_reanalysis=False, words=r"\bhrrr\b",
        source="NOAA, HRRR inventory: APCP of 0-1 h fcst",
    ),
)  # fmt: skip
PRODUCTS = {product.name: product for product in _ALL}
"""Products by name."""
_TEXTS = ("product", "title", "source", "institution", "summary", "references", "id")
"""Attributes of a file that may name its product."""
_DATASETS = re.compile(
    r"(?:reanalysis|derived)-era5[-a-z]*|cams-global-atmospheric-composition-forecasts", re.IGNORECASE
)
"""Names of data sets, for which alone a history is searched: its commands name files, whose names prove nothing."""
_DERIVED = re.compile(r"daily[-_ ](?:statistic|mean|sum|total|aggregat)|monthly", re.IGNORECASE)
"""Words by which files say that they were made from a product and have windows of their own."""
_GRIB_CLASSES = {grib_class: product for product in _ALL for grib_class in product.grib_classes}


def product_of_class(grib_class: str) -> Product | None:
    """Find the product of ECMWF's ``class`` in a GRIB header; None for classes of which the kit knows none."""
    return _GRIB_CLASSES.get(grib_class)


def product_of_attributes(attributes: Mapping[str, Any]) -> Product | None:
    """Find the product that a file's attributes name.

    Args:
        attributes: Global attributes of a NetCDF file or a Zarr group.

    Returns:
        The product; None if the attributes name none, or several.
    """
    if "valid_time_start" in attributes and "valid_time_stop" in attributes:
        # ARCO-ERA5 names itself by these alone (github.com/google-research/arco-era5).
        return PRODUCTS["era5"]
    texts = [str(attributes[key]) for key in _TEXTS if key in attributes]
    texts += _DATASETS.findall(str(attributes.get("history", "")))
    text = " ".join(texts)
    if re.search(PRODUCTS["era5-daily"].words, text, re.IGNORECASE):
        return PRODUCTS["era5-daily"]
    if _DERIVED.search(f"{text} {attributes.get('history', '')}"):
        return None
    named = [product for product in _ALL if re.search(product.words, text, re.IGNORECASE)]
    return named[0] if len(named) == 1 else None


# Leads and windows as settings say them.


def _read_leads(value: Any) -> Any:
    """Read ``6h`` or ``0h/12h``: the first and the last lead, in hours."""
    if isinstance(value, tuple | list) and not all(isinstance(item, str) for item in value):
        return value
    # A command line hands over a list with the text.
    value = value if isinstance(value, str) else "/".join(value)
    parts = [_LEAD.fullmatch(part.strip()) for part in value.split("/")]
    # Whole seconds, as leads of files are: 0.333333h is twenty minutes.
    hours = [round(float(part[1]) * 3600) / 3600 for part in parts if part is not None]
    if len(hours) != len(parts) or len(parts) > 2 or hours != sorted(hours):
        msg = f"expected a lead such as 6h, or a range of leads such as 0h/12h, got {value!r}"
        raise ValueError(msg)
    return hours[0], hours[-1]


def _read_windows(given: Any) -> Any:
    """Read ``tp=1h,cp=since-start``: windows by variable."""
    if isinstance(given, str):
        given = given.split(",")
    if not all(isinstance(item, str) for item in given):
        return given
    windows = []
    for item in given:
        name, equals, window = item.partition("=")
        if not name.strip() or not equals:
            msg = f"expected VARIABLE=WINDOW such as tp=1h, got {item!r}; windows are {WINDOW_FORMS}"
            raise ValueError(msg)
        windows.append((name.strip(), Window.parse(window)))
    return tuple(windows)


LeadRange = Annotated[
    tuple[float, float],
    BeforeValidator(_read_leads, json_schema_input_type=str),
    PlainSerializer(lambda leads: f"{leads[0]:g}h/{leads[1]:g}h", return_type=str),
]
Windows = Annotated[
    tuple[tuple[str, Window], ...],
    BeforeValidator(_read_windows, json_schema_input_type=str),
    PlainSerializer(lambda windows: [f"{name}={window}" for name, window in windows]),
]
