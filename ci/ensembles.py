"""Sources of members beside each other, on a year of the idealised planet that no training has seen.

``nox -s ensembles -- STORE FOLDER`` runs this, where ``STORE`` is of ``nox -s planet -- --years 2``. The embedded model
is fine-tuned on the first year, and goes on from there by CRPS, with LoRA and in full; denoising networks learn to
perturb it as it is. Every source forecasts from the same dates of the second. What is in ``FOLDER`` is gone on with.
Tables go to ``FOLDER/ensembles.md``, and all that they come from to ``FOLDER/ensembles.json``; with ``--page`` they go
into the manual, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kit.data.store.reader import Store

PAGE = Path(__file__).parents[1] / "docs" / "ensembles.md"
HEADLINES = ("z_500", "t_850", "q_700", "2t", "10u", "10v", "msl")
"""Channels that the table averages over."""
LEADS = ("024h", "072h", "120h")
# Two members give nearly the gradient of more on average (alpha 0.95 is not quite fair), with room for both at once.
TOGETHER = "--task.name crps --task.members 2 --task.together"
CRPS = f"--model.weights runs/deterministic/checkpoints/best --model.stochastic {TOGETHER}"
DETERMINISTIC, GAUSSIAN, LORA, FULL, STEPS = "deterministic", "gaussian", "noise-lora", "noise-full", "noise-steps"
DEF, PUBLISHED, RESIDUAL = "def", "def-published", "residual"
# Of 1, 1.3 and 1.6, that with which spread is nearest to error, at three dates of the validation split.
LOUDER = "--amplitude 1.3"
# A million parameters; samples that are to be near their states need few steps.
NETWORK = (
    f"--task.name denoise --model.weights runs/{DETERMINISTIC}/checkpoints/best --diffusion.width 16 --optim.lr 1e-3"
)
TRAINED = {
    DETERMINISTIC: "",
    LORA: f"{CRPS} --adapt.method lora --adapt.targets '*' --adapt.rank 16 --optim.lr 2e-3",
    FULL: f"{CRPS} --optim.lr 1e-4",
    STEPS: f"--model.weights runs/{FULL}/checkpoints/best {TOGETHER} --rollout.steps 4 --rollout.graded all "
    "--optim.lr 1e-4",
    DEF: f"{NETWORK} --diffusion.steps 4",
    PUBLISHED: f"{NETWORK} --diffusion.schedule linear",
    RESIDUAL: f"{NETWORK} --diffusion.of residual",
}
"""Runs, and their settings beside data and steps."""
SHARES = {STEPS: 0.4, DEF: 2.5, PUBLISHED: 2.5, RESIDUAL: 2.5}
"""Shares of the steps of training that runs take whose steps cost more, or less."""


@dataclass(frozen=True)
class Source:
    """Where members come from.

    Attributes:
        title: Name in the table.
        run: Run whose best checkpoint forecasts.
        perturb: What members differ by.
        network: Run whose network draws; None without.
        more: Further options.
    """

    title: str
    run: str
    perturb: str
    network: str | None = None
    more: str = ""

    def options(self, members: int) -> str:
        """Return the options of ``kit ensemble`` that make its members."""
        options = f"--checkpoint runs/{self.run}/checkpoints/best --members {members} --perturb {self.perturb}"
        options = f"{options} {self.more}".rstrip()
        if self.network is None:
            return options
        # A small network is faster with more in a pass.
        return f"{options} --diffusion runs/{self.network}/checkpoints/best --members_per_pass {members}"


SOURCES = {
    GAUSSIAN: Source("gaussian perturbations", DETERMINISTIC, "gaussian"),
    "lagged": Source("lagged members", DETERMINISTIC, "lagged"),
    "noise-untrained": Source("noise, untrained", DETERMINISTIC, "noise"),
    LORA: Source("noise by CRPS, LoRA", LORA, "noise"),
    FULL: Source("noise by CRPS, in full", FULL, "noise"),
    STEPS: Source("the same, then over four steps", STEPS, "noise"),
    "noise-louder": Source("the same, with louder noise", STEPS, "noise", more=LOUDER),
    PUBLISHED: Source("DEF as published", DETERMINISTIC, "def-published", PUBLISHED),
    DEF: Source("DEF, calibrated", DETERMINISTIC, "def", DEF),
    RESIDUAL: Source("residuals that a network draws", DETERMINISTIC, "residual", RESIDUAL),
}


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        store: Years of the planet, the last of them to test on.
        folder: Where runs, forecasts and scores go.
        members: Members of each source.
        starts: Number of initial times, in the last year.
        steps: Steps of six hours.
        train_steps: Steps of each training.
        processes: Commands that run at a time.
    """

    store: Path
    folder: Path
    members: int
    starts: int
    steps: int
    train_steps: int
    processes: int

    def years_before(self) -> str | None:
        """Return the period before the test split, to average a climatology over; None where that is no year."""
        splits = Store.open(self.store).splits
        first, last = splits["train"].start, splits["valid"].end
        if last - first < timedelta(days=360):
            return None
        return f"{first:%Y-%m-%dT%H}/{last:%Y-%m-%dT%H}"

    def initial_times(self) -> list[str]:
        """Return the initial times, evenly spread over the test split, of which all leads have analyses."""
        store = Store.open(self.store)
        period = store.splits["test"]
        times = [moment for moment in store.times if period.start <= _utc(moment) <= period.end]
        # Lagged members start in the same split.
        places = np.linspace(self.members, len(times) - 1 - self.steps, self.starts).astype(int)
        return [str(times[place].astype("datetime64[h]")) for place in places]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, make what is missing, and write the table."""
    parser = argparse.ArgumentParser(prog="nox -s ensembles --", description="Compare sources of members.")
    parser.add_argument("store", type=Path, help="two years of the planet")
    parser.add_argument("folder", type=Path, help="where runs, forecasts and scores go")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--starts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20, help="of six hours (default: 20, five days)")
    parser.add_argument("--train_steps", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2, help="commands that run at a time, one thread each")
    parser.add_argument("--page", action="store_true", help=f"write the tables into docs/{PAGE.name}")
    asked = vars(parser.parse_args(arguments))
    to_page = asked.pop("page")
    plan = Plan(**{**asked, "store": asked["store"].resolve(), "folder": asked["folder"].resolve()})
    plan.folder.mkdir(parents=True, exist_ok=True)
    found = compared(plan)
    (plan.folder / "ensembles.json").write_text(json.dumps(found, indent=1) + "\n")
    text = f"{circumstances(found)}\n\n{table(found)}\n\n{table_of_variables(found)}"
    (plan.folder / "ensembles.md").write_text(text + "\n")
    print(text)
    if to_page:
        PAGE.write_text(with_tables(PAGE.read_text(), text))


def compared(plan: Plan) -> dict[str, Any]:
    """Train, forecast and score everything; return scores by source."""
    train(plan, DETERMINISTIC)
    years = plan.years_before()
    if years and not (plan.folder / "climatology").exists():
        kit(plan, f"data climatology --store {plan.store} --period {years} --out climatology")
    starts = ",".join(plan.initial_times())
    rolled = f"--data.store {plan.store} --start {starts} --steps {plan.steps}"
    forecasts = {DETERMINISTIC: f"forecast --checkpoint runs/{DETERMINISTIC}/checkpoints/best"}
    for name, source in SOURCES.items():
        forecasts[name] = f"ensemble {source.options(plan.members)}"
    with ThreadPoolExecutor(plan.processes) as pool:
        # Each command has one thread and is timed by itself.
        list(pool.map(lambda run: train(plan, run), (LORA, FULL)))
        list(pool.map(lambda run: train(plan, run), (STEPS, DEF, PUBLISHED, RESIDUAL)))
        scores = list(pool.map(lambda name: scored(plan, name, f"{forecasts[name]} {rolled}"), forecasts))
    found: dict[str, Any] = dict(zip(forecasts, scores, strict=True))
    for name in SOURCES:
        references = [reference for reference in (DETERMINISTIC, GAUSSIAN, PUBLISHED) if reference != name]
        found[name]["differences"] = {reference: differences(plan, reference, name) for reference in references}
    found["plan"] = {name: getattr(plan, name) for name in ("members", "starts", "steps", "train_steps")}
    return found


def train(plan: Plan, run: str) -> None:
    """Train one of the models, or go on where it was stopped."""
    steps = round(plan.train_steps * SHARES.get(run, 1))
    data = f"--data.store {plan.store} --train.steps {steps}"
    kit(plan, f"finetune --run.name {run} --train.resume auto {data} {TRAINED[run]}")


def scored(plan: Plan, name: str, forecast: str) -> dict[str, Any]:
    """Forecast by a command, and score the file."""
    record = plan.folder / f"{name}.json"
    if not record.exists():
        timed = plan.folder / f"{name}-seconds.json"
        if not timed.exists():
            # In one go, so that its time means something.
            shutil.rmtree(plan.folder / f"{name}.zarr", ignore_errors=True)
            started = time.monotonic()
            kit(plan, f"{forecast} --out {name}.zarr")
            timed.write_text(json.dumps(time.monotonic() - started))
        seconds = json.loads(timed.read_text())
        usual = "--climatology climatology" if (plan.folder / "climatology").exists() else ""
        file = f"--forecast_file {name}.zarr --data.store {plan.store} {usual} --out scores/{name}"
        result = kit(plan, f"evaluate {file}")
        kept: dict[str, Any] = {key: result[key] for key in ("leads", "ensemble") if key in result}
        record.write_text(json.dumps({"seconds": seconds, **kept}) + "\n")
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def differences(plan: Plan, reference: str, name: str) -> list[dict[str, Any]]:
    """Compare the CRPS of two sources, date by date."""
    beside = f"compare scores/{reference} scores/{name} --scores crps --regions all"
    found: list[dict[str, Any]] = kit(plan, beside)["scores"]
    return found


def kit(plan: Plan, command: str) -> dict[str, Any]:
    """Run a command of the kit in the folder, on the CPU and one thread, and return its result."""
    print(f"$ kit {command}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "KIT_TRACK__URI": "none"}
    words = [sys.executable, "-m", "kit", *shlex.split(command), "--json"]
    done = subprocess.run(words, cwd=plan.folder, env=environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def with_tables(page: str, text: str) -> str:
    """Put the tables into the page, in the place of earlier ones."""
    marked = r"(<!-- numbers: sources -->\n).*?(\n<!-- end -->)"
    return re.sub(marked, lambda match: match[1] + text + match[2], page, flags=re.DOTALL)


def circumstances(found: Mapping[str, Any]) -> str:
    """Say what was compared, and on what machine."""
    plan = found["plan"]
    return (
        f"{plan['starts']} initial times, {plan['members']} members, {plan['steps']} steps of six hours; "
        f"{plan['train_steps']} steps of training; {platform.machine()}, one thread, torch {version('torch')}."
    )


def table(found: Mapping[str, Any]) -> str:
    """Lay the scores out: CRPS at three leads as shares of the deterministic model's absolute error, and the spread."""
    single, plan = found[DETERMINISTIC]["leads"], found["plan"]
    leads = chosen_leads(found)
    days = [lead_in_days(lead) for lead in leads]
    head = ["", *(f"CRPS, {day}" for day in days)]
    head += [f"better than {reference}" for reference in ("one forecast", "gaussian", "DEF as published")]
    head += [f"RMSE of the mean, {days[-1]}", *(f"spread / error, {day}" for day in days), "seconds a member"]
    empty = ["" for _ in leads]

    def share(rows: Sequence[Mapping[str, Any]], key: str, lead: str, of: str) -> str:
        pairs = [(row[key], single[lead][name][of]) for row, name in zip(rows, HEADLINES, strict=True)]
        return f"{np.mean([ours / theirs for ours, theirs in pairs]):.3f}"

    # Of a single forecast the CRPS is the absolute error.
    any_members = found[GAUSSIAN]["ensemble"]
    absolute = [
        share([any_members[lead][name] for name in HEADLINES], "persistence_crps", lead, "mae") for lead in leads
    ]
    lines = []
    for title, scores in (("persistence", absolute), ("climatology", empty)):
        last = [single[leads[-1]][name] for name in HEADLINES]
        if all(f"{title}_rmse" in row for row in last):
            lines.append([title, *scores, "", "", "", share(last, f"{title}_rmse", leads[-1], "rmse"), *empty, "0"])
    each = found[DETERMINISTIC]["seconds"] / plan["starts"]
    lines.append(["one forecast", *("1" for _ in leads), "", "", "", "1", *empty, f"{each:.1f}"])
    for name, source in SOURCES.items():
        rows = {lead: [found[name]["ensemble"][lead][channel] for channel in HEADLINES] for lead in leads}
        scores = [share(rows[lead], "crps", lead, "mae") for lead in leads]
        ratios = [f"{np.mean([row['spread_error'] for row in rows[lead]]):.2f}" for lead in leads]
        apart = found[name]["differences"]
        better = [gains(apart.get(other), leads[-1]) for other in (DETERMINISTIC, GAUSSIAN, PUBLISHED)]
        each = found[name]["seconds"] / plan["starts"] / plan["members"]
        mean = share(rows[leads[-1]], "rmse", leads[-1], "rmse")
        lines.append([source.title, *scores, *better, mean, *ratios, f"{each:.1f}"])
    return laid_out(head, lines)


