"""Growth, by hand."""

from __future__ import annotations

from typing import Any

from kit.bench.scale import growth_rows


def size(tokens: int, pixels: int, peak: float, seconds: float) -> dict[str, Any]:
    held = {"peak_gib": peak, "host_gib": 1.0, "seconds_estimate": seconds}
    return held | {"tokens": tokens, "pixels": pixels, "command": "kit plan"}


def test_growth_is_from_the_size_before_and_bounded_by_the_larger_of_tokens_and_pixels() -> None:
    sizes = {"a": size(100, 1600, 2.0, 1.0), "b": size(200, 3200, 3.0, 1.5), "c": size(200, 12800, 15.0, 3.0)}
    first, second, third = growth_rows(sizes)
    assert first.value is None
    assert first.must is None
    # Twice the tokens and the pixels, 1.5 times memory and time.
    assert (second.value, second.must) == (1.5, 2.0)
    # Four times the pixels, but five times the memory.
    told = third.as_dict("scale", "m")
    assert (told["value"], told["must"], told["verdict"]) == (5.0, 4.0, "missed")
    assert (told["tokens_growth"], told["pixels_growth"], told["seconds_growth"]) == (1.0, 4.0, 2.0)
    assert list(told)[-10:-4] == ["peak_gib", "host_gib", "seconds_estimate", "tokens", "pixels", "command"]
