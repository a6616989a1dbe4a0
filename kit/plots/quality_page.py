"""The page of a store's checks: one file that opens anywhere and asks nothing of a network."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from kit.qa.report import Check, Report, Severity

__all__ = ["page"]

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


def page(report: Report, facts: Mapping[str, str], pictures: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        report: the checks.
        facts: about the store, by name.
        pictures: HTML of each variable, as ``kit.plots.quality.pictures`` draws it.

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


def _verdict(report: Report) -> str:
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
