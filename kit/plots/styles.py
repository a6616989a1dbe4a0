"""How each variable is shown: its label, display unit, colour map and kind of scale. The only such table."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kit.data.units import STANDARD_GRAVITY
from kit.data.variables import lookup
from kit.io.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#8c8c8c", "#262626"
"""Okabe and Ito's blue and vermilion, which every kind of colour vision tells apart, and two neutral tones."""

ERROR_COLOURS = "PuOr_r"
"""Diverging, and used for nothing else: errors are never taken for fields."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Scale = Literal["sequential", "diverging", "from zero", "fraction", "cyclic"]
Values = TypeVar("Values", float, "np.ndarray")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one variable is shown."""

    label: str
    unit: str
    """Unit on the colour bar; values are converted to it by ``factor`` and ``offset``."""
    colours: str = "viridis"
    """Name of matplotlib's colour map."""
    scale: Scale = "sequential"
    """Diverging is symmetric about 0; from zero begins at 0; fraction is 0 to 1; cyclic is 0 to 360 degrees."""
    factor: float = 1.0
    offset: float = 0.0
    difference_unit: str | None = None
    """Unit of a difference where it is another one: K for temperatures in degrees Celsius."""
    steps: tuple[float, ...] = ()
    """Edges of steps of colour, the same on every map; what is below the first has none."""

    def display(self, values: Values) -> Values:
        """Convert from the store's unit to the display unit."""
        return values * self.factor + self.offset

    def difference(self, error: Values) -> Values:
        """Convert a difference of two values; differences of angles are taken the short way round."""
        error = error * self.factor
        return (error + 180) % 360 - 180 if self.scale == "cyclic" else error

    @property
    def error_unit(self) -> str:
        """Unit of a difference."""
        return self.difference_unit or self.unit


_FAMILIES = {
    "temperature": Style(label="", unit="°C", offset=-273.15, difference_unit="K", colours="RdYlBu_r"),
    "wind": Style(label="", unit="m s⁻¹", colours="RdBu_r", scale="diverging"),
    "speed": Style(label="", unit="m s⁻¹", colours="viridis", scale="from zero"),
    "pressure": Style(label="", unit="hPa", factor=0.01, colours="viridis"),
    "geopotential": Style(label="", unit="dam", factor=0.1 / STANDARD_GRAVITY, colours="viridis"),
    "moisture": Style(label="", unit="g kg⁻¹", factor=1000, colours="YlGnBu", scale="from zero"),
    "column water": Style(label="", unit="kg m⁻²", colours="YlGnBu", scale="from zero"),
    "water depth": Style(label="", unit="mm", factor=1000, colours="Blues", scale="from zero"),
    "precipitation": Style(
        label="",
        unit="mm",
        factor=1000,
        colours="YlGnBu",
        scale="from zero",
        steps=(0.1, 0.5, 1, 2, 5, 10, 20, 50, 100),
    ),
    "reflectivity": Style(label="", unit="dBZ", colours="YlGnBu", steps=tuple(range(5, 65, 5))),
    "evaporation": Style(label="", unit="mm", factor=1000, colours="BrBG", scale="diverging"),
    "fraction": Style(label="", unit="fraction", colours="cividis", scale="fraction"),
    "height": Style(label="", unit="m", colours="viridis", scale="from zero"),
    "radiation": Style(label="", unit="MJ m⁻²", factor=1e-6, colours="inferno"),
    "vertical velocity": Style(label="", unit="Pa s⁻¹", colours="PuOr_r", scale="diverging"),
    "vorticity": Style(label="", unit="10⁻⁵ s⁻¹", factor=1e5, colours="RdBu_r", scale="diverging"),
    "mass concentration": Style(label="", unit="µg m⁻³", factor=1e9, colours="YlOrBr", scale="from zero"),
    "mass ratio": Style(label="", unit="µg kg⁻¹", factor=1e9, colours="YlOrBr", scale="from zero"),
    "column mass": Style(label="", unit="mg m⁻²", factor=1e6, colours="YlOrBr", scale="from zero"),
    "wave height": Style(label="", unit="m", colours="viridis", scale="from zero"),
    "period": Style(label="", unit="s", colours="cividis"),
    "direction": Style(label="", unit="degrees", colours="twilight", scale="cyclic"),
}

