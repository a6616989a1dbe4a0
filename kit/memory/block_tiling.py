"""A backbone block, run on bands of windows.

A block is local to its windows: attention, normalisation and the MLP never look across. So it can be run on some
rows of windows at a time, and what it holds while it runs, or while it is recomputed, 6 GiB at 0.25 degrees, falls
with the number of bands; predictions are upstream's bit for bit on a CPU (``docs/decisions.md``). Modules and
parameters are upstream's; only the order of the work is the kit's.

Dimensions: B batch, C latent levels, H latitude and W longitude in patches, D width; a window holds N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from aurora.model.film import AdaptiveLayerNorm
from aurora.model.swin3d import Swin3DTransformerBlock, WindowAttention
from aurora.model.util import fp16_safe_scaled_dot_product_attention, maybe_adjust_windows

from kit.adapt.prefix import prefix_of
from kit.memory.tiling import Tensors, Work
from kit.memory.windows import Triple, WindowLayout, WindowRun, layout

Residual = Callable[[Swin3DTransformerBlock, AdaptiveLayerNorm, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Adds a branch of a block, normalised in its context, to the tokens."""

# Grids of CUDA's fused attention kernels hold at most so many windows (PyTorch issue 146704).
_MOST_WINDOWS = 65535
# What upstream adds to the score of two tokens that should not attend to each other.
_APART = -100.0


class BlockForward:
    """Replaces ``forward`` of one block.

    Args:
        block: Upstream's block.
        bands: Number of bands that window rows are shared among.
        segment: Function that does the block's work.
        add: Function that adds attention's and the MLP's branch to the tokens.
    """

    def __init__(self, block: Swin3DTransformerBlock, bands: int, segment: Segment, add: Residual) -> None:
        self.block = block
        self._bands = bands
        self._segment = segment
        self._add = add
        # They belong to the model that uses them, not to the process: a traced model's are not real.
        self._masks: dict[tuple[WindowLayout, range, torch.device, torch.dtype], list[MaskedRun]] = {}

    def __call__(
        self, x: torch.Tensor, c: torch.Tensor, res: Triple, rollout_step: int, warped: bool = True
    ) -> torch.Tensor:
        """Run the block.

        Args:
            x: Tokens, [B, C x H x W, D].
            c: Context, [B, D'] or [B, C x H x W, D'].
            res: C, H and W.
            rollout_step: Number of the roll-out step, for upstream's roll-out LoRA.
            warped: Whether longitudes wrap; upstream never says otherwise.
        """
        assert warped
        window, shift = maybe_adjust_windows(self.block.window_size, self.block.shift_size, res)
        lay = layout(res, window, shift)
        return self._segment(BlockWork(self, lay, self._bands, rollout_step), x, c)

    def run(
        self, lay: WindowLayout, rows: range, grid: torch.Tensor, c: torch.Tensor, rollout_step: int
    ) -> torch.Tensor:
        """Run some window rows.

        Args:
            lay: Layout of the windows.
            rows: Window rows.
            grid: Tokens of those rows after the shift, [B, C, h, W, D].
            c: Context, [B, D'] or [B, C, h, W, D'].
            rollout_step: Number of the roll-out step, for upstream's roll-out LoRA.

        Returns:
            As ``grid``.
        """
        block = self.block
        tokens = grid.flatten(1, 3)
        context = c.flatten(1, 3) if c.ndim == 5 else c
        key = (lay, rows, tokens.device, tokens.dtype)
        if key not in self._masks:
            self._masks[key] = [MaskedRun(run, tokens) for run in lay.runs(rows)]
        windows = _partition(tokens.view(grid.shape), lay, rows)
        windows = attend(block.attn, windows, self._masks[key], rollout_step)
        attended = _merge(windows, grid.shape, lay, rows).flatten(1, 3)
        x = self._add(block, block.norm1, tokens, attended, context)
        x = self._add(block, block.norm2, x, block.mlp(x), context)
        return x.view(grid.shape)


