import functools
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import threadpoolctl
import torch

from interpolants import (
    Affine,
    EncodingDecoding,
    Interpolant,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, Quadratic, SineSquared, Zero
from interpolants.oracles import GaussianMixture, MixtureOracle, mixtures

# Everything that is expected is computed from these weights, in mpmath, and differentiated by it.
mpmath.mp.dps = 30
PI = mpmath.pi


@pytest.fixture(autouse=True)
def _one_thread():
    # NumPy's threads wait for each other on a busy machine: 20 times slower for matrices this small.
    with threadpoolctl.threadpool_limits(1):
        yield


def preserving_beta(t):
    def exponent(tau):
        return mpmath.quad(lambda s: (mpmath.mpf("0.1") + s * mpmath.mpf("19.9")) / 2, [0, tau])

    lost = mpmath.exp(-exponent(1))
    return (mpmath.exp(-exponent(1 - t)) - lost) / (1 - lost)


FAMILIES = {
    "linear": (Linear, lambda t: 1 - t, lambda t: t),
    "trigonometric": (Trigonometric, lambda t: mpmath.cos(PI * t / 2), lambda t: mpmath.sin(PI * t / 2)),
    "encoding-decoding": (
        EncodingDecoding,
        lambda t: mpmath.cos(PI * t) ** 2 if t < 0.5 else mpmath.mpf(0),
        lambda t: mpmath.cos(PI * t) ** 2 if t > 0.5 else mpmath.mpf(0),
    ),
    "variance preserving": (
        lambda gamma: VariancePreserving(gamma=gamma),
        lambda t: mpmath.sqrt(1 - preserving_beta(t) ** 2),
        preserving_beta,
    ),
    "mirror": (Mirror, lambda t: mpmath.mpf(0), lambda t: mpmath.mpf(1)),
    "affine": (
        lambda gamma: Affine(lambda t: (1 - t) ** 2, lambda t: t**2, gamma),
        lambda t: (1 - t) ** 2,
        lambda t: t**2,
    ),
}
GAMMAS = {
    "zero": (Zero(), lambda t: mpmath.mpf(0)),
    "brownian": (Brownian(), lambda t: mpmath.sqrt(t * (1 - t))),
    "quadratic": (Quadratic(), lambda t: t * (1 - t)),
    "sine squared": (SineSquared(), lambda t: mpmath.sin(PI * t) ** 2),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


def build(family, gamma):
    return FAMILIES[family][0](GAMMAS[gamma][0])


@functools.cache
def weights_at(family, gamma, t):
    """alpha, beta, gamma and their derivatives at t, as floats."""
    functions = (*FAMILIES[family][1:], GAMMAS[gamma][1])
    t = mpmath.mpf(t)
    values = [float(f(t)) for f in functions]
    return values, [float(mpmath.diff(f, t)) for f in functions]


def random_mixture(count, dim, seed, scale=2.0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(count, dim, dim)) / math.sqrt(dim)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(dim)
    means = scale / math.sqrt(dim) * rng.normal(size=(count, dim))
    parameters = (rng.uniform(0.5, 1.5, size=count), means, covariances)
    return GaussianMixture(*(torch.from_numpy(p) for p in parameters))


def random_oracle(family="trigonometric", gamma="brownian", dim=2, scale=2.0):
    source, target = random_mixture(2, dim, 1, scale), random_mixture(3, dim, 2, scale)
    return MixtureOracle(build(family, gamma), source, target)


def points_of(oracle, t, n, seed=0):
    """Draws of x_t, made here: where the density is."""
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = oracle.source.sample(n, generator=generator), oracle.target.sample(n, generator=generator)
    return oracle.interpolant.sample(t, x0, x1, generator=generator).xt


def condition(weights, source, target, x, *, spreads=True):
    """Log weight, and mean and covariance of (x0, x1, z) given x, for each pair of components.

    The joint Gaussian of (x0, x1, z, x_t) is conditioned by a solve with its big covariance.
    """
    dim = len(x)
    blend = np.hstack([w * np.eye(dim) for w in weights])
    answers = []
    for p, m, c in zip(source.weights, source.means, source.covariances, strict=True):
        for q, n, d in zip(target.weights, target.means, target.covariances, strict=True):
            mean = np.concatenate([m, n, np.zeros(dim)])
            joint = np.zeros((3 * dim, 3 * dim))
            for k, block in enumerate((c, d, np.eye(dim))):
                joint[k * dim : (k + 1) * dim, k * dim : (k + 1) * dim] = block
            cross = joint @ blend.T
            marginal = blend @ cross
            log = math.log(p * q) + scipy.stats.multivariate_normal.logpdf(x, blend @ mean, marginal)
            gain = np.linalg.solve(marginal, cross.T).T
            spread = joint - gain @ cross.T if spreads else None
            answers.append((log, mean + gain @ (x - blend @ mean), spread))
    return answers


def expected_fields(family, gamma, t, oracle, x):
    values, derivatives = weights_at(family, gamma, t)
    rows = {name: [] for name in ("velocity", "score", "denoiser", "x0", "x1", "log_density")}
    for point in x.numpy():
        pairs = condition(values, oracle.source, oracle.target, point, spreads=False)
        logs = np.array([log for log, _, _ in pairs])
        total = scipy.special.logsumexp(logs)
        mean = np.exp(logs - total) @ np.array([mean for _, mean, _ in pairs])
        x0, x1, z = mean.reshape(3, -1)
        rows["x0"].append(x0)
        rows["x1"].append(x1)
        rows["denoiser"].append(z)
        rows["velocity"].append(derivatives[0] * x0 + derivatives[1] * x1 + derivatives[2] * z)
        if values[2] > 0:
            rows["score"].append(-z / values[2])
        rows["log_density"].append(total)
    return {name: torch.from_numpy(np.array(row)) for name, row in rows.items() if row}


def differences(function, h):
    """The fourth-order central difference; its error is h^4 f^(5) / 30."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


# ---------------------------------------------------------------------------------------- GaussianMixture


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_log_prob_is_scipys(dim):
    mixture = random_mixture(3, dim, 0)
    x = 2 * torch.randn(20, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logs = [
        math.log(w) + scipy.stats.multivariate_normal.logpdf(x.numpy(), m, c).reshape(-1)
        for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ]
    expected = torch.from_numpy(scipy.special.logsumexp(logs, axis=0))
    # Both invert well-conditioned matrices in double precision.
    torch.testing.assert_close(mixture.log_prob(x), expected, rtol=1e-11, atol=1e-11)


def test_sample_moments_are_those_of_the_mixture(generator):
    mixture, n = random_mixture(3, 2, 0), 100_000
    w, m = mixture.weights, mixture.means
    mean = w @ m
    second = torch.einsum("k,kde->de", w, mixture.covariances + m[:, :, None] * m[:, None, :])
    x = mixture.sample(n, generator=generator)
    statistics = torch.cat([x, x**2, x.prod(1, keepdim=True)], dim=1)
    expected = torch.stack([*mean, second[0, 0], second[1, 1], second[0, 1]])
    errors = statistics.std(dim=0) / n**0.5
    # Six standard errors of each of five: chance exceeds them once in 1e8.
    assert ((statistics.mean(0) - expected).abs() < 6 * errors).all()


def test_samples_are_reproduced_by_the_generator_and_leave_the_global_one_alone():
    mixture = random_mixture(3, 2, 0)
    state = torch.get_rng_state()
    first, second = (mixture.sample(10, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_are_scaled_to_sum_to_one():
    normal = GaussianMixture(torch.tensor([2.0, 6.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    assert normal.weights.tolist() == [0.25, 0.75]
    assert normal.dim == 1


def test_a_component_without_weight_is_never_drawn_and_has_no_density(generator):
    means = torch.tensor([[0.0], [100.0]])
    mixture = GaussianMixture(torch.tensor([1.0, 0.0]), means, torch.ones(2, 1, 1))
    assert mixture.sample(1000, generator=generator).abs().max() < 10
    expected = scipy.stats.norm.logpdf(1.0)
    assert mixture.log_prob(torch.ones(1, 1)).item() == pytest.approx(expected, rel=1e-6)
    oracle = MixtureOracle(Linear(), mixture, mixture)
    assert torch.isfinite(oracle.velocity(0.5, torch.ones(1, 1))).all()


def test_to_changes_the_dtype_of_everything():
    mixture = random_mixture(2, 2, 0).to(torch.float32)
    assert {p.dtype for p in (mixture.weights, mixture.means, mixture.covariances)} == {torch.float32}
    assert mixture.sample(3).dtype == torch.float32


ONE, ZERO, UNIT = torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ((torch.tensor([-1.0]), ZERO, UNIT), ValueError, "non-negative"),
        ((torch.tensor([0.0]), ZERO, UNIT), ValueError, "positive sum"),
        ((torch.tensor([math.nan]), ZERO, UNIT), ValueError, "finite"),
        ((ONE, torch.full((1, 2), math.inf), UNIT), ValueError, "means must be finite"),
        ((ONE, ZERO[0], UNIT), ValueError, "shapes"),
        ((torch.ones(2), ZERO, UNIT), ValueError, "shapes"),
        ((ONE, ZERO, UNIT[0]), ValueError, "shapes"),
        ((ONE, ZERO, torch.eye(3)[None]), ValueError, "shapes"),
        ((ONE, ZERO, torch.tensor([[[1.0, 0.5], [0.2, 1.0]]])), ValueError, "symmetric"),
        ((ONE, ZERO, torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])), ValueError, "positive definite"),
        ((ONE, ZERO, torch.zeros(1, 2, 2)), ValueError, "covariance 0"),
        ((ONE.double(), ZERO, UNIT), TypeError, "dtype"),
        ((ONE, ZERO.long(), UNIT), TypeError, "must share a dtype|floating"),
        (([1.0], ZERO, UNIT), TypeError, "floating"),
    ],
)
def test_bad_parameters_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        GaussianMixture(*parameters)


# ------------------------------------------------------------------------------- the fields, independently


@every_family
@every_gamma
@pytest.mark.parametrize("dim", [1, 2, 16, 128])
def test_fields_are_the_conditional_means_of_the_joint_gaussian(family, gamma, dim):
    oracle = random_oracle(family, gamma, dim)
    for t in (0.2, 0.45, 0.85) if dim < 128 else (0.7,):
        x = 1.5 * points_of(oracle, t, 2)
        for name, expected in expected_fields(family, gamma, t, oracle, x).items():
            error = (getattr(oracle, name)(t, x) - expected).abs().max()
            # Double precision, times condition numbers of a few hundred.
            assert error <= 1e-9 * max(expected.abs().max(), 1e-3), (name, t)


@every_family
@every_gamma
def test_encoding_decoding_alone_is_degenerate_at_its_middle(family, gamma):
    oracle, x = random_oracle(family, gamma), torch.ones(2, 2, dtype=torch.float64)
    if (family, gamma) == ("encoding-decoding", "zero"):
        for ask in (oracle.velocity, oracle.score, oracle.log_density, oracle.posterior_sample):
            with pytest.raises(ValueError, match="degenerate"):
                ask(0.5, x)
    else:
        for name, expected in expected_fields(family, gamma, 0.5, oracle, x).items():
            # As above; the derivatives of the encoding weights vanish from both sides.
            torch.testing.assert_close(getattr(oracle, name)(0.5, x), expected, rtol=1e-9, atol=1e-12)


@every_family
@every_gamma
@pytest.mark.parametrize("dim", [1, 2])
def test_velocity_and_density_satisfy_the_continuity_equation(family, gamma, dim):
    oracle, n = random_oracle(family, gamma, dim), 12
    h = 1e-3
    for time in (0.3, 0.7):
        x = points_of(oracle, time, n)
        t = torch.full((n,), time, dtype=torch.float64)

        def flux(axis, by, t=t, x=x):
            moved = x + by * torch.eye(dim, dtype=torch.float64)[axis]
            return oracle.velocity(t, moved)[:, axis] * oracle.log_density(t, moved).exp()

        change = differences(lambda by, t=t, x=x: oracle.log_density(t + by, x).exp(), h)
        outflow = [differences(lambda by, axis=axis, f=flux: f(axis, by), h) for axis in range(dim)]
        size = change.abs().max() + sum(o.abs().max() for o in outflow)
        # h^4 = 1e-12 times fifth derivatives; rounding is 1e-16 / h.
        assert (change + sum(outflow)).abs().max() <= 1e-6 * size, time


@every_family
@every_gamma
def test_score_is_the_gradient_of_the_log_density(family, gamma):
    oracle = random_oracle(family, gamma)
    for t in (0.3, 0.7):
        x = points_of(oracle, t, 12)
        gradient = torch.stack(
            [
                differences(lambda by, e=e, x=x, t=t: oracle.log_density(t, x + by * e), 1e-3)
                for e in torch.eye(2)
            ],
            dim=1,
        )
        # h^4 = 1e-12 times fifth derivatives; rounding is 1e-15 / h.
        torch.testing.assert_close(oracle.score(t, x), gradient, rtol=1e-7, atol=1e-7)


@every_family
@every_gamma
def test_ends_have_the_densities_of_source_and_target(family, gamma, generator):
    oracle = random_oracle(family, gamma)
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    first = oracle.target if family == "mirror" else oracle.source
    torch.testing.assert_close(oracle.log_density(0.0, x), first.log_prob(x))
    torch.testing.assert_close(oracle.log_density(1.0, x), oracle.target.log_prob(x))


# ---------------------------------------------------------------------------------------- the ends of time


def centred(mixture):
    mean = mixture.means[:1]
    return GaussianMixture(mixture.weights[:1], mean - mean, mixture.covariances[:1])


@every_family
@every_gamma
def test_velocity_is_finite_at_the_ends_and_is_the_limit_there(family, gamma):
    oracle = random_oracle(family, gamma)
    if family == "variance preserving":  # Its alpha' is infinite at t = 1: only a centred source stands it.
        oracle = MixtureOracle(oracle.interpolant, centred(oracle.source), oracle.target)
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        x = points_of(oracle, end, 6)
        velocity = oracle.velocity(end, x)
        assert torch.isfinite(velocity).all()
        # The derivative in time is below 1e3; on the way to t = 1 the variance-preserving one grows
        # like that of (1 - t) log, the others are smooth.
        torch.testing.assert_close(velocity, oracle.velocity(near, x), rtol=1e-6, atol=1e-6)


def test_velocity_of_a_symmetric_source_on_the_variance_preserving_path_has_its_limit_at_the_data():
    # alpha' E[m_i | x] has a finite limit when the components' means balance: E[m_i | x] is of order alpha.
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    source = GaussianMixture(torch.ones(2).double(), means, torch.eye(2).double().expand(2, 2, 2))
    oracle = MixtureOracle(VariancePreserving(), source, random_mixture(3, 2, 2))
    x = points_of(oracle, 1.0, 6)
    # The next term is of order alpha^2 = 1e-10.
    torch.testing.assert_close(oracle.velocity(1.0, x), oracle.velocity(1 - 1e-9, x), rtol=1e-6, atol=1e-6)


def test_velocity_of_an_uncentred_source_on_the_variance_preserving_path_is_infinite_at_the_data():
    oracle = random_oracle("variance preserving", "zero")
    assert torch.isinf(oracle.velocity(1.0, points_of(oracle, 1.0, 3))).all()


@pytest.mark.parametrize("family", ["linear", "trigonometric", "affine"])
def test_velocity_at_the_ends_follows_from_the_mean_of_the_other_side(family, generator):
    # At t = 0 the source point is known and the target unknown, without latent noise; likewise at t = 1.
    oracle = random_oracle(family, "zero")
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    means = [m.weights @ m.means for m in (oracle.source, oracle.target)]
    _, (start_alpha, start_beta, _) = weights_at(family, "zero", 0)
    _, (end_alpha, end_beta, _) = weights_at(family, "zero", 1)
    # Rounding of a few operations.
    start = start_alpha * x + start_beta * means[1]
    torch.testing.assert_close(oracle.velocity(0.0, x), start, rtol=1e-11, atol=1e-11)
    end = end_alpha * means[0] + end_beta * x
    torch.testing.assert_close(oracle.velocity(1.0, x), end, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------ precision and shapes

FIELDS = ("velocity", "score", "denoiser", "x0", "x1", "log_density")
every_field = pytest.mark.parametrize("name", FIELDS)


@every_field
@pytest.mark.parametrize("dim", [2, 128])
@every_family
def test_single_precision_agrees_with_double(name, dim, family):
    oracle = random_oracle(family, "brownian", dim)
    x = points_of(oracle, 0.35, 5).float()
    single, double = (getattr(oracle, name)(0.35, x.to(dtype)) for dtype in (torch.float32, torch.float64))
    assert single.dtype == torch.float32
    # Eps 6e-8, condition numbers of a few hundred, sums over up to 128 elements.
    torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-4)


@every_field
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", ["zero", "brownian"])
def test_far_away_nothing_is_nan(name, dtype, gamma):
    oracle = random_oracle("linear", gamma, 128)
    x = torch.randn(4, 128, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = 1e3 * x / x.norm(dim=1, keepdim=True)
    for t in (0.0, 0.3, 1.0):
        assert torch.isfinite(getattr(oracle, name)(t, x)).all()


@every_field
def test_times_may_be_a_float_a_scalar_or_one_per_row(name):
    oracle = random_oracle()
    ask, x = getattr(oracle, name), points_of(oracle, 0.4, 5)
    expected = ask(0.4, x)
    # Batched and single triangular solves may round differently.
    scalar, rows = torch.tensor(0.4, dtype=torch.float64), torch.full((5,), 0.4, dtype=torch.float64)
    torch.testing.assert_close(ask(scalar, x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ask(rows, x), expected, rtol=1e-12, atol=1e-12)
    times = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    separate = torch.cat([ask(float(t), x[k : k + 1]) for k, t in enumerate(times)])
    torch.testing.assert_close(ask(times, x), separate, rtol=1e-12, atol=1e-12)


def test_times_of_another_length_are_refused():
    with pytest.raises(ValueError, match="one time per example"):
        random_oracle().velocity(torch.zeros(3), torch.zeros(5, 2))


@pytest.mark.parametrize("name", FIELDS[:-1])
def test_images_are_answered_as_images(name):
    oracle = random_oracle(dim=12)
    x = points_of(oracle, 0.4, 3)
    image = getattr(oracle, name)(0.4, x.reshape(3, 3, 2, 2))
    assert torch.equal(image, getattr(oracle, name)(0.4, x).reshape(3, 3, 2, 2))


def test_log_density_of_images_has_one_number_a_row():
    oracle = random_oracle(dim=12)
    assert oracle.log_density(0.4, torch.zeros(3, 3, 2, 2)).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FIELDS[:-1])
def test_half_precision_is_computed_in_single_and_returned_in_half(name, dtype):
    oracle = random_oracle()
    x = points_of(oracle, 0.4, 5).to(dtype)
    answer = getattr(oracle, name)(0.4, x)
    assert answer.dtype == dtype
    assert torch.equal(answer, getattr(oracle, name)(0.4, x.float()).to(dtype))


@every_field
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("budget", [1, 100])
def test_pieces_give_what_one_batch_gives(name, per_row, budget, monkeypatch):
    oracle = random_oracle()
    x = points_of(oracle, 0.4, 23)
    t = torch.linspace(0.1, 0.9, 23, dtype=torch.float64) if per_row else 0.4
    whole = getattr(oracle, name)(t, x)
    monkeypatch.setattr(mixtures, "_BUDGET", budget)
    # Matrix products of another size may be summed in another order.
    torch.testing.assert_close(getattr(oracle, name)(t, x), whole, rtol=1e-12, atol=1e-12)


def test_no_more_rows_than_the_budget_are_worked_on_at_once(monkeypatch):
    oracle, seen = random_oracle(), []
    original = mixtures._residuals
    monkeypatch.setattr(mixtures, "_residuals", lambda c, m, x: seen.append(len(x)) or original(c, m, x))
    monkeypatch.setattr(mixtures, "_BUDGET", 48)  # 6 pairs of 2 x 2 matrices: 24 elements a row.
    x = points_of(oracle, 0.4, 7)
    oracle.velocity(torch.full((7,), 0.4, dtype=torch.float64), x)
    assert seen == [2, 2, 2, 1]
    seen.clear()
    oracle.velocity(0.4, x)
    assert seen == [4, 3]
    seen.clear()
    oracle.posterior_sample(0.4, x)  # Each row has a matrix of its own, whatever the time.
    assert seen == [2, 2, 2, 1]


def test_an_empty_batch_gives_an_empty_answer():
    oracle, x = random_oracle(), torch.empty(0, 2, dtype=torch.float64)
    assert oracle.velocity(0.5, x).shape == (0, 2)
    assert oracle.log_density(0.5, x).shape == (0,)


def test_bad_arguments_are_refused():
    class Curved(Interpolant):
        def interpolate(self, t, x0, x1):
            return x0

    source, target = random_mixture(2, 2, 1), random_mixture(2, 3, 1)
    with pytest.raises(TypeError, match="spatially linear"):
        MixtureOracle(Curved(), source, source)
    with pytest.raises(ValueError, match="share a dimension"):
        MixtureOracle(Linear(), source, target)
    with pytest.raises(TypeError, match="target must be a GaussianMixture"):
        MixtureOracle(Linear(), source, torch.zeros(3, 2))
    oracle = MixtureOracle(Linear(), source, source)
    with pytest.raises(ValueError, match="2 elements"):
        oracle.velocity(0.5, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="2 elements"):
        oracle.velocity(0.5, torch.zeros(2))
    with pytest.raises(TypeError, match="floating"):
        oracle.velocity(0.5, torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        oracle.velocity(1.5, torch.zeros(4, 2))


def test_the_oracle_knows_the_kinks_of_its_path():
    assert random_oracle("encoding-decoding").kinks == (0.5,)
    assert random_oracle("linear").kinks == ()


# ---------------------------------------------------------------------------------------- posterior_sample


@pytest.mark.parametrize(
    ("family", "gamma", "t"),
    [
        ("linear", "zero", 0.3),
        ("trigonometric", "brownian", 0.6),
        ("affine", "quadratic", 0.7),
        ("encoding-decoding", "sine squared", 0.35),
        ("variance preserving", "brownian", 0.6),
        ("mirror", "brownian", 0.5),
    ],
)
def test_posterior_draws_have_the_moments_of_the_conditional_mixture(family, gamma, t, generator):
    oracle, n = random_oracle(family, gamma), 40_000
    x = points_of(oracle, t, 1)
    pairs = condition(weights_at(family, gamma, t)[0], oracle.source, oracle.target, x[0].numpy())
    logs = np.array([log for log, _, _ in pairs])
    weights = np.exp(logs - scipy.special.logsumexp(logs))
    means = np.array([mean for _, mean, _ in pairs])
    mean = torch.from_numpy(weights @ means)
    second = sum(w * (c + np.outer(m, m)) for w, (_, m, c) in zip(weights, pairs, strict=True))
    covariance = torch.from_numpy(second) - torch.outer(mean, mean)
    draws = torch.cat(oracle.posterior_sample(t, x.expand(n, 2), generator=generator), dim=1) - mean
    products = draws[:, :, None] * draws[:, None, :]
    # Six standard errors of each of 27 numbers: chance exceeds them less than once in 1e7.
    # What is known exactly (z at gamma = 0 is not) has no error but rounding.
    assert (draws.mean(0).abs() <= 6 * draws.std(0) / n**0.5 + 1e-12).all()
    error = (products.mean(0) - covariance).abs()
    assert (error <= 6 * products.std(0) / n**0.5 + 1e-12).all()


@every_family
@every_gamma
def test_posterior_draws_blend_back_to_the_point(family, gamma, generator):
    oracle = random_oracle(family, gamma)
    t = torch.tensor([0.0, 0.2, 0.45, 0.8, 1.0], dtype=torch.float64)
    x = points_of(oracle, t, 5)
    x0, x1, z = oracle.posterior_sample(t, x, generator=generator)
    for k, time in enumerate(t.tolist()):
        (alpha, beta, amplitude), _ = weights_at(family, gamma, time) if 0 < time < 1 else ends(family, time)
        # Rounding times the condition of one Cholesky solve.
        blend = alpha * x0[k] + beta * x1[k] + amplitude * z[k]
        torch.testing.assert_close(blend, x[k], rtol=1e-11, atol=1e-11)


def ends(family, t):
    if family == "mirror":
        return (0.0, 1.0, 0.0), None
    return (1 - t, t, 0.0), None


@pytest.mark.parametrize("per_row", [False, True])
def test_posterior_draws_are_reproduced_by_the_generator_in_any_number_of_pieces(per_row, monkeypatch):
    oracle = random_oracle(dim=12)
    x = points_of(oracle, 0.4, 6).reshape(6, 3, 2, 2)
    t = torch.linspace(0.1, 0.9, 6) if per_row else 0.4
    state = torch.get_rng_state()
    first, again = (
        oracle.posterior_sample(t, x, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    other = oracle.posterior_sample(t, x, generator=torch.Generator().manual_seed(4))
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(first, again, other, strict=True):
        assert a.shape == x.shape
        assert a.dtype == x.dtype
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    monkeypatch.setattr(mixtures, "_BUDGET", 2 * 6 * 144)
    x0, x1, z = oracle.posterior_sample(t, x, generator=torch.Generator().manual_seed(3))
    sample = oracle.interpolant.sample(t, x0, x1, z)
    # Rounding: float32 times are those of the sample as well.
    torch.testing.assert_close(sample.xt, x, rtol=1e-11, atol=1e-11)


def test_posterior_draws_of_rows_at_different_times_follow_their_own_times(generator):
    oracle, n = random_oracle("linear", "zero"), 20_000
    t = torch.tensor([0.2, 0.8], dtype=torch.float64).repeat(n)
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64).expand(2 * n, 2)
    x0, x1, _ = oracle.posterior_sample(t, x, generator=generator)
    for k, time in enumerate((0.2, 0.8)):
        difference = (x1 - x0)[k::2]
        error = difference.std(0) / n**0.5
        # Six standard errors of each of four numbers: chance exceeds them once in 1e8.
        assert ((difference.mean(0) - oracle.velocity(time, x[:1])[0]).abs() < 6 * error).all()
