import contextlib
import dataclasses
import math
import pickle

import pytest
import torch
from torch import nn

from interpolants import (
    Affine,
    DataOracle,
    EncodingDecoding,
    Field,
    GaussianMixture,
    Interpolant,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    SpatiallyLinear,
    Trigonometric,
    VariancePreserving,
)
from interpolants.fields import FieldUnavailable
from interpolants.gammas import Brownian, Zero
from interpolants.samplers import DDIMSampler

PATHS = [Linear(), Trigonometric(), VariancePreserving()]
STEPS = [1, 2, 4, 8, 16, 32, 64, 128]


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


NORMAL = mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
TARGET = mixture(
    [0.5, 0.5], [[1.0, 1.0], [0.5, -1.0]], [[[0.5, -0.2], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.4]]]
)


def oracle_of(path):
    return MixtureOracle(path, NORMAL, TARGET)


def starts(n=4):
    return NORMAL.sample(n, generator=torch.Generator().manual_seed(0))


def euler_on_linear(field, x, times, *, reverse=False):
    """The end of Euler's steps on Linear between the same ratios of noise and data, scaled to and fro."""
    t = torch.tensor(times, dtype=torch.float64)
    alpha, beta = field.interpolant.alpha(t), field.interpolant.beta(t)
    first, last = (-1, 0) if reverse else (0, -1)
    sampler = ODESampler("euler", times=(beta / (alpha + beta)).tolist())
    final = sampler.sample(field.along(Linear()), x / (alpha + beta)[first], reverse=reverse).final
    return (alpha + beta)[last] * final


class Plain(Field):
    """A field from functions for its two ends, that remembers how it was asked."""

    gaussian_source = True

    def __init__(self, path, x0, x1=None):
        self.interpolant = path
        self.ends = {"x0": x0, "x1": x1}
        self.asked = []

    def x0(self, t, x, **conditions):
        self.asked.append(("x0", t, x.dtype))
        return self.ends["x0"](t, x, **conditions)

    def x1(self, t, x, **conditions):
        self.asked.append(("x1", t, x.dtype))
        return self.ends["x1"](t, x, **conditions)

    def velocity(self, t, x):
        raise AssertionError("DDIM asks for the ends alone")

    score = denoiser = velocity


# ------------------------------------------------------------------------------- the same as Euler's steps


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_ddim_is_euler_on_the_linear_path_between_the_same_times(path, steps):
    field, x = oracle_of(path), starts()
    times = [k / steps for k in range(steps + 1)]
    answer = DDIMSampler(steps=steps).sample(field, x).final
    # Roundings of 1e-16, divided by beta / alpha: at most 1 / 128, and 2e-4 on the variance-preserving path.
    torch.testing.assert_close(answer, euler_on_linear(field, x, times), rtol=0, atol=1e-11)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_inversion_is_euler_on_the_linear_path_in_reverse(path):
    # At t = 1 the noise is not seen on VariancePreserving, where the matched time has lost all digits of it.
    times = [0.0, 0.1, 0.35, 0.8, 0.95]
    field, x = oracle_of(path), starts()
    answer = DDIMSampler(times=times).sample(field, x, reverse=True).final
    expected = euler_on_linear(field, x, times, reverse=True)
    # A few roundings, amplified by at most 1 / alpha.
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_every_point_on_the_way_is_eulers(reverse):
    field, x = oracle_of(Linear()), starts()
    ours = DDIMSampler(steps=8).sample(field, x, reverse=reverse)
    theirs = ODESampler(steps=8).sample(field, x, reverse=reverse)
    assert torch.equal(ours.t, theirs.t)
    assert torch.equal(ours.x[0], x)
    # Roundings of 1e-16, divided by t = 1/8 at least.
    torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-13)
    assert ours.evaluations == theirs.evaluations == 8


def test_ddim_is_euler_towards_a_finite_data_set(generator):
    points = torch.randn(20, 2, dtype=torch.float64, generator=generator)
    field = DataOracle(Linear(), NORMAL, points)
    # The last steps at full size: to the data itself.
    ours, theirs = (sampler(steps=32).sample(field, starts()).final for sampler in (DDIMSampler, ODESampler))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_with_the_sign_of_the_noise_flipped_it_is_not_eulers():
    field, x = oracle_of(Linear()), starts()
    flipped = Plain(Linear(), lambda t, x: -field.x0(t, x), field.x1)
    theirs = ODESampler(steps=16).sample(field, x).final
    assert (DDIMSampler(steps=16).sample(flipped, x).final - theirs).abs().min() > 0.1


