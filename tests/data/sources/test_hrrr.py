from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.settings import Period
from kit.data.sources.base import Request, SourceData
from kit.data.sources.hrrr import index as hrrr_index
from kit.data.sources.hrrr import source as hrrr
from kit.data.sources.hrrr.index import load_herbie
from kit.io.errors import KitError, SettingsError, StoreError, UnavailableError
from kit.io.retry import Limits
from tests.data.sources.hrrr_files import LEVELS, WIDTH, field, lambert, put_hour, put_run
from tests.everyday import one_in
from tests.servers import Fault, File, Server, serving

HOURS = tuple(f"2024-06-01T{hour:02d}" for hour in range(4))
QUICK = Limits(connect=2.0, read=0.3, attempts=2, backoff=0.01)
SURFACE = "/hrrr.20240601/conus/hrrr.t00z.wrfsfcf00.grib2"
LEVELLED = "/hrrr.20240601/conus/hrrr.t00z.wrfprsf00.grib2"


@pytest.fixture(scope="module")
def archive() -> dict[str, File]:
    with serving() as server:
        for hour in HOURS:
            put_hour(server, hour)
        return server.files


@pytest.fixture
def server(archive: dict[str, File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        server.files.update(archive)
        monkeypatch.setenv("KIT_HRRR_ARCHIVE", server.url())
        yield server


def request(*variables: str, times: str = f"{HOURS[0]}/{HOURS[0]}", **options: Any) -> Request:
    names = frozenset(variables) if variables else frozenset({"refc", "cape", "q"})
    return Request(names, times=Period.parse(times), **{"levels": (500.0,), "statics": frozenset(), **options})


def read(wanted: Request | None = None) -> SourceData:
    with hrrr.open_source(["hrrr"], wanted or request(), limits=QUICK) as source:
        for array in source.fields.values():
            array.load()
        return source


def refusal(wanted: Request | None = None, kind: type[KitError] = StoreError) -> str:
    with pytest.raises(kind) as caught:
        read(wanted)
    assert type(caught.value) is kind or kind is StoreError
    return str(caught.value)


def held(facts: dict[str, Any]) -> Path:
    return Path(os.environ["KIT_CACHE"]) / "hrrr" / "20240601" / str(facts["name"])


def ranges(server: Server, path: str) -> list[str | None]:
    return [asked.range for asked in server.asked(path)]


def test_the_convective_set(server: Server) -> None:
    source = read(Request(times=Period.parse("2024-06-01/2024-06-01T03"), levels=(500.0, 1000.0)))
    assert source.names == tuple(sorted((*"2d 2t 10u 10v cape cin refc q t u v z static_lsm static_z".split(),)))
    assert source.fields["refc"].dims == ("time", "y", "x")
    assert source.fields["q"].shape == (4, 2, 24, WIDTH)
    time = np.datetime64(HOURS[2])
    np.testing.assert_allclose(source.fields["refc"].values[2], field("REFC:entire atmosphere", time)[::-1], atol=1e-2)
    np.testing.assert_allclose(source.fields["cin"].values[2], field("CIN:surface", time)[::-1], atol=1e-2)
    np.testing.assert_allclose(source.fields["z"].values[2, 1], 9.80665 * field("HGT:1000 mb", time)[::-1], atol=1e-1)
    np.testing.assert_allclose(source.fields["static_z"].values, 9.80665 * field("HGT:surface", time)[::-1], atol=1e-1)
    u, v = (source.fields[name].values[2, 0] for name in "uv")
    along = [field(f"{name}:500 mb", time)[::-1] for name in ("UGRD", "VGRD")]
    np.testing.assert_allclose(np.hypot(u, v), np.hypot(*along), rtol=1e-4)
    assert source.projection["grid_mapping_name"] == "lambert_conformal_conic"
    assert source.licence.startswith("NOAA")
    assert "static variables are those of 2024-06-01T00" in source.notes
    assert [fact["name"][:18] for fact in source.files] == [f"hrrr.20240601.t0{hour}z" for hour in range(4)]
    # Where HRRR's surface file lacks a level of a variable, all of its levels come from the other one.
    assert source.files[0]["of"] == ["hrrr.20240601 t00z wrfsfcf00", "hrrr.20240601 t00z wrfprsf00"]


def test_only_what_is_wanted_is_asked_for_once(server: Server) -> None:
    first = read(request("refc", "t", "q", "cape", "cin"))
    sizes = [len(lambert(line, np.datetime64(HOURS[0]))) for line in ("REFC:entire atmosphere", "TMP:500 mb")]
    assert ranges(server, SURFACE)[0] == f"bytes=0-{sizes[0] - 1}"
    # REFC, T of 500 hPa, and CAPE and CIN, which lie side by side.
    assert len(ranges(server, SURFACE)) == 3
    assert len(ranges(server, LEVELLED)) == 1
    assert {asked.method for asked in server.requests} == {"GET"}
    count = len(server.requests)
    again = read(request("refc", "t", "q", "cape", "cin"))
    assert len(server.requests) == count
    assert again.files == first.files


def test_rain_comes_from_the_runs_before(server: Server) -> None:
    times = f"{HOURS[3]}/{HOURS[3]}"
    source = read(request("tp", "2t", times=times, step=3))
    rain = source.fields["tp"]
    assert rain["time"].values.astype("datetime64[h]").astype(str).tolist() == list(HOURS[1:])
    assert rain.attrs["accumulation_hours"] == 1
    expected = field("APCP:surface", np.datetime64(HOURS[3]))[::-1] / 1000
    np.testing.assert_allclose(rain.values[2], expected, rtol=1e-3)
    assert source.fields["2t"].sizes["time"] == 1
    assert len(server.asked("/hrrr.20240601/conus/hrrr.t02z.wrfsfcf01.grib2")) == 1


@pytest.mark.parametrize(
    "fault",
    one_in(
        2,
        (
            Fault(status=500),
            Fault(status=503, headers={"Retry-After": "0"}),
            Fault(cut=100),
            Fault(delay=0.6),
            Fault(length=10**6, cut=400),
            Fault(etag='"another"'),
            Fault(body=b"x" * 200_000),
        ),
        ("500", "503", "cut", "silent", "long", "changed", "other"),
    ),
)
@pytest.mark.parametrize("path", (SURFACE, f"{SURFACE}.idx"), ids=("bytes", "index"))
def test_what_goes_wrong_once(server: Server, path: str, fault: Fault, archive: dict[str, File]) -> None:
    server.fail(path, Fault(), fault) if path == SURFACE else server.fail(path, fault)
    (facts,) = read(request("refc", "cape")).files
    content = archive[SURFACE].content
    first, second = (len(lambert(line, np.datetime64(HOURS[0]))) for line in ("REFC:entire atmosphere", "CAPE:surface"))
    assert facts["size"] == first + second
    taken = held(facts).read_bytes()
    assert taken[:first] == content[:first]
    assert taken[first:] in content


def test_a_file_that_was_replaced_after_its_index_was_read(server: Server, archive: dict[str, File]) -> None:
    old = archive[f"{SURFACE}.idx"].content
    put_run(server, np.datetime64(HOURS[0]), ["CAPE:surface", "REFC:entire atmosphere"])
    server.fail(f"{SURFACE}.idx", Fault(body=old))
    source = read(request("refc", "cape"))
    assert len(server.asked(f"{SURFACE}.idx")) == 2
    assert sorted(source.fields) == ["cape", "refc"]


def test_a_file_of_one_message(server: Server) -> None:
    put_run(server, np.datetime64(HOURS[0]), ["REFC:entire atmosphere"])
    assert list(read(request("refc")).fields) == ["refc"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    (
        (Fault(status=404), "hrrr.20240601 t00z wrfsfcf00 is in none of the archives http://127.0.0.1"),
        (Fault(status=403), "the archive answered 403"),
        (Fault(status=500), "answered 500 (Internal Server Error); given up after 2 attempts"),
        (Fault(body=b"<html>"), "the index of hrrr.20240601 t00z wrfsfcf00 is damaged or no index: its line 1 is"),
        (Fault(body=b"1:0:d=2024060112:REFC:entire atmosphere:anl:\n"), "is of another run, 2024060112"),
        (Fault(body=b""), "is empty"),
        (
            Fault(body=b"1:9:d=2024060100:REFC:entire atmosphere:anl:\n2:5:d=2024060100:CAPE:surface:anl:\n"),
            "has messages out of order",
        ),
    ),
)
def test_an_index_that_cannot_be_had(server: Server, fault: Fault, expected: str) -> None:
    server.fail(f"{SURFACE}.idx", fault, always=True)
    kind = StoreError if fault.status == 404 else UnavailableError
    assert expected in refusal(kind=kind)


@pytest.mark.parametrize(
    ("fault", "expected"),
    one_in(
        3,
        (
            (Fault(status=404), "the archive answered 404"),
            (Fault(status=500), "given up after 2 attempts"),
            (Fault(status=416), "the file is shorter than its index says"),
            (Fault(whole=True), "the archive sends whole files where parts are asked for"),
            (Fault(cut=10), "the connection was cut"),
            (Fault(headers={"Content-Range": "bytes 7-9/100"}), "the archive sends 'bytes 7-9/100' where bytes 0 to"),
            (Fault(body=b"x" * 200_000), "are no message REFC:entire atmosphere:anl: the index does not fit the file"),
        ),
    ),
)
def test_bytes_that_cannot_be_had(server: Server, fault: Fault, expected: str) -> None:
    server.fail(SURFACE, fault, always=True)
    text = refusal(kind=UnavailableError)
    assert expected in text
    assert "What was fetched is kept: the same command goes on from there" in text
    folder = Path(os.environ["KIT_CACHE"]) / "hrrr" / "20240601"
    assert [path.name for path in folder.iterdir() if not path.name.endswith(".lock")] == []


def test_an_index_that_names_messages_wrongly(server: Server, archive: dict[str, File]) -> None:
    told = archive[f"{SURFACE}.idx"].content
    swapped = told.replace(b"CAPE:surface", b"SWAP").replace(b"CIN:surface", b"CAPE:surface").replace(b"SWAP", b"X:y")
    server.put(f"{SURFACE}.idx", swapped)
    text = refusal(kind=UnavailableError)
    assert "a message is cin on surface 0 at 2024-06-01T00:00:00, 0 h after its run, where the index promised" in text


def test_another_archive_helps(server: Server, archive: dict[str, File], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as mirror:
        mirror.files.update({f"/noaa{path}": file for path, file in archive.items()})
        monkeypatch.setenv("KIT_HRRR_ARCHIVE", f"{server.url()},{mirror.url('/noaa/')}")
        server.fail(SURFACE, Fault(whole=True), always=True)
        server.files.pop(f"{LEVELLED}.idx")
        (facts,) = read().files
        addresses = json.loads(held(facts).with_suffix(".grib2.json").read_text())["from"]
        assert all(address.startswith(mirror.url("/noaa/hrrr.")) for address in addresses)


def test_hours_that_are_missing_are_named_before_anything_is_fetched(server: Server) -> None:
    for hour in (1, 2):
        server.files.pop(f"/hrrr.20240601/conus/hrrr.t0{hour}z.wrfsfcf00.grib2.idx")
    text = refusal(request(times="2024-06-01/2024-06-01T03"))
    assert text.startswith("2 of 4 hours of HRRR cannot be had. 2024-06-01T01: hrrr.20240601 t01z wrfsfcf00 is in none")
    assert "Others are missing, too: 2024-06-01T02." in text
    assert not [asked for asked in server.requests if asked.range]


def test_what_was_fetched_is_kept(server: Server) -> None:
    bad = "/hrrr.20240601/conus/hrrr.t03z.wrfsfcf00.grib2"
    server.fail(bad, Fault(status=500), always=True)
    wanted = request("refc", times="2024-06-01/2024-06-01T03")
    refusal(wanted, UnavailableError)
    server.fail(bad, Fault(), always=True)
    before = len(server.requests)
    assert read(wanted).fields["refc"].sizes["time"] == 4
    kept = 4 - len([asked for asked in server.requests[before:] if asked.range])
    assert kept >= 1


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server) -> None:
    (facts,) = read().files
    path = held(facts)
    path.write_bytes(path.read_bytes()[:-1])
    left = path.with_name(f".{path.name}.0123.part")
    left.touch()
    assert read().files == (facts,)
    assert not left.exists()
    path.with_name(path.name + ".json").write_text("{")
    assert read().files == (facts,)


def test_two_at_once_fetch_once(server: Server) -> None:
    load_herbie()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(read, [request(), request()])
    assert one.files == other.files
    assert len([asked for asked in server.requests if asked.range]) == 3


@pytest.mark.parametrize(
    ("wanted", "kind", "expected"),
    (
        (request("refc", "swh"), StoreError, "swh: no variable that the kit takes of HRRR; those are refc, 2t"),
        (request("t", levels=None), SettingsError, "--source hrrr needs the levels of t"),
        (request("t", levels=(500.0, 600.0)), StoreError, "TMP:600 mb:anl; of TMP it holds 500 mb, 850 mb, 1000 mb"),
        (request("2t", times="2123-01-01/2123-01-02"), StoreError, "HRRR at 2123-01-02T00 lies in the future"),
        (request("2t", times="2024-06-01T01/2024-06-01T05", step=6), StoreError, "no hour in --times 2024-06"),
        (Request(frozenset({"2t"})), SettingsError, "--source hrrr needs --times START/END"),
    ),
)
def test_what_cannot_be_asked(server: Server, wanted: Request, kind: type[KitError], expected: str) -> None:
    assert expected in refusal(wanted, kind)


def test_settings_that_are_wrong(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(SettingsError, match="--path of --source hrrr is the word hrrr, got gfs"),
        hrrr.open_source(["gfs"], request()),
    ):
        pass
    monkeypatch.setenv("KIT_OFFLINE", "1")
    assert "1 hours of HRRR, the first 2024-06-01T00, are not in the cache" in refusal()
    monkeypatch.setenv("KIT_HRRR_ARCHIVE", "aws,ftp://there")
    assert "KIT_HRRR_ARCHIVE names ftp://there; expected some of aws, google, azure, nomads" in refusal(
        kind=SettingsError
    )


def test_the_archives_are_herbies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIT_HRRR_ARCHIVE", raising=False)
    assert hrrr_index.archives() == ("aws", "google", "azure", "nomads")
    run = hrrr_index.ModelRun(np.datetime64("2024-06-01T03"), 1, "sfc")
    for name in hrrr_index.ARCHIVES:
        address = hrrr_index.address_of(run, name)
        assert address.startswith("https://")
        assert address.endswith("/hrrr.20240601/conus/hrrr.t03z.wrfsfcf01.grib2")


def test_azure_signs_its_addresses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_HRRR_ARCHIVE", "azure")
    monkeypatch.setattr(hrrr_index, "address_of", lambda *_: server.url(SURFACE))
    monkeypatch.setattr(hrrr_index, "_SIGNER", server.url("/sign?href="))
    for path in (SURFACE, f"{SURFACE}.idx"):
        server.files[f"{path}?sig=1"] = server.files.pop(path)
        server.put(f"/sign?href={server.url(path)}", f'{{"href": "{server.url(path)}?sig=1"}}'.encode())
    (facts,) = read(request("refc")).files
    assert json.loads(held(facts).with_suffix(".grib2.json").read_text())["from"] == [server.url(SURFACE)]
    server.put(f"/sign?href={server.url(SURFACE)}.idx", b"no")
    text = refusal(request("cape"), UnavailableError)
    assert "Azure's addresses must be signed, and the signer answered 'no'" in text


def test_an_estimate(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request("refc", "cape", times="2024-06-01/2024-06-01T03")
    size = sum(len(lambert(line, np.datetime64(HOURS[0]))) for line in ("REFC:entire atmosphere", "CAPE:surface"))
    # An index and two runs of bytes an hour.
    assert hrrr.estimate(["hrrr"], wanted, limits=QUICK) == hrrr.FetchEstimate(4, 12, 4 * size, exact=True)
    assert not [asked for asked in server.requests if asked.range]
    monkeypatch.setattr(hrrr, "_SAMPLE", 2)
    assert hrrr.estimate(["hrrr"], wanted, limits=QUICK) == hrrr.FetchEstimate(4, 12, 4 * size, exact=False)
    read(wanted)
    assert hrrr.estimate(["hrrr"], wanted, limits=QUICK) == hrrr.FetchEstimate(4, 0, 0, exact=True)


def test_a_sample_fetches_one_state_and_stands_for_all(server: Server) -> None:
    wanted = request("2t", "tp", times="2024-06-01T02/2024-06-01T03", step=2, sample=True)
    source = read(wanted)
    times = {name: str(field["time"].values.astype("datetime64[h]")) for name, field in source.fields.items()}
    assert times == {"2t": "['2024-06-01T02']", "tp": "['2024-06-01T01' '2024-06-01T02']"}
    # Indices of 2t and of two hours of rain, and bytes of each.
    assert (source.requests, len([asked for asked in server.requests if asked.range])) == (6, 3)
    hourly = read(request("refc", "tp", times="2024-06-01/2024-06-01T03", sample=True))
    assert [field.sizes["time"] for field in hourly.fields.values()] == [4, 4]
    np.testing.assert_array_equal(hourly.fields["refc"].values[3], hourly.fields["refc"].values[0])


def test_herbie_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HERBIE_CONFIG_PATH", "/mine")
    load_herbie.__wrapped__()
    import herbie

    assert os.environ["HERBIE_CONFIG_PATH"] == "/mine"
    assert not Path(herbie._config_path).exists()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "herbie.core", None)
    with pytest.raises(SettingsError, match=r'needs the package herbie-data.*install "aurora-finetune-kit\[hrrr\]"'):
        load_herbie.__wrapped__()


def test_too_little_room(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert "where 0.0 GB are free. Free some" in refusal()


def test_a_failure_stops_the_others(server: Server) -> None:
    server.fail(SURFACE, Fault(status=403), always=True)
    refusal(request("refc", times="2024-06-01/2024-06-01T03"), UnavailableError)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hrrr")]
    assert LEVELS == (500, 850, 1000)
