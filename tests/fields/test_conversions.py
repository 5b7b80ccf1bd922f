import copy
import re

import pytest
import torch
from mixture_cases import (
    CENTRED,
    INSIDE,
    NAMES,
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
from torch.autograd import forward_ad

from interpolants import (
    EncodingDecoding,
    FieldUnavailable,
    Gamma,
    LearnedField,
    Linear,
    Mirror,
    MixtureOracle,
    SineSquared,
    SpatiallyLinear,
)
from interpolants.fields.conversions import combine, combine_some
from interpolants.gammas import Brownian, Quadratic, Zero

GAMMAS = {"zero": Zero(), "brownian": Brownian(), "quadratic": Quadratic(), "sine squared": SineSquared()}
# Accuracy in single precision, u = 1.2e-7, of what follows from networks that are exact to rounding, relative
# to 1 plus its size: the worst of ten points each at t = 0, 1e-6, 1 - 1e-6 and 1 (left of each pair) and at
# 1e-3 and 1 - 1e-3 (right); a dot is 1e-6, several roundings. "N:" says that the source is N(0, Id). At 1/2
# everything is good to 5e-6. Bounds are some three times what was measured.
#
# Weights that grow like d^-k towards an end amplify rounding to u d^-k, and taking the answer at another
# time, d away, costs d. Where the two are equal both are u^(1/(k + 1)), which no method can better much:
#     k      1/2     1       3/2     2       3       4        z from x0, x1 on x = ... + gamma z has
#     level  2e-5    3e-4    2e-3    5e-3    2e-2    4e-2     k = 1/2, 1 and 2 for the three gammas, and
# the score one gamma more; times how fast the truth moves, up to 30, and pi^4 less in sin^4. The flat
# weights t^2 make E[x1] beside them k = 1; the steep one, alpha ~ sqrt(1 - t) at t = 1, is read off 1e-9 from
# it, sqrt(1e-9) = 3e-5, and beta' is only 1/20 at the ends. What is no better than 1e-2 is there because
# training those networks was a poor choice for that answer.
TABLE = """
gamma         networks          answer      smooth      |    steep    |    flat
zero          velocity          x0             .     . |  2e-3     . |  1e-3  1e-3
zero          velocity          x1             .     . |     .     . |  2e-3  5e-4
zero          x1                velocity    5e-3  5e-4 |  3e-2  3e-4 |  5e-3  1e-3
zero          x1                x0          5e-3  5e-4 |  5e-2  1e-4 |  1e-2  3e-2
zero          N:velocity        score       3e-3  3e-4 |  3e-5     . |  5e-1  3e-1
zero          N:velocity        x0          2e-6     . |  1e-3     . |  3e-3  5e-4
zero          N:velocity        x1             .     . |     .     . |  1e-3  5e-4

brownian      velocity+denoiser score       3e-4     . |  2e-4     . |  5e-4     .
brownian      velocity+denoiser x0          2e-4     . |  3e-3     . |  1e-3  3e-4
brownian      velocity+denoiser x1          2e-4     . |  5e-5  3e-6 |  5e-4  5e-4
brownian      velocity+score    denoiser       .     . |     .     . |     .     .
brownian      velocity+score    x0          2e-4     . |  3e-3     . |  1e-3  3e-4
brownian      velocity+score    x1          2e-4     . |  5e-5  3e-6 |  5e-4  5e-4
brownian      denoiser+x1       velocity    5e-3  5e-4 |  2e-2  2e-4 |  1e-2  5e-4
brownian      denoiser+x1       score       3e-4     . |  2e-4     . |  5e-4     .
brownian      denoiser+x1       x0          1e-2  5e-4 |  5e-2  1e-4 |  2e-2  2e-2
brownian      x0+x1             velocity    3e-2  3e-4 |  1e-2  3e-4 |  1e-2  2e-4
brownian      x0+x1             score       5e-3  5e-4 |  3e-3  3e-4 |  1e-2  5e-4
brownian      x0+x1             denoiser    3e-5  5e-5 |  2e-5  3e-5 |  2e-5  5e-5
brownian      N:velocity        score       5e-4  3e-6 |  2e-3     . |  1e-3  2e-6
brownian      N:velocity        denoiser       .     . |     .     . |     .     .
brownian      N:velocity        x0          3e-4     . |  2e-2     . |  5e-4     .
brownian      N:velocity        x1          2e-4     . |  5e-5  3e-6 |  2e-4  3e-4

quadratic     velocity+denoiser score       5e-3     . |  2e-4     . |  1e-2     .
quadratic     velocity+denoiser x0             .     . |  2e-3     . |  2e-3  1e-3
quadratic     velocity+denoiser x1             .     . |     .     . |  2e-3  1e-3
quadratic     velocity+score    denoiser       .     . |     .     . |     .     .
quadratic     velocity+score    x0             .     . |  2e-3     . |  2e-3  1e-3
quadratic     velocity+score    x1             .     . |     .     . |  2e-3  1e-3
quadratic     denoiser+x1       velocity    1e-2  5e-4 |  5e-2  1e-3 |  5e-3  5e-4
quadratic     denoiser+x1       score       5e-3     . |  2e-4     . |  1e-2     .
quadratic     denoiser+x1       x0          1e-2  1e-3 |  5e-2  1e-4 |  2e-2  2e-2
quadratic     x0+x1             velocity    1e-1  2e-3 |  5e-2  1e-3 |  5e-3  1e-3
quadratic     x0+x1             score       1e-1  5e-2 |  2e-2  2e-2 |  2e-1  1e-1
quadratic     x0+x1             denoiser    1e-5  2e-3 |  5e-6  1e-3 |  5e-6  2e-3
quadratic     N:velocity        score       3e-2  2e-2 |  2e-3  2e-3 |  1e-1  5e-2
quadratic     N:velocity        denoiser    2e-6  5e-6 |     .     . |  2e-6     .
quadratic     N:velocity        x0          3e-3     . |  3e-3     . |  3e-3     .
quadratic     N:velocity        x1             .     . |     .     . |  1e-3  2e-4

sine-squared  velocity+denoiser score       3e-2  1e-2 |  2e-3  2e-3 |  5e-2  2e-2
sine-squared  velocity+denoiser x0             .     . |  2e-3     . |  1e-3  1e-3
sine-squared  velocity+denoiser x1             .     . |     .     . |  2e-3  5e-4
sine-squared  velocity+score    denoiser       .     . |     .     . |     .     .
sine-squared  velocity+score    x0             .     . |  2e-3     . |  1e-3  1e-3
sine-squared  velocity+score    x1             .     . |     .     . |  2e-3  5e-4
sine-squared  denoiser+x1       velocity    5e-3  1e-3 |  3e-2  5e-4 |  5e-3  1e-3
sine-squared  denoiser+x1       score       3e-2  1e-2 |  2e-3  2e-3 |  5e-2  2e-2
sine-squared  denoiser+x1       x0          5e-3  5e-4 |  5e-2  1e-4 |  2e-2  2e-2
sine-squared  x0+x1             velocity    1e-1  2e-3 |  5e-2  2e-3 |  1e-2  2e-3
sine-squared  x0+x1             score       3e-1  2e-1 |  5e-2  5e-2 |  5e-1  5e-1
sine-squared  x0+x1             denoiser       .  2e-3 |     .  1e-3 |     .  2e-3
sine-squared  N:velocity        score       1e-1  1e-1 |  1e-2  1e-2 |  2e-1  2e-1
sine-squared  N:velocity        denoiser       .  2e-4 |     .     . |     .  1e-4
sine-squared  N:velocity        x0          2e-6     . |  1e-3     . |  5e-5  3e-5
sine-squared  N:velocity        x1             .     . |     .     . |  1e-3  2e-4
"""
GROUPS = {
    "smooth": ("linear", "trigonometric", "mirror", "encoding-decoding"),
    "steep": ("variance preserving",),
    "flat": ("affine", "flat start"),
}


def named(value):
    """Without addresses, which differ from one worker to the next."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def rows_of_the_table():
    for line in TABLE.strip().splitlines()[1:]:
        if line:
            gamma, networks, answer, *bounds = line.replace("|", " ").split()
            numbers = [1e-6 if bound == "." else float(bound) for bound in bounds]
            pairs = dict(zip(GROUPS, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
            yield pytest.param(
                gamma.replace("-", " "), networks, answer, pairs, id=f"{gamma} {networks} {answer}"
            )


def source_of(family, networks):
    if networks.startswith("N:"):
        return NORMAL
    return CENTRED if family == "variance preserving" else SKEWED


def times_that_tell(family, gamma, answer):
    if family != "encoding-decoding":
        return SEVEN
    # The source has weight 0 from the middle on and the target before: nothing is told of them. Without
    # latent noise every path meets in a point.
    times = [t for t in SEVEN if t != 0.5 or gamma != "zero"]
    return [t for t in times if not (answer == "x0" and t >= 0.5) and not (answer == "x1" and t <= 0.5)]


def errors_in_single_precision(family, gamma, networks, answer):
    oracle = oracle_of(family, GAMMAS[gamma], source_of(family, networks))
    field = learned(oracle, networks.removeprefix("N:").split("+"), gaussian_source=networks.startswith("N:"))
    t, x = points_on(oracle, times_that_tell(family, gamma, answer), 10, torch.float32)
    truth = getattr(oracle, answer)(t.double(), x.double())
    errors = relative_errors(getattr(field, answer)(t, x), truth)
    distance = torch.minimum(t, 1 - t)
    return [float(errors[where].amax()) for where in (distance < 1e-4, distance.sub(1e-3).abs() < 1e-4)] + [
        float(errors[distance == 0.5].amax()) if (distance == 0.5).any() else 0.0
    ]


def told(family, gamma, networks, answer):
    """Whether these networks tell the answer at all: not what has weight 0."""
    if family == "mirror":  # x0 is not part of it, and without it and gamma nothing moves.
        return answer != "x0" and not networks.startswith("N:") and gamma != "zero"
    return family != "encoding-decoding" or (gamma, networks, answer) != ("zero", "N:velocity", "score")


@pytest.mark.parametrize(("gamma", "networks", "answer", "bounds"), list(rows_of_the_table()))
def test_answers_are_finite_and_accurate_up_to_the_ends_in_single_precision(gamma, networks, answer, bounds):
    for group, (at_ends, close) in bounds.items():
        for family in GROUPS[group]:
            if told(family, gamma, networks, answer):
                worst = errors_in_single_precision(family, gamma, networks, answer)
                for error, bound in zip(worst, (at_ends, close, 5e-6), strict=True):
                    assert error <= bound, (family, worst)


@pytest.mark.parametrize(
    ("family", "gamma", "networks", "answer"),
    [
        ("encoding-decoding", "sine squared", "denoiser+x1", "velocity"),
        ("encoding-decoding", "brownian", "N:velocity", "score"),
        ("mirror", "brownian", "velocity+denoiser", "score"),
        ("mirror", "sine squared", "velocity+denoiser", "x1"),
    ],
)
def test_the_middle_where_derivatives_vanish_is_no_exception(family, gamma, networks, answer):
    # There a velocity says nothing, or x and the denoiser say the same, and something else must be used.
    oracle, x = oracle_of(family, GAMMAS[gamma], source_of(family, networks)), points()
    names = networks.removeprefix("N:").split("+")
    field = learned(oracle, names, gaussian_source=networks.startswith("N:"))
    truth = getattr(oracle, answer)(0.5, x)
    torch.testing.assert_close(getattr(field, answer)(0.5, x), truth, rtol=1e-12, atol=1e-12)
    # Nor where it comes in a batch with other times.
    t = torch.tensor([0.4, 0.5, 0.5, 0.6, 0.45], dtype=torch.float64)
    if answer in ("score", "velocity"):
        torch.testing.assert_close(
            getattr(field, answer)(t, x), getattr(oracle, answer)(t, x), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(("answer", "t"), [("x1", 0.0), ("x1", 0.3), ("x1", 0.5), ("x0", 0.5), ("x0", 1.0)])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_what_has_weight_zero_is_unavailable_at_that_time_alone(answer, t, as_tensor):
    field = learned(oracle_of("encoding-decoding", SineSquared()), ("velocity", "denoiser"))
    time = torch.tensor([t, 1 - t, t], dtype=torch.float64) if as_tensor else t
    with pytest.raises(FieldUnavailable, match=rf"E\[{answer}\] does not follow from the velocity and the "):
        getattr(field, answer)(time, points(3))
    assert getattr(field, answer)(0.25 if answer == "x0" else 0.75, points(3)).isfinite().all()


def test_moved_times_are_as_near_as_rounding_allows():
    asked = []

    def network(t, x):
        asked.append(t[0].item())
        return x

    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: x, denoiser=network)
    for dtype in (torch.float32, torch.float64):
        for t in (0.0, 1e-6, 1e-3, 1 - 1e-3, 1.0):
            field.score(t, torch.ones(1, 1, dtype=dtype))
    low, also_low, *same, high = asked[:5]
    # u / sqrt(d) = d at d = u^(2/3) = 2.4e-5: the grid of distances is within a factor 1.2 of that.
    assert low == also_low == pytest.approx(2.4e-5, rel=0.2)
    assert 1 - high == pytest.approx(2.4e-5, rel=0.2)
    # Single precision, in which the network is told the time.
    assert same == pytest.approx([1e-3, 1 - 1e-3], rel=1e-7)
    # In double precision u^(2/3) = 4e-11, and no time is taken nearer than 2^-30.
    assert asked[5:] == [2.0**-30, 1e-6, 1e-3, 1 - 1e-3, 1 - 2.0**-30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_truth_is_infinite_the_answer_is_that_of_a_time_nearby(dtype):
    # alpha' is infinite at t = 1 and the mean of the source is not 0.
    oracle, x = oracle_of("variance preserving", Zero()), points().to(dtype)
    told = []

    def x1(t, x):
        told.append(t)
        return oracle.x1(t, x)

    velocity = LearnedField(oracle.interpolant, x0=oracle.x0, x1=x1).velocity(1.0, x)
    assert 0 < 1 - float(told[0][0]) < 3 * torch.finfo(dtype).eps ** 0.4
    # An error of u beside weights that grow like d^(-1/2).
    torch.testing.assert_close(velocity, oracle.velocity(told[0], x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("t", [1.0, torch.ones(5)], ids=["float", "(B,)"])
def test_a_velocity_that_is_infinite_is_asked_for_at_a_time_nearby(t):
    # As above; and E[x0] and E[x1] are finite all the same.
    oracle, x = oracle_of("variance preserving", Zero()), points()
    assert oracle.velocity(1.0, x).isinf().all()
    field = learned(oracle, ("velocity",))
    # The steep level of the table.
    for name in ("x0", "x1"):
        assert (
            relative_errors(getattr(field, name)(t, x.float()), getattr(oracle, name)(1.0, x)).amax() < 5e-3
        )


# ----------------------------------------------------------------------------------------------------- times


EVERYTHING = [
    ("linear", Zero(), "velocity"),
    ("trigonometric", Zero(), "N:velocity"),
    ("linear", Brownian(), "velocity+denoiser"),
    ("encoding-decoding", SineSquared(), "velocity+denoiser"),
    ("mirror", Quadratic(), "velocity+denoiser"),
    ("variance preserving", Quadratic(), "N:velocity"),
    ("affine", Brownian(), "denoiser+x1"),
]
every_kind = pytest.mark.parametrize(("family", "gamma", "networks"), EVERYTHING, ids=named)


def made(family, gamma, networks):
    oracle = oracle_of(family, gamma, source_of(family, networks))
    names = networks.removeprefix("N:").split("+")
    return learned(oracle, names, gaussian_source=networks.startswith("N:"))


def available(field, t):
    for name in NAMES:
        try:
            getattr(field, name)(t, points(1))
        except FieldUnavailable:
            continue
        yield name


@every_kind
def test_a_time_per_row_a_tensor_and_a_float_are_the_same_time(family, gamma, networks):
    field, x = made(family, gamma, networks), points(5)
    for t in (0.0, 1e-6, 0.35, 0.5, 0.7, 1 - 1e-3, 1.0):
        scalar = torch.tensor(t, dtype=torch.float64)
        for dtype in (torch.float64, torch.float32):
            u = torch.finfo(dtype).eps
            # Rounding, times weights below a thousand inside, and as in the table for k = 2 at the ends.
            tolerance = 1000 * u if t in (0.35, 0.5, 0.7) else u ** (1 / 3)
            for name in available(field, t):
                floats = getattr(field, name)(t, x.to(dtype))
                assert floats.dtype == dtype
                for other in (scalar, scalar.expand(5)):
                    answer = getattr(field, name)(other, x.to(dtype))
                    assert answer.dtype == dtype
                    assert relative_errors(answer, floats.double()).amax() < tolerance, (name, t)


@pytest.mark.parametrize("t", [1.0, torch.ones(5, dtype=torch.float64)], ids=["float", "(B,)"])
def test_a_weight_of_zero_leaves_out_what_is_infinite(t):
    # x1 = x + (1 - t) b, and at t = 1 nothing is left of b.
    field, x = LearnedField(Linear(), velocity=lambda t, x: x / (1 - t[:, None])), points()
    assert torch.equal(field.x1(t, x), x)


def test_a_derivative_in_time_is_there_where_a_weight_is_zero():
    field, x = LearnedField(Linear(), velocity=lambda t, x: x.sin()), points()
    time = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(field.x1(time, x).sum(), time)
    torch.testing.assert_close(slope, -x.sin().sum(), rtol=1e-12, atol=1e-12)


@every_kind
def test_derivatives_in_time_are_those_of_finite_differences(family, gamma, networks):
    field, x, h = made(family, gamma, networks), points(5), 1e-5
    for t in (0.3, 0.7):
        for name in available(field, t):

            def total(time, name=name):
                return getattr(field, name)(time, x).sum()

            # Symmetric differences err by h^2 and 1e-16/h times what derivatives there are, up to 1e4.
            expected = (total(t + h) - total(t - h)) / (2 * h)
            time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
            (backward,) = torch.autograd.grad(total(time), time)
            forward = torch.func.jvp(total, (time.detach(),), (torch.ones_like(time.detach()),))[1]
            torch.testing.assert_close(backward, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(forward, expected, rtol=1e-5, atol=1e-5)
    # And with torch's own dual numbers, as far as the derivatives of the path are written out.
    if family != "affine":
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(time.detach(), torch.ones_like(time.detach()))
            tangent = forward_ad.unpack_dual(total(dual)).tangent
        torch.testing.assert_close(tangent, forward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [Linear(Brownian()), EncodingDecoding(), Mirror(Quadratic())], ids=repr)
def test_times_may_be_mapped_over(path):
    # A network without linear algebra that looks at values, which vmap cannot follow.
    field = LearnedField(path, velocity=lambda t, x: x.sin(), denoiser=lambda t, x: t[:, None] * x)
    x, times = points(3), torch.tensor([0.1, 0.3, 0.4], dtype=torch.float64)
    for names in (("score",), ("x0", "score") if not isinstance(path, Mirror) else ("x1", "score")):
        mapped = torch.func.vmap(lambda t, names=names: field.together(names, t, x))(times)
        for name in names:
            expected = torch.stack([getattr(field, name)(t, x) for t in times])
            torch.testing.assert_close(mapped[name], expected, rtol=1e-12, atol=1e-12)


def test_what_is_unavailable_at_some_of_the_times_mapped_over_is_an_error():
    field = LearnedField(EncodingDecoding(), velocity=lambda t, x: x, denoiser=lambda t, x: x)
    x = points(3)
    with pytest.raises(FieldUnavailable, match="at some times, though it does at other times"):
        torch.func.vmap(lambda t: field.x1(t, x))(torch.tensor([0.2, 0.7]).double())


@pytest.mark.slow
def test_conversions_can_be_compiled():
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: 2 * x, denoiser=lambda t, x: x.sin())
    x = points()
    compiled = torch.compile(lambda t, x: field.x1(t, x), backend="eager")
    time = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(compiled(time, x), field.x1(0.3, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_up_to_the_ends(dtype):
    # Networks that answer the same everywhere, where every quantity can be worked out by hand:
    # x1 = x + (1 - t) b - (gamma' (1 - t) + gamma) z on Linear, with gamma = t (1 - t).
    field = LearnedField(
        Linear(Quadratic()), velocity=lambda t, x: 0 * x + 1, denoiser=lambda t, x: 0 * x + 0.5
    )
    x = torch.ones(3, 2, dtype=dtype)
    for t in (*SEVEN, *INSIDE):
        told = float(torch.tensor(t).to(dtype))
        gamma, slope = told * (1 - told), 1 - 2 * told
        expected = 1 + (1 - told) - (slope * (1 - told) + gamma) * 0.5
        answers = field.together(("x0", "x1", "score"), t, x)
        # Sums of three terms of order 1.
        assert (answers["x1"].double() - expected).abs().amax() < 4 * torch.finfo(dtype).eps
        assert all(answer.dtype == dtype and answer.isfinite().all() for answer in answers.values())


# ----------------------------------------------------------------------------------- paths that are learned


class Power(torch.nn.Module, SpatiallyLinear):
    """Weights 1 - t^p and t^p."""

    def __init__(self, gamma=None):
        torch.nn.Module.__init__(self)
        self.power = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        if gamma is not None:
            self.gamma = gamma
        self.__post_init__()

    def alpha(self, t):
        return 1 - t**self.power

    def beta(self, t):
        return t**self.power


class Bump(Gamma, torch.nn.Module):
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.height = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def squared(self, t):
        return (self.height * t * (1 - t)).square()


@pytest.mark.parametrize("t", [0.3, torch.full((4,), 0.3, dtype=torch.float64)], ids=["float", "(B,)"])
def test_gradients_reach_a_learned_path_and_nothing_old_is_kept(t):
    path, x = Power(), points(4)
    field = LearnedField(path, velocity=lambda t, x: x.sin())
    for power in (1.5, 2.5):
        with torch.no_grad():
            path.power.fill_(power)
        # x1 = x + (1 - beta) b / beta' = x + (1 - t^p) b / (p t^(p - 1)), by hand.
        p = torch.tensor(power, dtype=torch.float64, requires_grad=True)
        expected = x + (1 - 0.3**p) / (p * 0.3 ** (p - 1)) * x.sin()
        answer = field.x1(t, x)
        torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(answer.square().sum(), path.power)
        (by_hand,) = torch.autograd.grad(expected.square().sum(), p)
        torch.testing.assert_close(gradient, by_hand, rtol=1e-12, atol=1e-12)


def test_gradients_reach_a_learned_gamma():
    gamma, x = Bump(), points(4)
    field = LearnedField(Linear(gamma), velocity=lambda t, x: x, denoiser=lambda t, x: x.sin())
    score = field.score(0.5, x)
    torch.testing.assert_close(score, -x.sin() / (0.25 * 0.7), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(score.sum(), gamma.height)
    torch.testing.assert_close(gradient, (x.sin() / (0.25 * 0.49)).sum(), rtol=1e-12, atol=1e-12)


def test_times_are_moved_as_far_as_the_path_asks_for_now():
    path = Power()
    oracle, x = MixtureOracle(path, SKEWED, TARGET), points()
    field = learned(oracle, ("velocity",))
    for power in (1.0, 2.0):
        with torch.no_grad():
            path.power.fill_(power)
            # Straight, and then the table's flat weights: not moved, their 1/t would make errors of 100.
            error = relative_errors(field.x1(0.0, x.float()), oracle.x1(0.0, x)).amax()
        assert error < 5e-3


def test_a_learned_path_is_finite_at_the_ends():
    path, x = Power(), points(4).float()
    field = LearnedField(path, velocity=lambda t, x: x)
    for t in SEVEN:
        for name in ("x0", "x1"):
            assert getattr(field, name)(t, x).isfinite().all()
    copied = copy.deepcopy(field)
    assert torch.equal(copied.x1(0.5, x), field.x1(0.5, x))


# ------------------------------------------------------------------------------------------------ equations


def test_combine_reaches_what_can_be_reached_and_says_where_it_cannot():
    def rows(*values):
        return torch.tensor(values, dtype=torch.float64)

    # 2 (1, 0, 1) - 3 (0, 1, 1) = (2, -3, -1); at the second time the rows are the same.
    known = [rows([1, 0, 1], [1, 0, 1]), rows([0, 1, 1], [1, 0, 1])]
    weights = combine(known, rows([2, -3, -1], [2, 0, 2]))
    torch.testing.assert_close(weights[0], rows(2, -3), rtol=1e-15, atol=0)
    assert weights[1].isnan().all()
    # One of two rows that say the same is enough.
    torch.testing.assert_close(combine_some(known, rows([2, -3, -1], [2, 0, 2])).sum(-1), rows(-1, 2))
    # Almost is not enough.
    assert combine([known[0][:1], known[1][:1]], rows([2, -3, -1 + 1e-6])).isnan().all()
    # Out of reach, however many.
    assert not combine_some(known, rows([0, 0, 1], [0, 1, 0])).isfinite().all(-1).any()
    # Three rows, by hand: (1, 2, 3) = 3 (1, 1, 1) - (1, 1, 0) - (1, 0, 0).
    three = [rows([1, 1, 1]), rows([1, 1, 0]), rows([1, 0, 0])]
    torch.testing.assert_close(combine(three, rows([1, 2, 3])), rows([3, -1, -1]), rtol=1e-15, atol=0)
    # More rows than columns leave it open.
    assert combine([rows([1.0, 0]), rows([0, 1.0]), rows([1.0, 1])], rows([1.0, 0])).isnan().all()


def test_combine_keeps_small_weights_beside_large_ones_exact():
    known = torch.tensor([[1.0, 1e-9, 0.0], [0.0, 1e-9, 0.0], [0.0, 0.0, 1e9]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 3e-9, 7.0]], dtype=torch.float64)
    weights = combine(known.unsqueeze(1).unbind(0), wanted)
    expected = torch.tensor([[1.0, 2.0, 7e-9]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
