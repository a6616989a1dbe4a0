"""Anomaly correlation and skill over climatology through a whole evaluation, against NumPy; and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from kit.data.climatology.build import build_climatology
from kit.data.climatology.settings import ClimatologySettings
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.metrics.scores import area_weights
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.archive import read_archive
from kit.verification.scorecard import evaluate
from kit.verification.scoring import acc, rmse, score_rows
from kit.verification.settings import EvaluateSettings
from kit.verification.sums import MOMENTS
from tests.factories import synthetic_store
from tests.verification.forecasts import forecast_for

SPLITS = {
    "train": "2020-01-01/2020-01-02",
    "valid": "2020-01-02T06/2020-01-03T18",
    "test": "2020-01-04/2020-01-05T18",
}
CHANNELS = ("2t", "t_500", "10ws", "ws_850")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A checkpoint of a store of five days of 2020, two of which are tested."""
    folder = tmp_path_factory.mktemp("climatology")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    store = synthetic_store(folder / "store", times=20, splits=SPLITS, levels=(500, 850))
    raw: dict[str, Any] = {
        "run": {"name": "a", "dir": folder},
        "data": {"store": str(store.path)},
        "model": {"weights": "random"},
        "train": {"steps": 1},
    }
    return Path(finetune(Settings.model_validate(raw)).checkpoint)


def climatology_of(folder: Path, name: str, **options: Any) -> Path:
    """A climatology of all states of a store of its own."""
    store = synthetic_store(folder / f"store-{name}", **{"seed": 7, "levels": (500, 850), **options})
    out = folder / f"{name}.zarr"
    period = str(store.period)
    build_climatology(
        ClimatologySettings.model_validate({"store": str(store.path), "out": out, "period": period, "window_days": 5})
    )
    return out


