"""A small sound store, and the ways to spoil it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from kit.checks.check import Expected
from kit.checks.drift import published
from kit.checks.results import Check, QualityReport
from kit.checks.run import examine as examined
from kit.checks.run import report_on
from tests.factories import synthetic_dataset, write_synthetic

Edit = Callable[[zarr.Group, Path], None]


def make_sound(path: Path) -> Path:
    """12 states, 6-hourly from 2020-01-01; 16 x 32 points; levels 100, 500, 850 hPa."""
    surface, atmospheric = ("2t", "10u", "10v", "msl", "tp", "swh"), ("u", "v", "q", "z", "t")
    dataset = synthetic_dataset(surface=surface, atmospheric=atmospheric)
    dataset["swh"] = np.abs(dataset["swh"])
    dataset["q"] = dry_above(dataset["q"])
    write_synthetic(dataset, path)
    return path


def dry_above(q: xr.DataArray) -> xr.DataArray:
    """The factory's humidity, with means and scales that the levels have."""
    known = [published()[f"q_{level:g}"] for level in q["level"].values]
    mean, scale = (np.array(part, dtype=np.float32).reshape(-1, 1, 1) for part in zip(*known, strict=True))
    return xr.DataArray(mean + scale / 5 * (q - 0.004) / 0.001).astype(np.float32)


def editable(path: Path) -> zarr.Group:
    """Open for editing, without the consolidated metadata that would hide what is removed or added."""
    description = json.loads((path / "zarr.json").read_text())
    description.pop("consolidated_metadata", None)
    (path / "zarr.json").write_text(json.dumps(description))
    return zarr.open_group(path, mode="r+", use_consolidated=False)


def examine(path: Path, edit: Edit) -> QualityReport:
    # A chunk of nothing but missing values is written too, as the kit does.
    with zarr.config.set({"array.write_empty_chunks": True}):
        edit(editable(path), path)
    return report_of(path)


def report_of(path: Path, expected: Expected | None = None) -> QualityReport:
    """What the checks say of a store."""
    return report_on(examined(path, expected))


def set_values(name: str, index: Any, value: Any) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        group[name][index] = value

    return edit


def replace(name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        array: Any = group[name]
        array[...] = change(np.asarray(array[...]))

    return edit


def remove(*names: str) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        for name in names:
            shutil.rmtree(path / name)

    return edit


def rewrite(name: str, data: Any, dimensions: tuple[str, ...], **attributes: Any) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        shutil.rmtree(path / name, ignore_errors=True)
        group.create_array(name, data=np.asarray(data), dimension_names=dimensions, attributes=attributes)

    return edit


def statistics(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        content = json.loads((path / "stats.json").read_text())
        change(content["variables"])
        (path / "stats.json").write_text(json.dumps(content))

    return edit


def spoil(group: zarr.Group, path: Path) -> None:
    (path / "stats.json").write_text("{")


def forget(group: zarr.Group, path: Path) -> None:
    (path / "stats.json").unlink()


def attribute(name: str, value: Any) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        group.attrs[name] = value

    return edit


def damage(group: zarr.Group, path: Path) -> None:
    (path / "2t" / "c" / "3" / "0" / "0").write_bytes(b"no chunk")


def split(**periods: str) -> Edit:
    """Change the store's periods."""

    def edit(group: zarr.Group, path: Path) -> None:
        before: Any = group.attrs["splits"]
        group.attrs["splits"] = {**before, **periods}

    return edit


def state(name: str, key: str, value: Any) -> Edit:
    """Change an attribute of a variable; None removes it."""

    def edit(group: zarr.Group, path: Path) -> None:
        if value is None:
            del group[name].attrs[key]
        else:
            group[name].attrs[key] = value

    return edit


def together(*edits: Edit) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        for one in edits:
            one(group, path)

    return edit


def add(name: str, values: Any, **attributes: Any) -> Edit:
    """Add a variable on the store's grid, static or with times."""
    values = np.asarray(values, dtype=np.float32)
    dimensions = ("latitude", "longitude") if values.ndim == 2 else ("time", "latitude", "longitude")
    return rewrite(name, values, dimensions, **attributes)


def stuck(name: str, time: int) -> Edit:
    def edit(group: zarr.Group, path: Path) -> None:
        array: Any = group[name]
        array[time] = array[time - 1]

    return edit


HOURS = np.arange(12) * 6 * 3600 + 1577836800
"""The store's times, seconds since 1970."""


def of(report: QualityReport, name: str) -> list[Check]:
    return [check for check in report.checks if check.name == name]


def failed(report: QualityReport, name: str) -> list[Check]:
    return [check for check in of(report, name) if check.status == "failed"]
