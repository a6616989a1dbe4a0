"""Checks of coordinates: order, range, spacing."""

from __future__ import annotations

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, check
from kit.data.grid import western_edge

__all__ = ["CHECKS"]

_SPACING = 0.02
"""Relative unevenness of a grid that is let pass: Gaussian latitudes and rounded coordinates have less."""
_STRETCH = 0.1
"""Relative difference of neighbouring steps of a curvilinear grid that is let pass."""
_EARTH_KM = 6371.0


@check("latitude", "error", "decrease within [-90, 90]", needs=("latitude",))
def _latitude(store: Examined) -> Findings:
    values = store.subject.coordinates["latitude"]
    yield from _order("latitude", values, falling=True)
    yield from _bounds("latitude", values, np.abs(values) <= 90, "[-90, 90]")


@check("longitude", "error", "increase within [0, 360)", needs=("longitude",))
def _longitude(store: Examined) -> Findings:
    values = store.subject.coordinates["longitude"]
    yield from _order("longitude", values, falling=False)
    yield from _bounds("longitude", values, (values >= 0) & (values < 360), "[0, 360)")


@check("level", "error", "increase and are plausible as hPa", needs=("level",))
def _level(store: Examined) -> Findings:
    values = store.subject.coordinates["level"]
    yield from _order("level", values, falling=False)
    pascals = " (Pa for hPa: divide by 100)" if (values > 1100).any() and values.max() <= 110000 else ""
    yield from _bounds("level", values, (values > 0) & (values <= 1100), f"(0, 1100] hPa{pascals}")


@check("model-levels", "error", "levels are pressures, not numbers of model levels", needs=("level",))
def _model_levels(store: Examined) -> Findings:
    values = store.subject.coordinates["level"]
    if len(values) >= 3 and (np.diff(np.sort(values)) == 1).all():
        detail = f"levels {values.min():g} to {values.max():g} in steps of 1: these are numbers of model levels"
        yield Finding("level", detail, f"interpolate to pressure levels first, or download those, then {REBUILD}")


_DERIVED = {
    "static_coslat": ("latitude", np.cos),
    "static_sinlat": ("latitude", np.sin),
    "static_coslon": ("longitude", np.cos),
    "static_sinlon": ("longitude", np.sin),
}


@check("static-coordinates", "error", "static fields made of coordinates fit them", needs=("latitude", "longitude"))
def _static_coordinates(store: Examined) -> Findings:
    for name, (coordinate, function) in _DERIVED.items():
        found = store.found(name)
        if found is None:
            continue
        values = function(np.deg2rad(store.subject.coordinates[coordinate]))
        field = found.channel.read(0)[0]
        off = np.abs(field - (values[:, None] if coordinate == "latitude" and values.ndim == 1 else values))
        if not np.nanmax(off) < 1e-3:
            detail = f"differs from its {coordinate}s by up to {np.nanmax(off):.3g}: it is of another grid, or turned"
            yield Finding(name, detail, f"leave it out of the source and derive it with `--statics`: {REBUILD}")


@check("grid-spacing", "warning", "the grid is regular", needs=("latitude", "longitude"))
def _grid_spacing(store: Examined) -> Findings:
    if store.subject.curvilinear:
        yield from _matrix_spacing(store.subject.coordinates["latitude"], store.subject.coordinates["longitude"])
        return
    for name in ("latitude", "longitude"):
        steps = np.abs(np.diff(store.subject.coordinates[name]))
        usual = float(np.median(steps)) if steps.size else 0.0
        if name == "longitude" and steps.size and (edge := western_edge(store.subject.coordinates[name])):
            # A box across Greenwich: what is around it is no step.
            steps[edge - 1] = usual
        uneven = np.flatnonzero(~(np.abs(steps - usual) <= _SPACING * usual))
        if uneven.size:
            first = store.subject.coordinates[name][uneven[0] : uneven[0] + 2]
            detail = (
                f"{uneven.size} of {steps.size} steps differ from {usual:g} degrees, first {first[0]:g} to {first[1]:g}"
            )
            yield Finding(name, detail, "regrid the data: neighbours would be far apart")


