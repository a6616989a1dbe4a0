"""Settings of what trains: defaults, and those that would do nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kit.adapt.settings import AdaptSettings


def test_defaults_are_filled_in() -> None:
    assert AdaptSettings(method="lora").resolved() == AdaptSettings(
        method="lora", rank=8, alpha=16, targets=("qkv", "proj", "fc1", "fc2")
    )
    assert AdaptSettings(method="qlora", rank=3).adapter.scale == 2
    assert AdaptSettings(method="qlora", rank=3, alpha=6).resolved().alpha == 6
    assert AdaptSettings(method="prefix").resolved() == AdaptSettings(method="prefix", tokens=16)
    assert AdaptSettings(method="prompt", coarse="6x12").coarse_cells == (6, 12)
    assert AdaptSettings(method="prompt").resolved() == AdaptSettings(method="prompt")
    assert AdaptSettings().resolved() == AdaptSettings()


def test_defaults_of_adalora() -> None:
    resolved = AdaptSettings(method="adalora").resolved()
    assert (resolved.rank, resolved.target_rank, resolved.alpha, resolved.orthogonality) == (12, 8, 24, 0.01)
    # Tied to the run's steps, which settings do not know.
    assert (resolved.tinit, resolved.tfinal, resolved.interval) == (None, None, None)
    assert AdaptSettings(method="adalora", orthogonality=0).resolved().orthogonality == 0
    assert AdaptSettings(method="dora").adapter == AdaptSettings(method="lora").adapter


@pytest.mark.parametrize("given", ({"rank": 8}, {"target_rank": 12}, {"rank": 4, "target_rank": 5}))
def test_a_rank_that_leaves_nothing_to_prune_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=r"adapt.target_rank \(\d+\) has to be below adapt.rank"):
        AdaptSettings.model_validate({"method": "adalora", **given})


@pytest.mark.parametrize("name", ("target_rank", "tinit", "tfinal", "interval", "orthogonality"))
def test_a_setting_of_adalora_with_lora_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"adapt.{name} would have no effect: adapt.method is lora; .* adalora"):
        AdaptSettings.model_validate({"method": "lora", name: 1})


@pytest.mark.parametrize(
    "given", ({"rank": 4}, {"alpha": 1.0}, {"targets": ("qkv",)}, {"tokens": 4}, {"coarse": "6x12"})
)
def test_a_setting_of_adapters_without_an_adapter_is_refused(given: dict[str, Any]) -> None:
    [name] = given
    with pytest.raises(ValidationError, match=f"adapt.{name} would have no effect: adapt.method is full"):
        AdaptSettings(**given)


def test_no_target_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        AdaptSettings(method="lora", targets=())


@pytest.mark.parametrize("coarse", ("6", "0x12", "6x0", "6x12x3", "6.5x12", "-6x12", ""))
def test_cells_are_rows_and_columns(coarse: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        AdaptSettings(method="prompt", coarse=coarse)


def test_a_prefix_has_tokens() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        AdaptSettings(method="prefix", tokens=0)
    with pytest.raises(ValidationError, match="tokens would have no effect: adapt.method is prompt; .* choose prefix"):
        AdaptSettings(method="prompt", tokens=4)


def test_light_decoders_have_the_paper_s_layers_by_default() -> None:
    resolved = AdaptSettings(method="head", decoder="mlp").resolved()
    assert (resolved.hidden, resolved.latents) == ((512, 512, 256), "all")
    assert AdaptSettings(method="head", decoder="mlp", cache_budget="1.5 GiB").cache_bytes == 3 * 2**29
    assert AdaptSettings(method="head").resolved().decoder == "linear"


def test_where_latents_are_kept_does_not_define_what_is_learned() -> None:
    one = AdaptSettings(method="head", decoder="mlp", cache="here", cache_budget="1GiB")
    assert one.defining() == AdaptSettings(method="head", decoder="mlp", cache="off").defining()
    assert one.defining() != AdaptSettings(method="head", decoder="mlp", hidden=(8,)).defining()
    assert "cache" not in one.described()


@pytest.mark.parametrize(
    "given",
    (
        {"method": "head", "hidden": (8,)},
        {"method": "head", "decoder": "linear", "latents": "all"},
        {"method": "head", "cache": "off"},
        {"method": "head", "cache_budget": "1GiB"},
        {"method": "head", "decoder": "mlp", "decoder_stages": 1},
        {"method": "head", "decoder": "mlp", "cache": "off", "cache_budget": "1GiB"},
        {"method": "full", "decoder": "mlp"},
    ),
)
def test_a_setting_of_light_decoders_without_them_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="would have no effect"):
        AdaptSettings(**given)
