"""Fingerprints: equal for equal bits, different after any change."""

from __future__ import annotations

import pytest
import torch

from kit.adapt import training_check as checksum
from kit.adapt.training_check import Fingerprint, fingerprints
from tests.everyday import one_in

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.uint8, torch.int16,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip


def of(tensor: torch.Tensor) -> Fingerprint:
    return fingerprints({"x": tensor})["x"]


def values(dtype: torch.dtype) -> torch.Tensor:
    return (torch.arange(24) % 5).reshape(4, 6).to(dtype)


@pytest.mark.parametrize("dtype", one_in(4, DTYPES, map(str, DTYPES)))
def test_any_one_value_that_changes_shows_in_both_sums(dtype: torch.dtype) -> None:
    before = of(values(dtype))
    assert of(values(dtype)) == before
    for index in range(24):
        tensor = values(dtype)
        # The lowest bit of one byte.
        tensor.view(-1).view(torch.uint8)[index * tensor.element_size()] ^= 1
        assert all(a != b for a, b in zip(of(tensor), before, strict=True))


def test_values_that_change_places_show() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert len({of(x), of(x.flip(0)), of(x[[1, 0, 2]]), of(x[:2]), of(torch.cat([x, x]))}) == 5


def test_bits_count_and_not_values() -> None:
    zero = torch.zeros(3)
    assert of(zero) != of(-zero)
    nan = torch.full((3,), torch.nan)
    assert of(nan) == of(nan.clone())


def test_chunks_cannot_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_CHUNK", 4)
    x = torch.arange(10.0)
    assert of(x) == of(x.clone())
    assert of(x) != of(torch.cat([x[4:8], x[:4], x[8:]]))


def test_empty_scalar_and_strided_tensors_have_fingerprints_and_names_keep_their_order() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    found = fingerprints({"z": torch.empty(0), "a": torch.tensor(3.0), "t": x.t(), "whole": x.t().contiguous()})
    assert list(found) == ["z", "a", "t", "whole"]
    assert found["z"] == (0, 0)
    assert found["t"] == found["whole"]


def test_the_fingerprint_is_what_it_says() -> None:
    """Odd numbers times values, modulo 2^64, worked out in whole numbers of any size."""
    x = torch.tensor([3, -5], dtype=torch.int64)
    rows = [[int(m) for m in row[:2]] for row in checksum._multipliers(torch.device("cpu"))]
    assert all(m % 2 == 1 for row in rows for m in row)
    wanted = [(3 * a - 5 * b) % 2**64 for a, b in rows]
    assert [value % 2**64 for value in of(x)] == wanted
