"""One network with several heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Heads(nn.Module):
    """A network whose answer is cut into several, by name: one trunk for velocity and denoiser.

    Args:
        network: Called as ``network(t, x, **conditions)``; for n names it answers with n times the channels
            (dimension 1) as ``x``.
        names: The names of the heads.

    Raises:
        ValueError: When there are no names, or one stands twice.

    Example:
        >>> import torch
        >>> from interpolants.networks import MLP
        >>> network = Heads(MLP(dim=2, out_dim=4), ("velocity", "denoiser"))
        >>> {name: tuple(head.shape) for name, head in network(torch.zeros(5), torch.zeros(5, 2)).items()}
        {'velocity': (5, 2), 'denoiser': (5, 2)}
    """

    def __init__(self, network: nn.Module, names: Sequence[str] = ("velocity", "denoiser")) -> None:
        super().__init__()
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ValueError(f"names must be one or more different names; got {names!r}")
        self.network = network
        self.names = tuple(names)

    def forward(self, t: Tensor, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        """Return the answer of each head, in the shape of ``x``.

        Args:
            t: Times, shape ``(B,)``.
            x: Points, shape ``(B, *D)``.
            **conditions: Passed to the network.

        Raises:
            ValueError: When the network's answer has not the channels that all heads need.
        """
        answer: Tensor = self.network(t, x, **conditions)
        count = len(self.names)
        flat = (len(x), count * x[0].numel()) if len(x) else answer.shape
        channels = (*x.shape[:1], count * x.shape[1], *x.shape[2:]) if x.ndim > 1 else flat
        if tuple(answer.shape) not in (channels, flat):
            raise ValueError(
                f"the network must return {count} times the channels of x (dimension 1), a part for each of "
                f"{', '.join(self.names)}: shape {channels} for x of shape {tuple(x.shape)}; "
                f"got {tuple(answer.shape)}"
            )
        parts = answer.chunk(count, dim=1)
        return {name: part.reshape(x.shape) for name, part in zip(self.names, parts, strict=True)}
