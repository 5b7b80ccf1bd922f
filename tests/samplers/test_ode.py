import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from interpolants import (
    Affine,
    EncodingDecoding,
    Field,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, SineSquared
from interpolants.oracles import GaussianMixture

FIXED = [
    "euler",
    "midpoint",
    "heun",
    "heun2",
    "heun3",
    "rk4",
    "explicit_adams",
    "implicit_adams",
    "fixed_adams",
]
ADAPTIVE = ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"]
EVERY = [*FIXED, *ADAPTIVE, "scipy_solver"]


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


SOURCE = mixture([0.4, 0.6], [[-1.0, 0.5], [0.0, -1.0]], [[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.8]]])
TARGET = mixture(
    [0.5, 0.5], [[1.0, 1.0], [0.5, -1.0]], [[[0.5, -0.2], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.4]]]
)


def oracle_of(path):
    return MixtureOracle(path, SOURCE, TARGET)


def starts(n=4):
    return SOURCE.sample(n, generator=torch.Generator().manual_seed(0))


def reference(field, x, ends=(0.0, 1.0), tolerance=1e-11):
    """The end of each trajectory, by SciPy's own Runge-Kutta method of order 8."""

    def velocity(t, y):
        return field.velocity(min(max(t, 0.0), 1.0), torch.from_numpy(y.reshape(x.shape))).numpy().ravel()

    kinks = sorted((k for k in field.kinks if min(ends) < k < max(ends)), reverse=ends[0] > ends[1])
    y = x.numpy().ravel()
    for start, end in zip([ends[0], *kinks], [*kinks, ends[1]], strict=True):
        y = scipy.integrate.solve_ivp(
            velocity, (start, end), y, method="DOP853", rtol=tolerance, atol=tolerance
        ).y[:, -1]
    return torch.from_numpy(y.reshape(x.shape))


@pytest.fixture(scope="module")
def exact():
    return reference(oracle_of(Trigonometric()), starts(), tolerance=1e-13)


class Plain(Field):
    """A field from a function, that remembers how it was asked."""

    def __init__(self, function, kinks=()):
        self.function = function
        self.kinks = kinks
        self.asked = []

    def velocity(self, t, x, **conditions):
        self.asked.append(float(t))
        if len(self.asked) > 20_000:
            raise OverflowError("a solver that asks this often asks for ever")
        return self.function(t, x, **conditions)

    def score(self, t, x):
        raise AssertionError("an ODE needs only the velocity")

    denoiser = x0 = x1 = score


# ------------------------------------------------------------------------------------------------ accuracy


@pytest.mark.parametrize(
    ("method", "order", "steps"),
    [
        ("euler", 1, 128),
        ("midpoint", 2, 64),
        ("heun", 2, 64),
        ("heun2", 2, 64),
        ("heun3", 3, 64),
        ("rk4", 4, 32),
    ],
)
def test_fixed_step_methods_converge_at_their_order(method, order, steps, exact):
    field, x = oracle_of(Trigonometric()), starts()
    errors = [
        (ODESampler(method, steps=n).sample(field, x).final - exact).norm().item() for n in (steps, 2 * steps)
    ]
    # Measured slopes lie within 0.03 of theory here; the errors, above 1e-10, are far from rounding.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


# A local error below the tolerance adds up over the steps: a multiple of 20 allows for that. The embedded
# pair of fehlberg2 controls the error of its first-order formula over steps thirty times more numerous.
MULTIPLE = {"fehlberg2": 300}


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("reverse", [False, True])
def test_adaptive_methods_reach_their_tolerance(method, reverse, exact):
    field, tolerance = oracle_of(Trigonometric()), 1e-5
    start, end = (exact, starts()) if reverse else (starts(), exact)
    sampler = ODESampler(method, steps=1, rtol=tolerance, atol=tolerance)
    error = (sampler.sample(field, start, reverse=reverse).final - end).abs().max()
    assert error < MULTIPLE.get(method, 20) * tolerance


