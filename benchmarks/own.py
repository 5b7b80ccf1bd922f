"""An interpolant as a user writes one, and one with a mistake: `--interpolant benchmarks.own:Squares`."""

from __future__ import annotations

import torch
from torch import Tensor

from interpolants import SpatiallyLinear


class Squares(SpatiallyLinear):
    """The path (1 - t)^2 x0 + t^2 x1, all of it: the derivatives follow."""

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t).square()

    def beta(self, t: Tensor) -> Tensor:
        return t.square()


class FivePercentOff(SpatiallyLinear):
    """IADB's path with derivatives 5 % too large: every accuracy table must show it."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -1.05)

    def beta_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1.05)
