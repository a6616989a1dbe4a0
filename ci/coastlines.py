"""Embed the Earth's coasts and borders, from Natural Earth, as the package carries them.

The npm package ``world-atlas`` redistributes Natural Earth (public domain) as TopoJSON: arcs that neighbours share,
quantised and delta-encoded (TopoJSON specification, 2.1.2 and 2.1.4). An arc of two countries is a border, an arc of
the land is a coast.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embed import embed
from kit.plots.coastlines import DEGREES, ENTRY, SCALES

PACKAGE = "world-atlas@2.0.2"
SHA256 = "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97"
LABELS: dict[str, str | bool] = {
    "licence": "Public domain; made with Natural Earth",
    "kind": "map",
    "description": (
        "Coasts and borders of the Earth at 1:110 million and 1:50 million, Natural Earth 4.1, decoded from the npm "
        "package world-atlas 2.0.2. Made by `nox -s coastlines`."
    ),
}

Points = npt.NDArray[np.float64]


def main(tarball: Path | None) -> None:
    """Decode both scales of a package that npm downloads, or of one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        if tarball is None:
            done = subprocess.run(
                ["npm", "pack", PACKAGE, "--pack-destination", folder, "--json"], capture_output=True, check=True
            )
            tarball = Path(folder) / json.loads(done.stdout)[0]["filename"]
        content = tarball.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        sys.exit(f"coastlines: {tarball.name} has the SHA-256 {found}, and {PACKAGE} has {SHA256}; nothing is changed")
    arrays: dict[str, npt.NDArray[Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for scale in SCALES:
            member = archive.extractfile(f"package/countries-{scale}.json")
            assert member is not None
            for kind, lines in lines_of(json.load(member)).items():
                arrays[f"{kind}_{scale}"], arrays[f"{kind}_{scale}_lengths"] = packed(lines)
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    embed(ENTRY, f"{ENTRY}.npz", out.getvalue(), LABELS)


def lines_of(topology: Mapping[str, Any]) -> dict[str, list[Points]]:
    """Decode coasts and borders: lines of longitudes and latitudes in degrees, [N, 2]."""
    scale, translate = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    arcs = [np.cumsum(arc, axis=0) * scale + translate for arc in topology["arcs"]]
    countries = topology["objects"]["countries"]["geometries"]
    # A country that has an arc twice is on both sides of it.
    used = Counter(index for country in countries for index in set(arcs_of(country.get("arcs", []))))
    land = set(arcs_of(topology["objects"]["land"]["geometries"][0]["arcs"]))
    coasts = [arcs[index] for index in sorted(land)]
    borders = [arcs[index] for index, count in sorted(used.items()) if count > 1]
    return {"coasts": [piece for line in coasts for piece in without_seams(line)], "borders": borders}


def arcs_of(nested: Any) -> Iterator[int]:
    """Yield the arcs of a geometry, however deep its rings lie; a negative number is an arc that is walked back."""
    if isinstance(nested, int):
        yield nested if nested >= 0 else ~nested
        return
    for part in nested:
        yield from arcs_of(part)


def without_seams(line: Points) -> Iterator[Points]:
    """Cut out what only closes polygons on a flat map: along the meridian of 180 degrees, and along the South Pole."""
    at_seam = (np.abs(line[:, 0]) > 179.99) | (line[:, 1] < -89.9)
    cuts = sorted({0, len(line) - 1, *np.flatnonzero(at_seam)})
    for first, last in pairwise(cuts):
        if last == first + 1 and at_seam[first] and at_seam[last]:
            continue
        piece = line[first : last + 1].copy()
        # The meridian has two longitudes: an end that lies on it gets that of the side where the line is.
        if at_seam[first]:
            piece[0, 0] = np.copysign(piece[0, 0], piece[1, 0])
        if at_seam[last]:
            piece[-1, 0] = np.copysign(piece[-1, 0], piece[-2, 0])
        yield piece


def packed(lines: list[Points]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
    """Put lines one behind the other, in steps of ``DEGREES``: [N, 2], and the number of points of each."""
    points = np.rint(np.concatenate(lines) / DEGREES).astype(np.int16)
    return points, np.array([len(line) for line in lines], dtype=np.int32)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
