import contextlib
import re
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from interpolants.checks import InterpolantError, check_interpolant
from interpolants.families import (
    Affine,
    EncodingDecoding,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, Gamma, Quadratic, SineSquared, Zero
from interpolants.interpolant import Interpolant, InterpolantSample, SpatiallyLinear


class Cubed(Gamma):
    def squared(self, t):
        return (t * (1 - t)) ** 3


class Cubic(SpatiallyLinear):
    def alpha(self, t):
        return 1 - t**3

    def beta(self, t):
        return t**3


class Circle(Interpolant):
    """Takes points of the plane only."""

    def interpolate(self, t, x0, x1):
        centre, radius = (x0 + x1) / 2, (x0 - x1) / 2
        angle = torch.pi * t.reshape(-1, 1)
        turned = torch.stack([-radius[:, 1], radius[:, 0]], dim=1)
        return centre + angle.cos() * radius + angle.sin() * turned


class Learnable(nn.Module, SpatiallyLinear):
    def __init__(self, dtype, gamma):
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.3, dtype=dtype))
        self.gamma = gamma

    def alpha(self, t):
        return 1 - t - self.bend * t * (1 - t)

    def beta(self, t):
        return 1 - self.alpha(t)


class LearnableGamma(Gamma, nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0, dtype=dtype))

    def squared(self, t):
        return self.scale * t**2 * (1 - t) ** 2


FAMILIES = [
    Linear,
    Trigonometric,
    EncodingDecoding,
    lambda gamma: VariancePreserving(gamma=gamma),
    Mirror,
    lambda gamma: Affine(lambda t: (1 - t) ** 2, lambda t: t**2, gamma),
    Cubic,
    Circle,
]


GAMMAS = [Zero(), Brownian(2.0), Quadratic(), SineSquared(), Cubed()]


