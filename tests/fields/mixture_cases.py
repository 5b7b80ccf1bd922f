"""Exact fields between Gaussian mixtures on every family, which the tests of fields compare with."""

import torch

from interpolants import (
    Affine,
    EncodingDecoding,
    LearnedField,
    Linear,
    Mirror,
    MixtureOracle,
    Trigonometric,
    VariancePreserving,
)
from interpolants.oracles import GaussianMixture

NAMES = ("velocity", "score", "denoiser", "x0", "x1")
# Seven times that matter: both ends, within single precision's reach of them, close to them, the middle.
SEVEN = (0.0, 1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-6, 1.0)
INSIDE = (0.2, 0.35, 0.7, 0.85)

FAMILIES = {
    "linear": Linear,
    "trigonometric": Trigonometric,
    "encoding-decoding": EncodingDecoding,
    "variance preserving": lambda gamma: VariancePreserving(gamma=gamma),
    "mirror": Mirror,
    "affine": lambda gamma: Affine(lambda t: (1 - t) ** 2, lambda t: t**2, gamma),
    "flat start": lambda gamma: Affine(lambda t: 1 - t**2, lambda t: t**2, gamma),
}


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


_TILTED, _NARROW = [[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.8]]
TARGET = mixture(
    [0.5, 0.5], [[1.0, 1.0], [0.5, -1.0]], [[[0.5, -0.2], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.4]]]
)
NORMAL = mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
SKEWED = mixture([0.4, 0.6], [[-1.0, 0.5], [0.0, -1.0]], [_TILTED, _NARROW])
# Where alpha' is infinite the velocity is finite only if the source has mean 0.
CENTRED = mixture([0.5, 0.5], [[-1.0, 0.5], [1.0, -0.5]], [_TILTED, _NARROW])


def oracle_of(family, gamma, source=SKEWED):
    return MixtureOracle(FAMILIES[family](gamma), source, TARGET)


def learned(oracle, networks, **options):
    return LearnedField(oracle.interpolant, **{name: getattr(oracle, name) for name in networks}, **options)


def points(n=5):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def points_on(oracle, times, n, dtype=torch.float64):
    """Return n points of the process at each time: times, (T n,), and points, (T n, 2), in this dtype."""
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor(times, dtype=torch.float64).repeat_interleave(n)
    x0 = oracle.source.sample(len(t), generator=generator)
    x1 = oracle.target.sample(len(t), generator=generator)
    return t.to(dtype), oracle.interpolant.sample(t, x0, x1, generator=generator).xt.to(dtype)


def relative_errors(answer, truth):
    """Return the largest error of each row beside 1 plus the largest element of the truth, shape (B,)."""
    return (answer.double() - truth).abs().amax(1) / (1 + truth.abs().amax(1))
