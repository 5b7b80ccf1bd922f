import itertools
import math

import pytest
import torch
import torchdiffeq

from interpolants import (
    EncodingDecoding,
    Field,
    GaussianMixture,
    MixtureOracle,
    ODESampler,
    Trigonometric,
    log_likelihood,
)
from interpolants.samplers.adaptive import PAIRS, integrate_adaptively

EVERY = list(PAIRS)
# Those of low order take hundreds of steps at the tolerance of dopri5.
TOLERANCE = {"dopri5": 1e-5, "bosh3": 1e-4, "adaptive_heun": 1e-3, "fehlberg2": 1e-4}
GRIDS = [(0.0, 1.0), (0.1, 0.15, 0.5, 0.95), tuple(k / 40 for k in range(41))]


class Counted:
    """A nonlinear equation whose higher derivatives jump at t = 0.4, that counts how often it is asked."""

    def __init__(self, jump=0.0):
        self.jump = jump
        self.asked = []

    def __call__(self, t, x):
        self.asked.append(float(t))
        swing = torch.sin(3 * x.flip(1) * torch.cos(4 * t))
        return swing + (t - 0.4).abs() + self.jump * (t > 0.4)


class Augmented(Counted):
    """The same beside an integral along the path."""

    def __call__(self, t, state):
        slope = super().__call__(t, state[0])
        return slope, 10 * slope.sum(1).unsqueeze(0)


def points(dtype=torch.float64):
    return torch.randn(6, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))


def by_torchdiffeq(method, derivative, start, times, *, rtol=1e-5, atol=1e-5, kinks=()):
    grid = torch.tensor(times, dtype=torch.float64)
    options = {"dtype": torch.float64, "step_t": grid[-1:]}
    if kinks:
        options["jump_t"] = torch.tensor(kinks, dtype=torch.float64)
    return torchdiffeq.odeint(derivative, start, grid, method=method, rtol=rtol, atol=atol, options=options)


def ours(method, derivative, start, times, *, rtol=1e-5, atol=1e-5, kinks=()):
    return integrate_adaptively(PAIRS[method], derivative, start, times, rtol=rtol, atol=atol, kinks=kinks)


