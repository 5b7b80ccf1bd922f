import math

import pytest
import torch

from interpolants import (
    EncodingDecoding,
    Interpolant,
    Linear,
    MixtureOracle,
    Trigonometric,
    Zero,
    deblending_chain,
    random_walk,
)
from interpolants.gammas import Brownian
from interpolants.oracles import (
    GaussianMixture,
    Polygon,
    RejectionPosterior,
    field_on_grid,
    rhombus,
    triangle,
)


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


SOURCE = mixture([0.4, 0.6], [[-2.0, 0.0], [0.0, -1.0]], [[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.8]]])
TARGET = mixture(
    [0.5, 0.5], [[2.0, 2.0], [1.0, -1.5]], [[[0.3, -0.1], [-0.1, 0.4]], [[0.2, 0.0], [0.0, 0.2]]]
)


def moments(density):
    """Mean and covariance, from the law of total covariance."""
    mean = density.weights @ density.means
    centred = density.means - mean
    spread = torch.einsum("k,kd,ke->de", density.weights, centred, centred)
    return mean, spread + torch.einsum("k,kde->de", density.weights, density.covariances)


def polygon_moments(shape):
    """Mean and covariance of a triangle (the simplex formula) or a rhombus (semi-axes squared over 6)."""
    v = shape.vertices.double()
    mean = v.mean(0)
    if len(v) == 3:
        return mean, (v - mean).T @ (v - mean) / 12
    return mean, torch.diag(torch.tensor([0.5, 0.8], dtype=torch.float64) ** 2 / 6)


def assert_moments(x, mean, covariance, standard_errors):
    x = x.double() - mean
    products = x[:, :, None] * x[:, None, :]
    assert (x.mean(0).abs() < standard_errors * x.std(0) / len(x) ** 0.5).all()
    error = (products.mean(0) - covariance).abs()
    assert (error < standard_errors * products.std(0) / len(x) ** 0.5).all()


# ---------------------------------------------------------------------------------------- deblending_chain


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), Linear(Brownian())], ids=repr)
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_every_marginal_is_exact_at_any_number_of_steps(path, steps, generator):
    oracle, n = MixtureOracle(path, SOURCE, TARGET), 20_000
    x0 = SOURCE.sample(n, generator=generator)
    chain = deblending_chain(path, oracle.posterior_sample, x0, steps, generator=generator)
    assert chain.shape == (steps + 1, n, 2)
    assert torch.equal(chain[0], x0)
    (m0, c0), (m1, c1) = moments(SOURCE), moments(TARGET)
    for k in range(steps + 1):
        t = k / steps
        a, b = (
            (1 - t, t) if isinstance(path, Linear) else (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2))
        )
        latent = 0 if path.gamma.vanishes else t * (1 - t)
        covariance = a**2 * c0 + b**2 * c1 + latent * torch.eye(2, dtype=torch.float64)
        # Six standard errors of each of 5 numbers at each of 11 times: chance exceeds them once in 1e7.
        assert_moments(chain[k], a * m0 + b * m1, covariance, 6)


def end_variance(steps, m, s0, n, s1):
    """The variance at t = 1 given x_0, for N(m, s0^2) to N(n, s1^2) on the line, step by step.

    Given x at t, (1-t') x0 + t' x1 is Gaussian with a mean linear in x and a constant variance.
    """
    variance = 0.0
    for k in range(steps):
        t, u = k / steps, (k + 1) / steps
        spread = (1 - t) ** 2 * s0**2 + t**2 * s1**2
        cross = (1 - u) * (1 - t) * s0**2 + u * t * s1**2
        own = (1 - u) ** 2 * s0**2 + u**2 * s1**2
        variance = (cross / spread) ** 2 * variance + own - cross**2 / spread
    return variance


