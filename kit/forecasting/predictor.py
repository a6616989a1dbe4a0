"""Models loaded for prediction, with the data to try them on: what scores, figures and forecasts have in common."""

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from aurora import Batch

from kit.checkpoint.folder import Checkpoint
from kit.data.dataset import Pairs
from kit.data.settings import DataSettings, Period
from kit.data.store.build import open_store
from kit.data.store.format import STATIC_PREFIX
from kit.data.store.reader import Store
from kit.diffusion.drawing import DrawingSpace
from kit.diffusion.loading import NetworkCheckpoint
from kit.diffusion.spec import DiffusionSpec
from kit.io.errors import CheckpointError, StoreError
from kit.memory.advice import Situation, explain_forecast
from kit.memory.checks import check_forecast_memory
from kit.memory.device import choose_device, prediction_precision
from kit.memory.out_of_memory import Shortage
from kit.memory.prediction import build_prediction_space
from kit.memory.settings import MemorySettings
from kit.models.noise import NamedNoise
from kit.models.resolve import base_spec, known_to, select
from kit.models.spec import ModelSpec
from kit.models.variants import Precision, Variant, drop_names
from kit.models.weights.load import Weights, load, load_base
from kit.train.denoising import select_states

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """Data, device and precision that a checkpoint is tried with.

    Attributes:
        store: Folder or registry name of another store than the one that the checkpoint was trained on.
        period: Times to predict, UTC; by default the test split that the checkpoint recorded.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        memory: Settings that fit a forecast into the device's memory.
        steps: Model steps from the input states to the state that is predicted.
        seed: Seed of the noise that stochastic models read.
    """

    store: str | None = None
    period: Period | None = None
    device: str = "auto"
    precision: str = "auto"
    memory: MemorySettings = field(default_factory=MemorySettings)
    steps: int = 1
    seed: int = 0

    def out_of_memory(self, shortage: Shortage, batch_size: int = 1) -> str:
        """Describe a lack of memory under these conditions, with settings that help."""
        device = choose_device(self.device)
        # Weights in bf16 are exact in bf16 alone, which has to be asked for where they are not.
        autocast = self.precision == "bf16"
        return explain_forecast(shortage, Situation(self.memory, device.type, autocast, batch_size=batch_size))

    def precision_of(self, variant: Variant) -> Precision:
        """Choose the precision that a variant predicts in under these conditions."""
        return prediction_precision(self.precision, variant, choose_device(self.device), self.memory)


class ForecastSpace(Protocol):
    """A model that forecasts, between physical variables and its own encoding: Aurora's space, or a network's."""

    model: Any
    spec: ModelSpec
    noise: NamedNoise | None

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Variables that may be NaN by right."""

    def inputs(self, state: Batch) -> Batch:
        """Derive the model's channels from physical variables."""

    def step(self, inputs: Batch, *, release: bool = False) -> tuple[Any, Batch]:
        """Predict once: in the space of losses, and in physical units as ``advance`` takes it."""

    def advance(self, state: Batch, prediction: Batch) -> Batch:
        """Make the next input states of a roll-out."""

    def predict(self, state: Batch) -> Batch:
        """Predict physical variables one step ahead."""

    def physical(self, prediction: Batch) -> Batch:
        """Give a prediction a store's names."""


@dataclass(frozen=True)
class Predictor:
    """A model with the data that it is tried on.

    Attributes:
        space: Model, between physical variables and its own encoding.
        pairs: Samples that it is tried on.
        store: Store that they come from.
        precision: Precision that it predicts in.
    """

    space: ForecastSpace
    pairs: Pairs
    store: Store
    precision: Precision = "fp32"


def load_predictor(checkpoint: Checkpoint, conditions: Conditions) -> Predictor:
    """Load a checkpoint for prediction.

    Raises:
        KitError: the checkpoint and the data do not fit together.
    """
    return _load(checkpoint, checkpoint.spec, _own_weights(checkpoint), conditions)


def load_base_predictor(checkpoint: Checkpoint, conditions: Conditions) -> Predictor | None:
    """Load the weights that a checkpoint's training started from; None where they were random.

    What the comparison with them leaves out is logged: variables that are new here, and those that they are without.

    Raises:
        CheckpointError: they are nowhere to be found, have changed, or have nothing to predict from in these data.
    """
    base: dict[str, Any] | None = checkpoint.description["base"]
    if base is None:
        return None
    weights = load_base(base, checkpoint.path, checkpoint.spec.upstream)
    spec = base_spec(checkpoint.spec, weights)
    if remarks := remarks_on_base(checkpoint, spec):
        _logger.warning("the base weights %s", "; ".join(remarks))
    return _load(checkpoint, spec, weights, conditions)


