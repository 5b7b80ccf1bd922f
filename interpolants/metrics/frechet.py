"""The Fréchet distance between the features of two sets of images, and what it is for real images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from interpolants._tensors import kind
from interpolants.metrics.estimates import Estimate, disjoint_parts, mean_of

__all__ = ["FeatureStatistics", "frechet_at_infinity", "frechet_distance", "frechet_floor"]


class FeatureStatistics:
    r"""Mean and covariance of features that arrive in batches, in double precision.

    Batches are merged by the update of Chan, Golub and LeVeque (1979), which subtracts means before it
    squares: features far from the origin keep their digits. Statistics of separate parts add up::

        statistics = FeatureStatistics(64)
        for images in batches:
            statistics.update(extractor(images))

    Args:
        dim: The number of features, at least 1.

    Raises:
        ValueError: If ``dim`` is below 1.

    Example:
        >>> statistics = FeatureStatistics(1)
        >>> statistics.update(torch.tensor([[1.0], [2.0]]))
        >>> statistics.update(torch.tensor([[6.0]]))
        >>> statistics.count, statistics.mean.item(), statistics.covariance.item()
        (3, 3.0, 7.0)
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        self.dim = dim
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"FeatureStatistics(dim={self.dim}, count={self.count})"

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """Return the statistics of features of shape ``(N, d)``."""
        if features.ndim != 2:
            raise ValueError(f"features must have shape (N, d), not {tuple(features.shape)}")
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    def update(self, features: Tensor) -> None:
        """Take in a batch of features, of any floating dtype and on any device.

        Args:
            features: Shape ``(N, dim)``; N may be 0.

        Raises:
            TypeError: If they are no floating-point tensor.
            ValueError: If they have another shape or hold a NaN or an infinity.
        """
        if not isinstance(features, Tensor) or not features.is_floating_point():
            came = features.dtype if isinstance(features, Tensor) else kind(features)
            raise TypeError(f"features must be a floating-point tensor, not {came}")
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features must have shape (N, {self.dim}), not {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("features must be finite; they hold a NaN or an infinity")
        if len(features) == 0:
            return
        features = features.detach().double()
        mean = features.mean(dim=0)
        centred = features - mean
        self._merge(len(features), mean.cpu(), (centred.T @ centred).cpu())

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        """Return the statistics of both sets of features together."""
        if not isinstance(other, FeatureStatistics):
            return NotImplemented
        if self.dim != other.dim:
            raise ValueError(f"both must have equally many features, not {self.dim} and {other.dim}")
        total = FeatureStatistics(self.dim)
        for part in (self, other):
            if part.count:
                total._merge(part.count, part._mean, part._scatter)
        return total

    @property
    def mean(self) -> Tensor:
        """The mean, shape ``(dim,)``, of at least one example."""
        self._check_count(1)
        return self._mean.clone()

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, shape ``(dim, dim)``, of at least two examples."""
        self._check_count(2)
        return self._scatter / (self.count - 1)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.count = total

    def _check_count(self, least: int) -> None:
        if self.count < least:
            raise ValueError(f"this needs the features of at least {least} examples, not {self.count}")


def frechet_distance(a: FeatureStatistics | Tensor, b: FeatureStatistics | Tensor) -> float:
    r"""Return the squared 2-Wasserstein distance between the Gaussians that fit two sets of features.

    .. math::
        |m_a - m_b|^2 + \operatorname{tr}\big(C_a + C_b - 2 (C_a C_b)^{1/2}\big)

    with unbiased covariances. On Inception features this is FID. The trace of the root is the sum of the
    singular values of :math:`C_a^{1/2} C_b^{1/2}`, which stays real and accurate where a covariance has no
    full rank, as with fewer examples than features.

    The value is too large by a term that falls like 1/N in the number of examples of either set, so compare
    values at equal numbers only, and with :func:`~interpolants.metrics.frechet_floor` at the same numbers.

    Args:
        a: Features, shape ``(N, d)``, or their statistics.
        b: Features, shape ``(M, d)``, or their statistics.

    Returns:
        The distance, never negative.

    Raises:
        TypeError: If a set is neither features in floating point nor statistics.
        ValueError: If a set has less than two examples, is not finite, or has other features than the other.

    Source:
        Dowson and Landau (1982); Heusel et al., section 2 (2017), arXiv 1706.08500.

    Example:
        >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> frechet_distance(x, 3 * x + 2)  # means 2 apart, deviations 1 and 3
        8.0
    """
    a, b = _statistics("a", a), _statistics("b", b)
    if a.dim != b.dim:
        raise ValueError(f"a and b must have equally many features, not {a.dim} and {b.dim}")
    c_a, c_b = a.covariance, b.covariance
    overlap = torch.linalg.svdvals(_root(c_a) @ _root(c_b)).sum()
    value = (a.mean - b.mean).square().sum() + c_a.trace() + c_b.trace() - 2 * overlap
    return max(float(value), 0.0)


def frechet_floor(
    real: Tensor,
    n: int,
    m: int | None = None,
    *,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Return the Fréchet distance between real and real: what a perfect generator is given at these sizes.

    Random disjoint sets of ``n`` and ``m`` real examples are compared, ``repeats`` times.

    Args:
        real: Features of real examples, shape ``(N, d)``.
        n: How many examples stand for the generated ones, at least 2.
        m: How many stand for the reference, at least 2; ``n`` unless given. At most N are used in all.
        repeats: How many random pairs of sets to average, at least 1.
        generator: Source of the sets.

    Returns:
        The mean. Its standard error is that over splits of these examples: the repeats share examples, so
        it does not tell how another set of N real examples would differ.

    Raises:
        ValueError: If a size or ``repeats`` is too small, or N is less than ``n + m``.

    Example:
        >>> real = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        >>> floors = [frechet_floor(real, n, generator=torch.Generator().manual_seed(1)) for n in (25, 200)]
        >>> floors[0].value > 4 * floors[1].value > 0
        True
    """
    m = n if m is None else m
    if n < 2 or m < 2 or repeats < 1:
        raise ValueError(f"n and m must be at least 2 and repeats at least 1, not {n}, {m} and {repeats}")
    if len(real) < n + m:
        raise ValueError(f"two disjoint sets of {n} and {m} need {n + m} real examples, not {len(real)}")
    values = []
    for _ in range(repeats):
        (chosen,) = disjoint_parts(len(real), n + m, at_most=1, generator=generator)
        some = real[chosen.to(real.device)]
        values.append(frechet_distance(some[:n], some[n:]))
    return mean_of(values, n)


def frechet_at_infinity(
    generated: Tensor,
    reference: FeatureStatistics | Tensor,
    *,
    sizes: int = 15,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Return the Fréchet distance extrapolated to infinitely many generated examples.

    A line in 1/n is fitted to the distances of random sets of n generated examples, for evenly spaced n from
    a tenth of them to all, and read off at 1/n = 0; where several disjoint sets of n fit in, their mean
    counts. The share of the bias that comes from a finite reference stays, so compare models on one reference
    only. The line is a good model where n exceeds the number of features.

    Args:
        generated: Features, shape ``(N, d)``, N at least 20.
        reference: Features, shape ``(M, d)``, or their statistics.
        sizes: How many sizes to measure, at least 3.
        generator: Source of the sets.

    Returns:
        The value on the line, which may be slightly negative, with its standard error from the scatter about
        the line; large sets share examples, so the error is somewhat larger than this.

    Raises:
        ValueError: If there are too few examples or sizes.

    Source:
        Chong and Forsyth, Effectively unbiased FID and Inception Score, section 3 (2020), arXiv 1911.07023.

    Example:
        >>> draw = lambda n, seed: torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
        >>> real = FeatureStatistics.of(draw(20_000, 0))
        >>> far, some = frechet_at_infinity(draw(500, 1), real), frechet_distance(draw(500, 1), real)
        >>> abs(far.value) < some  # the truth is 0
        True
    """
    if len(generated) < 20 or sizes < 3:
        raise ValueError(f"this needs 20 examples and 3 sizes or more, not {len(generated)} and {sizes}")
    reference = _statistics("reference", reference)
    counts = torch.linspace(len(generated) / 10, len(generated), sizes).round().long().tolist()
    values = []
    for n in counts:
        parts = disjoint_parts(len(generated), n, at_most=len(generated) // n, generator=generator)
        distances = [frechet_distance(generated[part.to(generated.device)], reference) for part in parts]
        values.append(math.fsum(distances) / len(parts))
    x, y = (torch.tensor(numbers, dtype=torch.float64) for numbers in (counts, values))
    intercept, error = _line_at_zero(1 / x, y)
    return Estimate(intercept, error, len(generated), sizes)


def _statistics(name: str, features: FeatureStatistics | Tensor) -> FeatureStatistics:
    if isinstance(features, FeatureStatistics):
        return features
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be FeatureStatistics or a tensor, not {kind(features)}")
    return FeatureStatistics.of(features)


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric root; eigenvalues that rounding made negative count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _line_at_zero(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the value at 0 of the least-squares line, and its standard error."""
    x, y = x.double(), y.double()
    spread = (x - x.mean()).square().sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    intercept = y.mean() - slope * x.mean()
    variance = (y - intercept - slope * x).square().sum() / (len(x) - 2)
    error = variance * (1 / len(x) + x.mean().square() / spread)
    return intercept.item(), math.sqrt(error.item())
