"""Events that an ensemble gives probabilities of: a variable reaches a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

from kit.config.suggestions import near_names
from kit.io.errors import SettingsError
from kit.metrics.contingency import MM_PER_M, THRESHOLDS_MM
from kit.verification.threshold_settings import THRESHOLD, Thresholds

REACHES = ">="
"""What stands between a channel and a threshold in the name of an event."""


@dataclass(frozen=True)
class Exceedance:
    """A channel reaches a threshold.

    Attributes:
        channel: Variable at the surface or on a level.
        label: Threshold as it is written in names of scores: ``1mm`` of rain, ``273.15`` of others.
        value: Threshold in the store's unit.
    """

    channel: str
    label: str
    value: float

    @property
    def name(self) -> str:
        """Name among all exceedances."""
        return f"{self.channel}{REACHES}{self.label}"


def exceedances(given: Thresholds, channels: Sequence[str], rain: Sequence[str]) -> list[Exceedance]:
    """List the events that are scored: those that are asked for, and rain of the usual amounts.

    Args:
        given: Thresholds by channel, in the channel's unit, of rain in millimetres.
        channels: Channels that are scored.
        rain: Those of them that are rain, in metres.

    Raises:
        SettingsError: a channel is not scored, is named twice, or a unit is lacking or too many.
    """
    asked = {name: tuple(f"{amount:g}mm" for amount in THRESHOLDS_MM) for name in rain}
    named = [name for name, _ in given]
    found = []
    for name, texts in given:
        if name not in channels:
            near = near_names(name, list(channels)) or list(channels)
            msg = f"thresholds: {name!r} is not scored; there are {', '.join(near[:12])}"
            raise SettingsError(msg)
        if named.count(name) > 1:
            msg = f"thresholds: {name} is given twice; write all of its numbers together: {name}=1/2"
            raise SettingsError(msg)
        asked[name] = texts
    for name, texts in asked.items():
        for text in dict.fromkeys(texts):
            parsed = THRESHOLD.fullmatch(text)
            assert parsed is not None, "read by the settings"
            if (parsed[2] is not None) != (name in rain):
                wanted = f"millimetres, such as {name}=1mm" if name in rain else f"its unit alone, such as {name}=280"
                msg = f"thresholds: {name}={text}: thresholds of {name} are written in {wanted}"
                raise SettingsError(msg)
            number = float(parsed[1])
            label = f"{number:g}mm" if name in rain else f"{number:.10g}"
            found.append(Exceedance(name, label, number / MM_PER_M if name in rain else number))
    return found
