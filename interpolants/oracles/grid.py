"""The velocity estimated on a grid from samples alone, for any interpolant and any densities."""

from __future__ import annotations

import torch
from torch import Tensor

from interpolants._tensors import Time
from interpolants.interpolant import Interpolant


def field_on_grid(
    interpolant: Interpolant,
    x0: Tensor,
    x1: Tensor,
    t: Time,
    *,
    bounds: tuple[float, float, float, float],
    resolution: int = 64,
    least: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the average of :math:`\dot x_t` over the samples that fall in each cell of a grid.

    As samples grow and cells shrink this tends to the exact velocity :math:`b(t, x)`.

    Args:
        interpolant: The path.
        x0: Source points, shape ``(N, 2)``.
        x1: Target points, row by row coupled with ``x0``, shape ``(N, 2)``.
        t: One time.
        bounds: Left, right, bottom and top of the grid.
        resolution: The number of cells along each side.
        least: Cells with fewer samples are nan.
        generator: Where the latent noise is drawn from.

    Returns:
        The field, shape ``(resolution, resolution, 2)``: row 0 at the bottom, column 0 at the left.

    Raises:
        ValueError: When points are not in the plane, or the bounds enclose nothing.

    Example:
        >>> from interpolants import Linear
        >>> x0 = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
        >>> field = field_on_grid(
        ...     Linear(), x0, x0 + 1, 0.0, bounds=(0.0, 1.0, 0.0, 1.0), resolution=2, least=1
        ... )
        >>> field[:, :, 0]
        tensor([[1., nan],
                [nan, 1.]])
    """
    left, right, bottom, top = bounds
    if x0.ndim != 2 or x0.shape[1] != 2:
        raise ValueError(f"the grid is in the plane: x0 must have shape (N, 2); got {tuple(x0.shape)}")
    if not (left < right and bottom < top) or resolution < 1:
        raise ValueError(
            f"bounds must enclose an area and resolution be positive; got {bounds}, {resolution}"
        )
    sample = interpolant.sample(t, x0, x1, generator=generator)
    corner, size = x0.new_tensor([left, bottom]), x0.new_tensor([right - left, top - bottom])
    cell = ((sample.xt - corner) / size * resolution).floor().long()
    inside = ((cell >= 0) & (cell < resolution)).all(dim=1)
    index = (cell[:, 1] * resolution + cell[:, 0])[inside]
    count = torch.bincount(index, minlength=resolution**2)
    total = x0.new_zeros(resolution**2, 2).index_add_(0, index, sample.xt_dot[inside])
    mean = torch.where(count.unsqueeze(1) >= least, total / count.unsqueeze(1), torch.nan)
    return mean.reshape(resolution, resolution, 2)


def grid_points(bounds: tuple[float, float, float, float], resolution: int = 64) -> Tensor:
    """Return the centres of the cells of :func:`field_on_grid`, shape ``(resolution, resolution, 2)``.

    Args:
        bounds: Left, right, bottom and top of the grid.
        resolution: The number of cells along each side.

    Example:
        >>> grid_points((0.0, 1.0, 0.0, 1.0), resolution=2)[0, 1]
        tensor([0.7500, 0.2500])
    """
    left, right, bottom, top = bounds
    steps = (torch.arange(resolution) + 0.5) / resolution
    y, x = torch.meshgrid(bottom + (top - bottom) * steps, left + (right - left) * steps, indexing="ij")
    return torch.stack([x, y], dim=-1)
