"""Forecasts: the same numbers as the model's own, in the right place of a file, and nothing half done."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from aurora import Batch, rollout
from pydantic import ValidationError

from kit.checkpoint.folder import open_checkpoint
from kit.cli.main import main
from kit.forecasting import forecast as room
from kit.forecasting.describing import described_head
from kit.forecasting.forecast import forecast
from kit.forecasting.predictor import Conditions, load_forecast_predictor
from kit.forecasting.rolling import check_prediction, roll_out
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import CheckpointError, SettingsError, StoreError
from tests.adapt.models import awake_model
from tests.batches import small_spec, synthetic_batch
from tests.checkpoints import LEVELS, redescribe, store_for, write_delta, write_whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store, a whole model, two deltas on it, and a delta on another."""
    folder = tmp_path_factory.mktemp("forecast")
    store = store_for(folder / "store", times=12)
    base, other = write_whole(folder / "base", store), write_whole(folder / "other", store, seed=5)
    deltas = [write_delta(folder / f"delta{seed}", base, store, seed=seed) for seed in (1, 2)]
    stranger = write_delta(folder / "stranger", other, store)
    return SimpleNamespace(store=store, base=base, deltas=deltas, stranger=stranger, folder=folder)


def run(out: Path, *checkpoints: Path, **changes: Any) -> dict[str, Any]:
    raw = {"checkpoint": checkpoints, "out": out, "device": "cpu", "steps": 2, **changes}
    return forecast(ForecastSettings.model_validate(raw)).to_dict()


def opened(out: Path) -> xr.Dataset:
    dataset = xr.open_zarr(out) if out.suffix == ".zarr" else xr.open_dataset(out)
    with dataset:
        return dataset.load()


def by_hand(checkpoint: Path, start: int, steps: int) -> list[Batch]:
    """Upstream's own roll-out from the states ``start - 1`` and ``start`` of the store."""
    predictor = load_forecast_predictor(open_checkpoint(checkpoint), Conditions(device="cpu"))
    model, spec = predictor.space.model, predictor.space.spec
    with torch.inference_mode(), spec.statistics.installed():
        return list(rollout(model, predictor.pairs.inputs([start - 1]), steps=steps))


