"""Every task that a person or CI runs: ``nox -l`` lists them, arguments after ``--`` are passed on.

All sessions but ``lowest`` install from ``requirements.lock``: uv takes versions and hashes from it and refuses a file
that does not match. Without a network: ``UV_OFFLINE=1 UV_FIND_LINKS=wheelhouse nox -s ...``, where the folder was
filled by ``pip download --no-deps --require-hashes -r requirements.lock -d wheelhouse``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
LOCK = "requirements.lock"
PLATFORMS = {
    f"{system} {machine}, Python {version}": {
        "sys_platform": system,
        "platform_system": name,
        "os_name": kernel,
        "platform_machine": machine,
        "python_version": version,
        "python_full_version": f"{version}.0",
    }
    for system, name, kernel, machine in [
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    ]
    for version in ["3.11", "3.12", "3.13"]
}
"""Where what a lock installs is compared, as the variables of markers."""
PRETRAINING_DAYS = 180
"""Of the planet whose weather the embedded weights learn first."""


@nox.session
def smoke(session: nox.Session) -> None:
    """Check, fine-tune, evaluate and draw the embedded default; fails unless it learned."""
    install(session)
    session.run("python", "ci/smoke.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; -m gpu, slow, network or benchmark chooses those that are off by default."""
    install(session, "tests")
    session.run("pytest", "--numprocesses=2", "--dist=worksteal", *session.posargs)


