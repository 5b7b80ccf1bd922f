"""Exponential moving averages of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    r"""A copy of a network whose weights follow it slowly: torch's AveragedModel with an exponential law.

    After update n the weights are :math:`d_n \bar w + (1 - d_n) w` with :math:`d_n = \min(d, n / (n + 9))`,
    so that short trainings are averaged over their later part and do not remember how they began. Buffers
    are the network's own.

    Args:
        network: The network to follow; the copy is called like it.
        decay: The decay d, in [0, 1): the average is over about 1 / (1 - d) updates.

    Raises:
        ValueError: When the decay lies outside [0, 1).

    Example:
        >>> network = nn.Linear(1, 1)
        >>> average = Average(network, 0.99)
        >>> average.update_parameters(network)
        >>> bool(average(torch.ones(1)) == network(torch.ones(1)))
        True
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a decay must lie in [0, 1); got {decay}")
        super().__init__(network, multi_avg_fn=self._follow)
        self.decay = decay
        self.requires_grad_(False)
        # Torch counts on the device; a number here spares a wait for it each time.
        self.updates = 0

    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the weights of ``model``."""
        super().update_parameters(model)
        self.updates += 1
        for own, followed in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(followed)

    def _follow(self, averaged: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
        decay = min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(tuple(averaged), tuple(weights), 1 - decay)
