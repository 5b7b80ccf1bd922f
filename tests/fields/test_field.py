import re

import pytest
import torch
from mixture_cases import (
    FAMILIES,
    INSIDE,
    NORMAL,
    SEVEN,
    SKEWED,
    TARGET,
    learned,
    oracle_of,
    points,
    points_on,
    relative_errors,
)

from interpolants import (
    Constant,
    Epsilon,
    FieldUnavailable,
    LearnedField,
    Linear,
    MixtureOracle,
    Parabolic,
    ProportionalToAlpha,
    ProportionalToGamma,
    SineSquared,
    SpatiallyLinear,
)
from interpolants.fields.field import double, vanishes
from interpolants.gammas import Brownian, Quadratic, Zero
from interpolants.samplers.diffusions import Function

GAMMAS = {"zero": Zero(), "brownian": Brownian(), "quadratic": Quadratic(), "sine-squared": SineSquared()}
DIFFUSIONS = {
    "constant": Constant(0.7),
    "gamma": ProportionalToGamma(0.8),
    "gamma squared": ProportionalToGamma(0.8, 2.0),
    "alpha": ProportionalToAlpha(0.6),
    "parabola": Parabolic(2.0),
    "function": Function(lambda t: 1 + t),
}
either_way = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
every_diffusion = pytest.mark.parametrize("epsilon", DIFFUSIONS)


