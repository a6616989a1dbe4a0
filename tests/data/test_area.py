"""Areas of rows; ``kit.metrics`` takes the same."""

from __future__ import annotations

import numpy as np
import pytest

from kit.data.area import area_weights
from kit.metrics import scores


def test_rows_weigh_what_they_cover() -> None:
    # Edges at 90, 60, 0, -60 and -90 degrees: areas 1 - sin 60, sin 60, sin 60, 1 - sin 60, which sum to 2.
    sine = np.sqrt(3) / 2
    found = area_weights([90, 30, -30, -90])
    np.testing.assert_allclose(found, 2 * np.array([1 - sine, sine, sine, 1 - sine]), rtol=1e-14)
    assert area_weights([45.0]).tolist() == [1.0]


def test_scores_weigh_alike() -> None:
    rows = np.linspace(80, -60, 29)
    assert scores.area_weights(rows).tolist() == area_weights(rows).tolist()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    (([], "not empty"), ([[1.0]], "one-dimensional"), ([91, 0], "lie in"), ([0, 1], "strictly decrease, but row 1")),
)
def test_other_rows_are_refused(rows: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        area_weights(rows)
