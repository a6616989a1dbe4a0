from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kit.data.settings import BuildSettings
from kit.data.store.build import build_store, default_splits, open_store
from kit.data.store.finalize import StoreExistsError
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form, write
from tests.factories import synthetic_dataset, synthetic_store
from tests.real_data import real_data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    write(new_form(("t2m", "u10"), times=13), folder / "instant.nc")
    write(new_form(("tp",), times=13), folder / "accumulated.nc")
    write(new_form(("t", "q"), levels=(500, 700, 850), times=13), folder / "levels.nc")
    write(new_form(("lsm",)).isel(valid_time=0, drop=True), folder / "statics.nc")
    return folder


def make(source: Path, **options: Any) -> Store:
    options = {"product": "era5"} | options
    return build_store(BuildSettings(source="netcdf", path=source, out=source.parent / "out" / "store", **options))


def test_everything_by_default(source: Path) -> None:
    store = make(source)
    assert store.surface == ("10u", "2t", "tp")
    assert store.atmospheric == ("q", "t")
    assert store.static == ("lsm",)
    assert store.levels == (500, 700, 850)
    assert store.attributes["source"] == "netcdf"
    assert len(store.attributes["source_files"]) == 4
    assert store.attributes["synthetic"] is False
    assert store.variable_attributes("tp")["accumulation_hours"] == 1
    assert store.variable_attributes("tp")["cell_methods"] == "time: sum (interval: 1 hour)"
    assert store.variable_attributes("2t")["cell_methods"] == "time: point"
    # 13 states: 9, 2 and 2.
    assert [len(store.indices(period)) for period in store.splits.values()] == [9, 2, 2]
    np.testing.assert_array_equal(store.read("2t", slice(None)), new_form(("t2m",), times=13)["t2m"])


def test_settings_may_be_keywords(source: Path, tmp_path: Path) -> None:
    store = build_store(source="netcdf", path=source, out=tmp_path / "keywords", variables=("2t",), workers=1)
    assert store.surface == ("2t",)
    assert open_store(store.path).fingerprint() == store.fingerprint()
    settings = BuildSettings(source="netcdf", path=str(source), out=tmp_path / "both")
    with pytest.raises(TypeError, match="settings or keywords, not both; got settings and step"):
        build_store(settings, step="6h")
    with pytest.raises(ValidationError, match="steps"):
        build_store(source="netcdf", path=source, out=tmp_path / "both", steps="6h")


def test_what_is_chosen(source: Path) -> None:
    store = make(
        source,
        variables=("2t", "t"),
        levels=(850, 500),
        statics=("coslat", "lsm"),
        train="2020-01-01T00/2020-01-01T05",
        licence="CC BY 4.0",
    )
    assert (store.surface, store.atmospheric, store.static) == (("2t",), ("t",), ("coslat", "lsm"))
    assert store.levels == (500, 850)
    assert store.statistics.states == 6
    assert list(store.splits) == ["train"]
    assert store.attributes["licence"] == "CC BY 4.0"
    assert "coslat derived from the coordinates" in store.attributes["history"]


