"""Replay buffer: long roll-outs, one graded step at a time.

As in the roll-out fine-tuning of Aurora (Bodnar et al. 2025, supplement D.4): the buffer begins with states from the
data; a training step draws some, predicts one step, takes the loss of it, and puts the prediction back in the place of
the state that it was made from; from time to time a fresh state from the data replaces one. So the model is trained on
its own predictions, many steps old, at the price of a step without a roll-out.

A state from the data is read when it is drawn for the first time: only what holds predictions takes memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from aurora import Batch

from kit.data.dataset import Pair, concatenate, moved
from kit.data.loader import read_ahead
from kit.io.errors import CheckpointError, SettingsError, StoreError
from kit.models.space import TrainingSpace
from kit.train.loss import FieldLoss
from kit.train.settings import RolloutSettings
from kit.train.task import Observer, StepLoss, unobserved
from kit.train.tasks.forecast import ForecastTask, step_loss
from kit.train.tasks.pairs import TaskData
from kit.train.tasks.replay_sampler import Draw, draws
from kit.train.tasks.replay_storage import DiskStorage, HostStorage, ReplayItem

_FOLDER = Path("resume") / "replay"


@dataclass(frozen=True)
class ReplayBatch(Pair):
    """Items of the buffer, all of one age, and their targets.

    Attributes:
        take_back: Takes the next input states, on the CPU; None where no item goes on.
    """

    take_back: Callable[[Batch], None] | None = None


class ReplayTask(ForecastTask):
    """Predict one step from items of a replay buffer, and put the predictions back.

    Args:
        space: The model, and the space that losses are taken in.
        loss_fn: Compares a prediction with its target.
        rollout: Length of the roll-outs, and the buffer.
        data: Pairs of the run; None where steps are taken on batches from elsewhere.
        buffer: Items that are drawn; None where there are no data.
    """

    def __init__(
        self,
        space: TrainingSpace,
        loss_fn: FieldLoss,
        rollout: RolloutSettings,
        data: TaskData | None,
        buffer: ReplayBuffer | None,
    ) -> None:
        super().__init__(space, loss_fn, rollout, data)
        self._items = buffer

    @property
    def _buffer(self) -> ReplayBuffer:
        assert self._items is not None, "this task was built without data"
        return self._items

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the loss of one step, and put what the model predicts back into the buffer."""
        assert isinstance(batch, ReplayBatch)
        return one_step(self.space, self.loss_fn, batch, self._device, batch.take_back, observe)

    def batches(self, start: int) -> Iterator[Pair]:
        """Draw training batches from a position on."""
        return self._buffer.batches(start, self.data.batches)

    def open(self, folder: Path) -> None:
        """Prepare an empty buffer, in files of ``folder`` if items are kept on disk."""
        self._buffer.open(folder)

    def close(self) -> None:
        """Drop all items."""
        self._buffer.close()

    def save(self, checkpoint: Path) -> None:
        """Write the items that hold predictions into a checkpoint that is being written."""
        self._buffer.save(checkpoint)

    def load(self, checkpoint: Path) -> None:
        """Load the items of a checkpoint.

        Raises:
            CheckpointError: a file is missing or cannot be read.
        """
        self._buffer.load(checkpoint)


def one_step(
    space: TrainingSpace,
    loss_fn: FieldLoss,
    pair: Pair,
    device: torch.device,
    take_back: Callable[[Batch], None] | None = None,
    observe: Observer = unobserved,
) -> Iterator[StepLoss]:
    """Predict one step of a roll-out that is continued at another time, and compare it with its target.

    Args:
        space: The model, and the space that losses are taken in.
        loss_fn: Compares a prediction with its target.
        pair: Input states, which the model may have made itself, and the target of the next step.
        device: Device of the model.
        take_back: Takes the next input states, on the host; None where nobody wants them.
        observe: Looks at prediction and target, before the loss is taken.
    """
    inputs = space.inputs(moved(pair.inputs, device))
    # Inputs may go as soon as they are normalised, as in a step without a buffer.
    fields, prediction = space.step(inputs, release=True)
    if take_back is not None:
        with torch.no_grad():
            # On the host, which has the older states: the device need neither keep nor return them.
            take_back(space.advance(pair.inputs.to("cpu"), prediction.to("cpu")))
    del inputs, prediction
    depth = pair.inputs.metadata.rollout_step
    loss = step_loss(space, loss_fn, depth + 1, fields, moved(pair.target, device), (), observe)
    del fields
    yield dataclasses.replace(loss, depth=depth)


