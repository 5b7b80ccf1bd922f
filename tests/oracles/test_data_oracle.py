import math
import time

import numpy as np
import pytest
import scipy.special
import torch

from interpolants import (
    Affine,
    DataOracle,
    EncodingDecoding,
    Interpolant,
    Linear,
    ODESampler,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, SineSquared, Zero
from interpolants.oracles import GaussianMixture, MixtureOracle, data

# alpha, beta, gamma and their derivatives, by hand.
PATHS = {
    "linear": (Linear(), lambda t: (1 - t, t, 0), lambda t: (-1, 1, 0)),
    "linear with brownian": (
        Linear(Brownian()),
        lambda t: (1 - t, t, math.sqrt(t * (1 - t))),
        lambda t: (-1, 1, (1 - 2 * t) / (2 * math.sqrt(t * (1 - t)))),
    ),
    "trigonometric with brownian": (
        Trigonometric(Brownian(4.0)),
        lambda t: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2), 2 * math.sqrt(t * (1 - t))),
        lambda t: (
            -math.pi / 2 * math.sin(math.pi * t / 2),
            math.pi / 2 * math.cos(math.pi * t / 2),
            (1 - 2 * t) / math.sqrt(t * (1 - t)),
        ),
    ),
    "affine": (
        Affine(lambda t: (1 - t) ** 2, lambda t: t**2),
        lambda t: ((1 - t) ** 2, t**2, 0),
        lambda t: (-2 * (1 - t), 2 * t, 0),
    ),
    "encoding-decoding": (
        EncodingDecoding(),
        lambda t: (
            math.cos(math.pi * t) ** 2 * (t < 0.5),
            math.cos(math.pi * t) ** 2 * (t > 0.5),
            math.sin(math.pi * t) ** 2,
        ),
        lambda t: (
            -math.pi * math.sin(2 * math.pi * t) * (t < 0.5),
            -math.pi * math.sin(2 * math.pi * t) * (t > 0.5),
            math.pi * math.sin(2 * math.pi * t),
        ),
    ),
}
FIELDS = ("velocity", "score", "denoiser", "x0", "x1", "log_density")
every_field = pytest.mark.parametrize("name", FIELDS)


def source_of(kind, dim):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(2, dim, dim)) / math.sqrt(dim)
    full = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(dim)
    means = rng.normal(size=(2, dim))
    weights, means, covariances = {
        "isotropic": (np.ones(1), np.zeros((1, dim)), np.eye(dim)[None]),
        "diagonal": (np.ones(1), means[:1], np.diag(rng.uniform(0.2, 2, size=dim))[None]),
        "full": (np.ones(1), means[:1], full[:1]),
        "two components": (np.array([0.3, 0.7]), means, full),
    }[kind]
    return GaussianMixture(*(torch.from_numpy(p) for p in (weights, means, covariances)))


def points_of(count, dim, seed=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(1.0, 1.0, size=(count, dim)))


def expected_fields(values, derivatives, source, points, x):
    """Every pair of a component and a data point, one by one, in the log domain."""
    alpha, beta, gamma = values
    rows = []
    for row in x.numpy():
        logs, ends = [], []
        for p, m, c in zip(
            source.weights.numpy(), source.means.numpy(), source.covariances.numpy(), strict=True
        ):
            spread = alpha**2 * c + gamma**2 * np.eye(len(m))
            for point in points.numpy():
                offset = row - alpha * m - beta * point
                residual = np.linalg.solve(spread, offset)
                log_volume = np.linalg.slogdet(2 * np.pi * spread)[1] / 2
                logs.append(math.log(p / len(points)) - offset @ residual / 2 - log_volume)
                ends.append((m + alpha * c @ residual, point, gamma * residual, residual))
        weights = np.exp(logs - scipy.special.logsumexp(logs))
        x0, x1, z, residual = (weights @ np.array(part) for part in zip(*ends, strict=True))
        velocity = derivatives[0] * x0 + derivatives[1] * x1 + derivatives[2] * z
        rows.append((velocity, -residual, z, x0, x1, scipy.special.logsumexp(logs)))
    answers = (torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True))
    return dict(zip(FIELDS, answers, strict=True))


def blend(oracle, t, n):
    generator = torch.Generator().manual_seed(1)
    x0 = oracle.source.sample(n, generator=generator)
    which = torch.randint(len(oracle.points), (n,), generator=generator)
    return oracle.interpolant.sample(t, x0, oracle.points[which], generator=generator).xt


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full", "two components"])
@pytest.mark.parametrize("path", PATHS)
def test_fields_are_the_averages_over_all_pairs(kind, path):
    interpolant, values, derivatives = PATHS[path]
    oracle = DataOracle(interpolant, source_of(kind, 3), points_of(7, 3))
    for t in (0.2, 0.45, 0.8):
        x = blend(oracle, t, 4)
        expected = expected_fields(values(t), derivatives(t), oracle.source, oracle.points, x)
        for name in FIELDS:
            # Double precision; alpha^2 C + gamma^2 Id has condition numbers of at most a thousand.
            torch.testing.assert_close(getattr(oracle, name)(t, x), expected[name], rtol=1e-9, atol=1e-10)


