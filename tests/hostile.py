"""What an attacker would put into a file."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["Command"]


class Command:
    """Pickles into a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)