@pytest.fixture
def uncompiled(monkeypatch):
    """Leave out the compiler, which takes most of the time of a check."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_sound_interpolants_pass_in_silence(family, gamma):
    assert check_interpolant(FAMILIES[family](gamma)) is None


@pytest.mark.parametrize("k", range(len(FAMILIES)))
def test_sound_interpolants_compile(k):
    # Each family and each gamma once.
    check_interpolant(FAMILIES[k](GAMMAS[k % len(GAMMAS)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [lambda dtype: Zero(), lambda dtype: Brownian(), LearnableGamma])
def test_learnable_interpolants_pass_and_keep_their_parameters(gamma, dtype):
    path = Learnable(dtype, gamma(dtype))
    before = {name: p.clone() for name, p in path.named_parameters()}
    check_interpolant(path)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in path.named_parameters())


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learnable_derivative_five_percent_off_is_caught(dtype):
    class Off(Learnable):
        def alpha_derivative(self, t):
            return 1.05 * super().alpha_derivative(t)

    lines = broken_promises(Off(dtype, Zero()))
    assert lines[0].startswith("alpha_derivative must be the time derivative")


# ---- one broken promise each


class StartsHalfway(Cubic):
    def alpha(self, t):
        return (1 - t) / 2


class EndsHalfway(Cubic):
    def beta(self, t):
        return t / 2


class Reversed(Cubic):
    def alpha(self, t):
        return t

    def beta(self, t):
        return 1 - t


class SlowDerivative(Circle):
    def derivative(self, t, x0, x1):
        return 0.95 * Interpolant.derivative(self, t, x0, x1)


class BackwardDerivative(Circle):
    def derivative(self, t, x0, x1):
        return -Interpolant.derivative(self, t, x0, x1)


class WrongAlphaDerivative(Cubic):
    def alpha_derivative(self, t):
        return -3.15 * t**2


class FlippedBetaDerivative(Cubic):
    def beta_derivative(self, t):
        return -3 * t**2


class WrongHalfAlpha(Cubic):
    def half_alpha_squared_derivative(self, t):
        return 2 * self.alpha(t) * self.alpha_derivative(t)


class WrongHalfBeta(Cubic):
    def half_beta_squared_derivative(self, t):
        return -self.beta(t) * self.beta_derivative(t)


class EndsNoisy(Gamma):
    def squared(self, t):
        return t**2


class StartsNoisy(Gamma):
    def squared(self, t):
        return (1 - t) ** 2


class EndsNoisyButSquaredDoesNot(Gamma):
    def squared(self, t):
        return t**2 * (1 - t) ** 2

    def __call__(self, t):
        return t


class Negative(Gamma):
    def squared(self, t):
        return t**2 * (1 - t) ** 2

    def __call__(self, t):
        return -t * (1 - t)

    def derivative(self, t):
        return 2 * t - 1


class Sudden(Gamma):
    """gamma^2 = sqrt(t (1 - t)), whose slope is infinite at both ends."""

    def squared(self, t):
        return (t * (1 - t)).sqrt()


class WrongSlope(Cubed):
    def derivative(self, t):
        return 1.05 * Cubed.derivative(self, t)


class WrongProduct(Cubed):
    def half_squared_derivative(self, t):
        return 1.5 * (1 - 2 * t) * (t * (1 - t)) ** 2 * 2

    def derivative(self, t):
        return 1.5 * (1 - 2 * t) * (t * (1 - t)).sqrt()


class WrongSquare(Gamma):
    def squared(self, t):
        return t**2 * (1 - t) ** 2

    def __call__(self, t):
        return 2 * t * (1 - t)

    def derivative(self, t):
        return 2 - 4 * t


class Resampled(Cubic):
    """Overrides sample, and changes what it returns."""

    def changed(self, parts):
        return parts

    def sample(self, t, x0, x1, z=None, *, generator=None):
        parts = vars(super().sample(t, x0, x1, z, generator=generator))
        return InterpolantSample(**(parts | self.changed(parts)))


class WrongSampleSlope(Resampled):
    def changed(self, parts):
        return {"xt_dot": 2 * parts["xt_dot"]}


class WrongSamplePoint(Resampled):
    # A constant: the slope of xt is right.
    def changed(self, parts):
        return {"xt": parts["xt"] + 0.1}


class SinglePrecision(Resampled):
    def changed(self, parts):
        return {"xt": parts["xt"].float()}


class SinglePrecisionSlope(Resampled):
    def changed(self, parts):
        return {"xt_dot": parts["xt_dot"].float()}


class Flat(Resampled):
    def changed(self, parts):
        return {name: parts[name].flatten(1) for name in ("xt", "xt_dot")}


class Mixed(Cubic):
    def interpolate(self, t, x0, x1):
        column = t.reshape(-1, *(1,) * (x0.ndim - 1))
        return super().interpolate(t, x0, x1) + column * (1 - column) * x1.mean(0)

    def derivative(self, t, x0, x1):
        return Interpolant.derivative(self, t, x0, x1)


class Branching(Cubic):
    def alpha(self, t):
        return 1 - t**3 if t.max() > 0.5 else -(t**3) + 1


class TensorTimes(Resampled):
    def sample(self, t, x0, x1, z=None, *, generator=None):
        return super().sample(t.clone(), x0, x1, z, generator=generator)


class RowTimes(Resampled):
    def sample(self, t, x0, x1, z=None, *, generator=None):
        return super().sample(t if isinstance(t, float) else t[:], x0, x1, z, generator=generator)


class LateFloat(Resampled):
    """A float is taken for another time than a tensor."""

    def sample(self, t, x0, x1, z=None, *, generator=None):
        return super().sample(t / 2 if isinstance(t, float) else t, x0, x1, z, generator=generator)


class FloatChanges(Cubic):
    """One part of the sample is another when the time is a float."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def sample(self, t, x0, x1, z=None, *, generator=None):
        drawn = super().sample(t, x0, x1, z, generator=generator)
        return replace(drawn, **{self.part: 2 * getattr(drawn, self.part)}) if isinstance(t, float) else drawn