class BlockWork(Work):
    """One block's work on one input.

    Tokens are [B, C x H x W, D]; a band of them is [B, C, h, W, D], shifted.
    """

    def __init__(self, forward: BlockForward, lay: WindowLayout, bands: int, rollout_step: int) -> None:
        self.module = forward.block
        self._forward = forward
        self._lay = lay
        self._rows = lay.split(bands)
        self._rollout_step = rollout_step
        self.bands = len(self._rows)

    def whole(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Run everything at once, for autograd to follow."""
        rows = range(self._rows[0].start, self._rows[-1].stop)
        context = self._shifted(c) if c.ndim == 3 else c
        grid = self._forward.run(self._lay, rows, self._shifted(x), context, self._rollout_step)
        return self._rolled(grid, 1, (1, 2, 3)).reshape(x.shape)

    def read(self, whole: torch.Tensor, band: int) -> torch.Tensor:
        """Take a band out of tokens; a view where nothing is shifted."""
        grid = self._grid(whole)
        parts = [grid[:, :, rows] for rows in self._latitudes(band)]
        return self._rolled(_joined(parts, dim=2), -1, (1, 3))

    def run(self, band: int, inputs: Tensors) -> Tensors:
        """Run one band of tokens in its context."""
        grid, context = inputs
        return (self._forward.run(self._lay, self._rows[band], grid, context, self._rollout_step),)

    def allocate(self, like: torch.Tensor) -> torch.Tensor:
        """Make room for tokens."""
        depth, height, width = self._lay.resolution
        return like.new_empty(like.shape[0], depth * height * width, like.shape[-1])

    def write(self, whole: torch.Tensor, band: int, part: torch.Tensor) -> None:
        """Put a band back among the tokens."""
        grid = self._grid(whole)
        rows = self._latitudes(band)
        sizes = [part_rows.stop - part_rows.start for part_rows in rows]
        parts = torch.split(self._rolled(part, 1, (1, 3)), sizes, dim=2)
        for part_rows, values in zip(rows, parts, strict=True):
            grid[:, :, part_rows] = values

    def _latitudes(self, band: int) -> list[slice]:
        """Where a band's latitudes were before the shift; a band at the seam lies at both ends."""
        height, shift = self._lay.resolution[1], self._lay.shift[1]
        start, stop = self._lay.latitudes(self._rows[band])
        start, stop = start + shift, stop + shift
        pieces = [(start, min(stop, height)), (max(start, height) - height, stop - height)]
        return [slice(first, last) for first, last in pieces if last > first]

    def _grid(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.view(tokens.shape[0], *self._lay.resolution, tokens.shape[2])

    def _shifted(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._rolled(self._grid(tokens), -1, (1, 2, 3))

    def _rolled(self, grid: torch.Tensor, sign: int, axes: tuple[int, ...]) -> torch.Tensor:
        """Roll [B, C, h, W, D] by the shift along some of C, H and W, or back."""
        shifts = [sign * self._lay.shift[axis - 1] for axis in axes]
        if not any(shifts):
            return grid
        return torch.roll(grid, shifts, axes)


Segment = Callable[[BlockWork, torch.Tensor, torch.Tensor], torch.Tensor]
"""Does a block's work on tokens in their context: at once or in bands, and once or once more in the backward pass."""


def residual(
    block: Swin3DTransformerBlock, norm: AdaptiveLayerNorm, x: torch.Tensor, branch: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """``x`` + drop path of the normalised branch, through upstream's modules."""
    return torch.as_tensor(x + block.drop_path(norm(branch, c)))


def compiled_residual(
    block: Swin3DTransformerBlock, norm: AdaptiveLayerNorm, x: torch.Tensor, branch: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """The same in one compiled kernel, which neither writes nor keeps what lies between."""
    modulation = norm.ln_modulation(c)
    if c.ndim == 2:
        modulation = modulation.unsqueeze(1)
    shift, scale = modulation.chunk(2, dim=-1)
    normalised = _fused()(branch, norm.scale_bias + scale, shift, norm.ln.eps)
    return torch.as_tensor(x + block.drop_path(normalised))


@cache
def _fused() -> Callable[..., torch.Tensor]:
    def modulate(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=eps) * scale + shift

    return torch.compile(modulate, dynamic=True)


class MaskedRun:
    """A run of windows, with its mask on the device.

    Attributes:
        windows: Number of windows, for one sample.
        mask: What is added to scores, [N, N], or [windows, 1, N, N] where the windows differ; None for nothing.
    """

    def __init__(self, run: WindowRun, like: torch.Tensor) -> None:
        self.windows = run.windows
        self.mask: torch.Tensor | None = None
        if run.apart is not None:
            apart = torch.from_numpy(run.apart).to(like.device)
            mask = torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, _APART)
            # Of masks that differ, each is for all heads.
            self.mask = mask if mask.ndim == 2 else mask.unsqueeze(1)


def attend(attn: WindowAttention, x: torch.Tensor, runs: list[MaskedRun], rollout_step: int) -> torch.Tensor:
    """Attend within windows.

    Args:
        attn: Upstream's module.
        x: Tokens, [windows x B, N, D], windows outermost.
        runs: Runs of the windows.
        rollout_step: Number of the roll-out step, for upstream's roll-out LoRA.

    Returns:
        As ``x``.
    """
    qkv = attn.qkv(x)
    has_lora = isinstance(attn.lora_qkv, torch.nn.Module)
    if has_lora:
        qkv = qkv + attn.lora_qkv(x, rollout_step)
    # Windows are outermost, so that those of a run lie together for all samples: no copies to split them.
    samples = x.shape[0] // sum(run.windows for run in runs)
    dropout = attn.attn_drop if attn.training else 0.0
    parts = qkv.split([run.windows * samples for run in runs])
    # Upstream's own for fp16, where scores could overflow; it keeps them all.
    kernel = fp16_safe_scaled_dot_product_attention if attn.use_fp16_safe_attention else F.scaled_dot_product_attention
    out = [_attend_run(part, run, attn.num_heads, dropout, kernel) for part, run in zip(parts, runs, strict=True)]
    x = _joined(out)
    # A prefix is called here, between attention and projection, because upstream's own attention does not run.
    if (prefix := prefix_of(attn)) is not None:
        x = prefix(x, qkv)
    result = attn.proj(x)
    if has_lora:
        result = result + attn.lora_proj(x, rollout_step)
    dropped: torch.Tensor = attn.proj_drop(result)
    return dropped


def _attend_run(
    qkv: torch.Tensor, run: MaskedRun, heads: int, dropout: float, kernel: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Attend within one run, [windows x B, N, 3 D] to [windows x B, N, D]."""
    windows, tokens, width = qkv.shape
    whole = qkv.view(windows, tokens, 3, heads, width // (3 * heads))
    mask = run.mask
    # A mask for each window serves all samples, which lie next to each other.
    if mask is not None and mask.ndim == 4:
        mask = mask.repeat_interleave(windows // run.windows, dim=0)
    done = []
    for start in range(0, len(whole), _MOST_WINDOWS):
        q, k, v = whole[start : start + _MOST_WINDOWS].permute(2, 0, 3, 1, 4).unbind(0)
        part = mask
        if mask is not None and mask.ndim == 4:
            part = mask[start : start + _MOST_WINDOWS]
        done.append(kernel(q, k, v, attn_mask=part, dropout_p=dropout).transpose(1, 2))
    return _joined(done).reshape(windows, tokens, width // 3)


def _joined(parts: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Put parts together; a single one is not copied."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=dim)


def _partition(grid: torch.Tensor, lay: WindowLayout, rows: range) -> torch.Tensor:
    """Cut [B, C, h, W, D] into windows, [windows x B, N, D]; windows by level, latitude, longitude."""
    # From the last axis to the first, as ``pad`` wants it; D stays as it is.
    padding = (0, 0, *lay.padding[2], *lay.pad_rows(rows), *lay.padding[0])
    if any(padding):
        grid = F.pad(grid, padding)
    samples, depth, height, width, channels = grid.shape
    c, h, w = lay.window
    cut = grid.view(samples, depth // c, c, height // h, h, width // w, w, channels)
    return cut.permute(1, 3, 5, 0, 2, 4, 6, 7).reshape(-1, c * h * w, channels)


def _merge(windows: torch.Tensor, shape: torch.Size, lay: WindowLayout, rows: range) -> torch.Tensor:
    """Inverse of ``_partition``: back to [B, C, h, W, D] of ``shape``."""
    samples, depth, height, width, channels = shape
    c, h, w = lay.window
    (front, back), (top, bottom), (left, right) = lay.padding[0], lay.pad_rows(rows), lay.padding[2]
    full = (depth + front + back, height + top + bottom, width + left + right)
    cut = windows.view(full[0] // c, full[1] // h, full[2] // w, samples, c, h, w, channels)
    grid = cut.permute(3, 0, 4, 1, 5, 2, 6, 7).reshape(samples, *full, channels)
    return grid[:, front : front + depth, top : top + height, left : left + width]
