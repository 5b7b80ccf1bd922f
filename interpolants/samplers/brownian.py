r"""Brownian paths for steps of a fixed grid: fresh from a generator, or each example's own from its seed.

torchsde's own path ignores torch's seeds, and looks up every increment in a tree: with it sampling took 1.4
times as long as a plain loop at 128 steps of 2,048 points, and 25 times at 100 steps of 1,000
(``benchmarks/speed/sde.py``; https://github.com/google-research/torchsde/issues/109). Time is counted in
steps, so that every increment has variance 1. With W the increment over a step,
:math:`H = \int_0^1 (W_s - s W) ds \sim N(0, 1/12)` is independent of it, and
:math:`U = \int_0^1 W_s ds = W/2 + H`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import randn


class Steps:
    """Increments over the steps of a grid, asked for in their order: what torchsde takes for a Brownian path.

    Attributes:
        step: The step whose increment was asked for last; -1 before the first.
    """

    levy_area_approximation = "space-time"

    def __init__(self, state: Tensor) -> None:
        self.state = state
        self.step = -1

    def draw(self, step: int, area: bool) -> tuple[Tensor, Tensor | None]:
        """Return W and, when asked for the area, H; here 0, for a diffusion that is."""
        nothing = torch.zeros_like(self.state)
        return nothing, nothing if area else None

    def __call__(
        self,
        ta: Tensor,
        tb: Tensor | None = None,
        return_U: bool = False,  # noqa: N803 - torchsde's names
        return_A: bool = False,  # noqa: N803
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return W over the step that begins at ``ta``, and U when asked."""
        self.step = int(ta)
        increment, area = self.draw(self.step, return_U)
        return increment if area is None else (increment, increment / 2 + area)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.shape)})"

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the increments."""
        return self.state.dtype

    @property
    def device(self) -> torch.device:
        """Where the increments are."""
        return self.state.device

    @property
    def shape(self) -> torch.Size:
        """The shape of an increment, (B, D)."""
        return self.state.shape


class Fresh(Steps):
    """Increments drawn as they are asked for.

    Args:
        state: A tensor with the shape, dtype and device of the increments.
        generator: Where they are drawn from.
    """

    def __init__(self, state: Tensor, generator: torch.Generator | None) -> None:
        super().__init__(state)
        self.generator = generator

    @override
    def draw(self, step: int, area: bool) -> tuple[Tensor, Tensor | None]:
        increment = randn(self.shape, self.state, self.generator)
        if not area:
            return increment, None
        return increment, randn(self.shape, self.state, self.generator) / math.sqrt(12)


class Seeded(Steps):
    """The Brownian path of each example's seed, whatever the batch; twice the steps refine it.

    With m 2^k steps, m odd, the path is drawn over m intervals and halved k times. Memory holds all
    increments at once, 8 bytes for each step and element in single precision.

    Args:
        state: A tensor with the shape, dtype and device of the increments.
        seeds: One seed for each row.
        steps: The number of steps.
    """

    def __init__(self, state: Tensor, seeds: Sequence[int], steps: int) -> None:
        super().__init__(state)
        self.increments, self.areas = (
            part.to(state) for part in seeded_increments(seeds, steps, state.shape[1])
        )

    @override
    def draw(self, step: int, area: bool) -> tuple[Tensor, Tensor | None]:
        return self.increments[:, step], self.areas[:, step] if area else None


def seeded_increments(seeds: Sequence[int], steps: int, dim: int) -> tuple[Tensor, Tensor]:
    r"""Return the increments W and the areas H of each seed's path, shape ``(B, steps, dim)``, unit steps.

    Over a half of an interval with increment W and area H,
    :math:`W_l = W/2 + 3H/2 + \xi_1/4` and :math:`H_{l,r} = H/4 - \xi_1/8 \pm \xi_2/\sqrt{48}` have their
    joint law given W and H (Foster, Lyons and Oberhauser 2020, arXiv 1904.06998).

    Args:
        seeds: Not negative.
        steps: The number of steps.
        dim: The number of elements of an example.
    """
    roots, levels = steps, 0
    while roots % 2 == 0:
        roots, levels = roots // 2, levels + 1
    sizes = [roots * 2 ** max(0, level - 1) for level in range(levels + 1)]
    generator = torch.Generator()
    drawn = [torch.empty(2, len(seeds), size, dim, dtype=torch.float32) for size in sizes]
    for row, seed in enumerate(seeds):
        generator.manual_seed(_stream(seed))
        for size, noise in zip(sizes, drawn, strict=True):
            noise[:, row] = torch.randn(2, size, dim, dtype=torch.float32, generator=generator)
    increment, area = drawn[0][0], drawn[0][1] / math.sqrt(12)
    for first, second in drawn[1:]:
        left = increment / 2 + 1.5 * area + first / 4
        mean, apart = area / 4 - first / 8, second / math.sqrt(48)
        # A half as a step of its own: its time is the unit again.
        halves = (
            torch.stack([left, increment - left], dim=2),
            torch.stack([mean + apart, mean - apart], dim=2),
        )
        increment, area = (math.sqrt(2) * half.flatten(1, 2) for half in halves)
    return increment, area


def _stream(seed: int) -> int:
    # Another stream than torch's own of this seed, from which starting points may have been drawn. torch
    # keeps 32 bits of a seed: as the factors are odd, no two seeds below 2^32 share a stream, and as the
    # last number is, none of them has its own.
    high, low = divmod(seed, 2**32)
    return (0x9E3779B1 * low + 0x85EBCA6B * high + 0x5DEECE66D) % 2**32