def test_variance_of_the_end_given_the_start_falls_like_one_over_the_steps(generator):
    source, target = mixture([1.0], [[0.5]], [[[1.0]]]), mixture([1.0], [[3.0]], [[[0.25]]])
    oracle, n = MixtureOracle(Linear(), source, target), 10_000
    x0 = torch.full((n, 1), 1.2, dtype=torch.float64)
    counts, logs = [8, 16, 32, 64, 128], []
    for steps in counts:
        chain = deblending_chain(Linear(), oracle.posterior_sample, x0, steps, generator=generator)
        variance = chain[-1].var().item()
        exact = end_variance(steps, 0.5, 1.0, 3.0, 0.5)
        # A sample variance of Gaussians has relative standard error sqrt(2 / n); six of them at each of
        # five counts: chance exceeds them once in 1e8.
        assert abs(variance / exact - 1) < 6 * math.sqrt(2 / n), steps
        logs.append(math.log(variance))
    x = torch.tensor(counts).log()
    slope = ((x - x.mean()) * torch.tensor(logs)).sum() / (x - x.mean()).square().sum()
    # The errors of the logarithms, sqrt(2 / n) = 0.014, give the slope an error of 0.0065; the rest of
    # the tolerance is for the next term, of order 1 / steps.
    assert abs(slope + 1) < 0.15


def test_mean_step_over_its_length_tends_to_the_velocity(generator):
    oracle, n, t = MixtureOracle(Linear(), SOURCE, TARGET), 100_000, 0.4
    x = torch.tensor([[-0.2, 0.1]], dtype=torch.float64)
    ends = oracle.posterior_sample(t, x.expand(n, 2), generator=generator)
    for dt in (0.1, 0.001):  # On the linear path the mean step is the velocity times its length, at any.
        step = (Linear().sample(t + dt, *ends).xt - x) / dt
        # Six standard errors of each of two numbers: chance exceeds them once in 1e8.
        assert ((step.mean(0) - oracle.velocity(t, x)[0]).abs() < 6 * step.std(0) / n**0.5).all()


def test_the_chain_is_reproduced_by_the_generator_and_takes_images():
    source = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.eye(4)[None])
    oracle, x0 = MixtureOracle(Linear(Brownian()), source, source), torch.ones(3, 1, 2, 2)
    state = torch.get_rng_state()
    first, again = (
        deblending_chain(
            oracle.interpolant, oracle.posterior_sample, x0, 4, generator=torch.Generator().manual_seed(1)
        )
        for _ in range(2)
    )
    assert first.shape == (5, 3, 1, 2, 2)
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


