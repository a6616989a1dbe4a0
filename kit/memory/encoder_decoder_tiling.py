"""Encoder and decoder, run on bands of latitudes.

Both are local to a patch: only the backbone mixes patches (``aurora/model/encoder.py``, ``decoder.py``). So each
can be run on some rows of patches at a time and the results put together, with the same values bit for bit on a
CPU, and what it holds while it runs, or while it is recomputed, falls with the number of bands. On the small model
8 bands take a step's peak from 2.73 to 2.28 GiB, in the same time (``docs/benchmarks.md``).

Dimensions: B batch, C latent levels, H and W patches, D width.
"""

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from aurora import Batch
from aurora.model.decoder import Perceiver3DDecoder
from aurora.model.encoder import Perceiver3DEncoder

from kit.io.errors import SettingsError
from kit.memory.recompute import InputKeeper, Recomputation
from kit.memory.tiling import Tensors, Work, run_bands

Triple = tuple[int, int, int]

# Grids of CUDA's fused attention kernels hold at most so many patches (PyTorch issue 146704).
_MOST_PATCHES = 65535


class BandedEncoder:
    """Replaces ``forward`` of the encoder.

    Its inputs are a whole batch, through which gradients may flow: the air-pollution model's are learned. So each
    band is left to ``torch.utils.checkpoint``.
    """

    def __init__(self, encoder: Perceiver3DEncoder, bands: int, segment: Recomputation) -> None:
        self._module = encoder
        self._forward = encoder.forward
        self._bands = bands
        self._segment = segment

    def __call__(self, batch: Batch, lead_times: torch.Tensor) -> torch.Tensor:
        """Encode, band by band.

        Args:
            batch: Batch as upstream's encoder takes it.
            lead_times: Lead times, [B], hours.

        Returns:
            Tokens, [B, C x H x W, D].
        """
        patch = self._module.patch_size
        sizes = _band_sizes(batch, self._bands, patch)
        width = batch.spatial_shape[1] // patch
        done = []
        for size, band in zip(sizes, _cut(batch, sizes, patch), strict=True):
            tokens = self._segment(self._module, self._forward, band, lead_times)
            done.append(tokens.view(tokens.shape[0], self._module.latent_levels, size, width, tokens.shape[2]))
        return torch.cat(done, dim=2).flatten(1, 3)


class BandedDecoder:
    """Replaces ``forward`` of the decoder."""

    def __init__(self, decoder: Perceiver3DDecoder, bands: int, keeper: InputKeeper) -> None:
        self._module = decoder
        self._forward = decoder.forward
        self._bands = bands
        self._keeper = keeper

    def __call__(self, x: torch.Tensor, batch: Batch, patch_res: Triple, lead_times: torch.Tensor) -> Batch:
        """Decode, band by band.

        Args:
            x: Tokens, [B, C x H x W, D].
            batch: The input, whose variables and coordinates the prediction takes.
            patch_res: C, H and W.
            lead_times: Lead times, [B], hours.
        """
        patch = self._module.patch_size
        sizes = _band_sizes(batch, self._bands, patch)
        work = _DecoderWork(self._module, self._forward, _cut(batch, sizes, patch), sizes, patch_res, lead_times)
        surface, atmospheric = run_bands(work, self._keeper, (x,))
        assert work.example is not None
        # As upstream's decoder does (``aurora/model/decoder.py``).
        lat, lon = batch.metadata.lat.to(torch.float32), batch.metadata.lon.to(torch.float32)
        return Batch(
            dict(zip(work.example.surf_vars, surface.unbind(1), strict=True)),
            batch.static_vars,
            dict(zip(work.example.atmos_vars, atmospheric.unbind(1), strict=True)),
            dataclasses.replace(work.example.metadata, lat=lat, lon=lon),
        )


