from typing import Any

import pytest
import torch
from aurora import Aurora

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError
from tests.adapt.models import awake_model
from tests.batches import small_spec


def chosen(**adapt: Any) -> tuple[Aurora, set[str]]:
    model = awake_model(small_spec("small"))
    trained = trainable.select(model, AdaptSettings(**adapt)).parameters
    assert trained.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return model, set(trained)


def names(model: torch.nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def test_what_is_frozen_does_not_train_and_all_else_does() -> None:
    model, trained = chosen(method="freeze", freeze=("backbone", "encoder.level_agg"))
    frozen = {name for name in names(model) if name.startswith(("backbone.", "encoder.level_agg."))}
    assert trained == names(model) - frozen
    assert 0 < len(frozen) < len(names(model))


def test_the_inverse_names_what_trains() -> None:
    model, trained = chosen(method="freeze", train_only=("*.attn.qkv", "surf_heads.2t"))
    assert trained == {n for n in names(model) if ".attn.qkv." in n or ".surf_heads.2t." in n}
    # Four stages of two blocks, a weight and a bias each; and a head.
    assert len(trained) == 8 * 2 + 2


def test_heads_train_and_on_request_the_last_stages_of_the_decoder() -> None:
    model, heads = chosen(method="head")
    assert heads == {name for name in names(model) if name.startswith(("decoder.surf_heads", "decoder.atmos_heads"))}
    _, more = chosen(method="head", decoder_stages=1)
    assert more - heads == {name for name in names(model) if name.startswith("backbone.decoder_layers.1.")}


@pytest.mark.parametrize(
    ("adapt", "message"),
    (
        (
            {"method": "freeze", "freeze": ("backbon",)},
            r"'backbon' selects no .* did you mean backbone\?",
        ),
        ({"method": "freeze", "freeze": ("*",)}, r"leaves nothing to train"),
        ({"method": "freeze", "train_only": ("*",)}, r"leaves nothing frozen"),
        ({"method": "head", "decoder_stages": 3}, r"expected at most 2, .* got 3"),
    ),
)
def test_what_cannot_be_had_is_refused(adapt: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        chosen(**adapt)


@pytest.mark.parametrize(
    ("adapt", "message"),
    (
        ({"method": "freeze"}, r"needs adapt.freeze or adapt.train_only, and neither was"),
        ({"method": "freeze", "freeze": ("a",), "train_only": ("b",)}, r"both were"),
        ({"method": "lora", "freeze": ("a",)}, r"adapt.freeze would have no effect: adapt.method is lora"),
        ({"method": "full", "decoder_stages": 1}, r"adapt.decoder_stages would have no effect.* choose head"),
    ),
)
def test_settings_without_effect_are_refused(adapt: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptSettings(**adapt)