class ReplayBuffer:
    """Items between data and predictions; the source of training batches."""

    def __init__(self, data: TaskData, settings: RolloutSettings, accumulate: int) -> None:
        """Find out how many steps each item can be rolled out.

        Args:
            data: Training pairs, one step apart, and how they are drawn and read.
            settings: Roll-out with a buffer.
            accumulate: Batches in an optimiser step.

        Raises:
            SettingsError: a step would draw more items than there are.
            StoreError: the data end, or have a gap, before any item reaches ``rollout.steps``.
        """
        settings = settings.resolved()
        assert settings.buffer is not None
        assert settings.refresh is not None
        self._size, self._refresh, self._keep = settings.buffer, settings.refresh, settings.keep
        self._data = data
        self._accumulate = accumulate
        # Batches of a step are drawn without putting anything back between them.
        drawn = data.batch_size * accumulate
        if drawn > self._size:
            msg = (
                f"rollout.buffer is {self._size}, but a step draws {drawn} items (data.batch_size x "
                "train.accumulate); make it larger, several times as large for items of all ages"
            )
            raise SettingsError(msg)
        pairs = data.train
        self._following = [pairs.following(index, settings.steps) for index in range(len(pairs))]
        if (longest := max(map(len, self._following))) < settings.steps:
            msg = (
                f"{pairs.store.path}: rollout.steps is {settings.steps}, but no input states in {pairs.period} have "
                f"more than {longest} states after them without a gap; use fewer steps, or a longer period"
            )
            raise StoreError(msg)
        self._storage: HostStorage | DiskStorage = HostStorage()

    def open(self, folder: Path) -> None:
        """Prepare an empty buffer.

        Args:
            folder: Folder for files of items, if they are kept on disk; files that are there are removed.
        """
        self._storage = DiskStorage(folder) if self._keep == "disk" else HostStorage()

    def close(self) -> None:
        """Drop all items."""
        if isinstance(self._storage, DiskStorage):
            self._storage.remove()
        self._storage = HostStorage()

    def save(self, checkpoint: Path) -> None:
        """Write the items that hold predictions into a checkpoint that is being written."""
        self._storage.save(checkpoint / _FOLDER)

    def load(self, checkpoint: Path) -> None:
        """Load the items of a checkpoint.

        Raises:
            CheckpointError: a file is missing or cannot be read.
        """
        if not (checkpoint / _FOLDER).is_dir():
            msg = (
                f"{checkpoint}: cannot be resumed without {_FOLDER}, the items of the replay buffer; start a new run "
                f"with --model.weights {checkpoint}"
            )
            raise CheckpointError(msg)
        self._storage.load(checkpoint / _FOLDER)

    def batches(self, start: int, stop: int) -> Iterator[ReplayBatch]:
        """Draw batches, reading ahead the data that they need.

        Predictions for a batch must be back before the batch after those of the same optimiser step is asked for.

        Args:
            start: Batches drawn before, counted from the beginning of training.
            stop: Batches of the whole training.
        """
        course = draws(
            [len(places) for places in self._following],
            size=self._size,
            refresh=self._refresh,
            batch_size=self._data.batch_size,
            accumulate=self._accumulate,
            seed=self._data.seed,
        )
        # A resumed run finds its place by counting; no draw depends on a prediction, so that data can be read ahead.
        for draw, fresh, target in read_ahead(map(self._read, islice(course, start, stop))):
            inputs = fresh
            if inputs is None:
                slots = zip(draw.slots, draw.pairs, strict=True)
                inputs = concatenate([self._held(slot, pair, draw.depth) for slot, pair in slots])
            # What goes on is put back; what was there before is at its end, or has been replaced by a fresh item.
            for slot in draw.slots:
                self._storage.drop(slot)
            take_back = partial(self._put, draw) if any(draw.goes_on) else None
            yield ReplayBatch(inputs, target, take_back=take_back)

    def _read(self, draw: Draw) -> tuple[Draw, Batch | None, Batch]:
        """Read the data of a draw in a thread of its own: input states where no step was made of them, and targets."""
        pairs, reader = self._data.train, self._data.reader
        places = [self._following[pair][draw.depth] for pair in draw.pairs]
        target = pairs.target(places, reader)
        # States from the data are read when they are drawn for the first time: only predictions take memory.
        return draw, pairs.inputs(draw.pairs, reader) if draw.depth == 0 else None, target

    def _held(self, slot: int, pair: int, depth: int) -> Batch:
        item = self._storage.get(slot)
        assert item is not None, f"slot {slot} of the replay buffer is empty"
        assert (item.pair, item.state.metadata.rollout_step) == (pair, depth), f"slot {slot} holds another item"
        return item.state

    def _put(self, draw: Draw, state: Batch) -> None:
        """Put predictions back, each into the slot that it was made from."""
        for place, (slot, pair, goes_on) in enumerate(zip(draw.slots, draw.pairs, draw.goes_on, strict=True)):
            if goes_on:
                self._storage.put(slot, ReplayItem(pair, _sample(state, place)))


def _sample(batch: Batch, place: int) -> Batch:
    """Take one sample of a batch, in memory of its own where it is one of several."""
    several = len(batch.metadata.time) > 1

    def of_sample(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        taken = {name: value[place : place + 1] for name, value in variables.items()}
        if several:
            # A view would keep the whole batch in memory as long as its last item lives.
            taken = {name: value.clone() for name, value in taken.items()}
        return taken

    metadata = dataclasses.replace(batch.metadata, time=batch.metadata.time[place : place + 1])
    surface, atmospheric = of_sample(batch.surf_vars), of_sample(batch.atmos_vars)
    return dataclasses.replace(batch, surf_vars=surface, atmos_vars=atmospheric, metadata=metadata)
