"""The command line: help, exit codes, where output goes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from kit.bench.settings import BenchSettings
from kit.checks.settings import QaSettings, StatsSettings
from kit.cli import main as cli
from kit.cli.commands import data as data_commands
from kit.cli.commands.common import Outcome
from kit.cli.views.checkpoints import show_scores
from kit.config import layers as config
from kit.config.command_line import parse
from kit.config.schema import leaves
from kit.data.settings import BuildSettings
from kit.doctor.settings import DoctorSettings
from kit.export.settings import ExportSettings
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import StoreError
from kit.plots.settings import PlotSettings
from kit.run.display import training_progress
from kit.settings import Settings
from kit.tracking.settings import UiSettings
from kit.verification.settings import EvaluateSettings
from tests.everyday import one_in

ALL_SETTINGS = (
    Settings,
    BenchSettings,
    EvaluateSettings,
    ExportSettings,
    ForecastSettings,
    PlotSettings,
    BuildSettings,
    UiSettings,
    DoctorSettings,
    QaSettings,
    StatsSettings,
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith(config.ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[str]], Any]], None]:
    """Put a function in the place of ``kit data list``."""
    return lambda function: monkeypatch.setattr(data_commands, "data_list", function)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, str | None]]:
    """Put a recorder in the place of the room that trains."""
    calls: list[tuple[Settings, str | None]] = []

    def record(settings: Settings, *, recipe: str | None) -> SimpleNamespace:
        calls.append((settings, recipe))
        return SimpleNamespace(to_dict=lambda: {"run": "runs/x", "valid": {"before": 1.0, "after": float("nan")}})

    monkeypatch.setitem(sys.modules, "kit.run.finetune", SimpleNamespace(finetune=record))
    return calls


def outcome(result: Mapping[str, Any], *, exit_code: int = 0) -> Outcome:
    return Outcome(result, as_json=True, show=lambda _: None, exit_code=exit_code)


def test_the_overview_needs_no_heavy_module() -> None:
    heavy = [
        "torch",
        "aurora",
        "mlflow",
        "xarray",
        "zarr",
        "matplotlib",
        "pydantic",
        "pydantic_settings",
        "rich",
        "numpy",
    ]
    code = (
        f"import sys; from kit.cli.main import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "usage: kit COMMAND [options]"
    assert done.stdout.splitlines()[-1] == "[]"


_HELP = """
import contextlib, io, json, sys
from kit.cli.main import COMMANDS, main
heavy = {"torch", "aurora", "mlflow", "xarray", "zarr", "matplotlib"}
told, before = {}, set()
for command in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main([*command.split(), "--help"])
        except SystemExit as end:
            code = end.code
    loaded = heavy & sys.modules.keys()
    told[command] = code or 0, out.getvalue(), sorted(loaded - before)
    before = loaded
    before = set(sys.modules)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str, list[str]]]:
    """How every command's help ends, what it prints and which heavy modules it imports, all in one process."""
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    assert not done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("command", [*cli.COMMANDS])
def test_a_commands_help_needs_no_heavy_module(command: str, helps: dict[str, tuple[int, str, list[str]]]) -> None:
    code, text, heavy = helps[command]
    assert code == 0
    assert text.startswith(f"usage: kit {command}")
    assert heavy == []


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert "KIT_CACHE" in out
    assert "KIT_WEIGHTS" in out
    assert not err


def test_no_command_at_all_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("usage: kit")


