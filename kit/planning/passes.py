"""Members of an ensemble that go through the model together: as many as fit the GPU, by traces of the very step."""

import math

from kit.forecasting.ensemble import ensemble as forecast_ensemble
from kit.forecasting.ensemble_plan import conditions_of
from kit.forecasting.ensemble_result import EnsembleResult
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.memory.device import choose_device
from kit.memory.host_memory import available
from kit.planning.fit import RESERVE_GIB
from kit.planning.settings import PlanSettings
from kit.planning.trace import trace
from kit.planning.workload import Workload

_GIB = 2**30


def ensemble(settings: EnsembleSettings) -> EnsembleResult:
    """Forecast an ensemble; where the settings leave it open, with as many members in a pass as fit the GPU.

    Raises:
        KitError: as ``kit.forecasting.ensemble``.
    """
    return forecast_ensemble(settings, members_that_fit)


def members_that_fit(settings: EnsembleSettings, source: InitialStates) -> int:
    """Choose the members of a forward pass: all of a checkpoint, or the most for which the GPU has room.

    Args:
        settings: Settings of the ensemble.
        source: Initial states of its first checkpoint.

    Returns:
        Number of members; 1 on a CPU, which is no faster with more.
    """
    device = choose_device(settings.device)
    if device.type != "cuda" or source.checkpoint.is_network:
        return 1
    room = available(device) - round(RESERVE_GIB * _GIB)
    most = math.ceil(len(settings.numbers) / len(settings.checkpoint))
    return largest_pass(settings, source, room, most)


def largest_pass(settings: EnsembleSettings, source: InitialStates, room: int, most: int) -> int:
    """Find the most members for which a step stays within some memory; 1 where not even one does.

    Args:
        settings: Settings of the ensemble.
        source: Initial states of its first checkpoint.
        room: Bytes of the device.
        most: Members that there are.
    """
    if most == 1:
        return 1
    one, two = (peak_of(settings, source, members) for members in (1, 2))
    # What a step holds besides the weights grows in proportion to the samples.
    members = min(most, max(1, 1 + (room - one) // (two - one)))
    while members > 1 and peak_of(settings, source, members) > room:
        members -= 1
    return members


def peak_of(settings: EnsembleSettings, source: InitialStates, members: int) -> int:
    """Trace a step of some members, and return the bytes that a GPU holds at its peak."""
    spec, pairs = source.checkpoint.spec, source.pairs
    grid = pairs.selection.grid
    workload = Workload(spec, pairs.selection, grid.latitude(source.store), grid.longitude(source.store))
    planned = PlanSettings(memory=settings.memory, forecast=True)
    data = planned.data.model_copy(update={"batch_size": members})
    # Training has precisions of its own: the one that is predicted in goes past their check.
    precision = conditions_of(settings, source).precision_of(spec.upstream)
    train = planned.train.model_copy(update={"precision": precision})
    traced = trace(planned.model_copy(update={"data": data, "train": train}), workload, forecast=True)
    return traced.peak.bytes
