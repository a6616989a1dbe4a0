"""Submitting, watching and fetching, whatever the data store, the network and other processes do."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.data.settings import Period
from kit.data.sources.base import Request, SourceData
from kit.data.sources.cds import source as cds
from kit.data.sources.cds.queue import PollingPolicy
from kit.data.sources.cds.request_cache import CachedRequest, folder
from kit.data.sources.cds.requests import Planned, plan, select
from kit.io.errors import KitError, RegistryError, SettingsError, StoreError, UnavailableError
from kit.io.progress import ProgressCallback, watched
from tests.data_stores import KEY, DataStores
from tests.processes import Python
from tests.servers import Fault

ONE = Request(
    frozenset({"2t"}), frozenset({"static_coslat"}), Period.parse("2020-01-31T18/2020-01-31T18"), None,
    (51.0, 5.0, 50.0, 6.0), 6,
)  # fmt: skip
TWO = Request(ONE.variables, ONE.statics, Period.parse("2020-01-31T18/2020-02-01"), None, ONE.region, 6)
"""In two months, and so two requests."""
FIRST = "00000001-0000-4000-8000-000000000000"
RESULT = f"/results/{FIRST}.grib"


class Lines(ProgressCallback):
    """Keeps what is said."""

    said_so_far: list[str]

    def __init__(self) -> None:
        self.said_so_far = lines

    def said(self, text: str) -> None:
        self.said_so_far.append(text)


lines: list[str] = []


@pytest.fixture(autouse=True)
def told() -> Iterator[list[str]]:
    """What people are told."""
    lines.clear()
    with watched(Lines):
        yield lines


def fetch(request: Request = ONE, path: str = "era5") -> SourceData:
    with cds.open_source([path], request) as data:
        return data


def kept(request: Request = ONE) -> list[CachedRequest]:
    return [CachedRequest(planned, folder()) for planned in plan(select("era5", request))]


def test_many_at_once_then_from_the_cache(stores: DataStores, told: list[str]) -> None:
    stores.courses += [("accepted", "accepted", "running", "successful"), ("accepted", "successful")]
    data = fetch(TWO)
    assert len(stores.posts) == 2
    assert data.fields["2t"].sizes == {"time": 2, "latitude": 5, "longitude": 5}
    # Both were in the queue at once, and their states were told.
    # 5 x 5 values of 16 bits and a header, twice.
    assert told[0] == "era5: 2 requests, about 0.0005 MB"
    assert any(": 2 queued, 0 of 2 here" in line for line in told)
    assert any("1 running" in line for line in told)
    assert "2 of 2 here" in told[-1]
    stores.files.files.clear()
    assert fetch(TWO).files == data.files
    assert len(stores.posts) == 2
    (first, second) = data.files
    assert first["dataset"] == "reanalysis-era5-single-levels"
    assert [file["request"]["month"] for file in (first, second)] == [["01"], ["02"]]
    assert {"name", "sha256", "size", "dataset", "request"} == set(first)


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("submit", Fault(status=503)),
        ("submit", Fault(status=429, headers={"Retry-After": "0"})),
        ("process", Fault(status=500)),
        ("job", Fault(status=502)),
        ("job", Fault(delay=1.0)),
        ("results", Fault(cut=0)),
        ("messages", Fault(status=500)),
    ],
)
def test_what_goes_better_the_next_time(what: str, fault: Fault, stores: DataStores) -> None:
    stores.fail(what, fault)
    fetch()
    assert len(stores.posts) == 1


@pytest.mark.parametrize("fault", [Fault(cut=0), Fault(delay=1.0)])
def test_a_submission_whose_answer_is_lost_is_found_again(fault: Fault, stores: DataStores) -> None:
    stores.fail("submit", fault)
    fetch()
    assert len(stores.posts) == 1


def test_a_download_that_is_cut_goes_on_where_it_was(stores: DataStores) -> None:
    stores.files.fail(RESULT, Fault(cut=100), Fault(status=503), Fault(cut=50))
    fetch()
    ranges = [request.range for request in stores.files.asked(RESULT)]
    assert ranges == [None, "bytes=100-", "bytes=100-", "bytes=150-"]


@pytest.mark.parametrize("course", [("accepted", "failed"), ("running", "dismissed"), ("accepted", "deleted")])
def test_what_failed_is_submitted_again(course: tuple[str, ...], stores: DataStores, told: list[str]) -> None:
    stores.courses.append(course)
    fetch()
    assert len(stores.posts) == 2
    assert any(f"request {FIRST} is" in line and "submitting it again" in line for line in told)


def test_a_job_that_the_data_store_has_forgotten(stores: DataStores) -> None:
    (one,) = kept()
    one.path.parent.mkdir(parents=True)
    one.remember(service=stores.url, job="00000009-0000-4000-8000-000000000000")
    fetch()
    assert len(stores.posts) == 1


def test_a_result_that_has_expired_is_made_anew(stores: DataStores) -> None:
    stores.fail("results", Fault(status=404, body=b'{"title": "results expired"}'))
    fetch()
    assert len(stores.posts) == 2


def test_a_link_that_leads_nowhere_is_asked_for_again_and_then_made_anew(stores: DataStores) -> None:
    stores.files.fail(RESULT, Fault(status=403), always=True)
    fetch()
    assert len(stores.files.asked(RESULT)) == 2
    assert len(stores.posts) == 2


def test_a_full_queue_takes_fewer_at_once(stores: DataStores, told: list[str]) -> None:
    stores.words = {"title": "The job has been rejected", "detail": "queued requests are limited to 1"}
    stores.courses += [("accepted", "accepted", "successful"), ("rejected",)]
    assert fetch(TWO).fields["2t"].sizes["time"] == 2
    assert len(stores.posts) == 3
    assert any("takes 1 of our requests at once" in line and "limited to 1" in line for line in told)


def reject(stores: DataStores) -> None:
    stores.courses.append(("rejected",))


def fail_always(stores: DataStores) -> None:
    stores.courses += [("failed",)] * 3


def not_grib(stores: DataStores) -> None:
    for index in range(1, 4):
        stores.files.put(RESULT.replace("1-", f"{index}-", 1), b"<html>Sorry</html>")


def lie(stores: DataStores) -> None:
    stores.lie = 7


REFUSALS: list[tuple[Any, type[KitError], str]] = [
    (lambda s: setattr(s, "key", "other"), SettingsError, "does not know the key in ECMWF_DATASTORES_KEY: .*/profile"),
    (lambda s: setattr(s, "licensed", False), SettingsError,
     r"accepted once: .*:\d+/datasets/reanalysis-era5-single-levels\?tab=download#manage-licences.*Not all the"),
    (lambda s: setattr(s, "limit", 0), StoreError, "too large: cost limits exceeded: Your request is too large"),
    (fail_always, StoreError, r"failed 3 times on reanalysis-.* of 2020-01 \(1 fields\), lastly: .*MARS: no data"),
    (reject, StoreError, r"rejected the request for .*The job has failed"),
    (not_grib, StoreError, "not the result that it announces: it is not GRIB: it begins with b'<htm'"),
    (lie, StoreError, r"not the result that it announces: it has \d+ bytes there"),
    (lambda s: s.fail("submit", *[Fault(status=500)] * 9), UnavailableError, "answered 500 .*given up after 3"),
    (lambda s: s.fail("job", *[Fault(delay=0.6)] * 9), UnavailableError, "no answer in time; given up after 3"),
    (lambda s: s.fail("job", Fault(status=200, body=b"<html>")), StoreError, "not the data stores' protocol"),
    (lambda s: s.fail("submit", Fault(status=400, body=b'{"title": "invalid request", "detail": "no such day"}')),
     StoreError, r"refuses the request to .* \(400\): invalid request: no such day"),
    (lambda s: s.fail("submit", Fault(status=403, body=b'{"title": "site policies not accepted"}')), SettingsError,
     "to this user: site policies not accepted"),
    (lambda s: s.files.fail(RESULT, Fault(status=503), always=True), UnavailableError, "does not come: .*503"),
]  # fmt: skip


@pytest.mark.parametrize(("setup", "kind", "expected"), REFUSALS)
def test_refusals_are_readable(
    setup: Any, kind: type[KitError], expected: str, stores: DataStores, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    setup(stores)
    with pytest.raises(kind, match=f"(?s){expected}") as caught:
        fetch()
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    assert not list(folder().glob("*.grib"))
    if kind is not SettingsError:
        assert "the same command goes on from here" in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(stores: DataStores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ecmwf", None)
    with pytest.raises(SettingsError, match=r'pip install "aurora-finetune-kit\[cloud,grib\]"'):
        fetch()
    assert not stores.keys


def test_an_unknown_data_set(stores: DataStores) -> None:
    with pytest.raises(SettingsError, match="has no data set nothing-like-it: process not found"):
        fetch(path="nothing-like-it")


def test_what_is_missing_in_a_result_is_deleted_and_named(stores: DataStores) -> None:
    three = replace(TWO, times=Period.parse("2020-01-31T18/2020-02-01T06"))
    stores.leave_out = lambda _, moment: moment.day == 1 and moment.hour == 6
    with pytest.raises(StoreError, match="1 of 3 times of 2t are missing, the first at 2020-02-01T06:00:00.*deleted"):
        fetch(three)
    assert [one.path.is_file() for one in kept(three)] == [True, False]
    stores.leave_out = lambda *_: False
    stores.files.files.clear()
    assert fetch(three).fields["2t"].sizes["time"] == 3
    assert len(stores.posts) == 3


def test_another_variable_than_what_was_asked(stores: DataStores, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = stores.result
    monkeypatch.setattr(stores, "result", lambda inputs: honest({**inputs, "variable": ["surface_pressure"]}))
    with pytest.raises(StoreError, match="lack the variables|lack 2t|holds? no"):
        fetch()


def test_a_damaged_file_in_the_cache_is_fetched_anew(stores: DataStores) -> None:
    fetch()
    (file,) = folder().glob("*.grib")
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    fetch()
    # The job is still known: it is not submitted again.
    assert len(stores.posts) == 1
    assert len(stores.files.asked(RESULT)) == 2


def test_nothing_is_asked_offline(stores: DataStores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_OFFLINE", "1")
    with pytest.raises(RegistryError, match="1 of 1 results of era5 are not in the cache, .* KIT_OFFLINE is set"):
        fetch()
    assert not stores.keys


def test_news_of_the_data_store_are_passed_on_once(stores: DataStores, told: list[str]) -> None:
    stores.message = "Maintenance on Monday"
    fetch(TWO)
    assert sum("Maintenance on Monday" in line for line in told) == 1


def test_what_is_kept_names_the_request_and_never_the_key(stores: DataStores) -> None:
    fetch()
    (note,) = folder().glob("*.json")
    found = json.loads(note.read_text())
    assert found["inputs"] == stores.posts[0]
    assert found["job"] == FIRST
    assert found["url"] == stores.files.url(RESULT)
    assert stores.keys == {KEY}
    assert KEY not in note.read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": 1}', '{"dataset": "x", "inputs": {}, "job": "y"}'])
def test_a_torn_note_says_nothing(content: str, tmp_path: Path) -> None:
    one = CachedRequest(Planned("a", {"variable": ["b"]}, 1, 1), tmp_path)
    one.path.with_suffix(".json").write_text(content)
    assert (one.note.dataset, one.note.job) == ("a", None)
    assert not one.is_whole()


@contextmanager
def others(count: int) -> Iterator[list[threading.Thread]]:
    """So many more builds of the same, in threads; each has locks of its own."""
    threads = [threading.Thread(target=fetch, args=(TWO,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(20)


def test_two_builds_at_once_submit_once(stores: DataStores, told: list[str]) -> None:
    stores.courses += [("accepted",) * 5 + ("successful",)] * 2
    with others(1):
        fetch(TWO)
    assert len(stores.posts) == 2
    assert any("elsewhere" in line for line in told)


CODE = """
import sys
from kit.data.sources.cds.queue import PollingPolicy
from kit.data.settings import Period
from kit.data.sources.cds import source as cds
from kit.data.sources.base import Request
cds.POLLING = PollingPolicy(shortest=0.01, longest=0.02)
times = Period.parse("2020-01-31T18/2020-02-01")
request = Request(frozenset({"2t"}), frozenset({"static_coslat"}), times, None, (51.0, 5.0, 50.0, 6.0), 6)
with cds.open_source(["era5"], request) as data:
    print(data.fields["2t"].sizes["time"])