@pytest.mark.parametrize("known", ["velocity", "x0", "x1", "score"])
def test_ddim_is_euler_whatever_a_network_has_learnt(known):
    oracle, x = oracle_of(Linear()), starts()
    field = LearnedField(Linear(), **{known: getattr(oracle, known)}, gaussian_source=True)
    # Within an interval in which every network determines both ends.
    times = [0.05, 0.2, 0.5, 0.9]
    ours, theirs = (sampler(times=times).sample(field, x).final for sampler in (DDIMSampler, ODESampler))
    # Roundings of 1e-16, divided by 0.05.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------ answers from elsewhere


def test_between_two_gaussians_a_step_is_the_formula_of_the_paper():
    # N(0, 1) to N(3, 4) on Linear: E[x0 | x] = alpha (x - 3 beta) / (alpha^2 + 4 beta^2).
    source, target = mixture([1.0], [[0.0]], [[[1.0]]]), mixture([1.0], [[3.0]], [[[4.0]]])
    x, t, s = 0.7, 0.4, 0.6
    noise = (1 - t) * (x - 3 * t) / ((1 - t) ** 2 + 4 * t**2)
    abar, abar_next = t**2 / ((1 - t) ** 2 + t**2), s**2 / ((1 - s) ** 2 + s**2)
    scaled = x / math.hypot(t, 1 - t)
    clean = (scaled - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
    expected = math.sqrt(abar_next) * clean + math.sqrt(1 - abar_next) * noise
    field = MixtureOracle(Linear(), source, target)
    final = DDIMSampler(times=(t, s)).sample(field, torch.tensor([[x]], dtype=torch.float64)).final
    assert float(final) == pytest.approx(math.hypot(s, 1 - s) * expected, rel=1e-13)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_ddim_converges_to_the_flow_at_order_1(path, reverse):
    field = oracle_of(path)
    times, fine = (0.1, 0.9), ODESampler("dopri8", times=(0.1, 0.9), rtol=1e-12, atol=1e-12)
    exact = fine.sample(field, starts(), reverse=reverse).final
    errors = []
    for steps in (200, 400):
        times = [0.1 + 0.8 * k / steps for k in range(steps + 1)]
        final = DDIMSampler(times=times).sample(field, starts(), reverse=reverse).final
        errors.append((final - exact).norm().item())
    # Measured slopes lie within 0.04 of 1.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


def test_each_step_is_the_one_that_diffusers_takes(generator):
    diffusers = pytest.importorskip("diffusers", reason="compares with its DDIMScheduler")
    scheduler = diffusers.DDIMScheduler(
        1000, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    kept = torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double()

    # Time k / 10 is the scheduler's timestep 999 - 100 k, and t = 1 what it holds for clean.
    def abar(t):
        return kept[(1000 * (1 - t)).round().long()]

    path = Affine(lambda t: (1 - abar(t)).sqrt(), lambda t: abar(t).sqrt(), Zero())

    def noise(t, x):
        return torch.sin(3 * x) + t * x.cos()

    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    trajectory = DDIMSampler(steps=10).sample(Plain(path, noise), x)
    # The scheduler keeps its schedule in single precision; its own arithmetic is that of the points.
    for k, timestep in enumerate(scheduler.timesteps):
        here = trajectory.x[k]
        theirs = scheduler.step(noise(k / 10, here), timestep, here).prev_sample
        # Single roundings of the schedule, over sqrt(abar) = 0.0064 at the first step.
        torch.testing.assert_close(trajectory.x[k + 1], theirs, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------- the first time


def test_at_pure_noise_x1_is_asked_for_and_after_it_x0_alone():
    field = Plain(Linear(), lambda t, x: x, lambda t, x: 0 * x)
    trajectory = DDIMSampler(steps=3).sample(field, starts())
    assert [name for name, *_ in field.asked] == ["x1", "x0", "x0"]
    assert [t for _, t, _ in field.asked] == [0, 1 / 3, 2 / 3]
    assert trajectory.evaluations == 3


def test_in_reverse_x0_is_enough():
    field = Plain(Linear(), lambda t, x: x)
    DDIMSampler(steps=3).sample(field, starts(), reverse=True)
    assert [(name, t) for name, t, _ in field.asked] == [("x0", 1.0), ("x0", 2 / 3), ("x0", 1 / 3)]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_first_takes_the_noise_for_a_point_of_that_time(path):
    field, x = oracle_of(path), starts()
    first, rest = 0.05, [0.3, 0.7, 0.9]
    t = torch.tensor(first, dtype=torch.float64)
    size = torch.hypot(path.alpha(t), path.beta(t))
    expected = DDIMSampler(times=[first, *rest]).sample(field, size * x)
    answer = DDIMSampler(times=[0, *rest], first=first).sample(field, x)
    torch.testing.assert_close(answer.x[1:], expected.x[1:], rtol=0, atol=1e-14)
    assert answer.t.tolist() == [0, *rest]
    assert torch.equal(answer.x[0], x)


def test_in_reverse_first_is_where_the_noise_is_reached():
    field, x = oracle_of(Linear()), starts()
    first, rest = 0.05, [0.3, 0.7, 0.9]
    reached = DDIMSampler(times=[first, *rest]).sample(field, x, reverse=True)
    answer = DDIMSampler(times=[0, *rest], first=first).sample(field, x, reverse=True)
    expected = reached.final / math.hypot(first, 1 - first)
    torch.testing.assert_close(answer.final, expected, rtol=0, atol=1e-14)
    assert answer.t.tolist() == [*rest[::-1], 0]


@pytest.mark.parametrize("reverse", [False, True])
def test_fields_are_prepared_for_the_times_at_which_they_are_asked(reverse):
    told = []

    class Prepared(Plain):
        def prepared(self, times, x, names, **rest):
            told.append((list(times), tuple(names)))
            return contextlib.nullcontext()

    field = Prepared(Linear(), lambda t, x: x)
    DDIMSampler(steps=3, first=0.01).sample(field, starts(), reverse=reverse)
    assert told == [([t for _, t, _ in field.asked], ("x0",))]


def test_first_needs_no_x1():
    field = Plain(Linear(), lambda t, x: x)
    DDIMSampler(steps=3, first=0.01).sample(field, starts())
    assert [(name, t) for name, t, _ in field.asked] == [("x0", 0.01), ("x0", 1 / 3), ("x0", 2 / 3)]


def test_a_grid_that_begins_after_first_is_left_as_it_is():
    field, x = oracle_of(Linear()), starts()
    plain, moved = (DDIMSampler(times=(0.2, 0.5, 1), first=f).sample(field, x) for f in (0.0, 0.1))
    assert torch.equal(plain.x, moved.x)


def test_first_moves_the_answer_in_proportion():
    field, x = oracle_of(Linear()), starts()
    still = DDIMSampler(steps=16).sample(field, x).final
    moved = [(DDIMSampler(steps=16, first=f).sample(field, x).final - still).norm() for f in (1e-4, 2e-4)]
    # The next order is 1e-4 of this one, times a factor of some units.
    assert float(moved[1] / moved[0]) == pytest.approx(2, rel=5e-3)


@pytest.mark.parametrize(
    ("dtype", "time", "name"),
    [
        (torch.float32, 1e-8, "x1"),
        (torch.float32, 1e-6, "x0"),
        (torch.bfloat16, 1e-6, "x0"),
        (torch.float64, 1e-8, "x0"),
        (torch.float64, 1e-17, "x1"),
    ],
)
def test_less_signal_than_a_rounding_of_the_state_is_none(dtype, time, name):
    field = Plain(Linear(), lambda t, x: x, lambda t, x: 0 * x)
    DDIMSampler(times=(time, 1)).sample(field, starts().to(dtype))
    assert [asked for asked, *_ in field.asked] == [name]


def test_an_error_of_the_noise_is_multiplied_by_the_length_of_a_step_over_its_time():
    # x' = alpha' e + beta' x_hat and x_hat = (x - alpha e) / t: dx'/de = alpha' - beta' alpha / t = -h / t.
    field, x = oracle_of(Linear()), starts()
    t, h, error = 0.01, 0.125, 1e-3
    wrong = Plain(Linear(), lambda time, point: field.x0(time, point) + error)
    sampler = DDIMSampler(times=(t, t + h))
    moved = sampler.sample(wrong, x).final - sampler.sample(field, x).final
    torch.testing.assert_close(moved, torch.full_like(moved, -h / t * error), rtol=1e-10, atol=0)


# ----------------------------------------------------------------------------- how fields are asked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 2), (3, 1, 4, 2)])
def test_networks_receive_a_time_per_example_and_everything_in_the_dtype_of_x(dtype, shape):
    calls = []

    def network(t, x, **conditions):
        calls.append((t, x, conditions))
        return 0.1 * x

    field = LearnedField(Linear(), velocity=network, gaussian_source=True)
    trajectory = DDIMSampler(steps=3).sample(field, torch.ones(shape, dtype=dtype), label=7)
    assert trajectory.x.shape == (4, *shape)
    assert trajectory.x.dtype == dtype
    # Euler's answer, and the rounding of three answers, divided by t = 1/3.
    expected = torch.full(shape, (1 + 0.1 / 3) ** 3, dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(trajectory.final.double(), expected, rtol=9 * eps, atol=0)
    assert len(calls) == 3
    for t, x, conditions in calls:
        assert t.shape == shape[:1]
        assert t.dtype == torch.promote_types(dtype, torch.float32) or t.dtype == dtype
        assert x.dtype == dtype
        assert x.shape == shape
        assert conditions == {"label": 7}


def test_conditions_reach_both_ends():
    field = Plain(Linear(), lambda t, x, scale: scale * x, lambda t, x, scale: 0 * x)
    final = DDIMSampler(steps=2).sample(field, torch.ones(1, 1, dtype=torch.float64), scale=2.0).final
    # x(1/2) = 1/2, then (x - 1/2 * 2 x) / (1/2) = 0.
    assert float(final) == pytest.approx(0, abs=1e-15)
    with pytest.raises(TypeError, match="scale"):
        DDIMSampler(steps=2).sample(field, torch.ones(1, 1))


@pytest.mark.parametrize("reverse", [False, True])
def test_whole_trajectories_and_their_ends_agree_bitwise(reverse):
    field, x = oracle_of(Trigonometric()), starts()
    whole = DDIMSampler(steps=5).sample(field, x, reverse=reverse)
    ends = DDIMSampler(steps=5, end_only=True).sample(field, x, reverse=reverse)
    assert ends.x.shape == (2, 4, 2)
    assert torch.equal(ends.x, whole.x[[0, -1]])
    assert torch.equal(ends.t, whole.t[[0, -1]])
    assert ends.evaluations == 5


def test_no_gradients_are_recorded_unless_asked_for():
    x = starts().requires_grad_()
    assert not DDIMSampler(steps=2).sample(oracle_of(Linear()), x).final.requires_grad
    sampler = DDIMSampler(steps=2, differentiable=True)
    (ours,) = torch.autograd.grad(sampler.sample(oracle_of(Linear()), x).final.sum(), x)
    with torch.no_grad():
        assert not sampler.sample(oracle_of(Linear()), x).final.requires_grad
    theirs = ODESampler(steps=2, differentiable=True).sample(oracle_of(Linear()), x).final
    # Roundings of a few operations.
    torch.testing.assert_close(ours, *torch.autograd.grad(theirs.sum(), x), rtol=0, atol=1e-13)


def test_the_start_is_left_as_it_was():
    x = starts()
    before = x.clone()
    DDIMSampler(steps=2).sample(oracle_of(Trigonometric()), x)
    assert torch.equal(x, before)


def test_a_learnable_path_receives_gradients():
    class Bent(nn.Module, SpatiallyLinear):
        def __init__(self):
            super().__init__()
            self.bend = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def alpha(self, t):
            return 1 - t

        def beta(self, t):
            return t + self.bend * t * (1 - t)

    path = Bent()
    field = Plain(path, lambda t, x: x.cos())
    sampler = DDIMSampler(times=(0.2, 0.6), differentiable=True)

    def final():
        return sampler.sample(field, torch.ones(1, 1, dtype=torch.float64)).final.sum()

    (gradient,) = torch.autograd.grad(final(), path.bend)
    values, h = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            path.bend += sign * h
            values.append(final())
            path.bend -= sign * h
    # h^2 = 1e-10.
    assert float(gradient) == pytest.approx(float(values[0] - values[1]) / (2 * h), rel=1e-8)


# ---------------------------------------------------------------------------------------------------- errors


class Arc(Interpolant):
    def interpolate(self, t, x0, x1):
        return x0 + t * (x1 - x0)


@pytest.mark.parametrize(
    "field",
    [
        oracle_of(Linear(Brownian())),
        oracle_of(EncodingDecoding()),
        LearnedField(Arc(), velocity=lambda t, x: x),
    ],
    ids=["latent noise", "EncodingDecoding", "not spatially linear"],
)
def test_other_paths_are_refused(field):
    with pytest.raises(ValueError, match=r"spatially linear path without latent noise.*this one's is"):
        DDIMSampler().sample(field, starts())


@pytest.mark.parametrize(
    "field",
    [MixtureOracle(Linear(), TARGET, TARGET), LearnedField(Linear(), velocity=lambda t, x: x)],
    ids=["two-sided", "not said to be Gaussian"],
)
def test_other_sources_are_refused(field):
    with pytest.raises(ValueError, match=r"N\(0, Id\).*gaussian_source=True.*ODESampler"):
        DDIMSampler().sample(field, starts())


def test_a_field_of_no_known_path_is_refused():
    with pytest.raises(ValueError, match="this one's is None"):
        DDIMSampler().sample(Plain(None, lambda t, x: x), starts())


def test_a_path_through_a_point_is_refused():
    path = Affine(lambda t: (1 - 2 * t).clamp(min=0), lambda t: (2 * t - 1).clamp(min=0))
    with pytest.raises(ValueError, match="noise or data at every time"):
        DDIMSampler(steps=2).sample(Plain(path, lambda t, x: x, lambda t, x: x), starts())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": 2.5}, "whole number"),
        ({"times": [0.5, 0.5]}, "increasing grid"),
        ({"times": [0.0, 1.1]}, "increasing grid"),
        ({"first": -0.1}, r"first must lie in \[0, 0.0078125\), before the second time; got -0.1"),
        ({"first": math.nan}, "first must lie in"),
        ({"first": 0.25, "steps": 4}, r"\[0, 0.25\)"),
        ({"first": 0.3, "times": [0, 0.3, 1]}, r"\[0, 0.3\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DDIMSampler(**arguments)


@pytest.mark.parametrize("x", [torch.zeros(3, 2, dtype=torch.long), [[0.0]], None])
def test_only_floating_points_can_be_carried(x):
    with pytest.raises(TypeError, match="floating-point"):
        DDIMSampler().sample(oracle_of(Linear()), x)


def test_only_fields_can_be_sampled_from():
    with pytest.raises(TypeError, match="field must be a Field"):
        DDIMSampler().sample(lambda t, x: x, starts())


def test_a_field_without_x0_is_refused():
    class Velocities(Plain):
        def x0(self, t, x):
            raise FieldUnavailable("not known")

    with pytest.raises(FieldUnavailable, match="not known"):
        DDIMSampler(steps=2, first=0.1).sample(Velocities(Linear(), None), starts())


@pytest.mark.parametrize("wrong", [{"x0"}, {"x1"}], ids=["x0", "x1"])
def test_an_answer_that_would_only_fit_by_broadcasting_is_refused(wrong):
    x0, x1 = (
        (lambda t, x: x[:, :1]) if name in wrong else (lambda t, x: torch.zeros_like(x))
        for name in ("x0", "x1")
    )
    with pytest.raises(ValueError, match=r"in the shape of x, \(4, 2\); got \(4, 1\)"):
        DDIMSampler(steps=2).sample(Plain(Linear(), x0, x1), starts())


# ------------------------------------------------------------------------------------- a value like others


def test_samplers_are_frozen_and_compare_hash_print_and_pickle():
    sampler = DDIMSampler(times=[0, 0.5, 1], first=0.01)
    assert sampler.times == (0.0, 0.5, 1.0)
    assert sampler == DDIMSampler(times=torch.tensor([0.0, 0.5, 1.0]), first=0.01)
    assert sampler != dataclasses.replace(sampler, first=0.02)
    assert hash(sampler) == hash(dataclasses.replace(sampler))
    assert "first=0.01" in repr(sampler)
    assert pickle.loads(pickle.dumps(sampler)) == sampler
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.steps = 3


def test_generators_and_seeds_are_accepted_and_checked():
    field, x = oracle_of(Linear()), starts()
    plain = DDIMSampler(steps=2).sample(field, x).final
    for randomness in ({"generator": torch.Generator()}, {"seeds": torch.arange(4)}):
        assert torch.equal(DDIMSampler(steps=2).sample(field, x, **randomness).final, plain)
    # What a sampler with noise refuses is refused here too, so that the two can be exchanged.
    with pytest.raises(ValueError, match="one seed for each of the 4 examples; got 2"):
        DDIMSampler().sample(field, x, seeds=[1, 2])


def test_the_default_is_128_steps_over_the_whole_interval():
    assert DDIMSampler() == DDIMSampler(steps=128, times=None, first=0.0)