class FlatSlope(Resampled):
    def changed(self, parts):
        return {"xt_dot": parts["xt_dot"].flatten(1)}


class Raising(Interpolant):
    def interpolate(self, t, x0, x1):
        raise RuntimeError("no path today")


class Infinite(Circle):
    def derivative(self, t, x0, x1):
        return Interpolant.derivative(self, t, x0, x1) / 0.0


class NotANumber(Circle):
    def derivative(self, t, x0, x1):
        return Interpolant.derivative(self, t, x0, x1) * torch.nan


class BrokenGraph(Cubic):
    """Compiles into two graphs."""

    def sample(self, t, x0, x1, z=None, *, generator=None):
        drawn = super().sample(t, x0, x1, z, generator=generator)
        torch._dynamo.graph_break()
        return drawn


BROKEN = {
    "start": (StartsHalfway(), r"the path must start at x0: .* \(alpha\(0\) = 0\.5, beta\(0\) = 0\)"),
    "end": (EndsHalfway(), r"the path must end at x1: .* \(alpha\(1\) = 0, beta\(1\) = 0\.5\)"),
    "5 % off": (SlowDerivative(), "^derivative must be the time derivative"),
    "flipped": (BackwardDerivative(), "^derivative must be the time derivative"),
    "infinite": (Infinite(), "^derivative must be the time derivative"),
    "nan": (NotANumber(), "^derivative must be the time derivative: .* it is nan"),
    "alpha'": (WrongAlphaDerivative(), "^alpha_derivative must be the time derivative"),
    "beta'": (FlippedBetaDerivative(), "^beta_derivative must be the time derivative"),
    "alpha alpha'": (WrongHalfAlpha(), "^half_alpha_squared_derivative must be the time derivative"),
    "beta beta'": (WrongHalfBeta(), "^half_beta_squared_derivative must be the time derivative"),
    "gamma(1)": (Linear(EndsNoisy()), r"gamma must be zero at both ends: EndsNoisy has gamma\(1\) = 1"),
    "gamma(0)": (Linear(StartsNoisy()), r"gamma must be zero at both ends: StartsNoisy has gamma\(0\) = 1"),
    "gamma(1) alone": (Linear(EndsNoisyButSquaredDoesNot()), r"gamma must be zero at both ends: .*\(1\) = 1"),
    "gamma < 0": (Linear(Negative()), r"gamma must be non-negative: Negative has gamma\(0\.5\) = -0\.25"),
    "gamma gamma'": (Linear(Sudden()), r"gamma gamma' must be finite on \[0, 1\]: Sudden.*\(0\) = inf"),
    "gamma'": (Linear(WrongSlope()), "^WrongSlope.derivative must be the time derivative"),
    "product": (Linear(WrongProduct()), "^WrongProduct.half_squared_derivative must be the time derivative"),
    "square": (Linear(WrongSquare()), r"gamma.squared must be gamma\^2: WrongSquare differs by up to 0\.188"),
    "xt_dot": (WrongSampleSlope(), "^xt_dot of sample must be the time derivative"),
    "xt": (WrongSamplePoint(), r"xt of sample must be interpolate\(t, x0, x1\) \+ gamma\(t\) z"),
    "dtype": (SinglePrecision(), "^xt must keep dtype and device: torch.float64 on cpu became torch.float32"),
    "dtype'": (SinglePrecisionSlope(), "^xt_dot must keep dtype and device: torch.float64 on cpu became"),
    "shape": (Flat(), r"xt must keep the shape of x0: \(5, 3, 4, 4\) became \(5, 48\)"),
    "rows": (Mixed(), r"each row must follow its own time: row 0 of x \(5, 2\) depends on the others"),
    "vmap": (Branching(), "^vmap: RuntimeError: vmap.*data-dependent control flow"),
    "compile": (Branching(), "torch.compile must make one graph of sample"),
    "graphs": (BrokenGraph(), "torch.compile must make one graph of sample"),
    "float": (TensorTimes(), "t may be a float: AttributeError"),
    "scalar": (RowTimes(), r"t may be shape \(\): IndexError"),
    "other": (LateFloat(), r"t as a float must give what t of shape \(B,\) gives"),
    "other xt": (FloatChanges("xt"), r"t as a float must give what t of shape \(B,\) gives"),
    "other xt_dot": (FloatChanges("xt_dot"), r"t as a float must give what t of shape \(B,\) gives"),
    "shape'": (FlatSlope(), r"xt_dot must keep the shape of x0: \(5, 3, 4, 4\) became \(5, 48\)"),
    "path": (Raising(), r"interpolate must take t of shape \(B,\).*: RuntimeError: no path today"),
}


