"""Write the manual's reference of commands: what ``kit COMMAND --help`` prints, for each of them.

python ci/commands_page.py docs/commands.md
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from kit.cli.main import COMMANDS, main

_WIDTH = "84"
_HEAD = """# Commands

What `kit COMMAND --help` prints, as of this version. Settings come from the command line, then `KIT_*` environment
variables (`KIT_TRAIN__STEPS` is `train.steps`), then `--config FILE.toml`, then `--recipe NAME`, then the defaults.
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, _block(["--help"]), *(_section(command) for command in COMMANDS)])


def _section(command: str) -> str:
    return f"## kit {command}\n\n" + _block([*command.split(), "--help"])


def _block(words: list[str]) -> str:
    printed = io.StringIO()
    # The parser of a command ends the process after its help; the overview returns.
    with redirect_stdout(printed), suppress(SystemExit):
        main(words)
    if not printed.getvalue():
        msg = f"kit {' '.join(words)} printed nothing"
        raise RuntimeError(msg)
    return f"```text\n{printed.getvalue().rstrip()}\n```\n"


if __name__ == "__main__":
    os.environ["COLUMNS"] = _WIDTH
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