@pytest.mark.parametrize("suffix", (".nc", ".zarr"))
def test_a_forecast_is_upstreams_roll_out(made: SimpleNamespace, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"f{suffix}"
    result = run(out, made.base, steps=3, start=("2020-01-01T12",))
    dataset = opened(out)
    assert dict(dataset.sizes) == {"time": 1, "lead_time": 3, "level": 3, "latitude": 16, "longitude": 32}
    for step, batch in enumerate(by_hand(made.base, 2, 3)):
        for name, value in (batch.surf_vars | batch.atmos_vars).items():
            np.testing.assert_array_equal(dataset[name].values[0, step], value[0, 0].numpy(), err_msg=name)
    assert result["lead_hours"] == [6, 12, 18]
    assert result["start"] == ["2020-01-01T12:00"]
    assert result["variables"] == ["2t", "10u", "10v", "msl", "z", "u", "v", "t", "q"]
    assert result["bytes"] > 3 * (4 + 15) * 16 * 32 * 4 / (2 if suffix == ".zarr" else 1)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("suffix", (".nc", ".zarr"))
def test_the_file_says_what_it_holds(made: SimpleNamespace, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"f{suffix}"
    run(out, made.base, start=("2020-01-01T12", "2020-01-02T00/2020-01-02T06"))
    dataset = opened(out)
    hours = ["2020-01-01T12", "2020-01-02T00", "2020-01-02T06"]
    assert dataset.time.values.astype("datetime64[h]").astype(str).tolist() == hours
    assert dataset.lead_time.values.tolist() == [6 * 3600 * 10**9, 12 * 3600 * 10**9]
    np.testing.assert_array_equal(dataset.valid_time, dataset.time + dataset.lead_time)
    assert dataset.time.attrs["standard_name"] == "forecast_reference_time"
    assert dataset.lead_time.attrs["standard_name"] == "forecast_period"
    assert dataset.valid_time.attrs["standard_name"] == "time"
    assert (dataset.level.attrs["units"], dataset.level.values.tolist()) == ("hPa", list(LEVELS))
    np.testing.assert_array_equal(dataset.latitude, made.store.latitude)
    np.testing.assert_array_equal(dataset.longitude, made.store.longitude)
    assert dataset.t.dims == ("time", "lead_time", "level", "latitude", "longitude")
    assert dataset["2t"].dims == ("time", "lead_time", "latitude", "longitude")
    assert dataset["2t"].dtype == np.float32
    told = {key: dataset["10u"].attrs[key] for key in ("units", "standard_name", "long_name")}
    assert told == {"units": "m s-1", "standard_name": "eastward_wind", "long_name": "10 metre U wind component"}
    assert dataset.attrs["Conventions"] == "CF-1.11"
    assert dataset.attrs["synthetic"] in (True, "true")
    encoding = dataset.t.encoding
    assert tuple(encoding.get("chunksizes") or encoding["chunks"]) == (1, 1, 3, 16, 32)


def test_a_box_across_greenwich_is_written_without_its_halo(made: SimpleNamespace, tmp_path: Path) -> None:
    """At 11.25 degrees a column; patches of four columns, the halo of one patch on each side."""
    copied = tmp_path / "copied"
    shutil.copytree(made.base, copied)
    description = json.loads((copied / "kit.json").read_text())
    description["data"] |= {"region": [60, -45, -60, 40], "halo": 45.0}
    redescribe(copied, lambda _: json.dumps(description))
    result = run(tmp_path / "f.nc", copied, steps=1, start=("2020-01-01T12",))
    dataset = opened(tmp_path / "f.nc")
    assert dataset.longitude.values.tolist() == [-45, -33.75, -22.5, -11.25, 0, 11.25, 22.5, 33.75]
    assert result["grid"] == [len(dataset.latitude), 8]
    predictor = load_forecast_predictor(open_checkpoint(copied), Conditions(device="cpu"))
    rows, columns = predictor.pairs.selection.grid.window or (slice(None), slice(None))
    with torch.no_grad():
        (expected,) = roll_out(predictor.space, predictor.pairs.inputs([1]), 1)
    assert expected.surf_vars["2t"].shape[-1] > 8
    np.testing.assert_array_equal(dataset["2t"][0, 0], expected.surf_vars["2t"][0, 0, rows, columns])
    np.testing.assert_array_equal(dataset["t"][0, 0], expected.atmos_vars["t"][0, 0, :, rows, columns])


def test_the_default_start_is_the_first_of_the_test_split(made: SimpleNamespace, tmp_path: Path) -> None:
    """Of twelve states the last three are for tests, from 2020-01-03T06; two are read."""
    assert run(tmp_path / "f.nc", made.base, steps=1)["start"] == ["2020-01-03T12:00"]


def test_the_same_bytes_every_time(made: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a.nc", "b.nc"):
        run(tmp_path / name, made.base, steps=1)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_members_are_each_checkpoints_own_forecast(made: SimpleNamespace, tmp_path: Path) -> None:
    alone = []
    for number, delta in enumerate(made.deltas):
        run(tmp_path / f"{number}.nc", delta)
        alone.append(opened(tmp_path / f"{number}.nc"))
    result = run(tmp_path / "all.nc", *made.deltas)
    together = opened(tmp_path / "all.nc")
    assert result["members"] == together.sizes["member"] == 2
    assert together.member.attrs["standard_name"] == "realization"
    assert together.attrs["checkpoint"] == "delta1, delta2"
    for number, expected in enumerate(alone):
        for name in expected.data_vars:
            np.testing.assert_array_equal(together[name].values[number], expected[name].values)
    assert not np.array_equal(alone[0]["2t"], alone[1]["2t"])


@pytest.mark.parametrize("suffix", (".nc", ".zarr"))
def test_the_mean_is_that_of_the_members(made: SimpleNamespace, tmp_path: Path, suffix: str) -> None:
    run(tmp_path / "all.nc", *made.deltas)
    result = run(tmp_path / f"mean{suffix}", *made.deltas, members="mean")
    each, mean = opened(tmp_path / "all.nc"), opened(tmp_path / f"mean{suffix}")
    assert result["written"] == "mean"
    assert "member" not in mean.sizes
    assert mean["2t"].attrs["cell_methods"] == "realization: mean"
    for name in mean.data_vars:
        np.testing.assert_allclose(mean[name], each[name].mean("member"), rtol=1e-6)


def test_the_command_takes_checkpoints_one_by_one_or_together(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, made.deltas)
    ways = (["--checkpoint", first, "--checkpoint", second], ["--checkpoint", f"{first},{second}"])
    for number, way in enumerate(ways):
        out = str(tmp_path / f"{number}.nc")
        code = main(["forecast", *way, "--out", out, "--steps", "1", "--device", "cpu", "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert json.loads(captured.out)["checkpoint"] == [first, second]


def test_initial_states_may_come_from_a_netcdf_file(made: SimpleNamespace, tmp_path: Path) -> None:
    """Two states are enough, and then there is one time to start from."""
    run(tmp_path / "expected.nc", made.base, start=("2020-01-01T12",))
    states = xr.open_zarr(made.store.path).isel(time=slice(1, 3))
    states = states.rename({name: str(name).removeprefix("static_") for name in ("static_lsm", "static_slt")})
    states.attrs.clear()
    states.rename(static_z="orography").drop_encoding().to_netcdf(tmp_path / "initial.nc")
    result = run(tmp_path / "f.nc", made.base, data={"store": str(tmp_path / "initial.nc")})
    assert result["start"] == ["2020-01-01T12:00"]
    assert result["store"] == str(tmp_path / "initial.nc")
    expected, got = opened(tmp_path / "expected.nc"), opened(tmp_path / "f.nc")
    for name in expected.data_vars:
        np.testing.assert_array_equal(got[name], expected[name])
    assert got.attrs["initial_states"] == "initial.nc"


def test_memory_does_not_grow_with_the_steps(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of predictions made before, none but the last is still held when the next is there."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    plain = check_prediction

    def look(prediction: Batch, *others: Any) -> None:
        alive.append(sum(reference() is not None for reference in held))
        held.append(weakref.ref(prediction.surf_vars["2t"]))
        plain(prediction, *others)

    monkeypatch.setattr(room, "check_prediction", look)
    run(tmp_path / "f.nc", made.base, steps=6, start=("2020-01-01T12",))
    assert len(alive) == 6
    assert max(alive) <= 1


@pytest.mark.parametrize("suffix", (".nc", ".zarr"))
def test_a_failure_on_the_way_leaves_nothing(
    made: SimpleNamespace, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = check_prediction

    def fail(prediction: Batch, space: Any, step: int, member: str) -> None:
        if step == 2:
            prediction.surf_vars["msl"].view(-1)[0] = torch.nan
        plain(prediction, space, step, member)

    monkeypatch.setattr(room, "check_prediction", fail)
    message = r"breaks down at step 2 \(\+12 h, valid 2020-01-02T00:00\): the prediction holds NaN or Inf in msl"
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / "out" / f"f{suffix}", made.base, steps=3, start=("2020-01-01T12",))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_told_before_and_while_it_fills(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = SimpleNamespace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SettingsError, match="the forecast takes 0.00 GiB, and the disk has 0.00 free"):
        run(tmp_path / "f.nc", made.base)

    from kit.forecasting.writing import _NetCDFWriter

    def fail(self: _NetCDFWriter, *_: Any) -> None:
        with self._system_errors():
            usage.free = 0
            msg = "NetCDF: HDF error"
            raise RuntimeError(msg)

    usage.free = 10**9
    monkeypatch.setattr(_NetCDFWriter, "write", fail)
    code = main(["forecast", "--checkpoint", str(made.base), "--out", str(tmp_path / "f.nc"), "--device", "cpu"])
    assert code == 2
    assert "no space left while writing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "message"),
    (
        ("2020-01-01T09", "no initial state at 2020-01-01T09:00: 2 states 6 h apart, .* 2020-01-01T06:00 and .*T12:00"),
        ("2020-01-01T00", "at 2020-01-01T00:00: .* The nearest possible is 2020-01-01T06:00"),
        ("2021-01-01", "at 2021-01-01T00:00: .* The nearest possible is 2020-01-03T18:00"),
        ("2020-01-01T07/2020-01-01T11", "no initial state in 2020-01-01T07:00/2020-01-01T11:00"),
    ),
)
def test_a_start_that_is_not_there_names_the_nearest(
    made: SimpleNamespace, tmp_path: Path, start: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        run(tmp_path / "f.nc", made.base, start=(start,))


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"out": "f.grib"}, r"expected a name that ends in .nc or .zarr, got 'f.grib'"),
        ({"steps": 0}, "greater than 0"),
        ({"start": ("yesterday",)}, "expected a time such as 2020-01-01T06, or a range START/END, got 'yesterday'"),
        ({"start": ("2020-01-02/2020-01-01",)}, "it ends before it starts"),
        ({"members": "mean"}, "mean has no effect with one checkpoint"),
        ({"checkpoint": ("a", "a")}, "one is given twice"),
        ({"checkpoint": ()}, "at least 1"),
    ),
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ForecastSettings.model_validate({"checkpoint": ("a",), "out": "f.nc", **changes})


def test_what_is_there_is_not_written_over(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "f.nc").write_text("mine")
    with pytest.raises(SettingsError, match="exists already; choose another place with --out"):
        run(tmp_path / "f.nc", made.base)
    assert (tmp_path / "f.nc").read_text() == "mine"


def test_only_deltas_on_one_base_are_an_ensemble(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"delta1 belongs to weights with SHA-256 \w+, .*stranger to others with"):
        run(tmp_path / "f.nc", made.deltas[0], made.stranger)
    with pytest.raises(CheckpointError, match="base holds a whole model"):
        run(tmp_path / "f.nc", made.deltas[0], made.base)


def test_a_store_without_the_test_split_asks_for_a_start(made: SimpleNamespace, tmp_path: Path) -> None:
    later = store_for(tmp_path / "later", start="2021-05-01")
    with pytest.raises(StoreError, match=r"no initial state in the checkpoint's test split .* choose with --start"):
        run(tmp_path / "f.nc", made.base, data={"store": str(later.path)})


def test_a_store_that_is_gone_is_told_as_the_checkpoints_own(made: SimpleNamespace, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(made.base, copied)
    description = json.loads((copied / "kit.json").read_text())
    description["data"]["store"] = str(tmp_path / "gone")
    redescribe(copied, lambda _: json.dumps(description))
    with pytest.raises(StoreError, match="the store that the checkpoint was trained on cannot be had; name another"):
        run(tmp_path / "f.nc", copied)


def test_missing_values_in_the_initial_state_are_told(made: SimpleNamespace, tmp_path: Path) -> None:
    import zarr

    shutil.copytree(made.store.path, tmp_path / "store")
    array: Any = zarr.open_group(tmp_path / "store")["10v"]
    array[2, 3, 3] = np.nan
    with pytest.raises(CheckpointError, match="the initial state of 2020-01-01T12:00 holds NaN or Inf in 10v"):
        run(tmp_path / "f.nc", made.base, data={"store": str(tmp_path / "store")}, start=("2020-01-01T12",))


@pytest.mark.parametrize("variant", ("wave", "air-pollution", "v1p5"))
def test_every_step_has_a_stores_names(variant: str) -> None:
    """Derived channels go, and what is never read is predicted all the same."""
    from kit.models.space import TrainingSpace

    spec = small_spec(variant)
    space = TrainingSpace(awake_model(spec), spec)
    state = synthetic_batch(spec)
    names = set(spec.upstream.physical(spec.surface))
    with torch.no_grad():
        steps = list(roll_out(space, state, 2))
    for step, prediction in enumerate(steps, start=1):
        assert set(prediction.surf_vars) == names
        assert set(prediction.atmos_vars) == set(spec.atmospheric)
        assert prediction.metadata.time[0] == state.metadata.time[0] + step * spec.timestep


def test_what_heads_say_is_described() -> None:
    variable = {"long_name": "Total precipitation", "units": "m", "standard_name": "x"}
    occurrence = described_head("occurrence", variable)
    assert occurrence == {"long_name": "Probability of total precipitation of 0.1 mm or more", "units": "1"}
    assert described_head("q2_5", variable)["long_name"] == "Total precipitation, quantile of 2.5 %"
    assert described_head("q95", variable)["units"] == "m"


def test_what_does_not_predict_all_that_it_reads_goes_one_step(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.models.space import TrainingSpace

    plain = TrainingSpace.step

    def partial(self: TrainingSpace, inputs: Batch) -> Any:
        fields, prediction = plain(self, inputs)
        del prediction.surf_vars["msl"]
        return fields, prediction

    monkeypatch.setattr(TrainingSpace, "step", partial)
    with pytest.raises(CheckpointError, match="cannot go on after step 1: a prediction without msl .* with --steps 1"):
        run(tmp_path / "f.nc", made.base)
    assert "msl" not in run(tmp_path / "f.nc", made.base, steps=1)["variables"]
