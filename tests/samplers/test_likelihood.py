import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from interpolants import (
    EncodingDecoding,
    Field,
    GaussianMixture,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    Trigonometric,
    VariancePreserving,
)
from interpolants._tensors import exact_divergence, hutchinson_divergence
from interpolants.gammas import Brownian, Quadratic
from interpolants.samplers.likelihood import (
    Exact,
    Hutchinson,
    log_likelihood,
    sample_with_log_prob,
    standard_normal_log_prob,
)

TIGHT = ODESampler("dopri8", rtol=1e-8, atol=1e-8)
# Two hundred seeds of it take seconds, and its steps are the same whatever the probes.
CHEAP = ODESampler("midpoint", steps=4)

PATHS = [
    Linear(),
    Linear(Brownian()),
    Linear(Quadratic()),
    Trigonometric(),
    Trigonometric(Brownian()),
    Trigonometric(Quadratic()),
]


def name(value):
    return str(value) if isinstance(value, int) else f"{type(value).__name__}, {value.gamma}"


def mixture(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, dim, dtype=torch.float64, generator=generator)
    factors = 0.4 * torch.randn(2, dim, dim, dtype=torch.float64, generator=generator) / math.sqrt(dim)
    covariances = factors @ factors.mT + 0.4 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, covariances)


def oracle_of(path, dim=2):
    return MixtureOracle(path, mixture(dim, 0), mixture(dim, 1))


