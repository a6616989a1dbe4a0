"""Which variables get transforms and heads, and who is refused them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import DataSettings, Period
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.io.errors import SettingsError, StoreError
from kit.models.encoding import choose_encodings
from kit.models.resolve import resolve_spec, select
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics
from kit.models.transforms import parse_transform, transformed_statistics
from kit.models.weights.load import Weights
from tests.batches import small_spec
from tests.factories import synthetic_dataset

UPSTREAM = Weights({}, {"name": "w", "file": "f", "sha256": "0"})
SPLITS = {
    "train": Period.parse("2020-01-01T00:00/2020-01-01T06:00"),
    "valid": Period.parse("2020-01-01T12:00/2020-01-02T06:00"),
    "test": Period.parse("2020-01-02T12:00/2020-01-02T18:00"),
}
ATTRIBUTES = {"source": "synthetic", "source_files": [], "licence": "none", "history": [], "synthetic": True}


def rainy_store(path: Path, *, low: float = 0.0, **options: Any) -> Store:
    """Eight states every 6 h; in the two training states half the points have 0 mm, half 10 mm, one has ``low``."""
    dataset = synthetic_dataset(times=8, surface=("2t", "10u", "10v", "msl", "2d"), **options)
    values = np.zeros_like(dataset["2t"].values)
    values[:, ::2] = 0.01
    values[1, 0, 0] = low or values[1, 0, 0]
    tp = xr.DataArray(values, dataset["2t"].coords, dataset["2t"].dims, attrs={"accumulation_hours": 6})
    return write_store(dataset.assign(tp=tp), path, splits=SPLITS, attributes=ATTRIBUTES)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return rainy_store(tmp_path / "s")


def with_tp(store: Store, weights: Weights | None = UPSTREAM, **model: Any) -> ModelSpec:
    settings = ModelSettings.model_validate({"variant": "small", "new_variables": ["tp"], **model})
    return resolve_spec(settings, DataSettings(history=2), store, weights)


def trained(spec: ModelSpec) -> Weights:
    """Weights that carry their spec."""
    return Weights({}, {"name": "w", "file": "f", "sha256": "0"}, {"model": spec.as_dict()})


def test_new_rain_is_transformed_by_default(store: Store) -> None:
    """Half of the values 0, half log(1 + 10 mm / 0.01 mm) = 6.909: a standard deviation of half of that about 0."""
    spec = with_tp(store)
    assert spec.transforms == {"tp": "log1p:1e-05"}
    assert spec.statistics.values["tp"] == pytest.approx((0, math.log(1001) / 2), rel=1e-6)
    assert spec.statistics.values["2t"] == Statistics.published("2t")


def test_other_new_variables_are_not(store: Store) -> None:
    assert with_tp(store, new_variables=["2d"]).transforms == {}


@pytest.mark.parametrize(
    ("text", "scale"),
    (("identity", 0.005), ("sqrt", 0.05), ("log:1e-3", math.log(11) / 2), ("log1p:0.01", math.log(2) / 2)),
)
def test_the_settings_choose(store: Store, text: str, scale: float) -> None:
    spec = with_tp(store, transforms={"tp": text})
    assert spec.statistics.values["tp"] == pytest.approx((0, scale), rel=1e-6)


def test_random_weights_take_it_from_the_data(store: Store) -> None:
    spec = with_tp(store, None, new_variables=[])
    assert spec.transforms == {"tp": "log1p:1e-05"}
    assert spec.statistics.values["tp"][0] == 0


def test_on_levels_each_has_its_own_scale(store: Store) -> None:
    """Specific humidity of the factory is 0.004 with a deviation of about 0.001: roots 0.063 and 0.008."""
    scales = [transformed_statistics(store, "q", level, parse_transform("sqrt", where=""))[1] for level in store.levels]
    assert len(set(scales)) == 3
    assert scales == pytest.approx([0.006] * 3, abs=0.004)


def test_statistics_are_made_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = parse_transform("sqrt", where="")
    first = transformed_statistics(store, "tp", None, transform)
    monkeypatch.setattr(Store, "read", None)
    assert transformed_statistics(store, "tp", None, transform) == first


def test_rain_below_zero_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StoreError, match=r"tp at 2020-01-01T06:00:00 is as low as -0.002 m, but it is transformed"):
        with_tp(rainy_store(tmp_path / "n", low=-0.002))


def test_what_packing_leaves_below_zero_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    assert with_tp(rainy_store(tmp_path / "n", low=-1e-9)).transforms


def test_weights_keep_what_they_were_trained_with(store: Store) -> None:
    before = replace(with_tp(store, transforms={"tp": "sqrt"}), added=())
    spec = with_tp(store, trained(before), new_variables=[])
    assert spec.transforms == {"tp": "sqrt"}
    assert spec.statistics == before.statistics
    assert with_tp(store, trained(before), new_variables=[], transforms={"tp": "sqrt"}) == spec
    with pytest.raises(SettingsError, match="the weights were trained with sqrt, which stays"):
        with_tp(store, trained(before), new_variables=[], transforms={"tp": "log1p"})


def test_a_variable_that_was_trained_untransformed_stays_so(store: Store) -> None:
    before = replace(with_tp(store), transforms={}, added=())
    assert with_tp(store, trained(before), new_variables=[]).transforms == {}


@pytest.mark.parametrize(
    ("variant", "transforms", "complaint"),
    (
        ("small", {"sf": "sqrt"}, "the model has no such variable; it has 2t, 10u"),
        ("small", {"2t": "sqrt"}, "the weights were trained with none, which stays"),
        ("small", {"2d": "sqrt"}, "what may be zero and never less, and 2d runs from 130 K"),
        ("v1p5", {"sf": "sqrt"}, "variant 'v1p5' has its own encoding of sf"),
        ("v1p5", {"scaled_tp_1h": "sqrt"}, "own encoding of scaled_tp_1h"),
        ("wave", {"swh": "sqrt"}, "own encoding of swh"),
        ("air-pollution", {"pm10": "sqrt"}, "own encoding of pm10"),
        ("air-pollution", {"no2": "sqrt"}, "own encoding of no2"),
    ),
)
def test_a_transform_without_effect_is_refused(variant: str, transforms: dict[str, str], complaint: str) -> None:
    spec = small_spec(variant)
    wide = replace(spec, surface=(*spec.surface, "2d"))
    with pytest.raises(SettingsError, match=complaint) as refused:
        choose_encodings(wide, transforms, {})
    assert f"model.transforms.{next(iter(transforms))}" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "channels"), (("two-part", ("tp_occurrence",)), ("quantile:0.1,0.5,0.9", ("tp_q10", "tp_q90")))
)
def test_a_head_adds_channels_that_are_predicted_alone(store: Store, text: str, channels: tuple[str, ...]) -> None:
    spec = with_tp(store, heads={"tp": text})
    assert spec.derived == set(channels)
    assert spec.surface[-len(channels) :] == channels
    assert spec.never_read == channels
    assert spec.added == ("tp", *channels)
    own = (0.0, 1.0) if text == "two-part" else spec.statistics.values["tp"]
    assert {spec.statistics.values[name] for name in channels} == {own}
    chosen = select(spec, DataSettings(history=2), store, 4)
    assert "tp" in chosen.inputs
    assert not spec.derived & {*chosen.inputs, *chosen.targets}
    assert chosen.non_negative == {"tp"}
    assert ModelSpec.from_dict(spec.as_dict()) == spec


def test_weights_keep_their_heads(store: Store) -> None:
    before = replace(with_tp(store, heads={"tp": "two-part"}), added=())
    again = with_tp(store, trained(before), new_variables=[])
    assert again.heads == {"tp": "two-part"}
    assert again.surface == before.surface
    assert with_tp(store, trained(before), new_variables=[], heads={"tp": "two-part"}) == again
    with pytest.raises(SettingsError, match="the weights were trained with two-part, which stays"):
        with_tp(store, trained(before), new_variables=[], heads={"tp": "quantile"})


@pytest.mark.parametrize(
    ("variant", "heads", "complaint"),
    (
        ("small", {"sf": "two-part"}, "the model has no such surface variable"),
        ("small", {"q": "quantile"}, "the model has no such surface variable"),
        ("v1p5", {"tp": "two-part"}, "variant 'v1p5' has its own encoding of tp"),
        ("wave", {"swh": "quantile"}, "own encoding of swh"),
    ),
)
def test_a_head_for_nothing_is_refused(variant: str, heads: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        choose_encodings(small_spec(variant), {}, heads)
