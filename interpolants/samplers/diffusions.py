r"""Diffusions :math:`\epsilon(t) \ge 0`: how much noise the SDE adds, chosen after training.

Every :math:`\epsilon` leaves the marginals as they are when velocity and score are exact (Albergo, Boffi and
Vanden-Eijnden 2023, arXiv 2303.08797, Section 2.3); it decides how errors of the one are mended by the other.
The score is :math:`-\eta_z/\gamma`, so that errors of a learned denoiser are multiplied by
:math:`\epsilon/\gamma`: proportional to gamma this is constant, with a constant epsilon it is infinite at
the ends.
"""

from __future__ import annotations

import abc
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import kind
from interpolants.interpolant import Interpolant, SpatiallyLinear


class Epsilon(abc.ABC):
    r"""A diffusion :math:`\epsilon(t) \ge 0`.

    A subclass writes :meth:`__call__`; the ratios follow by division, and are overridden where they have a
    closed form. Times are double-precision tensors of shape ``()`` or ``(B,)``, and so is every answer.

    Example:
        >>> class Late(Epsilon):
        ...     def __call__(self, t, path=None):
        ...         return t**2
        >>> Late()(torch.tensor(0.5))
        tensor(0.2500)
    """

    @abc.abstractmethod
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        r"""Return :math:`\epsilon(t)`; ``path`` is the interpolant of the field, None when it has none."""

    def over_gamma(self, t: Tensor, path: Interpolant) -> Tensor:
        r"""Return :math:`\epsilon(t) / \gamma(t)`."""
        return self(t, path) / path.gamma(t)

    def over_alpha(self, t: Tensor, path: Interpolant) -> Tensor:
        r"""Return :math:`\epsilon(t) / \alpha(t)`."""
        return self(t, path) / _spatially_linear(self, path).alpha(t)

    def check(self, path: Interpolant | None) -> None:  # noqa: B027 - most suit every path
        """Raise ValueError when this diffusion makes no sense on a path."""


@final
@dataclass(frozen=True)
class Constant(Epsilon):
    r"""The same at all times, :math:`\epsilon = c`.

    Args:
        c: Not negative; 0 is the ODE.

    Raises:
        ValueError: When ``c`` is negative or not finite.

    Example:
        >>> Constant(0.5)(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.5000])
    """

    c: float

    def __post_init__(self) -> None:
        _check_factor(self, self.c)

    @override
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        return torch.full_like(t, self.c)


@final
@dataclass(frozen=True)
class ProportionalToGamma(Epsilon):
    r"""In proportion to the latent noise, :math:`\epsilon = c\,\gamma^p`.

    With p = 1 what a denoiser is multiplied by, :math:`\epsilon/\gamma = c`, is the same at all times.

    Args:
        c: Not negative.
        power: The power p, at least 1.

    Raises:
        ValueError: When a number is out of range.

    Example:
        >>> from interpolants import Brownian, Linear
        >>> ProportionalToGamma(2.0)(torch.tensor(0.5), Linear(gamma=Brownian()))
        tensor(1.)
    """

    c: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        _check_factor(self, self.c)
        if not 1 <= self.power < math.inf:
            raise ValueError(f"power must be at least 1; got {self.power}")

    @override
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        return self.c * _known(self, path).gamma(t) ** self.power

    @override
    def over_gamma(self, t: Tensor, path: Interpolant) -> Tensor:
        if self.power == 1:
            return torch.full_like(t, self.c)
        return self.c * path.gamma(t) ** (self.power - 1)

    @override
    def check(self, path: Interpolant | None) -> None:
        if _known(self, path).gamma.vanishes:
            raise ValueError(
                f"{self} is 0 on {path}, which has no latent noise; use Constant(c) or, when the source is "
                "N(0, Id), ProportionalToAlpha(c)"
            )


