r"""What the SDE's errors can cost at most, in nats: diagnostics beside the likelihood of the flow.

For the ODE a small error of the velocity bounds nothing; for the SDE an error of its drift bounds the
divergence of what it samples (Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, Section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interpolants._tensors import as_rows, check_alike, check_instance, uniform
from interpolants.fields import Field
from interpolants.samplers.diffusions import Epsilon, as_epsilon
from interpolants.samplers.grid import nearest_of, state_dtype
from interpolants.samplers.likelihood import checked_log_prob
from interpolants.samplers.sde import SDESampler


@dataclass(frozen=True)
class Bound:
    """A Monte Carlo estimate of a bound.

    Attributes:
        value: The estimate, in nats.
        standard_error: Its standard deviation, estimated from the same examples.
    """

    value: float
    standard_error: float


def kl_bound(
    field: Field,
    exact: Field,
    x0: Tensor,
    x1: Tensor,
    epsilon: Epsilon | float | Callable[[Tensor], Tensor | float],
    *,
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Bound:
    r"""Return a bound on the Kullback-Leibler divergence of what the forward SDE samples from the target.

    .. math:: \mathrm{KL}(\rho_1 | \hat\rho_1) \le
        \int_0^1 \frac{1}{4 \epsilon} E\bigl|(b + \epsilon s)(t, x_t) - (\hat b + \epsilon \hat s)(t,
        x_t)\bigr|^2 dt,

    by Girsanov's theorem; of the SDE itself, not of its discretisation. It is finite only when the drift is
    right where :math:`\epsilon` vanishes.

    Args:
        field: The learned field.
        exact: The exact one, such as a ``MixtureOracle``; the points come from its path.
        x0: Points of the source, shape ``(B, *D)``.
        x1: Points of the target, likewise, coupled with ``x0`` as in the exact field.
        epsilon: The diffusion, positive inside (0, 1).
        generator: Where times and latent noise are drawn from.
        **conditions: Passed to both fields.

    Raises:
        TypeError: When a field is no Field, or the points are no floating-point tensors.
        ValueError: When the exact field has no path, or the diffusion is 0.

    Example:
        >>> from interpolants import Brownian, GaussianMixture, Linear, MixtureOracle
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> oracle = MixtureOracle(Linear(Brownian()), normal, normal)
        >>> kl_bound(oracle, oracle, torch.randn(8, 2), torch.randn(8, 2), 1.0)
        Bound(value=0.0, standard_error=0.0)
    """
    epsilon = as_epsilon(epsilon)
    for name, part in (("field", field), ("exact", exact)):
        check_instance(name, part, Field, "MixtureOracle(interpolant, source, target)")
    check_alike(x0, x1)
    if exact.interpolant is None:
        raise ValueError("the exact field must have an interpolant, from which the points are drawn")
    epsilon.check(exact.interpolant)
    with torch.no_grad():
        t = uniform(len(x0), x0, generator)
        level = epsilon(t.double(), exact.interpolant)
        if not (level > 0).all():
            raise ValueError(f"the bound needs an epsilon above 0 inside (0, 1); {epsilon} is 0 there")
        x = exact.interpolant.sample(t, x0, x1, generator=generator).xt
        wrong = field.drift(t, x, epsilon, **conditions) - exact.drift(t, x, epsilon, **conditions)
        values = as_rows(wrong.double()).square().sum(1) / (4 * level.to(x.device))
    return _mean(values)


def sde_log_likelihood_bound(
    field: Field,
    x1: Tensor,
    source_log_prob: Callable[[Tensor], Tensor],
    *,
    sampler: SDESampler,
    generator: torch.Generator | None = None,
    **conditions: Any,
) -> Bound:
    r"""Return a lower bound on the mean log density of points under the forward SDE *as it is sampled*.

    The Euler-Maruyama steps from t = 0 to 1 are a chain of Gaussians :math:`p(x_{k+1}|x_k)`; with the steps
    of the backward SDE as the approximate posterior :math:`q(x_k|x_{k+1})`,

    .. math:: \log \hat\rho_1(x_N) \ge
        E_q\Bigl[\log \rho_0(x_0) + \sum_k \log \frac{p(x_{k+1}|x_k)}{q(x_k|x_{k+1})}\Bigr],

    the evidence lower bound (Sohl-Dickstein et al. 2015, arXiv 1503.03585). Unlike the likelihood of the
    flow it takes no divergence, and it counts the blur of the last step. With exact fields it tends to the
    log density as steps grow; minus its mean bounds the cross-entropy from above.

    Args:
        field: What carries the points.
        x1: Points of the target, shape ``(B, *D)``.
        source_log_prob: The log density of the source, from ``(B, *D)`` to ``(B,)``.
        sampler: The steps and the diffusion, which must be positive at every time of the grid: a step without
            noise has no density.
        generator: Where the noise is drawn from.
        **conditions: Passed to the field.

    Raises:
        TypeError: When an argument is of the wrong kind.
        ValueError: When the method is not euler, or the diffusion is 0 at a time of the grid.

    Example:
        >>> from interpolants import GaussianMixture, Linear, MixtureOracle, SDESampler
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> oracle = MixtureOracle(Linear(), normal, normal)
        >>> generator = torch.Generator().manual_seed(0)
        >>> x1 = normal.sample(1000, generator=generator)
        >>> bound = sde_log_likelihood_bound(
        ...     oracle, x1, normal.log_prob, sampler=SDESampler(0.5), generator=generator
        ... )
        >>> -0.05 < bound.value - float(normal.log_prob(x1).mean()) < 0
        True
    """
    check_instance("sampler", sampler, SDESampler, "SDESampler(Constant(0.5))")
    if sampler.method != "euler":
        raise ValueError(f"only euler's steps are Gaussians with a density; got {sampler.method}")
    if isinstance(x1, Tensor) and state_dtype(x1) != x1.dtype:
        raise TypeError(f"the steps would be lost in half precision; give x1 in single, not {x1.dtype}")
    epsilon = as_epsilon(sampler.epsilon)
    every = SDESampler(epsilon, steps=sampler.steps, times=sampler.times)
    with torch.no_grad():
        trajectory = every.sample(field, x1, reverse=True, generator=generator, **conditions)
        times, points = trajectory.t.flip(0).tolist(), trajectory.x.flip(0)
        levels = epsilon(torch.tensor(times, dtype=torch.float64), field.interpolant).tolist()
        for time, level in zip(times, levels, strict=True):
            if level <= 0:
                raise ValueError(
                    f"a step without noise has no density: epsilon is {level:.3g} at t = {time:.3g}; take an "
                    "epsilon above 0 on the whole grid, or times that stop short of the ends"
                )
        nearest = nearest_of(times)
        total = checked_log_prob(source_log_prob, points[0]).double()
        for k in range(len(times) - 1):
            here, there = points[k], points[k + 1]
            length = times[k + 1] - times[k]
            forward = field.drift(times[k], here, epsilon, nearest=nearest, **conditions)
            backward = field.drift(times[k + 1], there, epsilon, reverse=True, nearest=nearest, **conditions)
            move = there.double() - here.double()
            total = total + _log_normal(move - length * forward.double(), 2 * levels[k] * length)
            total = total - _log_normal(move - length * backward.double(), 2 * levels[k + 1] * length)
    return _mean(total)


def _log_normal(x: Tensor, variance: float) -> Tensor:
    rows = as_rows(x)
    return -rows.square().sum(1) / (2 * variance) - rows.shape[1] / 2 * math.log(2 * math.pi * variance)


def _mean(values: Tensor) -> Bound:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Bound(values.mean().item(), error)
