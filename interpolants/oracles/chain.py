r"""The random chain of Iterative alpha-(de)Blending, and the shapes it is shown on.

Deblend: given ``x_t`` draw its ends from their posterior; blend: move to the next time with them. Every
``x_t`` has exactly the density of the interpolant, at any number of steps; as steps grow the chain
becomes deterministic and its mean step tends to the velocity (Heitz, Belcour and Chambon 2023,
arXiv 2305.03486).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from interpolants._tensors import Time, as_time, randn
from interpolants.interpolant import SpatiallyLinear
from interpolants.oracles.mixtures import check_path

Posterior = Callable[..., tuple[Tensor, ...]]
"""Called as ``posterior(t, x, generator=...)``; returns a draw of ``(x0, x1)`` or ``(x0, x1, z)``."""


class Shape(Protocol):
    """A density known by its samples and by how likely a point is, such as a uniform shape or an image."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``n`` independent points, shape ``(n, D)``."""
        ...

    def acceptance(self, x: Tensor) -> Tensor:
        """Return the density at ``x`` over its maximum, in [0, 1]: membership for a uniform shape."""
        ...


def deblending_chain(
    interpolant: SpatiallyLinear,
    posterior: Posterior,
    x0: Tensor,
    steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a draw of the random deblending chain from ``x0``.

    Args:
        interpolant: The path.
        posterior: Draws the ends given a point, called as ``posterior(t, x, generator=...)``; for
            example the ``posterior_sample`` of a :class:`MixtureOracle`.
        x0: Starting points, shape ``(B, *D)``.
        steps: The number of steps, at least 1.
        generator: Where all randomness comes from.

    Returns:
        The chain at times 0, 1/steps, ..., 1, shape ``(steps + 1, B, *D)``.

    Raises:
        ValueError: When ``steps`` is less than 1.

    Example:
        >>> from interpolants import GaussianMixture, Linear, MixtureOracle
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.eye(1)[None])
        >>> oracle = MixtureOracle(Linear(), normal, normal)
        >>> deblending_chain(Linear(), oracle.posterior_sample, torch.zeros(5, 1), steps=10).shape
        torch.Size([11, 5, 1])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    chain = [x0]
    for k in range(steps):
        ends = posterior(k / steps, chain[-1], generator=generator)
        chain.append(interpolant.sample((k + 1) / steps, *ends, generator=generator).xt)
    return torch.stack(chain)


