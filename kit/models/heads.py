"""Heads for quantities that one number describes badly: two-part and quantile.

A head adds output-only channels beside the channel of its variable. They are derived here, as version 1.5's and
the wave model's are: no store holds them.

- ``two-part``: whether it rains, as a logit, and how much where it does. Over dry land the amount has no say, so
  that it need not shrink towards zero.
- ``quantile``: one channel for each order; the variable's own is the median. Predictions are sorted, so that the
  quantiles never cross (rearrangement; Chernozhukov, Fernandez-Val and Galichon 2010, Econometrica 78).

Dimensions: B batch, H latitude, W longitude.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from kit.io.errors import SettingsError
from kit.models.transforms import PRECIPITATION
from kit.models.variants import drop_names

RAIN_M = 1e-4
"""From this amount in a step on, in metres, it rains: 0.1 mm, what a gauge can measure."""

_ORDERS = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEDIAN = 0.5


@dataclass(frozen=True)
class TwoPart:
    """Occurrence and amount."""

    def __str__(self) -> str:
        return "two-part"

    def channels(self, name: str) -> tuple[str, ...]:
        """Name the output-only channels besides the variable's own."""
        return (f"{name}_occurrence",)

    def statistics(self, own: tuple[float, float]) -> tuple[float, float]:  # noqa: ARG002
        """Return location and scale of these channels: a logit is as it is."""
        return 0.0, 1.0

    def targets(
        self, name: str, encoded_BHW: torch.Tensor, physical_BHW: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Make the targets of the channels, and masks.

        Args:
            name: the variable.
            encoded_BHW: its target in training space.
            physical_BHW: the same in metres.

        Returns:
            Occurrence, 0 or 1, and NaN where the target is missing, so that it stays loud; where the amount counts.
        """
        # NaN compares false: a missing value is left out of the amount's mask, and its occurrence is NaN.
        rains = physical_BHW >= RAIN_M
        occurrence = rains.to(encoded_BHW.dtype).where(physical_BHW.isfinite(), torch.nan)
        return {name: encoded_BHW, f"{name}_occurrence": occurrence}, {name: rains}

    def arranged(self, name: str, heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Select the channels that are scored."""
        return {key: heads[key] for key in (name, *self.channels(name))}

    def physical(self, name: str, decoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Predict the amount where it is more likely than not to rain, else 0, and the probability that it does.

        Args:
            name: the variable.
            decoded: its amount in metres and the logit, of one shape.
        """
        logit = decoded[f"{name}_occurrence"]
        amount = decoded[name]
        # A NaN is not below zero either: it stays.
        return {name: amount.where(~(logit < 0), 0.0), f"{name}_occurrence": torch.sigmoid(logit)}


@dataclass(frozen=True)
class Quantiles:
    """Quantiles in increasing order, the median among them.

    Attributes:
        orders: in (0, 1).
    """

    orders: tuple[float, ...] = _ORDERS

    def __str__(self) -> str:
        return "quantile:" + ",".join(f"{order:g}" for order in self.orders)

    def channels(self, name: str) -> tuple[str, ...]:
        """Name the output-only channels besides the variable's own, such as ``tp_q95`` and ``tp_q2_5``."""
        return drop_names(self.keys(name), (name,))

    def keys(self, name: str) -> tuple[str, ...]:
        """Name the channel of each order."""
        keys = [f"{name}_q{100 * order:g}".replace(".", "_") for order in self.orders]
        keys[self.orders.index(_MEDIAN)] = name
        return tuple(keys)

    def statistics(self, own: tuple[float, float]) -> tuple[float, float]:
        """Return location and scale of these channels: the variable's own."""
        return own

    def targets(
        self,
        name: str,
        encoded_BHW: torch.Tensor,
        physical_BHW: torch.Tensor,  # noqa: ARG002
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Make the same target for every order."""
        return dict.fromkeys(self.keys(name), encoded_BHW), {}

    def arranged(self, name: str, heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sort the channels as they are scored: from the lowest order to the highest."""
        keys = self.keys(name)
        # Before the loss as well, so that each order is compared with what will be its prediction.
        ordered = torch.stack([heads[key] for key in keys]).sort(dim=0).values
        return dict(zip(keys, ordered.unbind(), strict=True))

    def physical(self, name: str, decoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the median under the variable's name, and the other quantiles, in the variable's unit."""
        return self.arranged(name, decoded)


Head = TwoPart | Quantiles


def parse_heads(written: Mapping[str, str]) -> dict[str, Head]:
    """Read the heads of a checkpoint or of ``model.heads``: ``two-part``, ``quantile`` or ``quantile:0.1,0.5,0.9``.

    A command line, where commas part one variable from the next, has ``quantile:0.1/0.5/0.9``.

    Raises:
        SettingsError: one of them is none of these, has orders that are no increasing numbers in (0, 1) with 0.5 among
            them, or does not suit its variable; names it.
    """
    heads: dict[str, Head] = {}
    for name, text in written.items():
        kind, colon, given = text.strip().partition(":")
        if kind == "two-part" and not colon:
            heads[name] = TwoPart()
        elif kind != "quantile":
            msg = f"model.heads.{name}: expected two-part, quantile or quantile:0.1,0.5,0.9, got {text!r}"
            raise SettingsError(msg)
        elif not colon:
            heads[name] = Quantiles()
        else:
            try:
                orders = tuple(map(float, given.replace("/", ",").split(",")))
            except ValueError:
                orders = ()
            # NaN among them is in no order and fails as well.
            increasing = all(low < high for low, high in pairwise((0.0, *orders, 1.0)))
            if not (increasing and _MEDIAN in orders):
                msg = (
                    f"model.heads.{name}: expected increasing orders between 0 and 1 with 0.5 among them, the "
                    f"prediction, such as quantile:0.1,0.5,0.9; got {text!r}"
                )
                raise SettingsError(msg)
            heads[name] = Quantiles(orders)
    for name, head in heads.items():
        if isinstance(head, TwoPart) and name not in PRECIPITATION:
            msg = (
                f"model.heads.{name}: two-part asks whether {RAIN_M * 1000:g} mm of rain fall, which is for "
                f"{', '.join(PRECIPITATION)}; use quantile, or no head"
            )
            raise SettingsError(msg)
    return heads
