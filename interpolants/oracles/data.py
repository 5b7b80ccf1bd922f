r"""The exact field from a Gaussian mixture towards a finite data set.

The data set is the mixture with :math:`D_j = 0` and equal weights: what a network of unlimited size would
learn from these points and nothing else.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, as_time
from interpolants.fields import Field
from interpolants.interpolant import SpatiallyLinear
from interpolants.oracles.mixtures import GaussianMixture, check_path, flat_rows, mean_drift, split

#: Elements of the largest temporary; points and rows are worked through in pieces.
_BUDGET = 2**24


class _Posterior(NamedTuple):
    # For each component i of the source: its log weight given x, the mean of the data given x and i,
    # and S_i^-1 (x - alpha m_i - beta mean), in the eigenbasis of C_i.
    log_weights: Tensor  # (B, I)
    data_means: Tensor  # (B, I, D), in the given basis
    residuals: Tensor  # (B, I, D), in the eigenbasis


class DataOracle(Field):
    r"""The exact field from a Gaussian mixture to a finite data set, drawn independently.

    Blockwise over the points, so 60,000 images fit; in the log domain; on the device of ``x`` and in
    its dtype (half precision is computed in single).

    At t = 1 without latent noise the density is the data set itself and the field is known on it alone;
    elsewhere the nearest point is taken for E[x1].

    Args:
        interpolant: The path.
        source: The density at t = 0.
        points: The data set, shape ``(N, *D)``.

    Raises:
        TypeError: When the interpolant is not spatially linear or the points are not floating.
        ValueError: When there are no points, they are not finite, or the dimensions differ.

    Example:
        >>> from interpolants import Linear
        >>> source = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.eye(1)[None])
        >>> oracle = DataOracle(Linear(), source, torch.tensor([[-1.0], [3.0]]))
        >>> oracle.x1(0.0, torch.zeros(1, 1)), oracle.x1(0.9, torch.tensor([[2.5]])).round(decimals=3)
        (tensor([[1.]]), tensor([[3.]]))
    """

    interpolant: SpatiallyLinear

    def __init__(self, interpolant: SpatiallyLinear, source: GaussianMixture, points: Tensor) -> None:
        check_path(interpolant)
        if not isinstance(points, Tensor) or not points.is_floating_point():
            raise TypeError("points must be a floating-point tensor")
        if points.ndim < 2 or len(points) == 0 or math.prod(points.shape[1:]) != source.dim:
            raise ValueError(
                f"points must have shape (N, *D), N > 0, with the source's {source.dim} elements a row; "
                f"got {tuple(points.shape)}"
            )
        if not torch.isfinite(points).all():
            raise ValueError("points must be finite")
        self.interpolant = interpolant
        self.source = source
        self.points = points.flatten(1)
        self.kinks = interpolant.kinks
        self.gaussian_source = source.is_standard_normal
        # In the eigenbasis of C_i every S_i = alpha^2 C_i + gamma^2 Id is diagonal, whatever the time.
        self._variances, self._bases = _eigenbases(source.covariances.double())

    @override
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        path = self.interpolant
        time, posterior = self._posterior(t, x)
        weights = posterior.log_weights.softmax(1)
        rates = path.alpha_derivative(time), path.half_alpha_squared_derivative(time)
        latent = path.gamma.half_squared_derivative(time)
        variances = self._variances.to(weights)
        rate = _coefficient(rates[1]) * variances + _coefficient(latent)
        total = self._back(weights, posterior.residuals)
        answer = (
            mean_drift(self.source, *rates, weights, total)
            + path.beta_derivative(time).reshape(-1, 1) * self._data_mean(posterior)
            + self._back(weights, rate * posterior.residuals)
        )
        return answer.reshape(x.shape).to(x.dtype)

    @override
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        _, posterior = self._posterior(t, x)
        answer = -self._back(posterior.log_weights.softmax(1), posterior.residuals)
        return answer.reshape(x.shape).to(x.dtype)

    @override
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        time, posterior = self._posterior(t, x)
        residual = self._back(posterior.log_weights.softmax(1), posterior.residuals)
        answer = self.interpolant.gamma(time).reshape(-1, 1) * residual
        return answer.reshape(x.shape).to(x.dtype)

    @override
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        time, posterior = self._posterior(t, x)
        weights = posterior.log_weights.softmax(1)
        shift = self._back(weights, self._variances.to(weights) * posterior.residuals)
        mean = weights @ self.source.means.to(weights)
        return (mean + self.interpolant.alpha(time).reshape(-1, 1) * shift).reshape(x.shape).to(x.dtype)

    @override
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        _, posterior = self._posterior(t, x)
        return self._data_mean(posterior).reshape(x.shape).to(x.dtype)

    def log_density(self, t: Time, x: Tensor) -> Tensor:
        r"""Return :math:`\log \rho(t, x)`, shape ``(B,)``."""
        _, posterior = self._posterior(t, x)
        return posterior.log_weights.logsumexp(1)

    def _data_mean(self, posterior: _Posterior) -> Tensor:
        return torch.einsum("bi,bid->bd", posterior.log_weights.softmax(1), posterior.data_means)

    def _back(self, weights: Tensor, rotated: Tensor) -> Tensor:
        """Average over the source's components and turn back from their eigenbases."""
        if self._bases is None:
            return torch.einsum("bi,bid->bd", weights, rotated)
        return torch.einsum("bi,ide,bie->bd", weights, self._bases.to(rotated), rotated)

    def _posterior(self, t: Time, x: Tensor) -> tuple[Tensor, _Posterior]:
        rows = flat_rows(x, self.source.dim)
        time = as_time(t, rows).to(rows.dtype)
        parts = [self._component(time, rows, i) for i in range(len(self.source.weights))]
        return time, _Posterior(*(torch.stack(part, dim=1) for part in zip(*parts, strict=True)))

    def _component(self, t: Tensor, rows: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        path, basis = self.interpolant, None if self._bases is None else self._bases[i].to(rows)
        alpha, beta, gamma = (c.reshape(-1, 1) for c in (path.alpha(t), path.beta(t), path.gamma(t)))
        variances = alpha.square() * self._variances[i].to(rows) + gamma.square()
        # Where nothing but the data is left (t = 1), a tiny variance picks the nearest point, and what is
        # off the data, where there is no density, moves as that point does.
        least = torch.finfo(rows.dtype).eps ** 2
        only_data = variances <= least
        variances = variances.clamp(min=least)
        centred = _turn(rows - alpha * self.source.means[i].to(rows), basis)
        log_sum, mean = self._attend(centred, beta, variances, basis)
        residual = torch.where(only_data, 0, (centred - beta * _turn(mean, basis)) / variances)
        log_norm = -variances.log().sum(1) / 2 - rows.shape[1] / 2 * math.log(2 * math.pi)
        log_weight = self.source.weights[i].to(rows).log() + log_norm + log_sum - math.log(len(self.points))
        return log_weight, mean, residual

    def _attend(
        self, centred: Tensor, beta: Tensor, variances: Tensor, basis: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return log sum_j exp(-|centred - beta n_j|^2_S / 2) and the mean of the n_j so weighted."""
        points = self.points.to(centred)
        shared = len(variances) == 1
        most = 4096 if shared else max(1, min(4096, _BUDGET // points.shape[1]))
        log_sum = torch.full((len(centred),), -torch.inf, dtype=centred.dtype, device=centred.device)
        mean = torch.zeros_like(centred)
        for block, _ in split(points, most):
            logits = -_distances(centred, beta, variances.sqrt(), _turn(block, basis)) / 2
            new_sum = torch.logaddexp(log_sum, logits.logsumexp(1))
            kept = (log_sum - new_sum).exp().unsqueeze(1)
            mean = kept * mean + (logits - new_sum.unsqueeze(1)).exp() @ block
            log_sum = new_sum
        return log_sum, mean


def _distances(centred: Tensor, beta: Tensor, scale: Tensor, points: Tensor) -> Tensor:
    # Differences are squared as they are: expanding the square loses everything when the scale is small.
    if len(scale) == 1:
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(centred / scale, beta * points / scale, compute_mode=exact).square()
    rows = []
    for piece, start in split(centred, _BUDGET // points.numel()):
        here = slice(start, start + len(piece))
        difference = piece.unsqueeze(1) - beta[here].unsqueeze(1) * points
        rows.append((difference / scale[here].unsqueeze(1)).square().sum(-1))
    return torch.cat(rows)


def _eigenbases(covariances: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return eigenvalues (I, D) and eigenvectors (I, D, D); None for diagonal matrices: no turn is needed."""
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    if torch.equal(covariances, torch.diag_embed(variances)):
        return variances, None
    values, vectors = torch.linalg.eigh(covariances)
    return values, vectors


def _turn(x: Tensor, basis: Tensor | None) -> Tensor:
    return x if basis is None else x @ basis


def _coefficient(value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1)
