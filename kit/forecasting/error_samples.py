"""Errors of a model's own one-step forecasts, kept as files that are read a field at a time.

One file ``NAME.npy`` a variable holds them, [N, H, W] or [N, C, H, W] of N dates.
"""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import write_array_header_1_0

from kit.data.dataset import Pairs
from kit.forecasting.predictor import Predictor
from kit.forecasting.rolling import check_finite, check_prediction, roll_out, valid_time
from kit.io.atomic import publish, scratch
from kit.io.errors import SettingsError

_logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0
"""Seconds between words on the progress."""
_GIB = 2**30

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ErrorSamples:
    """Errors of one checkpoint.

    Attributes:
        folder: Folder of the files.
    """

    folder: Path

    @property
    def names(self) -> list[str]:
        """Variables that have errors: those that are read and predicted."""
        return sorted(file.stem for file in self.folder.glob("*.npy"))

    @property
    def count(self) -> int:
        """Number of dates."""
        return int(self._open(self.names[0]).shape[0])

    def combined(self, name: str, weights: npt.NDArray[np.float64]) -> Float32:
        """Add up a variable's anomalies from the mean over dates, each times a weight, over the root of N - 1.

        With weights that are independent and standard normal, the sums have the errors' sample covariance.

        Args:
            name: Name of the variable.
            weights: One for each date, [N].

        Returns:
            [H, W], or [C, H, W] on levels.
        """
        samples = self._open(name)
        weighted, plain = np.zeros(samples.shape[1:]), np.zeros(samples.shape[1:])
        # One date at a time, in one order: memory holds a few fields, whatever the number of dates.
        for weight, sample in zip(weights, samples, strict=True):
            weighted += weight * sample
            plain += sample
        anomalies = weighted - weights.sum() * plain / len(samples)
        combined: Float32 = (anomalies / math.sqrt(len(samples) - 1)).astype(np.float32)
        return combined

    def _open(self, name: str) -> Float32:
        found: Float32 = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return found


def spread_dates(pairs: Pairs, most: int) -> list[int]:
    """Choose pairs that are spread evenly over a period, all of them where there are no more than asked for."""
    count = min(most, len(pairs))
    return sorted({round(place) for place in np.linspace(0, len(pairs) - 1, count).tolist()})


def make_error_samples(predictor: Predictor, pairs: Pairs, dates: Sequence[int], out: Path) -> None:
    """Forecast one step from some dates, and write the anomalies of the errors.

    Args:
        predictor: Model that predicts.
        pairs: Input states and the states that followed.
        dates: Positions of the pairs to take.
        out: Folder to make.

    Raises:
        SettingsError: the disk has no room for them.
        CheckpointError: a state or a prediction is not finite.
    """
    with scratch(out) as part:
        part.mkdir()
        said = time.monotonic()
        # Written as any file is: a full disk is an error there, and the end of the process in mapped memory.
        with ExitStack() as opened:
            streams: dict[str, BinaryIO] = {}
            for place, index in enumerate(dates):
                errors = dict(_errors(predictor, pairs, index))
                if not streams:
                    _check_room(out, len(dates) * sum(error.nbytes for error in errors.values()))
                for name, error in errors.items():
                    if name not in streams:
                        streams[name] = opened.enter_context((part / f"{name}.npy").open("wb"))
                        shape = (len(dates), *error.shape)
                        write_array_header_1_0(streams[name], {"descr": "<f4", "fortran_order": False, "shape": shape})
                    streams[name].write(error.astype("<f4").tobytes())
                if time.monotonic() - said >= _SAY_EVERY:
                    said = time.monotonic()
                    _logger.info("one-step errors: %d of %d dates", place + 1, len(dates))
        publish(part, out)


def _errors(predictor: Predictor, pairs: Pairs, index: int) -> Iterator[tuple[str, Float32]]:
    """Forecast one step from a date, and yield the error of each variable that is read and predicted."""
    space, pair = predictor.space, pairs[index]
    for state in (pair.inputs, pair.target):
        check_finite(state, space, f"{pairs.store.path}: the state of {valid_time(state)}")
    (prediction,) = roll_out(space, pair.inputs, 1)
    check_prediction(prediction, space, 1, "")
    kinds = (
        (pairs.selection.inputs, prediction.surf_vars, pair.target.surf_vars),
        (pairs.selection.atmospheric, prediction.atmos_vars, pair.target.atmos_vars),
    )
    for names, predicted, came in kinds:
        for name in names:
            if name in predicted and name in came:
                error: torch.Tensor = predicted[name][0, 0].float().cpu() - came[name][0, 0]
                yield name, error.numpy()


def _check_room(out: Path, size: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if size > free:
        msg = (
            f"{out}: the errors take {size / _GIB:.2f} GiB, and the disk has {free / _GIB:.2f} free; take fewer dates "
            "with --error_dates, or another disk with --out"
        )
        raise SettingsError(msg)
