"""What is made of the members of an ensemble: their mean, spread, quantiles and probabilities, one lead at a time."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from kit.config.suggestions import near_names
from kit.data.zarr_guard import open_group
from kit.forecasting.ensemble_plan import PLAN
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.writing import ForecastLayout, writing
from kit.io.atomic import check_free
from kit.io.errors import SettingsError

Float32 = npt.NDArray[np.float32]

_MADE_OF = "made_of"
"""Attribute that says which products of which ensemble a file holds, as JSON."""
_COORDINATES = ("member", "time", "lead_time", "valid_time", "level", "latitude", "longitude")


@dataclass(frozen=True)
class Derived:
    """One product of one variable.

    Attributes:
        name: Name of the variable in the file.
        attributes: CF attributes.
        compute: Makes it of the members' values, [M, ...].
    """

    name: str
    attributes: Mapping[str, Any]
    compute: Callable[[Float32], npt.NDArray[Any]]


def products_file(settings: EnsembleSettings) -> Path | None:
    """Return the file of an ensemble's products, ``NAME.products.nc``; None where none are asked for."""
    return settings.out.with_suffix(".products.nc") if settings.products else None


def check_products(
    settings: EnsembleSettings, variables: Sequence[str], plan: Mapping[str, Any], *, wave: bool
) -> None:
    """Check, before any work is done, that the products can be made, or are there.

    Args:
        settings: What is asked for.
        variables: Variables that the ensemble will have.
        plan: Plan of the ensemble.
        wave: Whether they are those of the wave model.

    Raises:
        SettingsError: they cannot, or other products have their place.
    """
    for name in settings.above:
        if name not in variables:
            near = near_names(name, variables) or sorted(variables)
            msg = f"above: the checkpoint predicts no {name!r}; did you mean {' or '.join(near)}?"
            raise SettingsError(msg)
    averaged = [product for product in settings.products if product != "probabilities"]
    if wave and averaged:
        msg = (
            f"products: the wave model predicts directions, which have no plain {averaged[0]}, and waves that are "
            "absent in some members; take probabilities alone"
        )
        raise SettingsError(msg)
    file = products_file(settings)
    if file is not None and file.exists() and _made_of(file) != _description(settings, plan):
        check_free(file)


def make_products(settings: EnsembleSettings, plan: Mapping[str, Any]) -> None:
    """Write the products of a finished ensemble, unless they are there.

    Memory holds one variable of all members, from one initial time at one lead.

    Raises:
        SettingsError: the disk has no room for them, or something else has their place.
        OSError: the disk is full, or refuses; nothing is left behind.
    """
    file = products_file(settings)
    if file is None or file.exists():
        return
    group = open_group(settings.out)
    arrays: dict[str, zarr.Array[Any]] = {}
    derived: dict[str, list[Derived]] = {}
    for name, array in group.arrays():
        if name not in _COORDINATES:
            arrays[name] = array
            derived[name] = list(_derived(name, dict(array.attrs), settings))
    attributes = {key: value for key, value in group.attrs.items() if key != PLAN}
    attributes |= {"members": len(settings.numbers), _MADE_OF: _description(settings, plan)}
    layout = _layout(group, arrays, derived, attributes)
    with writing(file, layout) as writer:
        for start, lead in np.ndindex(len(layout.starts), layout.steps):
            for name, array in arrays.items():
                if not derived[name]:
                    continue
                members = np.asarray(array[:, start, lead], dtype=np.float32)
                for each in derived[name]:
                    writer.write(each.name, (start, lead), each.compute(members).astype(np.float32))


def _derived(name: str, attributes: Mapping[str, Any], settings: EnsembleSettings) -> Iterator[Derived]:
    """List the products of a variable."""
    plain = {key: value for key, value in attributes.items() if key != "coordinates"}
    long_name, methods = str(plain.get("long_name", name)), str(plain.get("cell_methods", ""))

    def over_members(what: str) -> str:
        return f"{methods} realization: {what}".strip()

    if "mean" in settings.products:
        told = {**plain, "cell_methods": over_members("mean")}
        yield Derived(f"{name}_mean", told, lambda members: members.mean(0, dtype=np.float64))
    if "spread" in settings.products:
        told = {**plain, "cell_methods": over_members("standard_deviation")}
        # A difference has no standard name of its own: that of the variable would promise its values.
        told.pop("standard_name", None)
        told["long_name"] = f"{long_name}, standard deviation of members"
        yield Derived(f"{name}_spread", told, lambda members: members.std(0, dtype=np.float64, ddof=1))
    if "quantiles" in settings.products:
        for order in settings.quantiles:
            told = {**plain, "long_name": f"{long_name}, quantile of {100 * order:g} %"}
            key = f"{100 * order:g}".replace(".", "_")
            yield Derived(f"{name}_q{key}", told, _quantile(order))
    if "probabilities" in settings.products and name in settings.above:
        threshold = settings.above[name]
        told = {"long_name": f"Probability of {long_name.lower()} above {threshold:g} {plain.get('units', '')}".strip()}
        key = f"{threshold:g}".replace(".", "_")
        yield Derived(f"{name}_above_{key}", {**told, "units": "1"}, lambda members: (members > threshold).mean(0))


def _quantile(order: float) -> Callable[[Float32], npt.NDArray[Any]]:
    return lambda members: np.quantile(members, order, axis=0)


def _layout(
    group: zarr.Group,
    arrays: Mapping[str, zarr.Array[Any]],
    derived: Mapping[str, Sequence[Derived]],
    attributes: Mapping[str, Any],
) -> ForecastLayout:
    """Lay out the file of products by the ensemble."""
    coordinates: dict[str, npt.NDArray[Any]] = {}
    for name in _COORDINATES:
        if name in group:
            array: Any = group[name]
            coordinates[name] = np.asarray(array[...])
    kinds: dict[bool, dict[str, Mapping[str, Any]]] = {False: {}, True: {}}
    for name, products in derived.items():
        dimensions = getattr(arrays[name].metadata, "dimension_names", None) or ()
        kinds["level" in dimensions] |= {each.name: each.attributes for each in products}
    leads = coordinates["lead_time"]
    return ForecastLayout(
        surface=kinds[False],
        atmospheric=kinds[True],
        levels=coordinates["level"].tolist(),
        latitude=coordinates["latitude"],
        longitude=coordinates["longitude"],
        starts=[datetime.fromtimestamp(int(seconds), tz=UTC) for seconds in coordinates["time"]],
        timestep=timedelta(hours=float(leads[0])),
        steps=len(leads),
        attributes=attributes,
    )


def _description(settings: EnsembleSettings, plan: Mapping[str, Any]) -> str:
    """Describe what a file of products holds."""
    told: dict[str, Any] = {"ensemble": dict(plan), "products": sorted(settings.products)}
    if "quantiles" in settings.products:
        told["quantiles"] = sorted(settings.quantiles)
    if "probabilities" in settings.products:
        told["above"] = dict(sorted(settings.above.items()))
    return json.dumps(told)


def _made_of(file: Path) -> str:
    """Read what a file of products holds; empty where it is something else."""
    import netCDF4

    try:
        with netCDF4.Dataset(str(file)) as dataset:
            return str(getattr(dataset, _MADE_OF, ""))
    except OSError:
        return ""
