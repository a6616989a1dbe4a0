"""What saves memory next, by the settings in force alone: for a step that has failed, or that is known to be too much.

A plan knows what its step is made of and can say more (``kit.planning.advice``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kit.memory.settings import MemorySettings, Offload

__all__ = ["Advice", "Situation", "advise", "advise_forecast", "advise_host"]

_BANDS, _MOST_BANDS = 8, 32
_WINDOW_BANDS = 8


@dataclass(frozen=True)
class Advice:
    """Settings to change.

    Attributes:
        options: as they are typed.
        effect: what they do, and what they cost; a saving is exact unless it says otherwise.
    """

    options: str
    effect: str

    def __str__(self) -> str:
        return f"{self.options} ({self.effect})"


@dataclass(frozen=True)
class Situation:
    """The settings that decide what a step holds.

    Attributes:
        memory: settings of memory.
        device: ``cpu`` or ``cuda``.
        autocast: whether the forward pass runs in bf16.
        optimizer: ``optim.name``.
        method: ``adapt.method``.
        batch_size: pairs in a forward pass.
        accumulate: batches in a step.
        graded: steps of a roll-out that have a loss.
        rows: of patches in the grid, more than which there cannot be bands of latitudes; None if unknown.
    """

    memory: MemorySettings
    device: str
    autocast: bool = False
    optimizer: str = "adamw"
    method: str = "full"
    batch_size: int = 1
    accumulate: int = 1
    graded: int = 1
    rows: int | None = None


def advise(now: Situation, *, place: str | None = None, updating: bool = False) -> list[Advice]:
    """Settings of training to try, in this order, each in addition to those before it.

    First what keeps fewer activations, from the cheapest on; then what keeps less of optimiser and weights.

    Args:
        now: the settings in force.
        place: part of the model that ran out of memory (``encoder``, ``backbone``, ``decoder``), if known.
        updating: it happened when gradients were applied, where activations are gone already.
    """
    found = [] if updating else [*_fewer_at_once(now), *_recomputing(now, place)]
    inputs = any("inputs" in advice.options for advice in found)
    offloaded: tuple[Offload, ...] = (*now.memory.offload, "inputs") if inputs else now.memory.offload
    return [*found, *_about_optimizer(now, offloaded), *_about_weights(now)]


def advise_forecast(now: Situation, *, place: str | None = None) -> list[Advice]:
    """Settings of a forecast to try, in this order, each in addition to those before it."""
    found = [Advice("--batch_size 1", "one prediction at a time")] if now.batch_size > 1 else []
    found += _in_bands(now, place)
    if now.autocast and now.memory.frozen_weights == "fp32":
        found.append(Advice("--memory.frozen_weights bf16", "halves the weights of linear layers"))
    return found


def advise_host(memory: MemorySettings, workers: int) -> list[Advice]:
    """What needs less of the host's memory where the step runs on a GPU."""
    found = []
    if workers:
        found.append(Advice("--data.workers 0", "data are read by the training process alone"))
    if memory.offload:
        less = ",".join(memory.offload)
        found.append(Advice(f"no --memory.offload {less}", "what it keeps on the host stays on the GPU"))
    return found


def _fewer_at_once(now: Situation) -> Iterator[Advice]:
    # A step in the backward pass cannot wait for the next batch.
    if now.batch_size > 1 and not now.memory.step_in_backward:
        pairs = now.batch_size * now.accumulate
        yield Advice(f"--data.batch_size 1 --train.accumulate {pairs}", "the same pairs in a step, one after the other")


def _recomputing(now: Situation, place: str | None) -> Iterator[Advice]:
    memory = now.memory
    if memory.recompute != "blocks":
        bands = min(_BANDS, now.rows or _BANDS)
        options = "--memory.recompute blocks"
        if memory.latitude_bands < bands:
            options += f" --memory.latitude_bands {bands}"
        yield Advice(options, "what is inside them is computed again in the backward pass; about a third more time")
        bands = max(bands, memory.latitude_bands)
        memory = memory.model_copy(update={"recompute": "blocks", "latitude_bands": bands})
    yield from _in_bands(replace(now, memory=memory), place)
    if now.device == "cuda" and "inputs" not in memory.offload:
        options = f"--memory.offload {','.join((*memory.offload, 'inputs'))}"
        yield Advice(options, "what is kept for the backward pass waits in the host's memory")
    elif now.device == "cpu" and memory.saved_inputs == "fp32":
        yield Advice(
            "--memory.saved_inputs bf16", "halves what is kept for the backward pass; not exact: it is rounded"
        )


def _in_bands(now: Situation, place: str | None) -> list[Advice]:
    """Finer bands of whatever has any, those of the part that ran out first."""
    memory = now.memory
    found: dict[str, Advice] = {}
    bands = min(_BANDS if memory.latitude_bands < _BANDS else _MOST_BANDS, now.rows or _MOST_BANDS)
    if memory.latitude_bands < bands:
        found["latitudes"] = Advice(f"--memory.latitude_bands {bands}", "encoder and decoder in smaller parts")
    if memory.window_bands < _WINDOW_BANDS:
        found["windows"] = Advice(f"--memory.window_bands {_WINDOW_BANDS}", "blocks of the backbone in smaller parts")
    order = ("windows", "latitudes") if place == "backbone" else ("latitudes", "windows")
    return [found[name] for name in order if name in found]


def _about_optimizer(now: Situation, offloaded: tuple[Offload, ...]) -> Iterator[Advice]:
    memory = now.memory
    if now.method != "full" or "optimizer" in memory.offload:
        return
    alone = now.batch_size * now.accumulate == 1 and now.graded == 1
    if now.device == "cpu":
        if alone and not memory.step_in_backward:
            options = "--memory.step_in_backward --optim.clip none"
            yield Advice(options, "gradients are freed one by one; without clipping")
        if now.optimizer != "adafactor":
            yield Advice("--optim.name adafactor", "next to no states of the optimiser; another optimiser than AdamW")
    elif now.optimizer == "adamw" and not memory.step_in_backward:
        options = f"--memory.offload {','.join((*offloaded, 'optimizer'))}"
        effect = "gradients and AdamW's states go to the host; or --optim.name adamw-8bit, which is not exact"
        yield Advice(options, effect)
    elif now.optimizer == "adamw":
        yield Advice("--optim.name adamw-8bit", "a quarter of the optimiser's states; not exact: they are rounded")


def _about_weights(now: Situation) -> Iterator[Advice]:
    method, frozen = now.method, now.memory.frozen_weights
    if method == "full":
        yield Advice("--adapt.method lora", "trains adapters: no gradients and no optimiser for all other weights")
    if method in ("lora", "dora", "adalora") and now.autocast and frozen == "fp32":
        yield Advice("--memory.frozen_weights bf16", "halves the weights that are frozen")
    if method in ("full", "lora", "dora", "adalora"):
        back = " --memory.frozen_weights fp32" if frozen == "bf16" else ""
        yield Advice(f"--adapt.method qlora{back}", "frozen weights in 4 bits; not exact: they are rounded")
