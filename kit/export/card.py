"""The model card: what an exported model is, what it was trained on, how well it does, and under which licences."""

from collections.abc import Mapping, Sequence
from typing import Any

from kit import registry
from kit.models.variants import variant_named

_MICROSOFT = "Aurora's code and published weights: MIT licence, Copyright (c) Microsoft Corporation."
_COPERNICUS = (
    "ERA5, where it was used: contains modified Copernicus Climate Change Service information; neither the European "
    "Commission nor ECMWF is responsible for any use that may be made of it."
)
_KIT = "The kit that trained it: MIT licence, the aurora-finetune-kit developers."
# Model hubs read the head between the dashes.
_CARD = """---
license: mit
library_name: aurora-finetune-kit
tags: [weather, aurora]{base_model}
---

# {name}

A fine-tuned Aurora (Bodnar et al. 2025), variant `{variant}`, {made} by aurora-finetune-kit {kit_version}.{synthetic}

{contents}

## Training

{history}

{merged}

## Scores

{scores}

## Limits

- Trained on {train}; chosen on {valid}; {test} was kept for tests.
- Other grids, levels, regions and seasons than those above were not scored.
- Errors grow with the lead time; a roll-out was trained only as far as the stages above say.
- A research model: no basis for decisions about safety, property or health.

## Licences

{licences}

## Use

With aurora-finetune-kit, where FOLDER is this one:

    kit evaluate --checkpoint FOLDER --data.store STORE
    kit forecast --checkpoint FOLDER --data.store STORE --out forecast.nc
    kit finetune --model.variant {variant} --model.weights FOLDER --data.store STORE
"""
_SYNTHETIC = (
    "\n\n**It was trained on synthetic data**, which a simplified dynamical core made: it knows nothing of real "
    "weather, and is for trying things out."
)
_BEGAN_SYNTHETIC = (
    "\n\n**It began with synthetic data**, which a simplified dynamical core made: of real weather it knows what the "
    "other stages below taught it."
)


def card(description: Mapping[str, Any], name: str, scores: Mapping[str, Any] | None) -> str:
    """Write a model card in Markdown.

    Args:
        description: Contents of ``kit.json``: of an export, or of a checkpoint that has not been exported.
        name: Name of the model.
        scores: Scorecard that ``kit evaluate`` made of the checkpoint; None where there is none.
    """
    model, data = description["model"], description["data"]
    stages = _stages(description["lineage"])
    flags, synthetic = [bool(stage.get("synthetic")) for stage in stages], ""
    if all(flags):
        synthetic = _SYNTHETIC
    elif any(flags):
        synthetic = _BEGAN_SYNTHETIC
    exported = description.get("exported")
    merged = ""
    if exported is not None:
        merged = "The weights below it are in `base`, as they were."
    if exported is not None and (origins := exported["merged"]):
        names = ", ".join(f"`{origin['name']}` (SHA-256 {origin['sha256']})" for origin in origins)
        merged = f"Its weights are {'the average of' if len(origins) > 1 else 'those of'} {names}, merged in fp32."
    base_model = ""
    if _is_from_microsoft(description):
        base_model = "\nbase_model: microsoft/aurora"
    return _CARD.format(
        base_model=base_model,
        name=name,
        variant=model["variant"],
        made="trained" if exported is None else "exported",
        kit_version=description["kit_version"] if exported is None else exported["kit_version"],
        synthetic=synthetic,
        contents=_contents(model, data),
        history=_history(stages),
        merged=merged,
        scores=card_scores(scores),
        train=data["train"],
        valid=data["valid"],
        test=data["test"],
        licences="\n".join(f"- {line}" for line in licence_lines(description)),
    )


