"""Made-up weather: its spectrum, its packing, and the files that it is written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kit.bench.weather import fields, noise, write_grib
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store


def test_amplitudes_fall_with_the_wave_number() -> None:
    spectrum = np.abs(np.fft.rfft2(noise((128, 256), 0)))
    waves = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(256)[None])
    means = [spectrum[(waves > low) & (waves < 1.5 * low)].mean() for low in (0.02, 0.04, 0.08, 0.16)]
    # Twice the wave number, 2 ** (-5/3) = 0.315 of the amplitude.
    np.testing.assert_allclose(np.divide(means[1:], means[:-1]), 0.315, rtol=0.1)


def test_no_more_values_than_sixteen_bits_hold() -> None:
    values = noise((300, 400), 1)
    assert abs(values.mean()) < 1e-4
    assert np.isclose(values.std(), 1, atol=1e-3)
    assert len(np.unique(values)) <= 2**16 < values.size


def test_a_file_makes_a_store(tmp_path: Path) -> None:
    size = write_grib(tmp_path / "states.grib", (8, 16), fields(3, levels=(500, 850)))
    # Three statics; three states of four surface and five times two atmospheric fields.
    assert size == (3 + 3 * 14) * 8 * 16 * 4
    store = build_store(BuildSettings(source="grib", path=str(tmp_path / "states.grib"), out=tmp_path / "store"))
    assert (store.levels, store.static) == ((500, 850), ("lsm", "slt", "z"))
    assert (len(store.times), store.times[1] - store.times[0]) == (3, np.timedelta64(6, "h"))
    assert len(store.surface + store.atmospheric) == 9
    assert abs(store.read("2t", [0]).mean() - 280) < 1
