"""What a forecast's file says of itself: variables, grid, initial times, and where all of it comes from."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from aurora import Batch

from kit import __version__
from kit.data.variables import Kind, lookup
from kit.diffusion.drawing import DrawingSpace
from kit.forecasting.predictor import Predictor
from kit.forecasting.writing import ForecastLayout, portable_name


def layout_of(
    prediction: Batch,
    predictor: Predictor,
    starts: Sequence[datetime],
    steps: int,
    attributes: Mapping[str, Any],
    *,
    members: Sequence[int] = (),
    method: str = "",
) -> ForecastLayout:
    """Lay out the file of forecasts by one prediction, which has names and levels.

    Args:
        prediction: Physical variables under a store's names.
        predictor: Model that made it, and the data that it started from.
        starts: Initial times, UTC.
        steps: Number of model steps.
        attributes: Attributes of the whole file.
        members: Numbers of the members; none where there is no such dimension.
        method: What was done over a dimension that is gone, for ``cell_methods``.
    """
    store, grid = predictor.store, predictor.pairs.selection.grid
    latitude, longitude = grid.scored_coordinates(store)
    if longitude.ndim == 1:
        # Readers of files want increasing longitudes: those of a box across Greenwich are negative in its west.
        drop = np.flatnonzero(np.diff(longitude) < 0)
        if drop.size:
            longitude = np.where(np.arange(len(longitude)) <= drop[0], longitude - 360, longitude)
    return ForecastLayout(
        surface={name: described(predictor, name, "surface", method) for name in prediction.surf_vars},
        atmospheric={name: described(predictor, name, "atmospheric", method) for name in prediction.atmos_vars},
        levels=[float(level) for level in prediction.metadata.atmos_levels],
        latitude=latitude,
        longitude=longitude,
        starts=starts,
        timestep=predictor.space.spec.timestep,
        steps=steps,
        members=len(members),
        numbers=members,
        attributes=attributes,
    )


def attributes_of(predictor: Predictor, checkpoints: Sequence[Path], initial_states: str | None) -> dict[str, Any]:
    """Collect the attributes of a forecast's file.

    Args:
        predictor: Model, and the data that it starts from.
        checkpoints: Folders of all checkpoints.
        initial_states: Store or file of the initial states, as it was asked for; None for the checkpoint's own.
    """
    store, spec = predictor.store, predictor.space.spec
    title, model = f"Forecast of a fine-tuned Aurora, variant {spec.variant}", f"Aurora ({spec.variant}), fine-tuned"
    if isinstance(predictor.space, DrawingSpace):
        # Its variant stands for variables alone.
        title, model = "Forecast of a denoising network", "Denoising network, trained"
    attributes = {
        "Conventions": "CF-1.11",
        "title": title,
        "source": f"{model} and run with aurora-finetune-kit {__version__}",
        # Paths are this machine's; a file that is passed on keeps their last parts.
        "checkpoint": [portable_name(path) for path in checkpoints],
        "lead_hours": spec.lead_hours,
        "precision": predictor.precision,
        "initial_states": Path(initial_states or store.attributes.get("registry") or store.path).name,
        "licence_of_initial_states": str(store.attributes.get("licence", "")),
        "synthetic": bool(store.attributes.get("synthetic")),
    }
    if projection := store.attributes.get("projection"):
        attributes["projection"] = projection
    return attributes


def described(predictor: Predictor, name: str, kind: Kind, method: str = "") -> dict[str, Any]:
    """Return the attributes of a variable: the table's, and the store's where the model was given it from there."""
    # A head predicts further channels of its variable, under names that begin with the variable's.
    for parent in predictor.space.spec.heads:
        if name.startswith(f"{parent}_"):
            return described_head(name.removeprefix(f"{parent}_"), described(predictor, parent, kind, method))
    found: dict[str, Any] = {}
    if known := lookup(name, kind):
        found |= known.attributes()
    # What the store says of its own variables comes before what the table knows in general.
    store = predictor.store
    stored = {"surface": store.surface, "atmospheric": store.atmospheric}
    if name in stored[kind]:
        found |= store.variable_attributes(name)
    if method:
        found["cell_methods"] = f"{found.get('cell_methods', '')} {method}".strip()
    return found


def described_head(channel: str, variable: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of what a head predicts beside its variable: a probability, or another quantile."""
    long_name = str(variable.get("long_name", ""))
    if channel == "occurrence":
        return {"long_name": f"Probability of {long_name.lower()} of 0.1 mm or more", "units": "1"}
    order = channel.removeprefix("q").replace("_", ".")
    return {**variable, "long_name": f"{long_name}, quantile of {order} %"}
