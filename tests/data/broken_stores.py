"""Stores that are not what they should be: metadata, chunks and links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["STORES", "Spoil"]

Spoil = Callable[[Path], Any]
"""Spoils a sound store."""

CHUNK = Path("2t/c/1/0/0")


def describe(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change a description (``zarr.json``), and the copy of it in the root's."""

    def spoil(store: Path) -> None:
        own = store / name / "zarr.json"
        content = json.loads(own.read_text())
        change(content)
        own.write_text(json.dumps(content))
        root = json.loads((store / "zarr.json").read_text())
        if name:
            root["consolidated_metadata"]["metadata"][name] = content
            (store / "zarr.json").write_text(json.dumps(root))

    return spoil


def written(name: str | Path, content: bytes) -> Spoil:
    return lambda store: (store / name).write_bytes(content)


def pipe(name: str | Path) -> Spoil:
    def spoil(store: Path) -> None:
        (store / name).unlink(missing_ok=True)
        os.mkfifo(store / name)

    return spoil


def folder(name: str | Path) -> Spoil:
    def spoil(store: Path) -> None:
        (store / name).unlink()
        (store / name).mkdir()

    return spoil


def linked(name: str | Path, target: str = "") -> Spoil:
    """Move a part of the store out of it, and leave a link; or leave a link to something else."""

    def spoil(store: Path) -> None:
        outside = store.parent / "outside"
        (store / name).rename(outside)
        (store / name).symlink_to(target or outside)

    return spoil


def halved(name: str | Path) -> Spoil:
    return lambda store: (store / name).write_bytes((store / name).read_bytes()[:40])


def attribute(name: str, value: Any) -> Spoil:
    return describe("", lambda root: root["attributes"].update({name: value}))


def swapped(store: Path) -> None:
    """The description of one variable in the place of another."""
    shutil.copy(store / "static_lsm" / "zarr.json", store / "2t" / "zarr.json")
    root = json.loads((store / "zarr.json").read_text())
    known = root["consolidated_metadata"]["metadata"]
    known["2t"] = known["static_lsm"]
    (store / "zarr.json").write_text(json.dumps(root))


def huge(store: Path) -> None:
    """Times by the billion, none of which is there."""
    for name in ("time", "2t"):
        describe(name, lambda array: array.update(shape=[2**50, *array["shape"][1:]]))(store)


STORES: dict[str, tuple[Spoil, str]] = {
    "a chunk is gone": (lambda store: (store / CHUNK).unlink(), "qa:readable:2t"),
    "a static chunk is gone": (lambda store: (store / "static_lsm/c/0/0").unlink(), "qa:readable:static_lsm"),
    "all chunks are gone": (lambda store: shutil.rmtree(store / "2t/c"), "qa:readable:2t"),
    "a chunk is cut off": (halved(CHUNK), "qa:readable:2t"),
    "a chunk is empty": (written(CHUNK, b""), "qa:readable:2t"),
    "a chunk is something else": (written(CHUNK, b"GRIB" * 20), "qa:readable:2t"),
    "a chunk is a folder": (folder(CHUNK), "qa:readable:2t"),
    "a chunk is a pipe": (pipe(CHUNK), "qa:readable:2t"),
    "a chunk is a link to all zeros": (linked(CHUNK, "/dev/zero"), "qa:readable:2t"),
    "a chunk is a link to a file of the system": (linked(CHUNK, "/etc/passwd"), "qa:readable:2t"),
    "a chunk is a link into nowhere": (linked(CHUNK, "nowhere"), "qa:readable:2t"),
    "a chunk lies elsewhere": (linked(CHUNK), "qa:self-contained:2t"),
    "a variable lies elsewhere": (linked("10u"), "qa:self-contained:10u"),
    "a variable is gone": (lambda store: shutil.rmtree(store / "2t"), "qa:readable:2t"),
    "times are gone": (lambda store: (store / "time/c/0").unlink(), "qa:"),
    "latitudes are gone": (lambda store: (store / "latitude/c/0").unlink(), "qa:"),
    "times are a pipe": (pipe("time/c/0"), "qa:"),
    "no description": (lambda store: (store / "zarr.json").unlink(), "not a store"),
    "a description is cut off": (halved("zarr.json"), "not a store"),
    "a description is a list": (written("zarr.json", b"[1, 2]"), "not a store"),
    "a description is a number": (written("zarr.json", b"7"), "not a store"),
    "a description is no text": (written("zarr.json", b"\xff\xfe{}"), "not a store"),
    "a description is a pipe": (pipe("zarr.json"), "not a store"),
    "a description of depth": (written("zarr.json", b"[" * 100000), "not a store"),
    "an array for a group": (
        lambda store: shutil.copy(store / "2t/zarr.json", store / "zarr.json"),
        "not a store",
    ),
    "another type": (describe("2t", lambda array: array.update(data_type="int64")), "qa:"),
    "a type that is none": (describe("2t", lambda array: array.update(data_type="float7")), "not a store|qa:"),
    "a shape that is too long": (describe("2t", lambda array: array["shape"].__setitem__(0, 99)), "qa:layout:2t"),
    "a shape of other dimensions": (describe("2t", lambda array: array.update(shape=[4])), "not a store|qa:"),
    "a negative shape": (describe("2t", lambda array: array["shape"].__setitem__(0, -4)), "not a store|qa:"),
    "chunks of nothing": (
        describe("2t", lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[0, 0, 0])),
        "not a store|qa:",
    ),
    "chunks of another shape": (
        describe("2t", lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[1, 2, 2])),
        "qa:readable:2t",
    ),
    "a codec that nobody knows": (
        describe("2t", lambda array: array.update(codecs=[{"name": "rot13"}])),
        "not a store|qa:",
    ),
    "no dimensions": (describe("2t", lambda array: array.update(dimension_names=None)), "qa:layout:2t"),
    "a fill value of text": (describe("2t", lambda array: array.update(fill_value="much")), "not a store|qa:"),
    "the description of another": (swapped, "qa:"),
    "times by the billion": (huge, "at most 16777216 values"),
    "periods that are none": (attribute("splits", [1, 2]), "qa:splits"),
    "a period of numbers": (attribute("splits", {"train": 7}), "qa:splits"),
    "another format": (attribute("kit_store", "1"), "qa:format"),
    "units that are numbers": (describe("2t", lambda array: array["attributes"].update(units=[1])), "qa:"),
    "no statistics": (lambda store: (store / "stats.json").unlink(), "qa:statistics"),
    "statistics of another kind": (written("stats.json", b"[]"), "qa:statistics"),
    "statistics of text": (written("stats.json", b'{"train": 1, "states": "x", "variables": {"2t": 7}}'), "qa:"),
    "statistics as a pipe": (pipe("stats.json"), "qa:statistics"),
    "a report as a pipe": (lambda store: os.mkfifo(store / "qa.json"), ""),
    "a report of another kind": (written("qa.json", b"""{"key": 1, "checks": 7}"""), ""),
    "a report as a folder": (lambda store: (store / "qa.json").mkdir(), ""),
}
"""By name: what spoils it, and what ``kit data qa`` says, or the finding after ``qa:``."""
