"""Sums are added to those of earlier evaluations, and what is none of the kit's is refused."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from kit.io.errors import SettingsError
from kit.verification.archive import EVENTS, SPECTRA, SUMS, Axes, archive_name, archiving, read_archive
from kit.verification.spectra import TARGET
from kit.verification.sums import MOMENTS

START = datetime(2020, 1, 1, tzinfo=UTC)


def axes(starts: int, leads: int, *, first: int = 0, regions: tuple[str, ...] = ("all",)) -> Axes:
    times = [START + timedelta(hours=6 * number) for number in range(first, first + starts)]
    return Axes(times, [6.0 * number for number in range(1, leads + 1)], ["model"], ["2t", "t_500"], regions)


def fill(path: Path, chosen: Axes, value: float) -> None:
    """Write sums that are all one value, plus the lead."""
    with archiving(path, chosen, {"checkpoint": "a"}) as writer:
        for start in chosen.starts:
            sums = {}
            for lead in chosen.leads:
                held = np.full((len(chosen.regions), len(MOMENTS)), value + lead)
                sums[lead] = dict.fromkeys(chosen.channels, held)
            writer.write(start, "model", sums, chosen.regions)


def test_leads_dates_and_regions_are_added(tmp_path: Path) -> None:
    path = tmp_path / "sums.zarr"
    fill(path, axes(3, 4), 100)
    fill(path, axes(3, 1, first=2, regions=("all", "tropics")), 200)
    found = read_archive(path)
    assert found.coordinates["lead"].tolist() == [6, 12, 18, 24]
    assert len(found.coordinates["start"]) == 5
    assert found.coordinates["region"].tolist() == ["all", "tropics"]
    late = found.of_lead(24).sel(region="all", channel="2t", forecast="model", moment="squared").values
    np.testing.assert_array_equal(late, [124, 124, 124, np.nan, np.nan])
    early = found.of_lead(6).sel(region="all", channel="2t", forecast="model", moment="squared").values
    # The newer sums of the date that both have.
    np.testing.assert_array_equal(early, [106, 106, 206, 206, 206])
    tropics = found.of_lead(6).sel(region="tropics", channel="2t", forecast="model", moment="squared").values
    np.testing.assert_array_equal(tropics, [np.nan, np.nan, 206, 206, 206])
    assert [file.name for file in tmp_path.iterdir()] == ["sums.zarr"]


def rainy(starts: int, *, first: int = 0, events: tuple[str, ...] = ("weight", "hits_1mm")) -> Axes:
    """Axes with events of rain, and with spectra of two wavenumbers."""
    sums = axes(starts, 2, first=first)
    return dataclasses.replace(sums, rain=["tp"], events=events, fields=["2t"], bands=["tropics"], wavenumbers=[0, 1])


def test_events_and_spectra_are_kept_beside_sums(tmp_path: Path) -> None:
    path = tmp_path / "sums.zarr"
    fill(path, axes(1, 2), 100)
    one, more = rainy(2), rainy(1, first=1, events=("hits_5mm", "weight"))
    with archiving(path, one, {}) as writer:
        for start in one.starts:
            writer.write(start, "model", {12.0: {"tp": np.array([[6.0, 2.0]])}}, ["all"], EVENTS)
            writer.write(start, TARGET, {6.0: {"2t": np.array([[3.0, 4.0]])}}, [], SPECTRA)
    # Another evaluation of the second date has other thresholds, in another order.
    with archiving(path, more, {}) as writer:
        writer.write(more.starts[0], "model", {12.0: {"tp": np.array([[1.0, 7.0]])}}, ["all"], EVENTS)
    found = read_archive(path)
    events = found.of_lead(12, table=EVENTS).sel(forecast="model", rain="tp", region="all")
    assert events["event"].values.tolist() == ["weight", "hits_1mm", "hits_5mm"]
    np.testing.assert_array_equal(events.values, [[6, 2, np.nan], [7, 2, 1]])
    power = found.of_lead(6, table=SPECTRA).sel(field="2t", band="tropics")
    np.testing.assert_array_equal(power.sel(series=TARGET).values, [[3, 4], [3, 4]])
    assert np.isnan(power.sel(series="model").values).all()
    # The sums of before are there too.
    assert found.of_lead(6).sel(region="all", channel="2t", moment="error").values[0, 0] == 106
    leads = {lead: values.shape for lead, values in found.by_lead(EVENTS)}
    assert leads == {6.0: (2, 1, 1, 1, 3), 12.0: (2, 1, 1, 1, 3)}
    with xr.open_zarr(path) as dataset:
        assert dataset[SPECTRA].dims == ("start", "lead", "series", "field", "band", "wavenumber")
        assert dataset["wavenumber"].values.tolist() == [0, 1]


def test_sums_of_the_first_format_are_read_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "sums.zarr"
    fill(path, axes(2, 2), 100)
    file = path / "zarr.json"
    document = json.loads(file.read_text())
    names = document["attributes"]["names"]
    document["attributes"]["format"] = 1
    document["attributes"]["names"] = {name: names[name] for name in ("forecast", "channel", "region", "moment")}
    file.write_text(json.dumps(document))
    assert list(read_archive(path).by_lead(EVENTS)) == []
    fill(path, rainy(1, first=2), 200)
    found = read_archive(path)
    assert found.attributes["format"] == 2
    np.testing.assert_array_equal(found.of_lead(12).values[:, 0, 0, 0, 0], [112, 112, 212])
    assert found.arrays.keys() == {SUMS, EVENTS, SPECTRA}


def test_an_evaluation_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "sums.zarr"
    fill(path, axes(2, 1), 1)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    # A channel that the axes do not have.
    with pytest.raises(KeyError, match="msl"), archiving(path, axes(4, 2), {}) as writer:
        writer.write(START, "model", {6.0: {"msl": np.zeros((1, len(MOMENTS)))}}, ["all"])
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["sums.zarr"]


def test_names_tell_apart_what_was_scored() -> None:
    one = {"store_name": "era5", "checkpoint_sha256": "a", "precision": "fp32"}
    assert archive_name(one) == archive_name(dict(reversed(one.items())))
    assert archive_name(one) != archive_name({**one, "precision": "bf16"})
    assert archive_name(one).startswith("era5-")


@pytest.mark.parametrize("kind", ("nothing", "text", "group", "newer", "names", "events"))
def test_what_is_no_archive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "sums.zarr"
    if kind == "text":
        path.write_text("no Zarr")
    elif kind == "group":
        zarr.create_group(path, zarr_format=3)
    elif kind in ("newer", "names", "events"):
        fill(path, rainy(1), 1)
        document = json.loads((path / "zarr.json").read_text())
        if kind == "newer":
            document["attributes"]["format"] = 3
        elif kind == "names":
            document["attributes"]["names"] = ["2t"]
        else:
            document["attributes"]["names"]["event"] = ["weight"]
        (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="sums"):
        read_archive(path)
