"""One variable in two units: geopotential and its height in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources.base import Request, SourceData
from kit.data.sources.grib.source import open_source
from kit.io.errors import StoreError
from tests.data.sources.grib_files import message, write

HOURS = ("2020-01-01T00", "2020-01-01T06", "2020-01-01T12")
GRAVITY = 9.80665
VALUES = np.random.default_rng(1).uniform(52000, 56000, (3, 4))


def read(*content: bytes, folder: Path) -> SourceData:
    with open_source([write(folder / "a.grib", *content)], Request()) as source:
        for array in source.fields.values():
            array.load()
        return source


def height(values: Any = VALUES, **keys: Any) -> bytes:
    return message(values / GRAVITY, **({"param": 156, "level": 500} | keys))


def geopotential(values: Any = VALUES, **keys: Any) -> bytes:
    return message(values, **({"param": 129, "level": 500} | keys))


@pytest.mark.parametrize("edition", (1, 2))
def test_equal_within_packing_z_is_taken_and_said(tmp_path: Path, edition: int) -> None:
    content = [make(time=time, edition=edition) for time in HOURS for make in (height, geopotential)]
    source = read(*content, folder=tmp_path)
    alone = read(*(geopotential(time=time, edition=edition) for time in HOURS), folder=tmp_path / "alone")
    np.testing.assert_array_equal(source.fields["z"], alone.fields["z"])
    assert "z taken from z; gh holds the same" in source.notes


@pytest.mark.parametrize("wrong", range(len(HOURS)))
def test_what_differs_by_more_is_refused(tmp_path: Path, wrong: int) -> None:
    content = [geopotential(time=time, bitsPerValue=12) for time in HOURS]
    # The steps are 1 m2 s-2, and that of the height in 16 bits.
    content += [height(VALUES + 3 * (index == wrong), time=time) for index, time in enumerate(HOURS)]
    if wrong == 1:
        # The first and the last time are compared, and z is kept in any case.
        assert "z taken from z; gh holds the same" in read(*content, folder=tmp_path).notes
        return
    with pytest.raises(StoreError) as caught:
        read(*content, folder=tmp_path)
    text = str(caught.value)
    assert "(z in m**2 s**-2) and a.grib, message" in text
    assert f"are both z at 500 hPa at {HOURS[wrong]}:00:00, and differ by up to 3" in text
    assert "`grib_copy -w shortName!=gh a.grib NEW.grib`" in text


def test_each_fills_what_the_other_lacks(tmp_path: Path) -> None:
    in_time = read(geopotential(time=HOURS[0]), height(time=HOURS[1]), folder=tmp_path)
    np.testing.assert_allclose(in_time.fields["z"].values, [[VALUES], [VALUES]], rtol=1e-5)
    in_height = read(geopotential(), height(), height(VALUES / 2, level=700), folder=tmp_path)
    assert in_height.fields["z"]["level"].values.tolist() == [500, 700]
    np.testing.assert_allclose(in_height.fields["z"].values[0], [VALUES, VALUES / 2], rtol=1e-5)


def test_orography_beside_the_surface_geopotential(tmp_path: Path) -> None:
    ground = VALUES - 50000
    source = read(
        message(), message(ground, param=129), message(ground / GRAVITY, param=228002, edition=2), folder=tmp_path
    )
    np.testing.assert_allclose(source.fields["static_z"], ground, atol=0.1)
    assert "static_z taken from z; orog holds the same" in source.notes
    with pytest.raises(StoreError, match="are both z at 2020-01-01T00:00:00, and differ by up to 10"):
        read(message(), message(ground, param=129), message((ground + 10) / GRAVITY, param=228002), folder=tmp_path)


def test_rain_in_metres_and_in_millimetres(tmp_path: Path) -> None:
    rain = VALUES / 1e6
    keys: dict[str, Any] = {"edition": 2, "stepRange": "0-1"}
    content = [message(rain, param=228, **keys), message(rain * 1000, param=228228, **keys)]
    source = read(*content, folder=tmp_path)
    np.testing.assert_allclose(source.fields["tp"][0], rain, rtol=1e-4)
    assert "tp taken from tp; tp holds the same" in source.notes
