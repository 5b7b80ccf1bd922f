import math
import re

import pytest
import torch
from mixture_cases import (
    CENTRED,
    INSIDE,
    NAMES,
    NORMAL,
    SKEWED,
    TARGET,
    learned,
    points,
    points_on,
    relative_errors,
)

from interpolants import (
    Affine,
    Constant,
    EncodingDecoding,
    FieldUnavailable,
    Guided,
    Interpolant,
    LearnedField,
    Linear,
    Mirror,
    MixtureOracle,
    ProportionalToGamma,
    SineSquared,
    SpatiallyLinear,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, Gamma, Quadratic, Zero


def named(value):
    """Without addresses, which differ from one worker to the next."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


QUADRATIC_PATH = Affine(lambda t: 1 - t**2, lambda t: t**2)
# Known path, other path, source, and the accuracy in single precision up to the ends, some three times what
# was measured: a few roundings, 1e-6, unless a weight leaves its end like sqrt(1 - t), as alpha of the
# variance preserving path does, or a Brownian gamma. There its derivative is infinite and the velocity is
# that of a time nearby; and a network that is told times in single precision knows such a weight to
# sqrt(u) = 3e-4.
PATHS = [
    (Linear(), Trigonometric(), SKEWED, 1e-6),
    (Trigonometric(), Linear(), SKEWED, 1e-6),
    (Linear(), QUADRATIC_PATH, SKEWED, 1e-6),
    (Linear(), VariancePreserving(), CENTRED, 1e-3),
    (VariancePreserving(), Linear(), CENTRED, 2e-5),
    (Trigonometric(), VariancePreserving(), CENTRED, 1e-3),
    (VariancePreserving(), Trigonometric(), NORMAL, 2e-5),
    (Linear(Brownian()), VariancePreserving(), NORMAL, 5e-3),
    (Linear(Brownian()), Trigonometric(Quadratic()), NORMAL, 3e-5),
    (Trigonometric(Quadratic()), Linear(Brownian(2.0)), NORMAL, 2e-4),
    (VariancePreserving(gamma=SineSquared()), Linear(Brownian()), NORMAL, 2e-4),
    (Linear(), EncodingDecoding(), NORMAL, 1e-6),
    (EncodingDecoding(), Linear(), NORMAL, 1e-6),
]
every_pair = pytest.mark.parametrize(("known", "other", "source", "accuracy"), PATHS, ids=named)


def answers_on(path, source):
    without = set() if source is NORMAL or not path.gamma.vanishes else {"score"}
    return [n for n in NAMES if n not in without and not (n == "denoiser" and path.gamma.vanishes)]


@every_pair
def test_an_exact_field_along_another_path_is_the_exact_field_of_that_path(known, other, source, accuracy):
    oracle, expected = (MixtureOracle(path, source, TARGET) for path in (known, other))
    field = oracle.along(other)
    assert field.interpolant == other
    assert field.gaussian_source == (source is NORMAL)
    t, x = points_on(expected, (0.01, *INSIDE, 0.5, 0.99), 5)
    for name in [*answers_on(other, source), "score"]:
        truth = getattr(expected, name)(t, x)
        # The matching time to the last digit, where 1 - t is 1e-2 or more, times the path's condition there.
        assert relative_errors(getattr(field, name)(t, x), truth).amax() < 1e-10, name
        for k, time in enumerate((0.01, *INSIDE, 0.5, 0.99)):
            some = slice(5 * k, 5 * k + 5)
            assert relative_errors(getattr(field, name)(time, x[some]), truth[some]).amax() < 1e-10, name


@every_pair
def test_along_another_path_answers_are_accurate_up_to_the_ends(known, other, source, accuracy):
    oracle, expected = (MixtureOracle(path, source, TARGET) for path in (known, other))
    field = oracle.along(other)
    times = (0.0, 1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6, 1.0)
    t, x = points_on(expected, times, 10, torch.float32)
    for name in answers_on(other, source):
        truth = getattr(expected, name)(t.double(), x.double())
        assert relative_errors(getattr(field, name)(t, x), truth).amax() < accuracy, name
        for k, time in enumerate(times):
            some = slice(10 * k, 10 * k + 10)
            answer = getattr(field, name)(time, x[some])
            assert relative_errors(answer, truth[some]).amax() < accuracy, (name, time)


@pytest.mark.parametrize(
    ("known", "networks", "other", "source"),
    [
        (Linear(), ("velocity",), Trigonometric(), SKEWED),
        (VariancePreserving(), ("x0",), Linear(), CENTRED),
        (Linear(Brownian()), ("velocity",), Trigonometric(SineSquared()), NORMAL),
        (Trigonometric(Brownian()), ("velocity", "denoiser"), Trigonometric(Brownian()), SKEWED),
    ],
    ids=named,
)
def test_there_and_back_is_where_it_began(known, networks, other, source):
    oracle = MixtureOracle(known, source, TARGET)
    field = learned(oracle, networks, gaussian_source=source is NORMAL)
    along = field.along(other)
    back = along.along(known)
    x = points()
    for t in INSIDE:
        for name in answers_on(other, source):
            truth = getattr(MixtureOracle(other, source, TARGET), name)(t, x)
            torch.testing.assert_close(getattr(along, name)(t, x), truth, rtol=1e-10, atol=1e-10)
        for name in answers_on(known, source):
            truth = getattr(oracle, name)(t, x)
            torch.testing.assert_close(getattr(back, name)(t, x), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reverse", [False, True])
def test_diffusions_follow_the_new_path(reverse):
    # Two conversions: from the network to the means, and from them to the drift of the other path.
    known, other = Linear(Brownian()), Trigonometric(Quadratic())
    expected = MixtureOracle(other, NORMAL, TARGET)
    field = learned(MixtureOracle(known, NORMAL, TARGET), ("velocity",), gaussian_source=True).along(other)
    x = points()
    for epsilon in (Constant(0.5), ProportionalToGamma(0.7)):
        for t in INSIDE:
            truth = expected.drift(t, x, epsilon, reverse=reverse)
            torch.testing.assert_close(
                field.drift(t, x, epsilon, reverse=reverse), truth, rtol=1e-10, atol=1e-10
            )
    for t in (0.0, 1.0):
        assert field.drift(t, x.float(), Constant(0.5), reverse=reverse).isfinite().all()


class Scaled(Gamma):
    r"""c times (alpha + beta) of a path that runs through time u(t) of the straight line's Brownian one."""

    def __init__(self, factor, time):
        self.factor, self.time = factor, time

    def squared(self, t):
        u = self.time(t)
        return self.factor(t) ** 2 * u * (1 - u)


def test_latent_noise_in_proportion_to_the_ends_may_be_known_from_any_source():
    # On the quarter circle u = beta / (alpha + beta) and c = alpha + beta, by hand.
    def c(t):
        return torch.cos(math.pi / 2 * t) + torch.sin(math.pi / 2 * t)

    other = Trigonometric(Scaled(c, lambda t: torch.sin(math.pi / 2 * t) / c(t)))
    field = MixtureOracle(Linear(Brownian()), SKEWED, TARGET).along(other)
    expected, x = MixtureOracle(other, SKEWED, TARGET), points()
    for t in INSIDE:
        for name in NAMES:
            truth = getattr(expected, name)(t, x)
            torch.testing.assert_close(getattr(field, name)(t, x), truth, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------- errors


class Bent(Interpolant):
    def interpolate(self, t, x0, x1):
        return x0 + t.reshape(-1, 1) ** 2 * (x1 - x0)


def back_and_forth(t):
    return t + 0.3 * torch.sin(2 * math.pi * t)


@pytest.mark.parametrize(
    ("known", "other", "source", "message"),
    [
        (
            Linear(Brownian()),
            Trigonometric(Brownian()),
            SKEWED,
            r"at t = 0.5 Tri.* gamma 0.5 where .* 0.707",
        ),
        (
            Linear(),
            Linear(Brownian()),
            SKEWED,
            "noise in the same proportion .* unless the source is N",
        ),
        (Linear(Brownian()), Linear(), SKEWED, r"has gamma 0 where the field.* knows 0.5"),
        (Linear(), EncodingDecoding(Zero()), SKEWED, "the other path, Enc.* passes through a point"),
        (EncodingDecoding(), Linear(), SKEWED, "the field's path, Enc.* passes through a point"),
        (
            Affine(lambda t: 1 - back_and_forth(t), back_and_forth),
            Linear(),
            SKEWED,
            "share of the target grows with time; on Affine.* it falls",
        ),
    ],
)
def test_paths_that_do_not_match_are_refused_with_the_reason(known, other, source, message):
    with pytest.raises(FieldUnavailable, match=message):
        MixtureOracle(known, source, TARGET).along(other)


def test_a_path_that_goes_back_and_forth_can_be_followed_but_not_known():
    other = Affine(lambda t: 1 - back_and_forth(t), back_and_forth)
    field, x = MixtureOracle(Linear(), SKEWED, TARGET).along(other), points()
    expected = MixtureOracle(other, SKEWED, TARGET)
    for t in INSIDE:
        torch.testing.assert_close(field.velocity(t, x), expected.velocity(t, x), rtol=1e-10, atol=1e-10)


def test_only_spatially_linear_paths_can_be_changed():
    field = LearnedField(Bent(), velocity=lambda t, x: x)
    with pytest.raises(FieldUnavailable, match=r"needs spatially linear .*, and the field's path is"):
        field.along(Linear())
    field = LearnedField(Linear(), velocity=lambda t, x: x)
    with pytest.raises(FieldUnavailable, match=r"needs spatially linear .*, and the other path is"):
        field.along(Bent())


def test_a_field_that_lacks_the_ends_cannot_change_its_path():
    field = LearnedField(Linear(Brownian()), velocity=lambda t, x: x)
    with pytest.raises(FieldUnavailable, match=r"E\[x0\] cannot be derived from the velocity"):
        field.along(Linear(Brownian()))
    # And what was unknown stays so.
    field = LearnedField(Linear(), velocity=lambda t, x: x).along(Trigonometric())
    with pytest.raises(FieldUnavailable, match=r"the score cannot be derived from .* on Trigonometric"):
        field.score(0.5, points())
    assert Mirror(Brownian()).gamma(0.5) > 0


# ------------------------------------------------------------------------------------------ times, conditions


def test_conditions_reach_the_network_and_it_is_evaluated_once():
    seen = []

    def network(t, x, **conditions):
        seen.append((t[0].item(), conditions))
        return x

    field = LearnedField(Linear(), velocity=network).along(Trigonometric())
    field.velocity(0.5, points(), label=3)
    # tan(pi/4) = 1 is the ratio of weights at t = 1/2 of both.
    assert seen == [(pytest.approx(0.5, abs=1e-15), {"label": 3})]
    field.together(("x0", "x1", "velocity"), 0.5, points(), label=4)
    assert [conditions for _, conditions in seen] == [{"label": 3}, {"label": 4}]


def test_derivatives_in_time_follow_through_the_matched_time():
    x, h = points(), 1e-5
    for known, other, source in (
        (Linear(), Trigonometric(), SKEWED),
        (Linear(Brownian()), Trigonometric(Quadratic()), NORMAL),
    ):
        field = MixtureOracle(known, source, TARGET).along(other)
        for name in answers_on(other, source):
            for t in (0.3, 0.7):

                def total(time, name=name, field=field):
                    return getattr(field, name)(time, x).sum()

                # Symmetric differences err by h^2 and 1e-15/h times derivatives of order a hundred.
                expected = (total(t + h) - total(t - h)) / (2 * h)
                time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
                (backward,) = torch.autograd.grad(total(time), time)
                torch.testing.assert_close(backward, expected, rtol=1e-5, atol=1e-5)
                with torch.no_grad():
                    one = torch.ones((), dtype=torch.float64)
                    forward = torch.func.jvp(total, (time.detach(),), (one,))[1]
                torch.testing.assert_close(forward, expected, rtol=1e-5, atol=1e-5)


class Power(torch.nn.Module, SpatiallyLinear):
    """Weights 1 - t^p and t^p."""

    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.__post_init__()

    def alpha(self, t):
        return 1 - t**self.power

    def beta(self, t):
        return t**self.power


def test_gradients_reach_a_learned_path_that_is_changed_to_or_from():
    path, x, h = Power(), points(), 1e-5
    for field in (
        LearnedField(Linear(), velocity=lambda t, x: x.sin() + t[:, None]).along(path),
        LearnedField(path, velocity=lambda t, x: x.sin() + t[:, None]).along(Trigonometric()),
    ):

        def total(power, field=field):
            with torch.no_grad():
                path.power.fill_(power)
            return field.velocity(0.3, x).sum()

        # As above.
        expected = (total(1.5 + h) - total(1.5 - h)) / (2 * h)
        (gradient,) = torch.autograd.grad(total(1.5), path.power)
        torch.testing.assert_close(gradient, expected.detach(), rtol=1e-6, atol=1e-6)


def test_a_guided_field_changes_its_path_as_a_whole_or_part_by_part():
    other, x = Trigonometric(), points()
    parts = [MixtureOracle(Linear(), source, TARGET) for source in (SKEWED, CENTRED)]
    whole = Guided(*parts, 2.5).along(other)
    mixed = Guided(*(part.along(other) for part in parts), 2.5)
    for t in (0.0, *INSIDE, 1.0):
        for name in ("velocity", "x0", "x1", "score"):
            # Affine combinations of the same answers.
            torch.testing.assert_close(
                getattr(whole, name)(t, x), getattr(mixed, name)(t, x), rtol=1e-10, atol=1e-10
            )
