"""The whole line in one go: check the sample, fine-tune the tiny Aurora on it, evaluate, draw.

Fails unless validation improved over the weights that it started from, and the scores beat persistence and gained on
these weights. What is given on the command line goes to ``kit finetune``, such as ``--train.device cpu``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SAMPLE = "era5-sample"
MEAN_SKILL_ABOVE = 0.35
"""Least mean over variables and levels of 1 - rmse / persistence_rmse on the sample's test split."""
GAIN_ABOVE = 0.1
"""Least gain of that mean over the weights that training started from."""
HEADLINES = ("2t", "10u", "10v", "msl", "z_500", "t_850", "u_850", "v_850", "q_700")
"""Variables and levels that must each beat persistence."""
KIT = Path(sys.executable).with_name("kit")


class SmokeError(Exception):
    """The line does not do what it should."""


def main(arguments: list[str]) -> None:
    """Run the line and say what came of it."""
    started = time.monotonic()
    check_sample()
    trained = check_training(kit("finetune", "--json", *arguments))
    base, scored = check_scores(kit("evaluate", "--checkpoint", trained["checkpoint"], "--json"))
    figures = check_figures(kit("plot", "--run", trained["run"], "--json"))
    before, after = trained["valid"]["before"], trained["valid"]["after"]
    say(f"validation loss {before:.4f} -> {after:.4f}; mean skill against persistence {base:.3f} -> {scored:.3f}")
    say(f"{trained['steps']} steps on {trained['device']}, {trained['step_seconds']:.3g} s each")
    say("figures: " + ", ".join(figures))
    say("compare runs: kit ui (nothing leaves this machine)")
    say(f"smoke passed in {time.monotonic() - started:.0f} s")


def check_sample() -> None:
    """Check the embedded sample as any store."""
    report = kit("data", "qa", SAMPLE, "--json")
    require(report["passed"], f"{SAMPLE} fails its checks: {report['checks']}")


def check_training(result: dict[str, Any]) -> dict[str, Any]:
    """Check what ``kit finetune`` tells of itself."""
    valid = result["valid"]
    require(valid["after"] < valid["before"], f"validation did not improve: {valid}")
    require(Path(result["checkpoint"]).is_dir(), f"there is no checkpoint at {result['checkpoint']}")
    return result


def check_scores(result: dict[str, Any]) -> tuple[float, float]:
    """Check a scorecard and return its mean skill, before it that of the base weights."""
    rows = result["scores"]
    skills = {name: row["skill"] for name, row in rows.items()}
    require(bool(skills) and None not in skills.values(), f"a skill is missing: {skills}")
    mean = sum(skills.values()) / len(skills)
    base = sum(1 - row["base_rmse"] / row["persistence_rmse"] for row in rows.values()) / len(rows)
    require(mean > MEAN_SKILL_ABOVE, f"mean skill is {mean:.3f}, expected above {MEAN_SKILL_ABOVE}: {skills}")
    require(mean - base > GAIN_ABOVE, f"mean skill went from {base:.3f} to {mean:.3f}, expected {GAIN_ABOVE} more")
    worse = [name for name in HEADLINES if skills[name] <= 0]
    require(not worse, f"persistence is better at {', '.join(worse)}: {skills}")
    return base, mean


def check_figures(result: dict[str, Any]) -> list[str]:
    """Check that figures were written and return their paths."""
    files = [str(file) for file in result["files"]]
    require(bool(files), "kit plot wrote no figure")
    missing = [file for file in files if not Path(file).is_file()]
    require(not missing, f"figures are missing: {missing}")
    return files


def kit(*arguments: str) -> dict[str, Any]:
    """Run one command of the kit and return its result; what it writes for people passes through."""
    say("$ kit " + " ".join(arguments))
    done = subprocess.run([KIT, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    require(done.returncode == 0, f"kit {arguments[0]} ended with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def require(condition: bool, message: str) -> None:
    """Stop with a message unless the condition holds."""
    if not condition:
        raise SmokeError(message)


def say(text: str) -> None:
    """Write a line at once, in step with what the commands write."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SmokeError as error:
        sys.exit(f"smoke failed: {error}")