def _matrix_spacing(latitude_HW: np.ndarray, longitude_HW: np.ndarray) -> Findings:
    """A projection stretches a grid little by little: where one step is much longer than the next, rows are missing."""
    lat, lon = np.deg2rad(latitude_HW), np.deg2rad(longitude_HW)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    for axis, name in enumerate(("y", "x")):
        steps = np.median(np.linalg.norm(np.diff(points, axis=axis + 1), axis=0), axis=1 - axis)
        ratio = steps[1:] / steps[:-1]
        uneven = np.flatnonzero(~((ratio < 1 + _STRETCH) & (ratio > 1 / (1 + _STRETCH))))
        if uneven.size:
            first = int(uneven[0])
            lengths = steps[first : first + 2] * _EARTH_KM
            detail = (
                f"along {name} the distance between neighbours jumps at {uneven.size} of {ratio.size} places, first "
                f"from {lengths[0]:.3g} to {lengths[1]:.3g} km at {first + 1}"
            )
            yield Finding(name, detail, "rows or columns are missing or doubled: take the whole grid, or regrid it")


def _order(name: str, values: np.ndarray, *, falling: bool) -> Findings:
    axis = 0 if falling else -1
    steps = -np.diff(values, axis=axis) if falling else np.diff(values, axis=axis)
    wrong = np.argwhere(~(steps > 0))
    if wrong.size:
        at = tuple(wrong[0])
        after = (at[0] + 1, *at[1:]) if falling else (*at[:-1], at[-1] + 1)
        expected = f"strictly {'decreasing' if falling else 'increasing'}"
        if values.ndim == 2:
            expected += " along every column" if falling else " along every row"
        first = f"{values[at]:g} is followed by {values[after]:g}"
        yield Finding(
            name, f"not {expected} at {len(wrong)} of {steps.size} steps: {first}", f"{REBUILD}, which sorts it"
        )


def _bounds(name: str, values: np.ndarray, inside: np.ndarray, limits: str) -> Findings:
    if not inside.all():
        detail = f"{np.count_nonzero(~inside)} of {values.size} values outside {limits}, first {values[~inside][0]:g}"
        yield Finding(name, detail, f"correct the source's coordinate, then {REBUILD}")


@check("time-order", "error", "times increase, each once", needs=("time",))
def _time_order(store: Examined) -> Findings:
    times = store.subject.coordinates["time"]
    values, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        detail = f"{np.count_nonzero(counts > 1)} times occur more than once, first {_minute(values[counts > 1][0])}"
        yield Finding("time", detail, f"keep one state for each time, then {REBUILD}")
    backwards = np.flatnonzero(np.diff(times) < np.timedelta64(0, "s"))
    if backwards.size:
        first = f"{_minute(times[backwards[0]])} is followed by {_minute(times[backwards[0] + 1])}"
        yield Finding("time", f"unsorted at {backwards.size} places: {first}", f"{REBUILD}, which sorts it")


@check("time-gaps", "warning", "times are evenly spaced", needs=("time",))
def _time_gaps(store: Examined) -> Findings:
    times = np.unique(store.subject.coordinates["time"])
    steps = np.diff(times)
    if not steps.size:
        yield Finding(
            "time", f"one state alone ({_minute(times[0])}): there is no pair to train on", "add states", "error"
        )
        return
    lengths, counts = np.unique(steps, return_counts=True)
    usual = lengths[np.argmax(counts)]
    wrong = np.flatnonzero(steps != usual)
    if wrong.size:
        first = f"first from {_minute(times[wrong[0]])} to {_minute(times[wrong[0] + 1])}"
        hours = usual / np.timedelta64(1, "h")
        detail = f"{wrong.size} of {steps.size} steps differ from the usual {hours:g} h, {first}"
        yield Finding("time", detail, "fill the gaps, or accept them: pairs across a gap are left out")


def _minute(moment: np.datetime64) -> str:
    return str(moment.astype("datetime64[m]"))


CHECKS = (
    _latitude, _longitude, _level, _model_levels, _grid_spacing, _static_coordinates, _time_order, _time_gaps,
)  # fmt: skip
"""In the order in which they are reported."""
