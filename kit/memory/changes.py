"""Changes of memory settings in the middle of a run: which of them leave the arithmetic as it was.

``docs/benchmarks.md`` measures it: under the settings that are exact, predictions are the same and gradients differ by
the order of sums alone, so that a run may go on with others of them. It is then no longer the same to the last bit.
"""

from collections.abc import Mapping
from typing import Any

# What each of the others changes; a setting that is not listed here is exact.
_INEXACT = {
    "saved_inputs": "it rounds what is computed again, and with it the gradients",
    "compile": "it changes the last bits of predictions",
}
# With rounded inputs, what is computed again, and from where, decides what is rounded.
_ROUNDED = ("latitude_bands", "window_bands", "recompute", "stages")


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the memory settings that differ between two dumps; one that the older lacks is none of them."""
    return [name for name, value in before.items() if name in now and now[name] != value]


def why_inexact(name: str, now: Mapping[str, Any]) -> str | None:
    """Explain why a run cannot go on with another value of a memory setting; None if it can.

    Args:
        name: Setting that has changed, such as ``recompute``.
        now: Dump of the memory settings that are in force now.
    """
    if name in _ROUNDED and now["saved_inputs"] == "bf16":
        return "with memory.saved_inputs bf16 it decides what is rounded"
    return _INEXACT.get(name)
