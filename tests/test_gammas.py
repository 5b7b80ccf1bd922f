import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import mpmath
import pytest
import torch
from torch import nn

from interpolants.gammas import Brownian, Gamma, Quadratic, SineSquared, Zero

mpmath.mp.dps = 50


class Squared(Gamma):
    """A user's schedule: it writes ``squared`` and nothing else."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def squared(self, t):
        return self.function(t)


class Scaled(Gamma, nn.Module):
    """A learnable multiple of a squared schedule."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0, dtype=torch.float64))
        self.function = function

    def squared(self, t):
        return self.scale * self.function(t)


# Each schedule beside gamma itself, in 50 digits.
WRITTEN = {
    "zero": (Zero(), lambda t: mpmath.mpf(0)),
    "brownian": (Brownian(), lambda t: mpmath.sqrt(t * (1 - t))),
    "brownian-quarter": (Brownian(0.25), lambda t: mpmath.sqrt(t * (1 - t)) / 2),
    "brownian-7": (Brownian(7.0), lambda t: mpmath.sqrt(7 * t * (1 - t))),
    "quadratic": (Quadratic(), lambda t: t * (1 - t)),
    "sine-squared": (SineSquared(), lambda t: mpmath.sinpi(t) ** 2),
}
AUTOMATIC = {
    "parabola": (Squared(lambda t: t**2 * (1 - t) ** 2), lambda t: t * (1 - t)),
    "bridge": (Squared(lambda t: t * (1 - t)), lambda t: mpmath.sqrt(t * (1 - t))),
    "cubed": (Squared(lambda t: (t * (1 - t)) ** 3), lambda t: (t * (1 - t)) ** mpmath.mpf("1.5")),
    "sine": (Squared(lambda t: torch.sin(torch.pi * t) ** 4), lambda t: mpmath.sinpi(t) ** 2),
}
TIMES = [1e-6, 0.3, 0.5, 0.9, 1 - 1e-6]
DTYPES = [torch.float32, torch.float64]

# gamma', gamma gamma' at t = 0 and at t = 1, by hand.
ENDS = {
    "zero": ((0, 0), (0, 0)),
    "brownian": ((torch.inf, 0.5), (-torch.inf, -0.5)),
    "brownian-quarter": ((torch.inf, 0.125), (-torch.inf, -0.125)),
    "brownian-7": ((torch.inf, 3.5), (-torch.inf, -3.5)),
    "quadratic": ((1, 0), (-1, 0)),
    "sine-squared": ((0, 0), (0, 0)),
    "parabola": ((1, 0), (-1, 0)),
    "bridge": ((torch.inf, 0.5), (-torch.inf, -0.5)),
    "cubed": ((0, 0), (0, 0)),
}


def exact(gamma, t):
    """Return gamma, gamma^2, gamma' and gamma gamma' in 50 digits."""
    t = mpmath.mpf(t)
    # The default step of mpmath.diff works at raised precision and stays far inside (0, 1).
    slope = mpmath.diff(gamma, t)
    return {
        "gamma": float(gamma(t)),
        "squared": float(gamma(t) ** 2),
        "derivative": float(slope),
        "half_squared_derivative": float(gamma(t) * slope),
    }


def computed(gamma, t):
    return {
        "gamma": gamma(t),
        "squared": gamma.squared(t),
        "derivative": gamma.derivative(t),
        "half_squared_derivative": gamma.half_squared_derivative(t),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRITTEN)
def test_written_schedules_agree_with_fifty_digits(name, dtype):
    gamma, reference = WRITTEN[name]
    t = torch.tensor(TIMES, dtype=dtype)
    for quantity, values in computed(gamma, t).items():
        assert values.dtype == dtype
        assert values.shape == t.shape
        for time, value in zip(t.tolist(), values.tolist(), strict=True):
            # Purely relative: nothing is lost near the ends. A dozen roundings of half an ulp each.
            # The absolute part serves gamma' near t = 1/2 in 50 digits, which is 1e-50 rather than 0.
            want = exact(reference, time)[quantity]
            assert value == pytest.approx(want, rel=12 * torch.finfo(dtype).eps, abs=1e-40), (quantity, time)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", AUTOMATIC)
def test_automatic_schedules_agree_with_fifty_digits(name, dtype):
    gamma, reference = AUTOMATIC[name]
    t = torch.tensor(TIMES, dtype=dtype)
    for quantity, values in computed(gamma, t).items():
        assert values.dtype == dtype
        assert values.shape == t.shape
        for time, value in zip(t.tolist(), values.tolist(), strict=True):
            # sin(pi t) is known to pi eps near t = 1, and enters the derivative times 2 pi: 20 eps.
            want = exact(reference, time)[quantity]
            tolerance = 32 * torch.finfo(dtype).eps
            assert value == pytest.approx(want, rel=tolerance, abs=tolerance), (quantity, time)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENDS)
