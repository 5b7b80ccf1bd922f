import itertools
import math

import pytest
import torch
import torchdiffeq
from torch import nn
from torch.autograd import forward_ad

from interpolants import (
    Field,
    Hutchinson,
    LearnedField,
    Linear,
    ODESampler,
    SDESampler,
    Trigonometric,
    log_likelihood,
    standard_normal_log_prob,
)
from interpolants.gammas import Brownian
from interpolants.samplers.steps import HEUN, TABLEAUS, added, collected, stage_times, states, step

UNEVEN = [0.05, 0.1, 0.3, 0.65, 0.9]


def slope(t, x):
    return torch.cos(3 * t) * torch.sin(x) + t**2 * x.flip(-1)


def points(dtype=torch.float64):
    return torch.randn(5, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


class Plain(Field):
    def __init__(self, function):
        self.function = function

    def velocity(self, t, x, **conditions):
        return self.function(t, x, **conditions)

    def score(self, t, x):
        return -x

    denoiser = x0 = x1 = score


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.5, 0.1]] * 3, dtype=torch.float64))

    def forward(self, t, x):
        return torch.tanh(x @ self.weight) * (1 + t[:, None])


# ----------------------------------------------------------------------------------- torchdiffeq's own steps


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_are_those_of_torchdiffeq(method, reverse):
    times = torch.tensor(UNEVEN[::-1] if reverse else UNEVEN, dtype=torch.float64)
    expected = torchdiffeq.odeint(slope, points(), times, method=method)
    clock = torch.tensor(stage_times(TABLEAUS[method], times.tolist()), dtype=torch.float64)
    found = list(states(TABLEAUS[method], slope, clock, points(), times.tolist()))
    # Sums taken in another order.
    torch.testing.assert_close(torch.stack(found), expected[1:], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("reverse", [False, True])
def test_tuples_are_stepped_as_torchdiffeq_does(method, reverse):
    def rates(t, state):
        x, log = state
        return slope(t, x), torch.sin(t + x[:, 0]) * log

    start = (points(), torch.ones(5, dtype=torch.float64))
    times = torch.tensor(UNEVEN[::-1] if reverse else UNEVEN, dtype=torch.float64)
    expected = torchdiffeq.odeint(rates, start, times, method=method)
    clock = torch.tensor(stage_times(TABLEAUS[method], times.tolist()), dtype=torch.float64)
    later = states(TABLEAUS[method], rates, clock, start, times.tolist())
    for mine, theirs in zip(collected(start, later, 4, end_only=False), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", [*TABLEAUS, "heun"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("times", [None, UNEVEN])
def test_samplers_answer_as_torchdiffeq_does_in_every_precision(method, reverse, dtype, times):
    # With options torchdiffeq takes the steps itself; this one changes nothing.
    rest = {"method": method, "steps": 5, "times": times}
    ours, theirs = (
        ODESampler(**rest, options=options).sample(Plain(slope), points(dtype), reverse=reverse)
        for options in ({}, {"interp": "linear"})
    )
    # Roundings of five steps of up to four stages, of the times among them.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.x, theirs.x, rtol=10 * eps, atol=10 * eps)
    assert torch.equal(ours.t, theirs.t)
    assert ours.evaluations == theirs.evaluations
    assert ours.x.dtype == theirs.x.dtype == dtype


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("divergence", [None, Hutchinson(2)])
def test_log_likelihoods_are_those_of_torchdiffeqs_steps(method, divergence):
    ours, theirs = (
        log_likelihood(
            LearnedField(Linear(), velocity=Net()),
            points(),
            standard_normal_log_prob,
            sampler=ODESampler(method, steps=5, options=options),
            **({} if divergence is None else {"divergence": divergence}),
            generator=torch.Generator().manual_seed(1),
        )
        for options in ({}, {"interp": "linear"})
    )
    # Roundings of five steps.
    torch.testing.assert_close(ours.value, theirs.value, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.x0, theirs.x0, rtol=1e-13, atol=1e-13)
    assert ours.evaluations == theirs.evaluations


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("end_only", [False, True])
def test_gradients_are_those_of_torchdiffeqs_steps(method, end_only):
    found = []
    for options in ({}, {"interp": "linear"}):
        network, x = Net(), points().requires_grad_()
        field = LearnedField(Linear(), velocity=network)
        sampler = ODESampler(method, times=UNEVEN, differentiable=True, end_only=end_only, options=options)
        sampler.sample(field, x).x.square().sum().backward()
        found.append((x.grad, network.weight.grad))
    # Roundings of four steps.
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_tangents_follow_the_steps():
    x, tangent = points(), points().flip(0)
    with forward_ad.dual_level():
        path = ODESampler("heun", steps=3).sample(Plain(slope), forward_ad.make_dual(x, tangent)).x
        found = forward_ad.unpack_dual(path).tangent[-1]
    h = 1e-6
    up, down = (ODESampler("heun", steps=3).sample(Plain(slope), x + d * tangent).final for d in (h, -h))
    # h^2 and rounding 1e-16 / h.
    torch.testing.assert_close(found, (up - down) / (2 * h), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"interp": "linear"}])
