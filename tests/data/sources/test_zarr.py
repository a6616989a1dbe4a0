from __future__ import annotations

import asyncio
import logging
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import Request
from kit.data.sources.zarr import source as zarr
from kit.data.sources.zarr.retry_store import RetryStore
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import KitError, SettingsError, StoreError, UnavailableError
from kit.io.retry import Limits
from tests.data.sources.zarr_files import arco, serve, serve_bucket, weatherbench, write
from tests.everyday import one_in
from tests.servers import Fault, Server, serving

DAY = "2020-01-01/2020-01-01T05"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small stores as they are published."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        "arco": write(arco(), folder / "arco.zarr"),
        "arco-3": write(arco(), folder / "arco-3.zarr", form=3),
        "wb2": write(weatherbench(), folder / "wb2.zarr", chunk=4),
        "listed": write(weatherbench(times=3), folder / "listed.zarr", consolidated=False),
    }


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr, "REMOTE", Limits(connect=5, read=2, attempts=3, backoff=0.01, longest=5))
    monkeypatch.setattr(zarr, "LOCAL", Limits(attempts=2, backoff=0.01))


def opened(place: object, **wanted: Any) -> Any:
    return zarr.open_source([str(place)], Request(**wanted))


def values_of(place: object, name: str = "2t", **wanted: Any) -> Any:
    with opened(place, **wanted) as source:
        return source.fields[name].values


def make(path: object, out: Path, **options: Any) -> Store:
    return build_store(BuildSettings(source="zarr", path=str(path), out=out, **options))


def test_weatherbench_becomes_a_store(stores: dict[str, Path], tmp_path: Path) -> None:
    store, data = make(stores["wb2"], tmp_path / "out"), weatherbench()
    assert store.surface == ("10u", "10v", "2t", "msl", "tp")
    assert store.atmospheric == ("q", "t", "u", "v", "z")
    assert (store.static, store.levels) == (("lsm", "slt", "z"), tuple(data["level"].values))
    # Longitudes came first, and latitudes increased.
    expected = data["temperature"].values.transpose(0, 1, 3, 2)[:, :, ::-1]
    np.testing.assert_array_equal(store.read("t", slice(None)), expected)
    # The window is in the name; of several the one of the states' own step is taken.
    assert store.variable_attributes("tp")["accumulation_hours"] == 6
    np.testing.assert_array_equal(
        store.read("tp", [3])[0], data["total_precipitation_6hr"][3].values.T[::-1].astype(np.float32)
    )
    assert "tp taken from total_precipitation_6hr; total_precipitation_24hr left out" in store.attributes["history"]
    (facts,) = store.attributes["source_files"]
    assert (facts["name"], facts["arrays"], len(facts["metadata_sha256"])) == ("wb2.zarr", 13, 64)
    assert xr.open_zarr(tmp_path / "out")["2t"].shape == (10, 8, 16)


def test_arco_is_read_as_far_as_it_is_filled(stores: dict[str, Path], tmp_path: Path) -> None:
    store = make(stores["arco"], tmp_path / "out")
    assert len(store.times) == 6
    assert np.isfinite(store.read("2t", slice(None))).all()
    history = store.attributes["history"]
    assert "the store is filled from 1940-01-01 to 2020-01-01T05" in history
    assert "left out, not in the kit's table of variables: lake_ice_depth; ask for one by name to have it" in history
    with pytest.raises(
        StoreError, match=r"no state in --times 2020-01-01T06:00/.*holds 2020-01-01T00:00 to .*T07:00, "
    ):
        make(stores["arco"], tmp_path / "late", times="2020-01-01T06/2020-02")


def test_both_formats_and_a_zip_give_the_same(stores: dict[str, Path], tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "arco"), "zip", stores["arco-3"]))
    made = [make(path, tmp_path / str(n)) for n, path in enumerate((stores["arco"], stores["arco-3"], archive))]
    hashes = [one.attributes["data_sha256"] for one in made]
    assert hashes[0] == hashes[1] == hashes[2]


def chunks_of(server: Server, at: str = "/store.zarr/") -> list[str]:
    """Chunks that were asked for, without coordinates."""
    asked = [r.path.removeprefix(at) for r in server.requests if r.path.startswith(at)]
    return [key for key in asked if ".z" not in key and "zarr.json" not in key and key.split("/")[0] not in COORDINATES]


COORDINATES = ("time", "level", "latitude", "longitude")


