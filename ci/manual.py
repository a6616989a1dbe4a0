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
    skills = {name: row["skill"] for name, row in scores.items() if row["skill"] is not None}
    return {
        "steps": result["steps"],
        "validation": [result["valid"]["before"], result["valid"]["after"]],
        "training": [result["loss"]["first_epoch"], result["loss"]["last_epoch"]],
        "better": len([skill for skill in skills.values() if skill > 0]),
        "of": len(scores),
        "mean_skill": sum(skills.values()) / len(skills),
        "skill": {name: skills[name] for name in ("2t", "10u", "10v", "z_500")},
    }


def first_run_text(found: Mapping[str, Any]) -> str:
    """State what the first run came to."""
    skill, (before, after) = found["skill"], found["validation"]
    first, last = found["training"]
    return (
        f"The run takes {found['steps']} steps, a minute or two on two CPU cores. The validation loss falls from "
        f"{before:.4f}, that of the embedded weights, to {after:.4f}, and the mean training loss of an epoch from "
        f"{first:.4f} to {last:.4f}. On the test states, which neither training has seen, {found['better']} of "
        f"{found['of']} variables and levels beat persistence, and the mean skill is {found['mean_skill']:.3f} (2 m "
        f"temperature {skill['2t']:.2f}, 10 m wind {skill['10u']:.2f} and {skill['10v']:.2f}, geopotential at 500 hPa "
        f"{skill['z_500']:.2f}). The stratosphere does not: hardly anything changes there in six hours, and a model "
        "that rebuilds the whole state cannot hold still that well."
    )


def roll_out(folder: Path) -> dict[str, Any]:
    """Train one step and four steps ahead, and validate each both ways."""
    found: dict[str, Any] = {}
    for steps in (1, 4):
        trained = kit(folder, f"finetune --run.name trained-{steps} --train.steps 40 --rollout.steps {steps}")["valid"]
        found[f"trained_{steps}_validated_{steps}"] = [trained["before"], trained["after"]]
        other = 5 - steps
        # A further run begins with the validation of the weights that it starts from.
        weights = f"--model.weights runs/trained-{steps}/checkpoints/last --train.steps 1"
        validated = kit(folder, f"finetune --run.name validated-{other} {weights} --rollout.steps {other}")["valid"]
        found[f"trained_{steps}_validated_{other}"] = validated["before"]
    return found


def roll_out_text(found: Mapping[str, Any]) -> str:
    """State what is gained and lost by training on predictions."""
    (near, near_trained), (far, far_trained) = found["trained_1_validated_1"], found["trained_4_validated_4"]
    return (
        "What is gained further ahead costs a little at the first step: after 40 steps on the sample, the validation "
        f"loss four steps ahead went from {far:.3f} to {found['trained_1_validated_4']:.3f} with `rollout.steps 1` and "
        f"to {far_trained:.3f} with 4; one step ahead, from {near:.3f} to {near_trained:.3f} and to "
        f"{found['trained_4_validated_1']:.3f}."
    )


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
    "europe": europe,
}
"""Runs by the name of the numbers that come from them."""
TEXTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "first-run": first_run_text,
    "roll-out": roll_out_text,
    "europe": europe_text,
}
"""Paragraphs by the same names."""
PAGES = ("first-run.md",)

if __name__ == "__main__":
    main(sys.argv[1:])
