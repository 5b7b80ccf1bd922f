"""Distances from averages over all pairs of points, in blocks, so that a hundred thousand points fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interpolants.metrics._points import two_sets

__all__ = ["energy_distance", "mmd"]

_PAIRS_AT_ONCE = 1 << 21
_POINTS_FOR_MEDIAN = 1000


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = False) -> float:
    r"""Return the energy distance between two point sets.

    .. math::
        2\,E|x - y| - E|x - x'| - E|y - y'|

    as it stands: no root is taken, so doubling all points doubles it. Only equal distributions are at zero.

    Args:
        x: Points, shape ``(n, *D)``.
        y: Points, shape ``(m, *D)``.
        unbiased: Whether the averages within a set leave out the pairs of a point with itself. The default
            keeps them: the value then is never negative, and zero for equal sets, but too large by a term
            that falls like ``1/n``. Without them its mean is right and it may be slightly negative.

    Returns:
        The distance, in the units of the points.

    Raises:
        ValueError: If the sets differ in the shape of a point or in device, are not finite, or have no
            points, or less than 2 if ``unbiased``.

    Source:
        Székely and Rizzo, Energy statistics: a class of statistics based on distances (2013).

    Example:
        >>> import torch
        >>> energy_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0], [3.0]]))
        6.0
    """
    x, y = two_sets(x, y, at_least=2 if unbiased else 1)
    return (
        2 * _mean(x, y, _distance)
        - _mean_within(x, _distance, unbiased=unbiased)
        - _mean_within(y, _distance, unbiased=unbiased)
    )


def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    r"""Return the unbiased estimate of the **squared** maximum mean discrepancy with a Gaussian kernel.

    .. math::
        E\,k(x, x') + E\,k(y, y') - 2\,E\,k(x, y), \qquad k(x, y) = \exp\big(-|x - y|^2 / (2 h^2)\big)

    where the averages within a set leave out the pairs of a point with itself. No root is taken, since the
    estimate may be slightly negative for sets that are alike; its mean is then zero.

    Args:
        x: Points, shape ``(n, *D)``.
        y: Points, shape ``(m, *D)``.
        bandwidth: The width ``h`` of the kernel, above 0. None takes the median distance between two points
            of both sets together, of 1000 evenly spaced entries of each where there are more. Name a
            bandwidth to compare values with each other: the median moves with the points.

    Returns:
        The estimate, at most 2.

    Raises:
        ValueError: If the sets differ in the shape of a point or in device, are not finite or have less than
            2 points, if ``bandwidth`` is not above 0, or if None finds a median of zero.

    Source:
        Gretton et al., A kernel two-sample test, section 2.2 (2012).

    Example:
        >>> import torch
        >>> x = torch.zeros(5, 2)
        >>> mmd(x, x + 100, bandwidth=1.0)
        2.0
    """
    x, y = two_sets(x, y, at_least=2)
    width = _median_distance(x, y) if bandwidth is None else bandwidth
    if not width > 0:
        found = "the median distance is 0: name a bandwidth" if bandwidth is None else f"not {bandwidth}"
        raise ValueError(f"bandwidth must be above 0; {found}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return _distance(a, b).div_(width).square_().mul_(-0.5).exp_()

    within = _mean_within(x, kernel, unbiased=True) + _mean_within(y, kernel, unbiased=True)
    return within - 2 * _mean(x, y, kernel)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y)


def _mean(x: Tensor, y: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the mean of the function over all pairs; it maps (n, d) and (m, d) to (n, m)."""
    blocks = torch.split(x, max(1, _PAIRS_AT_ONCE // len(y)))
    return torch.stack([function(block, y).sum() for block in blocks]).sum().item() / (len(x) * len(y))


def _mean_within(x: Tensor, function: Callable[[Tensor, Tensor], Tensor], *, unbiased: bool) -> float:
    """Return the mean over the pairs of a set; unbiased leaves out those of a point with itself."""
    n, mean = len(x), _mean(x, x, function)
    if not unbiased:
        return mean
    itself = function(x[:1], x[:1]).item()  # the same for every point
    return (n * mean - itself) / (n - 1)


def _median_distance(x: Tensor, y: Tensor) -> float:
    some = [points[:: -(-len(points) // _POINTS_FOR_MEDIAN)] for points in (x, y)]
    return torch.pdist(torch.cat(some)).median().item()
