"""Scorecards: right numbers, the same in any process and time zone, and nothing skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.io.errors import CheckpointError, OutOfMemoryError, SettingsError, StoreError
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.factories import synthetic_store
from tests.processes import run
from tests.verification.summed import rmse, summed

# What the console script runs.
_KIT = "import sys; from kit.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> list[Path]:
    """Two checkpoints of stores with different statistics; the second one started from the first one's weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    made: list[Path] = []
    for name, seed in (("one", 1), ("two", 2)):
        store = synthetic_store(folder / f"store-{name}", times=16, seed=seed)
        raw: dict[str, Any] = {
            "run": {"name": name, "dir": folder},
            "data": {"store": str(store.path)},
            "model": {"weights": str(made[0]) if made else "random", "statistics": "store"},
            "optim": {"lr": 1e-3, "warmup": 2},
            "train": {"steps": 6},
        }
        made.append(Path(finetune(Settings.model_validate(raw)).checkpoint))
    return made


def scored(checkpoint: Path, **changes: Any) -> dict[str, Any]:
    return evaluate(EvaluateSettings.model_validate({"checkpoint": checkpoint, "device": "cpu", **changes})).to_dict()


@pytest.fixture(scope="module")
def results(checkpoints: list[Path]) -> list[dict[str, Any]]:
    """Of both checkpoints, as the settings have it by default; to be read only."""
    return [scored(checkpoint) for checkpoint in checkpoints]


def test_the_result_has_what_it_promises(checkpoints: list[Path]) -> None:
    result = scored(checkpoints[1])
    assert result["samples"] == 2  # four test states, of which two have two states before them
    assert result["lead_hours"] == 6
    assert set(result["scores"]) == {"2t", "10u", "10v", "msl"} | {
        f"{name}_{level}" for name in "tuvqz" for level in (100, 500, 850)
    }
    row = result["scores"]["t_500"]
    assert row.keys() >= {"rmse", "mae", "bias", "persistence_rmse", "skill", "base_rmse"}
    assert row["skill"] == pytest.approx(1 - row["rmse"] / row["persistence_rmse"])
    kept = json.loads((checkpoints[1].parents[1] / "scores.json").read_text())
    assert kept["scores"] == result["scores"]


@pytest.mark.slow
def test_every_lead_and_region_is_scored_and_earlier_ones_stay(tmp_path: Path, empty_database: Path) -> None:
    splits = {
        "train": "2020-01-01/2020-01-02",
        "valid": "2020-01-02T06/2020-01-03T18",
        "test": "2020-01-04/2020-01-12T18",
    }
    store = synthetic_store(tmp_path / "store", times=48, static=("lsm", "slt", "z"), splits=splits)
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    raw: dict[str, Any] = {
        "run": {"name": "a", "dir": tmp_path},
        "data": {"store": str(store.path)},
        "model": {"weights": "random"},
        "train": {"steps": 1},
    }
    checkpoint = Path(finetune(Settings.model_validate(raw)).checkpoint)
    first = scored(checkpoint, steps=4, base=False)
    assert list(first["leads"]) == ["006h", "012h", "018h", "024h"]
    assert first["leads"]["024h"]["2t"]["rmse"] == pytest.approx(first["scores"]["2t"]["rmse"], rel=1e-12)
    assert first["units"]["10ws"] == first["units"]["ws_500"] == "m s-1"
    second = scored(checkpoint, steps=1, base=False, regions=("tropics", "mine=60/0/0/90"))
    json.dumps(second, allow_nan=False)
    # Leads, dates and regions of the first evaluation are still there.
    assert second["leads"]["024h"] == first["leads"]["024h"]
    assert second["leads"]["006h"]["2t"]["dates"] > first["leads"]["006h"]["2t"]["dates"]
    assert second["regions"]["mine"].keys() == {"006h"}
    assert second["regions"]["tropics"].keys() == first["leads"].keys()
    row = second["leads"]["006h"]["2t"]
    assert row["rmse_low"] < row["rmse"] < row["rmse_high"]
    assert row["persistence_significant"] in (True, False)
    kept = json.loads((checkpoint.parents[1] / "scores.json").read_text())
    assert kept["leads"] == second["leads"]


