"""Adapters merged into the weights below them, by each method's formula, in fp32; no package is needed for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kit.adapt.settings import AdaptSettings
from kit.models.weights import ADAPTER_PREFIX

__all__ = ["merge"]

_EPSILON = 1e-5
"""What PEFT's AdaLoRA adds to the rank that it divides by (``peft/tuners/adalora/layer.py``)."""


@torch.no_grad()
def merge(model: torch.nn.Module, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Put saved adapters into the weights of a model without adapters.

    Args:
        model: changed in place; its layers are upstream's own. Adapters that were trained on NF4 are added to the
            weights that NF4 was made from.
        settings: the adapters'.
        saved: what ``kit.adapt.lora.tensors`` gave.
    """
    for name in saved:
        layer, found, _ = name.removeprefix(ADAPTER_PREFIX).partition(".lora_A")
        if found:
            linear = model.get_submodule(layer)
            assert isinstance(linear, torch.nn.Linear)
            linear.weight.copy_(_merged(linear.weight, settings, _parts(saved, layer)))


def _parts(saved: Mapping[str, torch.Tensor], layer: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors by PEFT's names for them: ``lora_A``, ``lora_B`` and what else there is."""
    start = f"{ADAPTER_PREFIX}{layer}.lora_"
    own = {name: value for name, value in saved.items() if name.startswith(start)}
    return {name.removeprefix(start).removesuffix(".weight"): value for name, value in own.items()}


def _merged(weight: torch.Tensor, settings: AdaptSettings, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """W + scale B A; for ``dora`` with each row at its own length; for ``adalora`` W + scale B diag(E) A."""
    adapter = settings.adapter
    down, up = parts["A"], parts["B"]
    if settings.method == "adalora":
        return weight + adapter.alpha / (adapter.rank + _EPSILON) * (up @ (down * parts["E"]))
    whole = weight + adapter.scale * (up @ down)
    if settings.method == "dora":
        whole = whole * (parts["magnitude_vector"] / torch.linalg.vector_norm(whole, dim=1)).unsqueeze(1)
    return whole
