import numpy as np
import pytest
import torch

from interpolants import (
    Affine,
    EncodingDecoding,
    FieldUnavailable,
    Interpolant,
    LearnedField,
    Linear,
    Mirror,
    MixtureOracle,
    SineSquared,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, Quadratic, Zero
from interpolants.oracles import GaussianMixture

FAMILIES = {
    "linear": Linear,
    "trigonometric": Trigonometric,
    "encoding-decoding": EncodingDecoding,
    "variance preserving": lambda gamma: VariancePreserving(gamma=gamma),
    "mirror": Mirror,
    "affine": lambda gamma: Affine(lambda t: (1 - t) ** 2, lambda t: t**2, gamma),
}
NAMES = ("velocity", "score", "denoiser", "x0", "x1")
TIMES = (0.2, 0.35, 0.7, 0.85)


def mixture(weights, means, covariances):
    return GaussianMixture(*(torch.tensor(p, dtype=torch.float64) for p in (weights, means, covariances)))


TARGET = mixture(
    [0.5, 0.5], [[1.0, 1.0], [0.5, -1.0]], [[[0.5, -0.2], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.4]]]
)
NORMAL = mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])
SKEWED = mixture([0.4, 0.6], [[-1.0, 0.5], [0.0, -1.0]], [[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.8]]])


def oracle_of(family, gamma, source=SKEWED):
    return MixtureOracle(FAMILIES[family](gamma), source, TARGET)


def learned(oracle, networks, **options):
    return LearnedField(oracle.interpolant, **{name: getattr(oracle, name) for name in networks}, **options)


def points(n=5):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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
    field, x, compared = learned(oracle, networks, gaussian_source=gaussian_source), points(), 0
    has_score = gaussian_source or not oracle.interpolant.gamma.vanishes
    for name in NAMES:
        if (name == "denoiser" and oracle.interpolant.gamma.vanishes) or (name == "score" and not has_score):
            continue
        if not all(follows(oracle, networks, name, t, gaussian_source) for t in TIMES):
            continue
        for t in TIMES:
            # Double precision, times the condition numbers of 3 x 3 systems, below a thousand here.
            torch.testing.assert_close(
                getattr(field, name)(t, x), getattr(oracle, name)(t, x), rtol=1e-10, atol=1e-10
            )
            compared += 1
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
        centre = torch.full((1, 2), mean, dtype=torch.float64)
        return GaussianMixture(torch.ones(1).double(), centre, torch.eye(2).double()[None])

    path = Linear(SineSquared())
    oracle = MixtureOracle(path, normal(0.0), normal(1.0))
    field = LearnedField(path, denoiser=oracle.denoiser, gaussian_source=True)
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    for t in (1 / 128, 127 / 128):
        # The weights are of order 1e4 and their squares' rounding 1e-8.
        torch.testing.assert_close(field.velocity(t, x), oracle.velocity(t, x), rtol=1e-7, atol=1e-7)