def named(value):
    """Without addresses, which differ from one worker to the next."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def exact_drift(oracle, t, x, epsilon, reverse):
    """The velocity plus or minus epsilon times the score, of the oracle alone, in double precision."""
    level = epsilon(t, oracle.interpolant).reshape(-1, 1)
    return oracle.velocity(t, x) + (-level if reverse else level) * oracle.score(t, x)


# Accuracy of b +- epsilon s in single precision, relative to 1 plus its size, the worst over t = 0, 1e-6,
# 1e-3, 1/2, 1 - 1e-3, 1 - 1e-6, 1 and both directions: a dot is 2e-6, a few roundings. Where a network gives
# the score itself, or epsilon over gamma (over alpha when the source is N(0, Id)) stays finite, nothing is
# amplified. Otherwise the score's level in the table of test_conversions.py remains. Bounds are some three
# times what was measured.
DRIFTS = """
family               gamma         networks           constant    gamma  squared    alpha parabola function
linear               zero          N:velocity             5e-3        -        -        .        .     1e-2
affine               zero          N:velocity             2e-1        -        -     1e-3     2e-2    2e+00
variance-preserving  zero          N:x1                   5e-2        -        -     2e-2     2e-2     5e-2
trigonometric        brownian      velocity+denoiser      2e-4        .        .     1e-4        .     1e-3
linear               brownian      velocity+score            .        .        .        .        .        .
affine               brownian      velocity+denoiser      5e-4        .        .     2e-4        .     1e-3
encoding-decoding    brownian      velocity+denoiser      2e-3     3e-6     3e-6     2e-3     3e-6     2e-3
trigonometric        brownian      N:velocity             5e-4     3e-6        .     1e-4        .     1e-3
linear               brownian      x0+x1                  5e-3     3e-3     2e-3     3e-3     2e-3     2e-2
trigonometric        quadratic     velocity+denoiser      5e-3        .        .     3e-3        .     1e-2
linear               quadratic     velocity+score            .        .        .        .        .        .
affine               quadratic     velocity+denoiser      3e-3        .        .     3e-3        .     2e-2
encoding-decoding    quadratic     velocity+denoiser      2e-2     1e-5     1e-5     2e-2     1e-5     2e-2
trigonometric        quadratic     N:velocity             3e-2     3e-3        .     3e-3     5e-3     3e-2
linear               quadratic     x0+x1                  1e-1     5e-3     5e-3     1e-1     1e-2     2e-1
trigonometric        sine-squared  velocity+denoiser      3e-2        .        .     2e-2     2e-3     5e-2
linear               sine-squared  velocity+score            .        .        .        .        .        .
affine               sine-squared  velocity+denoiser      2e-2        .        .     2e-2     5e-4     2e-1
encoding-decoding    sine-squared  velocity+denoiser      2e-1     1e-5     1e-5     2e-1     3e-2     2e-1
trigonometric        sine-squared  N:velocity             5e-3        .        .        .        .     1e-2
linear               sine-squared  x0+x1                  3e-1     1e-2     3e-3     2e-1     5e-2     5e-1
"""


def rows_of_the_table():
    for line in DRIFTS.strip().splitlines()[1:]:
        family, gamma, networks, *bounds = line.split()
        numbers = {"-": None, ".": 2e-6}
        for epsilon, bound in zip(DIFFUSIONS, bounds, strict=True):
            if bound != "-":
                yield family.replace("-", " "), gamma, networks, epsilon, numbers.get(bound) or float(bound)


@pytest.mark.parametrize(("family", "gamma", "networks", "epsilon", "bound"), list(rows_of_the_table()))
def test_the_drift_is_finite_and_accurate_up_to_the_ends(family, gamma, networks, epsilon, bound):
    source = NORMAL if networks.startswith("N:") else SKEWED
    family = family if family in FAMILIES else family.replace(" ", "-")
    oracle, epsilon = oracle_of(family, GAMMAS[gamma], source), DIFFUSIONS[epsilon]
    field = learned(oracle, networks.removeprefix("N:").split("+"), gaussian_source=source is NORMAL)
    t, x = points_on(oracle, SEVEN, 10, torch.float32)
    for reverse in (False, True):
        truth = exact_drift(oracle, t.double(), x.double(), epsilon, reverse)
        assert relative_errors(field.drift(t, x, epsilon, reverse=reverse), truth).amax() <= bound
        for k in (0, 30, 60):  # An end, the middle and the other end, as one time.
            drift = field.drift(float(t[k]), x[k : k + 10], epsilon, reverse=reverse)
            assert relative_errors(drift, truth[k : k + 10]).amax() <= bound


@either_way
@every_diffusion
@pytest.mark.parametrize(
    ("family", "gamma", "networks"),
    [
        ("trigonometric", Brownian(), "velocity+denoiser"),
        ("linear", Quadratic(), "velocity+score"),
        ("encoding-decoding", SineSquared(), "denoiser+score+velocity"),
        ("affine", Quadratic(), "x0+x1"),
        ("linear", Zero(), "N:velocity"),
        ("trigonometric", Brownian(), "N:velocity"),
        ("variance preserving", Zero(), "N:x1"),
    ],
    ids=named,
)
def test_the_drift_is_the_velocity_and_epsilon_times_the_score(family, gamma, networks, epsilon, reverse):
    gaussian = networks.startswith("N:")
    oracle = oracle_of(family, gamma, NORMAL if gaussian else SKEWED)
    field = learned(oracle, networks.removeprefix("N:").split("+"), gaussian_source=gaussian)
    epsilon, x = DIFFUSIONS[epsilon], points()
    for t in INSIDE:
        time = torch.tensor(t, dtype=torch.float64)
        expected = exact_drift(oracle, time, x, epsilon, reverse)
        # Double precision, times weights below a thousand.
        for known in (field, oracle):
            drift = known.drift(t, x, epsilon, reverse=reverse)
            torch.testing.assert_close(drift, expected, rtol=1e-11, atol=1e-11)
    times = torch.tensor([*INSIDE, 0.5], dtype=torch.float64)
    expected = exact_drift(oracle, times, x, epsilon, reverse)
    torch.testing.assert_close(
        field.drift(times, x, epsilon, reverse=reverse), expected, rtol=1e-11, atol=1e-11
    )


@either_way
@pytest.mark.parametrize("c", [0.8, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_epsilon_times_the_score_is_not_divided_by_gamma(c, dtype, reverse):
    # A network that does not vanish at the ends, as the true denoiser does: divided by gamma it is infinite.
    x, sign = points().to(dtype), -1 if reverse else 1
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: x, denoiser=lambda t, x: x.cos())
    for t in SEVEN:
        drift = field.drift(t, x, ProportionalToGamma(c), reverse=reverse)
        # One multiplication and one addition of numbers of order 1.
        rounding = {"rtol": 0, "atol": 8 * torch.finfo(dtype).eps}
        torch.testing.assert_close(drift, x - sign * c * x.cos(), **rounding)
        drift = field.drift(torch.full((5,), t, dtype=dtype), x, ProportionalToGamma(c), reverse=reverse)
        torch.testing.assert_close(drift, x - sign * c * x.cos(), **rounding)


@either_way
def test_epsilon_times_the_score_is_not_divided_by_alpha(reverse):
    x, sign = points().float(), -1 if reverse else 1
    field = LearnedField(Linear(), x0=lambda t, x: x.cos(), velocity=lambda t, x: x, gaussian_source=True)
    for t in SEVEN:
        drift = field.drift(t, x, ProportionalToAlpha(0.6), reverse=reverse)
        # As above.
        torch.testing.assert_close(drift, x - sign * 0.6 * x.cos(), rtol=1e-6, atol=1e-6)


@either_way
def test_nothing_but_the_velocity_is_asked_for_where_epsilon_is_zero(reverse):
    field, x = LearnedField(Linear(), velocity=lambda t, x: 3 * x), points()
    for epsilon, times in ((Constant(0.0), (0.0, 0.5, 1.0)), (Parabolic(), (0.0, 1.0))):
        for t in times:
            assert torch.equal(field.drift(t, x, epsilon, reverse=reverse), 3 * x)
            assert torch.equal(field.drift(torch.tensor(t), x, epsilon, reverse=reverse), 3 * x)
    with pytest.raises(FieldUnavailable, match="the score cannot be derived from the velocity"):
        field.drift(0.5, x, Constant(1.0), reverse=reverse)
    with pytest.raises(FieldUnavailable, match="the velocity cannot be derived from the denoiser"):
        LearnedField(Linear(Brownian()), denoiser=lambda t, x: x).drift(0.5, x, Constant(1.0))


def test_directions_and_diffusions_are_not_confused_with_what_was_asked_before():
    field, x = LearnedField(Linear(), velocity=lambda t, x: 0 * x, score=lambda t, x: 1 + 0 * x), points()
    for epsilon, level in ((Constant(1.0), 1), (Constant(2.0), 2), (Parabolic(8.0), 2), (Constant(1.0), 1)):
        for reverse in (False, True, False):
            drift = field.drift(0.5, x, epsilon, reverse=reverse)
            assert torch.equal(drift, torch.full_like(x, -level if reverse else level))
            assert torch.equal(field.drift(0.5, x.float(), epsilon, reverse=reverse), drift.float())


@either_way
@pytest.mark.parametrize("epsilon", [None, Constant(0.7), ProportionalToGamma(), Parabolic()], ids=named)
def test_being_prepared_changes_no_answer(epsilon, reverse):
    oracle, x = oracle_of("trigonometric", Brownian()), points()
    fresh, prepared = (learned(oracle, ("x0", "x1")) for _ in range(2))
    times = torch.tensor([*SEVEN, *INSIDE], dtype=torch.float64)
    with prepared.prepared(times.tolist(), x, epsilon=epsilon, reverse=reverse):
        for t in times.tolist():
            if epsilon is None:
                first, second = (field.velocity(t, x) for field in (fresh, prepared))
            else:
                first, second = (field.drift(t, x, epsilon, reverse=reverse) for field in (fresh, prepared))
            # Weights are worked out for many times at once or for one: 1e6 roundings at the ends.
            torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


class Changing(Epsilon):
    """A diffusion of a user's, with no hash and a level that changes."""

    __hash__ = None

    def __init__(self, level):
        self.level = level

    def __call__(self, t, path=None):
        return self.level + 0 * t


