"""Transforms of rain: values worked by hand, there and back, never below zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from aurora.normalisation import log_transform, log_untransform

from kit.io.errors import SettingsError
from kit.models.transforms import Transform, default_transform, parse_transform, parse_transforms

EVERY = ("identity", "sqrt", "log1p", "log1p:0.001", "log", "log:1e-05")
RAIN = torch.tensor([0.0, 1e-6, 1e-4, 3.2e-3, 0.25])


def transform(text: str) -> Transform:
    return parse_transform(text, where="model.transforms.tp")


@pytest.mark.parametrize(
    ("text", "metres", "expected"),
    (
        ("identity", 0.004, 0.004),
        ("sqrt", 0.04, 0.2),
        ("log1p", 1e-5 * (math.e - 1), 1.0),
        ("log1p:0.5", 0.5, math.log(2)),
        ("log", 1e-3 * (math.e**2 - 1), 2.0),
        ("log:0.1", 0.9, math.log(10)),
    ),
)
def test_a_value_worked_by_hand(text: str, metres: float, expected: float) -> None:
    assert transform(text).forward(torch.tensor([metres])).item() == pytest.approx(expected, rel=1e-5)
    assert transform(text).forward(np.array([metres])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("text", EVERY)
def test_the_inverse_leads_back(text: str) -> None:
    there = transform(text).forward(RAIN)
    assert there[0] == 0
    assert there.diff().gt(0).all()
    torch.testing.assert_close(transform(text).inverse(there), RAIN, rtol=1e-4, atol=2e-7)
    array = RAIN.double().numpy()
    np.testing.assert_allclose(transform(text).inverse(transform(text).forward(array)), array, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("text", EVERY)
def test_nothing_comes_back_below_zero(text: str) -> None:
    below = torch.tensor([-3.0, -1e-7, 0.0])
    assert transform(text).inverse(below).tolist() == [0, 0, 0]
    assert transform(text).inverse(below.numpy()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("text", EVERY)
def test_what_packing_left_below_zero_counts_as_zero(text: str) -> None:
    assert transform(text).forward(torch.tensor([-1e-9])).item() == 0


@pytest.mark.parametrize("text", EVERY)
def test_a_missing_value_stays_missing(text: str) -> None:
    tensor, array = torch.tensor([torch.nan]), np.array([np.nan], dtype=np.float32)
    for way in (transform(text).forward, transform(text).inverse):
        assert way(tensor).isnan().all()
        assert np.isnan(way(array)).all()


def test_log_is_version_1p5s_to_the_bit() -> None:
    assert torch.equal(transform("log").forward(RAIN), log_transform(RAIN))
    assert torch.equal(transform("log").inverse(log_transform(RAIN)), log_untransform(log_transform(RAIN)))


@pytest.mark.parametrize("text", EVERY)
def test_the_written_form_reads_back(text: str) -> None:
    assert transform(str(transform(text))) == transform(text)


def test_defaults_are_written_out() -> None:
    assert str(transform("log1p")) == "log1p:1e-05"
    assert str(transform("log")) == "log:0.001"
    assert str(default_transform("tp")) == "log1p:1e-05"
    assert default_transform("2d") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        ("cube", r"expected one of identity, sqrt, negative-sqrt, floor:VALUE, log1p:EPS, log:EPS, got 'cube'"),
        ("floor:deep", "expected a number after the colon, such as -10, got 'floor:deep'"),
        ("floor:inf", "expected a number after the colon"),
        ("negative-sqrt:2", "negative-sqrt has no parameter"),
        ("sqrt:2", "sqrt has no parameter"),
        ("log1p:0", "expected a number above zero after the colon, such as 1e-05, got 'log1p:0'"),
        ("log1p:-1", "above zero"),
        ("log:nan", "above zero"),
        ("log:inf", "above zero"),
        ("log:rain", "above zero"),
        ("log1p:", "above zero"),
    ),
)
def test_what_cannot_be_read_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as refused:
        parse_transforms({"tp": text})
    assert "model.transforms.tp" in str(refused.value)
