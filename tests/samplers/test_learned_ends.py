"""What a learned denoiser does to an SDE near the ends, where the score divides it by gamma."""

import math

import pytest
import torch

from interpolants import (
    Affine,
    Brownian,
    Constant,
    Epsilon,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    ProportionalToGamma,
    SDESampler,
    SineSquared,
)
from interpolants.oracles import GaussianMixture

PATH = Linear(gamma=Brownian())


def field(denoiser):
    return LearnedField(
        PATH,
        velocity=lambda t, x: torch.zeros_like(x),
        denoiser=lambda t, x: torch.full_like(x, denoiser),
    )


def moved(epsilon, times, *, reverse=False):
    """How far a denoiser of 1, wrong where gamma is 0, moves a point that one of 0 leaves to the noise."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    ends = [
        SDESampler(epsilon, times=times).sample(field(wrong), x, seeds=[3], reverse=reverse).final
        for wrong in (1.0, 0.0)
    ]
    return float(ends[0] - ends[1])


@pytest.mark.parametrize(("times", "reverse"), [((0, 0.01), False), ((0.99, 1), True)])
def test_the_first_step_asks_a_quarter_into_it(times, reverse):
    # eps s h = -(0.3 / gamma) h with gamma = sqrt(t (1 - t)) at a quarter of the step; in reverse b - eps s
    # is followed backwards, so that the sign is the same.
    expected = -0.3 / math.sqrt(0.0025 * 0.9975) * 0.01
    assert moved(Constant(0.3), times, reverse=reverse) == pytest.approx(expected, rel=1e-9)


def test_a_quarter_is_where_the_mean_over_the_step_is():
    # The integral of t^-1/2 over [0, h] is 2 h^1/2, h times its value at h / 4.
    step = 1e-4
    assert moved(Constant(1.0), (0, step)) == pytest.approx(-2 * math.sqrt(step), rel=1e-3)


def test_the_shorter_of_the_first_and_the_last_step_counts():
    one = moved(Constant(0.3), (0, 0.01))
    # The later steps add their own, asked where they begin.
    later = -0.3 / math.sqrt(0.01 * 0.99) * 0.01
    assert moved(Constant(0.3), (0, 0.01, 0.02)) == pytest.approx(one + later, rel=1e-9)
    short = -0.3 / math.sqrt(0.001 * 0.999) * 0.01 - 0.3 / math.sqrt(0.01 * 0.99) * 0.004
    assert moved(Constant(0.3), (0, 0.01, 0.014)) == pytest.approx(short, rel=1e-9)


def test_in_proportion_to_gamma_nothing_is_moved():
    assert moved(ProportionalToGamma(0.3), (0, 0.01)) == pytest.approx(-0.3 * 0.01, rel=1e-9)


def test_exact_fields_are_asked_at_the_ends_themselves():
    normal = GaussianMixture(*(torch.ones(shape, dtype=torch.float64) for shape in ((1,), (1, 1), (1, 1, 1))))
    oracle = MixtureOracle(PATH, normal, normal)
    x = torch.full((1, 1), 3.0, dtype=torch.float64)
    noisy, still = (
        SDESampler(epsilon, times=(0, 0.01)).sample(oracle, x, seeds=[3]).final for epsilon in (0.5, 0.0)
    )
    noise = SDESampler(0.5, times=(0, 0.01)).sample(field(0.0), 0 * x, seeds=[3]).final
    # The score of N(1, 1) at 3.
    assert float(noisy - still - noise) == pytest.approx(0.5 * (1 - 3) * 0.01, rel=1e-9)


@pytest.mark.parametrize("epsilon", [Constant(0.5), Constant(5.0)], ids=["0.5", "5"])
def test_a_small_error_of_the_denoiser_stays_small(epsilon):
    # An error of 0.01 in the denoiser moves the answer by its integral, 0.01 eps pi, and the steps' error.
    total = 0.01 * moved(epsilon, [k / 256 for k in range(257)])
    assert total == pytest.approx(-0.01 * epsilon.c * math.pi, rel=0.1)


def test_gradients_reach_a_learnable_diffusion_through_the_noise_too():
    class Learnable(torch.nn.Module, Epsilon):
        def __init__(self, level):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor(level, dtype=torch.float64))

        def __call__(self, t, path=None):
            return self.level * torch.ones_like(t)

    # Ornstein and Uhlenbeck's process: the score of N(0, 1) is known.
    ends = LearnedField(PATH, velocity=lambda t, x: 0 * x, score=lambda t, x: -x)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]

    def total(epsilon):
        sampler = SDESampler(epsilon, steps=4, differentiable=True)
        return sampler.sample(ends, x, seeds=range(5)).final.sum()

    epsilon = Learnable(0.7)
    total(epsilon).backward()
    with torch.no_grad():
        difference = (total(Constant(0.7 + 1e-6)) - total(Constant(0.7 - 1e-6))) / 2e-6
    # Central differences of step 1e-6 in double precision.
    assert float(epsilon.level.grad) == pytest.approx(float(difference), rel=1e-6)


def test_where_equations_cannot_be_solved_to_rounding_it_is_further_in():
    path = Affine(lambda t: (1 - t) ** 2, lambda t: t**2, SineSquared())
    mixtures = [
        GaussianMixture(
            torch.ones(2, dtype=torch.float64),
            torch.tensor(means, dtype=torch.float64),
            torch.ones(2, 1, 1, dtype=torch.float64),
        )
        for means in ([[-1.0], [2.0]], [[0.0], [1.0]])
    ]
    oracle = MixtureOracle(path, *mixtures)
    field = LearnedField(path, velocity=oracle.velocity, x1=oracle.x1)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for t in (0.99, 0.999, 0.9999, 0.99999, 1.0):
        # A twentieth at most is the distance moved, in double precision; the scores are of size 2.
        torch.testing.assert_close(field.score(t, x), oracle.score(t, x), rtol=0, atol=0.1)
    SDESampler(1.0, steps=16).sample(field, x)


@pytest.mark.parametrize(
    "sampler", [SDESampler(0.5, steps=2), SDESampler(0.5, "srk", steps=2), ODESampler(steps=2)]
)
def test_there_may_be_no_points(sampler):
    assert sampler.sample(field(1.0), torch.zeros(0, 3)).final.shape == (0, 3)
    assert field(1.0).score(torch.zeros(0), torch.zeros(0, 3)).shape == (0, 3)