"""


def wait_for(condition: Any) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_in_the_queue_while_submitting_and_while_fetching(stores: DataStores, tmp_path: Path) -> None:
    stores.held = True
    # The first process: killed with one job in the queue, and the other submitted but not yet answered.
    stores.fail("submit", Fault(), Fault(delay=5.0))
    process = Python(CODE, output=tmp_path / "first.txt")
    wait_for(lambda: len(stores.posts) == 2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    notes = [json.loads(path.read_text()) for path in folder().glob("*.json")]
    assert sorted((note["job"], note["submitting"]) for note in notes if note["job"]) == [(FIRST, False)]
    assert [note["job"] for note in notes if note["submitting"]] == [None]
    # The second: killed while results arrive.
    stores.held = False
    stores.files.fail(RESULT, Fault(delay=2.0))
    process = Python(CODE, output=tmp_path / "second.txt")
    wait_for(lambda: stores.files.asked(RESULT))
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The third goes on with both, and asks for neither anew.
    process = Python(CODE, output=tmp_path / "third.txt")
    assert process.wait(60) == 0, (tmp_path / "third.err").read_text()
    assert (tmp_path / "third.txt").read_text() == "2\n"
    assert len(stores.posts) == 2


def test_ctrl_c_ends_downloads_and_keeps_what_arrived(stores: DataStores, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.files.put(RESULT, stores.result({**plan(select("era5", ONE))[0].inputs}) * 40)
    stores.files.fail(RESULT, Fault(pace=0.05))
    monkeypatch.setattr(cds, "POLLING", PollingPolicy(shortest=0.005, longest=0.01))

    def interrupt() -> None:
        wait_for(lambda: stores.files.asked(RESULT))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch()
    thread.join()
    assert time.monotonic() - began < 5
    assert not sys.exc_info()[0]
