"""What tests of ensembles share."""

from __future__ import annotations

from pathlib import Path

from kit.io.hashes import sha256_of_file

__all__ = ["COMMAND", "hashes"]

COMMAND = "import sys; from kit.cli.main import main; sys.exit(main(['ensemble', *sys.argv[1:]]))"
"""``kit ensemble`` in a process of its own."""


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it."""
    return {str(file.relative_to(out)): sha256_of_file(file) for file in sorted(out.rglob("*")) if file.is_file()}