def test_only_what_is_wanted_is_asked_for(server: Server, stores: dict[str, Path]) -> None:
    wanted = Request(
        frozenset({"2t", "tp"}),
        frozenset({"static_lsm"}),
        times=Period.parse("2020-01-01T03/2020-01-01T05"),
        levels=(500,),
        region=(45, 0, -45, 90),
        step=2,
    )
    with zarr.open_source([serve(server, stores["arco"])], wanted) as source:
        # A static field that comes with each state is read at the first and the last.
        assert sorted(chunks_of(server)) == ["land_sea_mask/2.0.0", "land_sea_mask/5.0.0"]
        server.requests.clear()
        assert source.fields["2t"].shape == (4, 3, 4)
        first = source.fields["2t"].isel(time=1).values
    assert chunks_of(server) == ["2m_temperature/3.0.0"]
    np.testing.assert_array_equal(first, arco()["2m_temperature"][3, 2:5, 0:4])


def test_chunks_of_many_states_are_asked_for_once(server: Server, stores: dict[str, Path]) -> None:
    with opened(serve(server, stores["wb2"]), variables=frozenset({"2t"})) as source:
        server.requests.clear()
        field = source.fields["2t"]
        states = [field.isel(time=index).values for index in range(10)]
    assert chunks_of(server) == [f"2m_temperature/{n}.0.0" for n in range(3)]
    np.testing.assert_array_equal(states, weatherbench()["2m_temperature"].values.transpose(0, 2, 1)[:, ::-1])


FIRST = "/store.zarr/2m_temperature/2.0.0"