# ------------------------------------------------------------------------------------ beside torchdiffeq


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("times", GRIDS, ids=["ends", "uneven", "many"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kinks", [(), (0.4, 0.7)], ids=["smooth", "kinks"])
@torch.no_grad()
def test_steps_and_answers_are_those_of_torchdiffeq(method, times, reverse, kinks):
    times = times[::-1] if reverse else times
    theirs, mine = Counted(jump=0.5), Counted(jump=0.5)
    tolerance = {"rtol": TOLERANCE[method], "atol": TOLERANCE[method]}
    expected = by_torchdiffeq(method, theirs, points(), times, kinks=kinks, **tolerance)
    found = ours(method, mine, points(), times, kinks=kinks, **tolerance)
    assert len(mine.asked) == len(theirs.asked)
    # Some hundred roundings of sums taken in another order, which the flow may spread a hundredfold.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    # A step follows from its error, a difference of slopes whose rounding is 1e-10 of the tolerance.
    assert mine.asked == pytest.approx(theirs.asked, abs=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
@torch.no_grad()
def test_kinks_at_the_ends_or_beyond_are_no_stops(reverse):
    times = (0.6, 0.1) if reverse else (0.1, 0.6)
    plain, kinked = Counted(), Counted()
    expected = ours("dopri5", plain, points(), times, kinks=(0.4,))
    found = ours("dopri5", kinked, points(), times, kinks=(0.7, 0.4, 0.1, 0.05, 0.6))
    assert kinked.asked == plain.asked
    assert torch.equal(found, expected)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("reverse", [False, True])
@torch.no_grad()
def test_tuples_are_carried_as_by_torchdiffeq(method, reverse):
    times = GRIDS[1][::-1] if reverse else GRIDS[1]
    start = (points(), torch.zeros(1, 6, dtype=torch.float64))
    theirs, mine = Augmented(), Augmented()
    tolerance = {"rtol": TOLERANCE[method], "atol": TOLERANCE[method]}
    expected = by_torchdiffeq(method, theirs, start, times, kinks=(0.4,), **tolerance)
    found = ours(method, mine, start, times, kinks=(0.4,), **tolerance)
    assert len(mine.asked) == len(theirs.asked)
    assert [part.shape for part in found] == [(4, 6, 2), (4, 1, 6)]
    for part, wanted in zip(found, expected, strict=True):
        # As above; the integral is ten times as large.
        torch.testing.assert_close(part, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-9), (1e-9, 1e-3), (1e-8, 1e-8)])
@torch.no_grad()
def test_each_tolerance_counts_as_in_torchdiffeq(rtol, atol):
    theirs, mine = Counted(), Counted()
    start = 3 * points()
    expected = by_torchdiffeq("dopri5", theirs, start, (0.0, 1.0), rtol=rtol, atol=atol)
    found = ours("dopri5", mine, start, (0.0, 1.0), rtol=rtol, atol=atol)
    assert len(mine.asked) == len(theirs.asked)
    # As above.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "start"),
    [
        (lambda t, x: 0 * x, 1.0),
        (lambda t, x: 1e-9 + 0 * x, 0.0),
        (lambda t, x: 1e-16 + 0 * x, 1.0),
        (lambda t, x: 1e6 * torch.cos(t) + 0 * x, 1.0),
        (lambda t, x: -50 * x, 1.0),
        (lambda t, x: torch.where(t > 0.3, 30.0, 0.0) * x, 1.0),
    ],
    ids=["still", "from nothing", "nearly still", "fast", "stiff", "sudden"],
)
@torch.no_grad()
def test_steps_are_found_as_by_torchdiffeq_on_odd_fields(function, start):
    asked = {"theirs": [], "mine": []}

    def recorded(name):
        return lambda t, x: asked[name].append(float(t)) or function(t, x)

    x = torch.full((3, 1), start, dtype=torch.float64)
    expected = by_torchdiffeq("dopri5", recorded("theirs"), x, (0.0, 1.0))
    found = ours("dopri5", recorded("mine"), x, (0.0, 1.0))
    # As above; slopes of a million have greater rounding.
    assert asked["mine"] == pytest.approx(asked["theirs"], abs=1e-7)
    # To rounding.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def oracle_of(path):
    source = GaussianMixture(
        *(torch.ones(1, 2).double()[0, :1], torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    )
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    return MixtureOracle(
        path, source, GaussianMixture(weights, means, 0.2 * torch.eye(2).double().repeat(2, 1, 1))
    )


@pytest.mark.parametrize("path", [Trigonometric(), EncodingDecoding()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_samples_are_those_of_torchdiffeq(path, reverse, method):
    field, x = oracle_of(path), points()
    # Any option leaves the method to torchdiffeq; this one is its own choice.
    mine, theirs = (
        ODESampler(method, steps=5, options=options).sample(field, x, reverse=reverse)
        for options in ({}, {"safety": 0.9})
    )
    assert mine.evaluations == theirs.evaluations
    # As above.
    torch.testing.assert_close(mine.x, theirs.x, rtol=0, atol=1e-11)


def test_likelihoods_are_those_of_torchdiffeq():
    oracle, x1 = oracle_of(EncodingDecoding()), points()
    mine, theirs = (
        log_likelihood(oracle, x1, oracle.source.log_prob, sampler=ODESampler("dopri5", options=options))
        for options in ({}, {"safety": 0.9})
    )
    assert mine.evaluations == theirs.evaluations
    # As above.
    torch.testing.assert_close(mine.value, theirs.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("options", "calls"), [({}, 0), ({"safety": 0.8}, 1)])
def test_torchdiffeq_is_called_where_options_are_given(monkeypatch, options, calls):
    called = []
    integrate = torchdiffeq.odeint
    monkeypatch.setattr(torchdiffeq, "odeint", lambda *a, **k: called.append(1) or integrate(*a, **k))
    ODESampler("dopri5", options=options).sample(oracle_of(Trigonometric()), points())
    assert len(called) == calls


# ------------------------------------------------------------------------------------ the formulas


@pytest.mark.parametrize(
    ("method", "order"), [("dopri5", 5), ("bosh3", 3), ("adaptive_heun", 2), ("fehlberg2", 2)]
)
def test_the_weights_of_a_pair_integrate_polynomials(method, order):
    pair = PAIRS[method]
    nodes = (0.0, *pair.nodes)
    assert len(pair.answer) == len(pair.error) == len(pair.middle) == len(nodes)
    for node, weights in zip(pair.nodes, pair.stages, strict=True):
        # A stage is an answer of its own, of order 1 at least. To rounding of weights up to 12.
        assert sum(weights) == pytest.approx(node, abs=1e-13)
    for power in range(order):
        moments = [
            sum(weight * node**power for weight, node in zip(row, nodes, strict=True))
            for row in (pair.answer, pair.error)
        ]
        assert moments[0] == pytest.approx(1 / (power + 1), abs=1e-14)
        # The other formula of the pair has one order less.
        if power < order - 1:
            assert moments[1] == pytest.approx(0, abs=1e-14)
    assert sum(pair.middle) == pytest.approx(1 / 2, abs=1e-14)


@pytest.mark.parametrize("times", [(0.0, 0.25, 0.5, 0.7, 1.0), (1.0, 0.6, 0.3, 0.0)])
@torch.no_grad()
def test_interpolation_is_exact_for_polynomials_of_degree_four(times):
    def derivative(t, x):
        return (5 * (t - 0.3) ** 3 + t).expand_as(x)

    def exact(t):
        return 1.25 * (t - 0.3) ** 4 + t**2 / 2

    start = torch.full((2,), exact(times[0]), dtype=torch.float64)
    found = ours("dopri5", derivative, start, times)
    # To rounding, and that of the times before and after a step's ends.
    expected = torch.tensor([exact(t) for t in times], dtype=torch.float64)
    torch.testing.assert_close(found[:, 1], expected, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------ the times


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@torch.no_grad()
def test_a_jump_is_seen_from_its_own_side(dtype, reverse):
    asked = []
    times = (1.0, 0.0) if reverse else (0.0, 1.0)

    def derivative(t, x):
        asked.append(t)
        return torch.where(t < 0.5, 1.0, -3.0).expand_as(x)

    start = torch.zeros(2, dtype=dtype)
    found = ours("dopri5", derivative, start, times, kinks=(0.5, 0.5))
    # 0.5 up and 1.5 down, to rounding; a stage on the wrong side of the jump would move it by a step.
    assert found[-1].tolist() == pytest.approx([1.0, 1.0] if reverse else [-1.0, -1.0], abs=1e-6)
    if not reverse:
        assert not any(t == 0.5 for t in asked)
    nearest = sorted(abs(float(t) - 0.5) for t in asked)[:3]
    # Two stages at the end of a step, and the first of the next, each one rounding away.
    assert nearest == pytest.approx([0.0] * 3, abs=2 * torch.finfo(dtype).eps)
    assert {t.dtype for t in asked} == {dtype}
    assert {t.shape for t in asked} == {torch.Size(())}


@torch.no_grad()
def test_many_times_change_neither_the_steps_nor_the_end():
    few, many = Counted(), Counted()
    ends = ours("dopri5", few, points(), (0.0, 1.0))
    path = ours("dopri5", many, points(), GRIDS[2])
    assert few.asked == many.asked
    assert torch.equal(ends[-1], path[-1])
    assert torch.equal(path[0], points())
    tight = ours("dopri5", Counted(), points(), GRIDS[2], rtol=1e-10, atol=1e-10)
    # Twenty times the tolerance, as for every adaptive method, and as much for interpolation.
    torch.testing.assert_close(path, tight, rtol=0, atol=40e-5)


# ------------------------------------------------------------------------------------ the state


@torch.no_grad()
def test_each_tensor_of_a_tuple_is_held_to_the_tolerance():
    def derivative(t, state):
        return torch.zeros_like(state[0]), 30 * torch.cos(30 * t) * torch.ones_like(state[1])

    for start in (
        (torch.zeros(10_000, 2), torch.zeros(1)),
        (torch.zeros(1), torch.zeros(1, 3)),
    ):
        still, swung = ours("dopri5", derivative, tuple(part.double() for part in start), (0.0, 1.0))
        assert not still.any()
        # Twenty times the tolerance; among so many others the error could be a hundred times as large.
        assert swung[-1].reshape(-1).tolist() == pytest.approx([math.sin(30)] * swung[0].numel(), abs=2e-4)


@pytest.mark.parametrize("shape", [(0, 2), (), (1,), (3, 1, 2)])
@torch.no_grad()
def test_states_of_any_shape_are_carried(shape):
    start = torch.ones(shape, dtype=torch.float64)
    found = ours("dopri5", lambda t, x: x, start, (0.0, 0.5, 1.0))
    assert found.shape == (3, *shape)
    # Twenty times the tolerance.
    torch.testing.assert_close(found[-1], math.e * start, rtol=0, atol=2e-4)


@torch.no_grad()
def test_what_the_equation_is_given_is_not_written_to_later():
    kept, start = [], points()

    def derivative(t, x):
        kept.append((x, x.clone()))
        return x

    ours("bosh3", derivative, start, (0.0, 1.0))
    assert all(torch.equal(x, copy) for x, copy in kept)
    assert torch.equal(start, points())


@torch.no_grad()
def test_slopes_of_any_layout_are_taken():
    weight = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain, turned = (
        ours("dopri5", derivative, points(), (0.0, 1.0))
        for derivative in (lambda t, x: x @ weight, lambda t, x: (weight.T @ x.T).T)
    )
    # To rounding.
    torch.testing.assert_close(turned, plain, rtol=0, atol=1e-13)
    constant = ours("dopri5", lambda t, x: t.expand_as(x), points(), (0.0, 1.0))
    torch.testing.assert_close(constant[-1], points() + 0.5, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("method", "steps"), [*((method, 1) for method in EVERY), ("dopri5", 9)])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_the_solution(method, steps, reverse):
    # x' = a cos(t) x: x(t) = x(s) exp(a (sin t - sin s)), with a kink that is none.
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    times = [k / steps for k in range(steps + 1)][:: -1 if reverse else 1]
    path = ours(method, lambda t, x: a * torch.cos(t) * x, start, times, kinks=(0.4,), rtol=1e-6, atol=1e-6)
    by_start, by_a = torch.autograd.grad(path.sum(), (start, a))
    sines = torch.tensor(times, dtype=torch.float64).sin() - math.sin(times[0])
    factors = (a.detach() * sines).exp()
    # As exact as the points, twenty times the tolerance each; ten times more for the many steps of fehlberg2.
    tolerance = 20e-6 * (10 if method == "fehlberg2" else 1) * (steps + 1)
    torch.testing.assert_close(by_start, factors.sum().expand(2, 1), rtol=0, atol=tolerance)
    assert by_a.item() == pytest.approx((3 * sines * factors).sum().item(), abs=3 * tolerance)


def test_gradients_of_tuples_are_those_of_finite_differences():
    weight = torch.tensor([[0.3, -0.5], [0.8, 0.1]], dtype=torch.float64, requires_grad=True)

    def last():
        def derivative(t, state):
            slope = torch.tanh(state[0] @ weight) * (1 + t)
            return slope, slope.square().sum(1)

        start = (points(), torch.zeros(6, dtype=torch.float64))
        x, along = ours("dopri5", derivative, start, (0.0, 0.3, 1.0), rtol=1e-9, atol=1e-9)
        return x[1].sum() + along[-1].sum()

    (gradient,) = torch.autograd.grad(last(), weight)
    for index in itertools.product(range(2), repeat=2):
        moved = []
        with torch.no_grad():
            for h in (1e-4, -1e-4):
                weight[index] += h
                moved.append(last().item())
                weight[index] -= h
        # h^2 = 1e-8 times third derivatives, and errors of 1e-9 that differ by a part of themselves, over h.
        assert gradient[index].item() == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-5, abs=1e-5)


def test_what_is_recorded_equals_what_is_not():
    with torch.no_grad():
        plain = ours("dopri5", Counted(), points(), GRIDS[1], kinks=(0.4,))
    recorded = ours("dopri5", Counted(), points().requires_grad_(), GRIDS[1], kinks=(0.4,))
    assert recorded.requires_grad
    # To rounding.
    torch.testing.assert_close(recorded.detach(), plain, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("function", "start", "message"),
    [
        (lambda t, x: math.nan * x, 1.0, "underflow in dt nan"),
        (lambda t, x: math.inf * x, 1.0, "underflow in dt"),
        (lambda t, x: x, math.inf, "underflow in dt nan"),
        (lambda t, x: torch.where(t < 0.5, x, math.nan), 1.0, "non-finite values from t = 0"),
        (lambda t, x: 10 * x**2, 1.0, "underflow in dt|non-finite values from t = 0.1"),
        # Finite slopes that carry the state out of the numbers: no difference shows in its error.
        (lambda t, x: torch.full_like(x, 1.7e308), 1e308, "non-finite values in the state"),
    ],
    ids=["nan", "infinite", "infinite start", "nan later", "blow-up", "overflow"],
)
@torch.no_grad()
def test_values_that_are_not_finite_are_reported(function, start, message):
    with pytest.raises(FloatingPointError, match=message):
        ours("dopri5", function, torch.full((2, 1), start, dtype=torch.float64), (0.0, 1.0))


@torch.no_grad()
def test_nan_in_the_last_tensor_of_a_tuple_is_reported():
    def derivative(t, state):
        return state[0], torch.where(t < 0.5, state[1], math.nan)

    with pytest.raises(FloatingPointError, match="non-finite"):
        ours("dopri5", derivative, (torch.ones(2, 1), torch.ones(2)), (0.0, 1.0))


class Jumping(Field):
    def velocity(self, t, x, **conditions):
        return torch.where(torch.as_tensor(t) < 0.5, x, math.nan)

    score = denoiser = x0 = x1 = velocity


@pytest.mark.parametrize("method", EVERY)
def test_samplers_say_which_tolerance_was_not_reached(method):
    with pytest.raises(
        RuntimeError, match=rf"{method} could not reach its tolerance \(rtol 1e-05, atol 1e-05"
    ):
        ODESampler(method).sample(Jumping(), torch.ones(2, 1))


@pytest.mark.parametrize("method", EVERY)
def test_a_field_that_is_not_finite_beside_the_start_says_so(method):
    oracle = _NanLater()
    with pytest.raises(RuntimeError, match="could not reach its tolerance"):
        ODESampler(method).sample(oracle, points())


class _NanLater(Field):
    interpolant = Trigonometric()

    def velocity(self, t, x, **conditions):
        return 0 * x + (-torch.as_tensor(t, dtype=x.dtype)).sqrt()

    score = denoiser = x0 = x1 = velocity