def test_the_ends_are_exact(name, dtype):
    gamma, _ = (WRITTEN | AUTOMATIC)[name]
    for t, (slope, product) in zip((0.0, 1.0), ENDS[name], strict=True):
        time = torch.tensor(t, dtype=dtype)
        got = {quantity: value.item() for quantity, value in computed(gamma, time).items()}
        want = {"gamma": 0, "squared": 0, "derivative": slope, "half_squared_derivative": product}
        assert got == want
        assert {
            k: v[1].item() for k, v in computed(gamma, torch.tensor([0.5, t], dtype=dtype)).items()
        } == want


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sine_that_misses_its_zero_at_one_still_has_a_small_derivative(dtype):
    # torch.sin(torch.pi) is about pi eps, not 0: gamma' = 2 pi sin cos is off by 2 pi times that.
    gamma = AUTOMATIC["sine"][0]
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert gamma.derivative(ends).abs().max() <= 32 * torch.finfo(dtype).eps
    assert gamma.half_squared_derivative(ends).abs().max() <= 32 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", WRITTEN)
def test_written_derivatives_agree_with_the_automatic_ones(name):
    gamma = WRITTEN[name][0]
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(gamma.half_squared_derivative(t), Gamma.half_squared_derivative(gamma, t))
    if not gamma.vanishes:
        torch.testing.assert_close(gamma.derivative(t), Gamma.derivative(gamma, t))


def test_values_worked_out_by_hand():
    # sin^2(pi/6) = 1/4, and 2 pi sin(pi/6) cos(pi/6) = pi sqrt(3)/2; sqrt(4 * 1/5 * 4/5) = 4/5.
    t = torch.tensor(1 / 6, dtype=torch.float64)
    assert SineSquared()(t).item() == pytest.approx(0.25, rel=1e-15)
    assert SineSquared().squared(t).item() == pytest.approx(0.0625, rel=1e-15)
    assert SineSquared().derivative(t).item() == pytest.approx(2.7206990463513265, rel=1e-15)
    fifth = torch.tensor(0.2, dtype=torch.float64)
    assert Brownian(4.0)(fifth).item() == pytest.approx(0.8, rel=1e-15)
    assert Brownian(4.0).derivative(fifth).item() == pytest.approx(1.5, rel=1e-15)
    assert Quadratic()(fifth).item() == pytest.approx(0.16, rel=1e-15)
    assert Quadratic().half_squared_derivative(fifth).item() == pytest.approx(0.096, rel=1e-15)


@pytest.mark.parametrize("name", WRITTEN | AUTOMATIC)
def test_shapes_of_times_are_kept(name):
    gamma = (WRITTEN | AUTOMATIC)[name][0]
    for t in (torch.tensor(0.25), torch.full((1,), 0.25), torch.full((4,), 0.25)):
        for value in computed(gamma, t).values():
            assert value.shape == t.shape
            assert value.dtype == torch.float32


@pytest.mark.parametrize("name", WRITTEN | AUTOMATIC)
def test_a_float_is_a_time(name):
    gamma = (WRITTEN | AUTOMATIC)[name][0]
    value = gamma(0.25)
    assert value.shape == ()
    assert value.item() == gamma(torch.tensor(0.25)).item()


@pytest.mark.parametrize("function", [lambda t: t**2 * (1 - t) ** 2, lambda t: (t * (1 - t)) ** 3])
def test_gradients_of_a_learnable_schedule_are_finite_everywhere(function):
    # With gamma = sqrt(scale) g, the gradients are g / (2 sqrt(scale)) and g' / (2 sqrt(scale)): a
    # quarter of g and of g' at scale 4.
    gamma, unit = Scaled(function), Squared(function)
    for t in torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64):
        for quantity, value in computed(gamma, t).items():
            (gradient,) = torch.autograd.grad(value, gamma.scale)
            if quantity in ("gamma", "derivative"):
                want = computed(unit, t)[quantity] / 4
            else:
                want = computed(unit, t)[quantity]
            torch.testing.assert_close(gradient, want, msg=f"{quantity} at t = {t}: {gradient}, not {want}")


def test_only_zero_vanishes():
    assert Zero().vanishes
    for gamma in (Brownian(), Quadratic(), SineSquared(), AUTOMATIC["cubed"][0]):
        assert not gamma.vanishes


@pytest.mark.parametrize("a", [0.0, -1.0, torch.inf, -torch.inf, torch.nan])
def test_brownian_refuses_what_is_not_positive_and_finite(a):
    with pytest.raises(ValueError, match=r"Brownian\(a\) needs a positive finite a; got"):
        Brownian(a)


def test_schedules_are_values():
    for make in (Zero, Brownian, Quadratic, SineSquared, lambda: Brownian(2.0)):
        gamma = make()
        assert gamma == make()
        assert hash(gamma) == hash(make())
        assert pickle.loads(pickle.dumps(gamma)) == gamma
    assert Brownian() == Brownian(1.0) != Brownian(2.0)
    assert len({Zero(), Brownian(), Brownian(2.0), Quadratic(), SineSquared()}) == 5
    assert repr(Brownian(2.0)) == "Brownian(a=2.0)"
    assert repr(Zero()) == "Zero()"
    assert repr(Quadratic()) == "Quadratic()"
    assert repr(SineSquared()) == "SineSquared()"


def test_schedules_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Brownian().a = 2.0


def test_a_schedule_without_squared_cannot_be_built():
    class Empty(Gamma):
        pass

    with pytest.raises(TypeError, match="squared"):
        Empty()