def test_fewer_steps_than_one_are_refused():
    x0 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="at least 1"):
        deblending_chain(Linear(), lambda t, x, generator: (x, x), x0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        random_walk(Linear(), triangle(), rhombus(), x0, -1)


def test_the_posterior_is_asked_at_the_start_of_each_step():
    asked = []

    def posterior(t, x, generator):
        asked.append(t)
        return x, x + 1

    chain = deblending_chain(Linear(), posterior, torch.zeros(2, 1), 4)
    assert asked == [0.0, 0.25, 0.5, 0.75]
    # x0 is the point itself and x1 one further: each step adds the time it steps to.
    assert chain[:, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.5, 2.5]


# ------------------------------------------------------------------------------------------ shapes, rejection


@pytest.mark.parametrize("path", [Linear(), Linear(Brownian(0.2))], ids=repr)
@pytest.mark.parametrize("steps", [1, 6])
def test_the_walk_from_triangle_to_rhombus_has_exact_marginals(path, steps, generator):
    n = 6000
    x0 = triangle().sample(n, generator=generator)
    chain = random_walk(path, triangle(), rhombus(), x0, steps, generator=generator)
    # Blending at t = 1 copies x1: inside to rounding of one multiplication by 0.
    assert rhombus().acceptance(chain[-1]).all()
    (m0, c0), (m1, c1) = polygon_moments(triangle()), polygon_moments(rhombus())
    for k in range(steps + 1):
        t = k / steps
        latent = 0.2 * t * (1 - t) * (not path.gamma.vanishes)
        covariance = (1 - t) ** 2 * c0 + t**2 * c1 + latent * torch.eye(2, dtype=torch.float64)
        # Six standard errors of each of 5 numbers at each of 7 times: chance exceeds them once in 1e7.
        assert_moments(chain[k], (1 - t) * m0 + t * m1, covariance, 6)


def test_the_end_of_the_walk_is_uniform_in_the_rhombus(generator):
    x0 = triangle().sample(8000, generator=generator)
    end = random_walk(Linear(), triangle(), rhombus(), x0, 4, generator=generator)[-1].double()
    # In units of the semi-axes, |x| + |y| of a uniform rhombus has distribution function r^2 and each
    # of the four quadrants a quarter of the mass.
    scaled = (end - torch.tensor([0.9, 0.0])) / torch.tensor([0.5, 0.8])
    cell = (scaled.abs().sum(1).square() * 4).floor().clamp(max=3).long() * 4
    cell += (scaled[:, 0] > 0).long() * 2 + (scaled[:, 1] > 0).long()
    count = torch.bincount(cell, minlength=16).double()
    statistic = ((count - 500) ** 2 / 500).sum()
    # Chi-square with 15 degrees of freedom exceeds 58 once in 1e6.
    assert statistic < 58


def test_rejection_draws_average_to_the_field_on_a_grid(generator):
    t, bounds, resolution = 0.5, (-0.6, 0.6, -0.8, 0.8), 16
    n = 400_000
    x0, x1 = triangle().sample(n, generator=generator), rhombus().sample(n, generator=generator)
    field = field_on_grid(Linear(), x0, x1, t, bounds=bounds, resolution=resolution)
    xt = Linear().sample(t, x0, x1).xt
    posterior, draws = RejectionPosterior(Linear(), triangle(), rhombus()), 4000
    for row, column in ((5, 8), (7, 6), (9, 9)):
        corner = torch.tensor([-0.6 + column * 0.075, -0.8 + row * 0.1])
        inside = ((xt >= corner) & (xt < corner + torch.tensor([0.075, 0.1]))).all(1)
        # Points spread over the cell as the samples are: no bias from its size.
        x = xt[inside][:draws]
        ends = posterior(t, x, generator=generator)
        difference = ends[1] - ends[0]
        error = difference.std(0) * (1 / len(x) + 1 / int(inside.sum())) ** 0.5
        # Six standard errors of each of 6 numbers: chance exceeds them once in 1e8.
        assert ((difference.mean(0) - field[row, column]).abs() < 6 * error).all()


@pytest.mark.parametrize("t", [0.3, 0.7])
@pytest.mark.parametrize("path", [Linear(), Linear(Brownian(0.5)), Trigonometric(Brownian(0.2))], ids=repr)
def test_rejection_draws_blend_back_to_the_point_and_lie_in_the_shapes(path, t, generator):
    n = 500
    x0, x1 = triangle().sample(n, generator=generator), rhombus().sample(n, generator=generator)
    x = path.sample(t, x0, x1, generator=generator).xt
    posterior = RejectionPosterior(path, triangle(), rhombus())
    drawn0, drawn1, z = posterior(t, x, generator=generator)
    assert triangle().acceptance(drawn0).all()
    assert rhombus().acceptance(drawn1).all()
    # Single precision: a handful of operations on numbers near 1.
    torch.testing.assert_close(path.sample(t, drawn0, drawn1, z).xt, x, rtol=1e-5, atol=1e-5)
    # Drawn anew, not returned.
    assert (drawn0 - x0).abs().mean() > 0.01


@pytest.mark.parametrize("t", [0.35, 0.65])
def test_rejection_draws_with_latent_noise_are_those_of_importance_weights(t, generator):
    path, n = Linear(Brownian(0.5)), 200_000
    x = torch.tensor([0.1, 0.2])
    x0, x1 = triangle().sample(n, generator=generator), rhombus().sample(n, generator=generator)
    variance = 0.5 * t * (1 - t)
    weights = (-(x - (1 - t) * x0 - t * x1).square().sum(1) / (2 * variance)).exp().double()
    weights /= weights.sum()
    ends, m = RejectionPosterior(path, triangle(), rhombus())(t, x.expand(4000, 2), generator=generator), 4000
    for drawn, proposed in zip(ends[:2], (x0, x1), strict=True):
        for power in (1, 2):
            values = proposed.double() ** power
            mean = weights @ values
            error = (weights.square() @ (values - mean).square()).sqrt()  # of a self-normalised estimate
            sample = drawn.double() ** power
            error = (error.square() + sample.var(0) / m).sqrt()
            # Six standard errors of each of 8 numbers: chance exceeds them once in 1e7.
            assert ((sample.mean(0) - mean).abs() < 6 * error).all()


class Ramp:
    """The density 2 x on [0, 1], whose acceptance is not just 0 or 1."""

    def sample(self, n, *, generator=None):
        return torch.rand(n, 1, generator=generator).sqrt()

    def acceptance(self, x):
        return torch.where((x >= 0) & (x <= 1), x, 0.0).squeeze(1)


@pytest.mark.parametrize("t", [0.4, 0.6])
def test_a_graded_acceptance_weighs_the_draws(t, generator):
    # Given x = (1-t) x0 + t x1, the density of x0 is proportional to x0 (x - (1-t) x0) where both fit.
    x, n = 0.45, 40_000
    posterior = RejectionPosterior(Linear(), Ramp(), Ramp())
    x0, _, _ = posterior(t, torch.full((n, 1), x), generator=generator)
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    other = (x - (1 - t) * grid) / t
    density = torch.where((other >= 0) & (other <= 1), grid * other, 0.0)
    for power in (1, 2):
        mean = (density * grid**power).sum() / density.sum()
        sample = x0.double() ** power
        # Six standard errors, one in 1e9; the quadrature errs by 1e-9.
        assert abs(sample.mean() - mean) < 6 * sample.std() / n**0.5


def test_at_the_ends_of_time_the_point_itself_is_one_end_in_a_single_round(generator):
    # The end of smaller weight is proposed, here of weight 0: every proposal fits.
    posterior = RejectionPosterior(Linear(Brownian()), triangle(), rhombus(), rounds=1)
    start, end = triangle().sample(50, generator=generator), rhombus().sample(50, generator=generator)
    x0, x1, _ = posterior(0.0, start, generator=generator)
    assert torch.equal(x0, start)
    assert rhombus().acceptance(x1).all()
    x0, x1, _ = posterior(1.0, end, generator=generator)
    assert torch.equal(x1, end)
    assert triangle().acceptance(x0).all()


def test_a_point_outside_every_blend_is_reported():
    posterior = RejectionPosterior(Linear(), triangle(), rhombus(), rounds=3)
    x = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    with pytest.raises(
        RuntimeError, match=r"1 of 2 points at t = 0.5 had no ends .* after 192 .*\[9.0, 9.0\]"
    ):
        posterior(0.5, x, generator=torch.Generator().manual_seed(0))


def test_the_posterior_by_rejection_refuses_bad_arguments():
    class Curved(Interpolant):
        def interpolate(self, t, x0, x1):
            return x0

    with pytest.raises(TypeError, match="spatially linear"):
        RejectionPosterior(Curved(), triangle(), rhombus())
    with pytest.raises(ValueError, match="one time for all rows"):
        RejectionPosterior(Linear(), triangle(), rhombus())(torch.full((3,), 0.5), torch.zeros(3, 2))


def test_draws_by_rejection_are_reproduced_by_the_generator():
    posterior, x = RejectionPosterior(Linear(Brownian(0.2)), triangle(), rhombus()), torch.zeros(5, 2)
    state = torch.get_rng_state()
    first, again = (posterior(0.5, x, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------- Polygon

PENTAGON = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.5, 1.0], [1.0, 2.0], [-0.5, 1.0]], dtype=torch.float64)


