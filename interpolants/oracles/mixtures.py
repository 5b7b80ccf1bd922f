r"""Gaussian mixtures, and the exact field between two of them on any spatially linear interpolant.

With :math:`\rho_0 = \sum_i p_i N(m_i, C_i)`, :math:`\rho_1 = \sum_j q_j N(n_j, D_j)` drawn independently,
:math:`\rho(t)` is the mixture with means :math:`M_{ij} = \alpha m_i + \beta n_j` and covariances
:math:`S_{ij} = \alpha^2 C_i + \beta^2 D_j + \gamma^2 \mathrm{Id}`; every conditional mean is a
posterior-weighted sum of Gaussian ones (Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, as_time, check_instance, kind, randn
from interpolants.fields import Field
from interpolants.interpolant import SpatiallyLinear

#: Elements of the largest temporary; larger batches are worked through in pieces.
_BUDGET = 2**25


class GaussianMixture:
    r"""A mixture of Gaussians, :math:`\sum_k w_k N(m_k, C_k)`.

    Args:
        weights: Non-negative, shape ``(K,)``; scaled to sum to 1.
        means: Shape ``(K, D)``.
        covariances: Symmetric and positive definite, shape ``(K, D, D)``.

    Raises:
        TypeError: When dtypes differ or are not floating.
        ValueError: When shapes do not fit, weights are negative or sum to 0, or a covariance is not
            symmetric positive definite.

    Example:
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        >>> mixture.log_prob(torch.zeros(1, 1))
        tensor([-1.4189])
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        _check_parameters(weights, means, covariances)
        self.weights = weights / weights.sum()
        self.means = means
        self.covariances = covariances
        factors, failures = torch.linalg.cholesky_ex(covariances)
        if failures.any():
            index = int(failures.nonzero()[0])
            raise ValueError(f"covariances must be positive definite; covariance {index} is not")
        self.factors: Tensor = factors

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.means.shape[1]

    @property
    def is_standard_normal(self) -> bool:
        """Whether this is N(0, Id)."""
        identity = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device)
        present = self.weights > 0
        means, covariances = self.means[present], self.covariances[present]
        return bool((means == 0).all()) and bool((covariances == identity).all())

    def to(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        """Return the mixture on another device or in another dtype; arguments as for a tensor."""
        return GaussianMixture(*(p.to(*args, **kwargs) for p in (self.weights, self.means, self.covariances)))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``n`` independent draws, shape ``(n, D)``."""
        component = _categorical(self.weights.expand(n, -1), generator)
        noise = randn((n, self.dim), self.means, generator)
        return self.means[component] + torch.einsum("bde,be->bd", self.factors[component], noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density at ``x`` of shape ``(B, *D)``, shape ``(B,)``."""
        x = flat_rows(x, self.dim)
        _, logs = _residuals(self.covariances.to(x), self.means.to(x), x)
        return torch.logsumexp(logs + self.weights.to(x).log(), dim=-1)


class _Posterior(NamedTuple):
    # For each row b of x and pair (i, j): the weight, and S^-1 (x - M).
    log_weights: Tensor  # (B, I, J), the log of p_i q_j N(x; M_ij, S_ij)
    residuals: Tensor  # (B, I, J, D)


class MixtureOracle(Field):
    r"""The exact field between two Gaussian mixtures, drawn independently.

    Works for any spatially linear interpolant and any gamma, in the log domain, on the device of ``x``
    and in its dtype (half precision is computed in single). ``x`` may have any shape ``(B, *D)`` with as
    many elements per row as the mixtures have dimensions. At an end where a derivative of the path is
    infinite, the velocity is finite whenever that is the truth.

    Args:
        interpolant: The path.
        source: The density at t = 0.
        target: The density at t = 1.

    Raises:
        TypeError: When the interpolant is not spatially linear, or an end is no GaussianMixture.
        ValueError: When the dimensions differ.

    Example:
        >>> from interpolants import Linear
        >>> source = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.eye(1)[None])
        >>> target = GaussianMixture(torch.ones(1), torch.full((1, 1), 3.0), 4 * torch.eye(1)[None])
        >>> oracle = MixtureOracle(Linear(), source, target)
        >>> oracle.velocity(0.0, torch.tensor([[1.0]]))  # E[x1] - x
        tensor([[2.]])
    """

    interpolant: SpatiallyLinear

    def __init__(
        self, interpolant: SpatiallyLinear, source: GaussianMixture, target: GaussianMixture
    ) -> None:
        check_path(interpolant)
        for name, mixture in (("source", source), ("target", target)):
            check_instance(name, mixture, GaussianMixture, "GaussianMixture(weights, means, covariances)")
        if source.dim != target.dim:
            raise ValueError(f"source and target must share a dimension; got {source.dim} and {target.dim}")
        self.interpolant = interpolant
        self.source = source
        self.target = target
        self.kinks = interpolant.kinks
        self.gaussian_source = source.is_standard_normal

    @override
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("velocity",), t, x)["velocity"]

    @override
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("score",), t, x)["score"]

    @override
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("denoiser",), t, x)["denoiser"]

    @override
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("x0",), t, x)["x0"]

    @override
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("x1",), t, x)["x1"]

    @override
    def together(self, names: Sequence[str], t: Time, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        means = {
            "velocity": self._velocity,
            "score": lambda t, posterior: -_total(posterior),
            "denoiser": lambda t, posterior: _column(self.interpolant.gamma(t)) * _total(posterior),
            "x0": self._x0,
            "x1": self._x1,
        }

        def answers(t: Tensor, rows: Tensor, posterior: _Posterior) -> Tensor:
            return torch.stack([means[name](t, posterior) for name in names], dim=1)

        rows = self._in_pieces(answers, t, x)
        return {
            name: row.reshape(x.shape).to(x.dtype) for name, row in zip(names, rows.unbind(1), strict=True)
        }

    def log_density(self, t: Time, x: Tensor) -> Tensor:
        r"""Return :math:`\log \rho(t, x)`, shape ``(B,)``."""
        return self._in_pieces(lambda t, rows, posterior: posterior.log_weights.flatten(1).logsumexp(1), t, x)

    def posterior_sample(
        self, t: Time, x: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a draw of ``(x0, x1, z)`` given ``x_t = x``, each of shape ``(B, *D)``: deblending.

        A pair of components is drawn from its posterior, then unconditional Gaussians from it are moved
        so that they blend to ``x`` (Matheron's rule), which makes them exact conditional draws.
        """

        def draw(t: Tensor, rows: Tensor, posterior: _Posterior) -> Tensor:
            pair = _categorical(posterior.log_weights.flatten(1).softmax(1), generator)
            i, j = pair // len(self.target.weights), pair % len(self.target.weights)
            x0, x1 = _member(self.source, i, rows, generator), _member(self.target, j, rows, generator)
            z = randn(rows.shape, rows, generator)
            path = self.interpolant
            alpha, beta, gamma = (_column(c) for c in (path.alpha(t), path.beta(t), path.gamma(t)))
            covariances = [m.covariances.to(rows)[k] for m, k in ((self.source, i), (self.target, j))]
            spread = _covariance(alpha[..., None], beta[..., None], gamma[..., None], *covariances)
            missing = rows - alpha * x0 - beta * x1 - gamma * z
            residual = torch.cholesky_solve(missing.unsqueeze(-1), _factor(spread))
            moved = [c @ residual for c in covariances]
            return torch.stack(
                [
                    x0 + alpha * moved[0].squeeze(-1),
                    x1 + beta * moved[1].squeeze(-1),
                    z + gamma * residual.squeeze(-1),
                ],
                dim=1,
            )

        # Each row carries a D x D factor of its own here.
        draws = self._in_pieces(draw, t, x, per_row=True)
        x0, x1, z = (part.reshape(x.shape).to(x.dtype) for part in draws.unbind(1))
        return x0, x1, z

    def _x0(self, t: Tensor, posterior: _Posterior) -> Tensor:
        weight, residual = _over_targets(posterior)
        shift = _spread(self.source.covariances, residual)
        return weight @ self.source.means.to(weight) + _column(self.interpolant.alpha(t)) * shift

    def _x1(self, t: Tensor, posterior: _Posterior) -> Tensor:
        weight, residual = _over_sources(posterior)
        shift = _spread(self.target.covariances, residual)
        return weight @ self.target.means.to(weight) + _column(self.interpolant.beta(t)) * shift

    def _velocity(self, t: Tensor, posterior: _Posterior) -> Tensor:
        # b = sum w (M' + S'/2 S^-1 (x - M)): the products alpha alpha' and so on are finite at the ends.
        path = self.interpolant
        from_source, source_residual = _over_targets(posterior)
        from_target, target_residual = _over_sources(posterior)
        total = _total(posterior)
        source_rate = path.alpha_derivative(t), path.half_alpha_squared_derivative(t)
        target_rate = path.beta_derivative(t), path.half_beta_squared_derivative(t)
        return (
            mean_drift(self.source, *source_rate, from_source, total)
            + mean_drift(self.target, *target_rate, from_target, total)
            + _column(source_rate[1]) * _spread(self.source.covariances, source_residual)
            + _column(target_rate[1]) * _spread(self.target.covariances, target_residual)
            + _column(path.gamma.half_squared_derivative(t)) * total
        )

    def _in_pieces(
        self,
        function: Callable[[Tensor, Tensor, _Posterior], Tensor],
        t: Time,
        x: Tensor,
        *,
        per_row: bool = False,
    ) -> Tensor:
        rows = flat_rows(x, self.source.dim)
        time = as_time(t, rows).to(rows.dtype)
        pairs = len(self.source.weights) * len(self.target.weights)
        size = pairs * self.source.dim * (self.source.dim if time.ndim or per_row else 1)
        pieces = []
        for piece, start in split(rows, _BUDGET // size):
            at = time[start : start + len(piece)] if time.ndim else time
            pieces.append(function(at, piece, self._posterior(at, piece)))
        return torch.cat(pieces)

    def _posterior(self, t: Tensor, rows: Tensor) -> _Posterior:
        path, source, target = self.interpolant, self.source, self.target
        alpha, beta, gamma = (
            torch.broadcast_to(c, t.shape).reshape(-1, 1, 1, 1, 1)
            for c in (path.alpha(t), path.beta(t), path.gamma(t))
        )
        covariances = _covariance(
            alpha, beta, gamma, source.covariances.to(rows)[:, None], target.covariances.to(rows)
        )
        means = alpha[..., 0] * source.means.to(rows)[:, None] + beta[..., 0] * target.means.to(rows)
        weights = source.weights.to(rows)[:, None] * target.weights.to(rows)
        shape = (len(rows), *weights.shape)
        residuals, logs = _residuals(covariances.flatten(1, 2), means.flatten(1, 2), rows)
        return _Posterior(logs.reshape(shape) + weights.log(), residuals.reshape(*shape, rows.shape[1]))


def check_path(interpolant: SpatiallyLinear) -> None:
    """Raise TypeError unless the interpolant is spatially linear, as exact fields need."""
    if not isinstance(interpolant, SpatiallyLinear):
        raise TypeError(
            "exact fields need a spatially linear interpolant, x = alpha x0 + beta x1 + gamma z, such as "
            f"Linear(); got {kind(interpolant)}"
        )


def mean_drift(
    mixture: GaussianMixture, derivative: Tensor, half_squared: Tensor, weights: Tensor, total: Tensor
) -> Tensor:
    r"""Return the part of the velocity that the means make, such as :math:`\dot\alpha \sum_i w_i m_i`.

    Where :math:`\dot\alpha` is infinite, :math:`\alpha` is 0 and the posterior weights are the prior ones
    up to :math:`w_i - p_i \approx \alpha p_i (m_i - \bar m) \cdot R`, R the total residual; so the limit is
    :math:`\dot\alpha \bar m + \alpha\dot\alpha \mathrm{Cov}(m) R`, finite when the mean of the mixture is 0.

    Args:
        mixture: The mixture whose means these are.
        derivative: The derivative of its weight on the path, shape ``()`` or ``(B,)``.
        half_squared: Weight times derivative, which is finite, likewise.
        weights: The posterior weights of the components, shape ``(B, K)``.
        total: The posterior mean of S^-1 (x - M), shape ``(B, D)``.
    """
    means, prior = mixture.means.to(weights), mixture.weights.to(weights)
    rate = _column(derivative)
    centre = prior @ means
    # Zero up to the rounding of its own sum.
    centred = centre.abs() <= 4 * torch.finfo(means.dtype).eps * means.abs().amax(0)
    spread = (prior[:, None] * (means - centre)).T @ (means - centre)
    limit = torch.where(centred, 0, rate * centre) + _column(half_squared) * (total @ spread)
    # Finite in the branch that is not taken too, or its gradient would be nan.
    finite = torch.where(rate.isinf(), 0, rate)
    return torch.where(rate.isinf(), limit, finite * (weights @ means))


def flat_rows(x: Tensor, dim: int) -> Tensor:
    """Return ``x`` of shape ``(B, *D)`` as ``(B, dim)``, at least in single precision."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
    if x.ndim < 2 or math.prod(x.shape[1:]) != dim:
        raise ValueError(f"x must have shape (B, *D) with {dim} elements a row; got {tuple(x.shape)}")
    return x.reshape(len(x), dim).to(torch.promote_types(x.dtype, torch.float32))


def split(rows: Tensor, most: int) -> list[tuple[Tensor, int]]:
    """Return pieces of at most ``most`` rows (at least one), each with the index of its first row."""
    size = max(1, most)
    return [(rows[start : start + size], start) for start in range(0, max(1, len(rows)), size)]


def _check_parameters(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor")
        if value.dtype != means.dtype:
            raise TypeError(f"weights, means and covariances must share a dtype; {name} is {value.dtype}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} must be finite")
    count, dim = means.shape if means.ndim == 2 else (-1, -1)
    if weights.shape != (count,) or covariances.shape != (count, dim, dim):
        shapes = ", ".join(str(tuple(p.shape)) for p in (weights, means, covariances))
        raise ValueError(f"weights, means, covariances need shapes (K,), (K, D), (K, D, D); got {shapes}")
    if (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"weights must be non-negative with a positive sum; got {weights.tolist()}")
    if not torch.allclose(covariances, covariances.mT):
        raise ValueError("covariances must be symmetric")


def _covariance(alpha: Tensor, beta: Tensor, gamma: Tensor, source: Tensor, target: Tensor) -> Tensor:
    identity = torch.eye(source.shape[-1], dtype=source.dtype, device=source.device)
    return alpha.square() * source + beta.square() * target + gamma.square() * identity


def _factor(covariances: Tensor) -> Tensor:
    factors: Tensor
    factors, failures = torch.linalg.cholesky_ex(covariances)
    if failures.any():
        raise ValueError(
            "the density at this time is degenerate (a covariance is singular), so it has no score: "
            "an interpolant without latent noise passes through a point here"
        )
    return factors


def _residuals(covariances: Tensor, means: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return S_k^-1 (x - M_k), (B, K, D), and log N(x; M_k, S_k), (B, K).

    ``covariances`` is (K, D, D), (1, K, D, D) or (B, K, D, D), ``means`` likewise without the last D.
    """
    factors = _factor(covariances)
    shared = factors.ndim == 3 or factors.shape[0] == 1
    differences = x.unsqueeze(1) - means
    if shared:  # One triangular solve with B right-hand sides for each component.
        factors = factors.reshape(factors.shape[-3:])
        columns = differences.permute(1, 2, 0)
    else:
        columns = differences.unsqueeze(-1)
    whitened = torch.linalg.solve_triangular(factors, columns, upper=False)
    residuals: Tensor = torch.linalg.solve_triangular(factors.mT, whitened, upper=True)
    distances: Tensor = whitened.square().sum(dim=-2)
    if shared:
        residuals, distances = residuals.permute(2, 0, 1), distances.T
    else:
        residuals, distances = residuals.squeeze(-1), distances.squeeze(-1)
    log_volumes: Tensor = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return residuals, -distances / 2 - log_volumes - x.shape[1] / 2 * math.log(2 * math.pi)


def _normalised(posterior: _Posterior) -> Tensor:
    return posterior.log_weights.flatten(1).softmax(1).reshape(posterior.log_weights.shape)


def _total(posterior: _Posterior) -> Tensor:
    return torch.einsum("bij,bijd->bd", _normalised(posterior), posterior.residuals)


def _over_targets(posterior: _Posterior) -> tuple[Tensor, Tensor]:
    weights = _normalised(posterior)
    return weights.sum(2), torch.einsum("bij,bijd->bid", weights, posterior.residuals)


def _over_sources(posterior: _Posterior) -> tuple[Tensor, Tensor]:
    weights = _normalised(posterior)
    return weights.sum(1), torch.einsum("bij,bijd->bjd", weights, posterior.residuals)


def _spread(covariances: Tensor, residuals: Tensor) -> Tensor:
    return torch.einsum("kde,bke->bd", covariances.to(residuals), residuals)


def _member(
    mixture: GaussianMixture, component: Tensor, like: Tensor, generator: torch.Generator | None
) -> Tensor:
    noise = randn(like.shape, like, generator)
    return mixture.means.to(like)[component] + torch.einsum(
        "bde,be->bd", mixture.factors.to(like)[component], noise
    )


def _categorical(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    device = probabilities.device if generator is None else generator.device
    draws = torch.multinomial(probabilities.to(device), 1, generator=generator)
    return draws.squeeze(-1).to(probabilities.device)


def _column(coefficient: Tensor) -> Tensor:
    return coefficient.reshape(-1, 1)
