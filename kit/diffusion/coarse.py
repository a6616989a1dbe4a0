"""Fields on a coarser grid: means over squares of points, and their interpolation back.

Dimensions: B sample, C channel, H row, W column.
"""

import torch
from torch.nn import functional as F

from kit.diffusion.layers import padded_to


def averaged(values: torch.Tensor, side: int, *, circular: bool) -> torch.Tensor:
    """Take means over squares of points, [B, C, H / side, W / side], rounded up: fields are continued over their sides.

    Args:
        values: Fields, [B, C, H, W].
        side: Points along each side of a square.
        circular: Whether columns go around the globe.
    """
    if side == 1:
        return values
    return F.avg_pool2d(padded_to(values, side, circular=circular), side)


def interpolated(values: torch.Tensor, side: int, like: torch.Tensor, *, circular: bool) -> torch.Tensor:
    """Interpolate means over squares linearly in both directions; a linear field comes back but at its sides.

    Args:
        values: Means, [B, C, H / side, W / side].
        side: Points along each side of a square.
        like: Fields on the grid that is interpolated to, [..., H, W].
        circular: Whether columns go around the globe.
    """
    if side == 1:
        return values
    left = 0
    if circular:
        values, left = torch.cat([values[..., -1:], values, values[..., :1]], -1), side
    rows, columns = like.shape[-2:]
    finer = F.interpolate(values, scale_factor=side, mode="bilinear", align_corners=False)
    return finer[..., :rows, left : left + columns]
