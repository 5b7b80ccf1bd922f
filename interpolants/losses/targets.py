"""Targets: what a network is asked to predict from ``(t, x_t)``."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import check_instance, expand, kind
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

    def predicted(self, answer: Any, sample: InterpolantSample) -> Tensor:
        """Return a network's answer as a tensor to be compared with the target.

        Args:
            answer: What the network returned for the points ``sample.xt``.
            sample: The sample.

        Raises:
            TypeError: When the answer is no tensor.
            ValueError: When it has another shape than the points.
        """
        if not isinstance(answer, Tensor):
            raise TypeError(f"network(t, x) must return a tensor; got {kind(answer)}")
        if answer.shape != sample.xt.shape:
            raise ValueError(
                f"network(t, x) must return the shape of x, {tuple(sample.xt.shape)}; "
                f"got {tuple(answer.shape)}"
            )
        return answer

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
    r"""The velocity: :math:`\dot x_t`, whose average is :math:`b`.

    Example:
        >>> import torch
        >>> from interpolants import Linear
        >>> path = Linear()
        >>> sample = path.sample(0.5, torch.zeros(1, 1), torch.full((1, 1), 3.0))
        >>> Velocity().of(sample, path)
        tensor([[3.]])
    """

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.xt_dot


@final
@dataclass(frozen=True)
class Denoiser(Target):
    r"""The latent noise: :math:`z`, whose average is :math:`\eta_z`. Needs ``gamma``.

    Example:
        >>> import torch
        >>> from interpolants import Brownian, Linear
        >>> path = Linear(Brownian())
        >>> sample = path.sample(0.5, torch.zeros(1, 1), torch.full((1, 1), 3.0), z=torch.ones(1, 1))
        >>> Denoiser().of(sample, path)
        tensor([[1.]])
    """

    needs_gamma = True

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return _latent(sample)


@final
@dataclass(frozen=True)
class Score(Target):
    r"""The score: :math:`-z / \gamma(t)`, whose average is :math:`s`. Needs ``gamma``.

    Its variance grows like :math:`1/\gamma^2` at the ends; :class:`Denoiser` learns the same with none of it.

    Example:
        >>> import torch
        >>> from interpolants import Brownian, Linear
        >>> path = Linear(Brownian())
        >>> sample = path.sample(0.5, torch.zeros(1, 1), torch.full((1, 1), 3.0), z=torch.ones(1, 1))
        >>> Score().of(sample, path)
        tensor([[-2.]])
    """

    needs_gamma = True

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        z = _latent(sample)
        return -z / expand(interpolant.gamma(sample.t), z)


@final
@dataclass(frozen=True)
class X0(Target):
    r"""The source point: :math:`x_0`, whose average is :math:`\eta_0`.

    Example:
        >>> import torch
        >>> from interpolants import Linear
        >>> path = Linear()
        >>> sample = path.sample(0.5, torch.zeros(1, 1), torch.full((1, 1), 3.0))
        >>> X0().of(sample, path)
        tensor([[0.]])
    """

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.x0


@final
@dataclass(frozen=True)
class X1(Target):
    r"""The target point: :math:`x_1`, whose average is :math:`\eta_1`.

    Example:
        >>> import torch
        >>> from interpolants import Linear
        >>> path = Linear()
        >>> sample = path.sample(0.5, torch.zeros(1, 1), torch.full((1, 1), 3.0))
        >>> X1().of(sample, path)
        tensor([[3.]])
    """

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return sample.x1


@final
@dataclass(frozen=True, init=False)
class Joint(Target):
    r"""Several targets at once, for one network with a head for each; their losses are added.

    The network returns a mapping by the same names, as :class:`~interpolants.LearnedField` takes it.

    Args:
        **targets: The target of each head.

    Raises:
        TypeError: When one is no Target.
        ValueError: When there is none.

    Example:
        >>> import torch
        >>> from interpolants import Brownian, Linear, Regression
        >>> loss = Regression(Linear(Brownian()), Joint(velocity=Velocity(), denoiser=Denoiser()))
        >>> x0, x1 = torch.zeros(4, 2), torch.ones(4, 2)
        >>> loss(lambda t, x: {"velocity": x, "denoiser": x}, x0, x1).shape
        torch.Size([])
    """

    targets: tuple[tuple[str, Target], ...]

    def __init__(self, **targets: Target) -> None:
        if not targets:
            raise ValueError("Joint needs at least one target, as Joint(velocity=Velocity())")
        for name, target in targets.items():
            check_instance(name, target, Target, "Velocity()")
            if isinstance(target, Joint):
                raise TypeError(f"the target of a head cannot be Joint itself; {name} is")
        object.__setattr__(self, "targets", tuple(targets.items()))

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return torch.stack([target.of(sample, interpolant) for _, target in self.targets], dim=1)

    @override
    def predicted(self, answer: Any, sample: InterpolantSample) -> Tensor:
        names = [name for name, _ in self.targets]
        if not isinstance(answer, Mapping) or any(name not in answer for name in names):
            came = f"one with {', '.join(answer)}" if isinstance(answer, Mapping) else kind(answer)
            raise TypeError(f"network(t, x) must return a mapping with {', '.join(names)}; got {came}")
        heads = [target.predicted(answer[name], sample) for name, target in self.targets]
        return torch.stack(heads, dim=1)

    @override
    def check(self, interpolant: Interpolant) -> None:
        for _, target in self.targets:
            target.check(interpolant)


@final
@dataclass(frozen=True)
class Weighted(Target):
    """A target whose loss is multiplied by a function of time: for one head of a :class:`Joint` target.

    Args:
        target: The target.
        weight: A function of time, ``(B,)`` to ``(B,)``, not negative.

    Raises:
        TypeError: When ``target`` is no Target or ``weight`` no function.

    Example:
        >>> import torch
        >>> from interpolants import Linear, Regression
        >>> loss = Regression(Linear(), Weighted(Velocity(), lambda t: 9 * torch.ones_like(t)))
        >>> loss(lambda t, x: 0 * x, torch.zeros(4, 1), torch.ones(4, 1))
        tensor(9.)
    """

    target: Target
    weight: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_instance("target", self.target, Target, "Velocity()")
        if not callable(self.weight):
            raise TypeError(f"weight must be a function of time; got {kind(self.weight)}")

    @override
    def of(self, sample: InterpolantSample, interpolant: Interpolant) -> Tensor:
        return self._times_root(sample, self.target.of(sample, interpolant))

    @override
    def predicted(self, answer: Any, sample: InterpolantSample) -> Tensor:
        return self._times_root(sample, self.target.predicted(answer, sample))

    @override
    def check(self, interpolant: Interpolant) -> None:
        self.target.check(interpolant)

    def _times_root(self, sample: InterpolantSample, value: Tensor) -> Tensor:
        # Both objectives are quadratic in (answer, target). A joint target has a dimension more than x.
        weight = torch.as_tensor(self.weight(sample.t), device=value.device)
        return expand(weight.sqrt(), value) * value


def _latent(sample: InterpolantSample) -> Tensor:
    if sample.z is None:
        raise ValueError("this target needs latent noise, and the sample was made without")
    return sample.z
