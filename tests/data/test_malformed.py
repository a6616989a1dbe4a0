"""What is malformed ends with 2 and one message, or in a store of which a check says what is wrong.

Through the command line: never a traceback, never a wait without end, never half a store, nothing left behind, and the
input as it was. Others are with their sources: pickles with calls in them, files cut off, zips that point outside.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kit.cli.main import main
from kit.plots import quality_page as quality
from tests.data.broken_stores import STORES, Spoil
from tests.data.malformed import CLASSIC, FOLDERS, GRIB, NETCDF, PICKLES, Make, netcdf
from tests.data.sources.grib_files import field, message
from tests.everyday import one_in
from tests.factories import synthetic_store
from tests.real_data import real_data

pytestmark = pytest.mark.timeout(30)

CASES = [
    pytest.param(source, name, make, expected, id=f"{source}: {case}")
    for source, name, table in (
        ("netcdf", "x.nc", NETCDF),
        ("grib", "x.grib", GRIB),
        ("pickle", "x.pickle", PICKLES),
        ("netcdf", "x", FOLDERS),
    )
    for case, (make, expected) in table.items()
]


def seen(folder: Path) -> dict[str, str]:
    """Everything in a folder, with hashes of what can be read; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(folder))] = f"{stat.S_IFMT(mode):o} {content}"
    return found


