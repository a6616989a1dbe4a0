"""The model card: what an exported model is, what it was trained on, how well it does, and under which licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kit import registry
from kit.models.variants import variant_named

__all__ = ["card"]

_MICROSOFT = "Aurora's code and published weights: MIT licence, Copyright (c) Microsoft Corporation."
_COPERNICUS = (
    "ERA5, where it was used: contains modified Copernicus Climate Change Service information; neither the European "
    "Commission nor ECMWF is responsible for any use that may be made of it."
)
_KIT = "The kit that trained it: MIT licence, the aurora-finetune-kit developers."


def card(description: Mapping[str, Any], name: str, scores: Mapping[str, Any] | None) -> str:
    """Write a model card in Markdown.

    Args:
        description: contents of the exported ``kit.json``.
        name: of the model.
        scores: what ``kit evaluate`` found of the checkpoint; None where it was not asked.
    """
    model = description["model"]
    parts = [_header(description), f"# {name}", _summary(description), _contents(model, description["data"])]
    parts += ["## Training", _history(description), "## Scores", _scored(scores)]
    parts += ["## Limits", _limits(description), "## Licences", _licences(description), "## Use", _use(description)]
    return "\n\n".join(parts) + "\n"


def _header(description: Mapping[str, Any]) -> str:
    """What model hubs read."""
    lines = ["---", "license: mit", "library_name: aurora-finetune-kit", "tags: [weather, aurora]"]
    if _from_microsoft(description):
        lines.append("base_model: microsoft/aurora")
    return "\n".join([*lines, "---"])


def _summary(description: Mapping[str, Any]) -> str:
    variant = description["model"]["variant"]
    text = f"A fine-tuned Aurora (Bodnar et al. 2025), variant `{variant}`, exported by aurora-finetune-kit "
    text += f"{description['exported']['kit_version']}."
    synthetic = [bool(stage.get("synthetic")) for stage in _stages(description["lineage"])]
    if all(synthetic):
        text += (
            "\n\n**It was trained on synthetic data**, which a simplified dynamical core made: it knows nothing of "
            "real weather, and is for trying things out."
        )
    elif any(synthetic):
        text += (
            "\n\n**It began with synthetic data**, which a simplified dynamical core made: of real weather it knows "
            "what the other stages below taught it."
        )
    return text


def _contents(model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    rows = {
        "surface variables": _listed(model["surface"]),
        "atmospheric variables": _listed(model["atmospheric"]),
        "static variables": _listed(model["static"]),
        "levels (hPa)": _listed(model["levels"]),
        "step": f"{model['timestep_hours']:g} h",
        "input states": str(model["history"]),
        "grid it was trained on": _grid(data),
    }
    return _table(("", ""), list(rows.items()))


def _grid(data: Mapping[str, Any]) -> str:
    grid = data.get("grid")
    size = "" if grid is None else " x ".join(str(grid[key][1] - grid[key][0]) for key in ("rows", "columns"))
    region = data.get("region")
    where = "" if region is None else f", north, west, south, east: {_listed(region)}"
    return f"{size} points of {data['store']}{where}"


def _history(description: Mapping[str, Any]) -> str:
    rows = [
        (
            str(stage.get("method", "")),
            str(stage.get("steps", "")),
            str(stage.get("store", "")),
            str(stage.get("train", "")),
            _named(stage.get("base")),
        )
        for stage in _stages(description["lineage"])
    ]
    origins = description["exported"]["merged"]
    told = "The weights below it are in `base`, as they were." if origins is False else _merged(origins)
    return f"{_table(('method', 'steps', 'data', 'period', 'started from'), rows)}\n\n{told}"


def _merged(origins: Sequence[Mapping[str, Any]]) -> str:
    names = ", ".join(f"`{origin['name']}` (SHA-256 {origin['sha256']})" for origin in origins)
    return f"Its weights are {'the average of' if len(origins) > 1 else 'those of'} {names}, merged in fp32."


def _named(base: Mapping[str, Any] | None) -> str:
    return "random weights" if base is None else f"{base['name']} ({base['sha256'][:12]})"


def _scored(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "None were taken of this model. Take them with `kit evaluate`."
    rows = [
        (key, *(_number(row.get(kind)) for kind in ("rmse", "persistence_rmse", "skill")))
        for key, row in scores["scores"].items()
    ]
    table = _table(("variable", "RMSE", "RMSE of persistence", "skill"), rows)
    synthetic = "; synthetic data" if scores.get("synthetic") else ""
    return (
        f"{scores['samples']} forecasts of {scores['lead_hours']:g} h in {scores['period']}{synthetic}; skill is "
        f"1 - RMSE / RMSE of persistence. They are of the checkpoint before it was exported.\n\n{table}"
    )


def _limits(description: Mapping[str, Any]) -> str:
    data = description["data"]
    return (
        f"- Trained on {data['train']}; chosen on {data['valid']}; {data['test']} was kept for tests.\n"
        "- Other grids, levels, regions and seasons than those above were not scored.\n"
        "- Errors grow with the lead time; a roll-out was trained only as far as the stages above say.\n"
        "- A research model: no basis for decisions about safety, property or health."
    )


def _licences(description: Mapping[str, Any]) -> str:
    stages = list(_stages(description["lineage"]))
    lines = [_MICROSOFT] if _from_microsoft(description) else []
    entries = registry.entries()
    known = {str(base["name"]) for stage in stages if (base := stage.get("base"))}
    lines += [f"Weights `{name}`: {entries[name].licence}." for name in sorted(known & entries.keys())]
    data = {str(stage.get("store")): str(stage.get("licence") or "not recorded") for stage in stages}
    lines += [f"Data `{store}`: {licence}." for store, licence in data.items() if store != "None"]
    if not all(stage.get("synthetic") for stage in stages):
        lines.append(_COPERNICUS)
    return "\n".join(f"- {line}" for line in [*lines, _KIT])


def _use(description: Mapping[str, Any]) -> str:
    variant = description["model"]["variant"]
    return (
        "With aurora-finetune-kit, where FOLDER is this one:\n\n"
        "    kit evaluate --checkpoint FOLDER --data.store STORE\n"
        "    kit forecast --checkpoint FOLDER --data.store STORE --out forecast.nc\n"
        f"    kit finetune --model.variant {variant} --model.weights FOLDER --data.store STORE"
    )


def _from_microsoft(description: Mapping[str, Any]) -> bool:
    """Whether upstream's published weights may be in it: not where training began with the kit's own, or none."""
    if variant_named(description["model"]["variant"]).name == "tiny":
        return False
    stages = list(_stages(description["lineage"]))
    return not stages or stages[0].get("base") is not None


def _stages(lineage: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All stages in order, those of averaged models before the average."""
    found: list[Mapping[str, Any]] = []
    for stage in lineage:
        for part in stage.get("of", ()):
            found += _stages(part["lineage"])
        found.append(stage)
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
