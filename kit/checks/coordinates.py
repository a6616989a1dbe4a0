"""Checks of coordinates: order, range, spacing, and whether fields go on where longitudes begin again."""

import warnings

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, usual_step
from kit.data.grid import western_edge

_SPACING = 0.02
"""Relative unevenness of a grid that is let pass: Gaussian latitudes and rounded coordinates have less."""
_STRETCH = 0.1
"""Relative difference of neighbouring steps of a curvilinear grid that is let pass."""
_EARTH_KM = 6371.0
_COLUMNS = 16
"""Columns below which two neighbours are too far apart to be alike."""
_SEAM = 2.0
"""How many times as much as any two neighbours inside the columns at the seam may differ."""


@check("latitude", "error", "decrease within [-90, 90]", needs=("latitude",))
def _latitude(store: Examined) -> Findings:
    values = store.reader.coordinates["latitude"]
    # Negated values of a decreasing coordinate increase; along columns of a curvilinear grid.
    yield from _order("latitude", values, -np.diff(values, axis=0), "decreasing", "column")
    yield from _bounds("latitude", values, np.abs(values) <= 90, "[-90, 90]")


@check("longitude", "error", "increase within [0, 360)", needs=("longitude",))
def _longitude(store: Examined) -> Findings:
    values = store.reader.coordinates["longitude"]
    yield from _order("longitude", values, np.diff(values, axis=-1), "increasing", "row")
    yield from _bounds("longitude", values, (values >= 0) & (values < 360), "[0, 360)")


@check("level", "error", "increase and are plausible as hPa", needs=("level",))
def _level(store: Examined) -> Findings:
    values = store.reader.coordinates["level"]
    yield from _order("level", values, np.diff(values), "increasing", "row")
    hint = " (Pa for hPa: divide by 100)" if 1100 < values.max() <= 110000 else ""
    yield from _bounds("level", values, (values > 0) & (values <= 1100), f"(0, 1100] hPa{hint}")


def _order(name: str, values: np.ndarray, steps: np.ndarray, direction: str, line: str) -> Findings:
    """Report steps that are not above zero.

    Args:
        name: Name of the coordinate.
        values: The coordinate, [n], or [H, W] of a curvilinear grid.
        steps: Differences of neighbours along a column or a row, with the sign that makes them positive.
        direction: Whether values are to be ``decreasing`` or ``increasing``.
        line: Lines of a matrix along which the steps are taken: ``column`` or ``row``.
    """
    wrong = np.argwhere(~(steps > 0))
    if not wrong.size:
        return
    first = tuple(wrong[0])
    following = (first[0] + 1, *first[1:]) if line == "column" else (*first[:-1], first[-1] + 1)
    expected = f"strictly {direction}" if values.ndim == 1 else f"strictly {direction} along every {line}"
    detail = f"not {expected} at {len(wrong)} of {steps.size} steps: {values[first]:g} is followed by "
    yield Finding(name, f"{detail}{values[following]:g}", f"{REBUILD}, which sorts it")


def _bounds(name: str, values: np.ndarray, inside: np.ndarray, limits: str) -> Findings:
    if not inside.all():
        detail = f"{np.count_nonzero(~inside)} of {values.size} values outside {limits}, first {values[~inside][0]:g}"
        yield Finding(name, detail, f"correct the source's coordinate, then {REBUILD}")


@check("model-levels", "error", "levels are pressures, not numbers of model levels", needs=("level",))
def _model_levels(store: Examined) -> Findings:
    values = store.reader.coordinates["level"]
    # Two levels a hectopascal apart may be pressures; three or more in a row are numbered.
    if len(values) < 3:
        msg = "fewer than three levels"
        raise NotApplicable(msg)
    if (np.diff(np.sort(values)) == 1).all():
        detail = f"levels {values.min():g} to {values.max():g} in steps of 1: these are numbers of model levels"
        yield Finding("level", detail, f"interpolate to pressure levels first, or download those, then {REBUILD}")


@check("static-coordinates", "error", "static fields made of coordinates fit them", needs=("latitude", "longitude"))
def _static_coordinates(store: Examined) -> Findings:
    names = ("static_coslat", "static_sinlat", "static_coslon", "static_sinlon")
    there = store.all_of("static field made of coordinates", lambda found: found.channel.name in names)
    for coordinate in ("latitude", "longitude"):
        radians = np.deg2rad(store.reader.coordinates[coordinate])
        if coordinate == "latitude" and radians.ndim == 1:
            # A column, so that it broadcasts against the field's rows.
            radians = radians[:, None]
        for function, values in (("cos", np.cos(radians)), ("sin", np.sin(radians))):
            name = f"static_{function}{coordinate[:3]}"
            if name not in there:
                continue
            error = np.nanmax(np.abs(there[name].channel.read(0)[0] - values))
            if not error < 1e-3:
                detail = f"differs from its {coordinate}s by up to {error:.3g}: it is of another grid, or turned"
                yield Finding(name, detail, f"leave it out of the source and derive it with `--statics`: {REBUILD}")


