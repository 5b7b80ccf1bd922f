"""What every field answers, and what follows from that alone."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from interpolants._tensors import Time, expand, kind
from interpolants.interpolant import Interpolant

NAMES = ("velocity", "score", "denoiser", "x0", "x1")
"""What a field answers with."""


class FieldUnavailable(ValueError):
    """Raised when what is known of a field does not determine what was asked for."""


class Diffusion(Protocol):
    r"""A diffusion :math:`\epsilon(t) \ge 0`, such as :class:`~interpolants.Constant`.

    Times are double-precision tensors of shape ``()`` or ``(B,)``, and so is every answer. The ratios are
    asked for where a division by :math:`\gamma` or :math:`\alpha` would be one of 0 by 0.
    """

    def __call__(self, t: Tensor, path: Interpolant | None = None) -> Tensor:
        r"""Return :math:`\epsilon(t)`."""
        ...

    def over_gamma(self, t: Tensor, path: Interpolant) -> Tensor:
        r"""Return :math:`\epsilon(t) / \gamma(t)`."""
        ...

    def over_alpha(self, t: Tensor, path: Interpolant) -> Tensor:
        r"""Return :math:`\epsilon(t) / \alpha(t)`."""
        ...


class Field(abc.ABC):
    """What is known of the transport at time t and points x.

    ``t`` is a float, ``()`` or ``(B,)``; ``x`` is ``(B, *D)``, and so is every answer. Conditions pass
    through to the networks.
    """

    if TYPE_CHECKING:

        @property
        def interpolant(self) -> Interpolant | None:
            """The path whose transport this is; None when unknown, and then what needs it is unavailable."""
    else:
        interpolant = None
    #: Whether the source is N(0, Id), independent of the target.
    gaussian_source: bool = False
    #: Times inside (0, 1) where a higher derivative of the velocity jumps.
    kinks: tuple[float, ...] = ()

    @abc.abstractmethod
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`b(t, x) = E[\dot x_t | x_t = x]`."""

    @abc.abstractmethod
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`s(t, x) = \nabla \log \rho(t, x)`."""

    @abc.abstractmethod
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_z(t, x) = E[z | x_t = x]`, the average latent noise."""

    @abc.abstractmethod
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_0(t, x) = E[x_0 | x_t = x]`."""

    @abc.abstractmethod
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_1(t, x) = E[x_1 | x_t = x]`."""

    def together(self, names: Sequence[str], t: Time, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        """Return several answers at once, by name; a field that can share work between them does.

        Args:
            names: Of velocity, score, denoiser, x0, x1.
            t: A time: a float, ``()`` or ``(B,)``.
            x: Points, shape ``(B, *D)``.
            **conditions: Passed to the networks.
        """
        return {name: getattr(self, name)(t, x, **conditions) for name in names}

    def drift(
        self,
        t: Time,
        x: Tensor,
        epsilon: Diffusion,
        *,
        reverse: bool = False,
        nearest: float = 0.0,
        **conditions: Any,
    ) -> Tensor:
        r"""Return :math:`b + \epsilon s`, the drift of the SDE with these marginals, forward in time.

        In reverse it is :math:`b - \epsilon s`, the drift of the SDE that is run from t = 1 to t = 0.
        Where :math:`\epsilon` is 0 the score is not asked for.

        Args:
            t: A time: a float, ``()`` or ``(B,)``.
            x: Points, shape ``(B, *D)``.
            epsilon: The diffusion.
            reverse: Whether time runs from 1 to 0.
            nearest: How near to an end networks are asked for what their values there do not determine; a
                sampler names a part of its step, within which it cannot tell times apart. Exact fields
                need none.
            **conditions: Passed to the networks.
        """
        check_diffusion(epsilon)
        level = epsilon(double(t), self.interpolant)
        if vanishes(level):
            return self.velocity(t, x, **conditions)
        answers = self.together(("velocity", "score"), t, x, **conditions)
        level = expand(level.to(x.device), x)
        return answers["velocity"] + (-level if reverse else level) * answers["score"]

    def prepared(
        self,
        times: Sequence[float],
        x: Tensor,
        names: Sequence[str] = ("velocity",),
        *,
        epsilon: Diffusion | None = None,
        reverse: bool = False,
        nearest: float = 0.0,
    ) -> AbstractContextManager[None]:
        """Return a context in which answers at given times are asked for.

        A field may work out beforehand, for all times at once, what depends on time alone; most do nothing.

        Args:
            times: The times.
            x: Points like those to come.
            names: What is asked for, when there is no diffusion.
            epsilon: The diffusion of the drift that is asked for.
            reverse: As for :meth:`drift`.
            nearest: As for :meth:`drift`.
        """
        return nullcontext()

    def require(self, *names: str) -> None:  # noqa: B027 - most fields answer everything
        """Raise FieldUnavailable unless the field answers with all of these, without evaluating it.

        Args:
            *names: Of velocity, score, denoiser, x0, x1.
        """

    def along(self, interpolant: Interpolant) -> Field:
        r"""Return the transport between the same densities, so coupled, along another path: no retraining.

        A point of the other path is, up to a factor, one of this path at another time, when
        :math:`(\alpha, \beta, \gamma)` are proportional there. Without latent noise that is so for any two
        spatially linear paths, and with latent noise when the source is N(0, Id), since
        :math:`\alpha x_0 + \gamma z` is then one Gaussian.

        Args:
            interpolant: The other path.

        Raises:
            FieldUnavailable: When a path is not spatially linear, passes twice through one ratio of its
                weights, or has latent noise that does not match.

        Example:
            >>> import torch
            >>> from interpolants import LearnedField, Linear, Trigonometric
            >>> field = LearnedField(Linear(), velocity=lambda t, x: 3 - x)  # as if learned
            >>> field.along(Trigonometric()).velocity(0.5, torch.ones(1, 1))
            tensor([[2.5468]])
        """
        from interpolants.fields.change import ChangedPath  # A final of this class, so not at the top.

        return ChangedPath(self, interpolant)


def check_diffusion(epsilon: object) -> None:
    """Raise TypeError unless this is a diffusion, as a sampler makes one from a number or a function."""
    if not hasattr(epsilon, "over_gamma"):
        raise TypeError(f"epsilon must be a diffusion, such as Constant(0.5); got {kind(epsilon)}")


def double(t: Time) -> Tensor:
    """Return a time in double precision, where a device has none on the CPU."""
    if not isinstance(t, Tensor):
        return torch.tensor(float(t), dtype=torch.float64)
    return (t.cpu() if t.device.type == "mps" else t).double()


def vanishes(level: Tensor) -> bool:
    """Return whether a diffusion is 0, as far as can be said without waiting for a device."""
    return level.ndim == 0 and level.device.type == "cpu" and bool(level == 0)
