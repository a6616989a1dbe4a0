"""Suite ``card``: the planner's peak and time beside those of steps on this machine's GPU, and forecasts beside both.

What is found calibrates the planner: ``kit plan --calibration FILE`` reads the efficiencies of the last row. Without a
GPU, steps are counted and timed on the CPU, where the planned times of a card mean nothing.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from kit.bench.configurations import StepMeasurement, by_kit, forecast, measure, upstreams_loop
from kit.bench.planning import BenchPlanner
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.workload import Case, make_case
from kit.data.dataset import collate
from kit.memory.device import choose_device
from kit.planning.calibration import calibrate_card
from kit.planning.cost import Card, Cost, card_like, card_named
from kit.planning.plan import Plan
from kit.planning.settings import GridSize

_logger = logging.getLogger(__name__)

_GRID = GridSize(721, 1440)
_GIB = 2**30
_SMALL, _LARGE = "small", "pretrained"
_BANDS = "--memory.latitude_bands 8"
_TIGHT = "--memory.recompute blocks --memory.latitude_bands 24 --memory.window_bands 4"
STEPS = (
    (_SMALL, ""),
    (_SMALL, _BANDS),
    (_SMALL, f"--memory.recompute selective {_BANDS}"),
    (_SMALL, f"--memory.recompute blocks --memory.stages 1 {_BANDS}"),
    (_SMALL, f"--memory.recompute blocks {_BANDS}"),
    (_SMALL, _TIGHT),
    (_SMALL, f"{_TIGHT} --memory.offload inputs"),
    (_SMALL, f"--train.precision fp32 --memory.recompute blocks {_BANDS}"),
    (_SMALL, f"--adapt.method lora --memory.recompute blocks {_BANDS}"),
    (_LARGE, _TIGHT),
    (_LARGE, f"--adapt.method lora {_TIGHT}"),
    (_LARGE, "--forecast --memory.latitude_bands 24 --memory.window_bands 6"),
)
"""Variant, and settings of a step, as on the command line."""
_MEMBERS = (1, 4)
# Points along a side of a patch, of every variant that is measured.
_PATCH = 4


@dataclass(frozen=True)
class _Step:
    """A step that is planned and taken."""

    variant: str
    words: str
    plan: Plan

    @property
    def name(self) -> str:
        return f"{self.variant} {self.words}".strip()


def run(settings: BenchSettings) -> list[BenchRow]:
    """Plan steps, take them, and fit the efficiencies of the card to them."""
    device, grid = choose_device(settings.device), settings.grid or _GRID
    card = card_of(settings, device)
    planner, steps = BenchPlanner(grid), []
    # On another grid than its own, the suite takes another model, too: it is tried, and nothing is judged.
    other = None if settings.grid is None else settings.variant
    for variant, wanted in STEPS:
        chosen, words = other or variant, _within(wanted, grid)
        steps.append(_Step(chosen, words, planner.plan(f"--model.variant {chosen} {words}".strip())))
    rows: list[BenchRow] = []
    costs: list[Cost] = []
    seconds: list[float] = []
    for variant in dict.fromkeys(step.variant for step in steps):
        case = make_case(variant, grid, device, autocast=True)
        for step in (step for step in steps if step.variant == variant):
            found = _taken(step, case, card, settings.repeats)
            rows.append(_row(step, found, card, device))
            if found is not None:
                costs.append(step.plan.trace.cost)
                seconds.append(found.whole)
        rows += _beside_upstream(case, card, settings.repeats)
        rows += [*_members(case, settings.repeats), _loading(case)]
        del case
    return [*rows, _calibration(card, costs, seconds, device)]


def _within(words: str, grid: GridSize) -> str:
    """Have no more bands of latitudes than a small grid has rows of patches."""
    rows = grid.rows // _PATCH
    return re.sub(r"(?<=latitude_bands )\d+", lambda found: str(min(int(found[0]), rows)), words)


def card_of(settings: BenchSettings, device: torch.device) -> Card:
    """Tell which card steps are taken on; on a CPU, the one that is asked for."""
    if device.type == "cuda":
        return card_like(torch.cuda.get_device_name(device))
    return card_named(settings.card)


def _taken(step: _Step, case: Case, card: Card, repeats: int) -> StepMeasurement | None:
    """Take a step, if the card has the memory."""
    if case.device.type == "cuda" and step.plan.needed_gib > card.memory_gib:
        return None
    _logger.info("card: %s", step.name)
    settings = step.plan.settings
    own = replace(case, autocast=settings.train.precision != "fp32")
    way = forecast(step.name, settings) if settings.forecast else by_kit(step.name, settings)
    return measure([way], own, repeats, count=case.device.type != "cuda")[step.name]


def _row(step: _Step, found: StepMeasurement | None, card: Card, device: torch.device) -> BenchRow:
    planned, estimate = step.plan.trace.peak.bytes, step.plan.trace.cost.seconds(card)
    more = {
        "planned_gib": rounded(planned / _GIB),
        "estimate_seconds": rounded(estimate),
        "bytes_moved": step.plan.trace.cost.bytes_moved,
        "command": f"kit plan {step.name}",
    }
    if found is None:
        return BenchRow(step.name, None, "s", more={**more, "left_out": f"needs {step.plan.needed_gib:.1f} GiB"})
    held = found.cuda_bytes if found.peak is None else found.peak.bytes
    assert held is not None
    more |= {"peak_gib": rounded(held / _GIB), "peak_ratio": rounded(planned / held)}
    # An estimate for a card says nothing of a CPU's time.
    baseline = estimate if device.type == "cuda" else None
    return BenchRow(step.name, found.whole, "s", baseline, more=more)


def _beside_upstream(case: Case, card: Card, repeats: int) -> Iterator[BenchRow]:
    """Take upstream's step beside the kit's, in turns, where the card has the memory for it."""
    grid = GridSize(*case.pair.inputs.spatial_shape)
    upstream = BenchPlanner(grid).plan(f"--model.variant {case.spec.variant} --memory.recompute upstream")
    if case.device.type == "cuda" and upstream.needed_gib > card.memory_gib:
        return
    words = f"--model.variant {case.spec.variant} {_within(_TIGHT, grid)}"
    ways = [upstreams_loop(), by_kit("kit", BenchPlanner(grid).plan(words).settings)]
    taken = measure(ways, case, repeats, count=False)
    ours, theirs = taken["kit"].whole, taken[ways[0].name].whole
    yield BenchRow(f"{case.spec.variant} {_within(_TIGHT, grid)}, beside upstream's loop", ours, "s", theirs)


def _members(case: Case, repeats: int) -> Iterator[BenchRow]:
    """Predict several members in a pass."""
    for members in _MEMBERS:
        several = replace(case, pairs=(collate([case.pair] * members),))
        name = f"{case.spec.variant} forecast, {members} in a pass"
        settings = BenchPlanner(GridSize(*case.pair.inputs.spatial_shape)).plan(
            f"--model.variant {case.spec.variant} --forecast"
        )
        found = measure([forecast(name, settings.settings)], several, repeats, count=False)[name]
        each = found.whole / members
        yield BenchRow(name, each, "s a member", more={"members_per_second": rounded(1 / each)})


def _loading(case: Case) -> BenchRow:
    """Copy a pair to the device, as training does."""
    size = sum(tensor.nbytes for tensor in case.tensors())
    case.clock()
    started = time.perf_counter()
    case.pair.to(case.device)
    taken = case.clock() - started
    return BenchRow(
        f"{case.spec.variant}, a pair to the device", taken, "s", more={"gb_s": rounded(size / taken / 1e9)}
    )


def _calibration(card: Card, costs: Sequence[Cost], seconds: Sequence[float], device: torch.device) -> BenchRow:
    """Fit the card's efficiencies; a CPU's times are no card's."""
    name = "calibration"
    if device.type != "cuda":
        return BenchRow(name, None, "of its time", more={"left_out": "measured on a CPU"})
    efficiency = calibrate_card(card, costs, seconds)
    fitted = replace(card, efficiency=efficiency)
    far = [abs(cost.seconds(fitted) / taken - 1) for cost, taken in zip(costs, seconds, strict=True)]
    values = {kind: float(f"{value:.3g}") for kind, value in asdict(efficiency).items()}
    return BenchRow(name, max(far), "of its time, at most", more={"calibration": {"card": card.name, **values}})
