import pickle

import numpy as np
import pytest
import torch
from mixture_cases import FAMILIES, INSIDE, NAMES, NORMAL, learned, mixture, oracle_of, points, points_on

from interpolants import (
    Constant,
    EncodingDecoding,
    FieldUnavailable,
    Interpolant,
    LearnedField,
    Linear,
    Mirror,
    MixtureOracle,
    Parabolic,
    ProportionalToGamma,
    SineSquared,
)
from interpolants.gammas import Brownian, Quadratic, Zero

TIMES = INSIDE


def follows(oracle, networks, name, t, gaussian_source):
    """Whether what is asked for is a combination of what is known, by the rank of the equations."""
    path, t = oracle.interpolant, torch.tensor(t, dtype=torch.float64)
    a, b, g = (float(c) for c in (path.alpha(t), path.beta(t), path.gamma(t)))
    rows = {
        "x": [a, b, g],
        "velocity": [
            float(path.alpha_derivative(t)),
            float(path.beta_derivative(t)),
            float(path.gamma.derivative(t)),
        ],
        "denoiser": [0, 0, 1],
        "x0": [1, 0, 0],
        "x1": [0, 1, 0],
        "score": [0, 0, 1] if g > 0 else [1, 0, 0],  # either is a multiple
    }
    known = [rows["x"], *(rows[n] for n in networks)]
    if g == 0:
        known.append([0, 0, 1])  # nothing multiplies it
    if gaussian_source and g > 0:
        known.append([g, 0, -a])
    enlarged = [*known, rows[name]]
    return np.linalg.matrix_rank(enlarged, tol=1e-9) == np.linalg.matrix_rank(known, tol=1e-9)


def assert_agree(oracle, networks, *, gaussian_source=False):
    field, compared = learned(oracle, networks, gaussian_source=gaussian_source), 0
    t, x = points_on(oracle, TIMES, 5)
    has_score = gaussian_source or not oracle.interpolant.gamma.vanishes
    for name in NAMES:
        if (name == "denoiser" and oracle.interpolant.gamma.vanishes) or (name == "score" and not has_score):
            continue
        if not all(follows(oracle, networks, name, time, gaussian_source) for time in TIMES):
            continue
        # Double precision, times the condition numbers of 3 x 3 systems, below a thousand here.
        torch.testing.assert_close(
            getattr(field, name)(t, x), getattr(oracle, name)(t, x), rtol=1e-10, atol=1e-10
        )
        compared += len(TIMES)
    return compared


# ------------------------------------------------------------------------------------------------ conversions


