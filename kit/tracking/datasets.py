"""Data sets of runs, in MLflow's fields: the states of a store in a period."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.store.reader import Store
from kit.io.secrets import scrub_all

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_MAX_DIGEST = 36  # MLflow's limit, in characters
_CONTEXT = "mlflow.data.context"

Fields = Mapping[str, str]
"""MLflow's fields of a data set, and its ``context``: what it is used for."""


def dataset_fields(store: Store, place: str, context: str, period: str) -> dict[str, str]:
    """Describe the states of a store in a period.

    Args:
        store: Store.
        place: Its folder, or its name in the registry.
        context: What the states are used for: ``training``, ``validation``, ``test``, or several of them.
        period: ``START/END``, UTC.
    """
    digest = store.fingerprint()
    columns = [{"type": "float", "name": name, "required": True} for name in (*store.surface, *store.atmospheric)]
    profile = {
        "period": period,
        "states": len(store.times),
        "grid": " x ".join(map(str, store.shape)),
        "levels": len(store.levels),
        "synthetic": bool(store.attributes.get("synthetic")),
        "licence": store.attributes.get("licence"),
    }
    source = place if "://" in place else Path(place).name
    found = {
        # The same states have one name and one digest in all runs, so that MLflow lists them once.
        "name": f"{Path(place).name} {period}",
        "digest": digest[:_MAX_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": source, "sha256": digest}),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(profile),
        "context": context,
    }
    described: dict[str, str] = scrub_all(found)
    return described


def split_fields(store: Store, place: str, periods: Mapping[str, Any]) -> list[dict[str, str]]:
    """Describe the states that a run trains, validates and tests on; the same states once.

    Args:
        store: Store.
        place: Its folder, or its name in the registry.
        periods: Period by context.
    """
    contexts: dict[str, list[str]] = {}
    for context, period in periods.items():
        if period is not None:
            contexts.setdefault(str(period), []).append(context)
    return [dataset_fields(store, place, ",".join(names), period) for period, names in contexts.items()]


def dataset_inputs(described: Iterable[Fields], known: Sequence[Any] = ()) -> "list[DatasetInput]":
    """Turn descriptions into what MLflow takes as inputs of a run, without those that it knows.

    Args:
        described: Data sets.
        known: Inputs that the run has.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    held = {(one.dataset.name, one.dataset.digest) for one in known}
    found = []
    for fields in described:
        own = {name: text for name, text in fields.items() if name != "context"}
        if (own["name"], own["digest"]) not in held:
            tags = [InputTag(_CONTEXT, fields.get("context", "training"))]
            found.append(DatasetInput(Dataset(**own), tags))
    return found