@every_field
@pytest.mark.parametrize("kind", ["isotropic", "two components"])
def test_fields_are_those_of_a_mixture_of_very_narrow_gaussians(name, kind):
    source, points = source_of(kind, 2), points_of(5, 2)
    narrow = GaussianMixture(
        torch.ones(5).double(), points, 1e-10 * torch.eye(2, dtype=torch.float64).expand(5, 2, 2)
    )
    path = Trigonometric(Brownian())
    exact, oracle = MixtureOracle(path, source, narrow), DataOracle(path, source, points)
    x = blend(oracle, 0.6, 6)
    # The narrow Gaussians change S by 1e-10.
    torch.testing.assert_close(
        getattr(oracle, name)(0.6, x), getattr(exact, name)(0.6, x), rtol=1e-7, atol=1e-7
    )


@every_field
@pytest.mark.parametrize("kind", ["isotropic", "two components"])
@pytest.mark.parametrize("block", [1, 3, 4])
def test_blocks_of_points_give_what_all_at_once_gives(name, kind, block, monkeypatch):
    oracle = DataOracle(Trigonometric(Brownian()), source_of(kind, 3), points_of(10, 3))
    for t in (0.5, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        x = blend(oracle, t, 6)
        whole = getattr(oracle, name)(t, x)
        with monkeypatch.context() as patch:
            original = data.split
            patch.setattr(data, "split", lambda rows, most, cut=original: cut(rows, min(most, block)))
            # Sums taken in another order.
            torch.testing.assert_close(getattr(oracle, name)(t, x), whole, rtol=1e-12, atol=1e-12)
        with monkeypatch.context() as patch:
            patch.setattr(data, "_BUDGET", 3 * block)
            torch.testing.assert_close(getattr(oracle, name)(t, x), whole, rtol=1e-12, atol=1e-12)


@every_field
@pytest.mark.parametrize("kind", ["isotropic", "two components"])
def test_rows_have_their_own_times(name, kind):
    oracle = DataOracle(Linear(Brownian()), source_of(kind, 2), points_of(6, 2))
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x, ask = blend(oracle, t, 5), getattr(oracle, name)
    separate = torch.cat([ask(float(time), x[k : k + 1]) for k, time in enumerate(t)])
    # Squared distances are computed in two ways.
    torch.testing.assert_close(ask(t, x), separate, rtol=1e-11, atol=1e-11)
    scalar = ask(torch.tensor(0.4, dtype=torch.float64), x)
    torch.testing.assert_close(ask(0.4, x), scalar, rtol=0, atol=0)


@every_field
def test_images_are_answered_as_images(name):
    source, points = source_of("full", 12), points_of(6, 12)
    oracle = DataOracle(Linear(), source, points.reshape(6, 3, 2, 2))
    x = blend(oracle, 0.4, 4)
    answer = getattr(oracle, name)(0.4, x.reshape(4, 3, 2, 2))
    flat = getattr(DataOracle(Linear(), source, points), name)(0.4, x)
    assert torch.equal(answer, flat.reshape(answer.shape))
    assert answer.shape == ((4,) if name == "log_density" else (4, 3, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", FIELDS[:-1])
def test_answers_have_the_dtype_of_x(name, dtype):
    oracle = DataOracle(Linear(Brownian()), source_of("full", 2), points_of(6, 2))
    x = blend(oracle, 0.4, 4).to(dtype)
    answer = getattr(oracle, name)(0.4, x)
    assert answer.dtype == dtype
    assert torch.equal(answer, getattr(oracle, name)(0.4, x.float()).to(dtype))
    double = getattr(oracle, name)(0.4, x.double())
    # Half precision rounds the answer; single precision errs by a few hundred eps.
    eps = max(torch.finfo(dtype).eps, 2e-5)
    torch.testing.assert_close(answer.double(), double, rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize("name", FIELDS[:-1])
def test_single_precision_agrees_with_double_where_weights_are_sharp(name, generator):
    dim, t = 784, 0.999
    source = GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.eye(dim)[None])
    points = torch.rand(500, dim, generator=generator)
    single = DataOracle(Linear(), source, points)
    double = DataOracle(Linear(), source.to(torch.float64), points.double())
    x0 = torch.randn(6, dim, generator=generator)
    x = Linear().sample(t, x0, points[:6]).xt
    answer, expected = getattr(single, name)(t, x), getattr(double, name)(t, x.double())
    # One point has all the weight; (x - t n) / (1 - t) loses three digits of seven to cancellation.
    size = expected.abs().max()
    assert (answer.double() - expected).abs().max() <= 2e-4 * size + 1e-12
    assert torch.equal(single.x1(t, x), points[:6])


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), EncodingDecoding(), Linear(Brownian())])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_row", [False, True])
def test_at_the_data_fields_are_finite_and_the_nearest_point_is_taken(path, dtype, per_row):
    points = points_of(9, 3).to(dtype)
    oracle = DataOracle(path, source_of("two components", 3).to(dtype), points)
    t = torch.ones(9, dtype=dtype) if per_row else 1.0
    # A tenth of the smallest distance away, and far from everything.
    gap = torch.pdist(points).min()
    near = points + gap / 10 * torch.tensor([1.0, 0.0, 0.0], dtype=dtype)
    assert torch.equal(oracle.x1(t, near), points)
    for name in FIELDS:
        assert torch.isfinite(getattr(oracle, name)(t, points)).all(), name
    assert torch.isfinite(oracle.velocity(t, points + 100)).all()
    nearest = torch.cdist(points + 100, points).argmin(1)
    assert torch.equal(oracle.x1(t, points + 100), points[nearest])