def test_a_diffusion_that_has_changed_is_asked_again():
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: 0 * x, denoiser=lambda t, x: 1 + 0 * x)
    epsilon, x = Changing(1.0), points()
    for level in (1.0, 3.0):
        epsilon.level = level
        with field.prepared([0.5], x, epsilon=epsilon):
            inside = field.drift(0.5, x, epsilon)
        # -epsilon / gamma, with gamma 1/2 at t = 1/2.
        torch.testing.assert_close(inside, torch.full_like(x, -2 * level), rtol=1e-12, atol=0)
        torch.testing.assert_close(field.drift(0.5, x, epsilon), inside, rtol=1e-12, atol=0)


def test_a_path_that_has_changed_is_asked_again():
    class Power(SpatiallyLinear):
        power = 1.0

        def alpha(self, t):
            return 1 - t**self.power

        def beta(self, t):
            return t**self.power

    path, x = Power(), points()
    field = LearnedField(path, x0=lambda t, x: 0 * x, x1=lambda t, x: 1 + 0 * x)
    for power in (1.0, 3.0):
        path.power = power
        for _ in range(2):
            torch.testing.assert_close(field.velocity(0.5, x), power * 0.5 ** (power - 1) + 0 * x)
            with field.prepared([0.5], x):
                torch.testing.assert_close(field.velocity(0.5, x), power * 0.5 ** (power - 1) + 0 * x)