_LABELS: dict[str, dict[str, str]] = {
    "temperature": {
        "2t": "2 m temperature",
        "2d": "2 m dew point",
        "t": "Temperature",
        "skt": "Skin temperature",
        "sst": "Sea-surface temperature",
        "stl1": "Soil temperature, top layer",
    },
    "wind": {
        "10u": "10 m eastward wind",
        "10v": "10 m northward wind",
        "100u": "100 m eastward wind",
        "100v": "100 m northward wind",
        "u": "Eastward wind",
        "v": "Northward wind",
        "10u_wave": "10 m eastward neutral wind",
        "10v_wave": "10 m northward neutral wind",
    },
    "speed": {
        "wind": "10 m neutral wind speed",
        "i10fg": "10 m wind gust",
        "10si": "10 m wind speed",
        "10ws": "10 m wind speed",
        "100ws": "100 m wind speed",
        "ws": "Wind speed",
    },
    "pressure": {"msl": "Mean sea-level pressure", "sp": "Surface pressure"},
    "geopotential": {"z": "Geopotential height"},
    "moisture": {"q": "Specific humidity"},
    "column water": {"tcw": "Total column water", "tcwv": "Total column water vapour"},
    "precipitation": {
        "tp": "Total precipitation",
        "cp": "Convective precipitation",
        "lsp": "Large-scale precipitation",
        "sf": "Snowfall",
    },
    "reflectivity": {"refc": "Composite reflectivity"},
    "water depth": {"sd": "Snow depth"},
    "evaporation": {"e": "Evaporation"},
    "fraction": {
        "tcc": "Total cloud cover",
        "lcc": "Low cloud cover",
        "mcc": "Medium cloud cover",
        "hcc": "High cloud cover",
        "ci": "Sea-ice cover",
        "siconc": "Sea-ice cover",
        "swvl1": "Soil water, top layer",
        "static_lsm": "Land-sea mask",
    },
    "height": {"blh": "Boundary-layer height"},
    "radiation": {"ssrd": "Solar radiation at the surface", "ttr": "Thermal radiation to space", "uvb": "UV radiation"},
    "vertical velocity": {"w": "Vertical velocity"},
    "vorticity": {"vo": "Relative vorticity", "d": "Divergence"},
    "mass concentration": {"pm1": "PM1", "pm2p5": "PM2.5", "pm10": "PM10"},
    "mass ratio": {
        "co": "Carbon monoxide",
        "no": "Nitrogen monoxide",
        "no2": "Nitrogen dioxide",
        "go3": "Ozone",
        "so2": "Sulphur dioxide",
    },
    "column mass": {
        "tcco": "Total column carbon monoxide",
        "tc_no": "Total column nitrogen monoxide",
        "tcno2": "Total column nitrogen dioxide",
        "gtco3": "Total column ozone",
        "tcso2": "Total column sulphur dioxide",
    },
    "wave height": {
        "swh": "Significant wave height",
        "shww": "Wind-wave height",
        "shts": "Total swell height",
        "swh1": "First swell height",
        "swh2": "Second swell height",
    },
    "period": {
        "mwp": "Mean wave period",
        "pp1d": "Peak wave period",
        "mpww": "Wind-wave period",
        "mpts": "Total swell period",
        "mwp1": "First swell period",
        "mwp2": "Second swell period",
    },
    "direction": {
        "mwd": "Mean wave direction",
        "mdww": "Wind-wave direction",
        "mdts": "Total swell direction",
        "mwd1": "First swell direction",
        "mwd2": "Second swell direction",
        "dwi": "10 m wind direction",
    },
}

_STYLES: dict[str, Style] = {}
for _family, _labels in _LABELS.items():
    for _name, _label in _labels.items():
        _STYLES[_name] = replace(_FAMILIES[_family], label=_label)
_STYLES["static_z"] = replace(
    _FAMILIES["height"], label="Orography", factor=1 / STANDARD_GRAVITY, colours="cividis", scale="sequential"
)
_STYLES["static_slt"] = Style(label="Soil type", unit="class", colours="tab10")


