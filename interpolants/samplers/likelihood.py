r"""The density that a flow carries along.

Along :math:`\dot X = b(t, X)` the log density changes by minus the divergence of b, so that

.. math::
    \log \rho_1(X_1) = \log \rho_0(X_0) - \int_0^1 \nabla \cdot b(t, X_t)\, dt,

integrated together with the points (Chen et al. 2018, arXiv 1806.07366, section 4; Grathwohl et al. 2018,
arXiv 1810.01367, for the estimated divergence).
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import (
    as_rows,
    check_instance,
    exact_divergence,
    hutchinson_divergence,
    kind,
    randn,
)
from interpolants.fields import Field
from interpolants.samplers.compiled import CompiledRates
from interpolants.samplers.ode import ODESampler, Velocity, integrate

Rates = Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]]
"""From a function and points (B, *D) to its values there and P estimates of its divergence, (P, B)."""


class Divergence(abc.ABC):
    """How the divergence of a field is found: :class:`Exact` or :class:`Hutchinson`."""

    @property
    @abc.abstractmethod
    def estimates(self) -> int:
        """How many estimates it makes of each divergence, P."""

    @abc.abstractmethod
    def rates(self, x: Tensor, generator: torch.Generator | None) -> Rates:
        """Return what finds the divergence along one integration, with whatever it draws drawn once."""


@final
@dataclass(frozen=True)
class Exact(Divergence):
    """The exact divergence: as many backward passes an evaluation as an example has elements.

    Args:
        chunk: How many of them to batch; by default as many as are fast and fit in memory.
        compile: Whether to compile the evaluation and its backward passes into one graph: some seconds when a
            field is first asked and for points of another shape or precision, after which log-likelihoods
            took 0.5 to 0.65 of the time on a CPU (``benchmarks/speed/likelihood.py``). For fields whose
            velocity is a network's own answer: what is derived looks at values. The graph follows the
            parameters of the network as they are trained, and is dropped with the field.

    Raises:
        ValueError: When ``chunk`` is less than 1.

    Example:
        >>> Exact(chunk=8)
        Exact(chunk=8, compile=False)
    """

    chunk: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.chunk is not None and (self.chunk < 1 or int(self.chunk) != self.chunk):
            raise ValueError(f"chunk must be a whole number, at least 1, or None; got {self.chunk}")

    @property
    @override
    def estimates(self) -> int:
        return 1

    @override
    def rates(self, x: Tensor, generator: torch.Generator | None) -> Rates:
        chunk = None if self.chunk is None else int(self.chunk)

        def rates(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            value, divergence = exact_divergence(
                function, x, chunk=chunk, create_graph=torch.is_grad_enabled()
            )
            return value, divergence.unsqueeze(0)

        return rates


@final
@dataclass(frozen=True)
class Hutchinson(Divergence):
    r"""Unbiased estimates :math:`v \cdot \nabla b\, v`, each entry of v being 1 or -1 by chance.

    Every example has its own probes, the same from the first time to the last: each probe then makes a
    log density of its own, and their spread is the standard error.

    Args:
        probes: The number of probes of each example, and of backward passes an evaluation.

    Raises:
        ValueError: When ``probes`` is less than 2, which leaves no spread.

    Example:
        >>> from interpolants import LearnedField, Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x: x.flip(1))  # of trace 0
        >>> likelihood = log_likelihood(
        ...     field,
        ...     torch.zeros(1, 2),
        ...     standard_normal_log_prob,
        ...     divergence=Hutchinson(100),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> abs(likelihood.value + math.log(2 * math.pi)) < 4 * likelihood.standard_error
        tensor([True])
    """

    probes: int = 16

    def __post_init__(self) -> None:
        if self.probes < 2 or int(self.probes) != self.probes:
            raise ValueError(
                "probes must be a whole number, at least 2, so that they tell a standard error; "
                f"got {self.probes}"
            )

    @property
    @override
    def estimates(self) -> int:
        return int(self.probes)

    @override
    def rates(self, x: Tensor, generator: torch.Generator | None) -> Rates:
        draws = randn((self.estimates, *x.shape), x, generator)
        probes = torch.ones_like(draws).copysign(draws)

        def rates(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            return hutchinson_divergence(function, x, probes, create_graph=torch.is_grad_enabled())

        return rates


@final
@dataclass(frozen=True, eq=False)
class Likelihood:
    r"""Log densities of points, and where they came from.

    Attributes:
        value: :math:`\log \rho_1(x_1)` in nats, shape ``(B,)``.
        standard_error: The standard error of each value from the probes of its divergence, shape ``(B,)``;
            0 for an exact one. The error of the integration, which the tolerance controls, comes on top.
        x0: The points at the first time, shape ``(B, *D)``.
        x1: The points at the last time, shape ``(B, *D)``.
        evaluations: How often the field was evaluated on the whole batch.
    """

    value: Tensor
    standard_error: Tensor
    x0: Tensor
    x1: Tensor
    evaluations: int

    @property
    def bits_per_dim(self) -> Tensor:
        r"""The negative log-likelihood in bits per element, :math:`-\mathrm{value} / (D \ln 2)`, ``(B,)``.

        Of the points as they are: for data scaled from pixels the logarithm of the scale comes on top.
        """
        return -self.value / (math.prod(self.x1.shape[1:]) * math.log(2))


_DOPRI5 = ODESampler("dopri5")
_EXACT = Exact()


def log_likelihood(
    field: Field,
    x1: Tensor,
    source_log_prob: Callable[[Tensor], Tensor],
    *,
    sampler: ODESampler = _DOPRI5,
    divergence: Divergence = _EXACT,
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Likelihood:
    r"""Return the log density, under the model, of given points.

    .. math:: \log \rho_1(x_1) = \log \rho_0(X_0) - \int_0^1 \nabla \cdot b(t, X_t)\, dt, \quad X_1 = x_1.

    Args:
        field: What carries the source into the model; its velocity must be differentiable.
        x1: Points, shape ``(B, *D)``. Half precision is integrated in single.
        source_log_prob: The log density of the source, from ``(B, *D)`` to ``(B,)``, such as
            :func:`standard_normal_log_prob`. When ``sampler.times`` begins after 0, that at its first time.
        sampler: How the flow is integrated, by default by ``ODESampler("dopri5")``. The log density meets
            its tolerance as the points do. Its steps are taken, but only the ends returned; when it is
            differentiable so is the answer, by the points and by the parameters of the field (of a network
            that is not compiled: those have no second derivatives).
        divergence: How the divergence is found, by default ``Exact()``.
        generator: Where probes are drawn from; torch's global generator by default.
        **conditions: Passed to the field.

    Raises:
        TypeError: When an argument is of the wrong kind.
        ValueError: When ``source_log_prob`` returns another shape than ``(B,)``, the field depends on its
            points but records no gradient, or the sampler is one of scipy's.
        RuntimeError: When an adaptive method cannot reach its tolerance, or a field cannot be compiled.

    Example:
        >>> from interpolants import LearnedField, Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x: x)  # X_1 = e X_0
        >>> log_likelihood(field, torch.zeros(1, 2), standard_normal_log_prob).value  # -log(2 pi) - 2
        tensor([-3.8379])
    """
    return _carried(field, x1, source_log_prob, sampler, divergence, generator, conditions, reverse=True)


def sample_with_log_prob(
    field: Field,
    x0: Tensor,
    source_log_prob: Callable[[Tensor], Tensor],
    *,
    sampler: ODESampler = _DOPRI5,
    divergence: Divergence = _EXACT,
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Likelihood:
    """Carry points of the source to the model, and return the log density where they arrive.

    Args:
        field: As for :func:`log_likelihood`, and so are the other arguments and what is raised.
        x0: Points of the source, shape ``(B, *D)``.
        source_log_prob: The log density of the source.
        sampler: How the flow is integrated, by default by ``ODESampler("dopri5")``.
        divergence: How the divergence is found, by default ``Exact()``.
        generator: Where probes are drawn from.
        **conditions: Passed to the field.

    Example:
        >>> from interpolants import LearnedField, Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x: x)
        >>> sampled = sample_with_log_prob(field, torch.ones(1, 1), standard_normal_log_prob)
        >>> sampled.x1, sampled.value  # -log(2 pi)/2 - 1/2 - 1
        (tensor([[2.7183]]), tensor([-2.4189]))
    """
    return _carried(field, x0, source_log_prob, sampler, divergence, generator, conditions, reverse=False)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """Return the log density of N(0, Id), shape ``(B,)``.

    Half precision is computed in single.

    Args:
        x: Points, shape ``(B, *D)``.

    Example:
        >>> standard_normal_log_prob(torch.zeros(2, 1))
        tensor([-0.9189, -0.9189])
    """
    rows = as_rows(x).to(torch.promote_types(x.dtype, torch.float32))
    return -rows.square().sum(1) / 2 - rows.shape[1] / 2 * math.log(2 * math.pi)


def _carried(
    field: Field,
    x: Tensor,
    source_log_prob: Callable[[Tensor], Tensor],
    sampler: ODESampler,
    divergence: Divergence,
    generator: torch.Generator | None,
    conditions: Mapping[str, Any],
    *,
    reverse: bool,
) -> Likelihood:
    check_instance("sampler", sampler, ODESampler, 'ODESampler("dopri5")')
    check_instance("divergence", divergence, Divergence, "Exact()")
    _check_callable(source_log_prob)
    recording = sampler.differentiable and torch.is_grad_enabled()
    # The divergence needs gradients, which inference mode forbids whatever is enabled inside it.
    with torch.inference_mode(False), torch.set_grad_enabled(recording):
        x = x.clone() if isinstance(x, Tensor) and x.is_inference() else x
        ends = dataclasses.replace(sampler, end_only=True)
        compiled = None
        if isinstance(divergence, Exact) and divergence.compile:
            compiled = CompiledRates(field, conditions, x.dtype, divergence.chunk)
        system = partial(_augmented, divergence, generator, compiled)
        _, (points, logs), evaluations = integrate(ends, field, x, conditions, system, reverse=reverse)
        evaluations += 0 if compiled is None else compiled.evaluations
        x0, x1 = (points[-1], points[0]) if reverse else (points[0], points[-1])
        # What came along is the integral of the divergence in the direction of time that was run.
        change = logs[-1] if reverse else -logs[-1]
        value = checked_log_prob(source_log_prob, x0) + change.mean(0)
        if len(change) > 1:
            standard_error = change.std(0) / math.sqrt(len(change))
        else:
            standard_error = torch.zeros_like(value)
    return Likelihood(value, standard_error, x0.to(x.dtype), x1.to(x.dtype), evaluations)


def _augmented(
    divergence: Divergence,
    generator: torch.Generator | None,
    compiled: CompiledRates | None,
    velocity: Velocity,
    x: Tensor,
) -> tuple[Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return the derivative and the start of the points and the integrals of their divergence, (P, B)."""
    rates = divergence.rates(x, generator)
    start = (x, x.new_zeros(divergence.estimates, len(x)))
    if compiled is not None:
        return lambda t, state: compiled(t, state[0]), start

    def derivative(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return rates(partial(velocity, t), state[0])

    return derivative, start


def _check_callable(source_log_prob: object) -> None:
    if not callable(source_log_prob):
        raise TypeError(
            "source_log_prob must be a function from (B, *D) to (B,), such as standard_normal_log_prob or "
            f"mixture.log_prob; got {kind(source_log_prob)}"
        )


def checked_log_prob(source_log_prob: Callable[[Tensor], Tensor], x0: Tensor) -> Tensor:
    """Return the log density of the source at its points, checked."""
    _check_callable(source_log_prob)
    value = source_log_prob(x0)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"source_log_prob must return a floating-point tensor; got {kind(value)}")
    if value.shape != x0.shape[:1]:
        raise ValueError(
            f"source_log_prob must return one log density per example, shape ({len(x0)},), for points of "
            f"shape {tuple(x0.shape)}; got shape {tuple(value.shape)}"
        )
    return value
