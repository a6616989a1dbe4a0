from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kit.settings import Settings
from kit.tracking.params import fit_value, flatten, valid_key


def test_nested_settings_become_dotted_texts() -> None:
    settings = {
        "train": {"steps": 20, "epochs": None, "deterministic": True},
        "data": {"levels": (500, 850), "store": Path("a/b"), "start": datetime(2020, 1, 1, tzinfo=UTC)},
        "loss": {"weights": {}},
    }
    assert flatten(settings) == {
        "train.steps": "20",
        "train.epochs": "none",
        "train.deterministic": "true",
        "data.levels": "[500,850]",
        "data.store": "a/b",
        "data.start": "2020-01-01T00:00:00+00:00",
        "loss.weights": "{}",
    }


@pytest.mark.parametrize("mode", ("python", "json"))
def test_every_setting_of_the_kit_is_taken(mode: str) -> None:
    flat = flatten(Settings().model_dump(mode=mode))
    assert flat["train.seed"] == "0"
    assert flat["run.dir"] == "runs"
    assert all(valid_key(key) == key for key in flat)


def test_secrets_are_left_out_at_every_depth() -> None:
    settings = {"hub": {"token": "abc", "name": "x"}, "sources": [{"api_key": "abc", "url": "http://a:b@h"}]}
    assert flatten(settings) == {"hub.name": "x", "sources": '[{"url":"http://***@h"}]'}


def test_no_settings_are_no_parameters() -> None:
    assert flatten({}) == {}


def test_long_values_keep_their_length_and_hash() -> None:
    assert fit_value("x" * 6000) == "x" * 6000
    cut = fit_value("x" * 6001)
    assert len(cut) == 6000
    assert "6001 characters, sha256 " in cut
    assert fit_value("x" * 6001 + "y") != cut


@pytest.mark.parametrize("key", ("loss/2t", "grad_norm/backbone.encoder", "a b-c"))
def test_valid_keys_stay(key: str) -> None:
    assert valid_key(key) == key


@pytest.mark.parametrize("key", ("loss{2t}", "a//b", "/a", "../a", "x" * 300, "a:b"))
def test_other_keys_become_valid_and_stay_apart(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    valid = valid_key(key)
    _validate_metric_name(valid)  # type: ignore[no-untyped-call]
    assert len(valid) <= 250
    assert valid_key(key + "?") != valid
