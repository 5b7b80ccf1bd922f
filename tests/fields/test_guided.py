import pytest
import torch
from mixture_cases import INSIDE, NAMES, NORMAL, SEVEN, SKEWED, TARGET, mixture, oracle_of, points

from interpolants import (
    Constant,
    EncodingDecoding,
    FieldUnavailable,
    Guided,
    LearnedField,
    Linear,
    MixtureOracle,
    ProportionalToGamma,
    Trigonometric,
)
from interpolants.gammas import Brownian, Zero

# A class is a part of the target.
ONE_CLASS = mixture([1.0], [[1.0, 1.0]], [[[0.5, -0.2], [-0.2, 0.6]]])
PATH = Linear(Brownian())


def pair(path=PATH, source=SKEWED):
    return MixtureOracle(path, source, ONE_CLASS), MixtureOracle(path, source, TARGET)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.3, 1.0, 2.5, 7])
def test_every_answer_goes_from_the_unconditional_to_the_conditional_by_the_scale(scale):
    towards, away = pair()
    guided, x = Guided(towards, away, scale), points()
    for t in INSIDE:
        together = guided.together(NAMES, t, x)
        for name in NAMES:
            c, u = getattr(towards, name)(t, x), getattr(away, name)(t, x)
            # A handful of roundings of numbers below a hundred.
            torch.testing.assert_close(
                getattr(guided, name)(t, x), u + scale * (c - u), rtol=1e-12, atol=1e-12
            )
            torch.testing.assert_close(together[name], u + scale * (c - u), rtol=1e-12, atol=1e-12)
        for reverse in (False, True):
            for epsilon in (Constant(0.5), ProportionalToGamma(0.7)):
                c, u = (f.drift(t, x, epsilon, reverse=reverse) for f in (towards, away))
                drift = guided.drift(t, x, epsilon, reverse=reverse)
                torch.testing.assert_close(drift, u + scale * (c - u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_guided_score_is_the_gradient_of_the_tilted_density(scale):
    towards, away = pair()
    guided, x, h = Guided(towards, away, scale), points(), 1e-5
    for t in INSIDE:
        for k in range(2):
            step = h * torch.eye(2, dtype=torch.float64)[k]

            def tilted(x, t=t):
                return scale * towards.log_density(t, x) + (1 - scale) * away.log_density(t, x)

            # Symmetric differences: h^2 times third derivatives, and 1e-15 / h.
            slope = (tilted(x + step) - tilted(x - step)) / (2 * h)
            torch.testing.assert_close(guided.score(t, x)[:, k], slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guided_answers_satisfy_the_equations_of_the_path(scale):
    guided, x = Guided(*pair(), scale), points()
    for t in INSIDE:
        answers = guided.together(NAMES, t, x)
        gamma = (t * (1 - t)) ** 0.5
        slope = (1 - 2 * t) / (2 * gamma)
        point = (1 - t) * answers["x0"] + t * answers["x1"] + gamma * answers["denoiser"]
        velocity = answers["x1"] - answers["x0"] + slope * answers["denoiser"]
        # The weights add up to 1, so that x is x.
        torch.testing.assert_close(point, x, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(velocity, answers["velocity"], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(-answers["denoiser"] / gamma, answers["score"], rtol=1e-11, atol=1e-11)


def test_the_scale_may_follow_time():
    towards, away = pair()
    guided, x = Guided(towards, away, lambda t: 3.0 if t > 0.5 else 1.0), points(4)
    for t, scale in ((0.2, 1.0), (0.7, 3.0)):
        expected = Guided(towards, away, scale)
        for time in (t, torch.tensor(t, dtype=torch.float64)):
            assert torch.equal(guided.velocity(time, x), expected.velocity(time, x))
            assert torch.equal(guided.drift(time, x, Constant(0.5)), expected.drift(time, x, Constant(0.5)))
    times = torch.tensor([0.2, 0.7, 0.9, 0.4], dtype=torch.float64)
    for name, answers in guided.together(NAMES, times, x).items():
        for k, scale in enumerate((1.0, 3.0, 3.0, 1.0)):
            alone = getattr(Guided(towards, away, scale), name)(float(times[k]), x[k : k + 1])
            # Batched solves may round differently.
            torch.testing.assert_close(answers[k : k + 1], alone, rtol=1e-11, atol=1e-11)
    # In double precision also where the scale is no short number.
    varied = Guided(towards, away, lambda t: 1 + t / 3)
    for k, answer in enumerate(varied.velocity(times, x)):
        alone = varied.velocity(float(times[k]), x[k : k + 1])[0]
        torch.testing.assert_close(answer, alone, rtol=1e-11, atol=1e-11)
    # Images, each with its time.
    field = LearnedField(Linear(), velocity=lambda t, x: x)
    mixed = Guided(field, LearnedField(Linear(), velocity=lambda t, x: 0 * x), lambda t: 10 * t)
    velocity = mixed.velocity(torch.tensor([0.1, 0.5]), torch.ones(2, 3, 4, 4))
    assert velocity[:, 0, 0, 0].tolist() == pytest.approx([1.0, 5.0], rel=1e-6)


class Counted:
    def __init__(self):
        self.seen = []

    def __call__(self, t, x, **conditions):
        self.seen.append(conditions)
        return 0 * x + conditions.get("label", 0.0)


def test_null_conditions_replace_those_of_the_unconditional_field_alone():
    network = Counted()
    field = LearnedField(Linear(), velocity=network)
    guided = Guided(field, field, 3.0, null={"label": 1.0})
    assert torch.equal(guided.velocity(0.5, torch.zeros(2, 2), label=5.0, other=2), torch.full((2, 2), 13.0))
    given, null = {"label": 5.0, "other": 2}, {"label": 1.0, "other": 2}
    assert sorted(network.seen, key=str) == sorted([given, null], key=str)
    network.seen.clear()
    guided.drift(0.5, torch.zeros(2, 2), Constant(0.0), label=5.0, other=2)
    assert sorted(network.seen, key=str) == sorted([given, null], key=str)


def test_at_scale_one_the_unconditional_field_is_not_evaluated():
    towards, away = Counted(), Counted()
    fields = [LearnedField(Linear(), velocity=network) for network in (towards, away)]
    Guided(*fields, 1.0).velocity(0.5, points())
    Guided(*fields, lambda t: 1.0).velocity(0.5, points())
    assert (len(towards.seen), len(away.seen)) == (2, 0)
    Guided(*fields, 2.0).velocity(0.5, points())
    assert (len(towards.seen), len(away.seen)) == (3, 1)


def test_together_shares_evaluations_within_each_field():
    networks = Counted(), Counted()
    fields = [LearnedField(Linear(), velocity=network) for network in networks]
    guided = Guided(*fields, 2.0)
    with guided.prepared([0.5], points(), ("x1", "x0")):
        assert list(guided.together(("x1", "velocity", "x0"), 0.5, points())) == ["x1", "velocity", "x0"]
    assert [len(network.seen) for network in networks] == [1, 1]


def test_what_one_of_the_fields_lacks_is_unavailable():
    full = LearnedField(PATH, velocity=Counted(), denoiser=Counted())
    part = LearnedField(PATH, velocity=Counted())
    for guided in (Guided(full, part, 2.0), Guided(part, full, 2.0)):
        guided.require("velocity")
        with pytest.raises(FieldUnavailable, match="the score cannot be derived"):
            guided.require("velocity", "score")
        with pytest.raises(FieldUnavailable, match="the score cannot be derived"):
            guided.score(0.5, points())


def test_guided_answers_are_finite_at_the_ends_in_single_precision():
    guided, x = Guided(*pair(), 4.0), points().float()
    for t in SEVEN:
        for name in NAMES:
            answer = getattr(guided, name)(t, x)
            assert answer.dtype == torch.float32
            assert answer.isfinite().all()


def test_the_source_is_gaussian_and_kinks_are_known_only_if_both_say_so():
    normal, skewed = (oracle_of("linear", Zero(), source) for source in (NORMAL, SKEWED))
    assert Guided(normal, normal, 2.0).gaussian_source
    assert not Guided(normal, skewed, 2.0).gaussian_source
    assert not Guided(skewed, normal, 2.0).gaussian_source
    field = LearnedField(EncodingDecoding(), velocity=Counted())
    assert Guided(field, field, 2.0).kinks == (0.5,)
    assert Guided(field, field, 2.0).interpolant == EncodingDecoding()


def test_fields_of_different_paths_are_refused():
    linear, quarter = (oracle_of(family, Zero()) for family in ("linear", "trigonometric"))
    with pytest.raises(ValueError, match=r"of one path.*Linear\(.* and Trigonometric\(.*bring one along"):
        Guided(linear, quarter, 2.0)
    assert Guided(linear.along(Trigonometric()), quarter, 2.0).interpolant == Trigonometric()


@pytest.mark.parametrize("scale", [None, True, "3", torch.tensor(2.0)])
def test_a_scale_must_be_a_number_or_a_function(scale):
    field = oracle_of("linear", Zero())
    with pytest.raises(TypeError, match="scale must be a number or a function of time; got"):
        Guided(field, field, scale)


def test_what_is_no_field_is_refused():
    field = oracle_of("linear", Zero())
    with pytest.raises(TypeError, match="unconditional must be a Field, such as LearnedField"):
        Guided(field, Counted(), 2.0)
    with pytest.raises(TypeError, match=r"^conditional must be a Field, such as LearnedField"):
        Guided(Counted(), field, 2.0)
