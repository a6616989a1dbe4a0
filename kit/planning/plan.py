"""The plan of a run: what it would need, and which cards have it, before there is any data, weights or GPU."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kit.memory.advice import Advice
from kit.planning.calibration import read_calibration
from kit.planning.cost import CARDS, Card, card_named
from kit.planning.fit import CHOSEN, RESERVE_GIB, advise_step, departs, fit
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace, trace
from kit.planning.workload import Workload, workload_of

# Sizes of GPU memory that are sold, GiB.
_SIZES = (8, 12, 16, 24, 32, 40, 48, 80, 140)
_GIB = 2**30
# Sections of the settings that decide a plan, and are shown with it.
_SECTIONS = {"data", "model", "adapt", "memory", "optim", "train", "rollout"}


@dataclass(frozen=True)
class Plan:
    """What a run would need.

    Attributes:
        settings: Settings of the run; where ``memory.fit`` was given, with the memory settings that it chose.
        workload: The model, and what it reads: latitudes and longitudes in degrees, levels in hPa.
        trace: Trace of one step: memory in bytes, arithmetic in floating-point operations, its own time in seconds.
        card: Card to estimate the time of a step for; None where none was asked for.
        cards: Cards that are known, by name, with efficiencies that were measured where a calibration is given.
        inexact: What makes the run depart from the arithmetic of plain fine-tuning, a sentence each; empty where
            nothing does.
        notes: Where the plan departs from the run, a sentence each.
        advice: Settings that would lower the peak, in the order in which to try them, each with its reason. Where the
            plan does not fit, the first is ``memory.fit``, which chooses among them.
    """

    settings: PlanSettings
    workload: Workload
    trace: Trace
    card: Card | None
    cards: Mapping[str, Card]
    inexact: tuple[str, ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def needed_gib(self) -> float:
        """Memory that a card must have, GiB: the peak and the reserve."""
        return self.trace.peak.bytes / _GIB + RESERVE_GIB

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit plan --json`` prints.

        Keys that end in ``_gib``, ``breakdown`` and ``phases`` are in GiB, ``levels`` in hPa, ``grid`` in points,
        ``step_seconds`` and ``trace_seconds`` in seconds, ``flops_per_step`` in floating-point operations, and
        ``bytes_moved`` in bytes that kernels read and write. ``efficiency`` is the share of the card's best rates that
        the estimate is made with.
        """
        traced, peak = self.trace, self.trace.peak
        network = None if self.workload.diffusion is None else self.workload.diffusion.settings
        sections = _SECTIONS if network is None else {*_SECTIONS, "task", "diffusion"}
        settings = self.settings.model_dump(mode="json", include=sections)
        if self.settings.grid is not None:
            del settings["data"]["store"]
        trains, total = traced.parameters
        cards = {}
        for card in self.cards.values():
            seconds = float(f"{traced.cost.seconds(card):.3g}")
            cards[card.name] = {"fits": self.needed_gib <= card.memory_gib, "step_seconds": seconds}
        name, seconds_on_card, efficiency = None, None, None
        if self.card is not None:
            name = self.card.name
            seconds_on_card = cards[name]["step_seconds"]
            efficiency = asdict(self.card.efficiency)
        return {
            "variant": self.workload.spec.variant,
            "grid": list(self.workload.shape),
            "levels": list(self.workload.selection.levels),
            "method": self.settings.adapt.method,
            "draws": None if network is None else network.of,
            "network": None if network is None else network.network,
            "forecast": self.settings.forecast,
            "settings": settings,
            "peak_gib": _gib(peak.bytes),
            "reserve_gib": RESERVE_GIB,
            "host_gib": _gib(traced.host_bytes),
            "exact": not self.inexact,
            "inexact": list(self.inexact),
            "notes": list(self.notes),
            "breakdown": {category: _gib(size) for category, size in peak.breakdown.items()},
            "workspace_gib": _gib(peak.workspace),
            "peak_at": {"module": peak.where, "phase": peak.phase},
            "phases": {phase: _gib(size) for phase, size in traced.phases.items()},
            "trainable_parameters": trains,
            "total_parameters": total,
            "flops_per_step": traced.cost.flops,
            "bytes_moved": traced.cost.bytes_moved,
            "fits": {f"{size}GiB": self.needed_gib <= size for size in _SIZES},
            "cards": cards,
            "card": name,
            "step_seconds": seconds_on_card,
            "efficiency": efficiency,
            "advice": list(self.advice),
            "trace_seconds": round(traced.seconds, 2),
        }


