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
            ValueError: When the network's answer has not as many elements as all heads need.
        """
        answer: Tensor = self.network(t, x, **conditions)
        if answer.numel() != len(self.names) * x.numel():
            raise ValueError(
                f"the network must return {len(self.names)} times the elements of x, one part for each of "
                f"{', '.join(self.names)}; got shape {tuple(answer.shape)} for x of shape {tuple(x.shape)}"
            )
        parts = answer.chunk(len(self.names), dim=1)
        return {name: part.reshape(x.shape) for name, part in zip(self.names, parts, strict=True)}