@pytest.mark.parametrize("networks", [("velocity",), ("x1",), ("x0",), ("velocity", "x0")], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_network_is_enough_without_latent_noise(family, networks):
    compared = assert_agree(oracle_of(family, Zero()), networks)
    assert compared == 12 or family in ("mirror", "encoding-decoding")


@pytest.mark.parametrize(
    "networks",
    [
        ("velocity", "denoiser"),
        ("denoiser", "x1"),
        ("velocity", "score"),
        ("x0", "x1"),
        ("velocity", "x1"),
        ("score", "x0"),
        ("velocity", "denoiser", "x1"),
        ("denoiser", "score", "x1"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("gamma", [Brownian(), Quadratic()], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_networks_are_enough_with_latent_noise(family, gamma, networks):
    compared = assert_agree(oracle_of(family, gamma), networks)
    assert compared == 20 or family in ("mirror", "encoding-decoding")


@pytest.mark.parametrize("networks", [("velocity",), ("x1",), ("x0",), ("score",)], ids="+".join)
@pytest.mark.parametrize("gamma", [Zero(), Brownian(), Quadratic()], ids=repr)
@pytest.mark.parametrize("family", ["linear", "trigonometric", "variance preserving", "affine"])
def test_a_gaussian_source_makes_one_network_enough(family, gamma, networks):
    compared = assert_agree(oracle_of(family, gamma, NORMAL), networks, gaussian_source=True)
    assert compared == (16 if gamma.vanishes else 20)


@pytest.mark.parametrize(
    "networks", [("x0", "score"), ("denoiser", "score"), ("x0", "velocity")], ids="+".join
)
@pytest.mark.parametrize("gamma", [Zero(), Brownian()], ids=repr)
def test_networks_that_say_the_same_of_a_gaussian_source_do_no_harm(gamma, networks):
    if gamma.vanishes and "denoiser" in networks:
        networks = networks[1:]
    assert_agree(oracle_of("linear", gamma, NORMAL), networks, gaussian_source=True)


def test_rows_may_have_their_own_times():
    oracle = oracle_of("trigonometric", Brownian())
    field, x = learned(oracle, ("velocity", "denoiser")), points(4)
    t = torch.tensor(TIMES, dtype=torch.float64)
    for name in NAMES:
        # As above.
        torch.testing.assert_close(
            getattr(field, name)(t, x), getattr(oracle, name)(t, x), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", NAMES)
def test_times_may_be_a_float_a_scalar_or_one_per_row(name):
    field, x = learned(oracle_of("linear", Brownian()), ("velocity", "denoiser")), points()
    expected = getattr(field, name)(0.3, x)
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.full((5,), 0.3, dtype=torch.float64)):
        # Batched solves may round differently.
        torch.testing.assert_close(getattr(field, name)(t, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_images_keep_their_shape_and_dtype(dtype):
    field = LearnedField(Linear(), velocity=lambda t, x: x)
    x = torch.ones(3, 1, 2, 2, dtype=dtype)
    for t in (0.25, torch.tensor([0.25, 0.5, 0.75])):
        answer = field.x1(t, x)  # x + (1 - t) b
        expected = (2 - torch.as_tensor(t, dtype=dtype)).reshape(-1, 1, 1, 1).expand(3, 1, 2, 2)
        torch.testing.assert_close(answer, expected)  # torch's tolerance for the dtype


# --------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_answers_is_passed_on_untouched(name):
    answer = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    field = LearnedField(Linear(Brownian()), **{name: lambda t, x: answer})
    assert getattr(field, name)(0.5, torch.zeros(5, 2)) is answer


@pytest.mark.parametrize("t", [0.3, torch.tensor(0.3), torch.full((5,), 0.3)], ids=["float", "()", "(B,)"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_networks_receive_a_time_per_row_in_the_dtype_of_x_and_the_conditions(t, dtype):
    calls = []

    def network(t, x, **conditions):
        calls.append((t, x, conditions))
        return x

    field = LearnedField(Linear(), velocity=network)
    x = torch.ones(5, 2, dtype=dtype)
    for name in ("velocity", "x0", "x1"):
        getattr(field, name)(t, x, label=3, scale=2.0)
    for time, position, conditions in calls:
        assert time.shape == (5,)
        assert time.dtype == dtype
        torch.testing.assert_close(time, torch.full((5,), 0.3, dtype=dtype))
        assert position is x
        assert conditions == {"label": 3, "scale": 2.0}
    assert len(calls) == 3


class Heads:
    """One network for several answers, which remembers when it was called."""

    def __init__(self, *names, oracle=None):
        self.names, self.oracle, self.times = names, oracle, []

    def __call__(self, t, x, **conditions):
        self.times.append(float(t[0]))
        if self.oracle is None:
            return {name: (k + 1.0) * x for k, name in enumerate(self.names)}
        return self.oracle.together(self.names, t, x)


def test_a_network_with_several_heads_is_evaluated_once_for_all_that_is_asked_together():
    oracle, x = oracle_of("trigonometric", Brownian()), points()
    heads = Heads("velocity", "denoiser", oracle=oracle)
    field = LearnedField(oracle.interpolant, velocity=heads, denoiser=heads)
    for t in TIMES:
        answers = field.together(NAMES, t, x)
        assert heads.times == [t]
        heads.times.clear()
        for name in NAMES:
            # Double precision, with weights below a hundred.
            torch.testing.assert_close(answers[name], getattr(oracle, name)(t, x), rtol=1e-11, atol=1e-11)
            assert torch.equal(getattr(field, name)(t, x), answers[name])
            assert heads.times == [t]
            heads.times.clear()


@pytest.mark.parametrize("epsilon", [Constant(0.5), ProportionalToGamma(2.0), Parabolic()], ids=repr)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.4, 1.0, torch.full((5,), 0.3), torch.zeros(5)], ids=str)
@pytest.mark.parametrize(
    "heads", [("velocity", "denoiser"), ("velocity", "score"), ("x0", "x1")], ids="+".join
)
def test_a_drift_costs_one_evaluation_of_a_network_with_several_heads(epsilon, t, heads):
    network = Heads(*heads)
    field = LearnedField(Linear(Brownian()), **dict.fromkeys(heads, network))
    assert field.drift(t, points().float(), epsilon).isfinite().all()
    assert len(network.times) == 1


def test_separate_networks_are_evaluated_once_each():
    one, other = Heads("velocity"), Heads("denoiser")
    field = LearnedField(Linear(Brownian()), velocity=one, denoiser=other)
    field.together(NAMES, 0.3, points())
    assert (len(one.times), len(other.times)) == (1, 1)
    field.velocity(0.3, points())
    assert (len(one.times), len(other.times)) == (2, 1)


def test_the_way_with_the_mildest_weights_is_taken_and_then_the_fewest_evaluations():
    # From x0, x1 and x the velocity has the weight gamma' / gamma at the ends, from z only gamma'.
    heads, apart = Heads("x0", "x1"), Heads("denoiser")
    field = LearnedField(Linear(Quadratic()), x0=heads, x1=heads, denoiser=apart)
    field.velocity(0.3, points())
    assert (len(heads.times), len(apart.times)) == (1, 1)
    # E[x1] follows as mildly from the velocity as from E[x0] and the denoiser: the one network it is.
    one, other = Heads("velocity"), Heads("x0")
    LearnedField(Linear(), velocity=one, x0=other).x1(0.3, points())
    assert (len(one.times), len(other.times)) in ((1, 0), (0, 1))


def test_one_network_under_several_names_must_say_which_answer_is_which():
    def tensor(t, x):
        return x

    field = LearnedField(Linear(Brownian()), velocity=tensor, denoiser=tensor)
    with pytest.raises(TypeError, match="must return a mapping with each of them"):
        field.velocity(0.5, points())
    field = LearnedField(Linear(Brownian()), velocity=Heads("velocity", "score"), denoiser=Heads("score"))
    assert torch.equal(field.velocity(0.5, points()), points())
    with pytest.raises(ValueError, match="answer has no 'denoiser'; it has score"):
        field.denoiser(0.5, points())


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda t, x: x.sum(), ValueError, r"must return the shape of x, \(5, 2\); got \(\)"),
        (lambda t, x: x[:, :1], ValueError, r"got \(5, 1\)"),
        (lambda t, x: None, TypeError, "must return a tensor; got NoneType"),
        (lambda t, x: {"velocity": 3.0}, TypeError, "must return a tensor; got float"),
    ],
)
def test_a_network_must_return_the_shape_of_x(network, error, message):
    with pytest.raises(error, match=message):
        LearnedField(Linear(), velocity=network).velocity(0.5, points())


def test_what_is_no_network_or_no_interpolant_is_refused():
    with pytest.raises(TypeError, match=r"velocity must be a network, called as network\(t, x\); got int"):
        LearnedField(Linear(), velocity=3)
    with pytest.raises(TypeError, match="interpolant must be an Interpolant, such as Linear"):
        LearnedField(Linear, velocity=zero)


def test_an_answer_that_no_field_has_is_refused():
    field = LearnedField(Linear(), velocity=zero)
    with pytest.raises(ValueError, match="answers with velocity, score, denoiser, x0, x1; got 'speed'"):
        field.together(("speed",), 0.5, points())


def test_requiring_raises_without_evaluating():
    network = Heads("velocity")
    field = LearnedField(Linear(Brownian()), velocity=network)
    field.require("velocity")
    with pytest.raises(FieldUnavailable, match="the score cannot be derived"):
        field.require("velocity", "score")
    assert network.times == []


def test_a_used_field_can_be_pickled():
    x = points()
    field = LearnedField(Linear(Brownian()), velocity=Heads("velocity"), denoiser=Heads("denoiser"))
    expected = field.together(NAMES, 0.3, x)
    field.drift(0.3, x, Constant(1.0))
    copied = pickle.loads(pickle.dumps(field))
    for name in NAMES:
        assert torch.equal(getattr(copied, name)(0.3, x), expected[name])


def test_gradients_flow_to_the_networks_through_conversions():
    weight = torch.tensor(2.0, requires_grad=True)
    field = LearnedField(Linear(), velocity=lambda t, x: weight * x)
    field.x1(0.25, torch.ones(4, 1)).sum().backward()
    # x1 = x + 0.75 b: the sum of four has derivative 3; single precision.
    assert weight.grad.item() == pytest.approx(3, rel=1e-6)


# ------------------------------------------------------------------------------------- what is unavailable


class Bent(Interpolant):
    def interpolate(self, t, x0, x1):
        return x0 + t.reshape(-1, 1) ** 2 * (x1 - x0)


def zero(t, x):
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("path", "networks", "asked", "message"),
    [
        (Linear(), ["velocity"], "score", "the score cannot be derived from the velocity .*gaussian_source"),
        (Linear(), ["velocity"], "denoiser", "the denoiser cannot be derived .*no latent noise"),
        (Linear(Brownian()), ["velocity"], "score", "the score cannot be derived from the velocity .*score="),
        (Linear(Brownian()), ["velocity"], "denoiser", "the denoiser cannot be derived .*denoiser="),
        (Linear(Brownian()), ["velocity"], "x0", r"E\[x0\] cannot be derived .*x0="),
        (Linear(Brownian()), ["denoiser"], "velocity", "the velocity cannot be derived .*velocity="),
        (Linear(Brownian()), ["denoiser", "score"], "x1", r"E\[x1\] cannot be derived .*x1="),
        (Linear(Brownian()), ["denoiser", "score"], "velocity", "the velocity cannot .*velocity="),
        (Bent(), ["velocity"], "x1", r"E\[x1\] cannot .*Bent is not spatially linear.* x1="),
        (Bent(Brownian()), ["velocity"], "score", "Bent is not spatially linear.* score="),
    ],
)
def test_what_does_not_follow_is_unavailable_and_the_network_it_needs_is_named(
    path, networks, asked, message
):
    field = LearnedField(path, **dict.fromkeys(networks, zero))
    with pytest.raises(FieldUnavailable, match=message):
        getattr(field, asked)(0.5, torch.zeros(3, 2))


@pytest.mark.parametrize(("network", "other"), [("denoiser", "score"), ("score", "denoiser")])
@pytest.mark.parametrize("family", FAMILIES)
def test_score_and_denoiser_follow_from_each_other_alone(family, network, other):
    oracle, x = oracle_of(family, Brownian()), points()
    field = learned(oracle, (network,))
    for t in TIMES:
        # s = -eta_z / gamma: one division.
        torch.testing.assert_close(
            getattr(field, other)(t, x), getattr(oracle, other)(t, x), rtol=1e-12, atol=1e-12
        )


def test_a_nonlinear_interpolant_has_its_velocity_and_what_networks_give():
    field = LearnedField(Bent(), velocity=lambda t, x: 2 * x, x1=lambda t, x: 3 * x)
    x = torch.ones(2, 2)
    assert torch.equal(field.velocity(0.5, x), 2 * x)
    assert torch.equal(field.x1(0.5, x), 3 * x)


@pytest.mark.parametrize("gaussian_source", [False, True])
def test_a_nonlinear_interpolant_ties_score_and_denoiser(gaussian_source):
    x, t = points(), 0.3
    path = Bent(Brownian())
    gamma = (0.3 * 0.7) ** 0.5
    field = LearnedField(
        path, velocity=lambda t, x: x, denoiser=lambda t, x: x.sin(), gaussian_source=gaussian_source
    )
    torch.testing.assert_close(field.score(t, x), -x.sin() / gamma)
    # Whatever is said of the source: alpha is unknown, so that only gamma can be used.
    for epsilon, level in ((Constant(0.7), 0.7), (ProportionalToGamma(2.0), 2 * gamma)):
        torch.testing.assert_close(field.drift(t, x, epsilon), x - level * x.sin() / gamma)
        torch.testing.assert_close(field.drift(t, x, epsilon, reverse=True), x + level * x.sin() / gamma)
    field = LearnedField(path, velocity=lambda t, x: x, score=lambda t, x: x.cos())
    torch.testing.assert_close(field.denoiser(t, x), -gamma * x.cos())
    torch.testing.assert_close(field.drift(t, x, Constant(0.7)), x + 0.7 * x.cos())
    for end in (0.0, 1.0):
        assert torch.equal(field.denoiser(end, x), torch.zeros_like(x))
    with pytest.raises(FieldUnavailable, match=r"E\[x1\] cannot .*Bent is not spatially linear"):
        field.x1(t, x)


def test_a_field_needs_a_network():
    with pytest.raises(ValueError, match="at least one network"):
        LearnedField(Linear())


def test_field_unavailable_is_a_value_error():
    assert issubclass(FieldUnavailable, ValueError)


def test_the_field_knows_the_kinks_of_its_path():
    assert LearnedField(EncodingDecoding(), velocity=zero).kinks == (0.5,)
    assert LearnedField(Linear(), velocity=zero).kinks == ()


def test_times_outside_the_unit_interval_or_of_another_length_are_refused():
    field = LearnedField(Linear(), velocity=zero)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        field.velocity(1.5, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="one time per example"):
        field.x1(torch.zeros(2), torch.zeros(3, 2))


def test_conversions_hold_close_to_the_ends_where_large_weights_cancel():
    def normal(mean):
        return mixture([1.0], [[mean, mean]], [[[1.0, 0.0], [0.0, 1.0]]])

    path = Linear(SineSquared())
    oracle = MixtureOracle(path, normal(0.0), normal(1.0))
    field = LearnedField(path, denoiser=oracle.denoiser, gaussian_source=True)
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    for t in (1 / 128, 127 / 128):
        # The weights are of order 1e4 and their squares' rounding 1e-8.
        torch.testing.assert_close(field.velocity(t, x), oracle.velocity(t, x), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", [Mirror(Brownian()), Mirror(Quadratic())], ids=repr)
def test_a_gaussian_source_that_has_no_part_in_the_path_is_refused(path):
    with pytest.raises(ValueError, match="gaussian_source says that x0"):
        LearnedField(path, denoiser=lambda t, x: x, gaussian_source=True)
