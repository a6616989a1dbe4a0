"""A prompt: a learned term that is added to what the encoder gives, before the backbone.

Prompts of vision transformers are further tokens (Jia et al. 2022). Aurora's backbone takes exactly one token for
each latent level and patch (``aurora/model/swin3d.py`` asserts it), so the prompt is added to those tokens instead:
one vector for each latent level, everywhere the same, or one for each latent level and cell of a coarse grid.

The coarse grid belongs to the globe, not to the model's grid: its cells divide all latitudes and longitudes evenly,
and a patch gets what lies at its own place, between the centres of cells, bilinearly. So the same prompt is right for
a region, for another resolution, and for a region after the globe; a region moves only the cells that it touches.
Longitudes wrap; beyond the centres of the first and the last row, towards the poles, values stay as they are there.

Dimensions: B batch, C latent levels, D width; H and W rows and columns of patches, h and w of coarse cells.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from aurora import Aurora, Batch

from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError

Axis = npt.NDArray[np.float64]


class Prompt(torch.nn.Module):
    """The learned term, in fp32; zero at the start.

    Args:
        levels: latent levels of the encoder.
        width: of its tokens.
        patch: side of a patch in grid points.
        coarse: rows and columns of cells of the globe that have a vector each; None for one vector.
        device: of the encoder.

    Attributes:
        term: [C, D], or [C, h, w, D].
    """

    def __init__(
        self, levels: int, width: int, patch: int, coarse: tuple[int, int] | None, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.term = torch.nn.Parameter(torch.zeros(levels, *(coarse or ()), width, device=device))
        self._patch = patch

    def forward(self, tokens: torch.Tensor, latitude: torch.Tensor, longitude: torch.Tensor) -> torch.Tensor:
        """Add the term to the encoder's tokens.

        Args:
            tokens: [B, C x H x W, D].
            latitude: of grid points, degrees, [H x patch], or [H x patch, W x patch] for curvilinear grids.
            longitude: likewise, [W x patch] or [H x patch, W x patch].

        Returns:
            As ``tokens``.
        """
        term = self.term.to(tokens.dtype)
        levels = term.shape[0]
        if term.ndim == 2:
            return (tokens.reshape(tokens.shape[0], levels, -1, tokens.shape[2]) + term[:, None]).flatten(1, 2)
        # The term at every patch, [C, H x W, D]. As products with matrices of weights: to gather from four corners adds
        # gradients up in no fixed order on a GPU.
        latitude, longitude = latitude.to(term.device), longitude.to(term.device)
        rows = _between((90 - _centres(latitude, self._patch)) / 180, term.shape[1], wraps=False).to(term.dtype)
        columns = _between(_centres(longitude, self._patch) / 360, term.shape[2], wraps=True).to(term.dtype)
        if latitude.ndim == 1:
            # One axis after the other, the longer one last: the least arithmetic, and nothing to keep.
            along_rows = torch.einsum("ph,chwd->cpwd", rows, term)
            placed = torch.einsum("qw,cpwd->cpqd", columns, along_rows).flatten(1, 2)
        else:
            cells = (rows[..., :, None] * columns[..., None, :]).flatten(-2).flatten(0, 1)
            placed = torch.einsum("pk,ckd->cpd", cells, term.flatten(1, 2))
        return tokens + placed.flatten(0, 1)

    def add(
        self, _encoder: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], tokens: torch.Tensor
    ) -> torch.Tensor:
        """Act as forward hook of the encoder, called once for a batch, in however many bands the encoder ran."""
        batch = args[0] if args else kwargs.get("batch")
        assert isinstance(batch, Batch)
        added: torch.Tensor = self(tokens, batch.metadata.lat, batch.metadata.lon)
        return added


def _centres(coordinate: torch.Tensor, patch: int) -> torch.Tensor:
    """Mean of a coordinate over each patch, as in upstream's position encoding (``aurora/model/posencoding.py``)."""
    if coordinate.ndim == 1:
        return coordinate.reshape(-1, patch).mean(1)
    return F.avg_pool2d(coordinate[None], patch)[0]


def _between(share: torch.Tensor, cells: int, *, wraps: bool) -> torch.Tensor:
    """Weights of the two cells whose centres a place lies between.

    Args:
        share: of the way along an axis, [...].
        cells: that divide it evenly.
        wraps: the last cell lies beside the first.

    Returns:
        [..., cells]; they sum to one.
    """
    centres = torch.arange(cells, device=share.device)
    # In cells, counted from the centre of the first.
    place = (share * cells - 0.5)[..., None]
    if cells == 1 or not wraps:
        return (1 - (place.clamp(0, cells - 1) - centres).abs()).clamp(min=0)
    away = (place - centres).remainder(cells)
    return (1 - torch.minimum(away, cells - away)).clamp(min=0)


def attach(model: Aurora, settings: AdaptSettings) -> None:
    """Give the encoder a prompt, as its submodule ``prompt``, and let nothing else train."""
    model.requires_grad_(requires_grad=False)
    encoder = model.encoder
    device = encoder.surf_level_encoding.device
    prompt = Prompt(encoder.latent_levels, encoder.embed_dim, encoder.patch_size, settings.coarse_cells, device)
    # As a submodule, so that its parameter has a name among the model's.
    encoder.prompt = prompt
    encoder.register_forward_hook(prompt.add, with_kwargs=True)


def check_prompt_cells(settings: AdaptSettings, latitude: Axis, longitude: Axis, patch: int) -> None:
    """Check that no cell of the globe is smaller than the patches of a grid: some would lie in none.

    Args:
        settings: of what trains; all but those of a prompt with cells pass.
        latitude: of the grid, degrees; a vector, or a matrix of a curvilinear grid.
        longitude: of the grid, degrees.
        patch: side of a patch in grid points.

    Raises:
        SettingsError: says how many cells there may be.
    """
    coarse = settings.coarse_cells
    if coarse is None:
        return
    most = (_most_cells(180, latitude, 0, patch), _most_cells(360, longitude, -1, patch))
    if coarse[0] > most[0] or coarse[1] > most[1]:
        msg = (
            f"adapt.coarse: expected at most {most[0]}x{most[1]} cells of the globe, as many as patches of this grid "
            f"would cover it, got {settings.coarse}; cells smaller than a patch would train in part only"
        )
        raise SettingsError(msg)


def _most_cells(degrees: float, values: Axis, axis: int, patch: int) -> int:
    # The middle one: Gaussian latitudes are not quite even, and half a point of leeway is for what is no binary number.
    spacing = float(np.median(np.abs(np.diff(values, axis=axis))))
    return max(int((degrees / spacing + 0.5) // patch), 1)
