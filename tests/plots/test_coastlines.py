"""Coasts and borders: where they are on the Earth, and how they are decoded from TopoJSON."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coastlines as session
from kit.io.errors import RegistryError
from kit.plots import coastlines
from kit.plots.coastlines import SCALES, Lines, earth_lines
from kit.registry import catalogue
from kit.registry.entry import RESOURCES

# Degrees north and east, by the atlas; how far a line of the coarse scale may be from them, in degrees.
COASTS = {
    "Land's End": (50.07, -5.72),
    "Cape of Good Hope": (-34.36, 18.47),
    "Cape Horn": (-55.98, -67.27),
    "North Cape": (71.17, 25.78),
    "Cape York": (-10.69, 142.53),
}
BORDERS = {"the 49th parallel": (49.0, -110.0), "Basel": (47.59, 7.59), "Alaska's meridian": (65.0, -141.0)}


def _distance(lines: Lines, latitude: float, longitude: float) -> float:
    """Degrees of a great circle, near enough, from a place to the nearest point of a segment."""
    x = (lines.longitude - longitude) * np.cos(np.deg2rad(latitude))
    y = lines.latitude - latitude
    dx, dy = np.diff(x), np.diff(y)
    share = np.clip(-(x[:-1] * dx + y[:-1] * dy) / np.maximum(dx**2 + dy**2, 1e-12), 0, 1)
    return float(np.nanmin(np.hypot(x[:-1] + share * dx, y[:-1] + share * dy)))


@pytest.mark.parametrize(("scale", "near"), (("110m", 1.0), ("50m", 0.2)))
@pytest.mark.parametrize("place", COASTS)
def test_coasts_are_where_they_are(place: str, scale: str, near: float) -> None:
    assert _distance(earth_lines("coasts", scale), *COASTS[place]) < near


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("place", BORDERS)
def test_borders_are_where_they_are(place: str, scale: str) -> None:
    near = 0.6 if scale == "110m" else 0.1
    assert _distance(earth_lines("borders", scale), *BORDERS[place]) < near
    assert _distance(earth_lines("coasts", scale), *BORDERS[place]) > 2


@pytest.mark.parametrize("scale", SCALES)
def test_no_coast_is_far_out_at_sea_or_runs_around_the_globe(scale: str) -> None:
    coasts = earth_lines("coasts", scale)
    for latitude, longitude in ((30.0, -45.0), (-40.0, -100.0), (89.0, 0.0)):
        assert _distance(coasts, latitude, longitude) > 5
    assert np.nanmax(np.abs(np.diff(coasts.longitude))) < 20
    assert np.nanmin(coasts.latitude) > -89


def test_the_file_is_small_and_labelled() -> None:
    entry = catalogue.find("coastlines")
    path = RESOURCES / entry.file
    assert path.stat().st_size < 1e6
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    assert entry.licence.startswith("Public domain")


@pytest.mark.parametrize("content", (b"", b"no archive", None))
def test_another_file_is_refused(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "coastlines.npz"
    if content is None:
        np.savez(other, allow_pickle=True, coasts_110m=np.array([{}], dtype=object))
    else:
        other.write_bytes(content)
    monkeypatch.setattr(coastlines, "fetch", lambda name: other)
    with pytest.raises(RegistryError, match="no file of coastlines"):
        earth_lines.__wrapped__("coasts", "110m")


def test_lines_are_cut_to_a_box_on_any_turn_of_the_circle() -> None:
    lines = Lines(np.array([170.0, 175.0, 179.0, np.nan, -179.0, -170.0]), np.array([0.0, 0, 0, np.nan, 0, 0]))
    across = lines.within(174, -5, 188, 5)
    there = across.longitude[np.isfinite(across.longitude)]
    # One point beyond each edge is kept, so that the line reaches it.
    assert there.tolist() == [170, 175, 179, 181, 190]
    assert lines.within(0, -5, 10, 5).longitude.size == 0


# Two countries with one border between them, on a small island: arcs are shared, and one is walked back.
TOPOLOGY: dict[str, Any] = {
    "transform": {"scale": [0.5, 0.25], "translate": [-10.0, 40.0]},
    "arcs": [
        [[0, 0], [4, 8]],
        [[4, 8], [-2, 4], [-2, -12]],
        [[0, 0], [8, 0], [-4, 8]],
    ],
    "objects": {
        "countries": {
            "geometries": [
                {"type": "Polygon", "arcs": [[0, 1]]},
                {"type": "MultiPolygon", "arcs": [[[2, ~0]]]},
                {"type": None},
            ]
        },
        "land": {"geometries": [{"type": "MultiPolygon", "arcs": [[[1, 2]]]}]},
    },
}


def test_arcs_are_sums_of_differences_and_shared_ones_are_borders() -> None:
    found = session.lines_of(TOPOLOGY)
    assert [line.tolist() for line in found["borders"]] == [[[-10, 40], [-8, 42]]]
    assert [line.tolist() for line in found["coasts"]] == [
        [[-8, 42], [-9, 43], [-10, 40]],
        [[-10, 40], [-6, 40], [-8, 42]],
    ]


def test_what_closes_polygons_on_a_flat_map_is_cut_out() -> None:
    line = np.array([[170.0, -80], [180, -84], [180, -90], [-180, -90], [-180, -84], [-170, -80]])
    assert [piece.tolist() for piece in session.without_seams(line)] == [
        [[170, -80], [180, -84]],
        [[-180, -84], [-170, -80]],
    ]
    # A line that only passes the meridian ends there, and begins again on its other side.
    passing = np.array([[178.0, 69], [-180, 68.5], [-179, 68]])
    assert [piece.tolist() for piece in session.without_seams(passing)] == [
        [[178, 69], [180, 68.5]],
        [[-180, 68.5], [-179, 68]],
    ]


def test_another_package_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "world-atlas-2.0.2.tgz"
    with tarfile.open(tarball, "w:gz"):
        pass
    before = (RESOURCES / "coastlines.npz").read_bytes()
    with pytest.raises(SystemExit, match=r"has the SHA-256 .* nothing is changed"):
        session.main(tarball)
    assert (RESOURCES / "coastlines.npz").read_bytes() == before