def draws(density, n=4):
    return density.sample(n, generator=torch.Generator().manual_seed(2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Plain(Field):
    """A field from a function, that remembers when it was asked."""

    def __init__(self, function):
        self.function = function
        self.asked = []

    def velocity(self, t, x, **conditions):
        self.asked.append(float(t))
        return self.function(t, x, **conditions)

    def score(self, t, x):
        raise AssertionError("a flow needs only the velocity")

    denoiser = x0 = x1 = score


class Net(nn.Module):
    """A smooth network whose Jacobian is far from diagonal and from symmetric."""

    def __init__(self, dim):
        super().__init__()
        weight = torch.randn(dim, dim, dtype=torch.float64, generator=seeded(3)) / math.sqrt(dim)
        self.weight = nn.Parameter(weight)

    def forward(self, t, x):
        return torch.tanh(x @ self.weight + t[:, None]) @ self.weight.T.roll(1, 0)


def learned(dim):
    return LearnedField(Linear(), velocity=Net(dim))


# ------------------------------------------------------------------------------------------------ the truth


@pytest.mark.parametrize(
    ("path", "dim"), [*itertools.product(PATHS, [1, 2, 16]), (EncodingDecoding(), 2)], ids=name
)
def test_the_exact_field_gives_the_density_of_the_target(path, dim):
    oracle = oracle_of(path, dim)
    x1 = draws(oracle.target)
    likelihood = log_likelihood(oracle, x1, oracle.source.log_prob, sampler=TIGHT)
    # A hundred times the tolerance of a step, for the steps add up.
    torch.testing.assert_close(likelihood.value, oracle.target.log_prob(x1), rtol=0, atol=1e-6)
    assert likelihood.value.shape == likelihood.standard_error.shape == (4,)
    assert likelihood.x0.shape == likelihood.x1.shape == (4, dim)
    assert torch.equal(likelihood.x1, x1)
    assert (likelihood.standard_error == 0).all()


@pytest.mark.parametrize(
    ("path", "dim"),
    [(Trigonometric(Brownian()), 1), (Linear(), 2), (Linear(Brownian()), 16)],
    ids=name,
)
def test_samples_come_with_the_density_of_the_target(path, dim):
    oracle = oracle_of(path, dim)
    x0 = draws(oracle.source)
    sampled = sample_with_log_prob(oracle, x0, oracle.source.log_prob, sampler=TIGHT)
    assert torch.equal(sampled.x0, x0)
    # As above.
    torch.testing.assert_close(sampled.value, oracle.log_density(1.0, sampled.x1), rtol=0, atol=1e-6)
    found = log_likelihood(oracle, sampled.x1, oracle.source.log_prob, sampler=TIGHT)
    torch.testing.assert_close(found.value, sampled.value, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [(0.25, 1.0), (0.0, 0.75), (0.3, 0.6)])
def test_times_choose_the_two_densities(times):
    oracle = oracle_of(Trigonometric(Brownian()))
    first, last = times
    x = draws(oracle.target)
    sampler = dataclasses.replace(TIGHT, times=times)

    def source(x):
        return oracle.log_density(first, x)

    for likelihood in (
        log_likelihood(oracle, x, source, sampler=sampler),
        sample_with_log_prob(oracle, x, source, sampler=sampler),
    ):
        # As above.
        expected = oracle.log_density(last, likelihood.x1)
        torch.testing.assert_close(likelihood.value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "steps", "tolerance"),
    [
        # Of fixed steps, three times the errors measured.
        ("euler", 256, 3e-2),
        ("midpoint", 64, 2e-3),
        ("heun", 64, 1e-3),
        ("heun3", 64, 1e-5),
        ("rk4", 64, 6e-7),
        ("explicit_adams", 64, 5e-4),
        ("implicit_adams", 64, 1e-5),
        # Of adaptive ones, the multiples of the tolerance that their points are held to.
        ("dopri5", 1, 20e-5),
        ("dopri8", 1, 20e-5),
        ("bosh3", 1, 20e-5),
        ("fehlberg2", 1, 300e-5),
        ("adaptive_heun", 1, 20e-5),
    ],
)
def test_every_method_of_torchdiffeq_carries_the_density(method, steps, tolerance):
    oracle = oracle_of(Trigonometric())
    x1 = draws(oracle.target)
    value = log_likelihood(
        oracle, x1, oracle.source.log_prob, sampler=ODESampler(method, steps=steps, rtol=1e-5, atol=1e-5)
    ).value
    torch.testing.assert_close(value, oracle.target.log_prob(x1), rtol=0, atol=tolerance)


def test_the_solvers_of_scipy_are_refused():
    with pytest.raises(ValueError, match="scipy carry points and nothing beside them"):
        log_likelihood(
            learned(2), torch.ones(3, 2), standard_normal_log_prob, sampler=ODESampler("scipy_solver")
        )


@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_the_log_density_is_held_to_the_tolerance_where_the_points_do_not_move(carried):
    # At x = 0 the points stay, whatever the step, while the log density swings.
    field = Plain(lambda t, x: 40 * torch.cos(40 * t) * x)
    likelihood = carried(field, torch.zeros(1, 1, dtype=torch.float64), standard_normal_log_prob)
    # Twenty times the tolerance of 1e-5, for the steps add up.
    expected = -math.log(2 * math.pi) / 2 - math.sin(40)
    assert likelihood.value.item() == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(4)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_images_give_what_their_rows_give(divergence, carried):
    oracle = oracle_of(Trigonometric(), dim=12)
    x = draws(oracle.target)
    flat, image = (
        carried(
            oracle,
            points,
            lambda x: oracle.source.log_prob(x.flatten(1)),
            sampler=CHEAP,
            divergence=divergence,
            generator=seeded(),
        )
        for points in (x, x.reshape(4, 3, 2, 2))
    )
    assert image.x0.shape == image.x1.shape == (4, 3, 2, 2)
    # Sums of some tens of numbers of size 10, in another order.
    for part in ("value", "standard_error"):
        torch.testing.assert_close(getattr(image, part), getattr(flat, part), rtol=0, atol=1e-12)
    torch.testing.assert_close(image.x0.flatten(1), flat.x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(image.bits_per_dim, flat.bits_per_dim, rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------- the divergence


@pytest.mark.parametrize("chunk", [1, 3, 4.0, 5, 16, 100])
def test_chunks_do_not_change_the_answer(chunk):
    x1 = torch.randn(5, 16, dtype=torch.float64, generator=seeded())
    value, expected = (
        log_likelihood(
            learned(16), x1, standard_normal_log_prob, sampler=CHEAP, divergence=Exact(chunk)
        ).value
        for chunk in (chunk, None)
    )
    # Sums in another order.
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2), (2100, 16)])
def test_the_divergence_is_the_trace_of_the_jacobian(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=seeded())
    weight = torch.randn(x[0].numel(), x[0].numel(), dtype=torch.float64, generator=seeded(1))

    def function(x):
        return torch.sin(x.reshape(len(x), -1) @ weight).reshape(x.shape)

    # By hand: d/dx_i sin((x W)_i) = W_ii cos((x W)_i).
    expected = ((x.reshape(len(x), -1) @ weight).cos() * weight.diagonal()).sum(1)
    value, divergence = exact_divergence(function, x)
    assert torch.equal(value, function(x))
    # Rounding of sums of sixteen.
    torch.testing.assert_close(divergence, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "divergence",
    [exact_divergence, lambda *given, **how: hutchinson_divergence(*given, torch.ones(2, 3, 6), **how)],
)
def test_a_divergence_carries_a_graph_when_asked(divergence):
    x, scale = torch.ones(3, 6, requires_grad=True), torch.ones((), requires_grad=True)
    for create_graph in (False, True):
        for answer in divergence(lambda x: scale * x**2, x, create_graph=create_graph):
            assert answer.requires_grad == create_graph