def broken_promises(interpolant):
    with pytest.raises(InterpolantError) as caught:
        check_interpolant(interpolant)
    return caught.value.broken


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name, request):
    if name not in ("compile", "graphs"):
        request.getfixturevalue("uncompiled")
    interpolant, fragment = BROKEN[name]
    with pytest.raises(InterpolantError) as caught:
        check_interpolant(interpolant)
    error = caught.value
    assert sum(re.search(fragment, line) is not None for line in error.broken) == 1, error
    assert str(error).startswith(f"{type(interpolant).__name__} breaks {len(error.broken)} promise")
    assert all(f"  - {line}" in str(error) for line in error.broken)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "name", ["alpha alpha'", "beta beta'", "gamma'", "product", "xt_dot", "xt", "other", "path"]
)
def test_a_single_fault_is_reported_without_false_company(name):
    # A wrong gamma' also shows in xt_dot, which uses it; the others stand alone.
    lines = broken_promises(BROKEN[name][0])
    assert len(lines) == (2 if name == "gamma'" else 1), lines


@pytest.mark.usefixtures("uncompiled")
def test_a_wrong_weight_derivative_is_reported_where_it_is_and_where_it_shows():
    lines = broken_promises(WrongAlphaDerivative())
    assert [line.split(" must")[0] for line in lines] == [
        "alpha_derivative",
        "half_alpha_squared_derivative",
        "derivative",
        "xt_dot of sample",
    ]
    # At the last of the times, 0.9871, where 5 % of 3 t^2 is most.
    assert "at t = 0.9988 it is -3.14" in lines[0]
    assert "finite differences give -2.99" in lines[0]


@pytest.mark.usefixtures("uncompiled")
def test_everything_broken_is_listed():
    class Ruin(Cubic):
        def alpha(self, t):
            return (1 - t) / 2

        def beta(self, t):
            return 2 * t

        def alpha_derivative(self, t):
            return 0 * t

    lines = broken_promises(Ruin(EndsNoisy()))
    text = "\n".join(lines)
    for fragment in (
        "the path must start at x0",
        "the path must end at x1",
        "alpha_derivative must be",
        "gamma must be zero at both ends",
        "xt_dot of sample must be",
    ):
        assert fragment in text
    assert len(lines) == len(set(lines))


@pytest.mark.usefixtures("uncompiled")
def test_a_reversed_path_breaks_both_ends():
    lines = broken_promises(Reversed())
    assert len(lines) == 2
    assert "start at x0" in lines[0]
    assert "end at x1" in lines[1]


@pytest.mark.usefixtures("uncompiled")
def test_gamma_must_be_a_gamma_even_when_set_later():
    path = Cubic()
    path.gamma = 0.5
    assert "gamma must be a Gamma, such as Brownian(); got float" in broken_promises(path)


def test_the_error_is_a_value_error_that_counts():
    assert issubclass(InterpolantError, ValueError)
    with pytest.raises(InterpolantError) as caught:
        check_interpolant(EndsHalfway())
    assert len(caught.value.broken) == 1
    assert str(caught.value).splitlines() == [
        "EndsHalfway breaks 1 promise:",
        f"  - {caught.value.broken[0]}",
    ]
    error = InterpolantError("Mine", ["one", "two"])
    assert error.broken == ["one", "two"]
    assert str(error) == "Mine breaks 2 promises:\n  - one\n  - two"


