"""Real processes that build one store: killed, several at once, and on a cluster."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from kit.cli import main as cli
from kit.data.store.verify import verify
from tests.data.store.builds import build, files_of, one_state_blocks
from tests.factories import synthetic_dataset

STATES = 150
# A block takes long enough to be killed in.
BUILDER = """
import sys, time
from kit.cli.main import main
from kit.data.sources import base
from kit.data.store import build_plan, executor
build_plan.BLOCK_BYTES = base.LAYER_BYTES = 1
write_block = executor.write_block
executor.write_block = lambda *arguments: (write_block(*arguments), time.sleep(0.04))[0]
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of two variables, small enough to take a second or two in blocks of one state."""
    folder = tmp_path_factory.mktemp("source")
    dataset = synthetic_dataset(
        times=STATES, surface=("2t",), atmospheric=("t",), static=("z",), height=32, width=64, box=(60, 10, 40, 50)
    )
    names = {"2t": "t2m", "t": "t", "static_z": "z"}
    units = {"2t": "K", "t": "K", "static_z": "m**2 s**-2"}
    for name, short in names.items():
        array = dataset[name].assign_attrs(units=units[name]).rename(short)
        if "level" in array.dims:
            array["level"].attrs["units"] = "hPa"
        array.to_netcdf(folder / f"{short}.nc")
    return folder


def words(source: Path, out: Path, *more: str) -> list[str]:
    return ["data", "build", "--source", "netcdf", "--path", str(source), "--out", str(out), "--workers", "2", *more]


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BUILDER, *words(source, out, *more)], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    assert start(source, out).wait() == 0
    return files_of(out)


def recorded(out: Path) -> int:
    return len(list((out.parent / f".{out.name}.part" / "records").glob("*.npz")))


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out, chance = tmp_path / "store", random.Random(20201122)
    for number in range(10):
        with start(source, out) as process:
            # At its start, between blocks and within them, until near the end.
            wanted, deadline = int((number + chance.random()) * STATES / 11), time.monotonic() + 120
            while process.poll() is None and recorded(out) < wanted and time.monotonic() < deadline:
                time.sleep(0.005 * chance.random())
            process.kill()
        assert not out.exists()
    with start(source, out) as process:
        assert process.wait() == 0
    assert files_of(out) == undisturbed
    assert [path.name for path in tmp_path.iterdir() if "part-" not in path.name] == ["store"]
    assert verify(out).problems == ()


@pytest.mark.slow
def test_two_builders_at_once_and_one_of_them_killed(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "store"
    builders = [start(source, out) for _ in range(3)]
    while recorded(out) < STATES // 2 and all(builder.poll() is None for builder in builders):
        time.sleep(0.01)
    builders[0].kill()
    assert [builder.wait() for builder in builders] == [-9, 0, 0]
    assert files_of(out) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow
def test_an_append_that_is_killed_leaves_the_store_as_it_was(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    splits = ("--train", "2020-01-01/2020-01-08")
    assert start(source, out, "--times", "2020-01-01/2020-01-09", *splits).wait() == 0
    before = files_of(out)
    more = ("--append", "--times", "2020-01-09T06/2020-02-07", "--train", "2020-01-01/2020-01-20")
    for wanted in (3, 40, 80):
        with start(source, out, *more) as process:
            while process.poll() is None and len(list(tmp_path.glob(".store.append.part/records/*.npz"))) < wanted:
                time.sleep(0.005)
            process.kill()
        assert files_of(out) == before
    assert start(source, out, *more).wait() == 0
    assert verify(out).problems == ()
    assert [path.name for path in tmp_path.iterdir() if "part-" not in path.name] == ["store"]


def test_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    one_state_blocks(monkeypatch)
    alone = files_of(build(tmp_path / "alone").path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster:
            store = build(tmp_path / "store", workers=None, scheduler=cluster.scheduler_address)
    assert files_of(store.path) == alone


# The command, in this process.


@pytest.mark.slow
def test_the_command_and_its_estimate(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    kept = ("--times", "2020-01-01/2020-01-02")
    assert cli.main([*words(source, out, *kept), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert set(told) >= {"states", "gb_raw", "gb_disk", "ratio", "blocks", "requests", "hours", "fits"}
    assert (told["states"], told["blocks"], told["requests"], told["fits"]) == (5, 1, None, True)
    # Five states at the surface and on three levels, one static field; 32 x 64 points, 4 bytes each.
    assert told["gb_raw"] == pytest.approx((5 * 4 + 1) * 32 * 64 * 4 / 1e9)
    assert cli.main([*words(source, out, *kept), "--dry-run"]) == 0
    assert "nothing is written" in capsys.readouterr().err
    assert cli.main([*words(source, out, *kept), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["states"] == 5
    chunks = sum(len(content) for path, content in files_of(out).items() if "/c/" in path)
    assert told["gb_disk"] * 1e9 == pytest.approx(chunks, rel=0.15)
    splits = ("--test", "2020-01-02T06/2020-01-03")
    assert cli.main([*words(source, out, "--times", "2020-01-02T06/2020-01-03", *splits), "--append", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["states"] == 9
    assert result["splits"]["test"] == "2020-01-02T06:00/2020-01-03T00:00"


def test_settings_that_do_not_go_together(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words(source, tmp_path / "store"), "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert "workers has no effect with scheduler" in capsys.readouterr().err
    assert cli.main([*words(source, tmp_path / "store"), "--append"]) == 2
    assert "no such store to append to" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    from kit.data.store import executor as driver
    from kit.io.errors import SettingsError

    monkeypatch.setattr(driver, "_PATIENCE", 0.1)
    with pytest.raises(SettingsError, match="--scheduler tcp://127.0.0.1:9: no scheduler answers there"):
        build(tmp_path / "store", workers=None, scheduler="tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []
