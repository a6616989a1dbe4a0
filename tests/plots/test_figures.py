"""Properties that every figure has: nothing clipped or overlapping, honest labels, whole files."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kit.plots.curves import edge_errors, loss_curves, scorecard
from kit.plots.map_grid import MapGrid
from kit.plots.maps import MapChannel, MapFigure, MapFrame, MapSetting
from kit.plots.score_figures import lead_curves, score_changes
from kit.plots.styles import SYNTHETIC_LABEL, save, style_of

PNG = b"\x89PNG\r\n\x1a\n"


def _waves(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    phase = np.random.default_rng(seed).uniform(0, 6)
    return np.sin(np.linspace(0, 3, height))[:, None] * np.cos(np.linspace(0, 9, width) + phase)


MAPS = ("After training", "Before training", "Persistence")


def _map(
    *,
    height: int = 16,
    width: int = 32,
    box: tuple[float, ...] = (84.4, 0, -84.4, 348.75),
    variable: str = "2t",
    maps: int = 3,
    target: bool = True,
    **setting: Any,
) -> Figure:
    north, west, south, east = box
    fields = {name: 280 + 10 * _waves(height, width, seed) for seed, name in enumerate(MAPS[:maps])}
    came = 280 + 10 * _waves(height, width, 9) if target else None
    frame = MapFrame(np.datetime64("2020-01-01T06"), 6, fields, came)
    grid = MapGrid.of(np.linspace(north, south, height), np.linspace(west, east, width))
    place = MapSetting(grid, mask_HW=_waves(height, width) > 0, **setting)
    return MapFigure(MapChannel(variable), [frame], place).figure


def _loss(**options: Any) -> Figure:
    steps = range(1, 201)
    records = [{"step": step, "kind": "train", "loss": 1 / step} for step in steps]
    records += [{"step": step, "kind": "valid", "loss": 1.5 / (step + 1)} for step in range(0, 201, 50)]
    return loss_curves(records, title="Loss of a run with a rather long name", **options)


def _score(**options: Any) -> Figure:
    levels = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
    skills = {"2t": 0.2, "10u": -0.1, "msl": float("nan"), "tp_6h": -8.0}
    skills |= {f"{name}_{level}": level / 1500 - 0.1 for name in "zuvtq" for level in levels}
    return scorecard(skills, before={key: value - 0.1 for key, value in skills.items()}, **options)


def _leads(count: int = 8) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores that begin better than persistence and end worse, with significance in the first half."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for number in range(1, count + 1):
        rows = {}
        for channel in ("2t", "10ws", "tp", *(f"{name}_{level}" for name in "zt" for level in (250, 500, 850))):
            ratio = 0.5 + number / count
            rows[channel] = {
                "rmse": ratio * number,
                "rmse_low": 0.9 * ratio * number,
                "rmse_high": 1.1 * ratio * number,
                "bias": 0.1 * number - 0.3,
                "acc": 1 - 0.05 * number,
                "persistence_rmse": float(number),
                "persistence_significant": number <= count / 2,
            }
        found[f"{6 * number:03d}h"] = rows
    return found


RINGS = [
    {
        "distance": distance,
        "points": 100,
        "scored": float(distance > 4),
        "rmse": {"2t": 2.0 - distance / 20, "t_500": 1.0, "t_850": 2.0, "tp_6h": None},
        "persistence_rmse": {"2t": 2.0, "t_500": 2.0, "t_850": 2.0, "tp_6h": 0.0},
    }
    for distance in (0, 4, 8, 16)
]
FIGURES: dict[str, Callable[..., Any]] = {
    "globe": _map,
    "box": lambda **options: _map(box=(55, 2, 45, 10), width=20, **options),
    "tall box": lambda **options: _map(box=(70, 2, 20, 10), height=40, width=8, variable="tc_no", **options),
    "wide box": lambda **options: _map(box=(10, 2, 5, 80), height=6, width=90, variable="10u_wave", **options),
    "region": lambda **options: _map(box=(55, 2, 45, 10), width=20, scored=(slice(2, 14), slice(4, 16)), **options),
    "one forecast": lambda **options: _map(box=(55, 2, 45, 10), width=20, maps=1, **options),
    "forecast alone": lambda **options: _map(maps=1, target=False, **options),
    "cone": lambda **options: _map(box=(75, 0, 35, 40), width=20, **options),
    "arctic": lambda **options: _map(box=(90, 0, 60, 348.75), **options),
    "antarctic": lambda **options: _map(box=(-30, 0, -90, 348.75), **options),
    "changes": lambda **options: score_changes(_leads(), "persistence", title="A run against persistence", **options),
    "curves": lambda **options: lead_curves(_leads(), {"z_500": "m2 s-2"}, title="Scores of a run by lead", **options),
    "loss": _loss,
    "edge": lambda **options: edge_errors(RINGS, title="Errors of a run by distance from the edge", **options),
    "scorecard": _score,
    "two bars": lambda **options: scorecard({"2t": 0.3, "msl": 0.2}, title="Skill of a run", **options),
}


def _visible_texts(figure: Figure) -> dict[str, Bbox]:
    """Boxes of all texts as drawn, in pixels."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    texts: list[Any] = [text for text in figure.findobj(Text) if text.get_visible()]
    boxes = ((text, text.get_window_extent(renderer)) for text in texts if text.get_text() and text not in ticks)
    return {f"{text.get_text()} {id(text)}": box for text, box in boxes}


