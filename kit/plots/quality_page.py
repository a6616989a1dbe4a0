"""The page of a store's checks: one file that opens anywhere and asks nothing of a network.

For each variable a map, a histogram, a profile and a line through time. Maps are PNG and everything else is SVG, made
without matplotlib's figures, which take a second each.

Dimensions: T time, C level, h and w those of a map.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from kit.checks.check import Examined
from kit.checks.results import QualityReport, Severity, meaning_texts
from kit.checks.scan import Survey, Tally, thinning
from kit.data.grid import is_closed, western_edge
from kit.plots.styles import BLUE, GREY, ORANGE, Style, style_of

Array = npt.NDArray[Any]

_NOUNS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
"""In the order in which findings are shown."""
_USUAL_LEVEL = 500.0
_BINS = 40
_WIDTH, _HEIGHT = 300, 120
_MISSING = (214, 214, 214)
_FOUND = (213, 94, 0)
_MOST = 0.5
"""Share of the points beyond which findings are counted and not painted: they would hide the map."""


# Names, units and attributes come from files, so that everything is escaped.
_TEMPLATES = Environment(
    loader=PackageLoader("kit.plots"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
# What stands between backticks is code: every second part.
_TEMPLATES.filters["split_code"] = re.compile(r"`([^`]+)`").split
_TEMPLATES.globals.update(width=_WIDTH, height=_HEIGHT, blue=BLUE, orange=ORANGE, grey=GREY)


def page(report: QualityReport, facts: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        report: The checks.
        facts: Facts about the store, by name.
        pictures: HTML of each variable, as ``kit.plots.quality_page.pictures`` draws it.

    Returns:
        HTML without scripts and without references to anything outside of it.
    """
    severities = list(_NOUNS)
    failed = [check for check in report.checks if check.status == "failed"]
    failed.sort(key=lambda check: severities.index(check.severity))
    counted = []
    for severity, noun in _NOUNS.items():
        count = len(report.failed(severity))
        if count:
            counted.append(f"{count} {noun}{'s' if count > 1 else ''}")
    summary = ", ".join(counted) or "no findings"
    summary += f", {len(report.named('passed'))} checks passed, {len(report.named('not-applicable'))} not applicable"
    accepted = sum(check.accepted for check in report.checks)
    if accepted:
        summary += f", {accepted} accepted by name"
    return _TEMPLATES.get_template("quality.html.j2").render(
        title=report.store.rstrip("/").rpartition("/")[2],
        report=report,
        summary=summary,
        facts={"store": report.store, **facts},
        failed=failed,
        nouns=_NOUNS,
        meanings={name: meaning_texts(stated) for name, stated in report.variables.items()},
        # One row for each check, however many findings it has.
        checks=list({check.name: check for check in report.checks}.values()),
        findings=Counter(check.name for check in failed),
        cards=pictures,
    )


def pictures(store: Examined) -> dict[str, str]:
    """Draw each variable of which something could be read.

    Returns:
        HTML without outside references, by variable.
    """
    template = _TEMPLATES.get_template("variable.html.j2")
    coast = store.found("static_lsm")
    land_hw = None if coast is None else coast.mean_Chw[0] >= 0.5
    cards = {}
    for name, found in store.surveys.items():
        if not found.states:
            continue
        kind = found.channel.kind
        style = style_of(found.channel.name, found.channel.units, found.channel.window_hours)
        level, at = 0, ""
        profile, series = None, None
        if kind == "atmospheric":
            level = _level(store, found)
            at = f" at {store.reader.coordinates['level'][level]:g} hPa"
            profile = _profile(store, found, style)
        if kind != "static":
            series = _series(store, found, level, style)
        cards[name] = template.render(
            name=name,
            style=style,
            static=kind == "static",
            states=found.states,
            at=at,
            map=_map(store, found, level, style, land_hw),
            histogram=_histogram(found, level, style),
            profile=profile,
            series=series,
        )
    return cards


def _level(store: Examined, found: Survey) -> int:
    """Choose the level that is shown: the first one with points that were found wanting, else that nearest 500 hPa."""
    for tally in _tallies(found):
        if tally.levels:
            return tally.levels[0]
    return int(np.argmin(np.abs(store.reader.coordinates["level"] - _USUAL_LEVEL)))


def _tallies(found: Survey) -> tuple[Tally, ...]:
    return found.nan, found.infinite, found.outside, found.negative, found.unlikely


def _map(store: Examined, found: Survey, level: int, style: Style, land_hw: Array | None) -> dict[str, Any]:
    """Paint the mean over the states, with the coast and the points where something was found."""
    mean = style.display(found.mean_Chw[level])
    low, high = _limits(mean)
    bottom, top = _ends(low, high, style)
    share = (mean - bottom) / (top - bottom) if top > bottom else np.zeros_like(mean)
    colours = mpl.colormaps[style.colours](np.clip(np.nan_to_num(share), 0, 1), bytes=True)[..., :3].copy()
    colours[~np.isfinite(mean)] = _MISSING
    if land_hw is not None and land_hw.shape == mean.shape and found.channel.name != "static_lsm":
        edge = (land_hw != np.roll(land_hw, 1, axis=1)) | (land_hw != np.roll(land_hw, 1, axis=0))
        # The first row and column have no neighbour before them; rolling compares them with the last.
        edge[0], edge[:, 0] = False, False
        colours[edge] = (0.35 * colours[edge]).astype(np.uint8)
    marked = _marked(found, level, mean.shape)
    if marked.mean() <= _MOST:
        colours[marked] = _FOUND
    longitude = store.reader.coordinates["longitude"]
    if longitude.ndim == 1 and (np.diff(longitude) > 0).all():
        # A box across Greenwich is shown in one piece, from its west, and the whole circle around Greenwich.
        west = int(np.sum(longitude < 180)) if is_closed(longitude) else western_edge(longitude)
        first = west // thinning((1, len(longitude)))[1]
        colours = np.roll(colours, -first, axis=1)
    ramp = ""
    if top > bottom:
        ramp = _png(mpl.colormaps[style.colours](np.linspace(0, 1, 96), bytes=True)[None, :, :3])
    return {
        "image": _png(colours),
        "ramp": ramp,
        "bottom": bottom,
        "top": top,
        "low": low,
        "high": high,
        "marked": int(marked.sum()),
    }


