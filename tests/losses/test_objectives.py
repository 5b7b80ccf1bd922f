import math
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import scipy.stats
import torch

from interpolants.couplings import OptimalTransport
from interpolants.families import EncodingDecoding, Linear, Trigonometric
from interpolants.gammas import Brownian, SineSquared
from interpolants.gammas import Quadratic as Parabola
from interpolants.losses import (
    X0,
    X1,
    Beta,
    Denoiser,
    Draw,
    Estimate,
    Importance,
    Loss,
    Quadratic,
    Regression,
    Score,
    Stratified,
    Target,
    Velocity,
)
from interpolants.oracles.mixtures import GaussianMixture, MixtureOracle

OBJECTIVES = [Regression, Quadratic]
TARGETS = {
    "velocity": Velocity(),
    "denoiser": Denoiser(),
    "score": Score(),
    "x0": X0(),
    "x1": X1(),
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# Two mixtures on the line, and the same numbers for numpy.
SOURCE = ([0.3, 0.7], [-1.0, 0.5], [0.25, 1.0])
TARGET = ([0.6, 0.4], [1.0, 4.0], [0.5, 0.1])


def mixture(weights, means, variances):
    return GaussianMixture(tensor(weights), tensor(means)[:, None], tensor(variances)[:, None, None])


def oracle(path):
    return MixtureOracle(path, mixture(*SOURCE), mixture(*TARGET))


def ends(n, generator):
    return mixture(*SOURCE).sample(n, generator=generator), mixture(*TARGET).sample(n, generator=generator)


def mean_square_velocity(gamma_squared):
    """Return E|b|^2 of the linear path between the mixtures, by quadrature and without the oracle.

    In one dimension the continuity equation says rho b = -d/dt F with F the distribution function.
    """
    x = np.linspace(-12, 14, 6001)
    (p, m, c), (q, n, d) = (map(np.array, mix) for mix in (SOURCE, TARGET))

    def components(t):
        means = (1 - t) * m[:, None] + t * n
        spread = np.sqrt((1 - t) ** 2 * c[:, None] + t**2 * d + gamma_squared(t))
        return (p[:, None] * q).ravel(), means.ravel(), spread.ravel()

    def distribution(t):
        weights, means, spread = components(t)
        return scipy.stats.norm.cdf(x[:, None], means, spread) @ weights

    def density(t):
        weights, means, spread = components(t)
        return scipy.stats.norm.pdf(x[:, None], means, spread) @ weights

    def at(t, step=1e-5):
        flux = (distribution(t + step) - distribution(t - step)) / (2 * step)
        rho = density(t)
        inside = rho > 1e-9  # Beyond, the differences are rounding; what is left out is below 1e-6.
        return np.trapezoid(np.where(inside, flux**2 / np.where(inside, rho, 1), 0), x)

    nodes, weights = np.polynomial.legendre.leggauss(24)
    return sum(weight / 2 * at((node + 1) / 2) for node, weight in zip(nodes, weights, strict=True))


class Recorder:
    """A network that keeps what it is given, and answers with the points."""

    def __init__(self):
        self.calls = []

    def __call__(self, t, x, **conditions):
        self.calls.append((t, x, conditions))
        return x


class Affine(torch.nn.Module):
    """A network that is linear in x and t, with parameters (D + 2, D)."""

    def __init__(self, dim, generator):
        super().__init__()
        draws = torch.randn(dim + 2, dim, generator=generator, dtype=torch.float64)
        self.weight = torch.nn.Parameter(draws)

    def forward(self, t, x):
        return torch.cat([x, t[:, None], torch.ones_like(t)[:, None]], dim=1) @ self.weight


# ---- by hand


def test_objectives_of_the_straight_line_by_hand():
    draw = Draw(tensor([0.25, 0.5]), tensor([[0, 0], [1, 2]]), tensor([[1, 1], [3, -1]]), None)

    def constant(t, x):
        return tensor([[1.0, 0.0]]).expand_as(x)

    def point(t, x):
        return x

    def time(t, x):
        return t[:, None].expand_as(x)

    # Slopes (1, 1) and (2, -3); points (1/4, 1/4) and (2, 1/2). Small dyadic numbers: nothing rounds.
    for network, regression, quadratic in (
        (constant, [1.0, 10.0], [-1.0, -3.0]),
        (point, [1.125, 12.25], [-0.875, -0.75]),
        (time, [1.125, 14.5], [-0.875, 1.5]),
    ):
        assert Regression(Linear()).evaluate(network, draw).tolist() == regression
        assert Quadratic(Linear()).evaluate(network, draw).tolist() == quadratic


# At t = 1/2, 1/4: gamma = 1/4, 3/16 and gamma' = 0, 1/2; with z = 2 the points are 1 and 5/8.
BY_HAND = {
    "velocity": [1.0, 2.0],
    "denoiser": [2.0, 2.0],
    "score": [-8.0, -32 / 3],
    "x0": [0.0, 0.0],
    "x1": [1.0, 1.0],
}
# The same with z = -2, where the points are 0 and -1/8.
BY_HAND_MINUS = {
    "velocity": [1.0, 0.0],
    "denoiser": [-2.0, -2.0],
    "score": [8.0, 32 / 3],
    "x0": [0.0, 0.0],
    "x1": [1.0, 1.0],
}


@pytest.mark.parametrize("name", TARGETS)
def test_objectives_of_every_target_by_hand(name):
    target, path = TARGETS[name], Linear(Parabola())
    draw = Draw(tensor([0.5, 0.25]), tensor([[0], [0]]), tensor([[1], [1]]), tensor([[2], [2]]))
    for antithetic in (False, True):
        signs = [(BY_HAND[name], [1.0, 0.625]), (BY_HAND_MINUS[name], [0.0, -0.125])][: 1 + antithetic]
        regression = [sum((3 * x[k] - y[k]) ** 2 for y, x in signs) / len(signs) for k in range(2)]
        quadratic = [sum(9 * x[k] ** 2 - 6 * x[k] * y[k] for y, x in signs) / len(signs) for k in range(2)]
        for make, expected in ((Regression, regression), (Quadratic, quadratic)):
            loss = make(path, target, antithetic=antithetic)
            got = loss.evaluate(lambda t, x: 3 * x, draw)
            assert got.tolist() == pytest.approx(expected, rel=1e-14, abs=1e-14)


def test_the_loss_is_the_mean_of_its_examples(generator):
    x0, x1 = ends(9, generator)
    for make in OBJECTIVES:
        loss = make(Linear(Brownian()), antithetic=True)
        each = loss.per_example(lambda t, x: x.cos(), x0, x1, generator=torch.Generator().manual_seed(3))
        total = loss(lambda t, x: x.cos(), x0, x1, generator=torch.Generator().manual_seed(3))
        assert each.shape == (9,)
        assert total.shape == ()
        assert total.item() == pytest.approx(each.sum().item() / 9, rel=1e-14)


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("weight", [None, lambda t: 1 + t, lambda t: 3.0])
@pytest.mark.parametrize("times", [Stratified(), Importance(Beta(2.0, 1.0))])
def test_the_mean_of_a_draw_is_the_mean_of_its_examples(make, antithetic, weight, times, generator):
    loss = make(Linear(Brownian()), times=times, weight=weight, antithetic=antithetic)
    draw = loss.draw(*(torch.randn(7, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2)))

    def network(t, x):
        return x.sin() + t.reshape(-1, 1, 1)

    torch.testing.assert_close(loss.mean(network, draw), loss.evaluate(network, draw).mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_mean_of_many_examples_stays_finite_in_half_precision(dtype):
    x0 = torch.zeros(1024, 784, dtype=dtype)
    # Each example has 784, and all together more than float16 can hold.
    assert Regression(Linear())(lambda t, x: 0 * x, x0, x0 + 1) == 784


def test_a_weight_is_asked_once(generator):
    asked = []

    def weight(t):
        asked.append(t)
        return t

    Regression(Linear(), weight=weight)(lambda t, x: x, *ends(4, generator))
    assert len(asked) == 1


def test_a_draw_holds_all_the_randomness(generator):
    x0, x1 = ends(9, generator)
    loss = Quadratic(Linear(Brownian()), antithetic=True)
    draw = loss.draw(x0, x1, generator=torch.Generator().manual_seed(3))
    before = torch.get_rng_state()
    first, again = (loss.evaluate(lambda t, x: x.cos(), draw) for _ in range(2))
    whole = loss.per_example(lambda t, x: x.cos(), x0, x1, generator=torch.Generator().manual_seed(3))
    other = loss.per_example(lambda t, x: x.cos(), x0, x1, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert torch.equal(first, whole)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
    assert draw.t.shape == (9,)
    assert draw.z.shape == x0.shape
    assert Regression(Linear()).draw(x0, x1, generator=generator).z is None


def test_latent_noise_of_a_draw_is_standard_normal_and_apart_from_the_rest(generator):
    n = 20_000
    x0, x1 = ends(n, generator)
    draw = Regression(Linear(Brownian())).draw(x0, x1, generator=generator)
    assert scipy.stats.kstest(draw.z.flatten().numpy(), "norm").pvalue > 1e-7
    assert scipy.stats.kstest(draw.t.numpy(), "uniform").pvalue > 1e-7
    for other in (draw.t, draw.x0.flatten(), draw.x1.flatten()):
        # A correlation of independent draws has standard error 1 / sqrt(n): five of them, 6e-7 each.
        assert abs(torch.stack([draw.z.flatten(), other]).corrcoef()[0, 1]) < 5 / math.sqrt(n)


# ---- what the two forms share


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_both_objectives_have_the_same_gradient_on_the_same_draw(name, antithetic, generator):
    x0, x1 = torch.randn((2, 64, 3), generator=generator, dtype=torch.float64)
    network = Affine(3, generator)
    gradients = []
    for make in OBJECTIVES:
        loss = make(Linear(Parabola()), TARGETS[name], times=Beta(3.0, 3.0), antithetic=antithetic)
        draw = loss.draw(x0, x1, generator=torch.Generator().manual_seed(7))
        (gradient,) = torch.autograd.grad(loss.evaluate(network, draw).mean(), network.weight)
        gradients.append(gradient)
    # They differ by |y|^2, which no parameter enters: only roundings of sums of terms up to about 1e3.
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_the_expected_gradient_is_that_of_the_distance_to_the_exact_field(make, name, antithetic, generator):
    path = Trigonometric(Parabola())
    exact, network = getattr(oracle(path), name), Affine(1, generator)
    # Times away from the ends, where the score's variance 1 / gamma^2 is not integrable.
    loss = make(path, TARGETS[name], times=Beta(6.0, 6.0), antithetic=antithetic)
    differences = []
    for _ in range(60):
        draw = loss.draw(*ends(500, generator), generator=generator)
        (gradient,) = torch.autograd.grad(loss.evaluate(network, draw).mean(), network.weight)
        sample = path.sample(draw.t, draw.x0, draw.x1, draw.z)
        distance = (network(draw.t, sample.xt) - exact(draw.t, sample.xt)).square().sum(1).mean()
        (truth,) = torch.autograd.grad(distance, network.weight)
        differences.append((gradient - truth).flatten())
    values = torch.stack(differences)
    # Student's t with 59 degrees beyond 7: 3e-9 for each of the three parameters.
    assert (values.mean(0).abs() < 7 * values.std(0) / math.sqrt(60)).all()


# ---- what the quadratic objective tells


PATHS = {
    "zero": (Linear(), lambda t: 0 * t, False),
    "parabola": (Linear(Parabola()), lambda t: (t * (1 - t)) ** 2, False),
    "brownian": (Linear(Brownian()), lambda t: t * (1 - t), True),
}


@pytest.mark.parametrize("name", PATHS)
def test_the_quadratic_objective_of_the_exact_field_is_minus_its_mean_square(name, generator):
    path, gamma_squared, antithetic = PATHS[name]
    field, floor = oracle(path), mean_square_velocity(gamma_squared)
    loss = Quadratic(path, antithetic=antithetic)
    n = 40_000
    values = loss.per_example(field.velocity, *ends(n, generator), generator=generator)
    # Each of the three below: five standard errors, 6e-7. The quadrature is good to 1e-5.
    assert abs(values.mean().item() + floor) < 5 * values.std().item() / math.sqrt(n) + 1e-5
    calibration = loss.calibration(field.velocity, *ends(n, generator), generator=generator)
    assert abs(calibration.value) < 5 * calibration.standard_error
    gap = loss.gap(field.velocity, field.velocity, *ends(n, generator), generator=generator)
    assert abs(gap.value) < 5 * gap.standard_error


@pytest.mark.parametrize("name", PATHS)
def test_gap_and_calibration_measure_a_perturbation(name, generator):
    path, gamma_squared, antithetic = PATHS[name]
    field, floor = oracle(path), mean_square_velocity(gamma_squared)
    n = 40_000

    def strong(t, x):
        return 1.5 * field.velocity(t, x)

    def shifted(t, x):
        return field.velocity(t, x) + 0.7

    for make in OBJECTIVES:
        loss = make(path, antithetic=antithetic)
        gap = loss.gap(strong, field.velocity, *ends(n, generator), generator=generator)
        assert abs(gap.value - 0.25 * floor) < 5 * gap.standard_error + 1e-5
        gap = loss.gap(shifted, field.velocity, *ends(n, generator), generator=generator)
        assert abs(gap.value - 0.49) < 5 * gap.standard_error
        calibration = loss.calibration(strong, *ends(n, generator), generator=generator)
        # 1.5^2 - 1.5, positive: it answers too strongly.
        assert abs(calibration.value - 0.75 * floor) < 5 * calibration.standard_error + 1e-5
        assert calibration.value > 0


def test_regression_floor_is_the_conditional_variance(generator):
    # E|x1 - x0|^2 less E|b|^2; the ends are independent.
    field, n = oracle(Linear()), 40_000
    (p, m, c), (q, nu, d) = (map(np.array, mix) for mix in (SOURCE, TARGET))
    variance = sum(w @ (v + a**2) - (w @ a) ** 2 for w, a, v in ((p, m, c), (q, nu, d)))
    floor = variance + (q @ nu - p @ m) ** 2 - mean_square_velocity(lambda t: 0 * t)
    values = Regression(Linear()).per_example(field.velocity, *ends(n, generator), generator=generator)
    assert abs(values.mean().item() - floor) < 5 * values.std().item() / math.sqrt(n) + 1e-5


def test_estimates_carry_the_standard_error_of_their_examples(generator):
    x0, x1 = ends(50, generator)
    loss = Quadratic(Linear(Parabola()), times=Importance(Beta(0.5, 0.5)))
    draw = loss.draw(x0, x1, generator=torch.Generator().manual_seed(2))
    sample = loss.interpolant.sample(draw.t, draw.x0, draw.x1, draw.z)
    y, b, weight = sample.xt_dot[:, 0], sample.xt[:, 0].sin(), loss.times.weight(draw.t)
    exact = sample.xt[:, 0].cos()
    for estimate, values in (
        (
            loss.calibration(lambda t, x: x.sin(), x0, x1, generator=torch.Generator().manual_seed(2)),
            weight * (b**2 - y * b),
        ),
        (
            loss.gap(
                lambda t, x: x.sin(), lambda t, x: x.cos(), x0, x1, generator=torch.Generator().manual_seed(2)
            ),
            weight * (b**2 - 2 * y * b + exact**2),
        ),
    ):
        assert isinstance(estimate, Estimate)
        assert estimate.value == pytest.approx(values.numpy().mean(), rel=1e-12)
        assert estimate.standard_error == pytest.approx(scipy.stats.sem(values.numpy()), rel=1e-12)


def test_estimates_of_half_precision_data_are_averaged_in_double_precision(generator):
    x0, x1 = (x.to(torch.bfloat16) for x in ends(500, generator))
    loss = Quadratic(Linear())
    draw = loss.draw(x0, x1, generator=torch.Generator().manual_seed(2))
    xt = Linear().sample(draw.t, x0, x1).xt
    values = (xt.square() - (x1 - x0) * xt).double().flatten()
    estimate = loss.calibration(lambda t, x: x, x0, x1, generator=torch.Generator().manual_seed(2))
    assert estimate.value == pytest.approx(values.mean().item(), rel=1e-12)
    assert estimate.standard_error == pytest.approx(scipy.stats.sem(values.numpy()), rel=1e-12)


def test_diagnostics_keep_no_graph_and_pass_conditions_to_both(generator):
    x0, x1 = ends(8, generator)
    network, exact = Recorder(), Recorder()
    loss = Quadratic(Linear(Brownian()), antithetic=True)
    x0.requires_grad_()
    loss.gap(network, exact, x0, x1, generator=generator, label=x1)
    for recorder in (network, exact):
        ((_, x, conditions),) = recorder.calls
        assert not x.requires_grad
        assert torch.equal(conditions["label"], torch.cat([x1, x1]))
    assert torch.equal(network.calls[0][1], exact.calls[0][1])
    loss.calibration(network, x0, x1, generator=generator, label=x1)
    assert not network.calls[1][1].requires_grad
    assert torch.equal(network.calls[1][2]["label"], torch.cat([x1, x1]))


def test_one_example_has_an_unknown_error(generator):
    x0, x1 = ends(1, generator)
    estimate = Quadratic(Linear()).calibration(lambda t, x: x, x0, x1, generator=generator)
    assert math.isfinite(estimate.value)
    assert estimate.standard_error == math.inf


# ---- antithetic pairs


@pytest.mark.parametrize("make", OBJECTIVES)
def test_antithetic_pairs_keep_the_mean(make, generator):
    # Times from Beta(3, 3), under which even the variance of the regression (about 1 / t^2) is finite.
    path, n = Linear(Brownian()), 40_000
    field = oracle(path)
    single, paired = (
        make(path, times=Beta(3.0, 3.0), antithetic=antithetic).per_example(
            field.velocity, *ends(n, generator), generator=generator
        )
        for antithetic in (False, True)
    )
    error = math.sqrt((single.var().item() + paired.var().item()) / n)
    assert abs(single.mean() - paired.mean()).item() < 5 * error  # 6e-7.


def test_antithetic_pairs_lower_the_variance_of_the_quadratic_objective(generator):
    # Measured on 40 000 evenly spread times: 2.4 to 2.5 times lower (84 against 197 to 210), and 2.8 on
    # 400 000, since the single-sided variance grows with the logarithm of the first time's inverse. On
    # uniform times, of which some come closer, 6.4 over a million.
    path, n = Linear(Brownian()), 40_000
    field = oracle(path)
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x0, x1 = ends(n, generator)
    draw = Draw(t, x0, x1, torch.randn(x0.shape, generator=generator, dtype=torch.float64))
    single, paired = (
        Quadratic(path, antithetic=antithetic).evaluate(field.velocity, draw).var()
        for antithetic in (False, True)
    )
    assert single > 1.9 * paired


@pytest.mark.parametrize("late", [False, True])
def test_single_sided_quadratic_explodes_at_the_ends_and_the_antithetic_one_does_not(late, generator):
    # The single-sided value holds 2 gamma' z . b_hat, of variance 4 (a / 4 t) E|b_hat|^2.
    n, a, path = 20_000, 2.0, Linear(Brownian(2.0))
    x0, x1, z = torch.randn((3, n, 2), generator=generator, dtype=torch.float64)

    def network(t, x):
        return 1 + x.sin() / 2

    single, paired = Quadratic(path), Quadratic(path, antithetic=True)
    variances = []
    for distance in (1e-2, 1e-4, 1e-6):
        t = torch.full((n,), 1 - distance if late else distance, dtype=torch.float64)
        draw = Draw(t, x0, x1, z)
        mean_square = network(t, x1 if late else x0).square().sum(1).mean().item()
        scaled = single.evaluate(network, draw).var().item() * distance
        # A variance over 20 000 draws of kurtosis below 6 is known to 1.6 %: five of those, and at
        # distance 0.01 what is not of the order of 1 / t, about 1 part in 10.
        assert scaled == pytest.approx(a * mean_square, rel=0.08 + 20 * distance)
        variances.append(paired.evaluate(network, draw).var().item())
    assert max(variances) < 1.5 * min(variances)
    assert max(variances) < 60


@pytest.mark.parametrize("make", OBJECTIVES)
def test_antithetic_pairs_cost_nothing_without_latent_noise(make, generator):
    x0, x1 = ends(6, generator)
    values, networks = [], [Recorder(), Recorder()]
    for network, antithetic in zip(networks, (False, True), strict=True):
        loss = make(Linear(), antithetic=antithetic)
        values.append(loss.per_example(network, x0, x1, generator=torch.Generator().manual_seed(3), label=x1))
        ((t, x, conditions),) = network.calls
        assert t.shape == (6,)
        assert x.shape == x0.shape
        assert conditions["label"] is x1
    assert torch.equal(*values)


def test_antithetic_pairs_make_one_call_of_twice_the_rows(generator):
    x0, x1, z = torch.randn((3, 4, 4), generator=generator, dtype=torch.float64)
    t, network = tensor([0.1, 0.3, 0.6, 0.9]), Recorder()
    labels, single, scale = torch.arange(4), torch.arange(3), 2.5
    loss = Quadratic(Linear(Brownian()), antithetic=True)
    loss.evaluate(network, Draw(t, x0, x1, z), label=labels, single=single, scale=scale, none=None)
    ((times, x, conditions),) = network.calls
    assert torch.equal(times, torch.cat([t, t]))
    mean, gamma = x0 + t[:, None] * (x1 - x0), (t * (1 - t)).sqrt()[:, None]
    torch.testing.assert_close(x, torch.cat([mean + gamma * z, mean - gamma * z]), rtol=1e-14, atol=1e-14)
    assert conditions["label"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert conditions["single"] is single
    assert conditions["scale"] == scale
    assert conditions["none"] is None


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("name", TARGETS)
def test_antithetic_value_is_the_average_over_both_signs(make, name, generator):
    x0, x1, z = torch.randn((3, 5, 2), generator=generator, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    options = {"target": TARGETS[name], "times": Importance(Beta(2.0, 3.0)), "weight": lambda t: 1 + t}
    path = EncodingDecoding(SineSquared())
    single, paired = make(path, **options), make(path, antithetic=True, **options)
    both = [single.evaluate(lambda t, x: x.cos(), Draw(t, x0, x1, sign * z)) for sign in (1, -1)]
    got = paired.evaluate(lambda t, x: x.cos(), Draw(t, x0, x1, z))
    torch.testing.assert_close(got, (both[0] + both[1]) / 2, rtol=1e-13, atol=1e-13)  # Roundings only.


# ---- weights, shapes, dtypes


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("make", OBJECTIVES)
def test_weights_multiply_each_example(make, antithetic, generator):
    x0, x1, z = torch.randn((3, 5, 2), generator=generator, dtype=torch.float64)
    t = tensor([0.1, 0.25, 0.5, 0.7, 0.9])
    draw, path = Draw(t, x0, x1, z), Linear(Brownian())

    def value(**options):
        return make(path, antithetic=antithetic, **options).evaluate(lambda t, x: x.cos(), draw)

    plain, arcsine = value(), math.pi * (t * (1 - t)).sqrt()
    for got, factor in (
        (value(weight=lambda t: 2 + t**2), 2 + t**2),
        (value(times=Importance(Beta(0.5, 0.5))), arcsine),
        (value(times=Importance(Beta(0.5, 0.5)), weight=lambda t: 2 + t**2), arcsine * (2 + t**2)),
        (value(times=Beta(0.5, 0.5)), torch.ones_like(t)),
    ):
        torch.testing.assert_close(got, plain * factor, rtol=1e-13, atol=0)


def test_importance_keeps_the_objective_and_another_law_does_not(generator):
    # For a network that answers t the quadratic objective is E[t^2 - 2 t (x1 - x0)]: with slope 1 and
    # uniform times 1/3 - 1, and under Beta(1, 2), of moments 1/3 and 1/6, 1/6 - 2/3.
    n = 40_000
    x0, x1 = torch.zeros(n, 1, dtype=torch.float64), torch.ones(n, 1, dtype=torch.float64)
    for times, expected in (
        (Importance(Beta(0.7, 1.0)), -2 / 3),
        (Stratified(), -2 / 3),
        (Beta(1.0, 2.0), -1 / 2),
    ):
        loss = Quadratic(Linear(), times=times)
        values = loss.per_example(lambda t, x: t[:, None], x0, x1, generator=generator)
        # Five standard errors, 6e-7; of independent draws, which overstates that of stratified ones.
        assert abs(values.mean().item() - expected) < 5 * values.std().item() / math.sqrt(n)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("make", OBJECTIVES)
def test_images_sum_over_all_their_elements(make, antithetic, generator):
    x0, x1, z = torch.randn((3, 4, 2, 3, 3), generator=generator, dtype=torch.float64)
    t = tensor([0.1, 0.3, 0.6, 0.9])
    loss = make(Linear(Parabola()), antithetic=antithetic)
    images = loss.evaluate(lambda t, x: x.cos(), Draw(t, x0, x1, z))
    points = loss.evaluate(lambda t, x: x.cos(), Draw(t, *(part.flatten(1) for part in (x0, x1, z))))
    pixels = sum(
        loss.evaluate(lambda t, x: x.cos(), Draw(t, *(part.flatten(1)[:, k] for part in (x0, x1, z))))
        for k in range(18)
    )
    assert images.shape == (4,)
    # The order of eighteen terms.
    torch.testing.assert_close(images, points, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(images, pixels, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("gamma", [None, Brownian()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_losses_keep_the_dtype_of_the_data(make, gamma, dtype, generator):
    x0, x1 = torch.randn((2, 6, 3), generator=generator, dtype=torch.float64).to(dtype)
    network = Recorder()
    options = {"weight": lambda t: 1 + t, "times": Importance(Beta(1.0, 2.0)), "antithetic": True}
    loss = make(Linear(gamma) if gamma else Linear(), **options)
    draw = loss.draw(x0, x1, generator=generator)
    values = loss.evaluate(network, draw)
    assert values.dtype == dtype
    assert values.shape == (6,)
    ((t, x, _),) = network.calls
    assert t.dtype == x.dtype == dtype
    assert draw.t.dtype == torch.promote_types(dtype, torch.float32)
    precise = loss.evaluate(network, Draw(*(None if part is None else part.double() for part in draw)))
    # Sums of a few squares of numbers up to about 5, cancelling: a hundred roundings of one.
    tolerance = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(values.double(), precise, rtol=tolerance, atol=tolerance)


def test_the_network_gets_one_time_per_row(generator):
    x0, x1 = ends(3, generator)
    network = Recorder()
    Regression(Linear()).evaluate(network, Draw(tensor(0.5), x0, x1, None))
    assert network.calls[0][0].tolist() == [0.5, 0.5, 0.5]


# ---- values and mistakes


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("target", [Denoiser(), Score()])
def test_noise_cannot_be_learnt_where_there_is_none(make, target):
    name = type(target).__name__
    with pytest.raises(ValueError, match=rf"the target {name}\(\) needs latent noise, .* has gamma = 0"):
        make(Linear(), target)
    make(Linear(Brownian()), target)


@pytest.mark.parametrize("target", [Denoiser(), Score()])
def test_noise_cannot_be_learnt_from_a_draw_without(target):
    sample = Linear().sample(0.5, torch.zeros(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="needs latent noise, and the sample was made without"):
        target.of(sample, Linear(Brownian()))


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize(
    "wrong",
    [lambda x: x[:, :1], lambda x: x[0], lambda x: x[:, None], lambda x: x.sum(), lambda x: x.flatten()],
)
def test_a_network_must_keep_the_shape_of_x(make, wrong, generator):
    x0, x1 = torch.zeros(4, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"network\(t, x\) must return the shape of x, \(4, 3\); got"):
        make(Linear())(lambda t, x: wrong(x), x0, x1, generator=generator)
    with pytest.raises(ValueError, match=r"must return the shape of x, \(8, 3\); got"):
        make(Linear(Brownian()), antithetic=True)(lambda t, x: wrong(x), x0, x1, generator=generator)


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("coupling", [{}, {"coupling": OptimalTransport()}])
def test_points_that_do_not_fit_are_refused(make, coupling):
    loss, x = make(Linear(), **coupling), torch.zeros(4, 3)
    with pytest.raises(TypeError, match="x0 and x1 must share a dtype"):
        loss(lambda t, x: x, x, x.double())
    with pytest.raises(TypeError, match=r"x0 must be a floating-point tensor; got torch\.int64"):
        loss(lambda t, x: x, x.long(), x)
    with pytest.raises(ValueError, match="x0 and x1 must share a shape"):
        loss(lambda t, x: x, x, x[:2])


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize("path", [Linear, Brownian(), "linear", None])
def test_a_loss_needs_an_interpolant(make, path):
    with pytest.raises(TypeError, match=r"interpolant must be an Interpolant, such as Linear\(\); got"):
        make(path)


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize(
    ("argument", "fragment"),
    [
        ({"target": Velocity}, r"target must be a Target, such as Velocity\(\); got"),
        ({"coupling": OptimalTransport}, r"coupling must be a Coupling, such as Independent\(\); got"),
        ({"times": Stratified}, r"times must be a TimeLaw, such as Uniform\(\); got"),
        ({"times": "uniform"}, r"times must be a TimeLaw, such as Uniform\(\); got str"),
        ({"weight": 2.0}, "weight must be a function of time, .*; got float"),
    ],
)
def test_arguments_of_a_loss_must_be_of_their_kind(make, argument, fragment):
    with pytest.raises(TypeError, match=fragment):
        make(Linear(), **argument)


def test_losses_are_frozen_values():
    for make in OBJECTIVES:
        loss = make(Linear(Brownian()), Denoiser(), coupling=OptimalTransport(), antithetic=True)
        assert loss == make(Linear(Brownian()), Denoiser(), coupling=OptimalTransport(), antithetic=True)
        assert hash(loss) == hash(replace(loss))
        assert loss != replace(loss, antithetic=False)
        assert pickle.loads(pickle.dumps(loss)) == loss
        assert repr(loss).startswith(
            f"{make.__name__}(interpolant=Linear(gamma=Brownian(a=1.0)), target=Denoiser()"
        )
        with pytest.raises(FrozenInstanceError):
            loss.antithetic = False
        assert make(Linear()).target == Velocity()
    for target in TARGETS.values():
        assert pickle.loads(pickle.dumps(target)) == target
        assert hash(target) == hash(type(target)())
    assert Regression(Linear()) != Quadratic(Linear())


def test_abstract_parts_cannot_be_built():
    class EmptyTarget(Target):
        pass

    class EmptyLoss(Loss):
        pass

    with pytest.raises(TypeError, match="of"):
        EmptyTarget()
    with pytest.raises(TypeError, match="of"):
        EmptyLoss(Linear())


def test_a_target_of_ones_own_is_learnt(generator):
    class Middle(Target):
        def of(self, sample, interpolant):
            return (sample.x0 + sample.x1) / 2

    x0, x1 = ends(5, generator)
    loss = Regression(Linear(Brownian()), Middle(), antithetic=True)
    draw = loss.draw(x0, x1, generator=generator)
    expected = ((x0 + x1) / 2).square().sum(1)
    assert torch.equal(loss.evaluate(lambda t, x: torch.zeros_like(x), draw), expected)


def test_a_weight_of_another_shape_is_refused_and_a_number_is_a_weight():
    x0, x1 = torch.zeros(6, 2), torch.ones(6, 2)
    with pytest.raises(ValueError, match=r"shape of t, \(6,\).* got shape \(6, 1\)"):
        Regression(Linear(), weight=lambda t: (1 - t)[:, None]).per_example(lambda t, x: x, x0, x1)
    # The target is (1, 1) and the answer 0: a squared norm of 2, times 3.
    weighted = Regression(Linear(), weight=lambda t: 3.0)
    assert torch.equal(weighted.per_example(lambda t, x: 0 * x, x0, x1), torch.full((6,), 6.0))
