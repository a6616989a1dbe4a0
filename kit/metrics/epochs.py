"""Training losses by epoch: what a run says of its training, in the place of the losses of single batches."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class EpochLosses:
    """Mean training losses of the first and the last epoch, over the same pairs.

    Attributes:
        first: Mean over the steps of the first epoch.
        last: Mean over the steps of the last complete epoch; of a run that is shorter than an epoch both are the mean
            over all of its steps.
        epochs: Number of complete epochs.
    """

    first: float
    last: float
    epochs: int

    def __str__(self) -> str:
        if self.epochs > 1:
            return f"{self.first:.4g} -> {self.last:.4g} (means of epochs 1 and {self.epochs})"
        return f"{self.first:.4g} (mean of {'epoch 1' if self.epochs else 'less than an epoch'})"


def epoch_losses(records: Iterable[Mapping[str, Any]]) -> EpochLosses | None:
    """Take the mean losses of the first and the last complete epoch.

    Args:
        records: Lines of ``metrics.jsonl``; those of the kind ``train`` count, with ``loss`` and ``epoch``, the passes
            over the training pairs that end with their step, such as 1.5.

    Returns:
        The means; None where no step has a finite loss and says its epoch.
    """
    losses: dict[int, list[float]] = defaultdict(list)
    complete = 0
    for record in records:
        loss, epoch = record.get("loss"), record.get("epoch")
        if record.get("kind") != "train" or loss is None or epoch is None or not math.isfinite(loss):
            continue
        # The step that ends the second pass says 2.0, and belongs to it.
        number = math.ceil(epoch)
        losses[number].append(loss)
        if epoch == number:
            complete = max(complete, number)
    if not losses:
        return None
    if complete == 0:
        mean = fmean(loss for of_one in losses.values() for loss in of_one)
        return EpochLosses(mean, mean, 0)
    # A damaged log may lack all of the first epoch.
    return EpochLosses(fmean(losses[min(losses)]), fmean(losses[complete]), complete)