def test_at_the_data_the_velocity_is_the_point_less_the_mean_of_the_source():
    oracle = DataOracle(Linear(), source_of("two components", 3), points_of(9, 3))
    mean = oracle.source.weights @ oracle.source.means
    # Exact up to rounding: given x_1 = n_j the source point is still free.
    torch.testing.assert_close(
        oracle.velocity(1.0, oracle.points), oracle.points - mean, rtol=1e-12, atol=1e-12
    )


def test_variance_preserving_velocity_of_a_centred_source_is_finite_at_the_data():
    oracle = DataOracle(VariancePreserving(), source_of("isotropic", 3), points_of(9, 3))
    assert torch.isfinite(oracle.velocity(1.0, oracle.points)).all()


def test_at_the_source_the_velocity_leads_to_the_mean_of_the_data():
    oracle = DataOracle(Linear(), source_of("full", 3), points_of(9, 3))
    x = blend(oracle, 0.0, 4)
    # Rounding of an average.
    torch.testing.assert_close(oracle.velocity(0.0, x), oracle.points.mean(0) - x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", FIELDS)
def test_far_away_nothing_is_nan(t, name):
    oracle = DataOracle(Linear(Brownian()), source_of("full", 3).to(torch.float32), points_of(9, 3).float())
    assert torch.isfinite(getattr(oracle, name)(t, torch.full((2, 3), 1e3))).all()


def test_sixty_thousand_images_take_a_few_seconds(generator):
    dim = 784
    source = GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.eye(dim)[None])
    oracle = DataOracle(Linear(), source, torch.rand(60_000, dim, generator=generator))
    x = torch.randn(4, dim, generator=generator)
    start = time.process_time()
    for t in (0.5, torch.tensor([0.2, 0.4, 0.6, 0.8])):
        assert torch.isfinite(oracle.velocity(t, x)).all()
    # Each takes about a second of one core; other work on the machine does not count.
    assert time.process_time() - start < 6


def test_bad_arguments_are_refused():
    class Curved(Interpolant):
        def interpolate(self, t, x0, x1):
            return x0

    source, points = source_of("full", 2), points_of(4, 2)
    with pytest.raises(TypeError, match="spatially linear"):
        DataOracle(Curved(), source, points)
    with pytest.raises(TypeError, match="floating"):
        DataOracle(Linear(), source, points.long())
    with pytest.raises(TypeError, match="floating"):
        DataOracle(Linear(), source, points.tolist())
    for wrong in (points[:0], points[0], points_of(4, 3)):
        with pytest.raises(ValueError, match="points must have shape"):
            DataOracle(Linear(), source, wrong)
    with pytest.raises(ValueError, match="finite"):
        DataOracle(Linear(), source, points * math.inf)
    oracle = DataOracle(Linear(), source, points)
    with pytest.raises(ValueError, match="2 elements"):
        oracle.velocity(0.5, torch.zeros(4, 3))
    with pytest.raises(TypeError, match="floating"):
        oracle.velocity(0.5, torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="one time per example"):
        oracle.velocity(torch.zeros(3), torch.zeros(4, 2))


def test_the_oracle_knows_the_kinks_of_its_path():
    assert DataOracle(EncodingDecoding(SineSquared()), source_of("full", 2), points_of(4, 2)).kinks == (0.5,)
    assert DataOracle(Linear(Zero()), source_of("full", 2), points_of(4, 2)).kinks == ()


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("path", [Linear(Brownian(0.5)), VariancePreserving(), Linear()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_flow_ends_near_the_data_also_where_a_method_asks_at_the_end(path, method, dtype, generator):
    points = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], dtype=dtype)
    source = GaussianMixture(
        torch.ones(1, dtype=dtype), torch.zeros(1, 2, dtype=dtype), torch.eye(2).to(dtype)[None]
    )
    x = torch.randn(50, 2, dtype=dtype, generator=generator)
    final = ODESampler(method, steps=64).sample(DataOracle(path, source, points), x).final
    # 64 steps bring nearly every point to one of the data; what is between two of them stays near both.
    assert torch.cdist(final, points).min(1).values.max() < 1
