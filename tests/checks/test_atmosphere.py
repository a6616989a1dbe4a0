from __future__ import annotations

import numpy as np
import pytest

from kit.checks.physics import standard_geopotential, standard_temperature, thickness, virtual_temperature


def test_the_standard_atmosphere_at_levels_that_tables_give() -> None:
    # ISO 2533: 5574 m and 252.4 K at 500 hPa, 16180 m and 216.65 K at 100 hPa.
    assert standard_geopotential([1013.25, 500, 100]) / 9.80665 == pytest.approx([0, 5574, 16180], abs=3)
    assert standard_temperature([1013.25, 500, 100]) == pytest.approx([288.15, 251.9, 216.65], abs=0.2)


def test_an_isothermal_layer() -> None:
    warm = np.array([250.0])
    assert thickness(warm, warm, 500, 1000) == pytest.approx(287.0597 * 250 * np.log(2))


def test_moist_air_is_lighter() -> None:
    assert virtual_temperature(np.array([300.0]), 0.01) == pytest.approx(301.83, abs=0.01)