def test_what_is_no_diffusion_is_refused():
    with pytest.raises(TypeError, match="epsilon must be a diffusion"):
        oracle_of("linear", Brownian()).drift(0.5, points(), 1.0)
    with pytest.raises(TypeError, match="epsilon must be a diffusion"):
        learned(oracle_of("linear", Brownian()), ("velocity", "denoiser")).drift(0.5, points(), 1.0)


def test_gradients_reach_the_diffusion():
    level, x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), points()
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: x, denoiser=lambda t, x: x.cos())
    epsilon = Function(lambda t: level * (1 + t))
    for _ in range(2):
        with field.prepared([0.5], x, epsilon=epsilon):
            (gradient,) = torch.autograd.grad(field.drift(0.5, x, epsilon).sum(), level)
        # d/dc of -c (1 + t) cos(x) / gamma at t = 1/2.
        torch.testing.assert_close(gradient, -(1.5 * x.cos() / 0.5).sum(), rtol=1e-12, atol=1e-12)


def test_conditions_reach_the_networks_of_a_drift():
    seen = []

    def network(t, x, **conditions):
        seen.append(conditions)
        return x

    field = LearnedField(Linear(Brownian()), velocity=network, denoiser=lambda t, x, **conditions: x)
    field.drift(0.3, points(), Constant(1.0), label=3)
    field.drift(0.3, points(), Constant(0.0), label=4)
    field.together(("x1", "score"), 0.3, points(), label=5)
    assert seen == [{"label": 3}, {"label": 4}, {"label": 5}]


def test_an_exact_field_knows_when_its_source_is_standard_normal():
    assert MixtureOracle(Linear(), NORMAL, TARGET).gaussian_source
    assert not MixtureOracle(Linear(), SKEWED, TARGET).gaussian_source


def test_times_in_double_precision():
    assert double(0.1).dtype == double(torch.tensor(0.1)).dtype == torch.float64
    assert float(double(0.1)) == 0.1
    assert double(torch.tensor([0.1, 0.2])).shape == (2,)
    assert vanishes(torch.tensor(0.0))
    assert not vanishes(torch.tensor(0.1))
    # One time of a batch may not speak for the others.
    assert not vanishes(torch.zeros(3))