def style_of(name: str, unit: str | None = None, window: float | None = None) -> Style:
    """Look up how a variable is shown.

    Args:
        name: Aurora's short name; static variables carry the prefix ``static_``, and a window may be the name's end, as
            in ``tp_6h``.
        unit: Unit of the values, shown as it is for a variable that the table lacks.
        window: Hours over which the values are summed; put into the label, as the window of a name is.

    Returns:
        The table's style; for other variables a sequential one with the name that ``kit.data.variables`` has for them,
        or their own.
    """
    named = re.fullmatch(r"(.+)_(\d+)h", name)
    if name not in _STYLES and named and named[1] in _STYLES:
        name, window = named[1], float(named[2])
    style = _STYLES.get(name)
    if style is None:
        known = lookup(name, "surface") or lookup(name, "atmospheric") or lookup(name.removeprefix("static_"), "static")
        unit = unit or (known.units if known else "unit unknown")
        # Exponents are raised, as the table's own units have them: m s-1 becomes m s⁻¹.
        unit = re.sub(r"(?<=[A-Za-z])-?\d", lambda part: part[0].translate(_RAISED), unit)
        style = Style(label=known.long_name if known else name, unit=unit)
    if window is not None:
        style = replace(style, label=f"{style.label}, {window:g} h sum")
    return style


def channel_label(style: Style, level: float | None = None) -> str:
    """Name a channel for a title: ``Eastward wind at 500 hPa``."""
    return style.label if level is None else f"{style.label} at {level:g} hPa"


# What all figures share: a head that says what is shown, and the PNG they end in.

SYNTHETIC_LABEL = "SYNTHETIC SAMPLE · not observed weather"

_HEAD, _MARGIN = 0.72, 0.12
"""Inches above the axes for the head, and around everything."""


def framed(width: float, height: float, title: str, subtitle: str = "", *, synthetic: bool = False) -> Figure:
    """Start a figure with its head written, and the space below it left to the axes.

    Args:
        width: Inches.
        height: Inches, without the head.
        title: What is shown.
        subtitle: When, how, from where.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        A figure bound to no window and no global state, laid out so that nothing overlaps.
    """
    whole = height + _HEAD
    figure = Figure(figsize=(width, whole))
    # Matplotlib lays figures out in fractions of their size, and the head has a height in inches.
    rectangle = (_MARGIN / width, _MARGIN / whole, 1 - 2 * _MARGIN / width, (height - _MARGIN) / whole)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=rectangle, w_pad=0.06, h_pad=0.05))
    left = _MARGIN / width
    figure.text(left, 1 - 0.14 / whole, title, va="top", fontsize=13, fontweight="bold", color=INK)
    figure.text(left, 1 - 0.42 / whole, subtitle, va="top", fontsize=9.5, color="#595959")
    if synthetic:
        mark_synthetic(figure)
    return figure


def mark_synthetic(figure: Figure) -> None:
    """Write into the head of a figure that its values are a simulation's."""
    width, whole = figure.get_size_inches()
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": ORANGE}
    right, top = 1 - 1.6 * _MARGIN / width, 1 - 0.18 / whole
    figure.text(right, top, SYNTHETIC_LABEL, ha="right", va="top", fontsize=8, color=ORANGE, bbox=box)


def plain(axes: Axes) -> None:
    """Remove from an axes' frame what carries no values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=INK, labelsize=8.5)


def gridded(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Draw lines across an axis, behind what is drawn, and leave of the frame only what carries values."""
    axes.grid(visible=True, axis=axis, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    plain(axes)


def save(figure: Figure, path: Path, *, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: What to draw.
        path: The file, ending in ``.png``; its folder is made, an existing file replaced.
        dpi: Pixels per inch.

    Returns:
        ``path``.

    Raises:
        ValueError: ``path`` does not end in ``.png``.
        OSError: the file cannot be written; nothing is left behind.
    """
    if path.suffix != ".png":
        msg = f"figures are written as PNG, got {path.name!r}: end it in .png"
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    # Without the software's name, which holds its version: the same figure is to give the same bytes.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_atomically(path, content.getvalue())
    return path
