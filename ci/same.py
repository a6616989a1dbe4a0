"""Compare what this tree computes with what another commit computes, bit for bit.

``nox -s same -- COMMIT`` checks the commit out beside this tree, makes one set of input files, runs the same commands
in both trees, each in an empty folder and with one thread, and compares every file and result that they leave.
Measured times, identifiers and addresses are left out of the comparison; numbers that are means over a grid may differ
by 1e-12, where ``--moments`` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    name: command.strip()
    for name, _, command in (line.partition(":") for line in (ROOT / "ci" / "same-cases.txt").read_text().splitlines())
    if command and not name.startswith("#")
}
"""Commands by name; each runs in the folder of its tree, in this order."""

FRACTIONS = ("ci", "hcc", "lcc", "mcc", "tcc", "cl", "cvh", "cvl", "isor", "slor", "swvl1")
POSITIVE = ("blh", "i10fg", "sd", "dl", "sdfor", "sdor", "tcwv")

VOLATILE = re.compile(
    r"(seconds|_ms|_time|started|samples_per_second|throughput|run_id|mlflow|torch$|kit_version|commit|command|built"
    r"|wait|duration|created|date|host|pid|free|memory_gib|checked|wait_fraction)$|^(key|bytes)$"
)
"""Keys of JSON whose values are measured, or name this run of it."""
SKIPPED = re.compile(
    r"(^|/)(log\.txt|provenance\.json|tracking\.json|system\.jsonl|mlflow\.db.*|mlruns|mlartifacts|\.lock)(/|$)"
)
"""Files that hold times, identifiers or this machine's facts alone."""


def main() -> int:
    """Run both trees and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="commit to compare with")
    parser.add_argument("--keep", type=Path, help="folder to work in, kept; by default a temporary one")
    parser.add_argument(
        "--only", default="", help="names of cases, with commas; those that they need are theirs to name"
    )
    parser.add_argument("--moments", action="store_true", help="let numbers in JSON differ by 1e-12 of their size")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = work.absolute()
        work.mkdir(parents=True, exist_ok=True)
        old = checkout(chosen.commit, work / "tree")
        cases = {name: CASES[name] for name in (chosen.only.split(",") if chosen.only else CASES)}
        variables = stack.enter_context(inputs(work / "files"))
        for side, tree in (("old", old), ("new", ROOT)):
            run_tree(tree, work / side, cases, variables)
        differences = compare(work / "old", work / "new", 1e-12 if chosen.moments else 0.0)
    for line in differences:
        print(line)
    print(f"{len(cases)} cases, {len(differences)} differences")
    return 1 if differences else 0


def checkout(commit: str, tree: Path) -> Path:
    """Export a commit's files into a folder."""
    if not tree.exists():
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


@contextlib.contextmanager
def inputs(files: Path) -> Iterator[dict[str, str]]:
    """Make the input files, and serve what comes from servers, for both trees alike.

    Yields:
        Environment variables that name the servers.
    """
    sys.path.insert(0, str(ROOT))
    from tests.data.sources.hrrr_files import put_hour
    from tests.data_stores import KEY, serving_stores
    from tests.servers import serving

    if not files.exists():
        make_files(files)
    with serving() as archive, serving_stores() as stores:
        for hour in range(6):
            put_hour(archive, f"2024-06-01T{hour:02d}")
        yield {
            "KIT_HRRR_ARCHIVE": archive.url(),
            "ECMWF_DATASTORES_URL": stores.url,
            "ECMWF_DATASTORES_KEY": KEY,
        }


def make_files(files: Path) -> None:
    """Write every input: NetCDF with rain, GRIB, Zarr, the sample's pickle, a small model of version 1.5."""
    import numpy as np

    from tests.batches import small_spec
    from tests.checkpoints import write_whole
    from tests.data.sources import grib_files, zarr_files
    from tests.factories import synthetic_dataset, write_synthetic

    for name in ("netcdf", "holes", "grib"):
        (files / name).mkdir(parents=True)
    dataset = synthetic_dataset(surface=("2t", "10u", "10v", "msl", "tp"), times=28, height=24, width=48)
    dataset["tp"] = np.abs(dataset["tp"]) / 1000
    dataset["tp"].attrs |= {"units": "m", "accumulation_hours": 6}
    dataset.to_netcdf(files / "netcdf" / "states.nc")
    holes = dataset.copy(deep=True)
    holes["2t"].values[2, 3, 4] = np.nan
    holes.to_netcdf(files / "holes" / "states.nc")
    messages = [
        grib_files.message(grib_files.field(base), param=param, time=f"2020-01-0{day}T{hour:02d}")
        for day in (1, 2, 3)
        for hour in (0, 6, 12, 18)
        for param, base in ((167, 280.0 + day), (165, 3.0), (166, -2.0), (151, 101000.0))
    ]
    grib_files.write(files / "grib" / "surface.grib", *messages)
    zarr_files.write(zarr_files.weatherbench(), files / "wb2.zarr")
    (files / "sample.pickle").write_bytes((ROOT / "kit" / "resources" / "era5-sample.pickle").read_bytes())
    spec = small_spec("v1p5")
    # Version 1.5 predicts what is accumulated over the last hour.
    hourly = synthetic_dataset(
        surface=(
            "100u 100v 10u 10v 2d 2t blh ci hcc i10fg lcc mcc msl skt sp stl1 swvl1 tcc tcwv sd uvb ssrd ttr tp sf"
        ).split(),
        atmospheric=spec.atmospheric,
        static=spec.static,
        levels=spec.levels,
        times=96,
        step_hours=1,
    )
    for name in ("uvb", "ssrd", "ttr", "tp", "sf"):
        hourly[name].attrs["accumulation_hours"] = 1
    # Plausible to the checks: fractions between 0 and 1, temperatures in kelvin, nothing negative that cannot be.
    for name in map(str, hourly.data_vars):
        if name.removeprefix("static_") in FRACTIONS:
            hourly[name].values[:] = hourly[name].values % 1.0
        elif name in ("skt", "stl1"):
            hourly[name].values[:] = 279.0 + 15.0 * hourly[name].values
        elif name.removeprefix("static_") in POSITIVE:
            hourly[name].values[:] = abs(hourly[name].values)
    store = write_synthetic(hourly, files / "v1p5-store")
    write_whole(files / "v1p5", store, spec=spec)