@pytest.mark.parametrize(
    "fault",
    one_in(
        3,
        (
            Fault(status=500),
            Fault(status=503, headers={"Retry-After": "0"}),
            Fault(cut=20),
            Fault(length=30),
            Fault(body=b"\x02\x01\x13\x04" + b"junk" * 30),
            Fault(no_length=True, cut=10),
        ),
        ("500", "503", "cut", "short", "junk", "chunked"),
    ),
)
def test_what_goes_wrong_once_is_asked_for_again(
    server: Server, stores: dict[str, Path], fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail(FIRST, fault, fault)
    with caplog.at_level(logging.WARNING):
        values = values_of(serve(server, stores["arco"]), variables=frozenset({"2t"}))
    np.testing.assert_array_equal(values, arco()["2m_temperature"][:6])
    assert len(server.asked(FIRST)) == 3
    assert "chunk 2.0.0 of 2m_temperature" in caplog.text
    assert "trying again in" in caplog.text


@pytest.mark.parametrize(
    ("fault", "message"),
    one_in(
        3,
        (
            (Fault(status=500), "the server answers 500; given up after 3 attempts. The same command goes on"),
            (Fault(status=429, headers={"Retry-After": "3600"}), "the server asks to wait 3600 s"),
            (Fault(cut=20), "the connection was cut|ClientPayloadError"),
            (
                Fault(length=30),
                "has 30 bytes, its header states [0-9]+: it came cut off or damaged; given up after 3|Error",
            ),
            (Fault(delay=3), "no answer in time"),
        ),
        ("500", "429", "cut", "short", "silent"),
    ),
)
def test_what_goes_wrong_each_time_is_given_up(
    server: Server, stores: dict[str, Path], fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr, "REMOTE", Limits(connect=5, read=0.3, attempts=3, backoff=0.01, longest=5))
    address = serve(server, stores["arco"])
    server.fail(FIRST, fault, always=True)
    with pytest.raises(UnavailableError, match=f"{address}: chunk 2.0.0 of 2m_temperature: .*({message})"):
        values_of(address, variables=frozenset({"2t"}))


def test_chunks_that_never_unpack(server: Server, stores: dict[str, Path]) -> None:
    address = serve(server, stores["arco-3"])
    server.fail("/store.zarr/2m_temperature/c/2/0/0", Fault(body=b"junk"), always=True)
    told = r"chunk 2/0/0 of 2m_temperature at 2020-01-01T02:00 cannot be unpacked .*given up after 3 attempts"
    with pytest.raises(UnavailableError, match=told):
        values_of(address, variables=frozenset({"2t"}))


def test_a_refusal_is_no_matter_of_patience(server: Server, stores: dict[str, Path]) -> None:
    address = serve(server, stores["arco"])
    server.fail(FIRST, Fault(status=403), always=True)
    with pytest.raises(StoreError, match="chunk 2.0.0 of 2m_temperature is refused"):
        values_of(address, variables=frozenset({"2t"}))
    assert len(server.asked(FIRST)) == 1


@pytest.mark.parametrize("form", one_in(2, ("arco", "arco-3")))
def test_an_absent_chunk_is_no_missing_value(stores: dict[str, Path], tmp_path: Path, form: str) -> None:
    folder = tmp_path / "store.zarr"
    shutil.copytree(stores[form], folder)
    key = "2.0.0" if form == "arco" else "2/0/0"
    (folder / "sea_surface_temperature" / ("c" if form == "arco-3" else "") / key).unlink()
    told = rf"chunk {key} of sea_surface_temperature is absent at 2020-01-01T02:00\. .*\(nan\).*--absent_chunks"
    with pytest.raises(StoreError, match=told):
        make(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store = make(folder, tmp_path / "out", absent_chunks=("sst",))
    missing = np.isnan(store.read("sst", slice(None)))
    assert missing[2].all()
    assert not np.delete(missing, 2, axis=0).any()


def test_what_says_nothing_of_absent_chunks(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="--absent_chunks skt has no effect: of .* are read 2t, lsm, sst, t, tp, z"):
        make(stores["arco"], tmp_path / "out", absent_chunks=("skt",))
    with pytest.raises(ValueError, match="--absent_chunks has no effect with --source netcdf"):
        BuildSettings(source="netcdf", path="a", out=tmp_path, absent_chunks=("sst",))


def test_a_store_that_changes_is_refused(server: Server, stores: dict[str, Path], tmp_path: Path) -> None:
    address = serve(server, stores["arco"])
    with opened(address, variables=frozenset({"2t"})) as source:
        field = source.fields["2t"]
        field.isel(time=0).values  # noqa: B018 - reads
        path = "/store.zarr/.zmetadata"
        changed = server.files[path].content.replace(b'"units": "K"', b'"units": "degC"')
        server.put(path, changed)
        field.isel(time=1).values  # noqa: B018
        told = "what the store says of 2m_temperature changed while it was read"
        with pytest.raises(StoreError, match=told):
            field.isel(time=5).load()
        # A chunk that cannot be unpacked may be one of the new version.
        server.fail(FIRST, Fault(body=b"\x02" * 12 + (20).to_bytes(4, "little") + b"junk"))
        with pytest.raises(StoreError, match=told):
            field.isel(time=2).load()
    # That a store is filled further is no change of what is read.
    root = "/store.zarr/.zattrs"
    server.put(root, server.files[root].content.replace(b"2020-01-01T05", b"2020-01-01T06"))
    with opened(address, variables=frozenset({"2t"}), statics=frozenset()) as source:
        assert source.fields["2t"].sizes["time"] == 7


@pytest.mark.slow
def test_google_storage(
    server: Server, stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url())
    address = serve_bucket(server, stores["arco"])
    object_path = "/download/storage/v1/b/bucket/o/era5/store.zarr/2m_temperature/2.0.0?alt=media"
    server.fail(object_path, Fault(status=503), Fault(status=502))
    store = make(address, tmp_path / "out", variables=("2t", "t"))
    np.testing.assert_array_equal(store.read("2t", slice(None)), arco()["2m_temperature"][:6])
    assert store.attributes["source_files"][0]["name"] == address
    assert len(server.asked(object_path)) == 3
    # Anonymous.
    assert not any("authorization" in request.headers for request in server.requests)
    server.fail(object_path, Fault(status=500), always=True)
    with pytest.raises(UnavailableError, match="gs://bucket/.*: chunk 2.0.0 of 2m_temperature: .* answers 500"):
        make(address, tmp_path / "other", variables=("2t", "t"))
    with opened(address, variables=frozenset({"t"}), sample=True) as source:
        size = sum(len(content) for name, content in server.buckets["bucket"].items() if "/temperature/0.0" in name)
        assert (source.requests, source.download_bytes) == (6, 6 * size)
    # What has no list of its arrays is listed by the bucket.
    listed = serve_bucket(server, stores["listed"], at="era5/listed.zarr")
    assert values_of(listed, variables=frozenset({"2t"})).shape == (3, 8, 16)


def test_what_a_web_server_cannot_list(server: Server, stores: dict[str, Path]) -> None:
    with pytest.raises(StoreError, match="a Zarr group without arrays.*needs consolidated metadata"):
        values_of(serve(server, stores["listed"]))
    assert values_of(stores["listed"]).shape == (3, 8, 16)
    with pytest.raises(StoreError, match="not readable as a Zarr store"):
        values_of(server.url("/nothing.zarr"))


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    (
        ("ftp://example.org/a.zarr", SettingsError, "expected gs://, http://, https://, s3://"),
        ("s3://bucket/a.zarr", SettingsError, "needs the package s3fs, which the kit does not bring"),
        ("https://me:secret@example.org/a.zarr", SettingsError, "^https://example.org/a.zarr: an address with a pass"),
        ("https://example.org/a.zarr?key=secret", SettingsError, "^https://example.org/a.zarr: an address with a pass"),
        ("nowhere.zarr", StoreError, "no such folder; --path names a Zarr store"),
    ),
)
def test_addresses_that_cannot_be_read(address: str, kind: type[KitError], message: str) -> None:
    with pytest.raises(kind, match=message):
        values_of(address)


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_OFFLINE", "1")
    with pytest.raises(UnavailableError, match="is read over the network, and KIT_OFFLINE is set"):
        values_of("gs://bucket/a.zarr")


def test_of_forecasts_the_states_that_they_start_from(tmp_path: Path) -> None:
    leads = np.array([0, 6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    forecast = weatherbench(times=3).expand_dims(prediction_timedelta=leads, axis=1)
    forecast["2m_temperature"] = forecast["2m_temperature"] + xr.DataArray([0, 1, 2], dims="prediction_timedelta")
    path = write(forecast.drop_vars(["geopotential_at_surface", "soil_type"]), tmp_path / "hres.zarr", form=3)
    store = make(path, tmp_path / "out", statics=("coslat",), train="2020/2020")
    truth = weatherbench(times=3)["2m_temperature"].values.transpose(0, 2, 1)[:, ::-1]
    # Rain of 6 h comes from the leads of 6 h, so that it lacks the first state.
    np.testing.assert_array_equal(store.read("2t", slice(None)), truth[1:])
    assert store.variable_attributes("2t")["lead_hours"] == 0
    assert store.variable_attributes("tp")["lead_hours"] == 6
    assert store.variable_attributes("tp")["accumulation_hours"] == 6
    rain = forecast["total_precipitation_6hr"].sel(prediction_timedelta=leads[1]).values.transpose(0, 2, 1)[:, ::-1]
    np.testing.assert_array_equal(store.read("tp", slice(None)), rain[:2].astype(np.float32))
    later = write(forecast.isel(prediction_timedelta=[1, 2]), tmp_path / "later.zarr")
    with pytest.raises(StoreError, match="comes from forecasts 6, 12 h ahead, .*analyses.*choose others with --lead"):
        make(later, tmp_path / "none")
    ahead = make(later, tmp_path / "ahead", statics=("coslat",), lead="6h", variables=("2t",), train="2020/2020")
    np.testing.assert_array_equal(ahead.read("2t", slice(None)), truth + 1)
    assert ahead.times[0] == np.datetime64("2020-01-01T06")


def test_sums_have_the_hours_before_the_first_state(stores: dict[str, Path], tmp_path: Path) -> None:
    store = make(
        stores["arco"], tmp_path / "out", step="3h", times="2020-01-01T03/2020-01-01T05", train="2020/2020",
        variables=("tp", "t"), levels=(500, 850),
    )  # fmt: skip
    assert store.times.tolist() == [np.datetime64("2020-01-01T03").item()]
    assert store.levels == (500, 850)
    rain = arco()["total_precipitation"].values[1:4].astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(store.read("tp", [0])[0], rain, rtol=1e-6)


@pytest.mark.parametrize(
    ("every", "attributes", "options", "valid"),
    (
        # A day's sum is valid at the midnight after it; of a running total the hour before is needed.
        (24, {"cell_methods": "time: sum"}, {"window": "tp=24h-after"}, ["2020-01-03T00", "2020-01-04T00"]),
        (24, {}, {"product": "era5-daily"}, ["2020-01-03T00", "2020-01-04T00"]),
        (1, {}, {"product": "era5-land"}, ["2020-01-01T03", "2020-01-01T04"]),
    ),
)
def test_times_are_those_at_which_values_are_valid(
    tmp_path: Path, every: int, attributes: dict[str, str], options: dict[str, str], valid: list[str]
) -> None:
    hours = np.arange(6) * np.timedelta64(every, "h")
    rain = np.arange(1, 7, dtype=np.float32)[:, None, None] + np.zeros((6, 3, 4), np.float32)
    data = xr.Dataset(
        {"tp": (("time", "latitude", "longitude"), rain, {"units": "m"} | attributes)},
        {
            "time": np.datetime64("2020-01-01", "ns") + hours,
            "latitude": [50.0, 49.0, 48.0],
            "longitude": [0.0, 1.0, 2.0, 3.0],
        },
    )
    times = np.array(valid, "datetime64[s]")
    path = write(data, tmp_path / "a.zarr", form=3)
    store = make(
        path, tmp_path / "out", statics=("coslat",), times=f"{valid[0]}/{valid[1]}", train="2020/2020", **options
    )
    np.testing.assert_array_equal(store.times, times)
    # Days are counted from 1, stamped a day before they end; hourly differences of 1, 2, 3, ... are 1.
    expected = [2.0, 3.0] if every == 24 else [1.0, 1.0]
    np.testing.assert_array_equal(store.read("tp", slice(None))[:, 0, 0], expected)


def test_what_is_damaged(tmp_path: Path) -> None:
    folder = write(weatherbench(times=2), tmp_path / "a.zarr", form=3)
    (folder / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="not readable as a Zarr store"):
        values_of(folder)
    with pytest.raises(StoreError, match=r"c\.zarr: has the dimension time without its values"):
        values_of(write(weatherbench(times=2).drop_vars("time"), tmp_path / "c.zarr"))
    (tmp_path / "b.zip").write_bytes(b"PK")
    with pytest.raises(StoreError, match="neither a folder nor a zip"):
        values_of(tmp_path / "b.zip")
    empty = tmp_path / "empty"
    os.mkdir(empty)  # noqa: PTH102
    with pytest.raises(StoreError, match="not readable as a Zarr store"):
        values_of(empty)


def test_fields_can_go_to_other_processes(stores: dict[str, Path]) -> None:
    with opened(stores["wb2"], variables=frozenset({"2t"})) as source:
        copy = pickle.loads(pickle.dumps(source.fields["2t"]))
        np.testing.assert_array_equal(copy.isel(time=3).values, source.fields["2t"].isel(time=3).values)


def test_what_a_build_will_ask_for_is_told(server: Server, stores: dict[str, Path]) -> None:
    address = serve(server, stores["arco"])
    wanted = Request(frozenset({"2t", "tp"}), frozenset(), step=3, sample=True)
    with zarr.open_source([address], wanted) as source:
        # Two states of the temperature, all six hours of rain.
        assert source.requests == 8
        names = ("2m_temperature", "total_precipitation")
        sizes = [(stores["arco"] / name / "0.0.0").stat().st_size for name in names]
        assert source.download_bytes == 2 * sizes[0] + 6 * sizes[1]
    assert chunks_of(server) == ["2m_temperature/0.0.0", "total_precipitation/0.0.0"]
    assert {request.method for request in server.requests if request.path.endswith("2m_temperature/0.0.0")} == {"HEAD"}
    with opened(stores["arco"]) as source:
        assert source.requests is None


def test_curved_grids(tmp_path: Path) -> None:
    rows, columns = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    values = 280 + np.random.default_rng(0).random((3, 5, 6))
    data = xr.Dataset(
        {
            "t2m": (("time", "south_north", "west_east"), values, {"units": "K"}),
            "lat": (("south_north", "west_east"), 30.0 + rows + 0.1 * columns),
            "lon": (("south_north", "west_east"), -100.0 + columns + 0.1 * rows),
        },
        {"time": np.arange("2020-01-01T00", "2020-01-01T03", dtype="datetime64[h]").astype("datetime64[ns]")},
    )
    path = write(data, tmp_path / "lambert.zarr")
    store = make(path, tmp_path / "out", statics=("coslat",), region=(33, 261, 31, 263))
    # Rows 1 and 2, columns 1 and 2, northwards first.
    assert store.curvilinear
    np.testing.assert_array_equal(store.latitude, data["lat"].values[1:3][::-1, 1:3])
    np.testing.assert_allclose(store.read("2t", [1])[0], data["t2m"].values[1, 1:3, 1:3][::-1], rtol=1e-6)


class _Silent(MemoryStore):
    """Never answers."""

    async def get(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


def test_nobody_waits_for_a_store_that_is_closed() -> None:
    """A thread that did would keep the process from ending."""
    store = RetryStore(_Silent(), "memory", zarr.LOCAL)
    prototype = default_buffer_prototype()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: sync(store.get("t/c/0", prototype)))
        while not store.requests:
            time.sleep(0.01)
        store.end()
        with pytest.raises(CancelledError):
            waiting.result(timeout=10)
    with pytest.raises(UnavailableError, match="chunk 0 of t was asked for after the store had been closed"):
        sync(store.get("t/c/0", prototype))
