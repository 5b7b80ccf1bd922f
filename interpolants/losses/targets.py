"""Targets: what a network is asked to predict from ``(t, x_t)``."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from interpolants._tensors import expand
from interpolants.interpolant import Interpolant, InterpolantSample


class Target(abc.ABC):
    """A random quantity whose average given ``x_t`` the network learns.

    A subclass writes :meth:`of`, which must follow the latent noise of the sample it is given, so
    that antithetic pairs work.
    """

    @abc.abstractmethod
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        """Return the target of each row, shape ``(B, *D)``."""

    #: Whether the target exists only where there is latent noise.
    needs_gamma: ClassVar[bool] = False

    def check(self, interpolant: Interpolant) -> None:
        """Raise ValueError when ``interpolant`` does not have this target."""
        if self.needs_gamma and interpolant.gamma.vanishes:
            raise ValueError(
                f"the target {self} needs latent noise, and {interpolant} has gamma = 0; "
                "give the interpolant a gamma such as Brownian(), or learn Velocity(), X0() or X1()"
            )


@final
@dataclass(frozen=True)
class Velocity(Target):
    r"""The velocity: :math:`\dot x_t`, whose average is :math:`b`."""

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.xt_dot


@final
@dataclass(frozen=True)
class Denoiser(Target):
    r"""The latent noise: :math:`z`, whose average is :math:`\eta_z`. Needs ``gamma``."""

    needs_gamma = True

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return _latent(sample)


@final
@dataclass(frozen=True)
class Score(Target):
    r"""The score: :math:`-z / \gamma(t)`, whose average is :math:`s`. Needs ``gamma``.

    Its variance grows like :math:`1/\gamma^2` at the ends; :class:`Denoiser` learns the same with none of it.
    """

    needs_gamma = True

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        z = _latent(sample)
        return -z / expand(interpolant.gamma(sample.t), z)


@final
@dataclass(frozen=True)
class X0(Target):
    r"""The source point: :math:`x_0`, whose average is :math:`\eta_0`."""

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.x0


@final
@dataclass(frozen=True)
class X1(Target):
    r"""The target point: :math:`x_1`, whose average is :math:`\eta_1`."""

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.x1


def _latent(sample: InterpolantSample) -> Tensor:
    if sample.z is None:
        raise ValueError("this target needs latent noise, and the sample was made without")
    return sample.z