@pytest.fixture(scope="module")
def climatology(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of January 2019, on the checkpoint's grid."""
    return climatology_of(tmp_path_factory.mktemp("usual"), "usual", start="2019-01-01", times=24)


def scored(checkpoint: Path, **changes: Any) -> dict[str, Any]:
    raw = {"checkpoint": checkpoint, "device": "cpu", "base": False, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


def states_of(source: Store | xr.Dataset, channel: str, index: int, time: np.datetime64) -> npt.NDArray[np.float64]:
    """A channel at a time: a store's state, or the usual one; of winds a store's speed is made of its components."""
    name, _, level = channel.partition("_")
    if isinstance(source, xr.Dataset):
        day = (time.astype("datetime64[D]") - time.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) + 1
        hour = int((time - time.astype("datetime64[D]")) / np.timedelta64(1, "h"))
        field = source[name].sel(hour=hour, dayofyear=day)
        found = field.sel(level=float(level)) if level else field
        return np.asarray(found.values, dtype=np.float64)
    parts = {"10ws": ("10u", "10v"), "ws": ("u", "v")}.get(name, (name,))
    values = [source.read(part, [index])[0].astype(np.float64) for part in parts]
    if level:
        values = [value[source.levels.index(float(level))] for value in values]
    return np.asarray(np.hypot(*values) if len(values) == 2 else values[0])


@pytest.mark.slow
def test_anomalies_are_those_that_numpy_finds(checkpoint: Path, climatology: Path, tmp_path: Path) -> None:
    """Persistence over 12 hours from every start date, north of 20 N too: WMO's formula, not centred anew."""
    result = scored(checkpoint, climatology=climatology, steps=2, out=tmp_path)
    (path,) = tmp_path.glob("*.zarr")
    archive = read_archive(path)
    sums = archive.of_lead(12)
    store, usual = Store.open(Path(result["store"])), xr.open_zarr(climatology, chunks=None)
    weights = area_weights(store.latitude).numpy()[:, None] * np.ones(store.shape)
    regions = {"all": weights, "northern-hemisphere": weights * (store.latitude >= 20)[:, None]}
    starts = archive.coordinates["start"]
    assert len(starts) == 5
    for channel in CHANNELS:
        for region, weight in regions.items():
            products, squares = np.zeros(3), 0.0
            for start in starts:
                index = int(np.flatnonzero(store.times == start)[0])
                valid = store.times[index + 2]
                last, came = (states_of(store, channel, number, valid) for number in (index, index + 2))
                normal = states_of(usual, channel, 0, valid)
                ours, theirs = last - normal, came - normal
                products += [
                    np.sum(weight * one * other) for one, other in ((ours, theirs), (ours, ours), (theirs, theirs))
                ]
                squares += np.sum(weight * theirs**2)
            held = sums.sel(channel=channel, region=region)
            of_persistence = held.sel(forecast="persistence").values.mean(axis=0)
            assert acc(of_persistence) == pytest.approx(products[0] / np.sqrt(products[1] * products[2]), abs=1e-6)
            row = result["leads"]["012h"][channel] if region == "all" else result["regions"][region]["012h"][channel]
            expected = np.sqrt(squares / (len(starts) * weight.sum()))
            assert row["climatology_rmse"] == pytest.approx(expected, rel=1e-6)
            # What is usual misses the targets by their departures.
            assert row["target_activity"] == pytest.approx(expected, rel=1e-6)
            assert row["skill_over_climatology"] == pytest.approx(1 - row["rmse"] / expected, rel=1e-5)
            assert -1 <= row["acc"] <= 1
            assert rmse(held.sel(forecast="climatology").values.mean(axis=0)) == pytest.approx(expected, rel=1e-6)


def test_anomalies_of_a_forecast_file_are_those_that_numpy_finds(tmp_path: Path) -> None:
    """Of forecasts and of persistence, 12 hours ahead; the speed of the wind has what is usual of its own."""
    made = forecast_for(tmp_path, start="2020-01-04")
    shape: dict[str, Any] = {"height": 8, "width": 16, "levels": made.store.levels}
    usual = climatology_of(tmp_path, "usual", start="2019-01-01", times=32, **shape)
    raw = {
        "forecast_file": made.own(tmp_path / "forecast.nc"),
        "data": {"store": str(made.store.path)},
        "climatology": str(usual),
    }
    result = evaluate(EvaluateSettings.model_validate(raw)).to_dict()
    store, opened = made.store, xr.open_zarr(usual, chunks=None)
    weights = area_weights(store.latitude).numpy()[:, None] * np.ones(store.shape)
    for channel in ("2t", "t_500", "10ws"):
        name, _, level = channel.partition("_")
        parts = [made.fields[part][:, 1].astype(np.float64) for part in {"10ws": ("10u", "10v")}.get(name, (name,))]
        if level:
            parts = [part[:, store.levels.index(float(level))] for part in parts]
        forecasts = np.hypot(*parts) if len(parts) == 2 else parts[0]
        products = {"acc": np.zeros(3), "persistence_acc": np.zeros(3)}
        for start in range(2):
            valid = store.times[start + 2]
            normal = states_of(opened, channel, 0, valid)
            theirs = states_of(store, channel, start + 2, valid) - normal
            last = states_of(store, channel, start, valid)
            for key, values in (("acc", forecasts[start]), ("persistence_acc", last)):
                ours = values - normal
                products[key] += [np.sum(weights * one) for one in (ours * theirs, ours**2, theirs**2)]
        row = result["leads"]["012h"][channel]
        for key, (both, own, true) in products.items():
            assert row[key] == pytest.approx(both / np.sqrt(own * true), abs=1e-6), (channel, key)
        assert row["acc"] > 0.9
    # The climatology has no rain.
    assert "acc" not in result["leads"]["012h"]["tp"]


@pytest.mark.slow
def test_sums_with_another_climatology_lie_apart(checkpoint: Path, climatology: Path, tmp_path: Path) -> None:
    other = climatology_of(tmp_path, "other", start="2018-01-01", times=24)
    folder = tmp_path / "sums"
    plain = scored(checkpoint, out=folder)
    with_one = scored(checkpoint, out=folder, climatology=str(climatology))
    scored(checkpoint, out=folder, climatology=str(other))
    assert len(list(folder.glob("*.zarr"))) == 3
    again = scored(checkpoint, out=folder)
    assert len(list(folder.glob("*.zarr"))) == 3
    assert again["leads"] == plain["leads"]
    row = with_one["leads"]["006h"]["2t"]
    assert "acc" not in plain["leads"]["006h"]["2t"]
    assert {key: row[key] for key in ("rmse", "bias")} == {
        key: plain["leads"]["006h"]["2t"][key] for key in ("rmse", "bias")
    }
    named = [read_archive(path).attributes.get("climatology") for path in folder.glob("*.zarr")]
    assert sorted(map(str, named)) == ["None", "other.zarr", "usual.zarr"]


@pytest.mark.slow
def test_variables_that_it_lacks_are_left_out_and_said(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    less = climatology_of(tmp_path, "less", start="2019-01-01", times=24, surface=("2t",), atmospheric=("t", "q"))
    rows = scored(checkpoint, climatology=str(less), out=tmp_path / "sums")["leads"]["006h"]
    assert {name for name, row in rows.items() if "acc" in row} == {"2t"} | {
        f"{name}_{level}" for name in "tq" for level in (500, 850)
    }
    assert "climatology_rmse" not in rows["10ws"]
    assert "no anomalies of 8 variables: 10u is not in it" in caplog.text


def test_what_is_tested_is_no_part_of_what_is_usual(checkpoint: Path, tmp_path: Path) -> None:
    same = climatology_of(tmp_path, "same", start="2020-01-01", times=20)
    with pytest.raises(SettingsError, match=r"averaged over 2020-01-01T00:00/2020-01-05T18:00, and 6 of the 6 times"):
        scored(checkpoint, climatology=str(same), out=tmp_path / "sums")
    assert not (tmp_path / "sums").exists()


def test_days_that_it_lacks_are_not_scored_without(checkpoint: Path, tmp_path: Path) -> None:
    few = climatology_of(tmp_path, "few", start="2019-01-01", times=16)
    with pytest.raises(SettingsError, match=r"has nothing for 2020-01-05T00:00, .* and 1 more, .* of the year 1 to 4"):
        scored(checkpoint, climatology=str(few), out=tmp_path / "sums")


def test_other_grids_are_not_scored_with(checkpoint: Path, tmp_path: Path) -> None:
    coarse = climatology_of(tmp_path, "coarse", start="2019-01-01", times=24, height=8, width=16)
    with pytest.raises(StoreError, match=r"has another grid: 8 x 16 points.* 16 x 32 points"):
        scored(checkpoint, climatology=str(coarse), out=tmp_path / "sums")


def test_a_period_needs_a_climatology(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="climatology_period: has no effect without climatology"):
        scored(checkpoint, climatology_period="1990/2019")


def test_correlations_have_intervals_where_there_are_anomalies() -> None:
    """Sixty dates of 500 points: anomalies that correlate by 0.8 and 0.5; a second channel has no climatology."""
    random = np.random.default_rng(0)

    def sums(correlation: float) -> npt.NDArray[np.float64]:
        found = np.full((60, 2, len(MOMENTS)), np.nan)
        for date in found:
            came = random.normal(size=500)
            ours = correlation * came + np.sqrt(1 - correlation**2) * random.normal(size=500)
            error = ours - came
            date[:, :4] = 500, error.sum(), np.abs(error).sum(), np.square(error).sum()
            date[0, 4:] = 500, np.square(ours).sum(), np.square(came).sum(), (ours * came).sum()
        return found

    row, without = score_rows(sums(0.8), {"persistence": sums(0.5)}, 1)
    assert row["acc"] == pytest.approx(0.8, abs=0.01)
    assert row["persistence_acc"] == pytest.approx(0.5, abs=0.02)
    low, high = row["acc_low"], row["acc_high"]
    assert low is not None
    assert high is not None
    assert 0.78 < low < 0.8 < high < 0.82
    assert not [name for name in without if "acc" in name]