def test_a_longer_step(source: Path) -> None:
    store = make(source, step="6h", train="2020-01-01/2020-01-01T12")
    hourly = new_form(("tp",), times=13)["tp"].values.astype(np.float64)
    assert store.times.astype("datetime64[h]").astype(str).tolist() == ["2020-01-01T06", "2020-01-01T12"]
    np.testing.assert_allclose(store.read("tp", [0])[0], hourly[1:7].sum(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(store.read("2t", [1])[0], new_form(("t2m",), times=13)["t2m"][12])
    assert store.variable_attributes("tp")["accumulation_hours"] == 6
    assert "2020-01-01T00:00 left out: hours that the sums need lie before the data" in store.attributes["history"]


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"variables": ("2t", "msl")}, r"the data lack the variables msl; they hold 10u, 2t, q, t, tp"),
        ({"levels": (500, 1000)}, r"lacks the levels 1000 hPa; the data hold 500, 700, 850"),
        ({"statics": ("wmb",)}, r"lack the static variables wmb; they hold lsm"),
        ({"valid": "2020-01-01/2020-01-02"}, r"valid given without train"),
        ({"train": "2021-01-01/2021-01-02"}, r"no state falls in train"),
        ({"step": "5h", "variables": ("2t",), "train": "2019-01-01/2019-01-02"}, r"no state falls in train"),
    ),
)
def test_what_cannot_be_leaves_nothing(source: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        make(source, **options)
    assert sorted(path.name for path in source.parent.iterdir()) == ["source"]


def test_times_that_differ_print_both_sides(source: Path) -> None:
    write(new_form(("msl",), times=12), source / "msl.nc")
    with pytest.raises(StoreError, match=r"differ in their times: 13 from 2020-01-01T00:00 .*; 12 from 2020-01-01T00"):
        make(source)


def test_levels_that_differ_can_be_chosen(source: Path) -> None:
    write(new_form(("u",), levels=(500, 850), times=13), source / "u.nc")
    with pytest.raises(StoreError, match=r"differ in their levels: 500, 700, 850 hPa; 500, 850 hPa"):
        make(source)
    assert make(source, levels=(500, 850)).atmospheric == ("q", "t", "u")


def test_data_without_statics_need_a_derived_one(source: Path) -> None:
    (source / "statics.nc").unlink()
    with pytest.raises(StoreError, match="name derived ones, such as `--statics coslat,sinlat`"):
        make(source)
    assert make(source, statics=("coslat",)).static == ("coslat",)


def test_existing_folders_and_absent_data(source: Path) -> None:
    make(source)
    with pytest.raises(StoreExistsError, match="exists already; choose another folder with --out"):
        make(source)
    settings = BuildSettings(source="pickle", path=source / "absent", out=source / "out")
    with pytest.raises(StoreError, match="no such file or folder; --path names the pickle data"):
        build_store(settings)


def test_the_same_data_make_the_same_store(source: Path) -> None:
    options: dict[str, Any] = {"source": "netcdf", "path": source, "product": "era5"}
    stores = [build_store(BuildSettings(out=source.parent / name, **options)) for name in ("a", "b")]
    assert stores[0].fingerprint() == stores[1].fingerprint()


def test_default_splits() -> None:
    times = np.datetime64("2020-01-01", "s") + np.arange(20) * np.timedelta64(6, "h")
    splits = {name: str(period) for name, period in default_splits(times).items()}
    assert splits == {
        "train": "2020-01-01T00:00/2020-01-04T06:00",
        "valid": "2020-01-04T12:00/2020-01-05T00:00",
        "test": "2020-01-05T06:00/2020-01-05T18:00",
    }
    assert len({str(period) for period in default_splits(times[:3]).values()}) == 3
    with pytest.raises(StoreError, match=r"2 state\(s\) cannot be split into train, valid and test"):
        default_splits(times[:2])


@pytest.mark.parametrize(("text", "hours"), (("6h", 6), ("12 hours", 12), ("1", 1), (3, 3)))
def test_steps_are_whole_hours(text: Any, hours: int) -> None:
    settings = BuildSettings(source="netcdf", path=Path("a"), out=Path("b"), step=text)
    assert settings.step == hours
    assert BuildSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("text", ("0h", "90min", "-6h", "six"))
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="expected whole hours such as 6h"):
        BuildSettings.model_validate({"source": "netcdf", "path": "a", "out": "b", "step": text})


