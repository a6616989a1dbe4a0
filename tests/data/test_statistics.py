from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from kit.data.settings import Period
from kit.data.statistics import SAMPLE_SIZE, FieldAccumulator, StoreStatistics, VariableStatistics, channel_key
from kit.io.errors import StoreError


def accumulate(*fields: list[float]) -> VariableStatistics:
    accumulator = FieldAccumulator("2t", len(fields))
    for values in fields:
        accumulator.add(np.array(values, dtype=np.float32))
    return accumulator.result()


def test_by_hand_with_missing_and_infinite_values() -> None:
    # Finite: 1, 3, 0, 4, 2; mean 2; squares 1 + 1 + 4 + 4 + 0 = 10; variance 2.
    result = accumulate([1, 3, math.nan], [0, math.inf, 4], [2, math.nan, math.nan])
    assert result.mean == pytest.approx(2)
    assert result.std == pytest.approx(math.sqrt(2))
    assert (result.min, result.max) == (0, 4)
    assert result.quantiles["0.5"] == 2
    assert result.zero_fraction == pytest.approx(1 / 9)
    assert result.nan_fraction == pytest.approx(3 / 9)
    assert result.inf_fraction == pytest.approx(1 / 9)


def test_streaming_equals_all_at_once_where_the_mean_is_large() -> None:
    values = 101325 + np.random.default_rng(0).standard_normal((50, 400)).astype(np.float32)
    result = accumulate(*values.tolist())
    exact = values.astype(np.float32).astype(np.float64)
    assert result.mean == pytest.approx(exact.mean(), rel=1e-14)
    assert result.std == pytest.approx(exact.std(), rel=1e-11)
    assert result.quantiles["0.99"] == pytest.approx(np.quantile(exact, 0.99), rel=1e-12)


def test_the_sample_of_quantiles_is_bounded_and_repeats() -> None:
    fields = np.random.default_rng(1).standard_normal((8, SAMPLE_SIZE)).astype(np.float32)
    first, second = (accumulate(*fields.tolist()) for _ in range(2))
    assert first == second
    assert first.quantiles["0.5"] == pytest.approx(0, abs=0.02)
    assert first.quantiles["0.95"] == pytest.approx(1.645, abs=0.03)


def test_nothing_but_missing_values() -> None:
    result = accumulate([math.nan, math.nan])
    assert math.isnan(result.mean)
    assert math.isnan(result.std)
    assert result.nan_fraction == 1


def test_keys_follow_upstream() -> None:
    from aurora.normalisation import level_to_str

    for level in (500, 1000.0, 0.5, 7, 0.123):
        assert channel_key("t", level) == f"t_{level_to_str(level)}"


def test_file_round_trip_keeps_missing_statistics(tmp_path: Path) -> None:
    statistics = StoreStatistics(
        train=Period.parse("2020-01-01/2020-01-02"), states=2, variables={"2t": accumulate([1, 2]), "q": accumulate()}
    )
    (tmp_path / "stats.json").write_text(statistics.text(), encoding="utf-8")
    assert "NaN" not in (tmp_path / "stats.json").read_text()
    loaded = StoreStatistics.load(tmp_path / "stats.json")
    assert loaded.variables["2t"] == statistics.variables["2t"]
    assert math.isnan(loaded.variables["q"].mean)
    assert loaded.train == statistics.train


@pytest.mark.parametrize("content", ("", "{}", '{"format": 2}', "[1"))
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "stats.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"stats.json: not the statistics of a store"):
        StoreStatistics.load(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no statistics; build it again"):
        StoreStatistics.load(tmp_path / "stats.json")


def weighted(field: list[list[float]], weights: list[float], draw: int = 1) -> VariableStatistics:
    accumulator = FieldAccumulator("2t", draw, np.array(weights))
    accumulator.add(np.array(field, dtype=np.float32))
    return accumulator.result()


def test_moments_and_quantiles_by_weight_shares_by_count() -> None:
    # Weights 1.6 and 0.4: mean (1.6 * 2 * 10 + 0.4 * (0 + 20)) / 4 = 10, variance 0.4 * 200 / 4 = 20.
    result = weighted([[10, 10], [0, 20]], [1.6, 0.4])
    assert [result.mean, result.std] == pytest.approx([10, math.sqrt(20)])
    assert [result.min, result.max, result.skewness] == pytest.approx([0, 20, 0], abs=1e-12)
    assert (result.zero_fraction, result.nan_fraction) == (0.25, 0)
    # The zero covers a tenth of the area, as does the 20.
    assert [result.quantiles[order] for order in ("0.05", "0.25", "0.5", "0.75", "0.95")] == [0, 10, 10, 10, 20]
    missing = weighted([[10, math.nan], [0, 20]], [1.6, 0.4])
    assert [missing.mean, missing.nan_fraction] == pytest.approx([(16 + 8) / 2.4, 0.25])
    assert [missing.quantiles[order] for order in ("0.05", "0.5", "0.95")] == [0, 10, 20]


def test_quantiles_by_weights_of_points_are_those_of_rows() -> None:
    field = np.random.default_rng(3).standard_normal((40, 60)).astype(np.float32).cumsum(axis=0)
    rows = np.cos(np.deg2rad(np.linspace(-88, 88, 40)))
    both = [FieldAccumulator("2t", 4, weights) for weights in (rows, np.tile(rows[:, None], (1, 60)))]
    for accumulator in both:
        for moment in range(4):
            accumulator.add(field, moment)
    by_rows, by_points = (accumulator.result() for accumulator in both)
    assert by_rows.mean == pytest.approx(by_points.mean, rel=1e-14)
    order = np.argsort(field, axis=None)
    reached = np.cumsum(np.tile(rows[:, None], (1, 60)).ravel()[order])
    for name in ("0.05", "0.5", "0.95"):
        exact = field.ravel()[order][np.searchsorted(reached, float(name) * reached[-1])]
        assert by_rows.quantiles[name] == pytest.approx(exact, abs=0.15)
        assert by_points.quantiles[name] == pytest.approx(exact, abs=0.15)


def test_what_does_not_vary_has_no_scale_at_all() -> None:
    # A mean that is rounded would leave a scale of 1e-17 and a skewness of nothing.
    result = accumulate([0.1] * 7, [0.1] * 9)
    assert (result.std, result.skewness) == (0, 0)


def test_a_long_tail_is_skewed() -> None:
    # Of an exponential distribution the skewness is 2.
    assert accumulate(np.random.default_rng(0).exponential(size=200000).tolist()).skewness == pytest.approx(2, rel=0.05)


def test_states_before_1970_have_quantiles_too() -> None:
    accumulator = FieldAccumulator("2t", 1)
    accumulator.add(np.arange(2.0 * SAMPLE_SIZE), moment=-346_000_000)
    assert accumulator.result().quantiles["0.5"] == pytest.approx(SAMPLE_SIZE, rel=0.03)
