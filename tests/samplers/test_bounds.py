import math

import pytest
import torch

from interpolants import (
    Brownian,
    Constant,
    Field,
    GaussianMixture,
    LearnedField,
    Linear,
    MixtureOracle,
    Parabolic,
    SDESampler,
    Trigonometric,
    kl_bound,
    sde_log_likelihood_bound,
)


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


SOURCE = mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
TARGET = mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], [[[0.5, 0.1], [0.1, 0.4]], [[0.3, 0.0], [0.0, 0.6]]])
ORACLE = MixtureOracle(Trigonometric(Brownian()), SOURCE, TARGET)


class Wrong(Field):
    """The exact field with a constant added to velocity and score."""

    interpolant = ORACLE.interpolant

    def __init__(self, velocity, score):
        self.errors = velocity, score

    def velocity(self, t, x, **conditions):
        return ORACLE.velocity(t, x) + self.errors[0]

    def score(self, t, x, **conditions):
        return ORACLE.score(t, x) + self.errors[1]

    denoiser = x0 = x1 = None
    __abstractmethods__ = frozenset()


def ends(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SOURCE.sample(n, generator=generator), TARGET.sample(n, generator=generator), generator


# ------------------------------------------------------------------------------------- Kullback-Leibler


def test_the_bound_of_the_exact_field_is_zero():
    x0, x1, generator = ends(100)
    assert kl_bound(ORACLE, ORACLE, x0, x1, Constant(0.5), generator=generator).value == 0


@pytest.mark.parametrize("epsilon", [0.2, 3.0])
def test_a_constant_error_of_the_drift_costs_its_square_over_four_epsilon(epsilon):
    x0, x1, generator = ends(50)
    bound = kl_bound(Wrong(0.3, 0.1), ORACLE, x0, x1, epsilon, generator=generator)
    # |b_F - b_F_hat|^2 = 2 (0.3 + 0.1 epsilon)^2 in two dimensions, whatever t and x; rounding of sums.
    assert bound.value == pytest.approx(2 * (0.3 + 0.1 * epsilon) ** 2 / (4 * epsilon), rel=1e-9)
    assert bound.standard_error < 1e-9


def test_an_epsilon_that_varies_is_inside_the_integral():
    x0, x1, generator = ends(200_000)
    bound = kl_bound(Wrong(0.0, 0.1), ORACLE, x0, x1, Parabolic(2.0), generator=generator)
    # 2 * 0.01 epsilon^2 / (4 epsilon), and the mean of 2 t (1 - t) is 1/3. Five standard errors: chance
    # exceeds them once in a million.
    assert abs(bound.value - 0.01 / 2 / 3) < 5 * bound.standard_error
    assert bound.standard_error < 1e-5


def test_the_bound_holds_for_what_the_sde_samples():
    # N(0, 1) stays what it is, and a velocity that is wrong by c moves it to N(m, 1): KL = m^2 / 2.
    normal = mixture([1.0], [[0.0]], [[[1.0]]])
    oracle = MixtureOracle(Trigonometric(), normal, normal)
    error, epsilon = 0.5, 0.7

    class Drifting(Wrong):
        interpolant = oracle.interpolant

        def velocity(self, t, x, **conditions):
            return oracle.velocity(t, x) + error

        def score(self, t, x, **conditions):
            return oracle.score(t, x)

    x = torch.zeros(10, 1, dtype=torch.float64)
    bound = kl_bound(Drifting(0, 0), oracle, x, x, epsilon, generator=torch.Generator().manual_seed(0))
    # dX = (c - epsilon X) dt + ...: the mean at t = 1 is c (1 - e^-epsilon) / epsilon, the variance 1.
    shift = error * (1 - math.exp(-epsilon)) / epsilon
    assert shift**2 / 2 < bound.value == pytest.approx(error**2 / (4 * epsilon))


def test_what_makes_no_bound_is_refused():
    x0, x1, _ = ends(10)
    with pytest.raises(ValueError, match="epsilon above 0 inside"):
        kl_bound(ORACLE, ORACLE, x0, x1, 0.0)
    with pytest.raises(TypeError, match="exact must be a Field"):
        kl_bound(ORACLE, MixtureOracle, x0, x1, 1.0)
    unknown = Wrong(0.0, 0.0)
    unknown.interpolant = None
    with pytest.raises(ValueError, match="must have an interpolant"):
        kl_bound(ORACLE, unknown, x0, x1, 1.0)


# ------------------------------------------------------------------------------------- the steps as a chain


def bound_of(field, sampler, n=5_000, seed=1):
    _, x1, generator = ends(n, seed)
    estimate = sde_log_likelihood_bound(field, x1, SOURCE.log_prob, sampler=sampler, generator=generator)
    return estimate, float(TARGET.log_prob(x1).mean())


@pytest.mark.parametrize(
    "epsilon", [Constant(0.3), Constant(1.0), lambda t: 0.2 + 0.5 * t], ids=["0.3", "1", "rising"]
)
def test_the_bound_rises_to_the_log_density_as_steps_grow(epsilon):
    gaps = []
    for steps in (8, 16, 32):
        estimate, truth = bound_of(ORACLE, SDESampler(epsilon, steps=steps))
        gaps.append(truth - estimate.value)
        assert gaps[-1] > -5 * estimate.standard_error
    # First order: every doubling halves the gap. The same points and noise leave the ratio little room.
    assert 1.6 < gaps[0] / gaps[1] < 2.4
    assert 1.6 < gaps[1] / gaps[2] < 2.4


def test_a_grid_of_uneven_steps_is_as_good():
    times = [(k / 64) ** 1.5 for k in range(65)]
    estimate, truth = bound_of(ORACLE, SDESampler(0.5, times=times))
    # Even steps leave 0.05 at this number.
    assert 0 < truth - estimate.value < 0.1


@pytest.mark.parametrize("errors", [(0.3, 0.0), (0.0, 0.5)], ids=["velocity", "score"])
def test_a_wrong_field_has_a_lower_bound(errors):
    exact, _ = bound_of(ORACLE, SDESampler(0.5, steps=64))
    wrong, _ = bound_of(Wrong(*errors), SDESampler(0.5, steps=64))
    # An error e of the forward drift costs about |e|^2 / (4 epsilon), one of the backward drift as much.
    forward, backward = (errors[0] + sign * 0.5 * errors[1] for sign in (1, -1))
    expected = 2 * (forward**2 + backward**2) / (4 * 0.5)
    assert exact.value - wrong.value > 0.25 * expected


def test_one_gaussian_step_is_worked_out_by_hand():
    # One step: x0 = x1 - b_B + sqrt(2 eps) n, and the density of the step forward again.
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: x + 1, score=lambda t, x: -2 * x)
    x1 = torch.tensor([[0.5], [-0.25]], dtype=torch.float64)
    epsilon = 0.4
    noise = torch.randn(2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    x0 = x1 - (x1 + 1 + 2 * epsilon * x1) + math.sqrt(2 * epsilon) * noise
    forward = x1 - x0 - (x0 + 1 - 2 * epsilon * x0)
    log_p, log_q = -(forward**2) / (4 * epsilon), -(noise**2) / 2
    expected = (-(x0**2) / 2 - math.log(2 * math.pi) / 2 + log_p - log_q).mean()
    estimate = sde_log_likelihood_bound(
        field,
        x1,
        lambda x: (-(x**2) / 2 - math.log(2 * math.pi) / 2).squeeze(1),
        sampler=SDESampler(epsilon, steps=1),
        generator=torch.Generator().manual_seed(5),
    )
    # The time of the step and a handful of roundings.
    assert estimate.value == pytest.approx(float(expected), rel=1e-9)


def test_steps_without_a_density_are_refused():
    x = torch.zeros(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no density: epsilon is 0 at t = 0"):
        sde_log_likelihood_bound(ORACLE, x, SOURCE.log_prob, sampler=SDESampler(Parabolic()))
    with pytest.raises(ValueError, match="only euler's steps"):
        sde_log_likelihood_bound(ORACLE, x, SOURCE.log_prob, sampler=SDESampler(1.0, "heun"))
    with pytest.raises(TypeError, match=r"sampler must be an? SDESampler"):
        sde_log_likelihood_bound(ORACLE, x, SOURCE.log_prob, sampler=0.5)


def test_half_precision_is_refused_where_steps_would_be_lost_in_it():
    x = torch.zeros(4, 2, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="half precision"):
        sde_log_likelihood_bound(ORACLE, x, SOURCE.log_prob, sampler=SDESampler(0.5))


@pytest.mark.parametrize(
    ("log_prob", "message"),
    [(None, "must be a function"), (lambda x: x, "one log density per example")],
    ids=["none", "shape"],
)
def test_what_is_no_log_density_is_refused(log_prob, message):
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises((TypeError, ValueError), match=message):
        sde_log_likelihood_bound(ORACLE, x, log_prob, sampler=SDESampler(0.5, steps=2))