def test_persistence_is_the_error_of_the_last_input_state(results: list[dict[str, Any]]) -> None:
    """By hand from the store: area-weighted RMSE between each target and the state before it."""
    from kit.data.store.reader import Store
    from kit.metrics.scores import area_weights

    result = results[0]
    store = Store.open(Path(result["store"]))
    last = len(store.times)
    states = store.read("2t", list(range(last - 3, last))).astype(np.float64)
    weights = area_weights(store.latitude).numpy()[:, None]
    expected = np.sqrt((np.diff(states, axis=0) ** 2 * weights).mean())
    assert result["scores"]["2t"]["persistence_rmse"] == pytest.approx(expected, rel=1e-6)


def test_a_forecast_further_ahead_is_upstreams_roll_out(checkpoints: list[Path], results: list[dict[str, Any]]) -> None:
    """Two steps: persistence over twelve hours, and the model on its own prediction."""
    import aurora
    import torch

    from kit.checkpoint.folder import open_checkpoint
    from kit.data.store.reader import Store
    from kit.forecasting.predictor import Conditions, load_predictor
    from kit.metrics.scores import area_weights

    result = scored(checkpoints[1], steps=2)
    assert (result["samples"], result["steps"], result["lead_hours"]) == (1, 2, 12)
    store = Store.open(Path(result["store"]))
    last = len(store.times) - 1
    first, target = store.read("2t", [last - 2, last]).astype(np.float64)
    weights = area_weights(store.latitude).numpy()[:, None]
    row = result["scores"]["2t"]
    assert row["persistence_rmse"] == pytest.approx(np.sqrt(((target - first) ** 2 * weights).mean()), rel=1e-6)
    predictor = load_predictor(open_checkpoint(checkpoints[1]), Conditions(device="cpu"))
    space = predictor.space
    with torch.no_grad(), space.spec.statistics.installed():
        *_, prediction = aurora.rollout(space.model, predictor.pairs[0].inputs, steps=2)
    assert int(prediction.metadata.time[0].timestamp()) == store.times[last].astype("datetime64[s]").astype(np.int64)
    error = prediction.surf_vars["2t"][0, 0].double().numpy() - target
    assert row["rmse"] == pytest.approx(np.sqrt((error**2 * weights).mean()), rel=1e-6)
    assert row["base_rmse"] != results[1]["scores"]["2t"]["base_rmse"]
    with pytest.raises(StoreError, match="no pair in .* the 3 that follow"):
        scored(checkpoints[1], steps=3)


def test_the_base_is_what_training_started_from(checkpoints: list[Path], results: list[dict[str, Any]]) -> None:
    """The base of the second checkpoint is the first one, under the statistics of the second."""
    result = results[1]
    assert all(row["base_rmse"] != row["rmse"] for row in result["scores"].values())
    assert "base_rmse" not in results[0]["scores"]["2t"]  # it started from random weights
    assert "base_rmse" not in scored(checkpoints[1], base=False)["scores"]["2t"]


@pytest.mark.slow
def test_two_checkpoints_in_one_process_agree_with_processes_of_their_own(
    checkpoints: list[Path], tmp_path: Path
) -> None:
    """And those run in another time zone."""
    together = [scored(checkpoint)["scores"] for checkpoint in (*checkpoints, checkpoints[0])]
    assert together[0] == together[2]
    assert together[0] != together[1]
    for checkpoint, here in zip(checkpoints, together, strict=False):
        words = ("evaluate", "--checkpoint", str(checkpoint), "--device", "cpu", "--json")
        printed = run(_KIT, *words, variables={"TZ": "America/Los_Angeles"}, folder=tmp_path)
        alone = json.loads(printed)["scores"]
        for key, row in here.items():
            assert alone[key] == pytest.approx(row, rel=1e-6), key


def test_another_period_and_another_store_can_be_asked_for(
    checkpoints: list[Path], results: list[dict[str, Any]]
) -> None:
    other = results[0]["store"].replace("store-one", "store-two")
    moved = scored(checkpoints[0], data={"store": other, "test": "2020-01-01/2020-01-02"})
    assert moved["store"] == other
    assert moved["samples"] == 3


