"""The fully connected network of the two-dimensional examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A fully connected network of time and position.

    Args:
        dim: The number of elements of one example.
        width: The width of the hidden layers.
        depth: The number of hidden layers, at least 1.
        activation: Makes the activation of a hidden layer.
        frequencies: The number of Fourier features of time, sin and cos of 2 pi k t for k = 1, 2, ...,
            beside t itself; 0 for t alone.
        out_dim: The number of elements of the answer; ``dim`` by default. When it is ``dim`` the answer
            has the shape of ``x``, otherwise ``(B, out_dim)``.
        generator: Where the initial weights are drawn from; torch's global generator by default.

    Raises:
        ValueError: When a size is out of range.

    Example:
        >>> MLP(dim=2)(torch.zeros(5), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int = 64,
        depth: int = 4,
        activation: Callable[[], nn.Module] = nn.ReLU,
        frequencies: int = 0,
        out_dim: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        out_dim = dim if out_dim is None else out_dim
        for name, size in {"dim": dim, "width": width, "depth": depth, "out_dim": out_dim}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        if frequencies < 0:
            raise ValueError(f"frequencies must not be negative; got {frequencies}")
        self.dim = dim
        self.frequencies = frequencies
        layers: list[nn.Module] = []
        features = dim + 1 + 2 * frequencies
        for _ in range(depth):
            layers += [_linear(features, width, generator), activation()]
            features = width
        self.layers = nn.Sequential(*layers, _linear(features, out_dim, generator))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the network's answer.

        Args:
            t: Times, shape ``(B,)``.
            x: Points, shape ``(B, *D)`` with ``dim`` elements a row.

        Raises:
            ValueError: When a row of ``x`` has another number of elements.
        """
        rows = x.flatten(1) if x.ndim > 2 else x
        if x.ndim < 2 or rows.shape[1] != self.dim:
            raise ValueError(
                f"this network takes x of shape (B, *D) with {self.dim} elements a row; got {tuple(x.shape)}"
            )
        answer: Tensor = self.layers(torch.cat([rows, self._features(t.to(x.dtype))], dim=1))
        # Not a view where none is needed: modules that are shared out should not answer with one.
        return answer.view(x.shape) if x.ndim > 2 and answer.shape[1] == self.dim else answer

    def _features(self, t: Tensor) -> Tensor:
        time = t.unsqueeze(1)
        if self.frequencies == 0:
            return time
        angles = 2 * math.pi * time * torch.arange(1, self.frequencies + 1, dtype=t.dtype, device=t.device)
        return torch.cat([time, angles.sin(), angles.cos()], dim=1)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    if generator is None:
        return nn.Linear(inputs, outputs)
    # The law of nn.Linear's own initialisation, without its draws from the global generator.
    layer = cast("nn.Linear", nn.utils.skip_init(nn.Linear, inputs, outputs))  # type: ignore[no-untyped-call]
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
