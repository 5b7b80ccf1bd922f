r"""Amplitudes of the latent noise, :math:`\gamma(t)`: an axis of its own beside every path.

An interpolant with latent noise is :math:`x_t = I(t, x_0, x_1) + \gamma(t) z` with
:math:`z \sim N(0, \mathrm{Id})`, :math:`\gamma(0) = \gamma(1) = 0` and :math:`\gamma \ge 0`
(Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797). The velocity needs
:math:`\dot\gamma`, the exact fields need :math:`\gamma\dot\gamma`, which stays finite where
:math:`\dot\gamma` does not; so each schedule gives both.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, time_derivative


class Gamma(abc.ABC):
    r"""The amplitude :math:`\gamma(t) \ge 0` of the latent noise, zero at both ends.

    A subclass writes :meth:`squared`; the rest follows, and may be overridden where a closed form
    is cheaper. Times are tensors of shape ``()`` or ``(B,)`` in [0, 1], and results have their shape.
    One with parameters is a ``class Mine(Gamma, nn.Module)``, in this order: both can be called.

    Example:
        >>> class Cubed(Gamma):
        ...     def squared(self, t):
        ...         return (t * (1 - t)) ** 3
        >>> Cubed()(torch.tensor(0.5))
        tensor(0.1250)
        >>> Cubed().derivative(torch.tensor([0.0, 0.5, 1.0])).abs()
        tensor([0., 0., 0.])
    """

    @abc.abstractmethod
    def squared(self, t: Tensor) -> Tensor:
        r"""Return :math:`\gamma(t)^2`."""

    def __call__(self, t: Time) -> Tensor:
        r"""Return :math:`\gamma(t)`."""
        return _root(self.squared(_tensor(t)))

    def half_squared_derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\gamma\dot\gamma = \frac12 \frac{d}{dt}\gamma^2`, finite at both ends."""
        return time_derivative(self.squared, t) / 2

    def derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\dot\gamma(t)`.

        This is :math:`\gamma\dot\gamma / \gamma`; where both vanish, its limit: if
        :math:`\gamma^2 \approx c\,(t - t_*)^2` then :math:`|\dot\gamma| = \sqrt c`, half the second
        derivative of :math:`\gamma^2` under the root. It is infinite where that is the truth.
        """
        gamma, product = self(t), self.half_squared_derivative(t)
        curvature = time_derivative(self.half_squared_derivative, t)
        limit = torch.where(t < 0.5, 1, -1) * _root(curvature.clamp(min=0))
        vanishes = gamma == 0
        # Both branches are finite before the choice, so that gradients stay finite after it.
        ratio = product / torch.where(vanishes, torch.ones_like(gamma), gamma)
        infinite = torch.copysign(torch.full_like(product, torch.inf), product)
        return torch.where(vanishes, torch.where(product == 0, limit, infinite), ratio)

    @property
    def vanishes(self) -> bool:
        """Whether there is no latent noise at all, so that none needs to be drawn."""
        return False


@final
@dataclass(frozen=True)
class Zero(Gamma):
    """No latent noise: IADB, flow matching and rectified flow.

    Example:
        >>> Zero()(0.5)
        tensor(0.)
    """

    @override
    def squared(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    def __call__(self, t: Time) -> Tensor:
        return torch.zeros_like(_tensor(t))

    @override
    def half_squared_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    def derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @property
    @override
    def vanishes(self) -> bool:
        return True


@final
@dataclass(frozen=True)
class Brownian(Gamma):
    r"""The Brownian bridge, :math:`\gamma = \sqrt{a\,t(1-t)}`.

    :math:`\gamma\dot\gamma = a(1-2t)/2` is finite everywhere; :math:`\dot\gamma` is infinite at the ends.

    Args:
        a: The variance at t = 1/2 is a/4; positive.

    Raises:
        ValueError: When ``a`` is not a positive finite number.

    Example:
        >>> Brownian(4.0)(0.5)
        tensor(1.)
        >>> Brownian(4.0).half_squared_derivative(torch.tensor([0.0, 1.0]))
        tensor([ 2., -2.])
    """

    a: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and self.a > 0):
            raise ValueError(f"Brownian(a) needs a positive finite a; got {self.a}")

    @override
    def squared(self, t: Tensor) -> Tensor:
        return self.a * t * (1 - t)

    @override
    def __call__(self, t: Time) -> Tensor:
        return self.squared(_tensor(t)).sqrt()

    @override
    def half_squared_derivative(self, t: Tensor) -> Tensor:
        return self.a * (1 - 2 * t) / 2

    @override
    def derivative(self, t: Tensor) -> Tensor:
        return self.half_squared_derivative(t) / self(t)


@final
@dataclass(frozen=True)
class Quadratic(Gamma):
    r"""The parabola :math:`\gamma = t(1-t)`, with a finite derivative everywhere.

    Example:
        >>> Quadratic().derivative(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ 1.,  0., -1.])
    """

    @override
    def squared(self, t: Tensor) -> Tensor:
        return self(t).square()

    @override
    def __call__(self, t: Time) -> Tensor:
        t = _tensor(t)
        return t * (1 - t)

    @override
    def half_squared_derivative(self, t: Tensor) -> Tensor:
        return self(t) * self.derivative(t)

    @override
    def derivative(self, t: Tensor) -> Tensor:
        return 1 - 2 * t


@final
@dataclass(frozen=True)
class SineSquared(Gamma):
    r"""The bump :math:`\gamma = \sin^2(\pi t)`, flat at both ends and 1 in the middle.

    Example:
        >>> SineSquared()(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0., 1., 0.])
    """

    @override
    def squared(self, t: Tensor) -> Tensor:
        return _sin_pi(t) ** 4

    @override
    def __call__(self, t: Time) -> Tensor:
        return _sin_pi(_tensor(t)).square()

    @override
    def half_squared_derivative(self, t: Tensor) -> Tensor:
        return self(t) * self.derivative(t)

    @override
    def derivative(self, t: Tensor) -> Tensor:
        # sin(2 pi t), with cos(pi t) = sin(pi (1/2 - t)) so that it keeps its sign and zero at t = 1/2.
        return 2 * math.pi * _sin_pi(t) * torch.sin(math.pi * (0.5 - t))


def _sin_pi(t: Tensor) -> Tensor:
    # sin(pi) is not 0 in floating point; measured from the nearer end it is.
    return torch.sin(math.pi * torch.minimum(t, 1 - t))


def _root(squared: Tensor) -> Tensor:
    # The root has no derivative at 0; choosing before and after it keeps gradients finite there.
    vanishes = squared == 0
    return torch.where(vanishes, 0, torch.where(vanishes, 1, squared).sqrt())


def _tensor(t: Time) -> Tensor:
    return t if isinstance(t, Tensor) else torch.tensor(float(t))
