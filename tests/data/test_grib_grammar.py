"""GRIB files of a grammar: each becomes a store with what eccodes alone reads from it, or is refused in one message."""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from kit.data.store.reader import Store
from tests.data.grammar import GRAVITY, START, drawn_form, expected_states, flags
from tests.data.grammar_grib import (
    FIXED,
    HEIGHT,
    MILLIMETRES,
    PARAMS,
    GribForm,
    eccodes,
    grib_forms,
    grib_problem,
    plain_form,
    write_grib,
)
from tests.data.test_file_grammar import build, check, refused

_PROFILE: dict[str, Any] = {
    "deadline": None, "derandomize": True, "database": None, "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip
_NAMES = {number: name for name, number in PARAMS.items()} | {HEIGHT: "z", MILLIMETRES: "tp"}
_FACTORS = {HEIGHT: GRAVITY, MILLIMETRES: 1e-3}
Place = tuple[float, float]


@dataclass
class Alone:
    """What eccodes alone reads from files.

    Attributes:
        fields: Values by place, in the store's units; by variable, level in hPa, valid hour, lead, version, parameter.
        steps: Largest step of packed values of each variable, in the store's units.
    """

    fields: dict[tuple[str, float, int, float, str, int], dict[Place, float]] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def read_alone(folder: Path) -> Alone:
    """Read messages of known parameters at the surface or on pressure levels, point by point."""
    alone = Alone()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
                _read_message(handle, alone)
                eccodes.codes_release(handle)
    return alone


def _read_message(handle: Any, alone: Alone) -> None:
    def get(key: str) -> Any:
        return eccodes.codes_get(handle, key)

    param, kind = int(get("paramId")), str(get("typeOfLevel"))
    if param not in _NAMES or kind in ("theta", "hybrid", "potentialVorticity"):
        return
    level = {"isobaricInhPa": get("level") * 1.0, "isobaricInPa": get("level") / 100}.get(kind, 0.0)
    moments = []
    for of_date, of_time in (("validityDate", "validityTime"), ("dataDate", "dataTime")):
        date, clock = str(get(of_date)), f"{get(of_time):04d}"
        moments.append(np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock[:2]}:{clock[2:]}"))
    valid, reference = moments
    hour, lead = ((moment - START.astype("datetime64[m]")) / np.timedelta64(60, "m") for moment in (valid, reference))
    version = str(get("experimentVersionNumber")) if eccodes.codes_is_defined(handle, "experimentVersionNumber") else ""
    factor = _FACTORS.get(param, 1.0)
    eccodes.codes_set_double(handle, "missingValue", -1e30)
    values = eccodes.codes_get_values(handle)
    if get("alternativeRowScanning"):
        # The library leaves this to its users (flag table 3.4 of GRIB 2).
        values = values.reshape(-1, get("Nj" if get("jPointsAreConsecutive") else "Ni"))
        values[1::2] = values[1::2, ::-1].copy()
        values = values.ravel()
    latitudes, longitudes = (eccodes.codes_get_array(handle, key).tolist() for key in ("latitudes", "longitudes"))
    points: dict[Place, float] = {}
    for north, east, number in zip(latitudes, longitudes, values.tolist(), strict=True):
        place = round(north, 3), round(east % 360, 3) % 360
        points[place] = np.nan if number == -1e30 else number * factor
    name = _NAMES[param]
    alone.fields[name, level, round(hour), hour - lead, version, param] = points
    step = 2.0 ** get("binaryScaleFactor") / 10.0 ** get("decimalScaleFactor")
    if str(get("packingType")) == "grid_ieee":
        step = 2.0**-22 * max(abs(number) for number in points.values() if np.isfinite(number)) / factor
    alone.steps[name] = max(alone.steps[name], step * factor)


def compare(store: Store, form: GribForm, alone: Alone) -> None:
    """Compare every field of a moment with the message that it must come from, to single precision."""
    hours = ((store.times.astype("datetime64[h]") - START) / np.timedelta64(1, "h")).astype(int).tolist()
    leads = expected_states(form.core)
    latitude, longitude = np.round(store.latitude, 3).tolist(), (np.round(store.longitude, 3) % 360).tolist()
    for name in (*store.surface, *store.atmospheric):
        if name == "tp":
            continue
        levels = list(map(float, store.levels)) if name in store.atmospheric else [0.0]
        stored = store.read(name, slice(None)).reshape(len(hours), len(levels), len(latitude), len(longitude))
        # Geopotential stands before its height, ERA5 before ERA5T.
        params = [PARAMS[name]]
        if name == "z" and form.height == "gh":
            params = [HEIGHT]
        for index, hour in enumerate(hours):
            for position, level in enumerate(levels):
                held = [(name, level, hour, float(leads[hour]), version, *params) for version in ("0001", "0005", "")]
                points = next(alone.fields[key] for key in held if key in alone.fields)
                expected = [[points[north, east] for east in longitude] for north in latitude]
                np.testing.assert_allclose(stored[index, position], expected, rtol=1e-6, err_msg=f"{name} {hour}")


def fulfil(form: GribForm) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        path = write_grib(form, folder / "in")
        # Windows stand in the headers: of all settings, leads alone are needed.
        needed = {key: setting for key, setting in flags(form.core).items() if key == "lead"}
        wrong = grib_problem(form)
        if wrong is not None:
            refused(form.core, path, folder, wrong, **needed)
            return
        store = build(form.core, path, folder, **needed)
        alone = read_alone(path)
        # eccodes places the points of a Gaussian grid by rows, whatever the header says.
        if not (form.core.grid == "gauss" and form.along_columns):
            compare(store, form, alone)

        def allowed(name: str, terms: int) -> float:
            return 1.02 * terms * alone.steps[name]

        if not form.constant:
            check(store, form.core, allowed)
            return
        # A wind that is the same everywhere is not that of the truth.
        variables = tuple(name for name in store.surface if name != "10u")
        assert len(variables) == len(store.surface) - 1


@pytest.mark.slow
def test_what_is_wrong_by_a_little_is_noticed(tmp_path: Path) -> None:
    """The comparison can fail: with one value moved, with the rows of one field turned, with another lead."""
    core = drawn_form(Random(1), FIXED | {"layout": "step", "sums": "none", "wanted": "range", "grid": "box"})
    form = plain_form(core)
    (tmp_path / "in").mkdir()
    path = write_grib(form, tmp_path / "in")
    store = build(core, path, tmp_path, **flags(core))
    compare(store, form, read_alone(path))
    for change in ("value", "rows", "lead"):
        alone = read_alone(path)
        key = next(key for key in alone.fields if key[0] == "t" and key[3] == 6)
        points = alone.fields[key]
        if change == "value":
            points[50.25, 5.5] *= 1.00001
        elif change == "rows":
            alone.fields[key] = {(100.5 - north, east): number for (north, east), number in points.items()}
        else:
            alone.fields[key] = {place: number + 0.1 for place, number in points.items()}
        with pytest.raises((AssertionError, KeyError)):
            compare(store, form, alone)


@given(form=grib_forms)
@settings(max_examples=5, **_PROFILE)
def test_messages_become_the_truth_or_are_refused(form: GribForm) -> None:
    fulfil(form)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(form=grib_forms)
@settings(max_examples=300, **_PROFILE)
def test_many_messages_become_the_truth_or_are_refused(form: GribForm) -> None:
    fulfil(form)
