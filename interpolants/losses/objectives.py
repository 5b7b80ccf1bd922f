r"""Objectives: the regression loss and the quadratic baseline objective.

For a target :math:`y` (by default the velocity :math:`\dot x_t`) and a network :math:`\hat b`,

* regression: :math:`E |\hat b(t, x_t) - y|^2`, which never reaches 0: its floor is the conditional variance;
* quadratic: :math:`E [|\hat b|^2 - 2 y \cdot \hat b]`, with the same expected gradient, whose minimum is
  :math:`-E|b|^2`, so that its distance to the minimum is :math:`E|\hat b - b|^2`.

Half the quadratic one is the objective of Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797).
Squared norms are summed over an example's elements and averaged over the batch.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from interpolants._tensors import check_alike, check_instance, kind, randn
from interpolants.couplings import Coupling, Independent
from interpolants.interpolant import Interpolant, InterpolantSample
from interpolants.losses.targets import Target, Velocity
from interpolants.losses.times import TimeLaw, Uniform

Network = Callable[..., Any]


class Draw(NamedTuple):
    """The randomness of one evaluation, after coupling: everything a loss needs beside the network.

    Attributes:
        t: Times, shape ``(B,)``.
        x0: Source points, shape ``(B, *D)``.
        x1: Target points, shape ``(B, *D)``.
        z: Latent noise, shape ``(B, *D)``; None without.
    """

    t: Tensor
    x0: Tensor
    x1: Tensor
    z: Tensor | None


class Shard(Protocol):
    """This process's part of a minibatch that several processes share, in rows of equal number.

    Attributes:
        index: Which part this process has, from 0.
        count: How many there are.
    """

    @property
    def index(self) -> int: ...  # noqa: D102

    @property
    def count(self) -> int: ...  # noqa: D102

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in their order, from ``(B, *D)`` to ``(count B, *D)``."""


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate.

    Attributes:
        value: The estimate.
        standard_error: Its standard deviation, estimated from the same examples.
    """

    value: float
    standard_error: float


@dataclass(frozen=True)
class Loss(abc.ABC):
    r"""An objective: ``loss(network, x0, x1)`` with ``network(t, x, **conditions)``.

    Args:
        interpolant: The path to learn on.
        target: What the network predicts.
        coupling: How the rows of ``x0`` and ``x1`` are paired.
        times: The law of the training times.
        weight: A function of time, ``(B,)`` to ``(B,)``, that multiplies each example's loss.
        antithetic: Whether each example is used with z and -z, at twice the network's cost. It lowers
            the variance, and keeps it finite where :math:`\dot\gamma` is infinite at the ends. Without
            latent noise it changes nothing and costs nothing.

    Raises:
        TypeError: When an argument is of the wrong kind, such as a class in place of an instance.
        ValueError: When the interpolant lacks the target, as a denoiser without latent noise.
    """

    interpolant: Interpolant
    target: Target = Velocity()
    coupling: Coupling = Independent()
    times: TimeLaw = Uniform()
    weight: Callable[[Tensor], Tensor] | None = None
    antithetic: bool = False

    def __post_init__(self) -> None:
        check_instance("interpolant", self.interpolant, Interpolant, "Linear()")
        check_instance("target", self.target, Target, "Velocity()")
        check_instance("coupling", self.coupling, Coupling, "Independent()")
        check_instance("times", self.times, TimeLaw, "Uniform()")
        if self.weight is not None and not callable(self.weight):
            raise TypeError(
                f"weight must be a function of time, such as lambda t: 1 - t; got {kind(self.weight)}"
            )
        self.target.check(self.interpolant)

    @abc.abstractmethod
    def of(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, from ``(B, *D)`` to ``(B,)``."""

    def __call__(
        self,
        network: Network,
        x0: Tensor,
        x1: Tensor,
        *,
        generator: torch.Generator | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Return the loss of a minibatch, shape ``()``.

        Args:
            network: Called as ``network(t, x, **conditions)`` with ``t`` of shape ``(B,)``.
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.
            generator: Where times, latent noise and a random coupling are drawn from.
            **conditions: Passed to the network; tensors of B rows belong to the rows of ``x1``.

        Raises:
            TypeError: When dtypes differ or are not floating.
            ValueError: When shapes or devices differ, or the network returns another shape than ``x``.
        """
        return self.mean(network, self.draw(x0, x1, generator=generator), **conditions)

    def per_example(
        self,
        network: Network,
        x0: Tensor,
        x1: Tensor,
        *,
        generator: torch.Generator | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Return the loss of each example, shape ``(B,)``; arguments as for calling the loss."""
        return self.evaluate(network, self.draw(x0, x1, generator=generator), **conditions)

    def draw(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Draw:
        """Return the coupled pairs with fresh times and latent noise: all the randomness there is.

        Args:
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.
            generator: Where times, latent noise and a random coupling are drawn from.
            shard: Where several processes share a minibatch, the part of it that ``x0`` and ``x1`` are. With
                generators in one state on all of them, every process draws for the whole minibatch and
                keeps its rows, so that together they have what one process would have drawn.
        """
        check_alike(x0, x1)
        if shard is None or shard.count == 1:
            return self._draw(x0, x1, generator)
        mine = slice(shard.index * len(x0), (shard.index + 1) * len(x0))
        if isinstance(self.coupling, Independent):  # The rows of the others are not looked at.
            rows = (shard.count * len(x0), *x0.shape[1:])
            whole = self._draw(x0.new_empty(1).expand(rows), x1.new_empty(1).expand(rows), generator)
            return Draw(whole.t[mine], x0, x1, None if whole.z is None else whole.z[mine])
        whole = self._draw(shard.gather(x0), shard.gather(x1), generator)
        return Draw(*(None if part is None else part[mine] for part in whole))  # type: ignore[arg-type]

    def _draw(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None) -> Draw:
        if not isinstance(self.coupling, Independent):
            pairs = self.coupling.pair(x0, x1, generator=generator)
            x0, x1 = pairs.x0, pairs.x1
        t = self.times.sample(x0.shape[0], x0, generator=generator)
        z = None if self.interpolant.gamma.vanishes else randn(x0.shape, x0, generator)
        return Draw(t, x0, x1, z)

    def evaluate(self, network: Network, draw: Draw, **conditions: Any) -> Tensor:
        """Return the loss of each example for given randomness, shape ``(B,)``: no draws inside."""
        prediction, target = self._predict(network, draw, conditions)
        return self._average(self.of(prediction, target), draw)

    def mean(self, network: Network, draw: Draw, **conditions: Any) -> Tensor:
        """Return the mean of :meth:`evaluate`, shape ``()``."""
        prediction, target = self._predict(network, draw, conditions)
        factors = self._factors(draw)
        if factors:
            return self._average(self.of(prediction, target), draw, factors).mean()
        return self.mean_of(prediction, target)

    def mean_of(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean of :meth:`of`, shape ``()``."""
        return self.of(prediction, target).mean()

    def calibration(
        self,
        network: Network,
        x0: Tensor,
        x1: Tensor,
        *,
        generator: torch.Generator | None = None,
        **conditions: Any,
    ) -> Estimate:
        r"""Return :math:`E|\hat b|^2 - E[y \cdot \hat b]` on held-out points: 0 at the optimum.

        Arguments as for calling the loss. Positive when the network answers too strongly.
        """
        with torch.no_grad():
            draw = self.draw(x0, x1, generator=generator)
            prediction, target = self._predict(network, draw, conditions)
            return _estimate(self._average(_squared(prediction) - _dot(target, prediction), draw))

    def gap(
        self,
        network: Network,
        exact: Network,
        x0: Tensor,
        x1: Tensor,
        *,
        generator: torch.Generator | None = None,
        **conditions: Any,
    ) -> Estimate:
        r"""Return how far the objective is from its minimum, :math:`E|\hat b - b|^2`, on held-out points.

        It is estimated from the objective itself, :math:`E[|\hat b|^2 - 2 y\cdot\hat b + |b|^2]`, so it
        also tests that ``exact`` is the minimiser.

        Args:
            network: The network.
            exact: The exact field, called like the network: ``oracle.velocity`` for the velocity.
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.
            generator: Where times, latent noise and a random coupling are drawn from.
            **conditions: Passed to both.
        """
        with torch.no_grad():
            draw = self.draw(x0, x1, generator=generator)
            prediction, target = self._predict(network, draw, conditions)
            truth, _ = self._predict(exact, draw, conditions)
            excess = _squared(prediction) - 2 * _dot(target, prediction) + _squared(truth)
            return _estimate(self._average(excess, draw))

    def _predict(self, network: Network, draw: Draw, conditions: dict[str, Any]) -> tuple[Tensor, Tensor]:
        sample = self.interpolant.sample(draw.t, draw.x0, draw.x1, draw.z)
        if self._paired(draw):
            assert draw.z is not None
            sample = _both(sample, self.interpolant.sample(draw.t, draw.x0, draw.x1, -draw.z))
            conditions = {name: _twice(value, draw.t.shape[0]) for name, value in conditions.items()}
        answer = network(sample.t.to(sample.xt.dtype), sample.xt, **conditions)
        prediction = self.target.predicted(answer, sample)
        # In mixed precision networks answer in 16 bits, in which squares and differences should not be taken.
        prediction = prediction.to(torch.promote_types(prediction.dtype, sample.xt.dtype))
        return prediction, self.target.of(sample, self.interpolant)

    def _paired(self, draw: Draw) -> bool:
        return self.antithetic and draw.z is not None

    def _average(self, values: Tensor, draw: Draw, factors: list[Tensor] | None = None) -> Tensor:
        if self._paired(draw):
            values = values.reshape(2, -1).mean(dim=0)
        for factor in self._factors(draw) if factors is None else factors:
            values = values * _checked_weight(factor, values)
        return values

    def _factors(self, draw: Draw) -> list[Tensor]:
        weights = [weight for weight in (self.times.weight, self.weight) if weight is not None]
        return [factor for weight in weights if (factor := weight(draw.t)) is not None]


@final
@dataclass(frozen=True)
class Regression(Loss):
    r"""The simple loss, :math:`E |\hat b(t, x_t) - y|^2`: IADB's, and flow matching's.

    With a gamma whose derivative is infinite at the ends, as Brownian, the floor for the velocity is
    infinite (its gradient is not): read :class:`Quadratic` there.

    The arguments are those of :class:`~interpolants.losses.Loss`.

    Example:
        >>> from interpolants import Linear
        >>> loss = Regression(Linear())
        >>> loss(lambda t, x: torch.ones_like(x), torch.zeros(4, 2), torch.ones(4, 2))
        tensor(0.)
    """

    @override
    def of(self, prediction: Tensor, target: Tensor) -> Tensor:
        # One kernel forward and one backward; three and four when spelt out.
        return _summed(mse_loss(prediction, target, reduction="none"))

    @override
    def mean_of(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.dtype not in (torch.float32, torch.float64) or target.dtype != prediction.dtype:
            return super().mean_of(prediction, target)  # Where the sum over all rows may be too large.
        # Two kernels fewer in either direction: 2 % of a small network's step.
        return mse_loss(prediction, target, reduction="sum") / len(prediction)


@final
@dataclass(frozen=True)
class Quadratic(Loss):
    r"""The baseline objective, :math:`E [|\hat b|^2 - 2 y \cdot \hat b]`.

    Same expected gradient as :class:`Regression`; on held-out data its value falls to
    :math:`-E|b|^2`, and :meth:`~interpolants.losses.Loss.calibration` to 0.

    The arguments are those of :class:`~interpolants.losses.Loss`.

    Example:
        >>> from interpolants import Linear
        >>> loss = Quadratic(Linear())
        >>> loss(lambda t, x: torch.ones_like(x), torch.zeros(4, 2), torch.ones(4, 2))
        tensor(-2.)
    """

    @override
    def of(self, prediction: Tensor, target: Tensor) -> Tensor:
        return _squared(prediction) - 2 * _dot(target, prediction)


def _checked_weight(weight: Tensor | float, values: Tensor) -> Tensor:
    weight = torch.as_tensor(weight, device=values.device).to(values.dtype)
    if weight.ndim > 0 and weight.shape != values.shape:
        raise ValueError(
            f"a weight must have the shape of t, {tuple(values.shape)}, or be one number; "
            f"got shape {tuple(weight.shape)}"
        )
    return weight


def _squared(x: Tensor) -> Tensor:
    return _summed(x.square())


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return _summed(x * y)


def _summed(x: Tensor) -> Tensor:
    return x if x.ndim == 1 else x.flatten(1).sum(dim=1)


def _both(plus: InterpolantSample, minus: InterpolantSample) -> InterpolantSample:
    parts = {name: torch.cat([getattr(plus, name), getattr(minus, name)]) for name in vars(plus)}
    return InterpolantSample(**parts)


def _twice(value: Any, rows: int) -> Any:
    is_batch = isinstance(value, Tensor) and value.shape[:1] == (rows,)
    return torch.cat([value, value]) if is_batch else value


def _estimate(values: Tensor) -> Estimate:
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(values.mean().item(), error)
