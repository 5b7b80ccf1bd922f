"""Minibatches of independent pairs out of two point sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

__all__ = ["RandomPairs"]


@final
@dataclass(frozen=True, eq=False)
class RandomPairs:
    """An endless series of minibatches, each point drawn with replacement and each side on its own.

    Every iterator draws on from where the generator stands, so a second loop sees new minibatches.

    Args:
        x0: Source points, shape ``(N0, *D)``.
        x1: Target points, shape ``(N1, *D)``, of the type and on the device of ``x0``.
        batch_size: Pairs in a minibatch, at least 1.
        generator: Source of randomness; it may live on another device than the points.

    Raises:
        ValueError: If a set is empty or holds a NaN or an infinity, if the two differ in the shape of a
            point, in type or in device, or if ``batch_size`` is below 1.

    Example:
        >>> import torch
        >>> from interpolants.data import RandomPairs
        >>> pairs = RandomPairs(torch.zeros(10, 2), torch.ones(7, 2), batch_size=4)
        >>> for step, (x0, x1) in zip(range(3), pairs):
        ...     print(step, tuple(x0.shape), tuple(x1.shape))
        0 (4, 2) (4, 2)
        1 (4, 2) (4, 2)
        2 (4, 2) (4, 2)
    """

    x0: Tensor = field(repr=False)
    x1: Tensor = field(repr=False)
    batch_size: int
    generator: torch.Generator | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name, points in (("x0", self.x0), ("x1", self.x1)):
            if points.ndim == 0 or points.numel() == 0:
                raise ValueError(
                    f"{name} must hold at least one point, shape (N, *D), not {tuple(points.shape)}"
                )
        if self.x0.shape[1:] != self.x1.shape[1:]:
            raise ValueError(
                "x0 and x1 must hold points of one shape, "
                f"not {tuple(self.x0.shape[1:])} and {tuple(self.x1.shape[1:])}"
            )
        if self.x0.dtype != self.x1.dtype:
            raise ValueError(f"x0 and x1 must share one dtype, not {self.x0.dtype} and {self.x1.dtype}")
        if self.x0.device != self.x1.device:
            raise ValueError(f"x0 and x1 must share one device, not {self.x0.device} and {self.x1.device}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        for name, points in (("x0", self.x0), ("x1", self.x1)):
            if not points.isfinite().all():
                raise ValueError(f"{name} must be finite; it holds a NaN or an infinity")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield self._draw(self.x0), self._draw(self.x1)

    def _draw(self, points: Tensor) -> Tensor:
        home = points.device if self.generator is None else self.generator.device
        index = torch.randint(len(points), (self.batch_size,), generator=self.generator, device=home)
        return points.index_select(0, index.to(points.device))
