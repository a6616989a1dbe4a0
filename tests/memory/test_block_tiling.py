"""A block in bands against upstream's, and attention in runs of windows against the formula."""

from __future__ import annotations

import itertools

import pytest
import torch
from aurora.model.swin3d import Swin3DTransformerBlock

from kit.memory import block_tiling as blocks
from kit.memory.block_tiling import BlockForward, BlockWork, Residual, compiled_residual, residual
from kit.memory.recompute import InputKeeper
from kit.memory.settings import MemorySettings
from kit.memory.tiling import run_bands
from kit.memory.windows import Triple, layout
from tests.everyday import one_in

KEEPER = InputKeeper(MemorySettings())
# Padding on no side, on latitudes, on longitudes, on both; and one axis that a single window covers.
RESOLUTIONS: tuple[Triple, ...] = ((4, 12, 24), (4, 13, 24), (4, 12, 27), (4, 17, 30), (2, 12, 24))
WINDOW = (2, 6, 12)


def make_block(*, shifted: bool, width: int = 32) -> Swin3DTransformerBlock:
    torch.manual_seed(0)
    shift = (1, 3, 6) if shifted else (0, 0, 0)
    block = Swin3DTransformerBlock(width, 4, 16, window_size=WINDOW, shift_size=shift)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return block


def in_bands(work: BlockWork, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    per_token = c.ndim == 3
    return run_bands(work, KEEPER, (x, c) if per_token else (x,), () if per_token else (c,))[0]


def outcome(
    block: Swin3DTransformerBlock, forward: object, x: torch.Tensor, c: torch.Tensor, res: Triple
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output, and gradients of inputs and parameters."""
    block.zero_grad()
    leaves = [x.clone().requires_grad_(), c.clone().requires_grad_()]
    y = forward(*leaves, res, 0)  # type: ignore[operator]
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    grads = [value.grad for value in (*leaves, *block.parameters())]
    assert all(grad is not None for grad in grads)
    return y.detach(), [grad.clone() for grad in grads if grad is not None]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("res", one_in(4, [(res,) for res in RESOLUTIONS]))
@pytest.mark.parametrize("per_token", [False, True])
def test_bands_are_bitwise_upstreams(res: Triple, per_token: bool, shifted: bool) -> None:
    block, samples = make_block(shifted=shifted), 2
    tokens = res[0] * res[1] * res[2]
    x = torch.randn(samples, tokens, 32)
    c = torch.randn(samples, tokens, 16) if per_token else torch.randn(samples, 16)
    try:
        theirs, their_grads = outcome(block, block.forward, x, c, res)
    except RuntimeError:
        pytest.skip("upstream cannot cut this grid into windows")
    for bands in (1, 2, 3):
        ours, our_grads = outcome(block, BlockForward(block, bands, in_bands, residual), x, c, res)
        assert torch.equal(ours, theirs)
        for own, other in zip(our_grads, their_grads, strict=True):
            assert float((own - other).norm()) <= 5e-6 * float(other.norm())


@pytest.mark.parametrize("most", [1, 7, 65535])
def test_many_windows_are_handed_over_in_parts(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(shifted=True)
    x, c, res = torch.randn(2, 4 * 13 * 27, 32), torch.randn(2, 16), (4, 13, 27)
    expected = block(x, c, res, 0)
    monkeypatch.setattr(blocks, "_MOST_WINDOWS", most)
    assert torch.equal(BlockForward(block, 1, BlockWork.whole, residual)(x, c, res, 0), expected)


def attention_by_the_formula(block: Swin3DTransformerBlock, x: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Softmax of q k / sqrt(d) without what is apart, in float64."""
    attn = block.attn
    qkv = attn.qkv(x).double().unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / attn.head_dim**0.5
    out = scores.masked_fill(apart[:, None], -torch.inf).softmax(-1) @ v
    return torch.as_tensor(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.float32, 1e-5),
        pytest.param("cuda", torch.float32, 1e-5, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.bfloat16, 3e-2, marks=pytest.mark.gpu),
    ],
)
def test_attention_follows_the_formula_forward_and_backward(device: str, dtype: torch.dtype, tolerance: float) -> None:
    block = make_block(shifted=True, width=128).to(device, dtype)
    torch.nn.init.eye_(block.attn.proj.weight)
    torch.nn.init.zeros_(block.attn.proj.bias)
    lay = layout((4, 13, 27), WINDOW, (1, 3, 6))
    runs = lay.runs(range(3))
    apart = torch.cat(
        [
            torch.zeros(run.windows, 144, 144, dtype=torch.bool)
            if run.apart is None
            else torch.from_numpy(run.apart).expand(run.windows, 144, 144)
            for run in runs
        ]
    ).to(device)
    x = 0.3 * torch.randn(len(apart), 144, 128, device=device, dtype=dtype)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    y = blocks.attend(block.attn, ours, [blocks.MaskedRun(run, ours) for run in runs], 0)
    expected = attention_by_the_formula(block, theirs, apart)
    for own, other in ((y, expected), *_gradients((y, ours), (expected, theirs))):
        assert float((own - other).detach().norm()) <= tolerance * float(other.detach().norm())


def _gradients(*pairs: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = [torch.autograd.grad(y.double().square().sum(), x)[0] for y, x in pairs]
    return [(found[0], found[1])]


@pytest.mark.slow
def test_compiled_normalisation_differs_in_last_bits() -> None:
    block = make_block(shifted=True)
    x, c, res = torch.randn(1, 4 * 12 * 24, 32), torch.randn(1, 16), (4, 12, 24)
    results = []
    for add in (residual, compiled_residual):
        chosen: Residual = add
        results.append(outcome(block, BlockForward(block, 2, in_bands, chosen), x, c, res))
    for own, other in itertools.chain([(results[0][0], results[1][0])], zip(results[0][1], results[1][1], strict=True)):
        assert float((own - other).norm()) <= 1e-5 * float(other.norm())
