"""From the Copernicus data stores to a store, and from that store to a step."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.cli import main as cli
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE
from kit.io.errors import StoreError
from tests.data_stores import KEY, DataStores, values
from tests.servers import Fault
from tests.training import trains

REGION = (51.0, 5.0, 50.0, 6.0)


def make(out: Path, path: str = "era5", **options: Any) -> Store:
    given: dict[str, Any] = {
        "times": "2020-01-31T12/2020-02-01T12",
        "step": "6h",
        "variables": ("2t", "msl", "t"),
        "levels": (500, 850),
        "statics": ("z", "lsm", "coslat"),
        "region": REGION,
    }
    return build_store(BuildSettings(source="cds", path=path, out=out, **(given | options)))


def test_from_requests_to_a_store(stores: DataStores, tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    # Statics, and for each kind one request for January and one for February.
    assert len(stores.posts) == 5
    dataset = xr.open_zarr(store.path)
    hours = dataset["time"].values.astype("datetime64[h]").astype(str).tolist()
    assert hours == ["2020-01-31T12", "2020-01-31T18", "2020-02-01T00", "2020-02-01T06", "2020-02-01T12"]
    assert (dataset["latitude"].values[[0, -1]].tolist(), dataset["longitude"].values[[0, -1]].tolist()) == (
        [51.0, 50.0],
        [5.0, 6.0],
    )
    latitude, longitude = dataset["latitude"].values, dataset["longitude"].values
    moment = datetime.fromisoformat("2020-02-01T06")
    for name, level in (("2t", None), ("msl", None), ("t", 850)):
        variable = SURFACE[name] if level is None else ATMOSPHERIC[name]
        found = dataset[name].sel(time=moment) if level is None else dataset[name].sel(time=moment, level=level)
        np.testing.assert_allclose(found, values(variable, level, moment, latitude, longitude), rtol=1e-5)
    np.testing.assert_allclose(
        store.read_static("z"), values(STATIC["z"], None, moment, latitude, longitude), rtol=1e-5
    )
    assert store.attributes["source"] == "cds"
    assert store.attributes["licence"].startswith("CC BY 4.0; contains modified Copernicus Climate Change Service")
    file = store.attributes["source_files"][0]
    assert (file["dataset"], file["request"]) == ("reanalysis-era5-single-levels", stores.posts[0])
    # Nothing in it tells when or by whom it was fetched: another one of the same is the same.
    text = (store.path / "zarr.json").read_text()
    assert KEY not in text
    assert not any(job in text for job in stores.jobs)
    stores.files.files.clear()
    assert make(tmp_path / "again").fingerprint() == store.fingerprint()


def test_precipitation_is_asked_for_every_hour_and_summed(stores: DataStores, tmp_path: Path) -> None:
    store = make(tmp_path / "store", variables=("tp", "2t"), levels=None)
    assert len(store.times) == 5
    # An hour that ends at h brings h + 1 mm: 8 + ... + 13 at 12 UTC, 14 + ... + 19 at 18, 20 + ... + 24 + 1 at 0, ...
    expected = [63, 99, 111, 27, 63]
    np.testing.assert_allclose(store.read("tp", slice(None))[:, 0, 0], np.array(expected) / 1000, rtol=1e-5)
    assert store.variable_attributes("tp")["accumulation_hours"] == 6
    asked: dict[tuple[str, ...], list[str]] = {tuple(inputs["variable"]): [] for inputs in stores.posts}
    for inputs in stores.posts:
        asked[tuple(inputs["variable"])] += inputs["time"]
    assert len(asked["total_precipitation",]) == 30
    assert len(asked["2m_temperature",]) == 5


def test_across_greenwich(stores: DataStores, tmp_path: Path) -> None:
    store = make(tmp_path / "store", region=(51.0, 359.5, 50.0, 0.5), variables=("2t",), levels=None)
    assert stores.posts[-1]["area"] == [51.0, -0.5, 50.0, 0.5]
    assert store.longitude.tolist() == [0.0, 0.25, 0.5, 359.5, 359.75]


def test_the_air_pollution_variables_of_cams(stores: DataStores, tmp_path: Path) -> None:
    stores.spacing = 0.4
    store = make(
        tmp_path / "store", "cams", times="2022-06-11/2022-06-12T12", step="12h", statics=("z", "lsm"),
        variables=("pm2p5", "tcno2", "gtco3", "go3", "no", "q"), levels=(850, 1000), region=(52.0, 4.0, 50.0, 6.0),
    )  # fmt: skip
    assert (store.surface, store.atmospheric) == (("gtco3", "pm2p5", "tcno2"), ("go3", "no", "q"))
    assert len(store.times) == 4
    assert "Atmosphere Monitoring Service" in store.attributes["licence"]


def test_leads_of_cams(stores: DataStores, tmp_path: Path) -> None:
    stores.spacing = 0.4
    options: dict[str, Any] = {"step": None, "statics": ("z",), "region": (52.0, 4.0, 50.0, 6.0), "levels": (850,)}
    names = ("pm10", "go3", "tp")
    single = make(tmp_path / "single", "cams", times="2022-06-11/2022-06-12T12", lead="6h", variables=names, **options)
    hours = single.times.astype("datetime64[h]").astype(str).tolist()
    assert hours == ["2022-06-11T06", "2022-06-11T18", "2022-06-12T06"]
    check_leads_of_cams(single)
    # An hour that ends at h brings h + 1 mm: 2 + ... + 7 up to 06 UTC, 14 + ... + 19 up to 18 UTC.
    np.testing.assert_allclose(single.read("tp", slice(None))[:, 0, 0], np.array([27, 99, 27]) / 1000, rtol=1e-5)
    assert single.variable_attributes("pm10")["lead_hours"] == 6
    stores.posts.clear()
    options |= {"step": "6h"}
    several = make(
        tmp_path / "several", "cams", times="2022-06-11/2022-06-12", lead="0h/12h", variables=names, **options
    )
    assert len(several.times) == 5
    check_leads_of_cams(several)
    # Up to 00 UTC those of 19 to 24 UTC, of the day before.
    sums = several.read("tp", slice(None))[:, 0, 0]
    np.testing.assert_allclose(sums, np.array([111, 27, 63, 99, 111]) / 1000, rtol=1e-5)
    assert several.variable_attributes("tp")["accumulation_hours"] == 6
    assert several.variable_attributes("go3")["lead_hours"] == [0, 6]
    assert all(set(inputs["leadtime_hour"]) <= {"0", "6", "12"} for inputs in stores.posts)


@pytest.mark.parametrize("step", (None, "3h", "6h", "24h"))
def test_totals_of_era5_land(step: str | None, stores: DataStores, tmp_path: Path) -> None:
    """Over midnight, and from a first state in the middle of a day, whose sum begins before it."""
    stores.spacing, stores.since_midnight = 0.1, True
    times = "2020-01-31T12/2020-02-01T12" if step != "24h" else "2020-01-31/2020-02-01"
    store = make(
        tmp_path / "store", "era5-land", times=times, step=step, variables=("tp",), levels=None, statics=("coslat",),
        train=times,
    )  # fmt: skip
    hours = store.times.astype("datetime64[h]").astype(int) % 24
    length = int((step or "1h")[:-1])
    assert hours[0] == (12 if step != "24h" else 0)
    # An hour that ends at h brings h + 1 mm, at midnight 1 mm.
    expected = [sum(1 + (hour - back) % 24 for back in range(length)) for hour in hours.tolist()]
    # Totals of 300 mm are packed into 24 bits.
    found = store.read("tp", slice(None))[:, 0, 0]
    np.testing.assert_allclose(found, np.array(expected) / 1000, rtol=1e-6, atol=4e-8)
    assert store.variable_attributes("tp")["accumulation_hours"] == length
    asked = sum(len(inputs["time"]) * len(inputs["day"]) for inputs in stores.posts)
    # Totals at the states and at the beginning of the first sum; all hours where each is a state.
    assert asked <= len(hours) + 1 + 8


def check_leads_of_cams(store: Store) -> None:
    """Compare states of whatever leads with the truth at their valid times."""
    for index, time in enumerate(store.times):
        moment = time.item()
        expected = values(SURFACE["pm10"], None, moment, store.latitude, store.longitude)
        np.testing.assert_allclose(store.read("pm10", [index])[0], expected, rtol=1e-5)
        expected = values(ATMOSPHERIC["go3"], 850, moment, store.latitude, store.longitude)
        np.testing.assert_allclose(store.read("go3", [index])[0, 0], expected, rtol=1e-5)


def test_leads_on_the_command_line(stores: DataStores, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"data build --source cds --path cams --out {tmp_path / 'store'} --times 2022-06-11/2022-06-12T18 "
        "--variables tp --statics coslat --region 51,5,50,6"
    )
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert "choose later leads, such as --lead 0h/12h" in told
    assert not (tmp_path / "store").exists()
    stores.spacing = 0.4
    assert cli.main(f"{command} --lead 0h/12h --step 6h".split()) == 0


def test_chosen_by_the_product_and_said(stores: DataStores, tmp_path: Path) -> None:
    store = make(tmp_path / "store", times="2020-01-01/2020-01-01T12", variables=None, levels=None, statics=None)
    assert store.surface == ("10u", "10v", "2t", "msl")
    assert store.static == ("lsm", "slt", "z")
    assert len(store.levels) == 13
    assert "variables chosen by era5, as none were named" in store.attributes["history"]
    assert any(note.startswith("levels chosen as Aurora's") for note in store.attributes["history"])


def test_other_fields_than_what_was_asked_leave_nothing(stores: DataStores, tmp_path: Path) -> None:
    stores.leave_out = lambda name, _: name == "mean_sea_level_pressure"
    with pytest.raises(StoreError, match="the results lack msl, which were asked for; they hold 2t"):
        make(tmp_path / "store", levels=None, variables=("2t", "msl"))
    assert not (tmp_path / "store").exists()


def test_faults_on_the_way_leave_the_same_store(
    stores: DataStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"variables": ("2t",), "levels": None}
    expected = make(tmp_path / "undisturbed", **options).fingerprint()
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "other"))
    stores.courses += [("accepted", "failed"), ("running", "deleted")]
    stores.fail("submit", Fault(status=503), Fault(cut=0))
    stores.fail("job", Fault(status=429, headers={"Retry-After": "0"}), Fault(cut=0))
    stores.fail("results", Fault(status=502))
    for job in range(4, 9):
        path = f"/results/{job:08x}-0000-4000-8000-000000000000.grib"
        stores.files.fail(path, Fault(cut=70), Fault(status=500), Fault(whole=True))
    assert make(tmp_path / "disturbed", **options).fingerprint() == expected
    assert len(stores.jobs) > 6


def test_on_the_command_line(stores: DataStores, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"data build --source cds --path era5 --out {tmp_path / 'store'} --times 2020-01-01/2020-01-01T12 --step 6h "
        "--variables 2t --statics coslat --region 51,5,50,6"
    )
    stores.key = "another"
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert "does not know the key in ECMWF_DATASTORES_KEY" in told
    assert KEY not in told
    stores.key = KEY
    assert cli.main(command.split()) == 0
    assert "1 of 1 here" in capsys.readouterr().err


def test_a_dry_run_submits_nothing(stores: DataStores, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"data build --source cds --path era5 --out {tmp_path / 'store'} --times 2020-01-31/2020-02-01 --step 6h "
        "--variables 2t,t --levels 500,850 --statics z --region 51,5,50,6 --dry-run --json"
    )
    assert cli.main(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert not stores.keys
    # 5 states of 3 fields, and z once, of 5 x 5 points; 5 requests, of values of 16 bits with headers.
    assert (told["states"], told["requests"]) == (5, 5)
    assert told["gb_raw"] == pytest.approx(4 * 25 * 16 / 1e9)
    assert told["gb_download"] == pytest.approx(16 * (2 * 25 + 200) / 1e9)
    assert (told["ratio"], told["hours"]) == (None, None)
    assert cli.main([part for part in command.split() if part != "--json"]) == 0
    assert "less than that; known once the data are here" in capsys.readouterr().err
    assert cli.main(command.replace(" --dry-run", "").split()) == 0
    capsys.readouterr()
    # What is in the cache can be measured.
    assert cli.main(command.replace("store", "other").split()) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["requests"], measured["slice_states"] > 0) == (0, True)


@pytest.mark.slow
def test_two_steps_on_what_came(stores: DataStores, run_dir: Path) -> None:
    days = ("2020-01-01T00/2020-01-01T18", "2020-01-02T00/2020-01-02T18")
    options: dict[str, Any] = {
        "times": "2020-01-01/2020-01-02T18",
        "variables": None,
        "statics": None,
        "levels": (100, 500, 850),
    }
    region = (52.5, 5.0, 50.0, 9.0)
    store = make(run_dir / "store", **options, region=region, train=days[0], valid=days[1], test=days[1])
    assert trains(store.path, run_dir)
