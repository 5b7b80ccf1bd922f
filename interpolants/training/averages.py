"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from typing_extensions import override


class Average(AveragedModel):
    r"""A copy of a network whose weights follow it slowly: torch's AveragedModel with an exponential law.

    After update n the weights are :math:`d_n \bar w + (1 - d_n) w` with :math:`d_n = \min(d, n / (n + 9))`,
    n counted from 0, so that short trainings are averaged over their later part and do not remember how they
    began. Buffers are the network's own, those that it makes or enlarges when called too. It is in evaluation
    mode: dropout, and labels hidden in training, are not for what is sampled from.

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
        super().__init__(network)
        self.decay = decay
        self.requires_grad_(False)
        self.eval()
        # Torch counts on the device, and waits for it to look; a number here spares that.
        self.updates = 0

    @override
    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the weights of ``model``."""
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        if self.updates == 0:
            for own, followed in pairs:
                own.copy_(followed)
        else:
            self._approach([pair for pair in pairs if pair[0].is_floating_point() or pair[0].is_complex()])
        for name, buffer in model.named_buffers():
            self._take(name, buffer, model)
        self.updates += 1
        self.n_averaged += 1

    def _approach(self, pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> None:
        decay = min(self.decay, self.updates / (self.updates + 9))
        followed = [weights.to(own.device) for own, weights in pairs]
        torch._foreach_lerp_([own for own, _ in pairs], followed, 1 - decay)

    def _take(self, name: str, buffer: Tensor, model: nn.Module) -> None:
        path, _, leaf = name.rpartition(".")
        own = self.module.get_submodule(path)
        held = own._buffers.get(leaf)
        if held is not None and held.shape == buffer.shape:
            held.copy_(buffer)
        else:
            persistent = leaf not in model.get_submodule(path)._non_persistent_buffers_set
            own.register_buffer(leaf, buffer.clone(), persistent=persistent)
