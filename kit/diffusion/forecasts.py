"""Forecasts of an operator, made once for all pairs of a run, so that training holds no operator.

Dimensions: N forecast, C channel, H row, W column.
"""

import logging
import math
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from kit.data.dataset import Pairs, moved
from kit.diffusion.space import DiffusionSpace
from kit.diffusion.spec import DiffusionSpec
from kit.io.atomic import publish, scratch
from kit.io.errors import SettingsError
from kit.io.hashes import sha256_of_text

_logger = logging.getLogger(__name__)

_SAY_EVERY = 10.0
"""Seconds between words on the progress."""
_GIB = 2**30


class CachedForecasts:
    """One-step forecasts by their initial times, transformed as the network reads them.

    Args:
        folder: Folder of the file, which is gone on with where it is of the same forecasts.
        space: Network with the operator.
        pairs: Pairs whose initial states are forecast from.
        facts: What else the forecasts follow from, in words.

    Raises:
        SettingsError: the disk has no room for them.
    """

    def __init__(self, folder: Path, space: DiffusionSpace, pairs: Sequence[Pairs], facts: str) -> None:
        self._places: dict[datetime, int] = {}
        for each in pairs:
            for moment in each.times:
                self._places.setdefault(moment, len(self._places))
        self._shape = (len(self._places), len(space.spec.channels), *space.spec.grid)
        name = sha256_of_text(f"{facts}, {space.spec.as_dict()}, {list(self._places)}")[:16]
        self._file = folder / f"forecasts-{name}.f32"
        if not self._file.exists():
            self._check_room(folder)
            self._make(space, pairs)
        self._values = np.memmap(self._file, np.float32, "r", shape=self._shape)

    def _check_room(self, folder: Path) -> None:
        needed, free = 4 * math.prod(self._shape), shutil.disk_usage(folder.parent).free
        if needed > free:
            msg = (
                f"{folder}: {self._shape[0]} forecasts of the operator take {needed / _GIB:.1f} GiB, and "
                f"{free / _GIB:.1f} are free; make room, or let it forecast at every step with --diffusion.forecasts "
                "live"
            )
            raise SettingsError(msg)

    def _make(self, space: DiffusionSpace, pairs: Sequence[Pairs]) -> None:
        """Forecast from every initial state."""
        said = time.monotonic()
        self._file.parent.mkdir(exist_ok=True)
        with scratch(self._file) as part:
            values = np.memmap(part, np.float32, "w+", shape=self._shape)
            done: set[datetime] = set()
            for each in pairs:
                for index, moment in enumerate(each.times):
                    if moment not in done:
                        forecast = space.forecast(moved(each.inputs([index]), space.device))
                        values[self._places[moment]] = space.values(forecast)[0].cpu().numpy()
                        done.add(moment)
                    if time.monotonic() - said >= _SAY_EVERY:
                        said = time.monotonic()
                        _logger.info("%d of %d forecasts of the operator are made", len(done), self._shape[0])
            values.flush()
            publish(part, self._file)

    def at(self, times: Sequence[datetime]) -> torch.Tensor:
        """Return the forecasts from some initial times, [N, C, H, W], on the host."""
        return torch.from_numpy(np.stack([self._values[self._places[moment]] for moment in times]))

    def remove(self) -> None:
        """Remove the file."""
        shutil.rmtree(self._file.parent, ignore_errors=True)


class BlankForecasts:
    """Forecasts for a plan, which have a size and no values.

    Args:
        spec: Description of the network that reads them.
    """

    def __init__(self, spec: DiffusionSpec) -> None:
        self._shape = (len(spec.channels), *spec.grid)

    def at(self, times: Sequence[datetime]) -> torch.Tensor:
        """Return as many forecasts, [N, C, H, W]."""
        return torch.zeros(len(times), *self._shape)
