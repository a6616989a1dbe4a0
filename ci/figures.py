"""Draw the manual's maps again: of the run of the first page, of a day of real ERA5 over Europe, of HRRR's grid."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manual import DOCS, europe, first_run, kit

if TYPE_CHECKING:
    from tests.servers import Server

ROWS, COLUMNS, METRES = 118, 200, 27_000
"""HRRR's grid with every ninth point in either direction."""
HOURS = ("2024-06-01T00", "2024-06-01T01")


def sample(folder: Path) -> None:
    """Map temperature of the run on the embedded sample, and its mean errors."""
    first_run(folder)
    kit(folder, "plot --run runs/first --variables t_850 --out figures")


def real(folder: Path) -> None:
    """Map the dew point of the run on the European day."""
    europe(folder)
    kit(folder, "plot --run runs/europe --variables 2d --out figures")


def hrrr(folder: Path) -> None:
    """Map made-up reflectivity on HRRR's grid, from a store that was built of files as HRRR's archives have them."""
    # The files are those of the tests, which know HRRR's messages.
    sys.path.insert(0, str(DOCS.parent))
    from kit.data.settings import BuildSettings
    from kit.data.store.build import build_store
    from kit.plots.map_grid import MapGrid
    from kit.plots.map_series import channel_of
    from kit.plots.maps import MapFigure, MapFrame, MapSetting
    from kit.plots.styles import mark_synthetic, save
    from tests.servers import serving

    with serving() as server:
        os.environ |= {"KIT_CACHE": str(folder / "cache"), "KIT_HRRR_ARCHIVE": server.url()}
        for number, hour in enumerate(HOURS):
            serve_hour(server, np.datetime64(hour, "h"), number)
        asked = {"source": "hrrr", "path": "hrrr", "out": folder / "store", "step": "1h", "variables": ("refc",)}
        asked |= {"statics": ("coslat",), "times": "/".join(HOURS), "train": "/".join(HOURS)}
        store = build_store(BuildSettings.model_validate(asked))
    last_HW, came_HW = store.read("refc", [0, 1])
    channel = channel_of("refc", None, store.variable_attributes("refc"))
    frame = MapFrame(store.times[1], 1, {"Persistence": last_HW}, came_HW)
    drawn = MapFigure(channel, [frame], MapSetting(MapGrid.of(store.latitude, store.longitude))).figure
    # The store does not know that its files are made up; coasts are the Earth's all the same.
    mark_synthetic(drawn)
    save(drawn, folder / "figures" / "refc.png")


def serve_hour(server: Server, time: np.datetime64, number: int) -> None:
    """Serve a file of HRRR's with a line of made-up storms, which moves eastwards."""
    from tests.data.sources.hrrr_files import lambert

    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    line = 70 + 6 * number + 0.35 * rows + 6 * np.sin(rows / 9)
    cells = 0.5 + 0.5 * np.sin(rows / 2.5 + number) * np.cos(rows / 5)
    echo_HW = np.where((rows > 25) & (rows < 95), 55 * np.exp(-(((columns - line) / 5) ** 2)) * (0.5 + cells / 2), 0)
    grid = {"Nx": COLUMNS, "Ny": ROWS, "DxInMetres": METRES, "DyInMetres": METRES}
    values = {"REFC:entire atmosphere": echo_HW - 10, "TMP:2 m above ground": 300 - rows / 10}
    run, content, index = time.item(), b"", ""
    for order, (name, field_HW) in enumerate(values.items(), start=1):
        index += f"{order}:{len(content)}:d={run:%Y%m%d%H}:{name}:anl:\n"
        content += lambert(name, time, values=field_HW, **grid)
    path = f"/hrrr.{run:%Y%m%d}/conus/hrrr.t{run:%H}z.wrfsfcf00.grib2"
    server.put(path, content)
    server.put(f"{path}.idx", index.encode())


FIGURES: Mapping[str, tuple[Callable[[Path], None], Mapping[str, str]]] = {
    "sample": (sample, {"sample": "t_850_*.png", "mean-error": "mean_error_t_850_*.png"}),
    "europe": (real, {"europe": "2d_*.png"}),
    "hrrr": (hrrr, {"hrrr": "refc.png"}),
}
"""What is drawn, and the maps that the manual shows of it."""


def main(arguments: list[str]) -> None:
    """Draw the figures that are named, or all."""
    unknown = set(arguments) - set(FIGURES)
    if unknown:
        sys.exit(f"figures: there are none named {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    for name in arguments or FIGURES:
        draw, patterns = FIGURES[name]
        with tempfile.TemporaryDirectory(prefix="kit-figures-") as folder:
            draw(Path(folder))
            for figure, pattern in patterns.items():
                (drawn,) = (Path(folder) / "figures").glob(pattern)
                part = DOCS / "figures" / f".{figure}.png"
                shutil.copyfile(drawn, part)
                part.replace(DOCS / "figures" / f"{figure}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
