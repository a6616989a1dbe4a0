"""Numbers of the manual: the runs that they come from, made again, and the paragraphs that state them.

``docs/numbers.json`` holds what the runs came to, and a paragraph between ``<!-- numbers: NAME -->`` and
``<!-- end -->`` is written from it. ``nox -s manual`` repeats the runs and writes both; ``nox -s manual -- first-run``
repeats some of them. The page's own commands are run, in a folder that vanishes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS = DOCS / "numbers.json"
DATA = "era5-europe-2020-01-01"
# Unit, factor and format of what the pages show of the European day.
EUROPE = {
    "10u": ("10 m wind, eastward", 1.0, "{:.2f} m/s"),
    "10v": ("10 m wind, northward", 1.0, "{:.2f} m/s"),
    "2d": ("2 m dew point", 1.0, "{:.2f} K"),
    "sp": ("surface pressure", 1.0, "{:.0f} Pa"),
    "tp": ("total precipitation in an hour", 1000.0, "{:.3f} mm"),
    "q_850": ("humidity at 850 hPa", 1000.0, "{:.2f} g/kg"),
}


def main(arguments: list[str]) -> None:
    """Repeat the runs that are named, or all, and write what they came to into the manual."""
    unknown = set(arguments) - set(SESSIONS)
    if unknown:
        sys.exit(f"manual: there are no numbers named {', '.join(sorted(unknown))}; there are {', '.join(SESSIONS)}")
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    for name in arguments or SESSIONS:
        with tempfile.TemporaryDirectory(prefix="kit-manual-") as folder:
            numbers[name] = {"machine": machine(), **SESSIONS[name](Path(folder))}
        NUMBERS.write_text(json.dumps(dict(sorted(numbers.items())), indent=1) + "\n")
    for page in PAGES:
        path = DOCS / page
        path.write_text(with_numbers(path.read_text(), numbers))


def machine() -> str:
    """Name what the runs were made on."""
    import torch

    return f"{platform.machine()}, one thread, torch {torch.__version__}"


def with_numbers(text: str, numbers: Mapping[str, Any]) -> str:
    """Write the paragraphs of a page anew that state numbers."""

    def paragraph(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- numbers: {name} -->\n{TEXTS[name](numbers[name])}\n<!-- end -->"

    return re.sub(r"<!-- numbers: ([\w-]+) -->\n.*?\n<!-- end -->", paragraph, text, flags=re.DOTALL)


def kit(folder: Path, command: str) -> dict[str, Any]:
    """Run a command of the kit in a folder, on the CPU, and return its result."""
    words = [sys.executable, "-m", "kit", *shlex.split(command), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KIT_")}
    # The numbers of the pages are those of a CPU and one thread, in which sums have one order on every machine.
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"KIT_TRAIN__DEVICE": "cpu", "KIT_TRACK__URI": "none"}
    if "KIT_CACHE" in os.environ:
        environment["KIT_CACHE"] = os.environ["KIT_CACHE"]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def first_run(folder: Path) -> dict[str, Any]:
    """Make the run of the first page, and score it."""
    result = kit(folder, "finetune --run.name first")
    scores = kit(folder, "evaluate --checkpoint runs/first/checkpoints/best")["scores"]
    skills = {name: row["skill"] for name, row in scores.items()}
    base = [1 - row["base_rmse"] / row["persistence_rmse"] for row in scores.values()]
    return {
        "steps": result["steps"],
        "validation": [result["valid"]["before"], result["valid"]["after"]],
        "training": [result["loss"]["first_epoch"], result["loss"]["last_epoch"]],
        "better": len([skill for skill in skills.values() if skill > 0]),
        "of": len(scores),
        "mean_skill": [sum(base) / len(base), sum(skills.values()) / len(skills)],
        "skill": {name: skills[name] for name in ("2t", "10u", "10v", "z_500")},
    }


def first_run_text(found: Mapping[str, Any]) -> str:
    """State what the first run came to."""
    skill, (before, after), (base, mean) = found["skill"], found["validation"], found["mean_skill"]
    first, last = found["training"]
    return (
        f"The run takes {found['steps']} steps, a minute or two on two CPU cores. The validation loss falls from "
        f"{before:.4f}, that of the embedded weights, which know another planet, to {after:.4f}, and the mean "
        f"training loss of an epoch from {first:.4f} to {last:.4f}. On the test states, which no training has seen, "
        f"{found['better']} of {found['of']} variables and levels beat persistence, and the mean skill rises from "
        f"{base:.3f} to {mean:.3f} (2 m temperature {skill['2t']:.2f}, 10 m wind {skill['10u']:.2f} and "
        f"{skill['10v']:.2f}, geopotential at 500 hPa {skill['z_500']:.2f}). Least is gained over persistence in the "
        "stratosphere, where hardly anything changes in six hours: a model that rebuilds the whole state has to "
        "hold it still."
    )


ROLL_OUTS = {
    "one step": "",
    "push-forward, `rollout.steps 4`": "--rollout.steps 4",
    "`rollout.steps 4`, `rollout.buffer 8`": "--rollout.steps 4 --rollout.buffer 8",
}
"""Ways to train, and their settings."""


def roll_out(folder: Path) -> dict[str, Any]:
    """Fine-tune, go on in several ways, and validate each one and four steps ahead."""
    first = kit(folder, "finetune --run.name first")["steps"]
    found: dict[str, Any] = {"first": first, "steps": 80, "before": {}}
    # A run validates what it was trained for; one from a buffer, all steps of the roll-out.
    validates = {"": "1", "--rollout.steps 4": "4"}
    for number, (way, settings) in enumerate(ROLL_OUTS.items()):
        # What has been adapted moves little further.
        further = f"--model.weights runs/first/checkpoints/last --optim.lr 1e-4 --train.steps {found['steps']}"
        before, after = validation(folder, f"trained-{number} {further} {settings}")
        found[way] = {}
        for ahead in ("1", "4"):
            if ahead == validates.get(settings):
                found["before"][ahead], found[way][ahead] = before, after
                continue
            # A further run begins with the validation of the weights that it starts from.
            weights = f"--model.weights runs/trained-{number}/checkpoints/last --train.steps 1"
            name = f"validated-{number}-{ahead}"
            found[way][ahead], _ = validation(folder, f"{name} {weights} --rollout.steps {ahead}")
    return found


def validation(folder: Path, run: str) -> tuple[float, float]:
    """Train, and return the validation losses before and after; ``run`` is a run's name and its settings."""
    valid = kit(folder, f"finetune --run.name {run}")["valid"]
    return valid["before"], valid["after"]