def findings(store: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code of ``kit data qa`` and the names of all that failed."""
    capsys.readouterr()
    code = main(["data", "qa", str(store), "--json", "--fresh"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if not out:
        return code, [err]
    checks = json.loads(out)["checks"]
    return code, [f"{one['name']}:{one['variable']}" for one in checks if one["status"] == "failed"]


def build(source: str, path: Path, out: Path, *options: str) -> int:
    words = ["--source", source, "--path", str(path), "--out", str(out), "--statics", "coslat", *options]
    return main(["data", "build", *words, "--train", "1900-01-01/2100-01-01"])


def ends_well(
    source: str, path: Path, expected: str, inputs: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Build, and hold what comes of it against what is expected."""
    before = seen(inputs)
    code = build(source, path, out / "store")
    told, err = capsys.readouterr()
    assert "Traceback" not in err
    assert seen(inputs) == before
    assert not list(Path(tempfile.gettempdir()).glob("kit-*"))
    left = sorted(one.name for one in out.iterdir())
    if not expected.startswith("qa"):
        assert (code, told, left) == (2, "", []), err
        assert re.search(expected, err), err
        assert err.count("kit data build: ") == 1
        return
    assert (code, left) == (0, ["store"]), err
    code, failed = findings(out / "store", capsys)
    # Without levels none of these stores is fit for training.
    assert code == 2
    assert "variables:None" in failed
    wanted = expected.removeprefix("qa").removeprefix(":")
    assert not wanted or any(one.startswith(wanted) for one in failed), failed


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page's maps, which take longer than all checks."""
    monkeypatch.setattr(quality, "pictures", lambda _store: {})


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders of inputs and outputs, and one for temporary files."""
    for name in ("in", "out", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "in", tmp_path / "out"


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(("source", "name", "make", "expected"), one_in(6, CASES))
def test_inputs(
    source: str,
    name: str,
    make: Make,
    expected: str,
    places: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs, out = places
    make(inputs / name)
    ends_well(source, inputs / name, expected, inputs, out, capsys)


@pytest.mark.parametrize(
    ("name", "expected"),
    one_in(
        2,
        (
            ("era5-levels-corrupted.grib", "message 1 cannot be read"),
            ("fields_with_missing_values.grib", "qa:nan:2t"),
            ("lambert_grid.grib", "lambert"),
            ("regular_ll_wrong_increment.grib", "qa:time-gaps"),
            ("scanning_mode_64.grib", "qa:time-gaps"),
            ("t_on_different_level_types.grib", "model levels"),
            ("tp_on_different_grid_resolutions.grib", "grids of two messages of tp differ"),
        ),
    ),
)
def test_real_files(name: str, expected: str, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    inputs, out = places
    shutil.copy(real_data("bad-grib") / name, inputs / name)
    ends_well("grib", inputs / name, expected, inputs, out, capsys)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    return synthetic_store(folder / "store", times=6, height=6, width=8, levels=(500, 850)).path


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(("spoil", "expected"), one_in(4, STORES.values(), STORES))
def test_stores(
    spoil: Spoil, expected: str, sound: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    store = places[0] / "store"
    shutil.copytree(sound, store)
    spoil(store)
    code, failed = findings(store, capsys)
    assert code == (0 if expected in ("", "qa:self-contained:2t", "qa:self-contained:10u") else 2)
    for wanted in expected.split("|"):
        if wanted.startswith("qa:"):
            assert any(one.startswith(wanted.removeprefix("qa:")) for one in failed), failed
            return
    assert not expected or re.search(expected, failed[0]), failed


@pytest.mark.parametrize(("case", "spoil"), one_in(6, [(case, spoil) for case, (spoil, _) in STORES.items()], STORES))
def test_verification(
    case: str, spoil: Spoil, sound: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Links to the same bytes are no change; a report may lie beside the store's files, and a folder is no file."""
    store = places[0] / "store"
    shutil.copytree(sound, store)
    spoil(store)
    elsewhere = ("a chunk lies elsewhere", "a variable lies elsewhere")
    unchanged = case in (*elsewhere, "a report as a folder", "a report of another kind")
    assert main(["data", "verify", str(store)]) == (0 if unchanged else 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "expected"),
    one_in(
        3,
        (
            ("a chunk is gone", "2t is absent"),
            pytest.param("a chunk is cut off", "2t", marks=pytest.mark.slow),
            ("times are gone", "time"),
            pytest.param("no description", "zarr.json|Zarr", marks=pytest.mark.slow),
            pytest.param("a description is a number", "Zarr", marks=pytest.mark.slow),
            pytest.param("a description of depth", "Zarr", marks=pytest.mark.slow),
            ("chunks of nothing", "2t|Zarr"),
            ("a codec that nobody knows", "rot13"),
            pytest.param("times by the billion", "time|Zarr", marks=pytest.mark.slow),
        ),
    ),
)
def test_stores_as_sources(
    case: str, expected: str, sound: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, out = places
    shutil.copytree(sound, inputs / "store")
    STORES[case][0](inputs / "store")
    ends_well("zarr", inputs / "store", expected, inputs, out, capsys)


@pytest.mark.parametrize("name", ("../../etc/x", "/etc/x", "a/b", "..", "a\nb", ""))
def test_an_entry_of_the_registry_stays_in_the_cache(
    name: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, out = places
    entry = {"file": name, "kind": "states", "licence": "none", "url": "http://127.0.0.1:9/x", "sha256": "0" * 64}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    (inputs / "registry.toml").write_text(f"[evil]\n{lines}")
    monkeypatch.setenv("KIT_REGISTRY", str(inputs / "registry.toml"))
    assert build("pickle", Path("evil"), out / "store") == 2
    err = capsys.readouterr().err
    assert "evil" in err
    assert "file" in err
    assert "Traceback" not in err
    assert not list(out.iterdir())


def test_a_file_that_may_not_be_read(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As another user than root would find it."""
    inputs, out = places
    (inputs / "x.grib").write_bytes(message(field(1)))
    whole = Path.open

    def refused(self: Path, *options: object, **more: object) -> object:
        if self.name == "x.grib":
            raise PermissionError(13, "Permission denied", str(self))
        return whole(self, *options, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)
    assert build("grib", inputs / "x.grib", out / "store") == 2
    assert "Permission denied" in capsys.readouterr().err
    assert not list(out.iterdir())


# Flipped bytes: whatever comes of them is a refusal, or a store.


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    """Change some bytes, or lose some, or double some."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 8)):
        at, size = int(random.integers(len(changed))), int(random.integers(1, 9))
        kind = random.integers(4)
        if kind == 0:
            changed[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            changed[at : at + size] = random.bytes(size)
        elif kind == 2:
            del changed[at : at + size]
        else:
            changed[at:at] = changed[at : at + size]
    return bytes(changed)


def sources(folder: Path) -> dict[str, bytes]:
    """Sound files of each kind, by name."""
    CLASSIC(folder / "classic.nc")
    netcdf()(folder / "modern.nc")
    (folder / "a.grib").write_bytes(message(field(1)) + message(field(2), time="2020-01-01T06", edition=2))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def fuzz(seed: int, rounds: int, inputs: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(seed)
    whole = sources(inputs)
    for number in range(rounds):
        for name, content in whole.items():
            path, store = inputs / name, out / f"{number}-{name}"
            path.write_bytes(flipped(content, random))
            code = build("grib" if name.endswith("grib") else "netcdf", path, store)
            err = capsys.readouterr().err
            where = f"seed {seed}, round {number}, {name}: {err}"
            assert "Traceback" not in err, where
            assert (code, store.exists()) in ((2, False), (0, True)), where
            if code == 0:
                assert findings(store, capsys)[0] == 2, where
                shutil.rmtree(store)
    assert not list(out.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
def test_flipped_bytes(places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    fuzz(1, 5, *places, capsys)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_flipped_bytes(seed: int, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    fuzz(seed, 60, *places, capsys)


def fuzz_stores(seed: int, rounds: int, sound: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(seed)
    for number in range(rounds):
        store = Path(shutil.copytree(sound, folder / str(number)))
        files = sorted(path for path in store.rglob("*") if path.is_file())
        # Descriptions are few among the chunks, and worth more.
        some = [path for path in files if path.suffix == ".json"] if number % 2 else files
        file = some[random.integers(len(some))]
        file.write_bytes(flipped(file.read_bytes(), random))
        code, _ = findings(store, capsys)
        assert code in (0, 2), f"seed {seed}, round {number}: {file.relative_to(store)}"
        shutil.rmtree(store)


def test_flipped_bytes_of_a_store(sound: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    fuzz_stores(1, 6, sound, places[1], capsys)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_flipped_bytes_of_a_store(
    sound: Path, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_stores(2, 300, sound, places[1], capsys)