def _limits(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    # Without the outermost points, one of which could flatten all others.
    low, high = np.quantile(finite, (0.005, 0.995)).tolist()
    return (low, high) if high > low else (float(finite.min()), float(finite.max()))


def _ends(low: float, high: float, style: Style) -> tuple[float, float]:
    """Choose the ends of the colour bar."""
    if style.scale == "diverging":
        # Of winds the sign is what matters: no colour on one side of zero stands for a value on the other.
        return -max(abs(low), abs(high)), max(abs(low), abs(high))
    if style.scale == "fraction" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if style.scale == "cyclic":
        return 0.0, 360.0
    if style.scale == "from zero" and low >= 0:
        return 0.0, high
    return low, high


def _marked(found: Survey, level: int, shape: tuple[int, ...]) -> Array:
    """Mark the points of the map in whose cells something was found on this level."""
    result = np.zeros(shape, dtype=bool)
    for tally in _tallies(found):
        if tally.ever is not None and tally.ever.ndim == 3:
            rows, columns = np.nonzero(tally.ever[level])
            step = thinning(tally.ever.shape[1:])
            result[np.minimum(rows // step[0], shape[0] - 1), np.minimum(columns // step[1], shape[1] - 1)] = True
    return result


def _png(colours_hwc: Array) -> str:
    picture = Image.fromarray(np.ascontiguousarray(colours_hwc)).quantize(128, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _histogram(found: Survey, level: int, style: Style) -> dict[str, Any] | None:
    values = np.concatenate([part[level] for part in found.sample])
    values = style.display(values[np.isfinite(values)].astype(np.float64))
    if not values.size or values.min() == values.max():
        return None
    counts, edges = np.histogram(values, bins=_BINS)
    heights, note = counts.astype(np.float64), ""
    if counts.max() > 0.6 * counts.sum():
        # What is mostly small would be one bar beside an empty axis.
        heights, note = np.sqrt(counts), ", square-root scale"
    heights = heights / heights.max() * (_HEIGHT - 24)
    width = _WIDTH / _BINS
    bars = [
        {"x": index * width, "y": _HEIGHT - 16 - heights[index], "width": width - 0.6, "height": heights[index]}
        for index in np.flatnonzero(heights > 0)
    ]
    return {"bars": bars, "note": note, "first": f"{edges[0]:.4g}", "last": f"{edges[-1]:.4g}"}


def _profile(store: Examined, found: Survey, style: Style) -> dict[str, Any] | None:
    """Draw the mean on each level, with a scale to either side, against the logarithm of pressure."""
    levels = store.reader.coordinates["level"]
    mean, scale = found.training.mean_C, found.training.scale_C
    if not found.training.weight_C.any() or len(mean) != len(levels):
        mean, scale = found.mean_C, np.zeros(len(levels))
    there = np.isfinite(mean) & np.isfinite(scale) & (levels > 0)
    if np.count_nonzero(there) < 2:
        return None
    mean, scale, levels = mean[there], scale[there], levels[there]
    height = np.log(levels / levels.min())
    if not np.ptp(height):
        return None
    y = 8 + (_HEIGHT - 34) * height / height.max()
    low, middle, high = style.display(mean - scale), style.display(mean), style.display(mean + scale)
    first, width = float(low.min()), max(float(high.max() - low.min()), 1e-30)
    # Along the lower side and back along the upper one.
    band = (np.concatenate([low, high[::-1]]) - first) / width * (_WIDTH - 70)
    line = (middle - first) / width * (_WIDTH - 70)
    return {
        "band": _points(60 + band, np.concatenate([y, y[::-1]])),
        "line": _points(60 + line, y),
        "levels": [(y[0], levels[0]), (y[-1], levels[-1])],
        "first": f"{first:.4g}",
        "last": f"{first + width:.4g}",
    }


def _series(store: Examined, found: Survey, level: int, style: Style) -> dict[str, Any] | None:
    """Draw the mean of each state, or of every so many where there are more than the drawing can show."""
    means = style.display(np.asarray(found.mean_TC, dtype=np.float64)[:, level])
    means = means[:: -(-len(means) // 600)]
    there = np.isfinite(means)
    if np.count_nonzero(there) < 2:
        return None
    low, high = float(means[there].min()), float(means[there].max())
    x = np.arange(len(means)) / max(1, len(means) - 1) * _WIDTH
    y = _HEIGHT - 22 - (means - low) / max(high - low, 1e-30) * (_HEIGHT - 38)
    ends = store.reader.coordinates["time"][[0, found.states - 1]]
    days = ends[1] - ends[0] > np.timedelta64(3, "D")
    first, last = ends.astype("datetime64[D]" if days else "datetime64[m]")
    return {
        "line": _points(x[there], y[there]),
        "range": f"{low:.4g} to {high:.4g}",
        "first": str(first),
        "last": str(last),
    }


def _points(x: Array, y: Array) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
