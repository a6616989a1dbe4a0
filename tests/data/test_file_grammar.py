"""Files of a grammar: each becomes a store with the values of the truth, or is refused with one message that helps."""

import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from tests.data.grammar import LEVELS, START, Form, expected_states, flags, forms, problem, rain, tolerance, value
from tests.data.grammar_files import write

_ACTIONS = (
    r"--\w|mend|give|fetch|choose|leave|select|crop|regrid|interpolate|correct|remove|convert|add |keep |ask for|split"
)
_PROFILE: dict[str, Any] = {
    "deadline": None, "derandomize": True, "database": None, "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip


def build(form: Form, path: Path, folder: Path, **options: Any) -> Store:
    source = {"z": "zarr", "n": "netcdf", "g": "grib"}[form.container[0]]
    chosen: dict[str, Any] = {"statics": ("coslat",), "train": "2020/2020"}
    if form.store_step:
        chosen["step"] = "6h"
    return build_store(source=source, path=path, out=folder / "out", **chosen | options)


def refused(form: Form, path: Path, folder: Path, pattern: str, **options: Any) -> None:
    """Check that a form is refused with one message that names the file and what to do, and that nothing stays."""
    with pytest.raises((StoreError, SettingsError)) as caught:
        build(form, path, folder, **options)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert re.search(_ACTIONS, message, re.IGNORECASE), message
    files = [path.name, *(file.name for file in path.glob("*.*"))]
    # Of what was joined of several files, the variable is named.
    names = [f"{name} " for name in form.variables]
    assert any(name in message for name in files) or message.startswith(tuple(names)), message
    assert not list(folder.glob("*out*")), list(folder.iterdir())


def check(store: Store, form: Form, allowed: Callable[[str, int], float]) -> None:
    """Compare everything that a store says with the truth.

    Args:
        store: The store.
        form: What it was built from.
        allowed: How far a variable may be from the truth, where so many values were added up.
    """
    hours = ((store.times.astype("datetime64[h]") - START) / np.timedelta64(1, "h")).astype(int).tolist()
    assert (store.times == store.times.astype("datetime64[h]")).all()
    expected = expected_states(form)
    wanted = list(expected)
    if form.store_step and form.step != 6:
        wanted = [hour for hour in wanted if hour % 6 == 0]
    lost = wanted[: len(wanted) - len(hours)]
    assert hours == wanted[len(lost) :]
    latitude, longitude = np.asarray(store.latitude), np.asarray(store.longitude)
    assert (np.diff(latitude) < 0).all()
    assert store.surface == tuple(name for name in store.surface if name in form.variables)
    assert sorted((*store.surface, *store.atmospheric)) == sorted(form.variables)
    levels = list(LEVELS)
    if form.scalar:
        levels = [1000.0] if form.descending else [500.0]
    assert np.asarray(store.levels).tolist() == levels
    for name in (*store.surface, *store.atmospheric):
        if name == "tp":
            check_rain(store, form, hours, lost, allowed)
            continue
        stored = store.read(name, slice(None))
        for index, hour in enumerate(hours):
            heights = [None] if name in store.surface else levels
            truth = [value(form, name, level, hour, expected[hour], latitude, longitude) for level in heights]
            found = stored[index] if name in store.atmospheric else stored[index][None]
            np.testing.assert_allclose(found, truth, rtol=1e-6, atol=allowed(name, 1), err_msg=f"{name} {hour}")
        leads = sorted({expected[hour] for hour in hours})
        stated = store.variable_attributes(name).get("lead_hours", 0)
        assert np.atleast_1d(stated).tolist() == leads
    if lost:
        assert form.has_rain


def check_rain(
    store: Store, form: Form, hours: list[int], lost: list[int], allowed: Callable[[str, int], float]
) -> None:
    latitude, longitude = np.asarray(store.latitude), np.asarray(store.longitude)
    window = store.variable_attributes("tp")["accumulation_hours"]
    assert window > 0
    if form.layout == "none":
        own = 1 if form.sums in ("hourly", "era5") else form.step
        is_summed = form.store_step and form.step != 6
        assert window == (6 if is_summed else own)
    elif form.store_step:
        assert window == 6
    known_from = form.begin
    if form.layout == "none" and form.sums != "since-00utc":
        known_from = form.begin - (1 if form.sums in ("hourly", "era5") else form.step)
    # States are lost where rain before them is not known, and nowhere else.
    assert all(hour - window < known_from for hour in lost)
    terms = max(2, window)
    stored = store.read("tp", slice(None))
    for index, hour in enumerate(hours):
        truth = rain(hour - int(window), hour, latitude, longitude)
        np.testing.assert_allclose(
            stored[index], truth, rtol=1e-6, atol=allowed("tp", terms), err_msg=f"tp {hour} over {window} h"
        )


def fulfil(form: Form) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        path = write(form, folder / "in")
        needed, wrong = flags(form), problem(form)
        if wrong is not None:
            refused(form, path, folder, wrong, **needed)
            return
        for setting in ("product", "window"):
            if setting in needed:
                without = {key: chosen for key, chosen in needed.items() if key != setting}
                refused(form, path, folder, r"(?s)--product.*--window", **without)
        check(build(form, path, folder, **needed), form, partial(tolerance, form))


@given(form=forms)
@settings(max_examples=10, **_PROFILE)
def test_files_become_the_truth_or_are_refused(form: Form) -> None:
    fulfil(form)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(form=forms)
@settings(max_examples=300, **_PROFILE)
def test_many_files_become_the_truth_or_are_refused(form: Form) -> None:
    fulfil(form)
