"""Ensembles in files: scores of members and of their mean, beside what a single forecast has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scores import probability as library

from kit.verification.archive import MEMBERS, RANKS, SPECTRA, read_archive
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from kit.verification.spectra import MEMBER
from tests.verification.forecasts import Forecast, ensemble_for


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return ensemble_for(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="module")
def own(made: Forecast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.own(tmp_path_factory.mktemp("own") / "own.zarr")


def scored(made: Forecast, file: Path, **changes: Any) -> dict[str, Any]:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


@pytest.fixture(scope="module")
def of_own(made: Forecast, own: Path) -> dict[str, Any]:
    """Scores of the kit's own Zarr; to be read only."""
    return scored(made, own, regions=("tropics",))


def areas(made: Forecast) -> xr.DataArray:
    edges = np.concatenate([[90], (made.store.latitude[1:] + made.store.latitude[:-1]) / 2, [-90]])
    rows = -np.diff(np.sin(np.radians(edges)))
    return xr.DataArray(np.broadcast_to(rows[:, None], made.store.shape), dims=("y", "x"))


def came(made: Forecast, name: str, step: int) -> np.ndarray:
    states = made.store.read(name, slice(None)).astype(np.float64)
    return np.stack([states[start + 1 + step] for start in range(2)])


def test_scores_are_those_of_the_library_and_of_numpy(made: Forecast, of_own: dict[str, Any]) -> None:
    weights = areas(made)
    for name, level in (("2t", None), ("tp", None), ("z", 1)):
        for step in (0, 3):
            members, target = made.fields[name][:, :, step].astype(np.float64), came(made, name, step)
            key = name
            if level is not None:
                members, target, key = members[:, :, level], target[:, level], f"{name}_{made.store.levels[level]}"
            row = of_own["ensemble"][f"{6 * (step + 1):03d}h"][key]
            forecast = xr.DataArray(members, dims=("m", "start", "y", "x"))
            both = xr.DataArray(target, dims=("start", "y", "x"))
            expected = float(library.crps_for_ensemble(forecast, both, "m", method="fair", weights=weights))
            assert row["crps"] == pytest.approx(expected, rel=1e-6)
            area = np.stack([weights, weights])
            error = np.sqrt(np.average((members.mean(axis=0) - target) ** 2, weights=area))
            spread = np.sqrt(np.average(members.var(axis=0, ddof=1), weights=area))
            assert row["rmse"] == pytest.approx(error, rel=1e-6)
            assert row["spread"] == pytest.approx(spread, rel=1e-6)
            assert row["spread_error"] == pytest.approx(np.sqrt(5 / 4) * spread / error, rel=1e-6)
            assert row["dates"] == 2


def test_all_other_scores_are_of_the_mean(made: Forecast, of_own: dict[str, Any], tmp_path: Path) -> None:
    """But the speed of the wind is the mean of the members', which is more than that of the mean wind."""
    mean = replace(made, fields={name: values.mean(axis=0) for name, values in made.fields.items()})
    single = scored(made, mean.own(tmp_path / "mean.nc"))
    for name, row in of_own["leads"]["012h"].items():
        if name.startswith(("ws", "10ws")):
            assert row["bias"] > single["leads"]["012h"][name]["bias"]
            continue
        assert row["rmse"] == pytest.approx(single["leads"]["012h"][name]["rmse"], rel=1e-5)
        assert row["rmse"] == pytest.approx(of_own["ensemble"]["012h"][name]["rmse"], rel=1e-9)
    assert "ensemble" not in single
    assert of_own["members"] == 4


def test_speeds_of_the_wind_have_members_of_their_own(made: Forecast, of_own: dict[str, Any]) -> None:
    east, north = (made.fields[name][:, :, 0] for name in ("10u", "10v"))
    target = np.hypot(came(made, "10u", 0), came(made, "10v", 0))
    arrays = xr.DataArray(np.hypot(east, north).astype(np.float64), dims=("m", "start", "y", "x"))
    both = xr.DataArray(target, dims=("start", "y", "x"))
    expected = float(library.crps_for_ensemble(arrays, both, "m", method="fair", weights=areas(made)))
    assert of_own["ensemble"]["006h"]["10ws"]["crps"] == pytest.approx(expected, rel=1e-5)


