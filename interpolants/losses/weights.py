"""Weights: how much each time counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from interpolants._tensors import check_instance
from interpolants.gammas import Gamma


@final
@dataclass(frozen=True)
class InverseVariance:
    r"""The weight :math:`c / (c + \dot\gamma^2)`: the velocity's loss keeps a finite variance at the ends.

    The velocity's target :math:`\dot I + \dot\gamma z` has variance :math:`c + \dot\gamma^2` when the
    path's own is c, and with a Brownian gamma that is infinite at the ends. Where all is learnt equally
    well this is the best weighting of independent examples; the minimiser stays what it is. An
    alternative to antithetic pairs, at half their cost.

    Args:
        gamma: The latent noise.
        rest: The constant c, positive.

    Raises:
        TypeError: When ``gamma`` is no Gamma.
        ValueError: When ``rest`` is not positive and finite.

    Example:
        >>> import torch
        >>> from interpolants import Brownian
        >>> InverseVariance(Brownian(), rest=1.0)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0., 1., 0.])
    """

    gamma: Gamma
    rest: float = 1.0

    def __post_init__(self) -> None:
        check_instance("gamma", self.gamma, Gamma, "Brownian()")
        if not 0 < self.rest < math.inf:
            raise ValueError(f"rest must be positive and finite; got {self.rest}")

    def __call__(self, t: Tensor) -> Tensor:
        """Return the weight at each time, in the shape of ``t``."""
        return self.rest / (self.rest + self.gamma.derivative(t).square())
