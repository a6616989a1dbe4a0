"""Pages for a browser and for paper: one HTML file each, which asks nothing of a network."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from kit.io.atomic import write_atomically
from kit.io.errors import SettingsError
from kit.io.secrets import scrub_all
from kit.io.terminal import duration

_PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file: PNG specification, third edition, section 5.2."""
_LARGEST = 4 << 20
"""Bytes of the largest figure that is put into a page."""
# Names and settings come from runs of others, so that everything is escaped.
_TEMPLATES = Environment(
    loader=PackageLoader("kit.plots"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def _number(value: Any, digits: int = 4) -> str:
    """Write a number to some significant digits; a dash for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "\N{EN DASH}"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}").replace("e\N{MINUS SIGN}", "e-")


def _percent(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:+.1%}".replace("-", "\N{MINUS SIGN}")


_TEMPLATES.filters.update(number=_number, percent=_percent, duration=duration)


def render(template: str, pictures: Mapping[str, Any], **content: Any) -> str:
    """Fill a template in; secrets in the content are masked.

    Args:
        template: Name of the template.
        pictures: Addresses of pictures, which are no text.
        content: Everything else.
    """
    return _TEMPLATES.get_template(template).render(pictures=pictures, **scrub_all(content))


def picture(figure: Figure, *, dpi: int = 130) -> str:
    """Draw a figure as the address of a picture inside a page."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return _address(content.getvalue())


def embedded(file: Path) -> str | None:
    """Return a figure's file as the address of a picture inside a page; None of what is no PNG, or too large."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError:
        return None
    if len(content) > _LARGEST or not content.startswith(_PNG):
        return None
    return _address(content)


def _address(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def write_page(page: str, out: Path) -> None:
    """Write a page, whole or not at all; what is there is replaced.

    Raises:
        SettingsError: it cannot be written there.
    """
    try:
        write_atomically(out, page)
    except OSError as error:
        msg = f"{out}: cannot be written ({error.strerror}); choose another place with --out"
        raise SettingsError(msg) from error
