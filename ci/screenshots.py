"""The pictures of MLflow's page in the manual, made again: two short runs of the tiny Aurora, compared in a browser.

Needs Chromium, and nothing from a network. The runs stay in the folder that is given, or vanish.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from browser import Browser

KIT = Path(sys.executable).with_name("kit")
OUT = Path(__file__).parents[1] / "docs" / "figures"
PORT = 5986
URL = f"http://127.0.0.1:{PORT}"
RUNS = {"first": [], "slower": ["--optim.lr", "1e-4"]}
COLOURS = {"first": "#077a9d", "slower": "#e06c00"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: list[str]) -> None:
    """Train where there are no runs yet, and take the pictures."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        sys.exit(f"screenshots: none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments[0]).absolute() if arguments else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        train(folder)
        colour(folder)
        with page(folder) as address:
            browser = Browser(program, 1400, 800, {})
            try:
                take(browser, address, ids(folder))
            finally:
                browser.close()


def train(folder: Path) -> None:
    """Two runs that differ in one setting, with scores and figures."""
    for name, changed in RUNS.items():
        run = folder / "runs" / name
        if not run.exists():
            settings = ["--run.name", name, "--train.steps", "120", "--track.system_seconds", "1", *changed]
            kit(folder, "finetune", *settings)
            kit(folder, "evaluate", "--checkpoint", str(run / "checkpoints" / "best"))
            kit(folder, "plot", "--run", str(run))


def kit(folder: Path, *words: str) -> None:
    """Run a command of the kit."""
    subprocess.run([str(KIT), *words], cwd=folder, check=True)


@contextmanager
def page(folder: Path) -> Iterator[str]:
    """MLflow's page, as ``kit ui`` serves it: the address that it prints, with its token."""
    command = [str(KIT), "ui", "--port", str(PORT)]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next((line.strip() for line in server.stderr if URL in line), None)
        if address is None:
            sys.exit("screenshots: kit ui did not start")
        yield address
    finally:
        server.terminate()
        server.wait(60)


def colour(folder: Path) -> None:
    """Give the runs colours that differ; MLflow draws by chance."""
    from kit.tracking.store import connect

    client = connect(f"sqlite:///{folder / 'runs' / 'mlflow.db'}", folder / "runs")
    for run, name in zip(ids(folder), RUNS, strict=True):
        client.set_tag(run, "mlflow.runColor", COLOURS[name])


def ids(folder: Path) -> list[str]:
    """MLflow's ids of the two runs."""
    return [json.loads((folder / "runs" / name / "provenance.json").read_text())["mlflow_run_id"] for name in RUNS]


def take(browser: Browser, address: str, runs: list[str]) -> None:
    """Open what a person would open to compare two runs."""
    browser.go(address, says("test/rmse", "slower"))
    browser.run("document.querySelector('input[placeholder=\"Search metric charts\"]').focus()")
    browser.type("valid/loss")
    browser.wait(says("valid/loss/2t"))
    save(browser, "tracking-curves.png")

    both = quote("[" + ",".join(f'"{run}"' for run in runs) + "]")
    browser.go(f"{URL}/#/compare-runs?runs={both}&experiments=%5B%221%22%5D", says("Parameters", "optim.lr"))
    browser.run(ONLY_DIFFERENCES)
    browser.wait("!document.body.innerText.includes('adapt.alpha')")
    browser.run(TO_PARAMETERS)
    save(browser, "tracking-compare.png")

    browser.go(f"{URL}/#/experiments/1/runs/{runs[0]}/system-metrics", says("disk_usage_percentage"))
    save(browser, "tracking-system.png")

    browser.go(f"{URL}/#/experiments/1/runs/{runs[0]}/artifacts/qa.html", "document.querySelector('iframe')")
    browser.run(NO_PATH)
    browser.scroll(900, 500, down=2050)
    save(browser, "tracking-quality.png")


# The switches of the tables of parameters and metrics; the parameters' is then brought into view.
ONLY_DIFFERENCES = """
for (const what of ['Tags', 'Metrics', 'Parameters'])
  document.querySelector(`button[aria-label='${what} - Show diff only']`).click();
"""
TO_PARAMETERS = """(() => {
  const table = document.querySelector("button[aria-label='Parameters - Show diff only']");
  table.closest('section, .ant-collapse-item, div[class]').scrollIntoView({block: 'center'});
})()"""


# Where the artifact lies on the machine that took the picture is of no use to a reader.
NO_PATH = """
for (const part of document.querySelectorAll('span, div'))
  if (part.textContent.trim().startsWith('Path:') && !part.querySelector('table')) part.style.visibility = 'hidden';
"""


def says(*words: str) -> str:
    """An expression that holds once the page says all of it."""
    return " && ".join(["document.body", *(f"document.body.innerText.includes({word!r})" for word in words)])


def save(browser: Browser, name: str) -> None:
    """Save a picture."""
    browser.shoot(OUT / name)
    print(OUT / name, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