def test_polygon_samples_are_uniform_over_its_area(generator):
    polygon, n = Polygon(PENTAGON), 20_000
    x = polygon.sample(n, generator=generator)
    assert polygon.acceptance(x).all()
    # Cells of half a unit, of which the area inside is measured on a fine lattice.
    lattice = torch.cartesian_prod(*(torch.arange(-1, 3, 0.0025, dtype=torch.float64) + 0.00125,) * 2)
    area = cells(lattice[polygon.acceptance(lattice).bool()]) * 0.0025**2
    # By the shoelace formula, 4: the lattice errs by its spacing times the perimeter at most.
    assert abs(area.sum() - shoelace(PENTAGON)) < 0.0025 * 8
    expected = n * area / area.sum()
    observed, large = cells(x), expected > 20
    statistic = ((observed - expected)[large] ** 2 / expected[large]).sum()
    # The mean of chi-square is its degrees of freedom k; k + 5 sqrt(2 k) + 25 is exceeded less than
    # once in 1e6 (Laurent and Massart: k + 2 sqrt(k u) + 2 u with u = 14).
    k = int(large.sum())
    assert statistic < k + 2 * (14 * k) ** 0.5 + 28
    assert k > 10


def cells(x):
    index = ((x + 1) / 0.5).floor().long()
    return torch.bincount(index[:, 0] * 8 + index[:, 1], minlength=64).double()