@pytest.mark.parametrize("solver", ["RK45", "DOP853", "LSODA"])
@pytest.mark.parametrize("reverse", [False, True])
def test_solvers_of_scipy_reach_their_tolerance(solver, reverse, exact):
    start, end = (exact, starts()) if reverse else (starts(), exact)
    sampler = ODESampler("scipy_solver", steps=2, rtol=1e-6, atol=1e-6, options={"solver": solver})
    trajectory = sampler.sample(oracle_of(Trigonometric()), start, reverse=reverse)
    assert trajectory.x.shape == (3, 4, 2)
    # As above.
    assert (trajectory.final - end).abs().max() < 20e-6


def test_each_tolerance_counts_at_its_own_scale():
    def evaluations(size, rtol, atol):
        x = torch.full((1, 1), size, dtype=torch.float64)
        return (
            ODESampler("dopri5", rtol=rtol, atol=atol)
            .sample(Plain(lambda t, x: torch.sin(9 * t) * x), x)
            .evaluations
        )

    assert evaluations(1e6, 1e-9, 1e-3) > evaluations(1e6, 1e-3, 1e-3)
    assert evaluations(1e-3, 1e-3, 1e-12) > evaluations(1e-3, 1e-3, 1e-3)


@pytest.mark.parametrize(
    "path",
    [
        Linear(),
        Linear(Brownian()),
        Trigonometric(),
        Trigonometric(SineSquared()),
        EncodingDecoding(),
        VariancePreserving(),
        Affine(lambda t: (1 - t) ** 2, lambda t: t**2),
    ],
    ids=lambda path: f"{type(path).__name__}, {path.gamma}",
)
@pytest.mark.parametrize("reverse", [False, True])
def test_between_two_gaussians_the_map_is_the_monotone_one(path, reverse):
    # On the line every path gives the increasing map between the two, which is affine.
    s0, n, s1 = 1.5, 3.0, 0.5
    source, target = mixture([1.0], [[0.0]], [[[s0**2]]]), mixture([1.0], [[n]], [[[s1**2]]])
    x0 = torch.tensor([[-2.0], [0.0], [0.7]], dtype=torch.float64)
    x1 = n + s1 / s0 * x0
    sampler = ODESampler("dopri5", steps=1, rtol=1e-10, atol=1e-10)
    start, end = (x1, x0) if reverse else (x0, x1)
    final = sampler.sample(MixtureOracle(path, source, target), start, reverse=reverse).final
    # A hundred times the tolerance: the variance-preserving path takes some hundred steps.
    torch.testing.assert_close(final, end, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [
        (ODESampler("rk4", steps=100), 1e-8),  # Its error at this step is a few 1e-9, twice.
        (ODESampler("dopri5", rtol=1e-10, atol=1e-10), 1e-8),  # A hundred times the tolerance.
    ],
)
def test_there_and_back_is_where_it_began(sampler, tolerance):
    field, x = oracle_of(Trigonometric(Brownian())), starts()
    back = sampler.sample(field, sampler.sample(field, x).final, reverse=True).final
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)


def test_known_kinks_are_stepped_to():
    field, x = oracle_of(EncodingDecoding()), starts()
    expected = reference(field, x)
    sampler = ODESampler("dopri5", steps=1, rtol=1e-8, atol=1e-8)
    known, unknown = Plain(field.velocity, field.kinks), Plain(field.velocity)
    trajectory, ignorant = sampler.sample(known, x), sampler.sample(unknown, x)
    # A stage lies within one rounding of the kink, on its near side.
    assert min(abs(t - 0.5) for t in known.asked) < 1e-12 < min(abs(t - 0.5) for t in unknown.asked)
    assert trajectory.evaluations < ignorant.evaluations
    # Twenty times the tolerance, as for every adaptive method.
    assert (trajectory.final - expected).abs().max() < 20e-8
    back = sampler.sample(known, expected, reverse=True)
    assert (back.final - x).abs().max() < 20e-8 * 10  # This flow spreads by up to ten times backwards.


