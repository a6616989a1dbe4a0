"""Forecasts whose scores are known go through a whole evaluation: rain, spectra, what is added to earlier sums."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aurora import Batch

from kit.data.dataset import Pairs, Selection
from kit.data.grid import Grid
from kit.data.store.reader import Store
from kit.metrics.scores import area_weights
from kit.verification.archive import Axes, archiving, read_archive
from kit.verification.evaluation import Scoring, regions_of, sum_up
from kit.verification.scoring import score_table, spectra_table
from kit.verification.sums import MODEL, PERSISTENCE, States
from tests.factories import synthetic_store

STEPS = 2
SHARE = 0.75
"""Of rain and wind that is forecast."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("evaluation")
    surface = ("2t", "10u", "10v", "tp")
    return synthetic_store(folder / "s", surface=surface, atmospheric=("z",), static=(), levels=(500,), times=30)


@dataclass(frozen=True)
class Weakened:
    """What came, with less of the rain and of the wind."""

    store: Store
    may_be_missing: frozenset[str] = frozenset()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict(self, inputs: Batch, steps: Sequence[int]) -> Iterator[States]:
        (start,) = inputs.metadata.time
        first = self.store.times.tolist().index(start.replace(tzinfo=None))
        for step in steps:
            states = {}
            for name in ("2t", "10u", "10v", "tp", "z"):
                values = torch.from_numpy(self.store.read(name, [first + step]))
                states[name] = values if name in ("2t", "z") else SHARE * values
            yield states


def scoring_of(store: Store, starts: range) -> Scoring:
    """Score two steps from some states, over everything and the tropics."""
    surface = ("2t", "10u", "10v", "tp")
    selection = Selection(
        inputs=surface,
        targets=surface,
        atmospheric=("z",),
        static=(),
        levels=(500,),
        history=1,
        timestep=timedelta(hours=6),
        grid=Grid((0, store.shape[0]), (0, store.shape[1]), (0, 0)),
    )
    pairs = Pairs(store, selection, store.period, steps=0)
    chosen = {index: {step: index + step for step in range(1, STEPS + 1)} for index in starts}
    return Scoring(pairs, regions_of(pairs, ("tropics",)), chosen=chosen)


def evaluated(store: Store, path: Path, starts: range) -> None:
    scoring = scoring_of(store, starts)
    with archiving(path, scoring.axes([MODEL, PERSISTENCE]), {}) as writer:
        sum_up(Weakened(store), scoring, writer)


def csi(forecast: np.ndarray, observed: np.ndarray, weights: np.ndarray) -> float:
    ours, theirs = forecast >= 0.1, observed >= 0.1
    return float((weights * (ours & theirs)).sum() / (weights * (ours | theirs)).sum())


def test_rain_is_scored_by_lead_and_region(store: Store, tmp_path: Path) -> None:
    evaluated(store, tmp_path / "sums.zarr", range(25))
    table = score_table(read_archive(tmp_path / "sums.zarr"))
    assert table.keys() == {"all", "tropics"}
    row: Mapping[str, Any] = table["all"]["012h"]["tp"]
    rain = 1000 * store.read("tp", range(27)).astype(np.float64)
    weights = area_weights(store.latitude).numpy()[:, None]
    assert row["csi_0.1mm"] == pytest.approx(csi(SHARE * rain[2:], rain[2:], weights), rel=1e-6)
    assert row["persistence_csi_0.1mm"] == pytest.approx(csi(rain[:25], rain[2:], weights), rel=1e-6)
    tropics = np.abs(store.latitude) <= 20
    inside = csi(SHARE * rain[2:, tropics], rain[2:, tropics], weights[tropics])
    assert table["tropics"]["012h"]["tp"]["csi_0.1mm"] == pytest.approx(inside, rel=1e-6)
    assert 0 < inside < 1
    assert row["event_dates"] == row["dates"] == 25
    # Errors are a quarter of what fell, all of it too little.
    missed = (1 - SHARE) * (weights * rain[2:]).mean()
    assert row["bias_mm"] == pytest.approx(-missed, rel=1e-6)
    assert row["mae_mm"] == pytest.approx(missed, rel=1e-6)
    assert 0 <= row["csi_0.1mm_low"] <= row["csi_0.1mm"] <= row["csi_0.1mm_high"]
    assert 0 < row["fss_0.1mm_3x3"] < row["fss_0.1mm_7x7"] < 1
    # Without climatology nothing is known of dry and heavy.
    assert row["seeps"] is None
    assert "csi_0.1mm" not in table["all"]["012h"]["2t"]


def test_power_is_that_of_the_squared_amplitude(store: Store, tmp_path: Path) -> None:
    evaluated(store, tmp_path / "sums.zarr", range(3))
    found = spectra_table(read_archive(tmp_path / "sums.zarr"))
    assert found.keys() == {"006h", "012h"}
    for lead in found.values():
        assert lead.keys() == {"z_500", "2t", "10ws", "tp"}
        for channel, power in {"z_500": 1, "2t": 1, "10ws": SHARE**2, "tp": SHARE**2}.items():
            for row in lead[channel].values():
                # 32 columns have no wavenumber beyond 16.
                assert row["small"] is None
                assert (row["large"], row["medium"]) == pytest.approx((power, power), rel=1e-5)


def test_neighbourhoods_are_measured(store: Store) -> None:
    scoring = scoring_of(store, range(1))
    apart = 111.19 * abs(store.latitude[1] - store.latitude[0])
    expected = {"3x3": 3 * apart, "7x7": 7 * apart, "15x15": 15 * apart}
    assert scoring.neighbourhoods_km() == pytest.approx(expected, rel=1e-4)


def test_rain_is_added_to_sums_of_before_it_was_kept(store: Store, tmp_path: Path) -> None:
    """Sums of format 1 hold no events: dates that have none are counted apart."""
    path = tmp_path / "sums.zarr"
    before = scoring_of(store, range(3))
    held = before.axes([MODEL, PERSISTENCE])
    with archiving(path, Axes(held.starts, held.leads, held.forecasts, held.channels, held.regions), {}) as writer:
        for start in held.starts:
            for lead in held.leads:
                sums = {channel: np.ones((2, 8)) for channel in held.channels}
                writer.write(start, MODEL, {lead: sums}, held.regions)
    alone = score_table(read_archive(path))["all"]["006h"]["tp"]
    assert alone["dates"] == 3
    assert "csi_0.1mm" not in alone
    assert spectra_table(read_archive(path)) == {}
    evaluated(store, path, range(3, 5))
    row = score_table(read_archive(path))["all"]["006h"]["tp"]
    assert (row["dates"], row["event_dates"]) == (5, 2)
    assert row["csi_0.1mm"] is not None