def random_walk(
    interpolant: SpatiallyLinear,
    source: Shape,
    target: Shape,
    x0: Tensor,
    steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a draw of the random deblending chain between two shapes, by rejection.

    Args:
        interpolant: The path.
        source: The shape at t = 0, with ``sample`` and ``acceptance``.
        target: The shape at t = 1, likewise.
        x0: Starting points inside the source, shape ``(B, D)``.
        steps: The number of steps, at least 1.
        generator: Where all randomness comes from.

    Returns:
        The chain at times 0, 1/steps, ..., 1, shape ``(steps + 1, B, D)``.

    Raises:
        ValueError: When ``steps`` is less than 1.
        RuntimeError: When a point has no ends in the shapes, as when ``x0`` lies outside the source.

    Example:
        >>> from interpolants import Linear
        >>> generator = torch.Generator().manual_seed(0)
        >>> x0 = triangle().sample(4, generator=generator)
        >>> chain = random_walk(Linear(), triangle(), rhombus(), x0, steps=8, generator=generator)
        >>> rhombus().acceptance(chain[-1])
        tensor([1., 1., 1., 1.])
    """
    posterior = RejectionPosterior(interpolant, source, target)
    return deblending_chain(interpolant, posterior, x0, steps, generator=generator)


@final
@dataclass(frozen=True)
class RejectionPosterior:
    r"""Exact draws of the ends given ``x_t = x``, for shapes that can be sampled and evaluated.

    Of the three terms of :math:`x = \alpha x_0 + \beta x_1 + \gamma z` the two with the smaller weights are
    proposed from their densities; the third follows, accepted with the probability its density gives it.

    Args:
        interpolant: The path.
        source: The shape at t = 0.
        target: The shape at t = 1.
        rounds: The most rounds of 64 proposals a point gets before a RuntimeError.

    Raises:
        TypeError: When the interpolant is not spatially linear.

    Example:
        >>> from interpolants import Linear
        >>> posterior = RejectionPosterior(Linear(), triangle(), rhombus())
        >>> x = torch.zeros(1, 2)  # half way between the two
        >>> x0, x1, z = posterior(0.5, x, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose((x0 + x1) / 2, x, atol=1e-6)), bool(rhombus().acceptance(x1))
        (True, True)
    """

    interpolant: SpatiallyLinear
    source: Shape
    target: Shape
    rounds: int = 20_000

    def __post_init__(self) -> None:
        check_path(self.interpolant)

    def __call__(
        self, t: Time, x: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a draw of ``(x0, x1, z)`` for each row of ``x``, shape ``(B, D)``; ``t`` a float or ()."""
        time = as_time(t, x)
        if time.ndim:
            raise ValueError(f"draws by rejection take one time for all rows; got shape {tuple(time.shape)}")
        x0, x1, z = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
        pending = torch.arange(len(x), device=x.device)
        for _ in range(self.rounds):
            drawn, found = self._propose(time, x[pending], generator)
            for end, value in zip((x0, x1, z), drawn, strict=True):
                end[pending[found]] = value[found]
            pending = pending[~found]
            if len(pending) == 0:
                return x0, x1, z
        raise RuntimeError(
            f"{len(pending)} of {len(x)} points at t = {float(time):.3g} had no ends in the two shapes after "
            f"{64 * self.rounds} proposals; the first is {x[pending[0]].tolist()}"
        )

    def _propose(
        self, t: Tensor, x: Tensor, generator: torch.Generator | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        path, tries = self.interpolant, 64
        weights = [path.alpha(t).to(x), path.beta(t).to(x), path.gamma(t).to(x)]
        follower = int(torch.stack(weights).argmax())
        if weights[follower] == 0:
            raise ValueError(f"at t = {float(t):.3g} x_t does not depend on its ends: there is no posterior")
        shape = (len(x), tries, x.shape[1])
        drawn = [x.new_zeros(shape) for _ in weights]
        for k, end in enumerate((self.source, self.target)):
            if k != follower:
                drawn[k] = end.sample(len(x) * tries, generator=generator).to(x).reshape(shape)
        if follower != 2:
            drawn[2] = randn(shape, x, generator)
        proposed = weights[0] * drawn[0] + weights[1] * drawn[1] + weights[2] * drawn[2]
        drawn[follower] = (x.unsqueeze(1) - proposed) / weights[follower]
        flat = drawn[follower].flatten(0, 1)
        if follower == 2:
            chance = torch.exp(-flat.square().sum(1) / 2)  # The normal density over its maximum.
        else:
            chance = (self.source, self.target)[follower].acceptance(flat).to(x)
        chance = chance.reshape(len(x), tries)
        # One uniform draw decides each proposal; the first accepted one is kept.
        device = x.device if generator is None else generator.device
        accepted = torch.rand(chance.shape, generator=generator, device=device).to(x.device) < chance
        rows = torch.arange(len(x), device=x.device)
        choice = accepted.int().argmax(dim=1)
        x0, x1, z = (part[rows, choice] for part in drawn)
        return (x0, x1, z), accepted.any(dim=1)


@final
@dataclass(frozen=True, eq=False)
class Polygon:
    """The uniform density on a convex polygon of the plane.

    Args:
        vertices: Corners in order, counter-clockwise, shape ``(K, 2)``.

    Raises:
        ValueError: When the corners are not those of a convex polygon in counter-clockwise order.

    Example:
        >>> square = Polygon(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        >>> square.acceptance(torch.tensor([[0.5, 0.5], [1.5, 0.5]]))
        tensor([1., 0.])
    """

    vertices: Tensor

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 2 or len(self.vertices) < 3:
            raise ValueError(f"vertices need shape (K, 2), K >= 3; got {tuple(self.vertices.shape)}")
        edges = self._edges()
        turns = _cross(edges, edges.roll(-1, 0))
        # One full turn in all: a star turns left at every corner too, but goes round twice.
        angle = torch.atan2(turns, (edges * edges.roll(-1, 0)).sum(1)).sum()
        if (turns <= 0).any() or abs(float(angle) - 2 * math.pi) > 1e-3:
            raise ValueError("vertices must go round a convex polygon counter-clockwise")

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``n`` uniform points, shape ``(n, 2)``."""
        corner, first, second = self.vertices[0], self.vertices[1:-1], self.vertices[2:]
        areas = _cross(first - corner, second - corner)
        device = self.vertices.device if generator is None else generator.device
        which = torch.multinomial(areas.to(device), n, replacement=True, generator=generator)
        u, v = torch.rand((2, n, 1), dtype=areas.dtype, device=device, generator=generator).to(areas.device)
        outside = u + v > 1  # Folding the unit square onto its lower triangle keeps it uniform.
        u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
        which = which.to(areas.device)
        return corner + u * (first - corner)[which] + v * (second - corner)[which]

    def acceptance(self, x: Tensor) -> Tensor:
        """Return 1 inside and on the border, 0 outside, shape ``(B,)``."""
        offsets = x.unsqueeze(1) - self.vertices.to(x)
        return (_cross(self._edges().to(x), offsets) >= 0).all(dim=1).to(x.dtype)

    def _edges(self) -> Tensor:
        return self.vertices.roll(-1, 0) - self.vertices


def triangle() -> Polygon:
    """Return the triangle of the method's usual picture, standing at the left of the origin.

    Example:
        >>> triangle().acceptance(torch.tensor([[-0.9, 0.0], [0.9, 0.0]]))
        tensor([1., 0.])
    """
    return Polygon(torch.tensor([[-1.5, -0.7], [-0.3, -0.7], [-0.9, 0.7]]))


def rhombus() -> Polygon:
    """Return the rhombus of the method's usual picture, standing at the right of the origin.

    Example:
        >>> rhombus().acceptance(torch.tensor([[-0.9, 0.0], [0.9, 0.0]]))
        tensor([0., 1.])
    """
    return Polygon(torch.tensor([[0.9, -0.8], [1.4, 0.0], [0.9, 0.8], [0.4, 0.0]]))


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
