r"""The interpolants of the papers, ready to use; each takes any latent noise.

All are spatially linear, :math:`I = \alpha(t) x_0 + \beta(t) x_1` (Albergo, Boffi and Vanden-Eijnden 2023,
arXiv 2303.08797). Derivatives are written out, which is faster than automatic ones. Weights
are computed from the nearer end of [0, 1], so that they are exactly 0 and 1 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import expand
from interpolants.gammas import Gamma, SineSquared, Zero
from interpolants.interpolant import SpatiallyLinear


@final
@dataclass(frozen=True)
class Linear(SpatiallyLinear):
    r"""The straight line, :math:`\alpha = 1 - t`, :math:`\beta = t`: IADB's path, and the default.

    Also known as conditional optimal transport and rectified flow. Heitz, Belcour and Chambon 2023
    (arXiv 2305.03486) call the time alpha: their :math:`(1 - \alpha) x_0 + \alpha x_1` is this.

    Args:
        gamma: The amplitude of the latent noise; none by default.

    Raises:
        TypeError: When ``gamma`` is no Gamma.

    Example:
        >>> Linear().sample(0.25, torch.zeros(1, 1), torch.ones(1, 1)).xt
        tensor([[0.2500]])
    """

    gamma: Gamma = Zero()

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    @override
    def beta(self, t: Tensor) -> Tensor:
        return t

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    # One kernel each instead of three: this is the hot path of the default configuration.
    @override
    def interpolate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.lerp(x0, x1, expand(t, x0))

    @override
    def derivative(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return x1 - x0


@final
@dataclass(frozen=True)
class Trigonometric(SpatiallyLinear):
    r"""The quarter circle, :math:`\alpha = \cos(\pi t/2)`, :math:`\beta = \sin(\pi t/2)`.

    Preserves the variance when both sides have unit covariance.

    Args:
        gamma: The amplitude of the latent noise; none by default.

    Raises:
        TypeError: When ``gamma`` is no Gamma.

    Example:
        >>> Trigonometric().sample(1.0, torch.zeros(1, 1), torch.ones(1, 1)).xt
        tensor([[1.]])
    """

    gamma: Gamma = Zero()

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))

    @override
    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.beta(t)

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)


@final
@dataclass(frozen=True)
class EncodingDecoding(SpatiallyLinear):
    r"""Through noise and back: the source fades until t = 1/2, then the target appears.

    :math:`\alpha = \cos^2(\pi t)` on [0, 1/2) and 0 after, :math:`\beta` is its mirror image, and with
    :math:`\gamma = \sin^2(\pi t)` all mass is standard Gaussian at t = 1/2. Another gamma gives another
    bottleneck; without latent noise every path passes through the origin, where the way on is lost.

    Args:
        gamma: The amplitude of the latent noise; :math:`\sin^2(\pi t)` by default.

    Raises:
        TypeError: When ``gamma`` is no Gamma.

    Example:
        >>> interpolant = EncodingDecoding()
        >>> t = torch.tensor(0.5)
        >>> interpolant.alpha(t), interpolant.beta(t), interpolant.gamma(t)
        (tensor(0.), tensor(0.), tensor(1.))
    """

    gamma: Gamma = SineSquared()

    kinks = (0.5,)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        # cos(pi t) = sin(pi (1/2 - t)), exactly 0 from t = 1/2 on.
        return torch.sin(math.pi * (0.5 - t).clamp(min=0)).square()

    @override
    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi * (t - 0.5).clamp(min=0)).square()

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -math.pi * torch.sin(2 * math.pi * (0.5 - t).clamp(min=0))

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        return math.pi * torch.sin(2 * math.pi * (t - 0.5).clamp(min=0))


@final
@dataclass(frozen=True)
class VariancePreserving(SpatiallyLinear):
    r"""Score-based diffusion's path, :math:`\alpha = \sqrt{1 - \beta^2}`, reversed so that t = 0 is noise.

    The noise schedule is the usual one with rates linear in diffusion time :math:`\tau = 1 - t`,
    :math:`B(\tau) = \frac12\int_0^\tau (r_{min} + s (r_{max} - r_{min})) ds`, shifted and scaled so that no
    signal is left at pure noise (Lin et al. 2023, arXiv 2305.08891):

    .. math:: \beta(t) = \frac{e^{-B(1-t)} - e^{-B(1)}}{1 - e^{-B(1)}}.

    :math:`\dot\alpha` is infinite at t = 1, while :math:`\alpha\dot\alpha = -\beta\dot\beta` is finite. For
    another schedule use :class:`Affine`, or write a subclass of ``SpatiallyLinear``.

    Args:
        rate_min: The rate at the data, positive.
        rate_max: The rate at the noise, at least ``rate_min``.
        gamma: The amplitude of the latent noise; none by default.

    Raises:
        ValueError: When the rates are not positive, finite and in order.

    Example:
        >>> interpolant = VariancePreserving()
        >>> t = torch.tensor([0.0, 0.5, 1.0])
        >>> interpolant.alpha(t) ** 2 + interpolant.beta(t) ** 2
        tensor([1., 1., 1.])
    """

    rate_min: float = 0.1
    rate_max: float = 20.0
    gamma: Gamma = Zero()

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate_min <= self.rate_max < math.inf:
            raise ValueError(
                "VariancePreserving needs 0 < rate_min <= rate_max < infinity; "
                f"got {self.rate_min} and {self.rate_max}"
            )

    @override
    def alpha(self, t: Tensor) -> Tensor:
        lost = self._lost(t)
        return (lost * (2 - lost)).sqrt()

    @override
    def beta(self, t: Tensor) -> Tensor:
        # e^-B(1-t) - e^-B(1) = e^-B(1-t) (1 - e^-G), and G = B(1) - B(1-t) without cancellation.
        gained = t * (self.rate_min / 2 + (2 - t) * (self.rate_max - self.rate_min) / 4)
        small = torch.exp(-self._exponent(1 - t)) * torch.expm1(-gained) / math.expm1(-self._total)
        return torch.where(t < 0.5, small, 1 - self._lost(t))

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return self.half_alpha_squared_derivative(t) / self.alpha(t)

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        rate = self.rate_min + (1 - t) * (self.rate_max - self.rate_min)
        return rate / 2 * torch.exp(-self._exponent(1 - t)) / -math.expm1(-self._total)

    @override
    def half_alpha_squared_derivative(self, t: Tensor) -> Tensor:
        return -self.half_beta_squared_derivative(t)

    @property
    def _total(self) -> float:
        return (self.rate_min + self.rate_max) / 4

    def _lost(self, t: Tensor) -> Tensor:
        # 1 - beta without cancellation near t = 1; alpha^2 = (1 - beta)(1 + beta).
        return torch.expm1(-self._exponent(1 - t)) / math.expm1(-self._total)

    def _exponent(self, tau: Tensor) -> Tensor:
        return tau * (self.rate_min / 2 + tau * (self.rate_max - self.rate_min) / 4)


@final
@dataclass(frozen=True)
class Mirror(SpatiallyLinear):
    r"""Data to itself through noise: :math:`x_t = x_1 + \gamma(t) z`, with :math:`x_0 = x_1`.

    Its velocity is :math:`\dot\gamma \eta_z`. The path starts at ``x1``: ``x0`` is not used.

    Args:
        gamma: The amplitude of the latent noise.

    Example:
        >>> from interpolants.gammas import Quadratic
        >>> x1 = torch.ones(1, 1)
        >>> Mirror(Quadratic()).sample(0.5, x1, x1, z=x1).xt
        tensor([[1.2500]])
    """

    gamma: Gamma = field()

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    def ends(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        return x1, x1


@final
@dataclass(frozen=True, init=False)
class Affine(SpatiallyLinear):
    r"""Any spatially linear path from two callables; derivatives are automatic.

    Args:
        alpha: The weight of the source, from times ``(B,)`` to ``(B,)``; 1 at t = 0 and 0 at t = 1.
        beta: The weight of the target, likewise; 0 at t = 0 and 1 at t = 1.
        gamma: The amplitude of the latent noise; none by default.

    Raises:
        TypeError: When ``alpha`` or ``beta`` cannot be called.

    Example:
        >>> path = Affine(lambda t: (1 - t) ** 2, lambda t: t**2)
        >>> path.sample(0.5, torch.zeros(1, 1), torch.ones(1, 1)).xt_dot
        tensor([[1.]])
    """

    alpha_function: Callable[[Tensor], Tensor]
    beta_function: Callable[[Tensor], Tensor]
    gamma: Gamma = Zero()

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        beta: Callable[[Tensor], Tensor],
        gamma: Gamma = Zero(),
    ) -> None:
        for name, function in (("alpha", alpha), ("beta", beta)):
            if not callable(function):
                raise TypeError(f"{name} must be a function of time; got {type(function).__name__}")
        object.__setattr__(self, "alpha_function", alpha)
        object.__setattr__(self, "beta_function", beta)
        object.__setattr__(self, "gamma", gamma)
        self.__post_init__()

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_function(t)

    @override
    def beta(self, t: Tensor) -> Tensor:
        return self.beta_function(t)
