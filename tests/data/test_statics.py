from __future__ import annotations

import numpy as np
import pytest

from kit.data.statics import choose_statics
from kit.io.errors import StoreError
from tests.factories import synthetic_dataset

FIELDS = {str(name): array for name, array in synthetic_dataset(height=3, width=4).data_vars.items()}
GRID = FIELDS["2t"]


def test_all_that_the_data_hold() -> None:
    chosen = choose_statics(FIELDS, GRID, None, lambda _: None)
    assert sorted(chosen) == ["static_lsm", "static_slt", "static_z"]


def test_derived_ones_by_hand() -> None:
    notes: list[str] = []
    chosen = choose_statics(FIELDS, GRID, ("z", "sinlat", "coslat", "sinlon", "coslon"), notes.append)
    # Rows lie at 60, 0 and -60 degrees, columns at 0, 90, 180 and 270.
    np.testing.assert_allclose(chosen["static_sinlat"][:, 1], [3**0.5 / 2, 0, -(3**0.5) / 2], atol=1e-7)
    np.testing.assert_allclose(chosen["static_coslat"][:, 3], [0.5, 1, 0.5], atol=1e-7)
    np.testing.assert_allclose(chosen["static_sinlon"][2], [0, 1, 0, -1], atol=1e-7)
    np.testing.assert_allclose(chosen["static_coslon"][0], [1, 0, -1, 0], atol=1e-7)
    assert chosen["static_coslat"].dtype == np.float32
    assert "coslat derived from the coordinates" in notes
    assert "z derived from the coordinates" not in notes


def test_none_is_too_few() -> None:
    with pytest.raises(StoreError, match=r"no static variables.*--statics coslat,sinlat.*coslon, sinlon"):
        choose_statics({"2t": GRID}, GRID, None, lambda _: None)
    with pytest.raises(StoreError, match="Aurora needs at least one"):
        choose_statics(FIELDS, GRID, (), lambda _: None)


def test_unknown_ones_list_the_known() -> None:
    with pytest.raises(StoreError, match=r"lack the static variables wmb; they hold lsm, slt, z, and the kit derives"):
        choose_statics(FIELDS, GRID, ("lsm", "wmb"), lambda _: None)


def test_one_class_of_a_type() -> None:
    types = GRID.isel(time=0).copy(data=np.array([[0, 3.00001, 3, 1]] * 3, np.float32)).rename("static_slt")
    notes: list[str] = []
    chosen = choose_statics({**FIELDS, "static_slt": types}, GRID, ("slt_3", "slt_0"), notes.append)
    np.testing.assert_array_equal(chosen["static_slt_3"][1], [0, 1, 1, 0])
    np.testing.assert_array_equal(chosen["static_slt_0"][1], [1, 0, 0, 0])
    assert "slt_3 derived from slt" in notes
    with pytest.raises(StoreError, match=r"lack the static variables tvh_3; they hold lsm, slt, z"):
        choose_statics(FIELDS, GRID, ("slt_3", "tvh_3"), lambda _: None)