def _contents(model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    grid = f" points of {data['store']}"
    if data.get("grid") is not None:
        (top, bottom), (left, right) = data["grid"]["rows"], data["grid"]["columns"]
        grid = f"{bottom - top} x {right - left}{grid}"
    if data.get("region") is not None:
        grid += f", north, west, south, east: {_numbers(data['region'])}"
    rows = (
        ("surface variables", ", ".join(model["surface"])),
        ("atmospheric variables", ", ".join(model["atmospheric"])),
        ("static variables", ", ".join(model["static"])),
        ("levels (hPa)", _numbers(model["levels"])),
        ("step", f"{model['timestep_hours']:g} h"),
        ("input states", str(model["history"])),
        ("grid it was trained on", grid),
    )
    return _table(("", ""), rows)


def _history(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for stage in stages:
        base, started = stage.get("base"), "random weights"
        if base is not None:
            started = f"{base['name']} ({base['sha256'][:12]})"
        facts = (stage.get("method", ""), stage.get("steps", ""), stage.get("store", ""), stage.get("train", ""))
        rows.append([*map(str, facts), started])
    return _table(("method", "steps", "data", "period", "started from"), rows)


def card_scores(scores: Mapping[str, Any] | None) -> str:
    """Write the scores of a model card as a table in Markdown.

    Args:
        scores: Scorecard that ``kit evaluate`` made of the checkpoint; None where there is none.

    Raises:
        LookupError: the scorecard lacks something; likewise AttributeError and TypeError for what is no score.
    """
    if scores is None:
        return "None were taken of this model. Take them with `kit evaluate`."
    rows = []
    for key, row in scores["scores"].items():
        cells = [key]
        for kind in ("rmse", "persistence_rmse", "skill"):
            value = row.get(kind)
            cells.append("" if value is None else f"{value:.4g}")
        rows.append(cells)
    synthetic = "; synthetic data" if scores.get("synthetic") else ""
    return (
        f"{scores['samples']} forecasts of {scores['lead_hours']:g} h in {scores['period']}{synthetic}; skill is "
        "1 - RMSE / RMSE of persistence. They are of the checkpoint before it was exported.\n\n"
        f"{_table(('variable', 'RMSE', 'RMSE of persistence', 'skill'), rows)}"
    )


def licence_lines(description: Mapping[str, Any]) -> list[str]:
    """State under which licences a model, the weights that it began with, and its data are, a sentence each.

    Args:
        description: Contents of ``kit.json``.
    """
    lines = []
    if _is_from_microsoft(description):
        lines.append(_MICROSOFT)
    stages = _stages(description["lineage"])
    entries, bases, data = registry.entries(), set(), {}
    for stage in stages:
        if base := stage.get("base"):
            bases.add(str(base["name"]))
        # A store that several stages used is named once, with the licence that the last of them recorded.
        if stage.get("store") is not None:
            data[str(stage["store"])] = str(stage.get("licence") or "not recorded")
    lines += [f"Weights `{name}`: {entries[name].licence}." for name in sorted(bases & entries.keys())]
    for store, licence in data.items():
        lines.append(f"Data `{store}`: {licence}.")
    # The acknowledgement that Copernicus' licence asks for; synthetic data need none.
    if not all(stage.get("synthetic") for stage in stages):
        lines.append(_COPERNICUS)
    return [*lines, _KIT]


def _is_from_microsoft(description: Mapping[str, Any]) -> bool:
    """Tell whether weights of Microsoft's are in a model.

    None are where training began with the kit's own weights, or with random ones.
    """
    stages = _stages(description["lineage"])
    began_random = bool(stages) and stages[0].get("base") is None
    return variant_named(description["model"]["variant"]).name != "tiny" and not began_random


def _stages(lineage: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return all stages in order, those of averaged models before the average."""
    found: list[Mapping[str, Any]] = []
    for stage in lineage:
        for part in stage.get("of", ()):
            found += _stages(part["lineage"])
        found.append(stage)
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numbers(values: Sequence[float]) -> str:
    """Join numbers; whole ones lose their decimal point."""
    return ", ".join(map("{:g}".format, values))
