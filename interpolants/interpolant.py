r"""Interpolants: how a point of the source and a point of the target are joined.

A stochastic interpolant is :math:`x_t = I(t, x_0, x_1) + \gamma(t) z` with :math:`I(0, x_0, x_1) = x_0`,
:math:`I(1, x_0, x_1) = x_1` and Gaussian latent noise :math:`z` (Albergo, Boffi and Vanden-Eijnden
2023, arXiv 2303.08797). Time comes first in every call; t = 0 is the source, t = 1 the target.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import (
    Time,
    as_time,
    check_alike,
    check_instance,
    expand,
    randn,
    time_derivative,
    value_and_time_derivative,
)
from interpolants.gammas import Gamma, Zero


@dataclass(frozen=True, eq=False)
class InterpolantSample:
    """Points on the interpolant and how fast they move.

    Attributes:
        t: Times, shape ``(B,)``.
        x0: Source points, shape ``(B, *D)``.
        x1: Target points, shape ``(B, *D)``.
        z: Latent noise, shape ``(B, *D)``; None when there is none.
        xt: Points on the interpolant, shape ``(B, *D)``.
        xt_dot: Their time derivatives, shape ``(B, *D)``.
    """

    t: Tensor
    x0: Tensor
    x1: Tensor
    z: Tensor | None
    xt: Tensor
    xt_dot: Tensor


class _GammaAttribute:
    """The default of ``Interpolant.gamma``: no latent noise.

    A plain class attribute would hide a learnable ``Gamma`` from a subclass that is also an
    ``nn.Module``, which keeps its submodules elsewhere; this looks there first.
    """

    def __get__(self, interpolant: object, owner: type | None = None) -> Gamma:
        found = None if interpolant is None else vars(interpolant).get("_modules", {}).get("gamma")
        return Zero() if found is None else found


class Interpolant(abc.ABC):
    r"""A path :math:`I(t, x_0, x_1)` between two points, with latent noise :math:`\gamma(t) z`.

    A subclass writes :meth:`interpolate`, and everything else follows: the time derivative by
    forward-mode differentiation (override :meth:`derivative` where a closed form is cheaper), samples,
    losses and samplers. Check it with :func:`~interpolants.check_interpolant`.

    Args:
        gamma: The amplitude of the latent noise; none by default.

    Example:
        >>> class Arc(Interpolant):
        ...     "Two points of the plane joined by a half circle."
        ...     def interpolate(self, t, x0, x1):
        ...         centre, radius = (x0 + x1) / 2, (x0 - x1) / 2
        ...         angle = torch.pi * t.reshape(-1, 1)
        ...         turned = torch.stack([-radius[:, 1], radius[:, 0]], dim=1)
        ...         return centre + angle.cos() * radius + angle.sin() * turned
        >>> x0, x1 = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
        >>> sample = Arc().sample(0.5, x0, x1)
        >>> sample.xt.round(decimals=4).abs(), sample.xt_dot.round(decimals=4)
        (tensor([[0., 1.]]), tensor([[-3.1416, -0.0000]]))
    """

    if TYPE_CHECKING:
        gamma: Gamma
    else:
        gamma = _GammaAttribute()

    #: Times inside (0, 1) at which a higher derivative of the path jumps; adaptive solvers stop there.
    kinks: tuple[float, ...] = ()

    def __init__(self, gamma: Gamma | None = None) -> None:
        super().__init__()
        if gamma is not None:
            self.gamma = gamma
        self.__post_init__()

    def __post_init__(self) -> None:
        # Under this name dataclasses call it too.
        check_instance("gamma", self.gamma, Gamma, "Brownian()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(gamma={self.gamma!r})"

    @abc.abstractmethod
    def interpolate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        r"""Return :math:`I(t, x_0, x_1)`, the path without its latent noise.

        Args:
            t: Times in [0, 1], shape ``()`` or ``(B,)``.
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.

        Returns:
            Points on the path, shape ``(B, *D)``.
        """

    def derivative(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        r"""Return :math:`\partial_t I(t, x_0, x_1)`, by forward-mode differentiation unless overridden.

        Args:
            t: Times in [0, 1], shape ``()`` or ``(B,)``.
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.

        Returns:
            The velocities on the path, shape ``(B, *D)``.
        """
        return time_derivative(lambda time: self.interpolate(time, x0, x1), t)

    def modules_to_train(self) -> dict[str, torch.nn.Module]:
        """Return what this interpolant learns: itself when it is a module, or its modules, as a gamma."""
        if isinstance(self, torch.nn.Module):
            return {"interpolant": self}
        return {name: part for name, part in vars(self).items() if isinstance(part, torch.nn.Module)}

    def ends(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the path starts and ends: ``x0`` and ``x1`` for all but the mirror."""
        return x0, x1

    def sample(
        self,
        t: Time,
        x0: Tensor,
        x1: Tensor,
        z: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> InterpolantSample:
        r"""Return :math:`x_t = I(t, x_0, x_1) + \gamma(t) z` and its time derivative.

        Args:
            t: Times in [0, 1]: a float, shape ``()`` or ``(B,)``.
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.
            z: Latent noise, shape ``(B, *D)``; drawn when missing and needed.
            generator: Where the latent noise is drawn from.

        Returns:
            The sample, with ``t`` of shape ``(B,)`` and the rest in the dtype of ``x0``.

        Raises:
            TypeError: When ``x0`` or ``x1`` is no floating-point tensor, or their dtypes differ.
            ValueError: When shapes or devices do not match, or a float ``t`` lies outside [0, 1].

        Example:
            >>> from interpolants import Brownian, Linear
            >>> x0, x1 = torch.zeros(3, 2), torch.ones(3, 2)
            >>> Linear().sample(0.25, x0, x1).xt[0]
            tensor([0.2500, 0.2500])
            >>> Linear(gamma=Brownian()).sample(0.25, x0, x1).z.shape
            torch.Size([3, 2])
        """
        check_alike(x0, x1)
        time = as_time(t, x0)
        if z is None and not self.gamma.vanishes:
            z = randn(x0.shape, x0, generator)
        elif z is not None:
            check_alike(x0, z, ("x0", "z"))
        # A path of the user's may follow the dtype of t, which is single precision at least.
        xt, xt_dot = (part.to(x0.dtype) for part in self._path(time, x0, x1))
        if z is not None and not self.gamma.vanishes:
            xt = xt + expand(self.gamma(time), x0) * z
            xt_dot = xt_dot + expand(self.gamma.derivative(time), x0) * z
        every = time if time.ndim else time.expand(x0.shape[0])
        return InterpolantSample(every, x0, x1, z, xt, xt_dot)

    def _path(self, t: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        if type(self).derivative is not Interpolant.derivative:
            return self.interpolate(t, x0, x1), self.derivative(t, x0, x1)
        every = t.expand(x0.shape[0])
        return value_and_time_derivative(lambda time: self.interpolate(time, x0, x1), every)


class SpatiallyLinear(Interpolant):
    r"""An interpolant :math:`I = \alpha(t) x_0 + \beta(t) x_1`.

    A subclass writes :meth:`alpha` and :meth:`beta`; their derivatives are automatic unless written.
    The exact fields and the conversions between velocity, score and denoiser hold for this class.

    Args:
        gamma: The amplitude of the latent noise; none by default.

    Example:
        >>> class Cubic(SpatiallyLinear):
        ...     def alpha(self, t): return 1 - t**3
        ...     def beta(self, t): return t**3
        >>> Cubic().sample(0.5, torch.zeros(1, 2), torch.ones(1, 2)).xt_dot
        tensor([[0.7500, 0.7500]])
    """

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        r"""Return :math:`\alpha(t)`, the weight of the source: 1 at t = 0, 0 at t = 1."""

    @abc.abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        r"""Return :math:`\beta(t)`, the weight of the target: 0 at t = 0, 1 at t = 1."""

    def alpha_derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\dot\alpha(t)`."""
        return time_derivative(self.alpha, t)

    def beta_derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\dot\beta(t)`."""
        return time_derivative(self.beta, t)

    def half_alpha_squared_derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\alpha\dot\alpha`, which may be finite where :math:`\dot\alpha` is not."""
        return self.alpha(t) * self.alpha_derivative(t)

    def half_beta_squared_derivative(self, t: Tensor) -> Tensor:
        r"""Return :math:`\beta\dot\beta`, which may be finite where :math:`\dot\beta` is not."""
        return self.beta(t) * self.beta_derivative(t)

    @override
    def interpolate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return expand(self.alpha(t), x0) * x0 + expand(self.beta(t), x1) * x1

    @override
    def derivative(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return expand(self.alpha_derivative(t), x0) * x0 + expand(self.beta_derivative(t), x1) * x1