def plan(settings: PlanSettings) -> Plan:
    """Plan a run: trace the very step that it would take, without data, weights or a GPU.

    The trainer is built as for training, and takes one step on a simulated GPU; nothing is computed, downloaded or
    written, and the process is left as it was. A plan of the largest model at 0.25 degrees takes less than a minute.

    Args:
        settings: Settings of the run as for ``kit.finetune``, and four more: ``grid``, the size of a global grid
            that stands for a store (by default the store of ``data.store`` is opened), ``card``, the name of a card
            to estimate the time of a step for, ``calibration``, efficiencies that were measured on one, and
            ``forecast``, to plan a prediction instead of a training step.
            With ``memory.fit`` the fastest exact memory settings that stay below it are chosen.

    Returns:
        The plan; ``to_dict`` gives it in GiB and seconds, as ``kit plan --json`` prints it.

    Raises:
        KitError: training would be refused, ``memory.fit`` is too little, or the card is unknown.
    """
    cards = _known_cards(settings)
    card = cards[card_named(settings.card).name] if settings.card else None
    workload = workload_of(settings)
    notes = []
    if settings.memory.compile and not settings.forecast:
        notes.append("memory.compile is planned without compilation, which needs less memory and less time")
    if settings.optim.name == "adamw-8bit" and not settings.forecast:
        notes.append(
            "optim.name adamw-8bit is planned without compilation, with a few copies of one parameter at a time"
        )
    cached = settings.diffusion.has_operator and settings.diffusion.forecasts == "cached"
    if workload.diffusion is not None and cached and not settings.forecast:
        notes.append("the operator's forecasts are made before: kit plan --forecast --task.name forecast plans those")
    if settings.train.device == "cpu":
        notes.append("train.device cpu: the plan is that of a GPU")
    fitted = None
    if settings.memory.fit is None:
        traced = trace(settings, workload, forecast=settings.forecast)
    else:
        fitted = fit(settings, workload)
        notes.append(f"memory.fit {settings.memory.fit} chose {fitted}")
        settings, traced = settings.model_copy(update={"memory": fitted.memory}), fitted.trace
    planned = Plan(settings, workload, traced, card, cards, tuple(inexact(settings)), tuple(notes), ())
    advice = advise_step(settings, workload, traced)
    # What was fitted already cannot be fitted better.
    if fitted is None:
        advice = [*_advise_fit(planned), *advice]
    return replace(planned, advice=tuple(advice))


def _known_cards(settings: PlanSettings) -> Mapping[str, Card]:
    """Return all cards, one of them as it was measured where a calibration is given."""
    if settings.calibration is None:
        return CARDS
    name, efficiency = read_calibration(settings.calibration)
    measured = replace(card_named(name), efficiency=efficiency)
    return {**CARDS, measured.name: measured}


def _advise_fit(planned: Plan) -> Iterator[str]:
    """Name the one setting that chooses the others, if the card that is asked for, or some card, is too small."""
    cards = planned.cards.values() if planned.card is None else [planned.card]
    too_small = [card for card in cards if card.memory_gib < planned.needed_gib]
    if not too_small:
        return
    # The largest of them: the less has to be saved, the faster the step.
    card = max(too_small, key=lambda one: one.memory_gib)
    effect = f"chooses the fastest exact settings that stay below the memory of {card.name}, or says what is missing"
    given = [f"--memory.{name}" for name in CHOSEN if departs(planned.settings.memory, name)]
    if given:
        effect += f"; in the place of {', '.join(given)}"
    yield str(Advice(f"--memory.fit {card.memory_gib:g}GiB", effect))


def inexact(settings: PlanSettings) -> Iterator[str]:
    """Say what makes a run depart from the arithmetic of plain fine-tuning."""
    if settings.forecast:
        return
    if settings.memory.saved_inputs == "bf16":
        yield "memory.saved_inputs bf16 recomputes from rounded inputs"
    if settings.optim.name == "adamw-8bit":
        yield "optim.name adamw-8bit rounds the optimiser's moments"
    if settings.optim.name == "adafactor":
        yield "optim.name adafactor replaces the optimiser's moments by sums over rows and columns"
    if settings.adapt.method == "qlora":
        yield "adapt.method qlora rounds the frozen weights to 4 bits"


def _gib(size: int) -> float:
    return round(size / _GIB, 3)