@check("grid-spacing", "warning", "the grid is regular", needs=("latitude", "longitude"))
def _grid_spacing(store: Examined) -> Findings:
    if store.reader.curvilinear:
        yield from _matrix_spacing(store.reader.coordinates["latitude"], store.reader.coordinates["longitude"])
        return
    for name in ("latitude", "longitude"):
        values = store.reader.coordinates[name]
        steps = np.abs(np.diff(values))
        if not steps.size:
            continue
        usual = float(np.median(steps))
        if name == "longitude" and (edge := western_edge(values)):
            # A box across Greenwich: what is around it is no step.
            steps[edge - 1] = usual
        uneven = np.flatnonzero(~(np.abs(steps - usual) <= _SPACING * usual))
        if uneven.size:
            first, following = values[uneven[0] : uneven[0] + 2]
            detail = f"{uneven.size} of {steps.size} steps differ from {usual:g} degrees, first {first:g} to "
            yield Finding(name, f"{detail}{following:g}", "regrid the data: neighbours would be far apart")


def _matrix_spacing(latitude_HW: np.ndarray, longitude_HW: np.ndarray) -> Findings:
    """A projection stretches a grid little by little: where one step is much longer than the next, rows are missing."""
    lat, lon = np.deg2rad(latitude_HW), np.deg2rad(longitude_HW)
    # Distances are taken between points in space, as angles have jumps at the date line and shrink at the poles.
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    for axis, name in enumerate(("y", "x")):
        steps = np.median(np.linalg.norm(np.diff(points, axis=axis + 1), axis=0), axis=1 - axis)
        ratio = steps[1:] / steps[:-1]
        uneven = np.flatnonzero(~((ratio < 1 + _STRETCH) & (ratio > 1 / (1 + _STRETCH))))
        if uneven.size:
            first = int(uneven[0])
            shorter, longer = steps[first : first + 2] * _EARTH_KM
            detail = f"along {name} the distance between neighbours jumps at {uneven.size} of {ratio.size} places, "
            detail += f"first from {shorter:.3g} to {longer:.3g} km at {first + 1}"
            yield Finding(name, detail, "rows or columns are missing or doubled: take the whole grid, or regrid it")


@check("seam", "warning", "fields go on across the seam of the grid", needs=("latitude", "longitude"))
def _seam(store: Examined) -> Findings:
    """Differences of the first and last columns of a grid around the Earth, beside those of all other neighbours."""
    longitude = store.reader.coordinates["longitude"]
    usual = float(np.median(np.diff(longitude))) if longitude.ndim == 1 and len(longitude) > 1 else 0.0
    gap = 360 - float(np.ptp(longitude))
    if len(longitude) < _COLUMNS or not 0 < gap < 1.5 * usual:
        msg = "the grid does not go around the Earth"
        raise NotApplicable(msg)
    for name, found in store.all_of("variable that could be read").items():
        steps = np.abs(np.diff(found.mean_Chw, axis=2, append=found.mean_Chw[:, :, :1]))
        with warnings.catch_warnings():
            # Columns without any value, as of the sea.
            warnings.simplefilter("ignore", RuntimeWarning)
            steps_Cw = np.nanmean(steps, axis=1)
            # Where one column at the edge is wrong, it differs from its neighbour inside too.
            ratio_C = steps_Cw[:, -1] / np.nanmax(steps_Cw[:, 1:-2], axis=1)
        if (ratio_C > _SEAM).any():
            level = int(np.nanargmax(ratio_C))
            detail = f"at {longitude[-1]:g} and {longitude[0]:g} E it differs by {steps_Cw[level, -1]:.3g} on average, "
            detail += f"{ratio_C[level]:.1f} times as much as any two neighbours inside"
            remedy = "the source has two different values at its seam (0 and 360 degrees), or pieces of different "
            remedy += f"times or units: take one piece that is right, then {REBUILD}"
            yield Finding(name, detail, remedy, None, {"ratio": float(ratio_C[level])})


@check("time-order", "error", "times increase, each once", needs=("time",))
def _time_order(store: Examined) -> Findings:
    times = store.reader.coordinates["time"]
    if len(times) < 2:
        msg = "one state alone has no order"
        raise NotApplicable(msg)
    values, counts = np.unique(times, return_counts=True)
    doubled = values[counts > 1].astype("datetime64[m]")
    if doubled.size:
        detail = f"{doubled.size} times occur more than once, first {doubled[0]}"
        yield Finding("time", detail, f"keep one state for each time, then {REBUILD}")
    backwards = np.flatnonzero(np.diff(times) < np.timedelta64(0, "s"))
    if backwards.size:
        first, following = times[backwards[0] : backwards[0] + 2].astype("datetime64[m]")
        detail = f"unsorted at {backwards.size} places: {first} is followed by {following}"
        yield Finding("time", detail, f"{REBUILD}, which sorts it")


@check("time-gaps", "warning", "times are evenly spaced", needs=("time",))
def _time_gaps(store: Examined) -> Findings:
    times = np.unique(store.reader.coordinates["time"])
    steps = np.diff(times)
    if not steps.size:
        detail = f"one state alone ({times[0].astype('datetime64[m]')}): there is no pair to train on"
        yield Finding("time", detail, "add states", "error")
        return
    usual = usual_step(steps)
    wrong = np.flatnonzero(steps != usual)
    if wrong.size:
        start, end = times[wrong[0] : wrong[0] + 2].astype("datetime64[m]")
        hours = usual / np.timedelta64(1, "h")
        detail = f"{wrong.size} of {steps.size} steps differ from the usual {hours:g} h, first from {start} to {end}"
        yield Finding("time", detail, "fill the gaps, or accept them: pairs across a gap are left out")


CHECKS = (
    _latitude, _longitude, _level, _model_levels, _grid_spacing, _static_coordinates, _seam, _time_order, _time_gaps,
)  # fmt: skip
"""In the order in which they are reported."""
