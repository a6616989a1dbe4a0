"""``kit data stats``: recorded and computed, held against references, verdicts and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.checks.settings import StatsSettings
from kit.checks.statistics_report import statistics_report
from kit.cli.main import main
from kit.data.statistics import StoreStatistics
from kit.data.store.reader import Store
from kit.data.store.update_statistics import measure
from kit.io.errors import SettingsError, StoreError
from kit.models.transforms import parse_transform
from tests.factories import synthetic_dataset, write_synthetic
from tests.real_data import real_data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Store:
    dataset = synthetic_dataset(surface=("2t", "msl", "tp", "cape"), levels=(500, 850), times=10)
    rng = np.random.default_rng(0)
    tail = rng.exponential(200.0, dataset["cape"].shape).astype("f4") ** 2
    dataset["cape"] = xr.DataArray(tail / 400, dims=dataset["cape"].dims)
    dataset["tp"] = dataset["tp"] * 0 + xr.DataArray(tail * 1e-9, dims=dataset["tp"].dims)
    return write_synthetic(dataset, tmp_path_factory.mktemp("stats") / "store")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path_factory.getbasetemp() / "stats-cache"))


def result_of(store: Store | Path, **settings: Any) -> dict[str, Any]:
    path = store.path if isinstance(store, Store) else store
    return statistics_report(StatsSettings(store=str(path), **{"states": 0, **settings}))


def channel(result: dict[str, Any], key: str) -> dict[str, Any]:
    (found,) = (one for one in result["drift"]["channels"] if one["key"] == key)
    return dict(found)


def test_what_is_recorded_is_shown_in_order_without_reading(built: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    result_of(built)
    monkeypatch.setattr(Store, "read", None)
    result = result_of(built)
    assert (result["recorded"], result["split"], result["states"], result["passed"]) == (True, "train", 6, True)
    keys = ["2t", "cape", "msl", "tp", "q_500", "q_850", "t_500", "t_850", "u_500", "u_850", "v_500", "v_850"]
    assert list(result["variables"]) == [*keys, "z_500", "z_850", "static_lsm", "static_slt", "static_z"]
    recorded = built.statistics.variables["t_500"].model_dump(mode="json")
    assert result["variables"]["t_500"].items() >= recorded.items()


def test_each_channel_says_what_it_is_normalised_by(built: Store) -> None:
    from kit.models.transforms import fit

    found = result_of(built, transforms={"cape": "sqrt"})["variables"]
    assert found["msl"]["normalised_by"] == "upstream"
    assert found["msl"]["scale"] == pytest.approx(1332.246, rel=1e-5)
    assert (found["tp"]["transform"], found["tp"]["location"], found["tp"]["normalised_by"]) == (
        "log1p:1e-05",
        0,
        "store",
    )
    (rain,) = fit(built, "tp", parse_transform("log1p", where=""))
    assert found["tp"]["scale"] == rain.scale
    # The root of a squared exponential is an exponential, whose skewness is 2; that of its square is 6.6.
    assert found["cape"]["transformed_skewness"] == pytest.approx(2, rel=0.2)
    assert found["cape"]["skewness"] > 4
    plain = result_of(built)
    assert plain["variables"]["cape"]["transform"] == "identity"
    assert plain["variables"]["cape"]["scale"] == built.statistics.variables["cape"].std
    (advice,) = plain["advice"]
    assert advice.startswith("cape: its skewness is ")
    assert "--transforms cape=sqrt" in advice


def test_another_period_or_weighting_is_computed(built: Store) -> None:
    valid = result_of(built, split="valid")
    expected = measure(built, built.splits["valid"]).variables["2t"]
    assert (valid["recorded"], valid["period"]) == (False, str(built.splits["valid"]))
    assert valid["variables"]["2t"]["mean"] == expected.mean
    times = result_of(built, times=str(built.splits["valid"]))
    assert (times["split"], times["variables"]["2t"]["mean"]) == (None, expected.mean)
    assert result_of(built, recompute=True)["variables"] == result_of(built)["variables"]
    by_area = result_of(built, weights="area")
    assert (by_area["weights"], by_area["recorded"]) == ("area", False)
    assert by_area["variables"]["2t"]["std"] != built.statistics.variables["2t"].std


def test_statistics_that_lack_a_channel_are_refused(built: Store, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(built.path, tmp_path / "store")
    content = json.loads((tmp_path / "store" / "stats.json").read_text())
    del content["variables"]["t_500"]
    (tmp_path / "store" / "stats.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="stats.json lacks t_500; see `kit data qa`"):
        result_of(tmp_path / "store")


def test_a_long_reading_says_how_far_it_is(
    built: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kit.checks.statistics_report._EVERY", 0.0)
    with caplog.at_level("INFO", logger="kit"):
        result_of(built, recompute=True, states=2)
    told = [record.getMessage() for record in caplog.records]
    assert f"statistics of {built.statistics.train}: 54 of 54 fields read" in told
    assert "comparing the splits: 54 of 54 fields read" in told


def test_nothing_is_written_unless_asked_for(built: Store, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(built.path, tmp_path / "store")
    file = tmp_path / "store" / "stats.json"
    before = [path.read_bytes() for path in (file, tmp_path / "store" / "zarr.json")]
    assert result_of(tmp_path / "store", weights="area")["written"] is None
    assert file.read_bytes() == before[0]
    assert result_of(tmp_path / "store", weights="area", write=True)["written"] == str(file)
    store = Store.open(tmp_path / "store")
    assert store.statistics == measure(store, store.statistics.train, "area")
    store.verify()
    assert list(store.path.glob(".*")) == list(store.path.glob("stats-*")) == []
    # As built: the same bytes come back.
    result_of(tmp_path / "store", weights="none", write=True)
    assert StoreStatistics.load(file) == built.statistics
    assert [path.read_bytes() for path in (file, tmp_path / "store" / "zarr.json")] == before


def test_statistics_are_the_old_or_the_new_wherever_writing_them_ends(
    built: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from kit.data.store.update_statistics import restate
    from kit.io.atomic import write_atomically

    shutil.copytree(built.path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    new = measure(store, store.statistics.train, "area")
    left: list[str] = []

    def failing(path: Path, text: str) -> None:
        if not left:
            raise OSError(28, "No space left on device")
        assert left.pop(0) in path.name
        write_atomically(path, text)

    monkeypatch.setattr("kit.data.store.update_statistics.write_atomically", failing)
    for steps, weights in (([], "none"), (["stats-"], "none"), (["stats-", "zarr.json"], "area")):
        left[:] = steps
        with pytest.raises(OSError, match="No space"):
            restate(store.path, new)
        assert Store.open(store.path).statistics.weights == weights
    left[:] = ["stats-", "zarr.json", "stats.json"]
    restate(store.path, new)
    Store.open(store.path).verify()


def test_statistics_stay_while_states_are_appended(built: Store, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(built.path, tmp_path / "store")
    (tmp_path / ".store.append.part").mkdir()
    with pytest.raises(StoreError, match="states are being appended to it"):
        result_of(tmp_path / "store", recompute=True, write=True)


def test_a_store_of_the_cache_stays_as_it_is() -> None:
    with pytest.raises(SettingsError, match="write: era5-sample is built into the kit's cache"):
        statistics_report(StatsSettings(store="era5-sample", write=True))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    (
        ({"transforms": {"2t": "sqrt"}}, r"transforms.2t: sqrt cannot be had: .* 2t runs from 150 K"),
        ({"transforms": {"sd": "sqrt"}}, r"transforms.sd: .* has no such variable; it has 2t, "),
        ({"transforms": {"tp": "cube"}}, r"model.transforms.tp: expected one of"),
    ),
)
def test_transforms_that_cannot_be_had(built: Store, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        result_of(built, **settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    (
        ({"split": "train", "times": "2020-01-01/2020-01-02"}, "give one of them"),
        ({"split": "valid", "write": True}, "not of split valid"),
        ({"times": "2020-01-01/2020-01-02", "recompute": True}, "recompute has no effect"),
    ),
)
def test_settings_at_odds(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StatsSettings(store="s", **settings)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    store = write_synthetic(synthetic_dataset(times=4), tmp_path / "s", splits={"train": "2020-01-01/2020-01-02"})
    with pytest.raises(StoreError, match="the store has no split 'valid'; it has train"):
        result_of(store, split="valid")


def test_the_shipped_statistics_that_are_off_by_seven(built: Store, capsys: pytest.CaptureFixture[str]) -> None:
    file = real_data("era5-western-usa-2025-01") / "era5_surface_stats.json"
    assert main(["data", "stats", str(file), "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert not result["passed"]
    assert {one["key"]: one["verdict"] for one in result["drift"]["channels"]} == {
        "2t": "ok", "10u": "ok", "10v": "ok", "msl": "error", "tcc": "ok",
    }  # fmt: skip
    found = channel(result, "msl")
    assert found["ratio"] == pytest.approx(6.87, abs=0.01)
    assert "6.9 times less in the loss" in found["effect"]
    # As the reference of a store that has pressures as they are.
    told = channel(result_of(built, against=str(file)), "msl")
    assert told["verdict"] == "error"
    assert told["effect"].startswith("the reference is at fault: it has mean 101620 and scale 9151.21, where upstream")


def test_a_store_against_another(built: Store, tmp_path: Path) -> None:
    other = write_synthetic(synthetic_dataset(surface=("2t",), levels=(500,), times=4, seed=1), tmp_path / "other")
    result = result_of(built, against=str(other.path))
    assert {one["key"] for one in result["drift"]["channels"]} == {"2t", "q_500", "t_500", "u_500", "v_500", "z_500"}
    assert channel(result, "t_500")["ratio"] == pytest.approx(1, abs=0.2)
    (tmp_path / "s.json").write_text('{"swh": [1, 2]}')
    with pytest.raises(StoreError, match="nothing to compare: .*s.json has statistics of swh, and none of 2t"):
        result_of(built, against=str(tmp_path / "s.json"))


def test_a_file_has_no_states_to_choose(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"2t": [278, 21]}')
    with pytest.raises(SettingsError, match="split would have no effect: .* is a file of statistics"):
        statistics_report(StatsSettings(store=str(tmp_path / "s.json"), split="valid"))
    told = statistics_report(StatsSettings(store=str(tmp_path / "s.json")))
    assert (told["passed"], told["variables"]) == (True, {"2t": {"mean": 278, "std": 21}})


def test_people_see_numbers_verdicts_and_remedies(built: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(built.path), "--transforms", "cape=sqrt", "--against", "upstream"]) == 0
    told = capsys.readouterr().err
    assert "train 2020-01-01T00:00/2020-01-02T06:00, 6 states, weights none, stats.json" in " ".join(told.split())
    assert "log1p:1e-05: 0," in told
    assert "against upstream: " in told
    assert "valid and test against train, 8 states of each: " in told
    assert "no verdict is an error" in told