def test_a_class_is_no_instance():
    with pytest.raises(TypeError, match=r"needs an Interpolant; got Cubic; make an instance: Cubic\(\)"):
        check_interpolant(Cubic)
    with pytest.raises(TypeError, match=r"needs an Interpolant; got function$"):
        check_interpolant(lambda t, x0, x1: x0)
    with pytest.raises(TypeError, match=r"needs an Interpolant; got Brownian$"):
        check_interpolant(Brownian())


@pytest.mark.parametrize(
    "interpolant", [Linear(), Linear(Brownian()), Circle(Cubed()), EndsHalfway(SineSquared())]
)
def test_global_state_is_left_alone(interpolant):
    state, filters = torch.get_rng_state(), list(warnings.filters)
    threads, mode, default = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    with contextlib.suppress(InterpolantError):
        check_interpolant(interpolant)
    assert torch.equal(state, torch.get_rng_state())
    assert filters == list(warnings.filters)
    assert (threads, mode, default) == (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def test_unusual_but_sound_interpolants_pass():
    # Tabulated on a thousand steps, as noise schedules often are, and read off linearly.
    table = torch.linspace(0, 1, 1001, dtype=torch.float64) ** 2

    def tabulated(t):
        place = (t * 1000).clamp(max=999.999999)
        node = place.floor().long()
        low, high = table.to(t)[node], table.to(t)[node + 1]
        return low + (high - low) * (place - node)

    check_interpolant(Affine(lambda t: 1 - tabulated(t), tabulated))
    check_interpolant(Linear(Brownian(1e12)))
    check_interpolant(Linear(Brownian(1e-12)))


def test_paths_for_one_shape_alone_are_checked_on_it():
    class Pictures(Interpolant):
        def interpolate(self, t, x0, x1):
            if x0.shape[1:] != (28, 28):
                raise ValueError("pictures only")
            return x0 + t.reshape(-1, 1, 1) * (x1 - x0)

    check_interpolant(Pictures(), shape=(28, 28))
    with pytest.raises(InterpolantError, match="pictures only"):
        check_interpolant(Pictures())


def test_a_product_that_is_wrong_only_at_the_ends_is_caught():
    class Flat(Gamma):
        def squared(self, t):
            return t * (1 - t)

        def half_squared_derivative(self, t):
            return torch.where((t == 0) | (t == 1), 0.0, (1 - 2 * t) / 2)

    with pytest.raises(InterpolantError, match=r"at t = 0 it is 0, finite differences of gamma\^2 give 0.5"):
        check_interpolant(Linear(Flat()))


def test_a_weight_whose_product_is_not_finite_at_an_end_is_told_what_to_write():
    with pytest.raises(InterpolantError, match="half_beta_squared_derivative must be finite at both ends"):
        check_interpolant(Affine(lambda t: 1 - t, lambda t: t.sqrt()))


class Unshaped(Interpolant):
    """Forgets to shape t: right for x of shape (B,), and silently wrong where B = D."""

    def interpolate(self, t, x0, x1):
        return (1 - t) * x0 + t * x1


def test_a_path_that_does_not_shape_its_times_is_found():
    with pytest.raises(InterpolantError, match=r"shape \(B, \*D\).*t\.reshape"):
        check_interpolant(Unshaped())
    check_interpolant(Unshaped(), shape=())  # one that is meant for numbers says so


def test_only_a_time_that_was_not_shaped_is_told_to_be():
    class Looking(SpatiallyLinear):
        def alpha(self, t):
            return 1 - t if t < 0.5 else 0 * t

        def beta(self, t):
            return t

    with pytest.raises(InterpolantError) as found:
        check_interpolant(Looking())
    assert "reshape" not in str(found.value)


def test_an_interpolant_of_ones_own_prints_as_what_it_is():
    assert repr(Unshaped(Brownian(0.5))) == "Unshaped(gamma=Brownian(a=0.5))"
