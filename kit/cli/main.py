"""The command line: parse, dispatch, print; nothing else.

Exit codes: 0 done; 2 something the user can mend, told in one message; 1 a defect of the kit, with a traceback;
130, 143 and 129 stopped by Ctrl-C, SIGTERM and a terminal that closed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

from kit.config.suggestions import near_names
from kit.io.errors import KitError, refusal_of
from kit.io.secrets import remember, scrub_all
from kit.io.terminal import StandardError

if TYPE_CHECKING:
    from kit.cli.commands.common import Outcome

COMMANDS = {
    "doctor": "look for what is wrong with this machine before a run does",
    "plan": "say what a run would need of a GPU, without one",
    "finetune": "fine-tune Aurora; with no arguments, the tiny one on the sample that the kit carries",
    "evaluate": "score a checkpoint against persistence and the weights it started from",
    "forecast": "roll a checkpoint out from initial states, to NetCDF or Zarr",
    "ensemble": "forecast the members of an ensemble, by one process or several, to Zarr",
    "plot": "draw prediction, target and error maps, and loss curves",
    "compare": "compare runs: what differs, memory, time, losses, scores with significance",
    "report": "write one page about a run: what was asked, data, memory, losses, scores, licences",
    "data list": "list the files that the kit may use",
    "data fetch": "have files of the registry on this machine, verified",
    "data pin": "record the hash of files that have none",
    "data build": "build a store from files, archives or data stores",
    "data verify": "compare a store's files with their hashes",
    "data qa": "check a store",
    "data climatology": "make a climatology of a store, for anomalies and skill in scores",
    "data stats": "show a store's statistics, and hold them against upstream's or another's",
    "export": "write a checkpoint for others: merged, described, packed",
    "verify": "compare a checkpoint, a run folder, an export or a store with its hashes",
    "bench": "measure memory, speed and exactness, beside upstream's way",
    "sync": "send to MLflow what it lacks of a run",
    "ui": "open MLflow's page, to compare runs",
}
"""Commands and their one-line help; each is a function of ``kit.cli.commands``."""

_MODULES = {
    "data": "data",
    "finetune": "runs",
    "plan": "runs",
    "evaluate": "checkpoints",
    "forecast": "checkpoints",
    "ensemble": "checkpoints",
    "export": "checkpoints",
    "verify": "checkpoints",
    "plot": "checkpoints",
    "compare": "comparison",
    "report": "comparison",
    "doctor": "machine",
    "bench": "machine",
    "sync": "machine",
    "ui": "machine",
}
"""The module of ``kit.cli.commands`` that a command's function is in, by the command's first word."""

_USER_ERROR, _DEFECT = 2, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help", "help"}:
        _write(sys.stdout if words else sys.stderr, _overview())
        return 0 if words else _USER_ERROR
    if words == ["--version"]:
        _write(sys.stdout, _version())
        return 0
    command = next((name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()), None)
    if command is None:
        return _unknown(words)
    return _run(command, words[command.count(" ") + 1 :])


def _run(command: str, arguments: Sequence[str]) -> int:
    """Run a command; turn whatever ends it into an exit code and a message."""
    for argument in arguments:
        remember(argument)
    # Whatever anybody prints, tracebacks and libraries' warnings too, goes through the mask.
    with redirect_stderr(cast("TextIO", StandardError())):
        try:
            with _terminable():
                outcome = _call(command, arguments)
                _present(outcome)
                return outcome.exit_code
        except KitError as error:
            return _fail(f"kit {command}: {error}")
        except KeyboardInterrupt as stop:
            number = signal.Signals(stop.args[0]) if stop.args else signal.SIGINT
            _write(sys.stderr, f"kit {command}: stopped by {number.name}")
            return 128 + number
        except Exception as error:  # noqa: BLE001 - the one place where every failure is turned into an exit code
            return _fail_for(command, error)


def _call(command: str, arguments: Sequence[str]) -> Outcome:
    help_asked = any(argument in {"-h", "--help"} for argument in arguments)
    # Libraries print; standard output is kept for the result alone.
    with redirect_stdout(sys.stdout if help_asked else sys.stderr):
        from kit.cli.views.progress import DownloadProgress, log_to_screen
        from kit.io.progress import watched

        log_to_screen()
        with watched(DownloadProgress):
            module = import_module(f"kit.cli.commands.{_MODULES[command.split(maxsplit=1)[0]]}")
            outcome: Outcome = getattr(module, command.replace(" ", "_"))(arguments)
    return outcome


def _present(outcome: Outcome) -> None:
    # Before it is laid out: a column could break a secret into two lines.
    result = scrub_all(outcome.result)
    if outcome.as_json:
        import json

        _write(sys.stdout, json.dumps(_plain(result), allow_nan=False))
    else:
        outcome.show(result)


def _plain(value: Any) -> Any:
    """Turn a result into what JSON knows; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, and a terminal that closes, end a command as Ctrl-C does: through every ``finally``."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    # What is ignored, as under nohup, stays so.
    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail_for(command: str, error: Exception) -> int:
    cause = refusal_of(error)
    if cause is None:
        import traceback

        traceback.print_exception(error)
        _write(sys.stderr, _report(command))
        return _DEFECT
    return _fail(f"kit {command}: {cause}")


def _fail(message: str) -> int:
    _write(sys.stderr, message)
    return _USER_ERROR


def _unknown(words: Sequence[str]) -> int:
    group = [name for name in COMMANDS if name.split()[0] == words[0]]
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        _write(sys.stdout if len(words) > 1 else sys.stderr, _listing(group))
        return 0 if len(words) > 1 else _USER_ERROR
    said = " ".join(words[:2] if group else words[:1])
    close = near_names(said, COMMANDS) or group or list(COMMANDS)
    return _fail(f"kit: there is no command {said!r}; did you mean {' or '.join(close)}? See kit --help")


def _overview() -> str:
    return (
        "usage: kit COMMAND [options]\n\n"
        "Fine-tune Microsoft's Aurora weather foundation model, reproducibly, on the GPU you have.\n\n"
        f"commands:\n{_listing(COMMANDS)}\n\n"
        "options:\n"
        "  -h, --help   this text; kit COMMAND --help lists a command's settings\n"
        "  --version    the versions of the kit and of Python\n\n"
        "Settings come from the command line, then KIT_* variables (KIT_TRAIN__STEPS is train.steps), then\n"
        "--config FILE.toml, then --recipe NAME, then defaults. With --json the result goes to standard output;\n"
        "all else goes to standard error. KIT_CACHE is the folder for fetched files and built stores; KIT_WEIGHTS\n"
        "names folders in which the weights that a checkpoint belongs to are looked for by their hash; KIT_REGISTRY\n"
        "is the file of your own registry entries and pins; with KIT_OFFLINE=1 nothing is fetched.\n"
        "Exit codes: 0 done, 2 something you can mend, 1 a defect of the kit, 128 + N stopped by signal N."
    )


def _listing(names: Sequence[str] | Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<12} {COMMANDS[name]}" for name in names)


def _version() -> str:
    import platform

    from kit import __version__

    return f"kit {__version__}, Python {platform.python_version()}"


def _report(command: str) -> str:
    import platform
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "microsoft-aurora"))
    return (
        f"\nkit {command}: this is a defect of the kit, not of your settings. Please report it with the traceback "
        f"above and this line:\n{_version()}, {packages}, {platform.platform()}; command: kit {command}"
    )


def _write(stream: TextIO, text: str) -> None:
    out = StandardError() if stream is sys.stderr else stream
    out.write(f"{text}\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
