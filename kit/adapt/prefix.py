"""Prefix tuning (Li and Liang 2021): learned keys and values that every token of an attention layer looks at.

What they bring is added beside the window's own attention, behind a gate that starts at zero (as in LLaMA-Adapter,
Zhang et al. 2023), before the layer's projection: with q the queries of a head and K, V its prefix,

    out = softmax(q k^T / sqrt(d)) v  +  softmax(q K^T / sqrt(d)) V x tanh(gate)

with a gate for each channel of each head: one for a whole head learns no better, and its gradient is a sum over all
channels in which most cancels, so that its last digits depend on the order of summation.

The softmax over the prefix is its own. Keys that are joined to a window's take weight from its tokens even while they
and their values are zero; these take nothing, so that a model with closed gates predicts bit for bit what it did.

Dimensions: b windows x batch, N tokens in a window, D width, H heads, d = D / H, T prefix tokens.
"""

from typing import Any

import torch
from aurora import Aurora
from aurora.model.swin3d import WindowAttention

from kit.adapt.settings import AdaptSettings


class Prefix(torch.nn.Module):
    """Keys, values and gates of one attention layer, in fp32.

    Args:
        heads: of the layer.
        size: width of a head.
        tokens: of the prefix.
        device: of the layer.

    Attributes:
        key: [H, T, d], random, of the size of normalised queries.
        value: [H, T, d], random.
        gate: [H, d], zero; values times tanh(gate) are what is added.
    """

    def __init__(self, heads: int, size: int, tokens: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.key = torch.nn.Parameter(torch.empty(heads, tokens, size, device=device).normal_())
        self.value = torch.nn.Parameter(torch.empty(heads, tokens, size, device=device).normal_())
        # One for each channel: the gradient of one for a whole head is a sum in which most cancels.
        self.gate = torch.nn.Parameter(torch.zeros(heads, size, device=device))

    def forward(self, attended: torch.Tensor, qkv: torch.Tensor) -> torch.Tensor:
        """Add the attention to the prefix.

        All queries are one long list to a prefix, whatever their window: two products per head, and the only thing
        that is kept for the backward pass is a weight for each query and prefix token.

        Args:
            attended: what the window's own attention gave, [b, N, D].
            qkv: queries, keys and values, [b, N, 3 D], as ``attn.qkv`` gives them.

        Returns:
            As ``attended``.
        """
        heads, _, size = self.key.shape
        queries = qkv.reshape(-1, 3, heads, size)[:, 0].transpose(0, 1)
        # Scaled as upstream's attention scales; in the precision of the moment.
        keys = (self.key * size**-0.5).to(qkv.dtype)
        # The gate is folded into the values, so that nothing as large as the queries waits for its gradient.
        values = (self.value * torch.tanh(self.gate)[:, None]).to(qkv.dtype)
        weights = torch.softmax(queries @ keys.transpose(1, 2), dim=-1)
        brought = weights.to(qkv.dtype) @ values
        return attended + brought.transpose(0, 1).reshape(attended.shape)


class PrefixedForward:
    """Replaces ``forward`` of one attention layer where upstream's own runs; the memory engine has another way.

    Upstream's arithmetic is left alone: for the time of one call a hook takes what ``qkv`` gives, and another adds to
    what ``proj`` gets. Both are gone when the call ends, however it ends, and so is what they held: recomputation
    leaves a call in the middle once it has what it needs.

    Args:
        attn: upstream's layer.
    """

    def __init__(self, attn: WindowAttention) -> None:
        self._attn = attn
        self._forward = attn.forward

    def __call__(self, x: torch.Tensor, mask: torch.Tensor | None = None, rollout_step: int = 0) -> torch.Tensor:
        """Run the layer, as upstream's ``WindowAttention.forward``."""
        attn = self._attn
        prefix = prefix_of(attn)
        assert prefix is not None
        given: list[torch.Tensor] = []
        added: list[torch.Tensor] = []

        def take(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
            given.append(output)

        def add(_module: torch.nn.Module, args: tuple[torch.Tensor, *tuple[Any, ...]]) -> tuple[Any, ...]:
            # Once for both sinks, which get the same input.
            if not added:
                added.append(prefix(args[0], sum(given[1:], start=given[0])))
            return (added[0], *args[1:])

        # Upstream's roll-out LoRA, where it is kept, is part of both products.
        sources, sinks = _modules(attn.qkv, attn.lora_qkv), _modules(attn.proj, attn.lora_proj)
        handles = [module.register_forward_hook(take) for module in sources]
        handles += [module.register_forward_pre_hook(add) for module in sinks]
        try:
            result: torch.Tensor = self._forward(x, mask=mask, rollout_step=rollout_step)
        finally:
            for handle in handles:
                handle.remove()
        return result


def _modules(*candidates: object) -> list[torch.nn.Module]:
    """Those that are modules: without roll-out LoRA, upstream has functions that give zero."""
    return [module for module in candidates if isinstance(module, torch.nn.Module)]


def prefix_of(attn: WindowAttention) -> Prefix | None:
    """Return the prefix of an attention layer, if it has one."""
    found = attn._modules.get("prefix")
    assert found is None or isinstance(found, Prefix)
    return found


def attach(model: Aurora, settings: AdaptSettings) -> None:
    """Give every attention layer of the backbone a prefix, as its submodule ``prefix``, and let nothing else train.

    Keys and values get a gradient of exactly zero while their gates are zero, that is at the first step.
    """
    model.requires_grad_(requires_grad=False)
    for module in list(model.backbone.modules()):
        if isinstance(module, WindowAttention):
            device = module.qkv.weight.device
            module.prefix = Prefix(module.num_heads, module.head_dim, settings.prefix_tokens, device)
            module.forward = PrefixedForward(module)