def roll_out_text(found: Mapping[str, Any]) -> str:
    """State what is gained and lost by training on predictions."""
    trained = f"after {found['first']} steps one step ahead and {found['steps']} more, at a learning rate of 1e-4"
    lines = [
        f"Validation losses on the sample, {trained}:",
        "",
        "| | one step ahead | four steps ahead |",
        "| --- | --- | --- |",
    ]
    rows = {f"after the first {found['first']}": found["before"], **{way: found[way] for way in ROLL_OUTS}}
    lines += [f"| {name} | {row['1']:.4f} | {row['4']:.4f} |" for name, row in rows.items()]
    return "\n".join(lines)


METHODS = {
    "`full`": "",
    "`lora`": "--adapt.method lora",
    "`lora`, rank 16, targets `*`": "--adapt.method lora --adapt.targets '*' --adapt.rank 16 --optim.lr 6e-3",
    "`prefix`": "--adapt.method prefix",
    "`prompt`, 8 x 16 cells": "--adapt.method prompt --adapt.coarse 8x16",
}
"""What trains, and its settings."""


def methods(folder: Path) -> dict[str, Any]:
    """Train in different ways for as many steps, on the sample."""
    found: dict[str, Any] = {"steps": 40}
    for number, (method, settings) in enumerate(METHODS.items()):
        result = kit(folder, f"finetune --run.name m{number} --train.steps {found['steps']} {settings}")
        files = folder.glob(f"runs/m{number}/checkpoints/best/*.safetensors")
        found[method] = {
            "trains": result["trainable_parameters"],
            "validation": [result["valid"]["before"], result["valid"]["after"]],
            "bytes": sum(file.stat().st_size for file in files),
        }
    return found


