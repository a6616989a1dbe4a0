"""Power by zonal wavenumber, of waves whose power is known."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from kit.verification.spectra import BANDS, CIRCUMFERENCE, TARGET, Spectra, power_ratios

LATITUDE = np.array([75.0, 45.0, 0.0, -45.0, -75.0])
LONGITUDE = np.linspace(0.0, 352.5, 48)


def waves(*pairs: tuple[int, float]) -> torch.Tensor:
    """A field that is a sum of cosines by wavenumber and amplitude, the same in every row, [1, H, W]."""
    angle = np.radians(LONGITUDE)
    row = sum(amplitude * np.cos(number * angle) for number, amplitude in pairs)
    return torch.from_numpy(np.broadcast_to(np.asarray(row), (1, len(LATITUDE), len(LONGITUDE))).copy())


def test_a_wave_has_half_its_squared_amplitude_times_the_circumference() -> None:
    spectra = Spectra(LATITUDE, LONGITUDE, ())
    power = spectra.of({"2t": waves((0, 3.0), (5, 2.0))})["2t"]
    assert spectra.bands == tuple(BANDS)
    assert power.shape == (1, 3, 25)
    # One row in each band: those at 45, 0 and -45 degrees.
    lengths = CIRCUMFERENCE * np.cos(np.radians([45, 0, -45]))
    np.testing.assert_allclose(power[0, :, 5], 2.0 * lengths)
    np.testing.assert_allclose(power[0, :, 0], 9.0 * lengths)
    rest = np.delete(power[0], [0, 5], axis=1)
    np.testing.assert_allclose(rest, 0, atol=1e-18 * CIRCUMFERENCE)


@pytest.mark.parametrize("columns", (47, 48))
def test_powers_add_up_to_the_integral_of_the_square(columns: int) -> None:
    field = np.random.default_rng(1).standard_normal((2, 5, columns))
    spectra = Spectra(LATITUDE, np.linspace(0.0, 360 - 360 / columns, columns), ())
    power = spectra.of({"2t": torch.from_numpy(field)})["2t"]
    integral = np.square(field[:, 2]).mean(axis=-1) * CIRCUMFERENCE
    np.testing.assert_allclose(power[:, 1].sum(axis=-1), integral)


def test_rows_of_a_band_weigh_by_area() -> None:
    latitude = np.array([70.0, 60.0, 50.0, 40.0, 30.0, 20.0])
    field = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 6, 48)))
    power = Spectra(latitude, LONGITUDE, ()).of({"2t": field})["2t"][0, 0]
    # Rows at 60 to 30 degrees, each 10 degrees high: areas are differences of sines.
    rows = np.array([60.0, 50.0, 40.0, 30.0])
    areas = np.sin(np.radians(rows + 5)) - np.sin(np.radians(rows - 5))
    amplitude = np.abs(np.fft.fft(field[0, 1:5].numpy()) / 48) ** 2
    expected = (areas / areas.sum() * CIRCUMFERENCE * np.cos(np.radians(rows))) @ amplitude
    np.testing.assert_allclose(power[3], 2 * expected[3])
    np.testing.assert_allclose(power[0], expected[0])


def test_headline_channels_have_spectra() -> None:
    spectra = Spectra(LATITUDE, LONGITUDE, (500, 850))
    states = {
        "2t": waves((1, 1.0)),
        "msl": waves((1, 1.0)),
        "z": torch.stack([waves((1, 1.0)), waves((2, 1.0))], dim=1),
    }
    found = spectra.of(states)
    assert found.keys() == {"2t", "z_500"}
    assert found["z_500"][0, 1].argmax() == 1
    assert spectra.channels(["msl", "2t", "z_500", "z_850"]) == ["z_500", "2t"]


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    (
        (LATITUDE, LONGITUDE[:20]),
        (np.array([89.0, 80.0]), LONGITUDE),
        tuple(np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")),
    ),
    ids=("region", "polar", "curvilinear"),
)
def test_other_grids_have_none(latitude: np.ndarray, longitude: np.ndarray) -> None:
    spectra = Spectra(latitude, longitude, (500,))
    assert spectra.channels(["2t", "z_500"]) == []
    shape = (1, len(latitude), longitude.shape[-1])
    assert spectra.of({"2t": torch.zeros(shape)}) == {}


def test_ratios_by_scale() -> None:
    """The model has half of the amplitude of small waves, and all of the others; the base none on the second date."""
    spectra = Spectra(LATITUDE, LONGITUDE, ())
    target = spectra.of({"2t": waves((2, 3.0), (10, 2.0), (22, 1.0))})["2t"][0]
    model = spectra.of({"2t": waves((2, 3.0), (10, 2.0), (22, 0.5))})["2t"][0]
    missing = np.full_like(target, math.nan)
    held = np.stack([np.stack([model, 4 * target, target]), np.stack([model, missing, target])])[:, :, None]
    power = xr.DataArray(
        held,
        dims=("start", "series", "field", "band", "wavenumber"),
        coords={
            "series": ["model", "base", TARGET],
            "field": ["2t"],
            "band": list(BANDS),
            "wavenumber": spectra.wavenumbers,
        },
    )
    found = power_ratios(power)
    assert found.keys() == {"2t"}
    assert found["2t"].keys() == BANDS.keys()
    for row in found["2t"].values():
        assert row == pytest.approx(
            {"large": 1, "medium": 1, "small": 0.25, "base_large": 4, "base_medium": 4, "base_small": 4}
        )
    # A coarse grid has no small waves, and what has no power has no ratio.
    coarse = power_ratios(power.isel(wavenumber=slice(0, 16)))["2t"]["tropics"]
    assert coarse["small"] is None
    assert coarse["large"] == pytest.approx(1)
