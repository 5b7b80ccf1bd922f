"""Nearest neighbours of feature vectors: fidelity, diversity, and copies of the training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from interpolants.metrics._points import two_sets

__all__ = [
    "Copies",
    "DensityCoverage",
    "PrecisionRecall",
    "copies",
    "density_coverage",
    "nearest_distances",
    "precision_recall",
]

_PAIRS_AT_ONCE = 1 << 21
# A point whose distance equals a radius up to rounding lies on the sphere, not in the ball.
_INSIDE = 1 - 1e-9


class PrecisionRecall(NamedTuple):
    """The share of generated points among the real ones, and of real points among the generated ones.

    Attributes:
        precision: The share of generated points among the real ones, in [0, 1].
        recall: The share of real points among the generated ones, in [0, 1].
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How densely real points surround the generated ones, and the share of real points with one near.

    Attributes:
        density: How densely real points surround the generated ones; it may exceed 1.
        coverage: The share of real points with a generated one near, in [0, 1].
    """

    density: float
    coverage: float


def nearest_distances(queries: Tensor, references: Tensor, *, k: int = 1) -> Tensor:
    """Return the distance of each query from its ``k``-th nearest reference.

    Pairs are looked at in blocks, so that fifty thousand of each fit in memory. The distance itself is taken
    from the difference of the two points: that of a copy is exactly zero.

    Args:
        queries: Points, shape ``(n, *D)``.
        references: Points, shape ``(m, *D)``.
        k: Which neighbour, from 1 to m.

    Returns:
        Distances in float64, shape ``(n,)``.

    Raises:
        ValueError: If the sets differ in the shape of a point or in device, are empty or not finite, or if
            ``k`` is out of range.

    Example:
        >>> nearest_distances(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [3.0]]))
        tensor([1., 2.], dtype=torch.float64)
    """
    queries, references = two_sets(queries, references)
    if not 1 <= k <= len(references):
        raise ValueError(f"k must be between 1 and the number of references, {len(references)}, not {k}")
    return _kth_distances(queries, references, k)


def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Return the improved precision and recall of generated features.

    Each set is taken to fill the balls about its points that reach to their ``k``-th nearest neighbour within
    the set. Precision is the share of generated points in a ball of the real set, recall the share of real
    points in a ball of the generated set. Both depend on the sizes of the sets: compare at equal sizes.

    Args:
        real: Features, shape ``(n, *D)``, n above k.
        generated: Features, shape ``(m, *D)``, m above k.
        k: Which neighbour gives the radius, at least 1. A point on a sphere is outside.

    Returns:
        Precision and recall, both in [0, 1].

    Raises:
        ValueError: If the sets differ in the shape of a point or in device, are not finite or have less than
            ``k + 1`` points, or if ``k`` is below 1.

    Source:
        Kynkäänniemi et al., section 2 (2019), arXiv 1904.06991.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> precision_recall(real, torch.tensor([[0.4], [0.6], [9.0], [9.5]]), k=1)
        PrecisionRecall(precision=0.5, recall=0.0)
    """
    real, generated = _two_sets(real, generated, k)
    among_real = _balls_around(generated, real, _radii(real, k)) > 0
    among_generated = _balls_around(real, generated, _radii(generated, k)) > 0
    return PrecisionRecall(_share(among_real), _share(among_generated))


def density_coverage(real: Tensor, generated: Tensor, *, k: int = 5) -> DensityCoverage:
    """Return density and coverage of generated features, which single outliers do not sway.

    With balls about the real points that reach to their ``k``-th nearest real neighbour, density is the mean
    number of balls about a generated point, over ``k``, and coverage is the share of balls that hold a
    generated point. For sets from one distribution density is about 1, and coverage of equally many points
    about ``1 - 2**-k``. Both depend on the sizes of the sets: compare at equal sizes.

    Args:
        real: Features, shape ``(n, *D)``, n above k.
        generated: Features, shape ``(m, *D)``, m above k.
        k: Which neighbour gives the radius, at least 1. A point on a sphere is outside.

    Returns:
        Density, which may exceed 1, and coverage in [0, 1].

    Raises:
        ValueError: As for :func:`precision_recall`.

    Source:
        Naeem et al., section 3 (2020), arXiv 2002.09797.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> density_coverage(real, torch.tensor([[0.4], [0.6], [9.0], [9.5]]), k=1)
        DensityCoverage(density=1.0, coverage=0.5)
    """
    real, generated = _two_sets(real, generated, k)
    radii = _radii(real, k)
    density = _balls_around(generated, real, radii).double().mean().item() / k
    covered = _kth_distances(real, generated, 1) < _INSIDE * radii
    return DensityCoverage(density, _share(covered))