def remarks_on_base(checkpoint: Checkpoint, base: ModelSpec) -> list[str]:
    """Explain in what the base weights' predictions differ from the checkpoint's, besides training.

    Args:
        checkpoint: Checkpoint whose training started from them.
        base: Their model.

    Returns:
        What is said of them, a clause each; nothing where they read and predict what the checkpoint does.

    Raises:
        CheckpointError: of one kind of variable that they read, the checkpoint's data have none.
    """
    spec = checkpoint.spec
    limited = known_to(base, checkpoint.description["data"])
    absent: list[str] = []
    kinds = (
        ("surface variables", "variables", base.upstream.physical(base.surface), ""),
        ("atmospheric variables", "variables", base.atmospheric, ""),
        ("static variables", "statics", base.static, STATIC_PREFIX),
    )
    for kind, key, names, prefix in kinds:
        chosen = limited[key]
        if chosen is None:
            continue
        left = drop_names(names, chosen)
        if len(left) == len(names):
            msg = (
                f"they read the {kind} {', '.join(names)}, and data.{key} of this checkpoint has none of them, so that "
                f"they have nothing to predict from; a run that keeps one of them can be compared, and --no-base "
                "leaves the comparison out"
            )
            raise CheckpointError(msg)
        absent += [prefix + name for name in left]
    own, known = (
        (*model.upstream.physical(model.surface), *model.atmospheric, *(STATIC_PREFIX + name for name in model.static))
        for model in (spec, base)
    )
    new = drop_names(own, known)
    remarks = []
    if new:
        remarks.append(
            f"know nothing of {', '.join(new)}, which this run added: they are scored without, on what both predict"
        )
    if absent:
        remarks.append(
            f"were trained with {', '.join(absent)}, which this run leaves out: they are scored without, and may "
            "predict worse than they can"
        )
    return remarks


def load_forecast_predictor(checkpoint: Checkpoint, conditions: Conditions) -> Predictor:
    """Load a checkpoint for forecasts from the states of a store; its pairs are input states, without targets.

    What the model never reads need not be there.

    Raises:
        KitError: the checkpoint and the data do not fit together.
    """
    return _load(checkpoint, checkpoint.spec, _own_weights(checkpoint), conditions, targets=False)


def _own_weights(checkpoint: Checkpoint) -> Weights | None:
    """Read a checkpoint's weights; None of a network, which is no model of upstream's."""
    spec = checkpoint.spec
    return None if checkpoint.is_network else load(str(checkpoint.path), spec.upstream)


def _load(
    checkpoint: Checkpoint, spec: ModelSpec, weights: Weights | None, conditions: Conditions, *, targets: bool = True
) -> Predictor:
    """Load a model and its data.

    Args:
        checkpoint: Checkpoint that recorded which data it was trained on.
        spec: Model: the checkpoint's own, or that of the weights below it.
        weights: Its weights; None for random ones.
        conditions: Data, device and precision.
        targets: Whether the state that is predicted has to be in the store.
    """
    device = choose_device(conditions.device)
    precision = conditions.precision_of(spec.upstream)
    check_forecast_memory(conditions.memory, autocast=precision == "bf16")
    store = store_of(checkpoint, conditions.store)
    pairs = pairs_of(checkpoint, spec, store, conditions, targets=targets)
    space: ForecastSpace
    if checkpoint.is_network:
        network = NetworkCheckpoint(
            checkpoint, DiffusionSpec.from_dict(checkpoint.description["diffusion"], store.path)
        )
        space = DrawingSpace(network.space(device, autocast=precision == "bf16"), spec)
    else:
        space = build_prediction_space(spec, weights, conditions.memory, device, precision)
    space.noise = NamedNoise(conditions.seed)
    return Predictor(space, pairs, store, precision)


def store_of(checkpoint: Checkpoint, name: str | None) -> Store:
    """Open a store for a checkpoint.

    Args:
        checkpoint: Checkpoint that recorded which store it was trained on.
        name: Folder or registry name of another store; None for the checkpoint's own.

    Raises:
        StoreError: there is no such store.
    """
    try:
        return open_store(name or checkpoint.description["data"]["store"])
    except StoreError as error:
        if name is not None:
            raise
        msg = f"the store that the checkpoint was trained on cannot be had; name another with --data.store: {error}"
        raise StoreError(msg) from error


def pairs_of(
    checkpoint: Checkpoint, spec: ModelSpec, store: Store, conditions: Conditions, *, targets: bool = True
) -> Pairs:
    """Find the samples of a store that a model can be tried on.

    Args:
        checkpoint: Checkpoint that recorded which data it was trained on.
        spec: Model: the checkpoint's own, or that of the weights below it.
        store: Store that the samples come from.
        conditions: Period and number of steps.
        targets: Whether the state that is predicted has to be in the store.

    Raises:
        KitError: the store lacks what the model reads, or has no sample in the period.
    """
    data = checkpoint.description["data"]
    # Base weights may know fewer variables and levels than the checkpoint, which is then scored on what both know.
    chosen = {"region": data["region"], "levels": spec.levels, **known_to(spec, data)}
    period, steps = conditions.period, conditions.steps
    if targets:
        period = period or Period.parse(data["test"])
    else:
        # There is no target in a forecast, so that variables that are predicted alone need not be in the store.
        never_read = spec.upstream.physical(spec.output_only)
        chosen["variables"] = tuple(variable for variable in chosen["variables"] if variable not in never_read)
        period, steps = period or store.period, 0
    # Checkpoints from before there were halos do not speak of one.
    settings = DataSettings(store=str(store.path), history=spec.history, halo=data.get("halo", 0.0), **chosen)
    if checkpoint.is_network:
        return Pairs(store, select_states(spec, settings, store), period, steps=steps)
    return Pairs(store, select(spec, settings, store, spec.patch_size), period, steps=steps)