@final
@dataclass(frozen=True)
class ProportionalToAlpha(Epsilon):
    r"""In proportion to the weight of the source, :math:`\epsilon = c\,\alpha`: for a source N(0, Id).

    The twin of :class:`ProportionalToGamma` where the source is the noise: the score is then
    :math:`-\eta_0/\alpha`, and :math:`\epsilon s = -c\,\eta_0` is finite at t = 1.

    Args:
        c: Not negative.

    Raises:
        ValueError: When ``c`` is negative or not finite.

    Example:
        >>> from interpolants import Linear
        >>> ProportionalToAlpha(2.0)(torch.tensor([0.0, 0.75, 1.0]), Linear())
        tensor([2.0000, 0.5000, 0.0000])
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        _check_factor(self, self.c)

    @override
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        return self.c * _spatially_linear(self, path).alpha(t)

    @override
    def over_alpha(self, t: Tensor, path: Interpolant) -> Tensor:
        return torch.full_like(t, self.c)

    @override
    def check(self, path: Interpolant | None) -> None:
        _spatially_linear(self, path)


@final
@dataclass(frozen=True)
class Parabolic(Epsilon):
    r"""Nothing at the ends, :math:`\epsilon = c\,t(1 - t)`.

    Args:
        c: Not negative.

    Raises:
        ValueError: When ``c`` is negative or not finite.

    Example:
        >>> Parabolic(4.0)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0., 1., 0.])
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        _check_factor(self, self.c)

    @override
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        return self.c * t * (1 - t)


@final
@dataclass(frozen=True)
class Function(Epsilon):
    r"""Any function of time.

    Args:
        function: From times in double precision, ``()`` or ``(B,)``, to :math:`\epsilon` of the same shape
            (or one number).

    Raises:
        TypeError: When it cannot be called, or returns neither numbers nor tensors.
        ValueError: When it is negative, infinite or nan somewhere.

    Example:
        >>> Function(lambda t: 1 - t)(torch.tensor(0.25))
        tensor(0.7500)
    """

    function: Callable[[Tensor], Tensor | float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"epsilon must be a function of time; got {kind(self.function)}")
        grid = torch.linspace(0, 1, 65, dtype=torch.float64)
        level = self(grid)
        wrong = ~((level >= 0) & level.isfinite())
        if wrong.any():
            raise ValueError(
                f"epsilon must be finite and not negative on [0, 1]; it is {float(level[wrong][0]):.4g} at "
                f"t = {float(grid[wrong][0]):.4g}"
            )

    @override
    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        level = self.function(t)
        if not isinstance(level, Tensor | float | int):
            raise TypeError(f"epsilon must return a tensor or a number; got {kind(level)}")
        level = torch.as_tensor(level, dtype=t.dtype, device=t.device)
        if level.ndim > 0 and level.shape != t.shape:
            raise ValueError(
                f"epsilon must return the shape of t, {tuple(t.shape)}; got {tuple(level.shape)}"
            )
        return level.expand(t.shape)


def as_epsilon(value: Any) -> Epsilon:
    """Return a diffusion from one, from a number (constant) or from a function of time."""
    if isinstance(value, Epsilon):
        return value
    number = isinstance(value, numbers.Real)
    if isinstance(value, bool | type) or not (number or callable(value)):
        raise TypeError(
            "epsilon must be a diffusion, such as Constant(0.5), a number or a function of time; "
            f"got {kind(value)}"
        )
    return Constant(float(value)) if number else Function(value)


def _check_factor(epsilon: Epsilon, c: float) -> None:
    if not 0 <= c < math.inf:
        raise ValueError(f"{type(epsilon).__name__} needs a finite factor that is not negative; got {c}")


def _known(epsilon: Epsilon, path: Interpolant | None) -> Interpolant:
    if path is None:
        raise ValueError(f"{epsilon} needs the interpolant of the field, which has none")
    return path


def _spatially_linear(epsilon: Epsilon, path: Interpolant | None) -> SpatiallyLinear:
    if not isinstance(path, SpatiallyLinear):
        raise ValueError(f"{epsilon} needs a spatially linear interpolant, with a weight alpha; got {path}")
    return path