ALIKE = (
    "tall box", "wide box", "region", "one forecast", "forecast alone", "cone", "arctic", "antarctic",
)  # fmt: skip
"""Maps of other places and other numbers of forecasts."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in FIGURES]
)
def test_no_text_is_clipped_or_overlaps(name: str) -> None:
    figure = FIGURES[name](synthetic=True)
    texts = _visible_texts(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in texts.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    named = list(texts.items())
    for index, (text, box) in enumerate(named):
        clashes = [other for other, around in named[index + 1 :] if box.overlaps(around)]
        assert not clashes, (text, clashes)


@pytest.mark.parametrize("name", ("globe", "loss", "two bars"))
def test_synthetic_values_are_labelled_and_real_ones_are_not(name: str) -> None:
    for synthetic in (True, False):
        texts = [text.get_text() for text in FIGURES[name](synthetic=synthetic).texts]
        assert (SYNTHETIC_LABEL in texts) is synthetic


@pytest.mark.parametrize("name", ("box", "loss"))
def test_the_same_figure_gives_the_same_png(name: str, tmp_path: Path) -> None:
    first, second = (save(FIGURES[name](), tmp_path / "new" / f"{copy}.png", dpi=40).read_bytes() for copy in "ab")
    assert first.startswith(PNG)
    assert first == second
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written as PNG, got 'loss.pdf'"):
        save(_loss(), tmp_path / "loss.pdf")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_figure_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[: len(PNG)])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "loss.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save(_loss(), tmp_path / "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert (tmp_path / "loss.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("variable", "stored", "shown", "unit", "error_unit"),
    (
        ("2t", 273.15, 0.0, "°C", "K"),
        ("tp", 0.002, 2.0, "mm", "mm"),
        ("tp_6h", 0.002, 2.0, "mm", "mm"),
        ("msl", 101325.0, 1013.25, "hPa", "hPa"),
        ("z", 49033.25, 500.0, "dam", "dam"),
        ("static_z", 9.80665, 1.0, "m", "m"),
        ("q", 0.005, 5.0, "g kg⁻¹", "g kg⁻¹"),
        ("10u", -3.0, -3.0, "m s⁻¹", "m s⁻¹"),
        ("pm2p5", 1e-8, 10.0, "µg m⁻³", "µg m⁻³"),
        ("mystery", 7.0, 7.0, "furlong", "furlong"),
    ),
)
def test_display_units(variable: str, stored: float, shown: float, unit: str, error_unit: str) -> None:
    style = style_of(variable, "furlong")
    assert style.display(stored) == pytest.approx(shown)
    assert (style.unit, style.error_unit) == (unit, error_unit)


def test_a_temperature_difference_is_not_shifted() -> None:
    assert style_of("2t").difference(2.0) == 2.0


def test_angles_differ_the_short_way_round() -> None:
    assert style_of("mwd").difference(350.0) == -10.0


def test_windows_are_part_of_the_label() -> None:
    assert style_of("tp_6h").label == style_of("tp", window=6).label == "Total precipitation, 6 h sum"
