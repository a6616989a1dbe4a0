"""Build the image with whichever builder answers, and run the kit inside: not as root, in an empty folder.

``nox -s image -- --base localhost/base:noble`` builds on another base. A package index or a certificate authority of
one's own is handed over as files that leave no trace in the image (``--index``, ``--certificates``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = "Dockerfile.cuda"
ENGINES = ("docker", "podman", "buildah")
"""In the order in which they are tried. Docker's client is often there without an engine, so each is asked."""
USER = 1000
"""The image's own user."""
QUICK = ("--train.steps", "20")


class ImageError(Exception):
    """The image cannot be built, or does not do what it should."""


@dataclass(frozen=True)
class Build:
    """What is built, and from what."""

    tag: str
    base: str | None = None
    """Stands in for the base that the Dockerfile pins."""
    revision: str = "unknown"
    version: str = "unknown"
    secrets: tuple[tuple[str, Path], ...] = ()
    """Name and file of what the build may read and the image must not hold."""


def choose_engine(wanted: str | None = None, answers: Callable[[str], bool] | None = None) -> str:
    """Return the first builder that answers, or the one that is wanted.

    Raises:
        ImageError: none does; says which were asked.
    """
    answers = answers or engine_answers
    candidates = (wanted,) if wanted else ENGINES
    for engine in candidates:
        if answers(engine):
            return engine
    msg = f"no builder of images answers here, asked: {', '.join(candidates)}; install one, or start Docker's engine"
    raise ImageError(msg)


def engine_answers(engine: str) -> bool:
    """Whether a builder is installed and, where it has an engine, whether that runs."""
    if shutil.which(engine) is None:
        return False
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=60, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build_command(engine: str, build: Build) -> list[str]:
    """Return the command that builds an image; it runs in the repository's root."""
    arguments = {"REVISION": build.revision, "VERSION": build.version}
    if build.base is not None:
        arguments["BASE"] = build.base
    command = [engine, "build", "--file", DOCKERFILE, "--tag", build.tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, path in build.secrets:
        command += ["--secret", f"id={name},src={path}"]
    return [*command, "."]


def run_command(engine: str, image: str, folder: Path, uid: int, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs the kit in a container, in a folder of the host, as a user that is not root.

    Args:
        engine: the builder that ``choose_engine`` chose.
        image: the image's tag; for buildah, a working container of it.
        folder: becomes ``/work``; the user must be able to write it.
        uid: number of the user, and of its group.
        arguments: what follows ``kit``.
    """
    where = ["--user", f"{uid}:{uid}", "--volume", f"{folder}:/work"]
    if engine == "buildah":
        # It mounts no volumes of its own and knows neither entry points nor read-only containers.
        return [engine, "run", *where, "--workingdir", "/work", image, "--", "kit", *arguments]
    own = ["--userns", "keep-id"] if engine == "podman" and os.getuid() else []
    # PyTorch's compiler loads what it has built from there; Docker's default forbids that.
    temporary = ["--tmpfs", "/tmp:exec"]
    return [engine, "run", "--rm", "--read-only", *temporary, *own, *where, image, *arguments]


def size_command(engine: str, tag: str) -> list[str]:
    """Return the command that prints an image's uncompressed size."""
    if engine == "buildah":
        return [engine, "images", "--format", "{{.Size}}", tag]
    return [engine, "image", "inspect", "--format", "{{.Size}}", tag]


def main(arguments: Sequence[str]) -> None:
    """Build, run ``kit --version``, ``kit doctor`` and ``kit finetune`` inside, and say what came of it."""
    options = parser().parse_args(arguments)
    engine = choose_engine(options.engine)
    secrets = [("index", options.index), ("certificates", options.certificates)]
    build = Build(
        tag=options.tag,
        base=options.base,
        revision=revision(),
        version=version(),
        secrets=tuple((name, path.resolve()) for name, path in secrets if path is not None),
    )
    started = time.monotonic()
    run(build_command(engine, build), cwd=ROOT)
    say(f"built {build.tag} with {engine} in {time.monotonic() - started:.0f} s")
    try_out(engine, build.tag)
    say(f"size, uncompressed: {readable(run(size_command(engine, build.tag), capture=True))}")


def try_out(engine: str, tag: str) -> None:
    """Run the kit as a reader would: as somebody who is not root, in an empty folder, without the repository."""
    uid = os.getuid() or USER
    with tempfile.TemporaryDirectory() as temporary, container(engine, tag) as image:
        work = Path(temporary) / "work"
        work.mkdir()
        Path(temporary).chmod(0o755)
        if not os.getuid():
            os.chown(work, uid, uid)
        for what in (["--version"], ["doctor"]):
            run(run_command(engine, image, work, uid, what))
        printed = run(run_command(engine, image, work, uid, ["finetune", *QUICK, "--json"]), capture=True)
        result = json.loads(printed)
        folders = sorted(path.name for path in work.iterdir())
        require(folders == ["runs"], f"expected the run under {work}/runs and nothing else, got {folders}")
        require(result["steps"] == int(QUICK[1]), f"expected {QUICK[1]} steps, got {result['steps']}")
        say(f"kit finetune: {result['steps']} steps on {result['device']}, loss {result['loss']}")


@contextmanager
def container(engine: str, tag: str) -> Iterator[str]:
    """Give what ``run_command`` runs: the image, or for buildah a working container that goes afterwards."""
    if engine != "buildah":
        yield tag
        return
    name = run([engine, "from", tag], capture=True).strip()
    try:
        yield name
    finally:
        run([engine, "rm", name], capture=True)


def revision() -> str:
    """Return the commit that is built, with ``-dirty`` where files differ from it, or ``unknown``."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def version() -> str:
    """Return the kit's version."""
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def readable(size: str) -> str:
    """Turn a number of bytes into gigabytes; other texts stay."""
    size = size.strip()
    return f"{int(size) / 1e9:.2f} GB" if size.isdigit() else size


def parser() -> argparse.ArgumentParser:
    """Return what the command line takes."""
    found = argparse.ArgumentParser(prog="nox -s image --", description=__doc__)
    found.add_argument("--base", help="stands in for the base that the Dockerfile pins")
    found.add_argument("--tag", default="kit", help="name of the image (default: %(default)s)")
    found.add_argument("--engine", choices=ENGINES, help="by default the first that answers")
    found.add_argument("--index", type=Path, help="file of NAME=VALUE lines for pip and uv, during the build alone")
    found.add_argument("--certificates", type=Path, help="certificate bundle, at /run/secrets/certificates likewise")
    return found


def run(command: Sequence[str], *, cwd: Path | None = None, capture: bool = False) -> str:
    """Run a command and return what it printed, if that is captured; what it writes for people passes through."""
    say("$ " + " ".join(command))
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    require(done.returncode == 0, f"{command[0]} {command[1]} ended with exit code {done.returncode}")
    return done.stdout or ""


def require(condition: bool, message: str) -> None:
    """Stop with a message unless the condition holds."""
    if not condition:
        raise ImageError(message)


def say(text: str) -> None:
    """Write a line at once, in step with what the commands write."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ImageError as error:
        sys.exit(f"image failed: {error}")
