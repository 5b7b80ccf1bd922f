import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch

from interpolants import (
    Constant,
    Epsilon,
    Interpolant,
    Linear,
    Mirror,
    Parabolic,
    ProportionalToAlpha,
    ProportionalToGamma,
    SDESampler,
    Trigonometric,
)
from interpolants.gammas import Brownian, Quadratic, SineSquared
from interpolants.samplers import Function
from interpolants.samplers.diffusions import as_epsilon

# At T: gamma = sqrt(4 t (1 - t)) on the first path, t (1 - t) on the second.
T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
BRIDGE = Trigonometric(gamma=Brownian(4.0))
PARABOLA = Linear(gamma=Quadratic())


class Bent(Interpolant):
    """A path that is not spatially linear."""

    def interpolate(self, t, x0, x1):
        return x0 + (x1 - x0) * t.reshape(-1, 1) ** 2


class Late(Epsilon):
    def __call__(self, t, path=None):
        return t**2


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        (Constant(0.5), numbers(0.5, 0.5, 0.5)),
        (ProportionalToGamma(3.0), numbers(2.4, 3.0, 1.8)),
        (ProportionalToGamma(3.0, power=2.0), numbers(1.92, 3.0, 1.08)),
        (ProportionalToAlpha(3.0), 3 * torch.cos(math.pi / 2 * T)),
        (Parabolic(3.0), numbers(0.48, 0.75, 0.27)),
        (Function(lambda t: 3 * t), numbers(0.6, 1.5, 2.7)),
        (Function(lambda t: 3), numbers(3.0, 3.0, 3.0)),
        (Late(), numbers(0.04, 0.25, 0.81)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_their_formulas(epsilon, expected):
    # A few roundings.
    close = {"rtol": 1e-14, "atol": 1e-15}
    torch.testing.assert_close(epsilon(T, BRIDGE), expected, **close)
    for time, value in zip(T, expected, strict=True):
        torch.testing.assert_close(epsilon(time, BRIDGE), value, **close)


@pytest.mark.parametrize(
    "epsilon",
    [
        Constant(0.5),
        ProportionalToGamma(3.0),
        ProportionalToGamma(3.0, power=2.0),
        ProportionalToAlpha(3.0),
        Parabolic(3.0),
        Function(lambda t: 3 * t),
        Late(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("path", [BRIDGE, PARABOLA], ids=str)
def test_ratios_are_those_of_the_values(epsilon, path):
    # A few roundings.
    close = {"rtol": 1e-14, "atol": 0}
    torch.testing.assert_close(epsilon.over_gamma(T, path), epsilon(T, path) / path.gamma(T), **close)
    torch.testing.assert_close(epsilon.over_alpha(T, path), epsilon(T, path) / path.alpha(T), **close)


def test_ratios_that_have_a_limit_are_finite_at_the_ends():
    ends = numbers(0.0, 1.0)
    assert ProportionalToGamma(3.0).over_gamma(ends, BRIDGE).tolist() == [3.0, 3.0]
    assert ProportionalToGamma(3.0, power=2.0).over_gamma(ends, BRIDGE).tolist() == [0.0, 0.0]
    assert ProportionalToAlpha(3.0).over_alpha(ends, BRIDGE).tolist() == [3.0, 3.0]
    for epsilon in (ProportionalToGamma(2.0), ProportionalToAlpha(2.0)):
        assert epsilon.over_gamma(ends[0], BRIDGE).shape == ()
        assert epsilon.over_alpha(ends[0], BRIDGE).shape == ()


@pytest.mark.parametrize(
    "epsilon",
    [ProportionalToGamma(), ProportionalToGamma(2.0, power=2.0), Parabolic(), Parabolic(2.0)],
    ids=str,
)
def test_some_vanish_at_both_ends(epsilon):
    assert epsilon(numbers(0.0, 1.0), BRIDGE).tolist() == [0.0, 0.0]
    assert epsilon(numbers(0.5), BRIDGE) > 0


def test_the_factor_is_one_by_default():
    assert ProportionalToGamma() == ProportionalToGamma(1.0, 1.0)
    assert ProportionalToAlpha() == ProportionalToAlpha(1.0)
    assert Parabolic() == Parabolic(1.0)


@pytest.mark.parametrize("epsilon", [Constant(0.5), ProportionalToGamma(2.0), Parabolic(1.5)], ids=str)
def test_diffusions_are_values(epsilon):
    assert pickle.loads(pickle.dumps(epsilon)) == epsilon
    assert hash(dataclasses.replace(epsilon)) == hash(epsilon)
    assert epsilon != dataclasses.replace(epsilon, c=9.0)
    assert "c=" in repr(epsilon)
    with pytest.raises(dataclasses.FrozenInstanceError):
        epsilon.c = 3.0


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kind", [Constant, ProportionalToGamma, ProportionalToAlpha, Parabolic])
@pytest.mark.parametrize("c", [-0.1, math.nan, math.inf, -math.inf])
def test_factors_must_be_finite_and_not_negative(kind, c):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a finite factor that is not negative; got"):
        kind(c)
    assert kind(0.0)(torch.tensor(0.5), BRIDGE) == 0


@pytest.mark.parametrize("power", [0.0, 0.99, -1.0, math.nan, math.inf])
def test_powers_of_gamma_are_at_least_one(power):
    with pytest.raises(ValueError, match="power must be at least 1"):
        ProportionalToGamma(1.0, power)


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (lambda t: 0.5 - t, "-0.01562 at t = 0.5156"),
        (lambda t: -1.0, "-1 at t = 0"),
        (lambda t: 1 / t, "inf at t = 0"),
        (lambda t: math.nan * t, "nan at t = 0"),
    ],
)
def test_functions_must_be_finite_and_not_negative(function, first):
    with pytest.raises(ValueError, match=f"finite and not negative on .*it is {first}"):
        Function(function)


def test_functions_must_return_one_number_for_each_time():
    with pytest.raises(ValueError, match=r"shape of t, \(65,\); got \(65, 1\)"):
        Function(lambda t: t[:, None])
    with pytest.raises(TypeError, match="tensor or a number; got str"):
        Function(lambda t: "1")
    with pytest.raises(TypeError, match="function of time; got int"):
        Function(3)


@pytest.mark.parametrize("value", [0.5, 1, 0, np.float32(0.5), np.int64(2), np.float64(0.1)])
def test_numbers_become_constants(value):
    assert as_epsilon(value) == Constant(float(value))


def test_functions_and_diffusions_are_taken_as_they_are():
    late = Late()
    assert as_epsilon(late) is late
    assert as_epsilon(torch.square)(torch.tensor(0.5)) == 0.25


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (None, "NoneType"),
        (True, "bool"),
        (False, "bool"),
        (Constant, "the class Constant"),
        ("0.5", "str"),
        (1j, "complex"),
        (torch.tensor(0.5), "Tensor"),
    ],
)
def test_what_is_no_diffusion_is_refused(value, came):
    with pytest.raises(TypeError, match=f"epsilon must be a diffusion.*; got {came}"):
        SDESampler(value)


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, lambda t: t - 1])
def test_negative_and_infinite_ones_are_refused(value):
    with pytest.raises(ValueError, match="not negative"):
        SDESampler(value)


def test_some_do_not_suit_every_path():
    with pytest.raises(ValueError, match="no latent noise; use Constant"):
        ProportionalToGamma().check(Linear())
    with pytest.raises(ValueError, match="needs the interpolant of the field, which has none"):
        ProportionalToGamma().check(None)
    for path in (None, Bent(gamma=Brownian())):
        with pytest.raises(ValueError, match="spatially linear"):
            ProportionalToAlpha().check(path)
        with pytest.raises(ValueError, match="spatially linear"):
            Constant(1.0).over_alpha(T, path)
    for path in (BRIDGE, Mirror(SineSquared()), Bent(gamma=Brownian())):
        ProportionalToGamma().check(path)
    ProportionalToAlpha().check(Linear())
    for epsilon in (Constant(1.0), Parabolic(), Function(lambda t: t), Late()):
        epsilon.check(None)


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Epsilon()