def table_of_variables(found: Mapping[str, Any]) -> str:
    """Lay out the CRPS at the last lead, by variable and source, with 95 % intervals where there are dates enough."""
    lead = chosen_leads(found)[-1]
    head = [f"CRPS, {lead_in_days(lead)}", "one forecast", *(source.title for source in SOURCES.values())]
    lines = []
    for channel in HEADLINES:
        row = found[DETERMINISTIC]["leads"][lead][channel]
        cells = [_with_interval(row, "mae")]
        cells += [_with_interval(found[name]["ensemble"][lead][channel], "crps") for name in SOURCES]
        lines.append([channel, *cells])
    return laid_out(head, lines)


def chosen_leads(found: Mapping[str, Any]) -> list[str]:
    """Return those of the usual leads that were scored; of shorter forecasts the last."""
    scored_leads = found[DETERMINISTIC]["leads"]
    return [lead for lead in LEADS if lead in scored_leads] or list(scored_leads)[-1:]


def lead_in_days(lead: str) -> str:
    """Write ``120h`` as days, where it is some."""
    hours = int(lead.removesuffix("h"))
    return f"{hours} h" if hours % 24 else f"{hours // 24} d"


def gains(rows: Sequence[Mapping[str, Any]] | None, lead: str) -> str:
    """Count the headline channels whose CRPS is significantly lower at a lead."""
    if rows is None:
        return ""
    of_lead = [row for row in rows if row["lead"] == lead and row["variable"] in HEADLINES]
    return f"{sum(bool(row['significant']) and row['difference'] < 0 for row in of_lead)} of {len(of_lead)}"


def laid_out(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    value = f"{row[key]:.4g}"
    if row.get(f"{key}_low") is None:
        return value
    return f"{value} ({row[f'{key}_low']:.4g} to {row[f'{key}_high']:.4g})"


def _utc(moment: np.datetime64) -> datetime:
    return datetime.fromisoformat(str(moment.astype("datetime64[s]"))).replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
