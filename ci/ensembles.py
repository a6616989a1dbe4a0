"""Sources of members beside each other, on a year of the idealised planet that no training has seen.

``nox -s ensembles -- STORE FOLDER`` runs this, where ``STORE`` is of ``nox -s planet -- --years 2``. The
embedded model is fine-tuned on the first year, and goes on from there by CRPS, with LoRA and in full; every source
forecasts from the same dates of the second. What is in ``FOLDER`` is gone on with. The table goes to
``FOLDER/ensembles.md``, and all that it comes from to ``FOLDER/ensembles.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from kit.data.store.reader import Store

HEADLINES = ("z_500", "t_850", "q_700", "2t", "10u", "10v", "msl")
"""Channels that the table averages over."""
LEADS = ("024h", "072h", "120h")
CRPS = "--model.weights runs/deterministic/checkpoints/best --model.stochastic --task.name crps"
DETERMINISTIC, LORA, FULL = "deterministic", "noise-lora", "noise-full"
TRAINED = {
    DETERMINISTIC: "",
    LORA: f"{CRPS} --adapt.method lora --adapt.targets '*' --adapt.rank 16 --optim.lr 2e-3",
    FULL: f"{CRPS} --optim.lr 1e-4",
}
"""Runs, and their settings beside data and steps."""


@dataclass(frozen=True)
class Source:
    """Where members come from.

    Attributes:
        title: Name in the table.
        run: Run whose best checkpoint forecasts.
        perturb: What members differ by.
    """

    title: str
    run: str
    perturb: str


SOURCES = {
    "gaussian": Source("gaussian perturbations", DETERMINISTIC, "gaussian"),
    "lagged": Source("lagged members", DETERMINISTIC, "lagged"),
    "noise-untrained": Source("noise, untrained", DETERMINISTIC, "noise"),
    LORA: Source("noise by CRPS, LoRA", LORA, "noise"),
    FULL: Source("noise by CRPS, in full", FULL, "noise"),
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
    """

    store: Path
    folder: Path
    members: int
    starts: int
    steps: int
    train_steps: int

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
    asked = parser.parse_args(arguments)
    plan = Plan(
        asked.store.resolve(), asked.folder.resolve(), asked.members, asked.starts, asked.steps, asked.train_steps
    )
    plan.folder.mkdir(parents=True, exist_ok=True)
    found = compared(plan)
    (plan.folder / "ensembles.json").write_text(json.dumps(found, indent=1) + "\n")
    (plan.folder / "ensembles.md").write_text(table(found) + "\n")
    print(table(found))


def compared(plan: Plan) -> dict[str, Any]:
    """Train, forecast and score everything; return scores by source."""
    for run, settings in TRAINED.items():
        if not (plan.folder / "runs" / run / "checkpoints" / "best").is_dir():
            data = f"--data.store {plan.store} --train.steps {plan.train_steps}"
            kit(plan, f"finetune --run.name {run} --train.resume auto {data} {settings}")
    years = plan.years_before()
    if years and not (plan.folder / "climatology").exists():
        kit(plan, f"data climatology --store {plan.store} --period {years} --out climatology")
    starts = ",".join(plan.initial_times())
    rolled = f"--data.store {plan.store} --start {starts} --steps {plan.steps}"
    single = f"forecast --checkpoint runs/{DETERMINISTIC}/checkpoints/best {rolled} --out {DETERMINISTIC}.zarr"
    found = {"plan": {name: getattr(plan, name) for name in ("members", "starts", "steps", "train_steps")}}
    found[DETERMINISTIC] = scored(plan, DETERMINISTIC, single)
    for name, source in SOURCES.items():
        members = f"--members {plan.members} --perturb {source.perturb}"
        checkpoint = f"--checkpoint runs/{source.run}/checkpoints/best"
        found[name] = scored(plan, name, f"ensemble {checkpoint} {members} {rolled} --out {name}.zarr")
    return found


