"""Climate of rain from a store's states: how often it is dry, and from where on rain is heavy.

As WeatherBench 2 has it (google-research/weatherbench2, ``scripts/compute_climatology.py``, ``SEEPSThreshold``): over
all years and the days around a day, the share of windows that are dry, each day weighing the same, and the amount that
a third of the other windows exceed, a quantile with the days' weights.

Dimensions: N sample (a day of a year), H latitude, W longitude.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.climatology.calendar import Calendar
from kit.data.climatology.rain import DRY_FRACTION, HEAVY, dry_mm
from kit.data.store.format import CURVILINEAR, GRID
from kit.data.store.reader import Store

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RAIN = "tp"
"""Variable that has such a climate: total precipitation."""
_HEAVY = 2 / 3
_MM_PER_M = 1000
_SORTING = 8
"""Numbers in double precision that a sample takes while quantiles are computed."""


class RainField:
    """Total precipitation of a store, whose states are sorted into dry, light and heavy.

    Attributes:
        names: Names of both arrays in the climatology: the share that is dry, and the least heavy rain.
        attributes: Their CF attributes.
        shape: Shape of a state, [H, W].
        dimensions: Names of its dimensions.
    """

    names: tuple[str, ...] = (RAIN + DRY_FRACTION, RAIN + HEAVY)

    def __init__(self, store: Store, calendar: Calendar) -> None:
        self._store = store
        self._years = max(map(len, calendar.states.values()))
        self._dry = dry_mm(store.variable_attributes(RAIN).get("accumulation_hours")) / _MM_PER_M
        self.shape: tuple[int, ...] = store.shape
        self.dimensions: tuple[str, ...] = CURVILINEAR if store.curvilinear else GRID
        below = {"dry_below_mm": self._dry * _MM_PER_M}
        self.attributes: tuple[Mapping[str, Any], ...] = (
            {"long_name": "Share of windows without rain", "units": "1", **below},
            {"long_name": "Amount that a third of the windows with rain exceed", "units": "m", **below},
        )

    def blocks(self, window: int, memory: int) -> list[slice]:
        """Divide the rows so that all samples of a window fit into memory; a row is a block in any case."""
        height, width = self.shape
        rows = max(1, memory // (8 * _SORTING * self._years * window * width))
        return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]

    def statistics(self, calendar: Calendar, hour: int, rows: slice, weights: Float64) -> Iterator[tuple[Float64, ...]]:
        """Sort the states of an hour around each day of a calendar; arguments are those of ``AveragedField``.

        Yields:
            Share of dry windows, and least heavy amount in metres, [H, W]; NaN where there is none.
        """
        held: dict[int, Float32] = {}
        for day in calendar.days:
            around = calendar.around(hour, day, np.ones(len(weights)))
            weighed = calendar.around(hour, day, weights)
            held = {near: values for near, values in held.items() if near in around}
            for near in around.keys() - held.keys():
                held[near] = self._store.read(RAIN, calendar.states[hour, near], rows)
            samples_N = np.concatenate([held[near] for near in around]).astype(np.float64)
            weights_N = np.concatenate([np.full(len(held[near]), weighed.get(near, 0.0)) for near in around])
            present, dry = np.isfinite(samples_N), samples_N < self._dry
            with np.errstate(invalid="ignore"):
                share = dry.sum(0) / present.sum(0)
            yield share, weighted_quantile(np.where(dry, np.nan, samples_N), weights_N, _HEAVY)


def weighted_quantile(samples_N: Float64, weights_N: Float64, share: float) -> Float64:
    """Compute a quantile of weighted samples at each point; missing ones are left out.

    Of type 7 (Hyndman and Fan 1996, as ``numpy.quantile`` has it of equal weights) with the effective number of samples
    of Kish, as xarray has it of weighted data (Akinshin 2023, "Weighted quantile estimators", arXiv 2304.07265).

    Args:
        samples_N: Samples, [N, ...].
        weights_N: Weights of the samples, [N].
        share: Share of the samples below the quantile, from 0 to 1.

    Returns:
        Quantiles, [...]; NaN where all samples are missing or weigh nothing.
    """
    order_N = np.argsort(samples_N, axis=0)
    sorted_N = np.take_along_axis(samples_N, order_N, 0)
    # Missing samples weigh nothing, wherever they are sorted.
    held_N = np.where(np.isnan(sorted_N), 0.0, weights_N[order_N])
    total = held_N.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = total**2 / (held_N**2).sum(0)
        rank = (count - 1) * share + 1
        below_N = np.concatenate([np.zeros((1, *total.shape)), np.cumsum(held_N, axis=0) / total])
        # A sample counts by the part of its interval, of all weights, that lies between the ranks around the quantile.
        edges_N = np.maximum((rank - 1) / count, np.minimum(rank / count, below_N))
        parts_N = np.diff(edges_N, axis=0) * count
    return np.asarray((np.nan_to_num(sorted_N) * parts_N).sum(0))