def run_tree(tree: Path, folder: Path, cases: dict[str, str], variables: dict[str, str]) -> None:
    """Run all cases in one process of a tree."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | variables
    environment |= {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "KIT_CACHE": str(folder / "cache"),
        "TZ": "UTC",
        # Regridding sums over dimensions in the order of a set.
        "PYTHONHASHSEED": "0",
    }
    cases_file = folder / "cases.json"
    cases_file.write_text(json.dumps(cases))
    print(f"running {len(cases)} cases of {tree.name}", flush=True)
    subprocess.run([sys.executable, __file__, "--run-cases", str(cases_file)], cwd=folder, env=environment, check=True)


def run_cases(cases_file: Path) -> None:
    """Run cases in this process, with the tree that is first on the path; results go to ``results/``."""
    import torch

    try:
        module = importlib.import_module("kit.cli.main")
    except ModuleNotFoundError:  # a commit from before the command line was a package
        module = importlib.import_module("kit.cli")
    torch.set_num_threads(1)
    Path("results").mkdir(exist_ok=True)
    for name, line in json.loads(cases_file.read_text()).items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = module.main(shlex.split(line))
        Path("results", f"{name}.json").write_text(out.getvalue())
        Path("results", f"{name}.code").write_text(str(code))
        if code:
            print(f"{name}: exit code {code}\n{err.getvalue()[-2000:]}", flush=True)


def compare(old: Path, new: Path, tolerance: float) -> list[str]:
    """Compare two folders, file by file."""
    differences = []
    names = {str(file.relative_to(side)) for side in (old, new) for file in side.rglob("*") if file.is_file()}
    for name in sorted(names):
        if SKIPPED.search(name) or name.startswith("cache/") or name == "cases.json":
            continue
        first, second = old / name, new / name
        if not first.is_file() or not second.is_file():
            differences.append(f"{name}: only in {'new' if second.is_file() else 'old'}")
        elif first.read_bytes().replace(b"/old/", b"/new/") != second.read_bytes():
            differences += compare_content(name, first, second, tolerance)
    return differences


def compare_content(name: str, first: Path, second: Path, tolerance: float) -> list[str]:
    """Compare two files of one name whose bytes differ: JSON by its values, anything else is different."""
    if first.suffix == ".pt":
        return [f"{name}: {place}" for place in differing(loaded(first), loaded(second), tolerance)]
    texts = [file.read_bytes().decode("utf-8", "replace") for file in (first, second)]
    try:
        lines = [[json.loads(line) for line in text.splitlines() if line] for text in texts]
    except ValueError:
        try:
            lines = [[json.loads(text)] for text in texts]
        except ValueError:
            same = first.suffix == ".html" and normalised(texts[0]) == normalised(texts[1])
            return [] if same else [f"{name}: other bytes"]
    return [f"{name}: {place}" for place in differing(lines[0], lines[1], tolerance)]


def loaded(file: Path) -> Any:
    """Read the state that training resumes from, tensors as lists."""
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return {str(key): plain(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value

    return plain(torch.load(file, weights_only=True))


def normalised(text: str) -> str:
    """Leave out what may differ in a text: the folder of the tree, and white space, which pages have for readers."""
    return re.sub(r"\s+", "", re.sub(r"/(old|new)/", "/", html.unescape(text)))


def differing(first: Any, second: Any, tolerance: float, place: str = "") -> Iterator[str]:
    """Yield where two JSON values differ, volatile keys aside."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys((*first, *second)):
            if VOLATILE.search(str(key)):
                continue
            if key not in first or key not in second:
                yield f"{place}.{key} is in one alone"
            else:
                yield from differing(first[key], second[key], tolerance, f"{place}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differing(*pair, tolerance, f"{place}[{index}]")
    elif not alike(first, second, tolerance):
        yield f"{place}: {str(first)[:80]!r} and {str(second)[:80]!r}"


def alike(first: Any, second: Any, tolerance: float) -> bool:
    """Compare two numbers or texts."""
    if isinstance(first, float) and isinstance(second, float) and abs(first - second) <= tolerance * abs(first):
        return True
    if isinstance(first, str) and isinstance(second, str):
        return normalised(first) == normalised(second)
    return bool(first == second)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run-cases"]:
        sys.path.pop(0)
        run_cases(Path(sys.argv[2]))
    else:
        sys.exit(main())
