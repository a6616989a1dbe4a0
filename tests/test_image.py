"""The image's description: what it stands on, what it lets in, who runs it, and how it is built."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import image as ci_image

ROOT = Path(__file__).parents[1]
BUILT_FROM = {"LICENSE", "README.md", "pyproject.toml", "requirements.lock"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile.cuda").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert found, f"{package} is not in the lock"
    return found[1]


def admitted(path: str) -> bool:
    """Whether .dockerignore lets a file in: the last pattern that names it or a folder above it decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = Path(path).parts
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if any(fnmatch(name, pattern) or fnmatch(f"/{name}", pattern.replace("**", "*")) for name in above):
            verdict = line.startswith("!")
    return verdict


class TestDockerfile:
    def test_the_base_is_the_locks_cuda_and_pinned_by_digest(self) -> None:
        base = next(rest for name, rest in instructions() if name == "ARG")
        found = re.fullmatch(r"BASE=docker\.io/nvidia/cuda:([\d.]+)-base-ubuntu24\.04@sha256:[0-9a-f]{64}", base)
        assert found, base
        toolkit = locked("cuda-toolkit").split(".")
        assert found[1].split(".") == toolkit[:3]
        assert locked("nvidia-cuda-runtime").split(".")[:2] == toolkit[:2]

    def test_every_stage_stands_on_the_base(self) -> None:
        stages = [rest.split(" AS ") for name, rest in instructions() if name == "FROM"]
        assert stages[0] == ["${BASE}", "python"]
        names = [stage[1] for stage in stages if len(stage) == 2]
        assert all(stage[0] in names for stage in stages[1:])

    def test_it_runs_the_kit_and_nobody_special_runs_it(self) -> None:
        last = {name: rest for name, rest in final_stage() if name not in ("COPY", "RUN", "ARG")}
        assert last["USER"] == "1000:1000"
        assert json.loads(last["ENTRYPOINT"]) == ["kit"]
        assert json.loads(last["CMD"]) == ["--help"]
        assert json.loads(last["VOLUME"]) == ["/cache", "/work"]
        assert last["WORKDIR"] == "/work"
        assert "KIT_CACHE=/cache" in last["ENV"]

    def test_its_last_stage_takes_only_what_was_installed(self) -> None:
        copies = [rest for name, rest in final_stage() if name == "COPY"]
        assert copies == ["--from=environment /opt/kit /opt/kit", "--from=wheel /layer /opt/kit"]
        assert not any(name == "ADD" for name, _ in instructions())

    def test_packages_are_installed_by_hash(self) -> None:
        commands = [rest for name, rest in instructions() if name == "RUN"]
        installs = [part for rest in commands for part in rest.split("&&") if "pip install" in part]
        assert len(installs) == 3
        for install in installs:
            assert "--require-hashes" in install or ("--no-deps" in install and "dist/*.whl" in install)

    def test_it_names_no_index(self) -> None:
        text = (ROOT / "Dockerfile.cuda").read_text()
        assert not re.search(r"https?://|index-url|INDEX_URL|INDEX=|trusted-host", text)

    def test_environment_variables_are_no_settings_of_the_kit(self) -> None:
        """An unknown ``KIT_*`` variable is an error of every command."""
        environment = next(rest for name, rest in final_stage() if name == "ENV")
        assert re.findall(r"\bKIT_\w+(?==)", environment) == ["KIT_CACHE"]

    def test_extras_are_all_of_the_kits(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        install = next(rest for name, rest in instructions() if "--requirement pyproject.toml" in rest)
        assert re.findall(r"--extra (\w+)", install) == sorted(project["optional-dependencies"])


class TestContext:
    def test_only_what_the_wheel_is_built_from_is_let_in(self) -> None:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
        if listed.returncode:
            pytest.skip("this is no checkout")
        tracked = listed.stdout.splitlines()
        let_in = {path for path in tracked if admitted(path)}
        assert let_in == BUILT_FROM | {path for path in tracked if path.startswith("kit/")}

    @pytest.mark.parametrize(
        "path", [".git/config", "runs/a/config.toml", "kit/__pycache__/a.pyc", "kit/data/__pycache__/a.pyc", ".env"]
    )
    def test_what_lies_about_stays_outside(self, path: str) -> None:
        assert not admitted(path)

    def test_what_is_copied_is_let_in(self) -> None:
        copies = [rest for name, rest in instructions() if name == "COPY" and "--from" not in rest]
        sources = {source for rest in copies for source in rest.split()[:-1]}
        assert sources == BUILT_FROM | {"kit"}
        assert all(admitted(source) for source in sources)


class TestEngine:
    def test_the_first_that_answers(self) -> None:
        asked: list[str] = []

        def answers(engine: str) -> bool:
            asked.append(engine)
            return engine != "docker"

        assert ci_image.choose_engine(answers=answers) == "podman"
        assert asked == ["docker", "podman"]

    def test_the_one_that_is_wanted(self) -> None:
        assert ci_image.choose_engine("buildah", lambda _: True) == "buildah"

    def test_none(self) -> None:
        with pytest.raises(ci_image.ImageError, match="asked: docker, podman, buildah; install one"):
            ci_image.choose_engine(answers=lambda _: False)

    def test_a_client_without_an_engine_does_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, code in (("docker", 1), ("podman", 0)):
            script = tmp_path / name
            script.write_text(f'#!/bin/sh\n[ "$1" = info ] && exit {code}\nexit 9\n')
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert not ci_image.engine_answers("docker")
        assert ci_image.engine_answers("podman")
        assert not ci_image.engine_answers("no-such-builder")


class TestCommands:
    BUILD = ci_image.Build("kit:1", base="localhost/base:noble", revision="abc", version="0.1.0")

    def test_docker(self) -> None:
        assert ci_image.build_command("docker", self.BUILD) == (
            "docker build --file Dockerfile.cuda --tag kit:1 --build-arg REVISION=abc --build-arg VERSION=0.1.0"
            " --build-arg BASE=localhost/base:noble ."
        ).split(" ")

    def test_the_pinned_base_is_the_dockerfiles(self) -> None:
        command = ci_image.build_command("podman", ci_image.Build("kit:1"))
        assert not [part for part in command if part.startswith("BASE=")]

    def test_secrets_are_files(self) -> None:
        build = ci_image.Build("kit:1", secrets=(("index", Path("/a/index.env")),))
        command = ci_image.build_command("docker", build)
        assert command[command.index("--secret") + 1] == "id=index,src=/a/index.env"

    def test_a_container_is_read_only_and_belongs_to_the_user(self) -> None:
        command = ci_image.run_command("docker", "kit:1", Path("/empty"), 1234, ["finetune"])
        assert command == (
            "docker run --rm --read-only --tmpfs /tmp:exec --user 1234:1234 --volume /empty:/work kit:1 finetune"
        ).split(" ")

    def test_podman_keeps_the_users_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 1234)
        command = ci_image.run_command("podman", "kit:1", Path("/empty"), 1234, ["finetune"])
        assert command[command.index("--userns") + 1] == "keep-id"

    def test_buildah_is_told_what_to_run(self) -> None:
        command = ci_image.run_command("buildah", "working-container", Path("/empty"), 1000, ["doctor"])
        assert command[-4:] == ["working-container", "--", "kit", "doctor"]

    @pytest.mark.parametrize(("size", "text"), [("6543210000\n", "6.54 GB"), ("6.5 GB\n", "6.5 GB")])
    def test_sizes(self, size: str, text: str) -> None:
        assert ci_image.readable(size) == text
