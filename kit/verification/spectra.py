"""Power of forecasts and of what came, by zonal wavenumber: whether a forecast is as rough as the weather, or smooth.

Dimensions: B start date, C channel, N band, K zonal wavenumber, H latitude, W longitude.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from kit.data.grid import area_weights, is_closed
from kit.data.statistics import channel_key
from kit.verification.sums import MODEL, States

TARGET = "target"
"""Name under which the power of what came is kept."""
MEMBER = "member"
"""Name under which the mean power of an ensemble's members is kept; the mean of members is smoother."""
CHANNELS = ("z_500", "t_850", "q_700", "2t", "10ws", "tp")
"""Channels whose power is kept, where they are there."""
BANDS: Mapping[str, tuple[float, float]] = {
    "30N-60N": (60.0, 30.0),
    "tropics": (20.0, -20.0),
    "30S-60S": (-30.0, -60.0),
}
"""Northern and southern end of bands of latitude, included."""
SCALES: Mapping[str, tuple[int, float]] = {"large": (1, 3), "medium": (4, 20), "small": (21, math.inf)}
"""First and last wavenumber of planetary waves, of synoptic ones, and of all that is smaller."""
CIRCUMFERENCE = 2 * math.pi * 6.371e6
"""Of the equator, in metres."""


class Spectra:
    """Power spectra along circles of latitude, averaged over bands by area; of grids that go around the globe alone."""

    def __init__(
        self, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64], levels: Sequence[float]
    ) -> None:
        """Prepare the weights.

        Args:
            latitude: Degrees north, [H]; [H, W] of a curvilinear grid, which has no circles of latitude.
            longitude: Degrees east, [W]; [H, W] of a curvilinear grid.
            levels: Pressures of variables on levels, hPa.
        """
        self._levels = levels
        self.bands: tuple[str, ...] = ()
        self.wavenumbers: npt.NDArray[np.int64] = np.arange(0)
        self._weights = torch.zeros(0, latitude.shape[0], dtype=torch.float64)
        if latitude.ndim == 2 or not is_closed(longitude):
            return
        areas = area_weights(latitude)
        weights = {}
        for name, (north, south) in BANDS.items():
            inside = areas * ((latitude <= north) & (latitude >= south))
            if inside.any():
                # A circle's power is per metre of it, times its length.
                length = CIRCUMFERENCE * np.cos(np.radians(latitude))
                weights[name] = inside / inside.sum() * length
        if weights:
            self.bands = tuple(weights)
            self.wavenumbers = np.arange(len(longitude) // 2 + 1)
            self._weights = torch.from_numpy(np.stack(list(weights.values())))

    def channels(self, held: Sequence[str]) -> list[str]:
        """Choose those channels whose power is kept; none where the grid has no spectrum."""
        if not self.bands:
            return []
        return [channel for channel in CHANNELS if channel in held]

    def of(self, states: States) -> dict[str, npt.NDArray[np.float64]]:
        """Compute the power of states.

        With F the discrete Fourier transform along a circle, divided by the number of its points, and C its
        circumference, C |F[0]|^2 and 2 C |F[k]|^2 (google-research/weatherbench2, ``weatherbench2/
        derived_variables.py``, ``ZonalEnergySpectrum``): the sum over wavenumbers is the integral of the square along
        the circle. The last wavenumber of an even number of points, which stands for itself alone, counts once.

        Args:
            states: Physical values, [B, H, W] and [B, C, H, W].

        Returns:
            Power by channel, in the variable's unit squared times metres, [B, N, K].
        """
        found = {}
        for channel, field in self._chosen(states).items():
            columns = field.shape[-1]
            amplitude = torch.fft.rfft(field.double(), norm="forward").abs().square()
            both = torch.full((amplitude.shape[-1],), 2.0, dtype=torch.float64, device=amplitude.device)
            both[0] = 1
            if columns % 2 == 0:
                both[-1] = 1
            power = torch.einsum("nh,bhk->bnk", self._weights.to(amplitude.device), amplitude * both)
            found[channel] = power.cpu().numpy()
        return found

    def _chosen(self, states: States) -> dict[str, Tensor]:
        fields: dict[str, Tensor] = {}
        for name, values in states.items():
            if values.ndim == 3:
                fields[name] = values
                continue
            for position, level in enumerate(self._levels):
                fields[channel_key(name, level)] = values[:, position]
        return {channel: fields[channel] for channel in self.channels(list(fields))}


def power_ratios(power: xr.DataArray) -> dict[str, dict[str, dict[str, float | None]]]:
    """Compare the power of forecasts of one lead with that of what came, on the dates that both have.

    Args:
        power: Power, with the dimensions start, series, field, band, wavenumber.

    Returns:
        By channel and band ``large``, ``medium`` and ``small`` of the model, ``base_large`` and so on of others: power
        of the forecast divided by that of the targets, by ``SCALES``; None where the targets have no power.
    """
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    series = [str(name) for name in power["series"].values if name != TARGET]
    wavenumber = power["wavenumber"].values
    for channel in map(str, power["field"].values):
        for band in map(str, power["band"].values):
            of_one = power.sel(field=channel, band=band).transpose("series", "start", "wavenumber")
            came = of_one.sel(series=TARGET).values.astype(np.float64)
            row: dict[str, float | None] = {}
            for name in series:
                ours = of_one.sel(series=name).values.astype(np.float64)
                both = np.isfinite(ours).all(axis=1) & np.isfinite(came).all(axis=1)
                if not both.any():
                    continue
                prefix = "" if name == MODEL else f"{name}_"
                for scale, (first, last) in SCALES.items():
                    chosen = (wavenumber >= first) & (wavenumber <= last)
                    below = came[both][:, chosen].sum()
                    row[prefix + scale] = float(ours[both][:, chosen].sum() / below) if below > 0 else None
            if row:
                table.setdefault(channel, {})[band] = row
    return table