@final
@dataclass(frozen=True)
class Copies:
    """Whether generated images lie closer to the training images than fresh real images do.

    Args:
        share: The share of generated images whose nearest training image is within ``threshold``.
        standard_error: That of ``share``, for a generator whose images lie as far away as real ones.
        expected: The share of fresh real images within ``threshold``: the quantile asked for, or the measured
            share where that is larger, as when the held-out images contain duplicates of training images.
        threshold: The distance within which an image counts as a copy.
        median_ratio: The median distance of generated images from the training images, over that of held-out
            ones: near 1 for fresh images, 0 for copies.
        n: The number of generated images.
        training: The number of training images.
        held_out: The number of held-out images.
    """

    share: float
    standard_error: float
    expected: float
    threshold: float
    median_ratio: float
    n: int
    training: int
    held_out: int

    def __str__(self) -> str:
        return (
            f"{self.share:.2%} ± {self.standard_error:.2%} of {self.n} within {self.threshold:.4g} of one of "
            f"{self.training} training images, where {self.expected:.2%} of fresh images are; "
            f"median distance {self.median_ratio:.3f} of theirs"
        )


def copies(generated: Tensor, training: Tensor, held_out: Tensor, *, quantile: float = 0.01) -> Copies:
    """Return whether generated images copy training images.

    The distances of held-out real images from their nearest training image say how close an image comes by
    chance; a generated image closer than all but the ``quantile`` nearest of them counts as a copy. A fresh
    image falls below with this probability whatever the distances are taken on, pixels or features. Blurred
    images lie close to everything in pixels, so look at those that count as copies before you call them so.

    Args:
        generated: Images or features, shape ``(n, *D)``.
        training: Those the generator has learnt from, shape ``(m, *D)``.
        held_out: Real ones that it has not seen, shape ``(h, *D)``.
        quantile: The share of fresh images that counts as copies, above 0 and below 1; h must be at least
            ``1 / quantile - 1``.

    Returns:
        The share, what it would be for fresh images, and its error.

    Raises:
        ValueError: If ``quantile`` is out of range or too small for the held-out images, or if the sets
            differ in the shape of a point or in device, are empty or not finite.

    Example:
        >>> draw = lambda n, seed: torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
        >>> training, held_out = draw(500, 0), draw(500, 1)
        >>> copies(training[:100], training, held_out).share
        1.0
        >>> copies(draw(100, 2), training, held_out).share < 0.1
        True
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be above 0 and below 1, not {quantile}")
    least = math.ceil(1 / quantile - 1e-9) - 1
    if len(held_out) < least:
        raise ValueError(
            f"the {quantile:g} quantile needs at least {least} held-out examples, not {len(held_out)}; "
            "name a larger quantile"
        )
    fresh = nearest_distances(held_out, training)
    distances = nearest_distances(generated, training)
    threshold = _fair_quantile(fresh, quantile)
    share, n, h = _share(distances <= threshold), len(generated), len(held_out)
    # The second term is the chance in the threshold, exact where generated images lie as far as real ones.
    variance = share * (1 - share) / n + quantile * (1 - quantile) / h
    return Copies(
        share=share,
        standard_error=math.sqrt(variance),
        expected=max(quantile, _share(fresh <= threshold)),
        threshold=threshold,
        median_ratio=_ratio(_fair_quantile(distances, 0.5), _fair_quantile(fresh, 0.5)),
        n=n,
        training=len(training),
        held_out=h,
    )


def _two_sets(real: Tensor, generated: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    for name, points in (("real", real), ("generated", generated)):
        if len(points) <= k:
            raise ValueError(f"{name} must hold at least k + 1 = {k + 1} points, not {len(points)}")
    return two_sets(real, generated)


def _kth_distances(queries: Tensor, references: Tensor, k: int) -> Tensor:
    blocks = torch.split(queries, max(1, _PAIRS_AT_ONCE // len(references)))
    return torch.cat([_kth_of_block(block, references, k) for block in blocks])


def _kth_of_block(block: Tensor, references: Tensor, k: int) -> Tensor:
    indices = torch.cdist(block, references).topk(k, dim=1, largest=False).indices[:, -1]
    # cdist multiplies matrices and leaves a copy some 1e-8 away from its original; the difference does not.
    distances: Tensor = torch.linalg.vector_norm(block - references[indices], dim=1)
    return distances


def _radii(points: Tensor, k: int) -> Tensor:
    return _kth_distances(points, points, k + 1)  # the first is the point itself


def _balls_around(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Return how many of the balls hold each point, shape (n,)."""
    blocks = torch.split(points, max(1, _PAIRS_AT_ONCE // len(centres)))
    return torch.cat([(torch.cdist(block, centres) < _INSIDE * radii).sum(dim=1) for block in blocks])


def _share(statements: Tensor) -> float:
    return statements.double().mean().item()


def _fair_quantile(values: Tensor, probability: float) -> float:
    """Return the quantile below which a new value falls with this probability, on average over the values."""
    ordered = values.sort().values
    place = min(max(probability * (len(values) + 1) - 1, 0), len(values) - 1)
    low = int(place + 1e-9)
    high = min(low + 1, len(values) - 1)
    return (ordered[low] + (place - low) * (ordered[high] - ordered[low])).item()


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return 1.0 if numerator == 0 else math.inf
    return numerator / denominator
