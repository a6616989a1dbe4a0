"""From settings, a store and weights to a model and what it reads."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from aurora.normalisation import locations, scales

from kit.data.settings import DataSettings
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.models.resolve import resolve_spec, select
from kit.models.settings import ModelSettings
from kit.models.statistics import Statistics
from kit.models.variants import VARIANTS
from kit.models.weights.load import Weights
from tests.batches import small_spec
from tests.factories import synthetic_store

UPSTREAM = Weights({}, {"name": "official", "sha256": "0"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("resolve") / "store", surface=("2t", "10u", "10v", "msl", "cape"))


def resolved(store: Store, weights: Weights | None, *, data: dict[str, Any] | None = None, **model: Any) -> Any:
    settings = ModelSettings.model_validate({"variant": "small", **model})
    return resolve_spec(settings, DataSettings.model_validate(data or {}), store, weights)


def test_random_weights_take_the_variables_and_statistics_of_the_data(store: Store) -> None:
    spec = resolved(store, None)
    assert set(spec.surface) == {"2t", "10u", "10v", "msl", "cape"}
    assert set(spec.static) == {"lsm", "slt", "z"}
    assert spec.levels == (100, 500, 850)
    found = store.statistics.variables
    assert spec.statistics.values["cape"] == (found["cape"].mean, found["cape"].std)
    assert spec.statistics.values["u_500"] == (found["u_500"].mean, found["u_500"].std)
    # Upstream's key of a static variable has no prefix.
    assert spec.statistics.values["z"] == (found["static_z"].mean, found["static_z"].std)


def test_upstreams_weights_keep_upstreams_variables_and_statistics(store: Store) -> None:
    spec = resolved(store, UPSTREAM)
    assert spec.surface == ("2t", "10u", "10v", "msl")
    assert spec.statistics.values["u_500"] == (locations["u_500"], scales["u_500"])
    assert spec.statistics.values["lsm"] == (locations["lsm"], scales["lsm"])


def test_the_stores_statistics_can_be_asked_for(store: Store) -> None:
    spec = resolved(store, UPSTREAM, statistics="store")
    assert spec.statistics.values["2t"][0] == store.statistics.variables["2t"].mean


def test_a_level_that_upstream_lacks_gets_the_stores_statistics(tmp_path: Path) -> None:
    odd = synthetic_store(tmp_path / "odd", levels=(500, 775))
    spec = resolved(odd, UPSTREAM)
    assert spec.statistics.values["t_500"] == (locations["t_500"], scales["t_500"])
    assert spec.statistics.values["t_775"][0] == odd.statistics.variables["t_775"].mean


def test_our_own_weights_keep_what_they_were_trained_with(store: Store) -> None:
    trained = dataclasses.replace(small_spec("small"), statistics=Statistics({"2t": (1.0, 2.0)}))
    weights = Weights({}, {"name": "mine", "sha256": "0"}, {"model": trained.as_dict()})
    spec = resolved(store, weights)
    assert spec.statistics.values["2t"] == (1.0, 2.0)
    assert spec.statistics.values["10u"] == (locations["10u"], scales["10u"])
    assert resolved(store, weights, statistics="store").statistics.values["2t"] != (1.0, 2.0)
    assert spec.arguments == trained.arguments


def test_a_missing_statistic_is_an_error(tmp_path: Path) -> None:
    import json

    path = synthetic_store(tmp_path / "s", surface=("2t", "10u", "10v", "msl", "cape")).path
    raw = json.loads((path / "stats.json").read_text())
    del raw["variables"]["cape"]
    (path / "stats.json").write_text(json.dumps(raw))
    with pytest.raises(StoreError, match="no statistics of 'cape': upstream publishes none"):
        resolved(Store.open(path), None)


def test_the_step_is_the_settings_or_the_variants(store: Store) -> None:
    assert resolved(store, UPSTREAM, variant="12h").timestep == timedelta(hours=12)
    assert resolved(store, UPSTREAM, timestep="1h").timestep == timedelta(hours=1)


@pytest.mark.parametrize(
    ("variant", "asked", "weights", "expected"),
    (
        ("hres-finetuned", None, UPSTREAM, "merged"),
        ("hres-finetuned", "keep", UPSTREAM, "kept"),
        ("hres-finetuned", None, None, None),
        ("small", None, UPSTREAM, None),
    ),
)
def test_upstreams_lora_is_merged_or_kept(
    store: Store, variant: str, asked: str | None, weights: Weights | None, expected: str | None
) -> None:
    assert resolved(store, weights, variant=variant, rollout_lora=asked).rollout_lora == expected


def test_lora_that_acts_from_the_second_step_cannot_be_merged(tmp_path: Path) -> None:
    wave = VARIANTS["wave"]
    store = synthetic_store(tmp_path / "wave", surface=wave.physical(wave.surface), static=wave.static)
    assert resolved(store, UPSTREAM, variant="wave").rollout_lora == "kept"
    with pytest.raises(SettingsError, match="merged it would change the first; use keep"):
        resolved(store, UPSTREAM, variant="wave", rollout_lora="merge")


def test_a_lora_setting_without_a_lora_is_an_error(store: Store) -> None:
    with pytest.raises(SettingsError, match="model.rollout_lora has no effect: variant 'small' has no roll-out LoRA"):
        resolved(store, UPSTREAM, rollout_lora="keep")


def test_lora_of_our_own_weights_was_decided_when_they_were_trained(store: Store) -> None:
    trained = small_spec("hres-finetuned", rollout_lora="kept")
    weights = Weights({}, {"name": "mine", "sha256": "0"}, {"model": trained.as_dict()})
    assert resolved(store, weights, variant="hres-finetuned").rollout_lora == "kept"
    for asked in (weights, None):
        with pytest.raises(SettingsError, match="model.rollout_lora has no effect"):
            resolved(store, asked, variant="hres-finetuned", rollout_lora="merge")


def test_a_level_that_a_variant_has_no_heads_for_is_refused(tmp_path: Path) -> None:
    row = VARIANTS["air-pollution"]
    odd = synthetic_store(
        tmp_path / "s", surface=row.surface, atmospheric=row.atmospheric, static=row.static, levels=(500, 775)
    )
    with pytest.raises(SettingsError, match=r"embeddings and heads for 50, 100, .* hPa alone; selected are 500, 775"):
        resolved(odd, UPSTREAM, variant="air-pollution")
    assert resolved(odd, UPSTREAM, variant="air-pollution", data={"levels": (500,)}).levels == (500,)


def test_a_shorter_history_than_the_weights_is_refused(store: Store) -> None:
    mine = Weights({}, {"name": "mine", "sha256": "0"}, {"model": small_spec("small").as_dict()})
    for weights in (mine, UPSTREAM):
        with pytest.raises(SettingsError, match="data.history is 1, the weights read 2 states"):
            resolved(store, weights, data={"history": 1})
    assert resolved(store, None, data={"history": 1}).history == 1


def test_what_the_model_lacks_is_not_read(store: Store) -> None:
    """The store has precipitation, the weights do not: it is left alone."""
    chosen = select(resolved(store, UPSTREAM), DataSettings(), store, 4)
    assert chosen.inputs == chosen.targets == ("2t", "10u", "10v", "msl")


def test_a_part_can_be_named(store: Store) -> None:
    data = DataSettings.model_validate({"variables": ("2t", "u"), "statics": ("lsm",), "levels": (500,)})
    spec = resolved(store, UPSTREAM, data={"levels": (500,)})
    chosen = select(spec, data, store, 4)
    assert (chosen.inputs, chosen.atmospheric, chosen.static, chosen.levels) == (("2t",), ("u",), ("lsm",), (500,))


def test_levels_that_the_store_lacks_are_named(store: Store) -> None:
    spec = dataclasses.replace(resolved(store, None), levels=(*store.levels, 33))
    with pytest.raises(StoreError, match="made for levels of 33 hPa, which the store lacks; it holds "):
        select(spec, DataSettings(), store, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    (
        ({"variables": ("2t", "uu")}, "data.variables: 'uu' is unknown.*did you mean u"),
        ({"variables": ("tp", "u")}, "data.variables: 'tp' is unknown; variant 'small' with these weights has"),
        ({"statics": ("slope",)}, "data.statics: 'slope' is unknown"),
        ({"variables": ("u",)}, "at least one surface, one atmospheric and one static variable"),
    ),
)
def test_names_that_mean_nothing_are_errors(store: Store, data: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        select(resolved(store, UPSTREAM), DataSettings.model_validate(data), store, 4)


def test_a_region_too_small_for_the_stages_of_the_backbone_is_refused(store: Store) -> None:
    data = DataSettings.model_validate({"region": (90, 0, 0, 359)})
    with pytest.raises(StoreError, match=r"2 x 8 patches of 4 x 4 points, and the model's 3 stages need 3 each way"):
        select(resolved(store, UPSTREAM), data, store, 4)


@pytest.mark.slow
def test_version_1p5_reads_physical_variables(tmp_path: Path) -> None:
    row = VARIANTS["v1p5"]
    store = synthetic_store(tmp_path / "v", surface=row.physical(row.surface), static=row.static)
    chosen = select(resolved(store, UPSTREAM, variant="v1p5"), DataSettings(), store, 4)
    assert "tp" in chosen.targets
    assert "tp" not in chosen.inputs
    assert "sd" in chosen.inputs
    assert not any(name.startswith("scaled_") or name == "insolation" for name in chosen.targets)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_spec_survives_its_json(variant: str) -> None:
    import json

    from kit.models.spec import ModelSpec

    spec = small_spec(variant)
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.as_dict())))
    assert again == spec
    state, other = spec.build().state_dict(), again.build().state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in other.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_the_only_autocast(variant: str) -> None:
    """Version 1.5 would choose float16, in which some of its gradients underflow."""
    assert small_spec(variant).build(autocast=True).autocast_dtype is torch.bfloat16
    assert not any(
        getattr(module, "use_fp16_safe_attention", False) for module in small_spec(variant).build().modules()
    )