def methods_text(found: Mapping[str, Any]) -> str:
    """State what the methods come to in as many steps."""
    steps, before = found["steps"], found["`full`"]["validation"][0]
    lines = [
        f"On the embedded sample with the tiny weights, {steps} steps each, from a validation loss of {before:.4f}:",
        "",
        "| | parameters that train | validation loss | tensors of the checkpoint |",
        "| --- | --- | --- | --- |",
    ]
    for method in METHODS:
        row = found[method]
        size = f"{row['bytes'] / 1e6:.2f} MB"
        lines.append(f"| {method} | {row['trains']:,} | {row['validation'][1]:.4f} | {size} |")
    return "\n".join(lines)


def europe(folder: Path) -> dict[str, Any]:
    """Follow the page about one's own data, on the real day over Europe."""
    data = Path(os.environ.get("KIT_TEST_DATA", DOCS.parents[1] / "shared" / "data")) / DATA
    if not data.is_dir():
        sys.exit(f"manual: the numbers of Europe need real data at {data}; set KIT_TEST_DATA to the folder above it")
    page = (DOCS / "your-data.md").read_text()
    (build,) = re.findall(r"^kit (data build .*ERA5_FOLDER.* --out stores/era5-europe-2020 .*)$", page, re.MULTILINE)
    kit(folder, build.replace("ERA5_FOLDER", str(data)))
    result = kit(folder, "finetune --recipe era5-europe-2020 --run.name europe")
    scores = kit(folder, "evaluate --checkpoint runs/europe/checkpoints/best")["scores"]
    kept = ("rmse", "persistence_rmse", "skill")
    return {
        "steps": result["steps"],
        "validation": [result["valid"]["before"], result["valid"]["after"]],
        "training": [result["loss"]["first_epoch"], result["loss"]["last_epoch"]],
        "better": len([row for row in scores.values() if (row["skill"] or 0) > 0]),
        "of": len(scores),
        "scores": {name: {key: scores[name][key] for key in kept} for name in EUROPE},
    }


def europe_text(found: Mapping[str, Any]) -> str:
    """State what the day over Europe came to."""
    before, after = found["validation"]
    beaten = f"{found['better']} of {found['of']} variables and levels beat"
    if found["better"] == 0:
        beaten = "Nothing beats"
    hours = "18 hours to train on, 6 to validate on"
    lines = [
        f"{hours}, {found['steps']} steps. The validation loss falls from {before:.4f} to {after:.4f}.",
        "",
        "| | RMSE | persistence over one hour | skill |",
        "| --- | --- | --- | --- |",
    ]
    for name, (title, factor, form) in EUROPE.items():
        row = found["scores"][name]
        error, reference = form.format(factor * row["rmse"]), form.format(factor * row["persistence_rmse"])
        lines.append(f"| {title} | {error} | {reference} | {row['skill']:.2f} |")
    lines += ["", f"{beaten} persistence over one hour after the model has seen sixteen pairs of one day."]
    return "\n".join(lines)


SESSIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "first-run": first_run,
    "roll-out": roll_out,
    "methods": methods,
    "europe": europe,
}
"""Runs by the name of the numbers that come from them."""
TEXTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "first-run": first_run_text,
    "roll-out": roll_out_text,
    "methods": methods_text,
    "europe": europe_text,
}
"""Paragraphs by the same names."""
PAGES = ("first-run.md", "rollout.md", "methods.md")

if __name__ == "__main__":
    main(sys.argv[1:])