@pytest.mark.slow
def test_python_and_torchrun_start_it_as_a_module() -> None:
    for start in (["-m", "kit"], ["-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "kit"]):
        done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("kit ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kit 0.")


def test_every_command_is_a_function() -> None:
    for name in cli.COMMANDS:
        module = importlib.import_module(f"kit.cli.commands.{cli._MODULES[name.split()[0]]}")
        assert callable(getattr(module, name.replace(" ", "_")))


@pytest.mark.parametrize("model", ALL_SETTINGS)
def test_every_setting_explains_itself(model: type[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(model, ["--help"], "kit x")
    text = capsys.readouterr().out
    for key, field in ((key, _field(model, key)) for key in leaves(model)):
        assert f"--{key}" in text or f"--no-{key}" in text or key.upper() in text
        assert field.description, f"{model.__name__}.{key} has no description"


def _field(model: type[Any], key: str) -> Any:
    *sections, name = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    fields = model.model_fields
    return fields[name] if name in fields else next(field for field in fields.values() if field.alias == name)


def test_help_shows_types_defaults_and_docstrings_without_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["finetune", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--data.region N,W,S,E North, west, south, east in degrees" in text
    assert "(default: era5-sample)" in text
    assert "--train.device {auto,cpu,cuda} auto takes a GPU" in text
    assert "``" not in text
    assert "default: None" not in text
    assert "default: (" not in text
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    assert "(default: rmse,acc)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fintune"], "there is no command 'fintune'; did you mean finetune?"),
        (["data", "lst"], "there is no command 'data lst'; did you mean data list"),
        (["frobnicate"], "there is no command 'frobnicate'; did you mean doctor or plan or finetune"),
        (["data"], "  data build"),
        (
            ["finetune", "--train.step", "20"],
            "unknown setting --train.step (from the command line); did you mean --train.st",
        ),
        (["finetune", "--train.step=20"], "unknown setting --train.step (from the command line)"),
        (["finetune", "--train.st", "20"], "unknown setting --train.st (from"),
        (["finetune", "--no-jsn"], "unknown setting --no-jsn"),
        (["finetune", "--no-track.uri"], "unknown setting --no-track.uri"),
        (["sync", "nowhere"], "expected the folder of a run, with tracking.json"),
        (["finetune", "--train.steps"], "--train.steps: expected one argument; see kit finetune --help"),
        (
            ["finetune", "--train.steps", "0"],
            "train.steps: input should be greater than 0, got '0' (from --train.steps)",
        ),
        (["finetune", "stray"], "unrecognized arguments: stray"),
        (["finetune", "--config", "/nothing.toml"], "there is no file '/nothing.toml'"),
        (["finetune", "--recipe", "nothing"], "there is no recipe 'nothing'"),
        (["evaluate"], "expected a checkpoint or a forecast_file, and not both"),
        (["plot"], "give one of run, checkpoint, forecast_file, sums; given: none"),
        (["plot", "--run", "a", "--checkpoint", "b"], "given: run and checkpoint"),
        (["data", "build"], "source: is needed"),
        (["data", "qa"], "required: STORE"),
        (["finetune", "--data.halo", "5"], "data.halo 5 has no effect without data.region"),
        (
            ["finetune", "--data.region", "60,0,20,40", "--data.halo", "-5"],
            "data.halo: input should be greater",
        ),
        (["finetune", "--data.region", "60,20,20,20"], "data.region: west 20 and east 20 must be two different"),
        (["finetune", "--data.region", "20,0,60,40"], "data.region: north 20 and south 60 must be in [-90, 90]"),
    ],
)
def test_mistakes_end_with_2_and_one_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_misspelt_variable_ends_with_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_TRAIN__STEP", "3")
    assert cli.main(["finetune"]) == 2
    assert (
        "unknown setting KIT_TRAIN__STEP (from the environment); did you mean KIT_TRAIN__STEPS"
        in capsys.readouterr().err
    )


def test_a_misspelt_setting_in_a_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[optim]\nlearning_rate = 1e-4\n[data]\nvariable = ['2t']\n")
    assert cli.main(["finetune", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert f"unknown setting data.variable (from {file}); did you mean data.variables?" in err
    assert f"unknown setting optim.learning_rate (from {file}); there are optim.name, optim.lr" in err


def test_settings_reach_the_room_in_order(
    trained: list[tuple[Settings, str | None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\nseed = 3\nepochs = 3\nsteps = 'none'\n[optim]\nwarmup = 3\nlr = 0.3\n")
    recipe = config.Layer("recipe r", {"optim.clip": 4.0, "optim.warmup": 4, "train.seed": 4})
    monkeypatch.setattr(config, "read_recipe", lambda name, model: recipe)
    monkeypatch.setenv("KIT_TRAIN__SEED", "2")
    monkeypatch.setenv("KIT_OPTIM__LR", "0.2")
    monkeypatch.setenv("KIT_CONFIG", str(file))
    options = ["--train.steps", "9", "--data.region", "-10,20,-30,40.5", "--data.variables", "2t,z", "--recipe", "r"]
    assert cli.main(["finetune", *options, "--model.weights", "none", "--json"]) == 0
    ((settings, name),) = trained
    assert name == "r"
    assert (settings.train.steps, settings.train.epochs, settings.train.seed) == (9, None, 2)
    assert (settings.optim.lr, settings.optim.warmup, settings.optim.clip) == (0.2, 3, 4.0)
    assert settings.data.region == (-10, 20, -30, 40.5)
    assert settings.data.variables == ("2t", "z")
    assert settings.model.weights is None
    out, err = capsys.readouterr()
    assert json.loads(out) == {"run": "runs/x", "valid": {"before": 1.0, "after": None}}
    assert "loading PyTorch and Aurora" in err


@pytest.mark.usefixtures("trained")
def test_without_json_the_result_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune"]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert "1 -> nan" in err


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--loss.weights", "2t=3,msl=1"], {"loss": {"weights": {"2t": "3", "msl": "1"}}}),
        (["--data.variables", "2t"], {"data": {"variables": ["2t"]}}),
        (["--data.levels", "500"], {"data": {"levels": [500]}}),
        (["--optim.clip", "none"], {"optim": {"clip": None}}),
        (["--train", '{"steps": 3}'], {"train": {"steps": 3}}),
        (["--optim.lr=1e-3"], {"optim": {"lr": "1e-3"}}),
        ([], {}),
    ],
)
def test_arguments_in_all_their_forms(tokens: list[str], expected: dict[str, Any]) -> None:
    assert parse(Settings, tokens, "kit x") == expected


def test_what_libraries_print_stays_out_of_the_result(
    plant: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy(arguments: Sequence[str]) -> Outcome:
        print("a library has news")  # noqa: T201
        return outcome({"path": Path("x"), "list": (1, float("inf"))})

    plant(noisy)
    assert cli.main(["data", "list"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "x", "list": [1, None]}
    assert "a library has news" in err


def test_the_result_decides_the_exit_code(plant: Callable[[Any], None]) -> None:
    plant(lambda arguments: outcome({}, exit_code=2))
    assert cli.main(["data", "list"]) == 2


def _raise(error: BaseException) -> Callable[[Sequence[str]], NoReturn]:
    def fail(arguments: Sequence[str]) -> NoReturn:
        raise error

    return fail


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StoreError("s: no such store; build one"), 2, "kit data list: s: no such store; build one\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked/x"), 2, "Permission denied: /locked/x"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), 2, "no space left while writing"),
        (RuntimeError("writing: No space left on device (os error 28)"), 2, "no space left while writing"),
        (_caused(RuntimeError("x"), OSError(errno.ENOSPC, "No space left on device")), 2, "no space left"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (KeyError("ours"), 1, "this is a defect of the kit"),
        (_caused(RuntimeError("ours"), FileNotFoundError("x")), 1, "Please report it"),
    ],
)
def test_every_end_has_its_exit_code(
    error: BaseException,
    code: int,
    message: str,
    plant: Callable[[Any], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(_raise(error))
    assert cli.main(["data", "list"]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert ("Traceback" in err) == (code == 1)


def test_sigterm_ends_a_command_through_its_finally(plant: Callable[[Any], None]) -> None:
    cleaned = []

    def wait(arguments: Sequence[str]) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    plant(wait)
    assert cli.main(["data", "list"]) == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_training_still_tells_its_result(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(settings: Settings, *, recipe: str | None) -> SimpleNamespace:
        return SimpleNamespace(to_dict=lambda: {"interrupted": name, "checkpoint": "c"})

    monkeypatch.setitem(sys.modules, "kit.run.finetune", SimpleNamespace(finetune=stopped))
    assert cli.main(["finetune", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "c"


def test_the_registry_is_listed_for_people_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert "era5-sample" in err
    assert "synthetic" in err
    assert "no hash yet: the hub's own is verified and recorded at the first use" in " ".join(err.split())
    assert cli.main(["data", "list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {"name", "sha256", "size", "licence", "url"} <= entries[0].keys()


def test_files_are_fetched_with_whom_to_credit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "fetch", "era5-sample", "aurora-tiny", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(file["name"], file["licence"], file["cached"]) for file in files] == [
        ("era5-sample", "MIT", True),
        ("aurora-tiny", "MIT", True),
    ]
    assert Path(files[0]["path"]).is_file()
    assert cli.main(["data", "fetch", "era5-sample"]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert "licence and credit: MIT" in err


@pytest.mark.parametrize("place", one_in(2, ["command line", "environment"]))
@pytest.mark.parametrize(
    "words",
    [
        ["data", "fetch", "aurora-0.25-static"],
        "data build --source pickle --path era5-sample --out store --statics_from aurora-0.25-static".split(),
        pytest.param(["finetune", "--model.variant", "small"], marks=pytest.mark.slow),
    ],
    ids=["fetch", "build", "finetune"],
)
def test_strictness_is_a_setting_of_every_command_that_fetches(
    words: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    if place == "environment":
        monkeypatch.setenv("KIT_REGISTRY__STRICT", "1")
    else:
        words = [*words, "--registry.strict"]
    assert cli.main(words) == 2
    assert "registry.strict is set; have what is there now recorded first: kit data pin" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["files"], ["stores"])


@pytest.mark.parametrize("words", [["data", "fetch", "era5-sample"], ["finetune", "--train.steps", "1"]])
def test_a_misspelt_strictness_is_no_strictness_and_is_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_REGISTRY__STRICTT", "1")
    assert cli.main(words) == 2
    assert "unknown setting KIT_REGISTRY__STRICTT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["fetch"], "the following arguments are required: NAMES"),
        (["fetch", "era5-sampel"], "the registry has no 'era5-sampel'; the nearest are era5-sample"),
        (["fetch", "aurora-0.25-wave"], "no hash in the registry.*kit data pin aurora-0.25-wave"),
        (["fetch", "aurora-weights"], "kit data pin aurora-0.25-finetuned aurora-0.25-pretrained"),
        (["fetch", "era5-global-tl31-1959"], "is not on this machine, and KIT_OFFLINE is set. By hand: download https"),
        (["pin", "aurora-0.25-wave"], "its hash has to be asked for, and KIT_OFFLINE is set"),
        (["pin"], "the following arguments are required: NAMES"),
        (["list", "--what", "3"], "unknown setting --what"),
    ],
)
def test_what_cannot_be_fetched_or_pinned_is_one_message(
    words: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setenv("KIT_OFFLINE", "1")
    monkeypatch.delenv("KIT_REGISTRY", raising=False)
    assert cli.main(["data", *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    assert re.search(match, " ".join(err.split()))


def test_what_has_a_hash_is_not_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "pin", "era5-sample", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pins"][0]["new"] is False
    assert cli.main(["data", "pin", "era5-sample"]) == 0
    assert "has a hash already, left as it is: SHA-256 c10a82" in capsys.readouterr().err


def test_scores_are_shown_with_their_mean_skill(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"rmse": 1.5, "mae": 1.0, "bias": -0.25, "persistence_rmse": 2.0, "skill": 0.25}
    scores = {"2t": row, "z_500": row | {"skill": -0.05}, "tp": row | {"skill": float("nan")}}
    show_scores({"checkpoint": "c", "samples": 8, "lead_hours": 6.0, "scores": scores, "synthetic": True})
    text = capsys.readouterr().err
    assert "8 predictions, 6 h ahead; synthetic data" in text
    assert "better than persistence in 1 of 2; mean skill 0.100" in text


def test_what_was_forgotten_and_errors_near_the_edge_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"rmse": 1.5, "mae": 1.0, "bias": -0.25, "persistence_rmse": 2.0, "skill": 0.25}
    worse, better = {"before": 1.2, "after": 1.5, "change": 0.25}, {"before": 2.0, "after": 1.5, "change": -0.25}
    edge = [
        {"distance": 0, "points": 48, "scored": 0.25, "rmse": {"2t": 3.0, "tp": 1.0}, "persistence_rmse": {"2t": 2.0}},
        {"distance": 4, "points": 16, "scored": 1.0, "rmse": {"2t": None}, "persistence_rmse": {"2t": 2.0}},
    ]
    result = {"checkpoint": "c", "samples": 8, "lead_hours": 6.0, "scores": {"2t": row, "tp": row, "msl": row}}
    show_scores({**result, "forgetting": {"2t": worse, "msl": better}, "edge": edge})
    lines = capsys.readouterr().err.splitlines()
    assert any("2t" in line and "+25.0%" in line for line in lines)
    assert any("tp" in line and line.split()[-2:-1] == ["-"] for line in lines)
    assert "worse than the base weights in 1 of 2; the RMSE of 2t grew most, by 25.0%" in lines
    assert any("0 and more" in line and "48" in line and "25%" in line and "1.5" in line for line in lines)
    assert any("4 and more" in line and "100%" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"2t": -0.25, "msl": -0.023}, "0 of 2; the RMSE of msl fell least, by 2.3%"),
        ({"2t": 0.4, "msl": 0.0}, "1 of 2; the RMSE of 2t grew most, by 40.0%"),
        ({"2t": 0.0, "msl": -0.1}, "0 of 2; the RMSE of 2t is the same"),
    ],
)
def test_the_worst_change_from_the_base_is_said_in_plain_words(
    changes: dict[str, float], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: {"before": 2.0, "after": 2 * (1 + change), "change": change} for name, change in changes.items()}
    show_scores({"checkpoint": "c", "samples": 8, "lead_hours": 6.0, "scores": {}, "forgetting": before})
    assert f"worse than the base weights in {told}" in capsys.readouterr().err.splitlines()


def test_progress_without_a_terminal_is_a_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(500) as progress:
        for step in range(1, 501):
            progress.update(step=step, loss=0.5, step_seconds=2.0, memory_gib=1.25)
        progress.say("validation [after] 0.4")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 1/500  loss 0.5000  2 s/step  1.25 GiB  0:16:38 left",
        "step 500/500  loss 0.5000  2 s/step  1.25 GiB  0:00:00 left",
        "validation [after] 0.4",
    ]