@nox.session(default=False, reuse_venv=False)
def lowest(session: nox.Session) -> None:
    """Run the security tests with the lowest versions of direct dependencies that pyproject.toml allows."""
    extras = ".[cloud,cluster,diffusion,grib,hrrr,peft]"
    session.install("--resolution", "lowest-direct", "--editable", extras, "--group", "tests")
    session.run("pytest", *(session.posargs or ["tests/security", "tests/data/test_zarr_guard.py"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff, its formatter's check, and mypy in strict mode."""
    install(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)
    session.run("mypy", *session.posargs)


@nox.session(default=False)
def fetch(session: nox.Session) -> None:
    """Download and verify files of the registry, by name: nox -s fetch -- era5-europe-2020-01-01."""
    install(session)
    session.run("kit", "data", "fetch", *session.posargs)


@nox.session(default=False)
def qa(session: nox.Session) -> None:
    """Check a store; the embedded sample unless another is named."""
    install(session)
    session.run("kit", "data", "qa", *(session.posargs or ["era5-sample"]))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the manual into site/; a warning is an error."""
    install(session, "docs")
    session.run("python", "ci/commands_page.py", "docs/commands.md")
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "docs", "site", *session.posargs)


@nox.session(default=False)
def finetune(session: nox.Session) -> None:
    """Fine-tune; with no arguments, the embedded default."""
    install(session)
    session.run("kit", "finetune", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks: pytest's pieces and then kit bench; with arguments (-- step plan), kit bench alone."""
    install(session, "tests", "bench")
    if not session.posargs:
        session.run("pytest", "-m", "benchmark")
    session.run("kit", "bench", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Test and measure on a card, in minutes; -- --dry on a CPU, what a CPU can run."""
    install(session, "tests")
    session.run("python", "ci/gpu.py", *session.posargs)


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it by the lock in an environment of its own, and fine-tune far from any checkout."""
    with tempfile.TemporaryDirectory() as folder:
        parts = ("--build-constraints", LOCK, "--require-hashes", "--out-dir", folder)
        session.run("uv", "build", "--wheel", *parts)
        pinned = ("--require-hashes", "--constraints", LOCK)
        session.install(*pinned, "--requirement", "pyproject.toml", "--all-extras")
        session.install("--no-deps", "--reinstall", *(str(path) for path in Path(folder).glob("*.whl")))
        empty = Path(folder) / "empty"
        empty.mkdir()
        with session.chdir(empty):
            session.run("kit", "--version")
            session.run("kit", "finetune", *(session.posargs or ["--train.steps", "20"]))


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image and run the kit inside; -- --base, --tag, --engine, --index, --certificates."""
    session.run("python", "ci/image.py", *session.posargs)


@nox.session(default=False)
def sample(session: nox.Session) -> None:
    """Make the embedded sample again, with a dynamical core, and record its hash."""
    install(session, "sample")
    session.run("python", "ci/make_sample.py", *session.posargs)


@nox.session(default=False)
def coastlines(session: nox.Session) -> None:
    """Embed coasts and borders again, from the npm package world-atlas, and record their hash: -- TARBALL."""
    install(session)
    session.run("python", "ci/coastlines.py", *session.posargs)


@nox.session(default=False)
def planet(session: nox.Session) -> None:
    """Make years of the sample's idealised planet as a store: -- --years 2 --seed 1 --climate other --out FOLDER."""
    install(session, "sample")
    session.run("python", "ci/planet.py", *session.posargs)


@nox.session(default=False)
def ensembles(session: nox.Session) -> None:
    """Compare sources of members on two years of the planet: -- STORE FOLDER, see ci/ensembles.py; takes hours."""
    install(session)
    session.run("python", "ci/ensembles.py", *session.posargs)


@nox.session(default=False)
def manual(session: nox.Session) -> None:
    """Repeat the runs whose numbers the manual states, and write them into it: -- first-run names some."""
    install(session)
    session.run("python", "ci/manual.py", *session.posargs)


@nox.session(default=False)
def figures(session: nox.Session) -> None:
    """Repeat the runs whose maps the manual shows, and draw them again: -- sample, europe or hrrr draws some."""
    install(session, "tests")
    session.run("python", "ci/figures.py", *session.posargs)


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Take the manual's pictures of the tracking page again; needs Chromium. -- FOLDER keeps the runs there."""
    install(session)
    session.run("python", "ci/screenshots.py", *session.posargs)


@nox.session(default=False)
def pretrain(session: nox.Session) -> None:
    """Pretrain the embedded tiny Aurora again, on a planet of another climate than the sample's; record its hash."""
    install(session, "sample")
    folder, recipe = Path(session.create_tmp()), "tiny-pretrain"
    store = f"planet-other-{PRETRAINING_DAYS}"
    shutil.rmtree(folder / "runs", ignore_errors=True)
    # The weights say what they were trained on, by names that mean the same on every machine.
    with session.chdir(folder):
        if not Path(store).exists():
            made = ("--climate", "other", "--days", str(PRETRAINING_DAYS), "--out", store)
            session.run("python", str(ROOT / "ci" / "planet.py"), *made)
        where = ("--data.store", store, "--run.dir", "runs", "--run.name", recipe)
        session.run("kit", "finetune", "--recipe", recipe, *where, *session.posargs)
    session.run("python", "ci/embed_weights.py", str(folder / "runs" / recipe))


@nox.session(default=False)
def same(session: nox.Session) -> None:
    """Compare losses, weights, stores, forecasts and results with those of a commit, bit for bit: -- COMMIT."""
    install(session, "tests")
    session.run("python", "ci/same.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Bring requirements.lock up to date, keeping its pins (-- --upgrade: newest); -- --check: fail if it is stale."""
    checking = "--check" in session.posargs
    if checking and os.environ.get("UV_OFFLINE"):
        session.skip("whether the lock is fresh can only be told with a package index")
    out = Path(session.create_tmp()) / LOCK if checking else ROOT / LOCK
    if checking:
        shutil.copyfile(ROOT / LOCK, out)
    compile_lock(session, out, [argument for argument in session.posargs if argument != "--check"])
    if checking and (difference := pins(ROOT / LOCK) ^ pins(out)):
        named = sorted(f"{package} on {platform}" for package, platform in difference)
        session.error(f"{LOCK} is stale, run nox -s lock; it differs in: {', '.join(named)}")


def install(session: nox.Session, *groups: str) -> None:
    """Install the kit with its extras and some groups, all at the versions and hashes of the lock, build tools too.

    With bytecode, which uv leaves out and Python does not write under ``PYTHONDONTWRITEBYTECODE``: without it each
    process that imports PyTorch, Aurora, MLflow and PEFT compiles them anew, in 26 s of a processor instead of 10.
    """
    chosen = [part for group in groups for part in ("--group", group)]
    pinned = ("--constraints", LOCK, "--build-constraints", LOCK)
    session.install("--compile-bytecode", *pinned, "--editable", ".[cloud,cluster,diffusion,grib,hrrr,peft]", *chosen)


def compile_lock(session: nox.Session, out: Path, arguments: list[str]) -> None:
    """Resolve all dependencies, extras and groups into one file for every platform, without host names."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")
    groups = [part for group in project["dependency-groups"] for part in ("--group", group)]
    form = ["--universal", "--fork-strategy", "fewest", "--python-version", "3.11", "--generate-hashes"]
    plain = ["--no-annotate", "--no-header", "--quiet", "--output-file", str(out)]
    session.run("uv", "pip", "compile", "pyproject.toml", "--all-extras", *groups, *form, *plain, *arguments)


def pins(path: Path) -> set[tuple[str, str]]:
    """Return what a lock installs, ``(NAME==VERSION, platform)``, on each of the platforms of ``PLATFORMS``.

    Neither hashes nor the wording of markers count: an index may gain files of a version that is pinned already, and
    releases of uv write the same marker in other words.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line.removesuffix("\\")) for line in lines if line[:1].isalnum()]
    return {
        (f"{one.name}{one.specifier}", name)
        for one in pinned
        for name, platform in PLATFORMS.items()
        if one.marker is None or one.marker.evaluate(platform)
    }