@pytest.mark.parametrize("times", [(0.0, 0.5), (0.5, 1.0), (0.2, 0.3), (0.0, 0.5, 1.0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_kinks_at_the_ends_of_the_times_or_beyond_do_no_harm(times, reverse):
    field, x = oracle_of(EncodingDecoding()), starts()
    trajectory = ODESampler("dopri5", times=times, rtol=1e-8, atol=1e-8).sample(field, x, reverse=reverse)
    ends = (times[-1], times[0]) if reverse else (times[0], times[-1])
    # Twenty times the tolerance, and ten for the spreading.
    assert (trajectory.final - reference(field, x, ends)).abs().max() < 20e-8 * 10


# -------------------------------------------------------------------------------- when the field is asked


def nan_outside(t, x):
    return torch.where((t < 0) | (t > 1), math.nan, torch.cos(3 * t)) * x


FUNCTIONS = {
    "ordinary": nan_outside,
    # The guess of a first step is 0.01 |x| / |b| = 1000.
    "nearly zero": lambda t, x: 1e-5 * nan_outside(t, x),
    "zero": lambda t, x: 0 * nan_outside(t, x),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("steps", [1, 7])
def test_the_field_is_asked_only_in_the_unit_interval(kind, reverse, method, steps):
    field = Plain(FUNCTIONS[kind])
    trajectory = ODESampler(method, steps=steps).sample(field, torch.ones(3, 2), reverse=reverse)
    assert torch.isfinite(trajectory.x).all()
    assert all(0 <= t <= 1 for t in field.asked)
    assert trajectory.evaluations == len(field.asked)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_do_not_step_past_the_last_time(method):
    field = Plain(lambda t, x: x)
    ODESampler(method, times=(0.2, 0.6)).sample(field, torch.ones(3, 2, dtype=torch.float64))
    # All but the guess of the first step, which reaches 0.01 |x| / |b| = 0.01 past the first time.
    assert max(field.asked) <= 0.6
    assert min(field.asked) == 0.2


@pytest.mark.parametrize(
    ("method", "stages"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("heun3", 3), ("rk4", 4)]
)
@pytest.mark.parametrize("end_only", [False, True])
def test_evaluations_are_the_stages_times_the_steps(method, stages, end_only):
    field = Plain(lambda t, x: x)
    trajectory = ODESampler(method, end_only=end_only).sample(field, torch.ones(3, 2))
    assert trajectory.evaluations == len(field.asked) == 128 * stages


@pytest.mark.parametrize(
    ("method", "asked"),
    [("heun", [0, 1]), ("heun2", [0, 1]), ("midpoint", [0, 0.5]), ("rk4", [0, 1 / 3, 2 / 3, 1])],
)
def test_the_stages_of_a_step_are_those_of_the_method(method, asked):
    field = Plain(lambda t, x: x)
    ODESampler(method, steps=1).sample(field, torch.ones(1, 1, dtype=torch.float64))
    # rk4 is torchdiffeq's, the 3/8 rule; at the end of a step the time may be rounded inwards.
    assert field.asked == pytest.approx(asked, abs=1e-12)


def test_the_default_is_128_euler_steps():
    assert ODESampler() == ODESampler(method="euler", steps=128, rtol=1e-5, atol=1e-5, times=None)


class Recording(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, t, x, **conditions):
        self.calls.append((t, x, conditions))
        return 0.1 * x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
@pytest.mark.parametrize("shape", [(5, 2), (3, 1, 4, 2)])
def test_networks_receive_a_time_per_example_and_everything_in_the_dtype_of_x(dtype, method, shape):
    network = Recording()
    sampler = ODESampler(method, steps=3, rtol=1e-2, atol=1e-2)
    x = torch.ones(shape, dtype=dtype)
    trajectory = sampler.sample(LearnedField(Linear(), velocity=network), x, label=7)
    assert trajectory.x.shape == (4, *shape)
    assert trajectory.final.shape == shape
    assert trajectory.x.dtype == dtype
    # The step is one of a method of order 1 at least: 0.1^2 / 6, and the rounding of three steps.
    expected = math.exp(0.1) * torch.ones(shape, dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(trajectory.final.double(), expected, rtol=2e-3 + 3 * eps, atol=0)
    for t, x, conditions in network.calls:
        assert t.shape == shape[:1]
        assert t.dtype == x.dtype == dtype
        assert x.shape == shape
        assert conditions == {"label": 7}
    assert len(network.calls) == trajectory.evaluations


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_small_steps_in_half_precision_do_not_stall(dtype):
    # One step, 1/128, is below half the spacing of bfloat16 at 3 and of float16 at 20.
    x = torch.tensor([[3.0], [20.0]], dtype=dtype)
    final = ODESampler().sample(Plain(lambda t, x: torch.ones_like(x)), x).final
    # One rounding of the answer.
    torch.testing.assert_close(final.double(), x.double() + 1, rtol=torch.finfo(dtype).eps, atol=0)


# ------------------------------------------------------------------------------------------------- the times


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
@pytest.mark.parametrize("reverse", [False, True])
def test_whole_trajectories_and_their_ends_agree_bitwise(method, reverse):
    field, x = oracle_of(Trigonometric()), starts()
    # The implicit Adams methods say so when their iteration has not come within the tolerance.
    rest = {"steps": 5, "rtol": 1e-2, "atol": 1e-2}
    whole = ODESampler(method, **rest).sample(field, x, reverse=reverse)
    ends = ODESampler(method, **rest, end_only=True).sample(field, x, reverse=reverse)
    assert whole.x.shape == (6, 4, 2)
    assert ends.x.shape == (2, 4, 2)
    assert whole.evaluations == ends.evaluations
    assert torch.equal(whole.final, ends.final)
    assert torch.equal(whole.x[0], x)
    assert torch.equal(ends.x[0], x)
    expected = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0] if reverse else [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert whole.t.tolist() == expected
    assert ends.t.tolist() == [expected[0], expected[-1]]


@pytest.mark.parametrize("reverse", [False, True])
def test_uneven_times_are_the_steps_of_euler(reverse):
    times = [0.1, 0.15, 0.5, 0.95]
    field, x = oracle_of(Trigonometric()), starts()
    trajectory = ODESampler(times=times).sample(field, x, reverse=reverse)
    order = times[::-1] if reverse else times
    assert trajectory.t.tolist() == order
    for k, (now, then) in enumerate(itertools.pairwise(order)):
        assert torch.equal(trajectory.x[k], x)
        x = x + (then - now) * field.velocity(now, x)
        # Sums taken in another order.
        torch.testing.assert_close(trajectory.x[k + 1], x, rtol=1e-14, atol=1e-14)
        x = trajectory.x[k + 1]
    assert trajectory.evaluations == 3


@pytest.mark.parametrize("method", ["dopri5", "scipy_solver"])
@pytest.mark.parametrize("reverse", [False, True])
def test_adaptive_methods_answer_at_the_times_asked_for(method, reverse):
    times = (0.1, 0.3, 0.9)
    x = torch.ones(2, 1, dtype=torch.float64)
    sampler = ODESampler(method, times=times, rtol=1e-9, atol=1e-9)
    trajectory = sampler.sample(Plain(lambda t, x: x), x, reverse=reverse)
    expected = (trajectory.t - trajectory.t[0]).exp()
    # Twenty times the tolerance and some for interpolation between steps.
    torch.testing.assert_close(trajectory.x[:, 0, 0], expected, rtol=1e-7, atol=0)
    assert trajectory.t.tolist() == list(times[::-1] if reverse else times)


def test_times_keep_double_precision_for_single_precision_states():
    trajectory = ODESampler(steps=10).sample(Plain(lambda t, x: x), torch.ones(1, 1))
    assert trajectory.t.tolist() == [k / 10 for k in range(11)]
    assert trajectory.x.dtype == torch.float32


# ------------------------------------------------------------------------------------------------- gradients


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.5], [0.8, 0.1]], dtype=torch.float64))

    def forward(self, t, x):
        return torch.tanh(x @ self.weight) * (1 + t[:, None])


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_no_gradients_are_recorded_unless_asked_for(method):
    network, x = Net(), torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    field = LearnedField(Linear(), velocity=network)
    assert not ODESampler(method, steps=4).sample(field, x).x.requires_grad
    sampler = ODESampler(method, steps=4, differentiable=True)
    assert sampler.sample(field, x).x.requires_grad
    with torch.no_grad():
        assert not sampler.sample(field, x).x.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
@pytest.mark.parametrize("end_only", [False, True])
def test_gradients_are_those_of_finite_differences(method, end_only):
    network = Net()
    field = LearnedField(Linear(), velocity=network)
    x = torch.tensor([[0.5, -0.3]], dtype=torch.float64, requires_grad=True)
    sampler = ODESampler(method, steps=4, differentiable=True, end_only=end_only, rtol=1e-9, atol=1e-9)

    def loss():
        return sampler.sample(field, x).final.square().sum()

    loss().backward()
    for tensor in (x, network.weight):
        assert tensor.grad is not None
        h, index = 1e-5, (0, 1)
        with torch.no_grad():
            tensor[index] += h
            up = loss()
            tensor[index] -= 2 * h
            down = loss()
            tensor[index] += h
        # h^2 = 1e-10 and rounding 1e-16 / h; dopri5 may take other steps, 1e-9 apart, divided by h.
        expected = (up - down) / (2 * h)
        assert tensor.grad[index].item() == pytest.approx(
            expected.item(), rel=3e-4 if method == "dopri5" else 1e-7
        )


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "unknown ODE method 'magic'; known: .*dopri5"),
        ({"method": "Euler"}, "unknown ODE method"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 2.5}, "whole number"),
        ({"rtol": 0.0}, "rtol must be positive"),
        ({"rtol": math.inf}, "rtol must be positive"),
        ({"atol": -1e-5}, "atol must be positive"),
        ({"atol": math.nan}, "atol must be positive"),
        ({"times": [0.5]}, "increasing grid"),
        ({"times": []}, "increasing grid"),
        ({"times": [0.5, 0.5]}, "increasing grid"),
        ({"times": [1.0, 0.0]}, "increasing grid"),
        ({"times": [-0.1, 1.0]}, "increasing grid"),
        ({"times": [0.0, 1.1]}, "increasing grid"),
        ({"times": [0.0, math.nan]}, "increasing grid"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ODESampler(**arguments)


@pytest.mark.parametrize("x", [torch.zeros(3, 2, dtype=torch.long), [[0.0]], None])
def test_only_floating_points_can_be_carried(x):
    with pytest.raises(TypeError, match="floating-point"):
        ODESampler().sample(Plain(lambda t, x: x), x)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_field_that_is_nan_is_reported_by_adaptive_methods(method):
    with pytest.raises(RuntimeError, match=rf"{method} could not reach its tolerance .*nan.*fixed steps"):
        ODESampler(method).sample(Plain(lambda t, x: math.nan * x), torch.ones(2, 1))


@pytest.mark.parametrize(
    "function", [lambda t, x: math.nan * x, lambda t, x: 10 * x**2], ids=["nan", "blow-up"]
)
@pytest.mark.parametrize(("solver", "steps"), [("RK45", 1), ("RK45", 4), ("LSODA", 1)])
@pytest.mark.filterwarnings("ignore:The following arguments have no effect:UserWarning")
def test_a_field_that_is_not_finite_is_reported_by_scipys_solvers(function, solver, steps):
    # 10 x^2 from 1 is infinite at t = 0.1.
    sampler = ODESampler("scipy_solver", steps=steps, options={"solver": solver})
    with pytest.raises(RuntimeError, match="could not reach its tolerance"):
        sampler.sample(Plain(function), torch.ones(2, 1, dtype=torch.float64))


# ------------------------------------------------------------------------------------- a value like others


def test_samplers_are_frozen_and_compare_hash_print_and_pickle():
    sampler = ODESampler("dopri5", times=[0, 0.5, 1], options={"safety": 0.8})
    assert sampler.times == (0.0, 0.5, 1.0)
    assert sampler == ODESampler("dopri5", times=torch.tensor([0.0, 0.5, 1.0]), options={"safety": 0.8})
    assert sampler != dataclasses.replace(sampler, rtol=1e-3)
    assert hash(sampler) == hash(dataclasses.replace(sampler))
    assert "dopri5" in repr(sampler)
    assert pickle.loads(pickle.dumps(sampler)) == sampler
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.steps = 3


def test_options_reach_the_solver_and_are_left_as_they_were():
    options = {"first_step": 0.01}
    field = Plain(lambda t, x: x)
    ODESampler("dopri5", options=options).sample(field, torch.ones(1, 1, dtype=torch.float64))
    assert options == {"first_step": 0.01}
    # The second stage of dopri5 lies a fifth into the step.
    assert field.asked[1] == pytest.approx(0.002, rel=1e-12)


def test_conditions_generators_and_seeds_are_accepted():
    seen = []
    field = Plain(lambda t, x, scale: seen.append(scale) or scale * x)
    for randomness in ({"generator": torch.Generator()}, {"seeds": torch.arange(1)}):
        trajectory = ODESampler(steps=2).sample(field, torch.ones(1, 1), scale=2.0, **randomness)
        assert trajectory.final.item() == 4.0
    assert seen == [2.0] * 4
    # What a sampler with noise refuses is refused here too, so that the two can be exchanged.
    with pytest.raises(ValueError, match="one seed for each of the 1 examples; got 2"):
        ODESampler().sample(field, torch.ones(1, 1), seeds=[1, 2], scale=2.0)


def test_the_start_is_left_as_it_was():
    x = torch.ones(2, 2)
    ODESampler("rk4").sample(Plain(lambda t, x: x), x)
    assert np.array_equal(x.numpy(), np.ones((2, 2)))


def test_multistep_methods_converge_by_default(generator):
    normal = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 1).double(), torch.eye(1).double()[None])
    two = GaussianMixture(
        torch.ones(2).double(), torch.tensor([[-2.0], [2.0]]).double(), 0.04 * torch.ones(2, 1, 1).double()
    )
    oracle = MixtureOracle(Trigonometric(), normal, two)
    x = torch.randn(20, 1, dtype=torch.float64, generator=generator)
    exact = ODESampler("dopri8", steps=1, rtol=1e-12, atol=1e-12).sample(oracle, x).final
    errors = [
        (ODESampler("explicit_adams", steps=steps).sample(oracle, x).final - exact).abs().max()
        for steps in (64, 256)
    ]
    # Measured 3.1e-4 and 6.2e-6; at the order torchdiffeq would go to, 2.6e3 and 1.1.
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 20


def test_solvers_of_scipy_refuse_to_record_gradients():
    sampler = ODESampler("scipy_solver", differentiable=True)
    with pytest.raises(ValueError, match="record no gradients"):
        sampler.sample(LearnedField(Linear(), velocity=lambda t, x: x), torch.ones(2, 1))


def test_an_answer_that_would_only_fit_by_broadcasting_is_refused():
    with pytest.raises(ValueError, match=r"in the shape of x, \(3, 2\); got \(3, 1\)"):
        ODESampler(steps=2).sample(Plain(lambda t, x: x[:, :1]), torch.ones(3, 2))