def test_what_cannot_be_scored_is_an_error(checkpoints: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint folder with kit.json, found none; nearby are"):
        scored(checkpoints[0].parent)
    with pytest.raises(StoreError, match="there is no such folder"):
        scored(checkpoints[0], data={"store": str(tmp_path / "nowhere")})
    poor = synthetic_store(tmp_path / "poor", times=16, surface=("2t", "10u", "10v"))
    with pytest.raises(StoreError, match=r"'msl'|msl, which the store lacks"):
        scored(checkpoints[0], data={"store": str(poor.path)})


@pytest.mark.slow
def test_bands_change_no_score(checkpoints: list[Path], results: list[dict[str, Any]]) -> None:
    in_bands = scored(checkpoints[1], memory={"latitude_bands": 4, "window_bands": 2})
    # Not to the last bit on every processor: some multiply matrices of other sizes in another order.
    for name, row in results[1]["scores"].items():
        assert in_bands["scores"][name] == pytest.approx(row, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(
    ("memory", "message"),
    (
        (
            {"recompute": "blocks", "offload": ["inputs"]},
            r"memory.recompute has no effect in a forecast.*memory.offload",
        ),
        ({"fit": "24GiB"}, "memory.fit has no effect in a forecast; leave it out"),
        ({"frozen_weights": "bf16"}, "memory.frozen_weights bf16 is not exact here.* use --precision bf16"),
        ({"latitude_bands": 5}, "memory.latitude_bands is 5, but the grid has 4 rows of patches; use at most 4"),
    ),
)
def test_settings_of_memory_that_do_nothing_for_a_forecast_are_refused(
    checkpoints: list[Path], memory: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        scored(checkpoints[0], memory=memory)


@pytest.mark.slow
def test_frozen_weights_in_bf16_are_exact_where_the_forward_pass_is(checkpoints: list[Path]) -> None:
    """All are frozen in a forecast."""
    halved = scored(checkpoints[0], precision="bf16", memory={"frozen_weights": "bf16"})
    assert halved["scores"] == scored(checkpoints[0], precision="bf16")["scores"]


def test_a_lack_of_memory_is_told_with_what_helps(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from aurora.model.swin3d import MLP

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(MLP, "forward", fail)
    with pytest.raises(OutOfMemoryError) as caught:
        scored(checkpoints[0], batch_size=2)
    first, _, *advice = str(caught.value).splitlines()
    assert first.startswith("out of memory in the forward pass of backbone.encoder_layers.0.blocks.0.mlp: ")
    assert [line.split(" (")[0] for line in advice] == [
        "  --batch_size 1", "  --memory.window_bands 8", "  --memory.latitude_bands 8",
    ]  # fmt: skip


def test_waves_are_scored_where_there_are_some(tmp_path: Path) -> None:
    """On a store whose waves are absent over a quarter of the globe every score is a number."""
    import torch
    import zarr

    from kit.data.dataset import Pairs
    from kit.data.settings import DataSettings
    from kit.data.store.reader import Store
    from kit.models.resolve import select
    from kit.models.space import TrainingSpace
    from kit.models.variants import VARIANTS
    from tests.batches import small_spec

    wave = VARIANTS["wave"]
    names = wave.physical(wave.surface)
    path = synthetic_store(tmp_path / "wave", surface=names, static=wave.static, levels=(300, 500, 850), times=16).path
    group = zarr.open_group(path)
    for name in set(names) - {"2t", "10u", "10v", "msl"}:
        values = np.abs(np.asarray(group[name])) + 0.1
        values[..., :8] = np.nan
        group[name][:] = values  # type: ignore[index]
    mask = np.ones((16, 32), dtype=np.float32)
    mask[:, :8] = 0
    group["static_wmb"][:] = mask  # type: ignore[index]
    spec, store = small_spec("wave"), Store.open(path)
    torch.manual_seed(0)
    space = TrainingSpace(spec.build(), spec)
    # A density of 1/2 would be absence: the untrained head must lean towards presence.
    for name, parameter in space.model.decoder.surf_heads.named_parameters():
        if name.endswith("_density.bias"):
            torch.nn.init.constant_(parameter, 5.0)
    pairs = Pairs(store, select(spec, DataSettings(), store, 4), store.splits["test"])
    sums = summed(space, pairs, tmp_path / "sums.zarr")
    for channel in map(str, sums["channel"].values):
        assert all(np.isfinite(rmse(sums, channel, forecast)) for forecast in ("model", "persistence"))
    weights = sums.sel(forecast="model", moment="weight").sum("start")
    # Area weights are 1 in the mean, and the same in all columns.
    assert float(weights.sel(channel="swh")) == pytest.approx(2 * 16 * 24)
    assert float(weights.sel(channel="2t")) == pytest.approx(2 * 16 * 32)