class _DecoderWork(Work):
    """The decoder's work: tokens [B, C x H x W, D] to variables, [B, V, H, W] and [B, V, levels, H, W] in points."""

    module: Perceiver3DDecoder

    def __init__(
        self,
        decoder: Perceiver3DDecoder,
        forward: Callable[..., Batch],
        batches: list[Batch],
        sizes: list[int],
        patch_res: Triple,
        lead_times: torch.Tensor,
    ) -> None:
        self.module = decoder
        self.bands = len(sizes)
        self.example: Batch | None = None
        self._forward = forward
        self._batches = batches
        self._edges = np.cumsum([0, *sizes]).tolist()
        self._patch_res = patch_res
        self._lead_times = lead_times

    def read(self, whole: torch.Tensor, band: int) -> torch.Tensor:
        """Take rows of patches, [B, C, h, W, D]."""
        grid = whole.view(whole.shape[0], *self._patch_res, whole.shape[2])
        return grid[:, :, self._edges[band] : self._edges[band + 1]]

    def run(self, band: int, inputs: Tensors) -> Tensors:
        """Decode rows of patches."""
        (grid,) = inputs
        decoded = self._forward(
            grid.flatten(1, 3), self._batches[band], tuple(grid.shape[1:4]), lead_times=self._lead_times
        )
        # Names and times; a band's values are no use to whoever asks for these.
        self.example = dataclasses.replace(
            decoded, surf_vars=dict.fromkeys(decoded.surf_vars), atmos_vars=dict.fromkeys(decoded.atmos_vars)
        )
        return torch.stack([*decoded.surf_vars.values()], 1), torch.stack([*decoded.atmos_vars.values()], 1)

    def allocate(self, like: torch.Tensor) -> torch.Tensor:
        """Make room for tokens."""
        return like.new_empty(like.shape[0], math.prod(self._patch_res), like.shape[-1])

    def write(self, whole: torch.Tensor, band: int, part: torch.Tensor) -> None:
        """Put rows of patches among the tokens."""
        self.read(whole, band).copy_(part)

    def read_output(self, whole: torch.Tensor, band: int) -> torch.Tensor:
        """Take rows of points."""
        patch = self.module.patch_size
        return whole[..., self._edges[band] * patch : self._edges[band + 1] * patch, :]

    def allocate_output(self, like: torch.Tensor) -> torch.Tensor:
        """Make room for variables."""
        height = self._patch_res[1] * self.module.patch_size
        return like.new_empty(*like.shape[:-2], height, like.shape[-1])

    def write_output(self, whole: torch.Tensor, band: int, part: torch.Tensor) -> None:
        """Put rows of points where they belong."""
        self.read_output(whole, band).copy_(part)


def _band_sizes(batch: Batch, bands: int, patch: int) -> list[int]:
    """Divide rows of patches among bands, as evenly as possible.

    Raises:
        SettingsError: there are fewer rows than bands, or a band is too much for the GPU's attention kernels.
    """
    height, width = batch.spatial_shape
    rows = height // patch
    if bands > rows:
        msg = f"memory.latitude_bands is {bands}, but the grid has {rows} rows of patches; use at most {rows}"
        raise SettingsError(msg)
    sizes: list[int] = np.diff(np.linspace(0, rows, bands + 1).round().astype(int)).tolist()
    values = next(iter(batch.surf_vars.values()))
    patches = values.shape[0] * (width // patch)
    if values.is_cuda and max(sizes) * patches > _MOST_PATCHES:
        least = -(-rows // max(_MOST_PATCHES // patches, 1))
        msg = (
            f"memory.latitude_bands is {bands}: a band holds {max(sizes) * patches} patches, but CUDA's "
            f"attention kernels take at most {_MOST_PATCHES} at a time; use at least {least}"
        )
        raise SettingsError(msg)
    return sizes


def _cut(batch: Batch, sizes: list[int], patch: int) -> list[Batch]:
    """Cut a batch into bands of rows; views, no copies."""
    bands = []
    for start, stop in pairwise((np.cumsum([0, *sizes]) * patch).tolist()):
        rows = slice(start, stop)
        lat, lon = batch.metadata.lat[rows], batch.metadata.lon
        # On a curvilinear grid longitudes have rows as well.
        if lon.dim() > 1:
            lon = lon[rows]
        variables = (_rows(values, rows) for values in (batch.surf_vars, batch.static_vars, batch.atmos_vars))
        bands.append(Batch(*variables, dataclasses.replace(batch.metadata, lat=lat, lon=lon)))
    return bands


def _rows(variables: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[..., rows, :] for name, value in variables.items()}