def shoelace(v):
    w = v.roll(-1, 0)
    return float((v[:, 0] * w[:, 1] - v[:, 1] * w[:, 0]).sum() / 2)


def test_acceptance_is_one_inside_and_on_the_border_and_zero_outside():
    polygon = Polygon(PENTAGON)
    middle = (PENTAGON + PENTAGON.roll(-1, 0)) / 2
    centre = PENTAGON.mean(0)
    assert polygon.acceptance(PENTAGON).tolist() == [1.0] * 5
    assert polygon.acceptance(middle).tolist() == [1.0] * 5
    assert polygon.acceptance(centre + 0.999 * (middle - centre)).tolist() == [1.0] * 5
    assert polygon.acceptance(centre + 1.001 * (middle - centre)).tolist() == [0.0] * 5
    assert polygon.acceptance(torch.zeros(1, 2)).dtype == torch.float32


def star():
    angle = 4 * math.pi / 5 * torch.arange(5, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.mark.parametrize(
    "vertices",
    [
        PENTAGON.flip(0),
        PENTAGON[:2],
        PENTAGON.T,
        torch.zeros(4),
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]),
        torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [1.0, 2.0]]),
        star(),
    ],
    ids=["clockwise", "two", "transposed", "flat", "on a line", "straight corner", "concave", "star"],
)
def test_polygons_that_are_not_convex_and_counter_clockwise_are_refused(vertices):
    with pytest.raises(ValueError, match="vertices"):
        Polygon(vertices)


@pytest.mark.parametrize("shape", [triangle(), rhombus()])
def test_the_shapes_of_the_usual_picture_have_known_moments(shape, generator):
    # Six standard errors of each of five numbers: chance exceeds them once in 1e8.
    assert_moments(shape.sample(50_000, generator=generator), *polygon_moments(shape), 6)


@pytest.mark.parametrize("steps", [2, 5])
def test_the_walk_passes_a_bottleneck_of_latent_noise(steps, generator):
    # At t = 1/2 (met with 2 steps, passed with 5) both ends have no weight and all is latent noise.
    x0 = triangle().sample(2000, generator=generator)
    chain = random_walk(EncodingDecoding(), triangle(), rhombus(), x0, steps, generator=generator)
    assert rhombus().acceptance(chain[-1]).all()
    # The rhombus is centred at (0.9, 0), with variances (0.5^2 / 6, 0.8^2 / 6). Five standard errors.
    error = 5 * torch.tensor([0.5, 0.8]) / 6**0.5 / 2000**0.5
    assert ((chain[-1].mean(0) - torch.tensor([0.9, 0.0])).abs() < error).all()


def test_the_walk_through_a_point_has_no_posterior(generator):
    x0 = triangle().sample(3, generator=generator)
    with pytest.raises(ValueError, match="does not depend on its ends"):
        random_walk(EncodingDecoding(Zero()), triangle(), rhombus(), x0, 2, generator=generator)