# Opening by name.


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one entry, whose file lies in ``tmp_path``."""
    import hashlib

    from kit.registry import catalogue
    from kit.registry import entry as places

    dataset = synthetic_dataset(times=10, height=8, width=8)
    content = {str(name): array.values for name, array in {**dataset.data_vars, **dataset.coords}.items()}
    file = tmp_path / "sample.pickle"
    file.write_bytes(pickle.dumps(content))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "registry.toml").write_text(
        f'[my-sample]\nfile = "sample.pickle"\nurl = "embedded:sample.pickle"\nsha256 = "{digest}"\n'
        f'size = {file.stat().st_size}\nlicence = "MIT"\nkind = "states"\ndescription = "d"\nsynthetic = true\n'
    )
    monkeypatch.setattr(catalogue, "REGISTRY_PATH", tmp_path / "registry.toml")
    monkeypatch.setattr(places, "RESOURCES", tmp_path)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return file


def test_a_folder_is_opened(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4)
    assert open_store(str(tmp_path / "store")).fingerprint() == store.fingerprint()


def test_a_registry_entry_is_built_once(registry: Path, tmp_path: Path) -> None:
    store = open_store("my-sample")
    assert store.path.parent == tmp_path / "cache" / "stores"
    assert store.path.name == f"my-sample-{store.attributes['registry_sha256'][:12]}"
    assert store.attributes["synthetic"] is True
    assert store.attributes["registry"] == "my-sample"
    assert store.attributes["licence"] == "MIT"
    written = (store.path / "zarr.json").stat().st_mtime_ns
    assert (open_store("my-sample").path / "zarr.json").stat().st_mtime_ns == written


def test_a_damaged_store_in_the_cache_is_made_anew(registry: Path) -> None:
    store = open_store("my-sample")
    fingerprint = store.fingerprint()
    (store.path / "stats.json").unlink()
    assert open_store("my-sample").fingerprint() == fingerprint


def test_two_at_once(registry: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(open_store, ["my-sample"] * 2)
    assert first.fingerprint() == second.fingerprint()
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1


def test_a_tampered_file_is_refused_even_with_its_store_there(registry: Path) -> None:
    from kit.io.errors import RegistryError

    open_store("my-sample")
    registry.write_bytes(registry.read_bytes()[:-1] + b"x")
    with pytest.raises(RegistryError, match="my-sample"):
        open_store("my-sample")


def test_neither_folder_nor_entry(registry: Path) -> None:
    with pytest.raises(StoreError, match=r"'my-sampel': there is no such folder, and the registry's .* my-sample;"):
        open_store("my-sampel")


# Real data.


def test_real_europe(tmp_path: Path) -> None:
    settings = BuildSettings(
        source="netcdf",
        path=real_data("era5-europe-2020-01-01"),
        out=tmp_path / "store",
        product="era5",
        variables=("10u", "10v", "2d", "tp", "sp", "u", "v", "q"),
        statics=("coslat", "sinlat"),
        train="2020-01-01T00/2020-01-01T17",
        valid="2020-01-01T18/2020-01-01T23",
    )
    store = build_store(settings)
    assert store.read("q", slice(None)).shape == (24, 20, 41, 41)
    assert store.statistics.states == 18
    assert store.variable_attributes("tp")["units"] == "m"
    # Packing leaves -0.0 and the like, but no rain below zero worth the name.
    assert store.statistics.variables["tp"].min > -1e-9
    assert 95000 < store.statistics.variables["sp"].mean < 102000


def test_real_global_state(tmp_path: Path) -> None:
    settings = {"source": "netcdf", "path": real_data("era5-global-tl31-1959"), "out": tmp_path / "store"}
    with pytest.raises(StoreError, match="Aurora needs at least one"):
        build_store(BuildSettings.model_validate(settings))
    settings["statics"] = ("coslat",)
    with pytest.raises(StoreError, match=r"1 state\(s\) cannot be split"):
        build_store(BuildSettings.model_validate(settings))
    store = build_store(BuildSettings.model_validate({**settings, "train": "1959-01-02/1959-01-02"}))
    assert len(store.levels) == 37
    assert store.atmospheric == ("ciwc", "clwc", "q", "t", "u", "v", "z")
    assert (np.diff(store.latitude) < 0).all()
