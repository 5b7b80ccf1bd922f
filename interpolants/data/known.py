"""Densities in the plane that are known in closed form, beside those of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from interpolants.data.named import checkerboard


class _Law(NamedTuple):
    half: float  # Half the side of the square that is shown
    sample: Callable[..., Tensor]
    acceptance: Callable[[Tensor], Tensor]  # from (..., 2)
    log_peak: float


def _normal(n: int, *, generator: torch.Generator | None = None) -> Tensor:
    device = None if generator is None else generator.device
    return torch.randn(n, 2, generator=generator, device=device)


def _bell(x: Tensor) -> Tensor:
    return torch.exp(-x.square().sum(-1) / 2)


def _dark(x: Tensor) -> Tensor:
    inside = (x.abs() <= 4).all(-1)
    return (inside & ((x / 2).floor().sum(-1) % 2 == 0)).to(x.dtype)


_LAWS = {
    "normal": _Law(4.0, _normal, _bell, -math.log(2 * math.pi)),
    # Uniform on 8 of 16 cells of area 4.
    "checkerboard": _Law(4.5, checkerboard, _dark, -math.log(32)),
}


@final
@dataclass(frozen=True)
class KnownDensity:
    """A density in the plane whose value is known everywhere.

    Args:
        name: ``"normal"``, N(0, Id), or ``"checkerboard"``, uniform on 8 of 16 cells of [-4, 4] x [-4, 4].

    Raises:
        ValueError: If the name is another one.

    Example:
        >>> board = KnownDensity("checkerboard")
        >>> board.log_prob(torch.tensor([[1.0, 1.0], [1.0, 3.0]]))  # -ln 32 on the board's dark cells
        tensor([-3.4657,    -inf])
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _LAWS:
            raise ValueError(f"the known densities are {', '.join(_LAWS)}; got {self.name!r}")

    @staticmethod
    def names() -> tuple[str, ...]:
        """Return the names of all known densities."""
        return tuple(_LAWS)

    @property
    def bounds(self) -> tuple[float, float]:
        """Half the width and half the height of the square that is shown."""
        half = _LAWS[self.name].half
        return half, half

    @property
    def values(self) -> Tensor:
        """The density over its maximum on a grid of what is shown, ``(256, 256)``, the top row first."""
        half = _LAWS[self.name].half
        steps = half * ((2 * torch.arange(256) + 1) / 256 - 1)
        y, x = torch.meshgrid(steps.flip(0), steps, indexing="ij")
        return self.acceptance(torch.stack([x, y], dim=-1))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``n`` independent points, shape ``(n, 2)``, where the generator is."""
        return _LAWS[self.name].sample(n, generator=generator)

    def acceptance(self, x: Tensor) -> Tensor:
        """Return the density at ``x`` of shape ``(..., 2)`` over its maximum, shape ``(...)``."""
        return _LAWS[self.name].acceptance(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density at ``x`` of shape ``(..., 2)``, shape ``(...)``; minus infinity off it."""
        law = _LAWS[self.name]
        if self.name == "normal":  # Its acceptance vanishes to rounding far out.
            return law.log_peak - x.square().sum(-1) / 2
        return law.log_peak + law.acceptance(x).log()

    @property
    def entropy(self) -> float:
        """The entropy in nats, minus the mean log density; no model has a lower negative log-likelihood."""
        return -_LAWS[self.name].log_peak + (1.0 if self.name == "normal" else 0.0)
