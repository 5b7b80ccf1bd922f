"""Optimal transport between point sets, and the energy of a path."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from interpolants.metrics._points import two_sets

__all__ = ["path_energy", "sliced_wasserstein2", "wasserstein2"]

_PROJECTIONS_AT_ONCE = 16


def wasserstein2(x: Tensor, y: Tensor) -> float:
    r"""Return the exact 2-Wasserstein distance between two sets of equally many points.

    .. math::
        W_2(x, y) = \Big(\min_\pi \frac1n \sum_i |x_i - y_{\pi(i)}|^2\Big)^{1/2}

    over the permutations of the points, in double precision. Time grows like ``n**3`` and memory like
    ``n**2``: a few thousand points take seconds.

    Args:
        x: Points, shape ``(n, *D)``.
        y: Points, shape ``(n, *D)``.

    Returns:
        The distance, in the units of the points.

    Raises:
        ValueError: If the sets differ in size, in the shape of a point or in device, or are empty or not
            finite.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> wasserstein2(x, x.flip(0) + 3)
        3.0
    """
    from scipy.optimize import linear_sum_assignment

    x, y = two_sets(x, y)
    if len(x) != len(y):
        raise ValueError(
            f"wasserstein2 needs equally many points on both sides, not {len(x)} and {len(y)}; "
            "sliced_wasserstein2 and energy_distance take sets of different sizes"
        )
    rows, columns = linear_sum_assignment(torch.cdist(x, y).square().cpu().numpy())
    matched = x[torch.from_numpy(rows).to(x.device)] - y[torch.from_numpy(columns).to(y.device)]
    return math.sqrt(matched.square().sum(dim=1).mean().item())


def sliced_wasserstein2(
    x: Tensor, y: Tensor, *, projections: int = 256, generator: torch.Generator | None = None
) -> float:
    r"""Return the sliced 2-Wasserstein distance, averaged over random directions.

    .. math::
        SW_2(x, y) = \Big(\frac1P \sum_p W_2(\theta_p \cdot x, \theta_p \cdot y)^2\Big)^{1/2}

    with :math:`\theta_p` uniform on the unit sphere: the mean of the squared distances first, then the root,
    and no factor for the dimension. A shift by ``s`` in ``d`` dimensions is therefore about ``|s| / sqrt(d)``
    long. On a line the distance between two sets, also of different sizes, is exact.

    Args:
        x: Points, shape ``(n, *D)``.
        y: Points, shape ``(m, *D)``.
        projections: The number of directions, at least 1.
        generator: Source of the directions; its device is where they are drawn.

    Returns:
        The distance, in the units of the points.

    Raises:
        ValueError: If the sets differ in the shape of a point or in device, are empty or not finite, or if
            ``projections`` is below 1.

    Source:
        Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, section 2 (2015).

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein2(x, torch.tensor([[2.0], [2.0], [3.0], [3.0]]))
        2.0
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, not {projections}")
    x, y = two_sets(x, y)
    home = x.device if generator is None else generator.device
    directions = torch.randn(x.shape[1], projections, generator=generator, device=home, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    squares = [
        _squared_on_lines(x @ some, y @ some) for some in directions.split(_PROJECTIONS_AT_ONCE, dim=1)
    ]
    return math.sqrt(torch.cat(squares).mean().item())


def path_energy(trajectory: Tensor, t: Tensor) -> float:
    r"""Return the kinetic energy of the path that the points take, averaged over the points.

    .. math::
        \frac1B \sum_b \sum_k \frac{|x_{k+1,b} - x_{k,b}|^2}{|t_{k+1} - t_k|}

    This is the integral of the squared speed along straight pieces. It is never below the squared distance
    between the ends when t goes from 0 to 1, and equals it for straight paths of constant speed.

    Args:
        trajectory: Points at every time, shape ``(T, B, *D)``, with T at least 2.
        t: The times, shape ``(T,)``, strictly rising or, for a reversed trajectory, strictly falling.

    Returns:
        The energy.

    Raises:
        ValueError: If the shapes do not fit, or the times do not rise or fall strictly.

    Example:
        >>> import torch
        >>> t = torch.tensor([0.0, 0.25, 1.0])
        >>> path_energy(3 * t[:, None, None].expand(3, 5, 1), t)
        9.0
    """
    if trajectory.ndim < 2 or trajectory.shape[0] < 2 or trajectory.numel() == 0:
        raise ValueError(
            f"trajectory must have shape (T, B, *D), T at least 2, not {tuple(trajectory.shape)}"
        )
    if t.shape != trajectory.shape[:1]:
        raise ValueError(f"t must have shape ({trajectory.shape[0]},), not {tuple(t.shape)}")
    steps = t.detach().double().diff().to(trajectory.device)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("t must rise strictly or fall strictly")
    moves = trajectory.detach().double().diff(dim=0).flatten(1).square().sum(dim=1)
    return (moves / steps.abs()).sum().item() / trajectory.shape[1]


def _squared_on_lines(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared W2 of each pair of columns, shapes (n, P) and (m, P), by matching quantiles."""
    n, m = len(x), len(y)
    # Both quantile functions are constant between these levels, counted in units of 1 / (n m).
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    weights = torch.from_numpy(np.diff(levels) / (n * m)).to(x)
    i, j = (torch.from_numpy(levels[:-1] // size).to(x.device) for size in (m, n))
    gaps = x.sort(dim=0).values[i] - y.sort(dim=0).values[j]
    return (weights[:, None] * gaps.square()).sum(dim=0)
