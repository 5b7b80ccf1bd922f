"""The point sets in the plane that papers are used to, each a function that draws from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["checkerboard", "eight_gaussians", "moons", "ring", "two_spirals"]


def checkerboard(n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Return points uniform on 8 of the 16 cells of [-4, 4] x [-4, 4], like the dark fields of a board.

    Args:
        n: How many points, at least 0.
        generator: Source of randomness; its device is where the points are.

    Returns:
        Points, shape ``(n, 2)``.

    Raises:
        ValueError: If ``n`` is negative.

    Example:
        >>> import torch
        >>> x = checkerboard(1000, generator=torch.Generator().manual_seed(0))
        >>> bool(((x / 2).floor().sum(dim=1) % 2 == 0).all())
        True
    """
    cell = _integers(8, n, generator)
    row = cell // 2
    column = 2 * (cell % 2) + row % 2
    return 2 * (torch.stack((column, row), dim=1) + _uniform(n, 2, generator)) - 4


def eight_gaussians(n: int, *, std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Return points of eight equally likely Gaussians centred on a circle of radius 5.

    Args:
        n: How many points, at least 0.
        std: Standard deviation of each Gaussian, at least 0.
        generator: Source of randomness; its device is where the points are.

    Returns:
        Points, shape ``(n, 2)``.

    Raises:
        ValueError: If ``n`` or ``std`` is negative.

    Example:
        >>> eight_gaussians(3, std=0.1).shape
        torch.Size([3, 2])
    """
    return _circle(_integers(8, n, generator) * (math.pi / 4), 5.0) + _noise(n, std, generator)


def moons(n: int, *, std: float = 0.05, generator: torch.Generator | None = None) -> Tensor:
    """Return points of two interleaved half-circles of radius 1 with Gaussian noise.

    The upper one is centred at (-0.5, -0.25), the lower one at (0.5, 0.25).

    Args:
        n: How many points, at least 0.
        std: Standard deviation of the noise, at least 0.
        generator: Source of randomness; its device is where the points are.

    Returns:
        Points, shape ``(n, 2)``.

    Raises:
        ValueError: If ``n`` or ``std`` is negative.

    Example:
        >>> moons(3).shape
        torch.Size([3, 2])
    """
    side = 1.0 - 2.0 * _integers(2, n, generator)[:, None]
    upper = _circle(math.pi * _uniform(n, 1, generator).squeeze(1), 1.0) - torch.tensor([0.5, 0.25]).to(side)
    return side * upper + _noise(n, std, generator)


def two_spirals(n: int, *, std: float = 0.1, generator: torch.Generator | None = None) -> Tensor:
    """Return points of two spirals of one and a half turns, ending at radius 4, with Gaussian noise.

    Args:
        n: How many points, at least 0.
        std: Standard deviation of the noise, at least 0.
        generator: Source of randomness; its device is where the points are.

    Returns:
        Points, shape ``(n, 2)``.

    Raises:
        ValueError: If ``n`` or ``std`` is negative.

    Example:
        >>> two_spirals(3).shape
        torch.Size([3, 2])
    """
    side = 1.0 - 2.0 * _integers(2, n, generator)[:, None]
    progress = _uniform(n, 1, generator).sqrt()  # the root spreads the points evenly along the arm
    arm = _circle(3 * math.pi * progress.squeeze(1), 1.0) * 4 * progress
    return side * arm + _noise(n, std, generator)


def ring(
    n: int, *, radius: float = 4.0, std: float = 0.2, generator: torch.Generator | None = None
) -> Tensor:
    """Return points of a circle about the origin with Gaussian noise.

    Args:
        n: How many points, at least 0.
        radius: Radius of the circle, at least 0.
        std: Standard deviation of the noise, at least 0.
        generator: Source of randomness; its device is where the points are.

    Returns:
        Points, shape ``(n, 2)``.

    Raises:
        ValueError: If ``n``, ``radius`` or ``std`` is negative.

    Example:
        >>> import torch
        >>> torch.allclose(ring(3, radius=2.0, std=0.0).norm(dim=1), torch.tensor(2.0))
        True
    """
    if not radius >= 0:
        raise ValueError(f"radius must be at least 0, not {radius}")
    return _circle(2 * math.pi * _uniform(n, 1, generator).squeeze(1), radius) + _noise(n, std, generator)


def _circle(angle: Tensor, radius: float) -> Tensor:
    return radius * torch.stack((angle.cos(), angle.sin()), dim=1)


def _integers(high: int, n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randint(high, (_count(n),), generator=generator, device=_home(generator))


def _uniform(n: int, dim: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(_count(n), dim, generator=generator, device=_home(generator))


def _noise(n: int, std: float, generator: torch.Generator | None) -> Tensor:
    if not std >= 0:
        raise ValueError(f"std must be at least 0, not {std}")
    return std * torch.randn(n, 2, generator=generator, device=_home(generator))


def _count(n: int) -> int:
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}")
    return n


def _home(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device
