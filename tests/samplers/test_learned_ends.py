"""What a learned denoiser does to an SDE near the ends, where the score divides it by gamma."""

import math

import pytest
import torch

from interpolants import (
    Brownian,
    Constant,
    LearnedField,
    Linear,
    MixtureOracle,
    ProportionalToGamma,
    SDESampler,
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