def scored(plan: Plan, name: str, forecast: str) -> dict[str, Any]:
    """Forecast by a command, score the file, and compare it with the deterministic one's."""
    record = plan.folder / f"{name}.json"
    if not record.exists():
        timed = plan.folder / f"{name}-seconds.json"
        if not timed.exists():
            # In one go, so that its time means something.
            shutil.rmtree(plan.folder / f"{name}.zarr", ignore_errors=True)
            started = time.monotonic()
            kit(plan, forecast)
            timed.write_text(json.dumps(time.monotonic() - started))
        seconds = json.loads(timed.read_text())
        usual = "--climatology climatology" if (plan.folder / "climatology").exists() else ""
        file = f"--forecast_file {name}.zarr --data.store {plan.store} {usual} --out scores/{name}"
        result = kit(plan, f"evaluate {file}")
        kept: dict[str, Any] = {key: result[key] for key in ("leads", "ensemble") if key in result}
        if name != DETERMINISTIC:
            beside = f"compare scores/{DETERMINISTIC} scores/{name} --scores crps --regions all"
            kept["differences"] = kit(plan, beside)["scores"]
        record.write_text(json.dumps({"seconds": seconds, **kept}) + "\n")
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def kit(plan: Plan, command: str) -> dict[str, Any]:
    """Run a command of the kit in the folder, on the CPU and one thread, and return its result."""
    print(f"$ kit {command}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "KIT_TRACK__URI": "none"}
    words = [sys.executable, "-m", "kit", *shlex.split(command), "--json"]
    done = subprocess.run(words, cwd=plan.folder, env=environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table(found: Mapping[str, Any]) -> str:
    """Lay the scores out: CRPS at three leads as shares of the deterministic model's absolute error, and the spread."""
    single, plan = found[DETERMINISTIC]["leads"], found["plan"]
    leads = [lead for lead in LEADS if lead in single] or list(single)[-1:]
    days = [f"{int(lead[:-1]) // 24} d" if lead in LEADS else lead for lead in leads]
    head = ["", *(f"CRPS, {day}" for day in days), f"better than one forecast, {days[-1]}"]
    head += [f"RMSE of the mean, {days[-1]}", *(f"spread / error, {day}" for day in days), "seconds a member"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]

    def add(*cells: str) -> None:
        lines.append("| " + " | ".join(cells) + " |")

    def share(rows: Sequence[Mapping[str, Any]], key: str, lead: str, of: str) -> str:
        pairs = [(row[key], single[lead][name][of]) for row, name in zip(rows, HEADLINES, strict=True)]
        return f"{np.mean([ours / theirs for ours, theirs in pairs]):.3f}"

    empty = ["" for _ in leads]
    # Of a single forecast the CRPS is the absolute error.
    any_members = found[next(iter(SOURCES))]["ensemble"]
    absolute = [
        share([any_members[lead][name] for name in HEADLINES], "persistence_crps", lead, "mae") for lead in leads
    ]
    for title, scores in (("persistence", absolute), ("climatology", empty)):
        last = [single[leads[-1]][name] for name in HEADLINES]
        if all(f"{title}_rmse" in row for row in last):
            add(title, *scores, "", share(last, f"{title}_rmse", leads[-1], "rmse"), *empty, "0")
    each = found[DETERMINISTIC]["seconds"] / plan["starts"]
    add("one forecast", *("1" for _ in leads), "", "1", *empty, f"{each:.1f}")
    for name, source in SOURCES.items():
        rows = {lead: [found[name]["ensemble"][lead][channel] for channel in HEADLINES] for lead in leads}
        scores = [share(rows[lead], "crps", lead, "mae") for lead in leads]
        ratios = [f"{np.mean([row['spread_error'] for row in rows[lead]]):.2f}" for lead in leads]
        last = [row for row in found[name]["differences"] if row["lead"] == leads[-1] and row["variable"] in HEADLINES]
        better = len([row for row in last if row["significant"] and row["difference"] < 0])
        each = found[name]["seconds"] / plan["starts"] / plan["members"]
        mean = share(rows[leads[-1]], "rmse", leads[-1], "rmse")
        add(source.title, *scores, f"{better} of {len(last)}", mean, *ratios, f"{each:.1f}")
    return "\n".join(lines)


def _utc(moment: np.datetime64) -> datetime:
    return datetime.fromisoformat(str(moment.astype("datetime64[s]"))).replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
