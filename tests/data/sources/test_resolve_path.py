from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import registry
from kit.data.settings import BuildSettings
from kit.data.sources.resolve_path import locate
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import KitError, RegistryError, StoreError
from kit.registry.entry import place
from tests.data.sources.era5_files import new_form, write
from tests.real_data import real_data


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KIT_REGISTRY", str(tmp_path / "registry.toml"))
    return tmp_path / "cache"


def fill(name: str, content: bytes) -> None:
    """Put a file where fetching it would have put it."""
    path = place(registry.entries()[name])
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def alps(tmp_path: Path, cache: Path) -> Path:
    """A data set of two NetCDF files, statistics that are not in the cache, and weights; the user's own list."""
    files = {
        "alps-surface": (write(new_form(("t2m", "lsm")).isel(valid_time=[0] * 4), tmp_path / "s.nc"), "source", "CC A"),
        "alps-levels": (write(new_form(("t",), levels=(500, 850)), tmp_path / "l.nc"), "source", "CC B"),
        "alps-statistics": (write(new_form(("t2m",)), tmp_path / "n.nc"), "statistics", "CC C"),
        "alps-weights": (write(new_form(("t2m",)), tmp_path / "w.nc"), "weights", "CC D"),
    }
    write(new_form(("t2m",)).assign(lsm=new_form(("lsm",))["lsm"].isel(valid_time=0, drop=True)), tmp_path / "s.nc")
    tables = []
    for name, (path, kind, licence) in files.items():
        content = path.read_bytes()
        tables.append(
            f'[{name}]\nfile = "{path.name}"\nurl = "https://localhost/{path.name}"\nlicence = "{licence}"\n'
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"\nsize = {len(content)}\nkind = "{kind}"\n'
            f'description = "d"\n' + ('dataset = "alps"\n' if kind != "weights" else "")
        )
    (tmp_path / "registry.toml").write_text("\n".join(tables))
    for name in ("alps-surface", "alps-levels"):
        fill(name, files[name][0].read_bytes())
    return tmp_path


def make(folder: Path, path: str, source: Any = "netcdf", **options: Any) -> Store:
    return build_store(BuildSettings(source=source, path=Path(path), out=folder / "store", **options))


def test_a_data_set_is_built_from_all_its_files(alps: Path) -> None:
    store = make(alps, "alps")
    assert (store.surface, store.atmospheric, store.static) == (("2t",), ("t",), ("lsm",))
    assert store.attributes["registry"] == "alps"
    assert store.attributes["licence"] == "CC A; CC B"
    assert store.attributes["synthetic"] is False
    facts = store.attributes["registry_files"]
    assert [(fact["name"], fact["file"]) for fact in facts] == [("alps-surface", "s.nc"), ("alps-levels", "l.nc")]
    assert {fact["sha256"] for fact in facts} == {fact["sha256"] for fact in store.attributes["source_files"]}
    np.testing.assert_array_equal(store.read("2t", slice(None)), new_form(("t2m",))["t2m"])


def test_one_entry_is_built_by_its_name(alps: Path) -> None:
    store = make(alps, "alps-levels", statics=("coslat",), licence="my own")
    assert (store.surface, store.atmospheric) == ((), ("t",))
    assert store.attributes["registry"] == "alps-levels"
    assert store.attributes["licence"] == "my own"
    assert store.attributes["history"][-2:] == [
        "no variable at the surface: Aurora needs at least one to train; give files of the same grid and times",
        "coslat derived from the coordinates",
    ]


def test_a_path_comes_before_a_name(alps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(alps)
    (alps / "alps").mkdir()
    assert locate("alps", "netcdf").paths == (Path("alps"),)


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("alsp", "alsp: no such file or folder, and no data set of the registry; .* nearest data sets are alps"),
        ("era5-europ", "nearest data sets are era5-europe-2020-01-01"),
        ("nothing/like/it", "no such file or folder; --path names the netcdf data, or a data set of the registry"),
        ("zzz", "nearest data sets are era5-sample, era5-europe-2020-01-01, "),
        ("alps-weights", "alps-weights: the registry's files of this name hold weights; a store is built from states"),
        ("alps-statistics", "hold statistics"),
    ),
)
def test_wrong_names(alps: Path, name: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        make(alps, name)
    assert not (alps / "store").exists()


def test_files_are_verified_first(alps: Path) -> None:
    fill("alps-levels", b"something else")
    with pytest.raises(RegistryError, match="alps-levels"):
        make(alps, "alps")
    assert not (alps / "store").exists()


def test_states_of_the_registry_can_be_built_with_other_settings(cache: Path, tmp_path: Path) -> None:
    store = make(tmp_path, "era5-sample", source="pickle", variables=("2t", "t"), levels=(500,), step="12h")
    assert (store.surface, store.atmospheric, store.levels) == (("2t",), ("t",), (500,))
    assert store.attributes["synthetic"] is True
    assert store.attributes["licence"] == "MIT"


def test_the_wrong_reader_for_a_data_set_says_so(alps: Path) -> None:
    with pytest.raises(KitError, match="not a GRIB file"):
        make(alps, "alps", source="grib")


@pytest.mark.parametrize(
    ("name", "options"),
    (
        ("era5-europe-2020-01-01", {"statics": ("coslat", "sinlat")}),
        ("era5-global-tl31-1959", {"statics": ("coslat",), "train": "1959-01-02/1959-01-02"}),
    ),
)
def test_real_data_sets_by_name(name: str, options: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    folder = real_data(name)
    for entry in registry.dataset(name):
        fill(entry.name, (folder / entry.file).read_bytes())
    store = make(tmp_path, name, **options)
    assert store.attributes["registry"] == name
    assert "Copernicus Climate Change Service" in store.attributes["licence"]
    assert len(store.attributes["registry_files"]) == len(registry.dataset(name))


def test_stores_in_the_cloud_by_name_and_by_address(cache: Path) -> None:
    origin = locate("arco-era5", "zarr")
    assert origin.paths == ("gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3",)
    assert origin.licence.startswith("Copernicus")
    assert origin.attributes["registry"] == "arco-era5"
    address = "https://example.org/a.zarr"
    assert locate(address, "zarr").paths == (address,)
    with pytest.raises(StoreError, match="is a Zarr store, which is read where it is: --source zarr"):
        locate("arco-era5", "netcdf")
    with pytest.raises(StoreError, match="no such file or folder"):
        locate(address, "netcdf")