def test_regions_and_persistence_are_scored_too(made: Forecast, of_own: dict[str, Any]) -> None:
    row = of_own["ensemble"]["006h"]["2t"]
    assert row["persistence_crps"] == pytest.approx(
        float(
            np.average(
                np.abs(made.store.read("2t", slice(0, 2)).astype(np.float64) - came(made, "2t", 0)),
                weights=np.stack([areas(made)] * 2),
            )
        ),
        rel=1e-9,
    )
    assert row["crps_skill"] == pytest.approx(1 - row["crps"] / row["persistence_crps"], rel=1e-12)
    inside = np.abs(made.store.latitude) <= 20
    weights = areas(made).values[inside]
    members = made.fields["2t"][:, :, 0, inside].astype(np.float64)
    spread = np.sqrt(np.average(members.var(axis=0, ddof=1), weights=np.stack([weights] * 2)))
    assert of_own["ensemble_regions"]["tropics"]["006h"]["2t"]["spread"] == pytest.approx(spread, rel=1e-6)


def test_several_channels_have_an_energy_score(made: Forecast, of_own: dict[str, Any]) -> None:
    """By the definition, all pairs of members at once: distances of vectors of standardised channels."""
    members, target = [], []
    for key in ("2t", "10u", "10v", "msl", "tp", "z_500", "t_850"):
        name, _, level = key.partition("_")
        at: tuple[Any, ...] = () if not level else (slice(None), made.store.levels.index(int(level)))
        scale = made.store.statistics.variables[key].std
        members.append(made.fields[name][:, :, 0][(slice(None), *at)].astype(np.float64) / scale)
        target.append(came(made, name, 0)[at] / scale)
    ours, theirs = np.stack(members), np.stack(target)
    to_target = np.linalg.norm(ours - theirs[:, None], axis=0).mean(axis=0)
    apart = np.linalg.norm(ours[:, :, None] - ours[:, None], axis=0).sum(axis=(0, 1))
    expected = np.average(to_target - apart / (2 * 4 * 3), weights=np.stack([areas(made)] * 2))
    row = of_own["ensemble"]["006h"]["headlines"]
    assert set(row) == {"dates", "energy_score"}
    assert row["energy_score"] == pytest.approx(expected, rel=1e-5)
    assert "energy_score" not in of_own["ensemble"]["006h"]["2t"]


def test_every_layout_gives_the_same_scores(made: Forecast, of_own: dict[str, Any], tmp_path: Path) -> None:
    """Members first or last, named as others name them, with coordinates of their own."""
    made.own(tmp_path / "own.nc")
    dataset = made.weatherbench()
    dataset.assign_coords(number=[3, 1, 7, 9]).to_netcdf(tmp_path / "wb2.nc")
    last = dataset.transpose("time", "prediction_timedelta", ..., "number").rename(number="realization")
    last.chunk({"time": 1}).to_zarr(tmp_path / "last.zarr", zarr_format=2)
    for name in ("own.nc", "wb2.nc", "last.zarr"):
        result = scored(made, tmp_path / name, regions=("tropics",))
        assert result["ensemble"] == of_own["ensemble"], name
        assert result["ensemble_regions"] == of_own["ensemble_regions"], name


def test_sums_of_members_are_kept_by_start_date(
    made: Forecast, own: Path, of_own: dict[str, Any], tmp_path: Path
) -> None:
    result = scored(made, own, out=tmp_path / "sums")
    (path,) = (tmp_path / "sums").glob("*.zarr")
    archive = read_archive(path)
    assert archive.arrays[MEMBERS].shape[:3] == (2, 4, 1)
    ranks = archive.of_lead(6, table=RANKS).sel(ranked="2t", region="all", ensemble="model")
    assert ranks.sizes["rank"] == 5
    # All of the area, on every date.
    np.testing.assert_allclose(ranks.sum("rank"), 8 * 16, rtol=1e-12)
    power = archive.of_lead(6, table=SPECTRA).sel(field="2t", band="tropics")
    assert float(power.sel(series=MEMBER)[0, 1:].sum()) > float(power.sel(series="model")[0, 1:].sum()) > 0
    assert xr.open_zarr(path, consolidated=False).sizes["rank"] == 5
    again = scored(made, own, out=tmp_path / "sums", regions=("tropics",))
    assert [one.name for one in (tmp_path / "sums").glob("*.zarr")] == [path.name]
    # Sums over several regions at once are rounded otherwise.
    ours, theirs = again["ensemble"]["006h"]["2t"], result["ensemble"]["006h"]["2t"]
    assert ours["crps"] == pytest.approx(theirs["crps"], rel=1e-12)
    assert ours["rank_histogram"] == pytest.approx(theirs["rank_histogram"], rel=1e-12)
    assert again["ensemble_regions"]["tropics"] == of_own["ensemble_regions"]["tropics"]