@pytest.mark.parametrize(
    "function",
    [
        lambda t, x: torch.ones_like(x),
        lambda t, x: (2 * t).expand_as(x),
        lambda t, x: torch.ones_like(x) * nn.Parameter(torch.ones(6, dtype=torch.float64)),
    ],
    ids=["constant", "of time", "of parameters"],
)
@pytest.mark.parametrize("divergence", [Exact(), Exact(1), Hutchinson()])
def test_fields_that_ignore_the_points_have_no_divergence(function, divergence):
    x1 = torch.randn(5, 6, dtype=torch.float64, generator=seeded())
    likelihood = log_likelihood(
        Plain(function), x1, standard_normal_log_prob, sampler=CHEAP, divergence=divergence
    )
    # Every one of them moves the points by 1; to rounding.
    expected = standard_normal_log_prob(x1 - 1)
    torch.testing.assert_close(likelihood.value, expected, rtol=0, atol=1e-12)
    assert (likelihood.standard_error == 0).all()


def test_fields_that_are_constant_in_pieces_have_no_divergence():
    x1 = torch.randn(50, 2, dtype=torch.float64, generator=seeded())
    anchors = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    field = Plain(lambda t, x: anchors[torch.cdist(x, anchors).argmin(1)])
    likelihood = log_likelihood(field, x1, standard_normal_log_prob, sampler=ODESampler("euler", steps=1))
    # To rounding.
    expected = standard_normal_log_prob(x1 - field.function(0, x1))
    torch.testing.assert_close(likelihood.value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", [Exact(), Exact(1), Hutchinson()])
@pytest.mark.parametrize("function", [torch.no_grad()(lambda t, x: x.sin()), lambda t, x: x.detach() + t])
def test_fields_without_gradients_do_not_pass_for_fields_without_divergence(divergence, function):
    with pytest.raises(ValueError, match="depends on x but records no gradient"):
        log_likelihood(Plain(function), torch.randn(5, 6), standard_normal_log_prob, divergence=divergence)


class Wary(torch.autograd.Function):
    """The sine with a derivative that looks at values, which no batch of vectors allows."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, vector):
        (x,) = ctx.saved_tensors
        return vector * x.cos() if vector.any() else vector


def test_derivatives_that_cannot_be_batched_are_taken_one_by_one():
    x = torch.randn(3, 6, dtype=torch.float64, generator=seeded())
    _, divergence = exact_divergence(Wary.apply, x)
    # To rounding.
    torch.testing.assert_close(divergence, x.cos().sum(1), rtol=0, atol=1e-14)


def test_errors_of_the_derivative_are_not_hidden():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, vector):
            raise RuntimeError("this derivative is broken")

    with pytest.raises(RuntimeError, match="this derivative is broken"):
        exact_divergence(Broken.apply, torch.ones(3, 6))


def test_compiled_networks_give_what_plain_ones_give():
    network, x1 = Net(6), torch.randn(3, 6, dtype=torch.float64, generator=seeded())
    value, expected = (
        log_likelihood(
            LearnedField(Linear(), velocity=velocity), x1, standard_normal_log_prob, sampler=CHEAP
        ).value
        for velocity in (torch.compile(network, backend="aot_eager"), network)
    )
    # Sums in another order.
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------- by estimate


@pytest.fixture(scope="module")
def estimates():
    """The exact log density of 32 points of 16 elements, and two hundred estimates of it."""
    field, x1 = learned(16), torch.randn(32, 16, dtype=torch.float64, generator=seeded(1))
    exact = log_likelihood(field, x1, standard_normal_log_prob, sampler=CHEAP).value
    runs = [
        log_likelihood(
            field,
            x1,
            standard_normal_log_prob,
            sampler=CHEAP,
            divergence=Hutchinson(),
            generator=seeded(seed),
        )
        for seed in range(200)
    ]
    return exact, torch.stack([run.value for run in runs]), torch.stack([run.standard_error for run in runs])


# The seeds are fixed: no false alarms. The steps too, so that the points are the same and what differs is
# the estimate alone.


def test_the_mean_of_a_batch_lies_within_four_standard_errors(estimates):
    exact, values, errors = estimates
    # Of 32 times 16 probes, nearly normal: chance exceeds four once in 16 000.
    standard_error = errors.square().sum(1).sqrt() / 32
    deviations = (values - exact).mean(1) / standard_error
    assert (deviations.abs() < 4).all()


def test_standard_errors_are_honest(estimates):
    exact, values, errors = estimates
    # Of 16 probes each, so of Student's law with 15 degrees of freedom: mean square 15 / 13 = 1.154, and
    # beyond 4 once in 860. Of the 6400 here the mean square has a standard error of 0.02 to 0.03.
    ratios = (values - exact) / errors
    assert ratios.square().mean().item() == pytest.approx(15 / 13, abs=0.12)
    assert (ratios.abs() > 4).double().mean() < 4 / 860


def test_estimates_are_unbiased(estimates):
    exact, values, _ = estimates
    # Four standard errors of 200 x 32 values, from the values themselves.
    differences = values - exact
    assert differences.mean().abs() < 4 * differences.std() / math.sqrt(differences.numel())
    assert (differences.mean(0).abs() < 4.5 * differences.std(0) / math.sqrt(200)).all()


def test_examples_have_their_own_probes():
    field = learned(16)
    x1 = torch.ones(2, 16, dtype=torch.float64)
    exact = log_likelihood(field, x1, standard_normal_log_prob, sampler=CHEAP).value
    pairs = torch.stack(
        [
            log_likelihood(
                field,
                x1,
                standard_normal_log_prob,
                sampler=CHEAP,
                divergence=Hutchinson(2),
                generator=seeded(seed),
            ).value
            - exact
            for seed in range(100)
        ]
    )
    # Five standard errors, 1 / sqrt(100), of the correlation of what is independent: 6e-7.
    assert torch.corrcoef(pairs.T)[0, 1].abs() < 0.5


@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_one_seed_gives_one_answer(carried):
    x = torch.randn(3, 5, dtype=torch.float64, generator=seeded())

    def run(seed):
        return carried(
            learned(5), x, standard_normal_log_prob, divergence=Hutchinson(3), generator=seeded(seed)
        )

    first, second, other = run(1), run(1), run(2)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.standard_error, second.standard_error)
    assert not torch.equal(first.value, other.value)


def test_probes_are_of_signs_drawn_once():
    # v . A v is the trace for every v of signs when A is diagonal, whatever the time and the point.
    scales = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    x1 = torch.randn(4, 3, dtype=torch.float64, generator=seeded())
    field = Plain(lambda t, x: scales * x)
    likelihood = log_likelihood(field, x1, standard_normal_log_prob, sampler=TIGHT, divergence=Hutchinson(2))
    expected = standard_normal_log_prob(x1 * (-scales).exp()) - 1.5
    # A hundred times the tolerance; and rounding.
    torch.testing.assert_close(likelihood.value, expected, rtol=0, atol=1e-6)
    assert likelihood.standard_error.max() < 1e-12

    # v . A v = 2 a v_1 v_2 here, 2a or -2a for a probe drawn once, less for one drawn again and again.
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros(50, 2, dtype=torch.float64)
    likelihood = log_likelihood(
        Plain(lambda t, x: x @ swap), zero, standard_normal_log_prob, divergence=Hutchinson(2)
    )
    # One standard error of two probes: 0 when they agree, 2 when they do not. To rounding.
    change = (likelihood.value + math.log(2 * math.pi)).abs()
    torch.testing.assert_close(
        change + likelihood.standard_error, torch.full_like(change, 2.0), atol=1e-12, rtol=0
    )
    assert 0 < change.count_nonzero() < 50  # Each once in 2^50.


# ------------------------------------------------------------------------------------------------- gradients


def test_the_gradient_of_the_log_density_is_the_score():
    oracle = oracle_of(Trigonometric(Brownian()))
    x1 = draws(oracle.target).requires_grad_()
    sampler = ODESampler("dopri8", rtol=1e-8, atol=1e-8, differentiable=True)
    log_likelihood(oracle, x1, oracle.source.log_prob, sampler=sampler).value.sum().backward()
    # A hundred times the tolerance: the derivative of each step is as accurate as the step, to a factor.
    torch.testing.assert_close(x1.grad, oracle.score(1.0, x1.detach()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("divergence", [Exact(), Exact(1), Hutchinson(3)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_gradients_are_those_of_finite_differences(divergence, carried):
    network = Net(5)
    field = LearnedField(Linear(), velocity=network)
    x = torch.randn(3, 5, dtype=torch.float64, generator=seeded(), requires_grad=True)
    sampler = ODESampler("rk4", steps=3, differentiable=True)

    def loss():
        likelihood = carried(
            field,
            x,
            standard_normal_log_prob,
            sampler=sampler,
            divergence=divergence,
            generator=seeded(),
        )
        return (likelihood.value * torch.arange(1, 4)).sum()

    loss().backward()
    for tensor in (x, network.weight):
        h, index = 1e-5, (1, 2)
        with torch.no_grad():
            tensor[index] += h
            up = loss()
            tensor[index] -= 2 * h
            down = loss()
            tensor[index] += h
        # h^2 = 1e-10 times third derivatives, and rounding 1e-15 / h.
        expected = ((up - down) / (2 * h)).item()
        assert tensor.grad[index].item() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_parameters_are_learned_from_points_that_need_no_gradient():
    network = Net(5)
    sampler = dataclasses.replace(CHEAP, differentiable=True)
    value = log_likelihood(
        LearnedField(Linear(), velocity=network),
        torch.ones(3, 5, dtype=torch.float64),
        standard_normal_log_prob,
        sampler=sampler,
    ).value
    value.sum().backward()
    assert network.weight.grad.abs().max() > 0


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(3)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_no_graph_is_kept_unless_asked_for(divergence, carried):
    network, mean = Net(5), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    x = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)

    def run(sampler):
        return carried(
            LearnedField(Linear(), velocity=network),
            x,
            lambda x: standard_normal_log_prob(x - mean),
            sampler=sampler,
            divergence=divergence,
            generator=seeded(),
        )

    recording = dataclasses.replace(CHEAP, differentiable=True)
    plain = run(CHEAP)
    with torch.no_grad():
        others = [run(CHEAP), run(recording)]
    with torch.inference_mode():
        others.append(run(recording))
    for likelihood in (plain, *others):
        for part in (likelihood.value, likelihood.standard_error, likelihood.x0, likelihood.x1):
            assert not part.requires_grad
            assert part.grad_fn is None
        assert torch.equal(likelihood.value, plain.value)
    assert torch.is_grad_enabled()
    assert x.grad is None
    assert network.weight.grad is None
    assert run(recording).value.requires_grad


def test_points_made_in_inference_mode_are_taken():
    oracle = oracle_of(Linear())
    with torch.inference_mode():
        x1 = draws(oracle.target)
        value = log_likelihood(oracle, x1, oracle.source.log_prob).value
    # The tolerance of 1e-5, twenty times: the steps add up.
    torch.testing.assert_close(value, oracle.target.log_prob(x1), rtol=0, atol=2e-4)


# ------------------------------------------------------------------------------- what is asked and returned


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "dopri8"])
@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_evaluations_are_counted_and_lie_in_the_unit_interval(method, divergence, carried):
    field = Plain(lambda t, x: torch.where((t < 0) | (t > 1), math.nan, torch.cos(3 * t)) * x)
    likelihood = carried(
        field,
        torch.ones(3, 2, dtype=torch.float64),
        standard_normal_log_prob,
        sampler=ODESampler(method, steps=7),
        divergence=divergence,
    )
    assert likelihood.evaluations == len(field.asked)
    assert all(0 <= t <= 1 for t in field.asked)
    assert torch.isfinite(likelihood.value).all()
    if method == "euler":
        assert likelihood.evaluations == 7


def test_the_default_takes_the_steps_of_dopri5_and_no_more():
    oracle = oracle_of(Linear())
    x1 = draws(oracle.target)
    counts = {
        log_likelihood(oracle, x1, oracle.source.log_prob, **arguments).evaluations
        for arguments in ({}, {"sampler": ODESampler("dopri5", steps=1, rtol=1e-5, atol=1e-5)})
    }
    assert len(counts) == 1


def test_bits_per_dim_are_of_the_negative_log_likelihood():
    zero = torch.zeros(2, 3, 4, 4)
    likelihood = log_likelihood(Plain(lambda t, x: 0 * x), zero, standard_normal_log_prob)
    # log2 sqrt(2 pi) for each element, in single precision.
    assert likelihood.bits_per_dim.shape == (2,)
    assert likelihood.bits_per_dim[0].item() == pytest.approx(1.325748, abs=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_standard_normal_is_that_of_torch(shape, dtype):
    x = torch.randn(shape, generator=seeded()).to(dtype)
    value = standard_normal_log_prob(x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x.double()).reshape(4, -1).sum(1)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # A few roundings of single precision; x itself is what it is.
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_half_precision_is_integrated_in_single(dtype, divergence, carried):
    seen = set()

    def velocity(t, x):
        seen.add(x.dtype)
        return 0.5 * x

    x = torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=dtype)
    likelihood = carried(Plain(velocity), x, standard_normal_log_prob, divergence=divergence)
    assert seen == {dtype}  # The field sees what its network was made for.
    assert likelihood.x0.dtype == likelihood.x1.dtype == dtype
    assert likelihood.value.dtype == likelihood.standard_error.dtype == torch.float32
    x0 = x.double() * math.exp(-0.5) if carried is log_likelihood else x.double()
    # The velocity is rounded to dtype, and with it the points by about as much: |x0|^2 <= 4 counts.
    tolerance = 8 * torch.finfo(dtype).eps + 1e-4
    expected = standard_normal_log_prob(x0) - 1
    torch.testing.assert_close(likelihood.value.double(), expected, rtol=0, atol=tolerance)


def test_conditions_reach_the_field():
    seen = []
    field = Plain(lambda t, x, scale: seen.append(scale) or scale * x)
    likelihood = log_likelihood(field, torch.zeros(1, 2), standard_normal_log_prob, scale=2.0)
    assert set(seen) == {2.0}
    # In single precision.
    assert likelihood.value.item() == pytest.approx(-math.log(2 * math.pi) - 4, abs=1e-4)


def test_the_points_are_left_as_they_were():
    x = torch.ones(2, 2)
    log_likelihood(Plain(lambda t, x: x), x, standard_normal_log_prob)
    assert torch.equal(x, torch.ones(2, 2))
    assert not x.requires_grad


# ---------------------------------------------------------------------------------------------------- errors

GOOD = {"field": Plain(lambda t, x: x), "x": torch.ones(3, 2), "source_log_prob": standard_normal_log_prob}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"field": nn.Linear(2, 2)}, TypeError, "field must be a Field.*LearnedField.*got Linear"),
        ({"x": torch.ones(3, 2, dtype=torch.long)}, TypeError, "floating-point"),
        ({"x": [[1.0, 2.0]]}, TypeError, "floating-point"),
        ({"x": torch.ones(())}, ValueError, r"shape \(B, \*D\)"),
        ({"sampler": ODESampler}, TypeError, "sampler must be an ODESampler.*got the class ODESampler"),
        ({"sampler": "dopri5"}, TypeError, "sampler must be an ODESampler.*got str"),
        ({"divergence": Exact}, TypeError, "divergence must be a Divergence.*got the class Exact"),
        ({"divergence": "exact"}, TypeError, "divergence must be a Divergence.*got str"),
        ({"source_log_prob": mixture(2, 0)}, TypeError, "mixture.log_prob; got GaussianMixture"),
        ({"source_log_prob": lambda x: 0.0}, TypeError, "must return a floating-point tensor; got float"),
        (
            {"source_log_prob": lambda x: -x.square() / 2},
            ValueError,
            r"shape \(3,\), for points of shape \(3, 2\); got shape \(3, 2\)",
        ),
        ({"source_log_prob": lambda x: -x.square().sum() / 2}, ValueError, r"got shape \(\)"),
        ({"source_log_prob": lambda x: -x.square().sum(1, keepdim=True)}, ValueError, r"got shape \(3, 1\)"),
        ({"field": Plain(lambda t, x: x[:, :1])}, ValueError, r"shape of x, \(3, 2\); got \(3, 1\)"),
    ],
)
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
def test_bad_arguments_are_refused(carried, arguments, error, message):
    given = {**GOOD, **arguments}
    with pytest.raises(error, match=message):
        carried(given.pop("field"), given.pop("x"), given.pop("source_log_prob"), **given)


@pytest.mark.parametrize("probes", [1, 0, -3, 2.5])
def test_too_few_probes_are_refused(probes):
    with pytest.raises(ValueError, match="probes must be a whole number, at least 2"):
        Hutchinson(probes)


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_bad_chunks_are_refused(chunk):
    with pytest.raises(ValueError, match="chunk must be a whole number, at least 1"):
        Exact(chunk)


def test_a_field_that_is_nan_is_reported():
    with pytest.raises(RuntimeError, match=r"could not reach its tolerance .*nan"):
        log_likelihood(Plain(lambda t, x: math.nan * x), torch.ones(3, 2), standard_normal_log_prob)


def test_ways_to_a_divergence_are_values_like_others():
    assert Exact() == Exact(None) != Exact(3)
    assert hash(Hutchinson()) == hash(Hutchinson(16))
    assert repr(Hutchinson(4)) == "Hutchinson(probes=4)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hutchinson().probes = 3


def test_a_path_whose_weight_has_an_infinite_derivative_at_its_end_is_as_exact():
    # alpha' of this path is infinite at t = 1; the source is centred, so that the velocity is finite.
    source = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64),
        torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
    )
    target = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64),
        0.5 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
    )
    x1 = target.sample(16, generator=torch.Generator().manual_seed(0))
    sampler = ODESampler("dopri8", rtol=1e-9, atol=1e-9)
    likelihood = log_likelihood(
        MixtureOracle(VariancePreserving(), source, target), x1, source.log_prob, sampler=sampler
    )
    assert (likelihood.value - target.log_prob(x1)).abs().max() < 1e-6


@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "dopri5"])
@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)])
def test_points_of_inference_mode_have_a_likelihood(method, divergence):
    field = LearnedField(Linear(), velocity=lambda t, x: -x)
    sampler = ODESampler(method, steps=2)

    def value():
        x = torch.randn(3, 2, dtype=torch.float64, generator=seeded())
        found = log_likelihood(
            field, x, standard_normal_log_prob, sampler=sampler, divergence=divergence, generator=seeded()
        )
        return found.value

    with torch.inference_mode():
        inside = value()
    torch.testing.assert_close(inside.clone(), value())


def test_no_points_have_no_likelihood():
    field = LearnedField(Linear(), velocity=lambda t, x: -x)
    found = log_likelihood(field, torch.zeros(0, 2), standard_normal_log_prob, sampler=CHEAP)
    assert found.value.shape == (0,)
