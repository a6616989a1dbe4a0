"""Settings that save memory, and the texts that say so: for a step that failed, or that is known to be too much.

What is advised depends on the settings in force; for a step that is planned, on what its peak is made of too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.memory.out_of_memory import Shortage, size_text
from kit.memory.settings import MemorySettings

_GIB = 2**30

# Bands that are advised at first, and where there are as many already.
_BANDS, _MOST_BANDS, _WINDOW_BANDS = 8, 32, 8
# Share of a planned peak below which saving it is not worth a word.
_WORTH = 0.05


@dataclass(frozen=True)
class Advice:
    """Settings to change.

    Attributes:
        options: Settings as they are typed.
        effect: What they do, and what they cost; a saving is exact unless it says otherwise.
    """

    options: str
    effect: str

    def __str__(self) -> str:
        return f"{self.options} ({self.effect})"


@dataclass(frozen=True)
class Situation:
    """The settings that decide what a step holds.

    Attributes:
        memory: Settings of memory.
        device: ``cpu`` or ``cuda``.
        autocast: Whether the forward pass runs in bf16.
        optimizer: ``optim.name``.
        method: ``adapt.method``.
        batch_size: Pairs in a forward pass.
        accumulate: Batches in a step.
        losses: Number of steps of a roll-out that have a loss.
        rows: Rows of patches in the grid, the most bands of latitudes that there can be; None if unknown.
    """

    memory: MemorySettings
    device: str
    autocast: bool = False
    optimizer: str = "adamw"
    method: str = "full"
    batch_size: int = 1
    accumulate: int = 1
    losses: int = 1
    rows: int | None = None


def advise(now: Situation, *, place: str | None = None, updating: bool = False) -> list[Advice]:
    """List settings of training to try, in this order, each in addition to those before it.

    First what keeps fewer activations, from the cheapest on; then what keeps less of optimiser and weights.

    Args:
        now: Settings in force.
        place: Part of the model that ran out of memory (``encoder``, ``backbone``, ``decoder``), if known.
        updating: Whether it happened when gradients were applied, where activations are gone already.
    """
    found: list[Advice] = []
    memory = now.memory
    if not updating:
        # A step in the backward pass cannot wait for the next batch.
        if now.batch_size > 1 and not memory.step_in_backward:
            options = f"--data.batch_size 1 --train.accumulate {now.batch_size * now.accumulate}"
            found.append(Advice(options, "the same pairs in a step, one after the other"))
        if memory.recompute != "blocks":
            bands = min(_BANDS, now.rows or _BANDS)
            options = "--memory.recompute blocks"
            if memory.latitude_bands < bands:
                options += f" --memory.latitude_bands {bands}"
            effect = "what is inside them is computed again in the backward pass; about a third more time"
            found.append(Advice(options, effect))
            bands = max(bands, memory.latitude_bands)
            memory = memory.model_copy(update={"recompute": "blocks", "latitude_bands": bands})
        found += _finer_bands(memory, now.rows, place)
        # A CPU's memory is the host's: there is nowhere to go, and only rounding is left.
        if now.device == "cuda" and "inputs" not in memory.offload:
            memory = memory.model_copy(update={"offload": (*memory.offload, "inputs")})
            options = f"--memory.offload {','.join(memory.offload)}"
            found.append(Advice(options, "what is kept for the backward pass waits in the host's memory"))
        elif now.device == "cpu" and memory.saved_inputs == "fp32":
            effect = "halves what is kept for the backward pass; not exact: it is rounded"
            found.append(Advice("--memory.saved_inputs bf16", effect))
    return [*found, *_smaller_optimizer(now, memory), *_smaller_weights(now)]


def _finer_bands(memory: MemorySettings, rows: int | None, place: str | None) -> list[Advice]:
    """Divide what can be divided further, the part that ran out first."""
    latitudes, windows = [], []
    bands = min(_BANDS if memory.latitude_bands < _BANDS else _MOST_BANDS, rows or _MOST_BANDS)
    if memory.latitude_bands < bands:
        latitudes.append(Advice(f"--memory.latitude_bands {bands}", "encoder and decoder in smaller parts"))
    if memory.window_bands < _WINDOW_BANDS:
        windows.append(Advice(f"--memory.window_bands {_WINDOW_BANDS}", "blocks of the backbone in smaller parts"))
    return windows + latitudes if place == "backbone" else latitudes + windows


def _smaller_optimizer(now: Situation, memory: MemorySettings) -> Iterator[Advice]:
    """Hold less of gradients and optimiser, with these settings of memory taken up already."""
    if now.method != "full" or "optimizer" in memory.offload:
        return
    if now.device == "cpu":
        # A step in the backward pass applies each gradient at once: none can be summed over batches or losses.
        if now.batch_size * now.accumulate == 1 and now.losses == 1 and not memory.step_in_backward:
            options = "--memory.step_in_backward --optim.clip none"
            yield Advice(options, "gradients are freed one by one; without clipping")
        if now.optimizer != "adafactor":
            yield Advice("--optim.name adafactor", "next to no states of the optimiser; another optimiser than AdamW")
    elif now.optimizer == "adamw" and not memory.step_in_backward:
        options = f"--memory.offload {','.join((*memory.offload, 'optimizer'))}"
        effect = "gradients and AdamW's states go to the host; or --optim.name adamw-8bit, which is not exact"
        yield Advice(options, effect)
    elif now.optimizer == "adamw":
        yield Advice("--optim.name adamw-8bit", "a quarter of the optimiser's states; not exact: they are rounded")


def _smaller_weights(now: Situation) -> Iterator[Advice]:
    """Train adapters, and hold the frozen weights in fewer bits."""
    frozen = now.memory.frozen_weights
    if now.method == "full":
        yield Advice("--adapt.method lora", "trains adapters: no gradients and no optimiser for all other weights")
    elif now.method not in ("lora", "dora", "adalora"):
        return
    elif now.autocast and frozen == "fp32":
        yield Advice("--memory.frozen_weights bf16", "halves the weights that are frozen")
    options = "--adapt.method qlora"
    if frozen == "bf16":
        options += " --memory.frozen_weights fp32"
    yield Advice(options, "frozen weights in 4 bits; not exact: they are rounded")


def advise_planned(now: Situation, held: Mapping[Any, int], place: str) -> list[Advice]:
    """List settings of training that lower a planned peak; those that would save next to nothing are left out.

    Args:
        now: Settings in force.
        held: Bytes at the peak, by category (``activations``, ``optimizer``, ``gradients`` and others).
        place: Part of the model where the peak is, or ``inputs``, ``loss``, ``optimizer``.
    """
    least = _WORTH * sum(held.values())
    # Where activations are next to nothing, the peak is where gradients are applied.
    found = advise(now, place=place, updating=held["activations"] < least)
    if held["optimizer"] + held["gradients"] > least:
        return found
    return [advice for advice in found if "optim" not in advice.options]


def advise_forecast(now: Situation, *, place: str | None = None) -> list[Advice]:
    """List settings of a forecast to try, in this order, each in addition to those before it."""
    found: list[Advice] = []
    if now.batch_size > 1:
        found.append(Advice("--batch_size 1", "one prediction at a time"))
    found += _finer_bands(now.memory, now.rows, place)
    if now.autocast and now.memory.frozen_weights == "fp32":
        found.append(Advice("--memory.frozen_weights bf16", "halves the weights of linear layers"))
    return found


def explain_training(shortage: Shortage, now: Situation, *, workers: int = 0) -> list[str]:
    """Say what happened in training, and what to change; a line for each.

    Args:
        shortage: What happened.
        now: Settings in force.
        workers: Number of processes that read data.
    """
    if now.device == "cuda" and not shortage.on_gpu:
        found = []
        if workers:
            found.append(Advice("--data.workers 0", "data are read by the training process alone"))
        if now.memory.offload:
            options = f"no --memory.offload {','.join(now.memory.offload)}"
            found.append(Advice(options, "what it keeps on the host stays on the GPU"))
        return _lines(shortage, found)
    lines = _lines(shortage, advise(now, place=shortage.place, updating=shortage.phase == "update"))
    if shortage.capacity is not None and now.memory.fit is None:
        lines.append(f"Or let the planner choose, without them: --memory.fit {shortage.capacity // _GIB}GiB")
    return lines


def explain_forecast(shortage: Shortage, now: Situation) -> str:
    """Say what happened in a forecast, and what to change."""
    return "\n".join(_lines(shortage, advise_forecast(now, place=shortage.place)))


def _lines(shortage: Shortage, advice: Sequence[Advice]) -> list[str]:
    lines = [f"{shortage}."]
    if shortage.fragmented:
        lines.append(
            f"PyTorch holds {size_text(shortage.fragmented)} in pieces that are too small; the environment variable "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True avoids that."
        )
    if not advice:
        lines.append("No setting saves more: choose a smaller region (data.region), a smaller model or another GPU.")
        return lines
    lines.append("These settings save memory; try them in this order, each in addition to those before it:")
    return lines + [f"  {item}" for item in advice]
