"""What a finished ensemble is, read from its file: any process may have made it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.data.zarr_guard import open_group
from kit.forecasting.ensemble_plan import EnsemblePlan
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.forecasting.products import products_file
from kit.forecasting.writing import bytes_of


@dataclass(frozen=True)
class EnsembleResult:
    """An ensemble that was written.

    Attributes:
        out: Zarr group.
        members: Number of members in it.
        starts: Initial times, UTC, such as ``2020-01-01T06:00``.
        steps: Number of model steps.
        perturb: What members of one checkpoint differ by.
        members_per_pass: Members that went through the model together.
        seed: Seed of all that was drawn.
        checkpoint: Folders of the checkpoints.
        store: Store or file of the initial states.
        synthetic: Whether the initial states are made up.
        variables: Variables written, those at the surface first.
        levels: Pressure levels, hPa.
        grid: Number of rows and of columns.
        lead_hours: Lead time of each step, hours.
        bytes: Size of the Zarr on the disk.
        precision: Precision of the predictions, such as ``fp32``.
        products: NetCDF file of the products; None where none were asked for.
    """

    out: str
    members: int
    starts: list[str]
    steps: int
    perturb: str
    members_per_pass: int
    seed: int
    checkpoint: list[str]
    store: str
    synthetic: bool
    variables: list[str]
    levels: list[float]
    grid: list[int]
    lead_hours: list[float]
    bytes: int
    precision: str
    products: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit ensemble --json`` prints."""
        return asdict(self)


def read_result(settings: EnsembleSettings, source: InitialStates, plan: EnsemblePlan) -> EnsembleResult:
    """Describe a finished ensemble.

    Args:
        settings: Settings that it was made with.
        source: Initial states of its first checkpoint.
        plan: Its plan.
    """
    surface, atmospheric = variables_of(settings.out)
    group = open_group(settings.out)
    some: Any = group[(*surface, *atmospheric)[0]]
    products = products_file(settings)
    hours = source.checkpoint.spec.lead_hours
    return EnsembleResult(
        out=str(settings.out),
        members=len(settings.numbers),
        starts=list(plan["start"]),
        steps=settings.steps,
        perturb=settings.perturb,
        members_per_pass=plan["members_per_pass"],
        seed=settings.seed,
        checkpoint=[str(path) for path in settings.checkpoint],
        store=settings.data.store or str(source.store.path),
        synthetic=bool(source.store.attributes.get("synthetic")),
        variables=[*surface, *atmospheric],
        levels=[float(level) for level in source.checkpoint.spec.levels],
        grid=list(some.shape[-2:]),
        lead_hours=[hours * step for step in range(1, settings.steps + 1)],
        bytes=bytes_of(settings.out),
        precision=plan["precision"],
        products=str(products) if products else None,
    )


def variables_of(out: Path) -> tuple[list[str], list[str]]:
    """List the variables of an ensemble, those at the surface and those on levels, each in the order of their names."""
    surface: list[str] = []
    atmospheric: list[str] = []
    for name, array in sorted(open_group(out).arrays()):
        dimensions = getattr(array.metadata, "dimension_names", None) or ()
        if "member" not in dimensions or name == "member":
            continue
        if "level" in dimensions:
            atmospheric.append(name)
        else:
            surface.append(name)
    return surface, atmospheric
