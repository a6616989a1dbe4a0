"""The page of a store's checks: one file that opens anywhere and asks nothing of a network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image

from kit.checks.check import Examined
from kit.checks.results import Check, QualityReport, Severity
from kit.checks.scan import Survey, thinning
from kit.data.grid import western_edge
from kit.plots.styles import BLUE, GREY, ORANGE, Style, style_of

__all__ = ["page", "pictures"]

_STYLE = """
:root{--ink:#1f2328;--soft:#59636e;--line:#d8dee4;--back:#f6f8fa;--card:#fff;--error:#b3261e;--warning:#9a5b00;
--info:#0b5cad;--good:#1a7f37}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#30363d;--back:#0d1117;--card:#161b22;
--error:#ff8a80;--warning:#e3b341;--info:#79b8ff;--good:#56d364}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0 0 2px;overflow-wrap:anywhere}
h2{font-size:18px;margin:34px 0 10px}h3{font-size:15px;margin:0 0 8px}h3 small,.soft{color:var(--soft);font-weight:400}
.verdict{display:inline-block;border-radius:6px;padding:5px 12px;font-weight:600;color:#fff;margin:12px 0 4px}
.verdict.good{background:#1a7f37}.verdict.bad{background:#b3261e}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0}dt{color:var(--soft)}dd{margin:0}
.finding{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--soft);border-radius:6px;
padding:10px 14px;margin:8px 0}.finding.error{border-left-color:var(--error)}
.finding.warning{border-left-color:var(--warning)}.finding.info{border-left-color:var(--info)}
.finding p{margin:4px 0;overflow-wrap:anywhere}.finding p.remedy{color:var(--soft)}
.tag{font-size:12px;font-weight:600;text-transform:uppercase;letter-spacing:.04em;margin-right:8px}
.tag.error{color:var(--error)}.tag.warning{color:var(--warning)}.tag.info{color:var(--info)}
code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);font-size:14px}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft)}
.scroll{overflow-x:auto}.passed{color:var(--good)}.failed{font-weight:600}.skipped{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.cards{align-items:start}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px}figure{margin:0 0 10px}
.map img{width:100%;max-height:300px;
object-fit:contain;image-rendering:pixelated;display:block;border-radius:4px}
.map img.bar{height:8px;object-fit:fill;image-rendering:auto;margin-top:6px}
.ends{display:flex;justify-content:space-between;font-size:11px;color:var(--soft)}
svg{width:100%;display:block}svg text{font-size:10px;fill:var(--soft)}
figcaption{font-size:12.5px;color:var(--soft);margin-top:3px}.found{color:#d55e00;font-weight:600}
a{color:var(--info)}nav a{margin-right:10px}
"""
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


def page(report: QualityReport, facts: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        report: the checks.
        facts: about the store, by name.
        pictures: HTML of each variable, as ``kit.plots.quality_page.pictures`` draws it.

    Returns:
        HTML without scripts and without references to anything outside of it.
    """
    failed = sorted((c for c in report.checks if c.status == "failed"), key=lambda c: _ORDER.index(c.severity))
    title = html.escape(report.store.rstrip("/").rpartition("/")[2])
    body = [
        f"<h1>Checks on {title}</h1>",
        _verdict(report),
        _facts({"store": report.store, **facts}),
        "<h2>What was found</h2>",
        "".join(map(_finding, failed)) or "<p>Nothing: every check passed.</p>",
        "<h2>All checks</h2>",
        _table(report.checks),
        f"<h2>Variables</h2><nav>{_links(pictures)}</nav><p></p>",
        f'<div class="cards">{"".join(pictures.values())}</div>',
    ]
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Checks on {title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
    )
    return f"{head}<body><main>{''.join(body)}</main></body></html>\n"


def _verdict(report: QualityReport) -> str:
    counts = {severity: len(report.failed(severity)) for severity in _ORDER}
    accepted = sum(check.accepted for check in report.checks)
    told = ", ".join(_counted(count, severity) for severity, count in counts.items() if count) or "no findings"
    more = f", {accepted} accepted by name" if accepted else ""
    words = ("good", "fit for training") if report.passed else ("bad", "not fit for training")
    return f'<p><span class="verdict {words[0]}">{words[1]}</span></p><p class="soft">{told}{more}</p>'


def _counted(count: int, severity: str) -> str:
    noun = {"error": "error", "warning": "warning", "info": "note"}[severity]
    return f"{count} {noun}{'s' if count > 1 else ''}"


def _facts(facts: Mapping[str, str]) -> str:
    rows = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{''.join(rows)}</dl>"


def _finding(check: Check) -> str:
    about = f' <a href="#v-{html.escape(check.variable)}">{html.escape(check.variable)}</a>' if check.variable else ""
    accepted = " <em>accepted</em>" if check.accepted else ""
    return (
        f'<div class="finding {check.severity}"><span class="tag {check.severity}">{check.severity}</span>'
        f"<b>{html.escape(check.name)}</b>{about}{accepted}<p>{_text(check.detail)}</p>"
        f'<p class="remedy">What to do: {_text(check.remedy)}</p></div>'
    )


def _text(text: str) -> str:
    """What stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _table(checks: Iterable[Check]) -> str:
    """One row for each check, however many findings it has."""
    checks = tuple(checks)
    counts = Counter(check.name for check in checks if check.status == "failed")
    rows = {}
    for check in checks:
        count = counts[check.name]
        result = f"{count} finding{'s' if count > 1 else ''}" if count else check.status
        detail = check.detail if not count else "see above"
        rows[check.name] = (
            f'<tr><td><code>{html.escape(check.name)}</code></td><td class="{check.status}">{result}</td>'
            f"<td>{check.severity}</td><td>{html.escape(detail)}</td></tr>"
        )
    head = "<tr><th>check</th><th>result</th><th>if it fails</th><th>what it says</th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows.values())}</table></div>'


def _links(pictures: Mapping[str, str]) -> str:
    return " ".join(f'<a href="#v-{html.escape(name)}">{html.escape(name)}</a>' for name in pictures)


# What a store looks like, as pieces of a page: a map, a histogram, a profile and a line through time per variable.
#
# Maps are PNG and everything else is SVG, made without matplotlib's figures, which take a second each.
#
# Dimensions: T time, C level, h and w those of a map.

Array = npt.NDArray[Any]

_USUAL_LEVEL = 500.0
_BINS = 40
_WIDTH, _HEIGHT = 300, 120
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MISSING = (214, 214, 214)
_FOUND = (213, 94, 0)
_MOST = 0.5
"""Share of the points beyond which findings are counted and not painted: they would hide the map."""


def pictures(store: Examined) -> dict[str, str]:
    """Draw each variable of which something could be read.

    Returns:
        HTML without outside references, by variable.
    """
    coast = store.found("static_lsm")
    mask = None if coast is None else coast.mean_Chw[0] >= 0.5
    return {name: _card(store, found, mask) for name, found in store.surveys.items() if found.states}


def _card(store: Examined, found: Survey, land_hw: Array | None) -> str:
    channel = found.channel
    style = _style(found)
    level = _level(store, found)
    pressure = None if channel.kind != "atmospheric" else store.reader.coordinates["level"][level]
    at = "" if pressure is None else f" at {pressure:g} hPa"
    pieces = [_map(store, found, level, style, land_hw, at), _histogram(found, level, style, at)]
    if channel.kind == "atmospheric" and len(found.mean_C) > 1:
        pieces.append(_profile(store, found, style))
    if channel.kind != "static" and found.states > 1:
        pieces.append(_through_time(store, found, level, style, at))
    title = f"{html.escape(channel.name)} <small>{html.escape(style.label)}, {html.escape(style.unit)}</small>"
    return f'<section class="card" id="v-{html.escape(channel.name)}"><h3>{title}</h3>{"".join(pieces)}</section>'


def _style(found: Survey) -> Style:
    """The variable's style, or its name and unit by the table of variables."""
    channel, known = found.channel, found.channel.known
    style = style_of(
        channel.name, re.sub(r"(?<=[A-Za-z])-?\d", lambda part: part[0].translate(_RAISED), channel.units or "")
    )
    return style if known is None or style.label != channel.name else replace(style, label=known.long_name)


def _level(store: Examined, found: Survey) -> int:
    """The level that is shown: the first one with points that were found wanting, else the one nearest 500 hPa."""
    if found.channel.kind != "atmospheric":
        return 0
    for tally in _tallies(found):
        if tally.levels:
            return int(tally.levels[0])
    return int(np.argmin(np.abs(store.reader.coordinates["level"] - _USUAL_LEVEL)))


def _tallies(found: Survey) -> tuple[Any, ...]:
    return found.nan, found.infinite, found.outside, found.negative, found.unlikely


def _map(store: Examined, found: Survey, level: int, style: Style, land_hw: Array | None, at: str) -> str:
    mean = style.display(found.mean_Chw[level])
    low, high = _limits(mean)
    # Of winds the sign is what matters: no colour on one side of zero stands for a value on the other.
    bottom, top = _scale(low, high, style)
    unit = (mean - bottom) / (top - bottom) if top > bottom else np.zeros_like(mean)
    colours = mpl.colormaps[style.colours](np.clip(np.nan_to_num(unit), 0, 1), bytes=True)[..., :3].copy()
    colours[~np.isfinite(mean)] = _MISSING
    if land_hw is not None and land_hw.shape == mean.shape and found.channel.name != "static_lsm":
        edge = (land_hw != np.roll(land_hw, 1, axis=1)) | (land_hw != np.roll(land_hw, 1, axis=0))
        edge[0], edge[:, 0] = False, False
        colours[edge] = (0.35 * colours[edge]).astype(np.uint8)
    wrong = _wrong(found, level, mean.shape)
    if wrong.mean() <= _MOST:
        colours[wrong] = _FOUND
    longitude = store.reader.coordinates["longitude"]
    in_order = longitude.ndim == 1 and (np.diff(longitude) > 0).all()
    first = western_edge(longitude) // thinning((1, len(longitude)))[1] if in_order else 0
    colours = np.roll(colours, -first, axis=1)
    marked = f' <span class="found">&#9632; {int(wrong.sum())} points with findings</span>' if wrong.any() else ""
    states = "state" if found.states == 1 else "states"
    caption = f"mean of {found.states} {states}{at}: {low:.4g} to {high:.4g} {html.escape(style.unit)}{marked}"
    if found.channel.kind == "static":
        caption = f"{low:.4g} to {high:.4g} {html.escape(style.unit)}{marked}"
    alternative = f"map of {html.escape(found.channel.name)}"
    picture = f'<img alt="{alternative}" src="{_png(colours)}">'
    return f'<figure class="map">{picture}{_bar(style, bottom, top)}<figcaption>{caption}</figcaption></figure>'


def _scale(low: float, high: float, style: Style) -> tuple[float, float]:
    """Ends of the colour bar."""
    if style.scale == "diverging":
        return -max(abs(low), abs(high)), max(abs(low), abs(high))
    if style.scale == "fraction" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if style.scale == "cyclic":
        return 0.0, 360.0
    return (0.0, high) if style.scale == "from zero" and low >= 0 else (low, high)


def _bar(style: Style, bottom: float, top: float) -> str:
    if not top > bottom:
        return ""
    ramp = mpl.colormaps[style.colours](np.linspace(0, 1, 96), bytes=True)[None, :, :3]
    ends = f"<span>{bottom:.4g}</span><span>{top:.4g}</span>"
    return f'<img class="bar" alt="colours" src="{_png(ramp)}"><div class="ends">{ends}</div>'


def _limits(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = (float(edge) for edge in np.quantile(finite, (0.005, 0.995)))
    return (low, high) if high > low else (float(finite.min()), float(finite.max()))


def _wrong(found: Survey, level: int, shape: tuple[int, ...]) -> Array:
    """Points of the map in whose cells something was found on this level."""
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


def _histogram(found: Survey, level: int, style: Style, at: str) -> str:
    values = np.concatenate([part[level] for part in found.sample])
    values = style.display(values[np.isfinite(values)].astype(np.float64))
    if not values.size or values.min() == values.max():
        return ""
    counts, edges = np.histogram(values, bins=_BINS)
    # What is mostly small would be one bar beside an empty axis.
    heights = np.sqrt(counts) if counts.max() > 0.6 * counts.sum() else counts.astype(np.float64)
    heights = heights / heights.max() * (_HEIGHT - 24)
    bar = _WIDTH / _BINS
    bars = "".join(
        f'<rect x="{index * bar:.1f}" y="{_HEIGHT - 16 - height:.1f}" width="{bar - 0.6:.1f}" height="{height:.1f}"/>'
        for index, height in enumerate(heights)
        if height > 0
    )
    scale = ", square-root scale" if counts.max() > 0.6 * counts.sum() else ""
    labels = _label(0, f"{edges[0]:.4g}") + _label(_WIDTH, f"{edges[-1]:.4g}", "end")
    return _svg(f'<g fill="{BLUE}">{bars}</g>{_axis()}{labels}', f"values{at}{scale}")


def _profile(store: Examined, found: Survey, style: Style) -> str:
    """Mean on each level, with a scale to either side, against the logarithm of pressure."""
    levels = store.reader.coordinates["level"]
    mean, scale = found.training.mean_C, found.training.scale_C
    if not found.training.weight_C.any() or len(mean) != len(levels):
        mean, scale = found.mean_C, np.zeros(len(levels))
    there = np.isfinite(mean) & np.isfinite(scale) & (levels > 0)
    if np.count_nonzero(there) < 2:
        return ""
    height = np.log(levels[there] / levels[there].min())
    if not np.ptp(height):
        return ""
    y = 8 + (_HEIGHT - 34) * height / height.max()
    low, mid, high = (np.asarray(style.display(mean[there] + sign * scale[there])) for sign in (-1, 0, 1))
    start, width = float(low.min()), max(float(high.max() - low.min()), 1e-30)
    band, line = ((part - start) / width * (_WIDTH - 70) for part in (np.concatenate([low, high[::-1]]), mid))
    area = " ".join(f"{60 + x:.1f},{v:.1f}" for x, v in zip(band, np.concatenate([y, y[::-1]]), strict=True))
    path = " ".join(f"{60 + x:.1f},{v:.1f}" for x, v in zip(line, y, strict=True))
    marks = "".join(
        f'<text x="52" y="{v + 3:.1f}" text-anchor="end">{level:g}</text>'
        for v, level in ((y[0], levels[there][0]), (y[-1], levels[there][-1]))
    )
    ends = _label(60, f"{start:.4g}") + _label(_WIDTH, f"{start + width:.4g}", "end")
    drawn = f'<polygon points="{area}" fill="{BLUE}" opacity=".22"/>'
    drawn += f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>'
    return _svg(drawn + _axis() + marks + ends, "mean and scale by level (hPa)")


def _through_time(store: Examined, found: Survey, level: int, style: Style, at: str) -> str:
    means = style.display(np.asarray(found.mean_TC, dtype=np.float64)[:, level])
    step = -(-len(means) // 600)
    means = means[::step]
    there = np.isfinite(means)
    if np.count_nonzero(there) < 2:
        return ""
    low, high = float(means[there].min()), float(means[there].max())
    x = np.arange(len(means)) / max(1, len(means) - 1) * _WIDTH
    y = _HEIGHT - 22 - (means - low) / max(high - low, 1e-30) * (_HEIGHT - 38)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[there], y[there], strict=True))
    first, last = store.reader.coordinates["time"][[0, found.states - 1]]
    unit = "D" if last - first > np.timedelta64(3, "D") else "m"
    ends = _label(0, str(first.astype(f"datetime64[{unit}]"))) + _label(
        _WIDTH, str(last.astype(f"datetime64[{unit}]")), "end"
    )
    spread = f"{low:.4g} to {high:.4g}"
    line = f'<polyline points="{points}" fill="none" stroke="{ORANGE}" stroke-width="1.4"/>'
    return _svg(line + _axis() + ends, f"mean of each state{at}: {spread}")


def _axis() -> str:
    return f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT - 16}" y2="{_HEIGHT - 16}" stroke="{GREY}"/>'


def _label(x: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{_HEIGHT - 3}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(content: str, caption: str) -> str:
    picture = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(caption)}">{content}</svg>'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"