def test_torchdiffeq_takes_the_steps_when_it_is_given_options(options, monkeypatch):
    asked = []
    odeint = torchdiffeq.odeint
    monkeypatch.setattr("torchdiffeq.odeint", lambda *a, **k: asked.append(k["options"]) or odeint(*a, **k))
    ODESampler("rk4", steps=2, options=options).sample(Plain(slope), points())
    assert [{"interp": given["interp"]} for given in asked] == ([options] if options else [])


# ---------------------------------------------------------------------------------- torchsde's own steps


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("times", [UNEVEN, [0.0, 0.2, 0.35, 0.8, 1.0]])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, lambda t: 4 * t * (1 - t)], ids=["0", "0.5", "4 t (1 - t)"])
@pytest.mark.parametrize("given", ["generator", "seeds"])
def test_diffusions_are_those_of_torchsde(method, reverse, times, epsilon, given, monkeypatch):
    def run():
        randomness = (
            {"seeds": range(5)} if given == "seeds" else {"generator": torch.Generator().manual_seed(3)}
        )
        sampler = SDESampler(epsilon, method, times=times)
        return sampler.sample(
            Plain(lambda t, x: math.cos(3 * t) * x), points(), reverse=reverse, **randomness
        )

    ours = run()
    monkeypatch.setattr("interpolants.samplers.sde._TABLEAUS", {})  # Left to torchsde, as srk is.
    theirs = run()
    # Sums taken in another order.
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-14, atol=1e-14)
    assert torch.equal(ours.t, theirs.t)
    assert ours.evaluations == theirs.evaluations


# ----------------------------------------------------------------------------------------------- the pieces


@pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)
def test_formulas_are_consistent(tableau):
    # A stage is where the weights before it lead, and the answer is at the end of the step.
    ends = [*tableau.nodes[1:], 1.0]
    assert [sum(row) for row in tableau.rows] == pytest.approx(ends, abs=1e-15)
    assert [len(row) for row in tableau.rows] == list(range(1, len(ends) + 1))


def test_stages_end_exactly_where_the_next_step_begins():
    # 0.03 + (0.29 - 0.03) is not 0.29 in floating point.
    times = [0.03, 0.29, *(k / 49 for k in range(15, 50))]
    asked = stage_times(TABLEAUS["rk4"], times)
    assert asked[3::4] == times[1:]
    assert asked[::4] == times[:-1]
    assert all(a <= b for a, b in itertools.pairwise(asked))


def test_noise_is_added_after_each_stage_with_its_own_strength():
    asked = []
    x, noise = torch.tensor([1.0]), torch.tensor([10.0])
    found = step(HEUN, lambda t, x: asked.append(x) or x, iter([0, 1]), x, 0.5, noise, [0.1, 0.3])
    # The guess is 1 + 0.5 + 0.1 * 10; the answer 1 + 0.25 * (1 + 2.5) + 0.3 * 10.
    assert [float(point) for point in asked] == pytest.approx([1, 2.5], rel=1e-6)
    assert float(found) == pytest.approx(4.875, rel=1e-6)


def test_a_clock_goes_on_from_step_to_step():
    clock, asked = iter(range(6)), []
    for _ in range(3):
        step(HEUN, lambda t, x: asked.append(t) or x, clock, torch.zeros(1), 0.1)
    assert asked == list(range(6))


@pytest.mark.parametrize("factor", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_terms_are_added_by_number_and_by_tensor(factor):
    assert added(torch.ones(2), torch.full((2,), 3.0), factor).tolist() == [2.5, 2.5]


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_field_is_told_beforehand_what_it_will_be_asked(method, dtype):
    class Told(Plain):
        told = None

        def prepared(self, times, x, **rest):
            self.told = list(times)
            return super().prepared(times, x, **rest)

    asked = []
    field = Told(lambda t, x: asked.append(float(t)) or x)
    # Sevenths are no numbers of single precision.
    ODESampler(method, steps=7).sample(field, points(dtype))
    assert asked == field.told


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_derived_velocities_are_worked_out_once(method, dtype, monkeypatch):
    field = LearnedField(Trigonometric(Brownian()), denoiser=lambda t, x: 0.1 * x, gaussian_source=True)
    whole = field._worked_out
    grids = []
    monkeypatch.setattr(field, "_worked_out", lambda *a, **k: grids.append(a) or whole(*a, **k))
    ODESampler(method, steps=7).sample(field, points(dtype))
    assert len(grids) == 1


def test_networks_that_answer_in_another_precision_are_followed():
    def half(t, x):
        return x.half()

    path = ODESampler(steps=2).sample(LearnedField(Linear(), velocity=half), torch.ones(2, 1)).x
    assert path.dtype == torch.float32
    assert path[:, 0, 0].tolist() == [1.0, 1.5, 2.25]
