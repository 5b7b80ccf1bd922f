import math
import pickle
from dataclasses import FrozenInstanceError

import mpmath
import pytest
import scipy.integrate
import torch
from torch import nn

from interpolants.families import (
    Affine,
    EncodingDecoding,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from interpolants.gammas import Brownian, Gamma, Quadratic, SineSquared, Zero
from interpolants.interpolant import Interpolant, SpatiallyLinear
from interpolants.losses import Regression

mpmath.mp.dps = 40


class Cubed(Gamma):
    def squared(self, t):
        return (t * (1 - t)) ** 3


class Cubic(SpatiallyLinear):
    """The two-line subclass of the design: everything else follows."""

    def alpha(self, t):
        return 1 - t**3

    def beta(self, t):
        return t**3


class Arc(Interpolant):
    """Half a turn of the radius through its mirror image: any shape, and no spatially linear class."""

    def interpolate(self, t, x0, x1):
        centre, radius = (x0 + x1) / 2, (x0 - x1) / 2
        angle = torch.pi * t.reshape(-1, *(1,) * (x0.ndim - 1))
        return centre + angle.cos() * radius + angle.sin() * radius.flip(-1)


class WrittenArc(Arc):
    def derivative(self, t, x0, x1):
        radius = (x0 - x1) / 2
        angle = torch.pi * t.reshape(-1, *(1,) * (x0.ndim - 1))
        return torch.pi * (angle.cos() * radius.flip(-1) - angle.sin() * radius)


class Mine(nn.Module, SpatiallyLinear):
    """A learnable path: alpha = 1 - t - c t (1 - t), with beta = 1 - alpha."""

    def __init__(self, gamma=None):
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        if gamma is not None:
            self.gamma = gamma

    def alpha(self, t):
        return 1 - t - self.bend * t * (1 - t)

    def beta(self, t):
        return 1 - self.alpha(t)


class LearnableGamma(Gamma, nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0, dtype=torch.float64))

    def squared(self, t):
        return self.scale * t**2 * (1 - t) ** 2


FAMILIES = {
    "linear": Linear,
    "trigonometric": Trigonometric,
    "encoding-decoding": EncodingDecoding,
    "variance-preserving": lambda gamma: VariancePreserving(gamma=gamma),
    "mirror": Mirror,
    "affine": lambda gamma: Affine(lambda t: (1 - t) ** 2, lambda t: t**2, gamma),
    "two-line": Cubic,
    "arc": Arc,
    "written-arc": WrittenArc,
}
GAMMAS = {
    "zero": Zero(),
    "brownian": Brownian(2.0),
    "quadratic": Quadratic(),
    "sine-squared": SineSquared(),
    "cubed": Cubed(),
}
LINEAR_FAMILIES = [name for name in FAMILIES if "arc" not in name]
SHAPES = [(4, 3), (3, 3), (4, 2, 3, 3)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=GAMMAS)
def gamma(request):
    return GAMMAS[request.param]


@pytest.fixture(params=FAMILIES)
def interpolant(request, gamma):
    return FAMILIES[request.param](gamma)


def batch(shape, generator, dtype=torch.float64):
    return torch.randn((3, *shape), generator=generator, dtype=torch.float64).to(dtype)


def column(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 1))


# ---- the contract every family keeps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_path_runs_between_its_ends(interpolant, shape, dtype, generator):
    x0, x1, _ = batch(shape, generator, dtype)
    start, end = (x1, x1) if isinstance(interpolant, Mirror) else (x0, x1)
    assert all(
        torch.equal(mine, want) for mine, want in zip(interpolant.ends(x0, x1), (start, end), strict=True)
    )
    for t, want in ((0.0, start), (1.0, end)):
        # The arc turns by sin(pi), about pi/2 eps; weights of 0 and 1 leave nothing to round.
        tolerance = 8 * torch.finfo(dtype).eps if isinstance(interpolant, Arc) else 0
        for time in (torch.tensor(t, dtype=dtype), torch.full(shape[:1], t, dtype=dtype)):
            torch.testing.assert_close(interpolant.interpolate(time, x0, x1), want, rtol=0, atol=tolerance)
        # The latent noise is gone at both ends.
        xt = interpolant.sample(t, x0, x1, generator=generator).xt
        torch.testing.assert_close(xt, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_latent_noise_is_added_to_the_path(interpolant, shape, generator):
    x0, x1, z = batch(shape, generator)
    t = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)
    sample = interpolant.sample(t, x0, x1, z)
    expected = interpolant.interpolate(t, x0, x1) + column(interpolant.gamma(t), x0) * z
    torch.testing.assert_close(sample.xt, expected, rtol=1e-14, atol=1e-14)  # Roundings only.
    assert torch.equal(sample.t, t)
    assert sample.x0 is x0
    assert sample.x1 is x1
    assert sample.z is z


@pytest.mark.parametrize("shape", SHAPES)
def test_xt_dot_is_the_time_derivative_of_xt(interpolant, shape, generator):
    x0, x1, z = batch(shape, generator)
    t = torch.linspace(0.06, 0.93, shape[0], dtype=torch.float64)
    step = 1e-6
    late, early = (interpolant.sample(t + sign * step, x0, x1, z).xt for sign in (1, -1))
    # Central differences err by step^2 times a third derivative (below 1e4 here), plus eps / step.
    sample = interpolant.sample(t, x0, x1, z)
    torch.testing.assert_close(sample.xt_dot, (late - early) / (2 * step), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_time_serves_as_a_float_a_scalar_and_a_batch(interpolant, shape, generator):
    x0, x1, z = batch(shape, generator)
    time = torch.tensor(0.37, dtype=torch.float64)
    rows = interpolant.sample(time.expand(shape[0]), x0, x1, z)
    for t in (0.37, time):
        sample = interpolant.sample(t, x0, x1, z)
        assert sample.t.shape == shape[:1]
        for name in ("t", "xt", "xt_dot"):
            torch.testing.assert_close(getattr(sample, name), getattr(rows, name), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_row_follows_its_own_time(interpolant, shape, generator):
    # With a batch as large as the dimension, a wrong broadcast gives the right shape.
    x0, x1, z = batch(shape, generator)
    t = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)
    together = interpolant.sample(t, x0, x1, z)
    for k in range(shape[0]):
        alone = interpolant.sample(t[k].item(), x0[k : k + 1], x1[k : k + 1], z[k : k + 1])
        torch.testing.assert_close(together.xt[k : k + 1], alone.xt, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(together.xt_dot[k : k + 1], alone.xt_dot, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype_are_kept(interpolant, dtype, generator):
    x0, x1, z = batch((4, 3), generator)
    exact = interpolant.sample(0.3, x0, x1, z)
    x0, x1, z = (x.to(dtype) for x in (x0, x1, z))
    for t in (0.3, torch.tensor(0.3), torch.full((4,), 0.3), torch.full((4,), 0.3, dtype=torch.float64)):
        sample = interpolant.sample(t, x0, x1, z)
        assert sample.t.dtype == torch.promote_types(
            torch.float32, t.dtype if isinstance(t, torch.Tensor) and t.dtype == torch.float64 else dtype
        )
        for name in ("xt", "xt_dot"):
            got = getattr(sample, name)
            assert got.dtype == dtype
            assert got.shape == (4, 3)
            # A handful of roundings, of numbers up to about 10; 0.3 itself may be a single-precision one.
            eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
            torch.testing.assert_close(got.double(), getattr(exact, name), rtol=8 * eps, atol=24 * eps)


def test_noise_is_reproducible_from_a_generator(interpolant):
    x0, x1 = torch.zeros(64, 3), torch.ones(64, 3)
    before = torch.get_rng_state()
    first, again, other = (
        interpolant.sample(0.4, x0, x1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.xt, again.xt)
    assert torch.equal(first.xt_dot, again.xt_dot)
    if interpolant.gamma.vanishes:
        assert first.z is None
        assert torch.equal(first.xt, other.xt)
    else:
        assert torch.equal(first.z, again.z)
        assert not torch.equal(first.z, other.z)


def test_given_noise_changes_nothing_where_gamma_vanishes(generator):
    x0, x1, z = batch((4, 3), generator)
    with_noise, without = Linear().sample(0.3, x0, x1, z), Linear().sample(0.3, x0, x1)
    assert torch.equal(with_noise.xt, without.xt)
    assert torch.equal(with_noise.xt_dot, without.xt_dot)


# ---- weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", LINEAR_FAMILIES)
def test_weights_are_exactly_zero_and_one_at_the_ends(family, dtype):
    path = FAMILIES[family](Zero())
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert path.alpha(ends).tolist() == ([0.0, 0.0] if family == "mirror" else [1.0, 0.0])
    assert path.beta(ends).tolist() == ([1.0, 1.0] if family == "mirror" else [0.0, 1.0])
    assert path.alpha(ends).dtype == path.beta(ends).dtype == dtype


@pytest.mark.parametrize("rates", [(0.1, 20.0), (0.1, 1.1), (0.5, 0.5), (1e-3, 60.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_preserving_weights_are_exact_at_the_ends_for_any_rates(rates, dtype):
    path, ends = VariancePreserving(*rates), torch.tensor([0.0, 1.0], dtype=dtype)
    assert path.alpha(ends).tolist() == [1.0, 0.0]
    assert path.beta(ends).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("family", LINEAR_FAMILIES)
def test_written_derivatives_of_the_weights_agree_with_automatic_ones(family):
    path = FAMILIES[family](Zero())
    t = torch.linspace(0.01, 0.98, 60, dtype=torch.float64)
    # Two exact formulas in double precision.
    torch.testing.assert_close(path.alpha_derivative(t), SpatiallyLinear.alpha_derivative(path, t))
    torch.testing.assert_close(path.beta_derivative(t), SpatiallyLinear.beta_derivative(path, t))
    for name in ("half_alpha_squared_derivative", "half_beta_squared_derivative"):
        torch.testing.assert_close(getattr(path, name)(t), getattr(SpatiallyLinear, name)(path, t))
    for name, weight in (("alpha", path.alpha), ("beta", path.beta)):
        _, slope = torch.func.jvp(lambda s, w=weight: w(s).square() / 2, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(getattr(path, f"half_{name}_squared_derivative")(t), slope)


def test_written_derivatives_of_the_path_agree_with_automatic_ones(interpolant, generator):
    x0, x1, _ = batch((5, 4), generator)
    t = torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    torch.testing.assert_close(
        interpolant.derivative(t, x0, x1), Interpolant.derivative(interpolant, t, x0, x1)
    )
    if isinstance(interpolant, SpatiallyLinear):
        torch.testing.assert_close(
            interpolant.interpolate(t, x0, x1), SpatiallyLinear.interpolate(interpolant, t, x0, x1)
        )
        torch.testing.assert_close(
            interpolant.derivative(t, x0, x1), SpatiallyLinear.derivative(interpolant, t, x0, x1)
        )


def test_automatic_derivatives_of_weights_keep_shape_and_dtype():
    path = Affine(lambda t: torch.cos(torch.pi / 2 * t), lambda t: torch.sin(torch.pi / 2 * t))
    for shape in ((), (1,), (4,)):
        t = torch.full(shape, 0.25)
        for name in ("alpha_derivative", "beta_derivative", "half_alpha_squared_derivative"):
            value = getattr(path, name)(t)
            assert value.shape == t.shape
            assert value.dtype == t.dtype


def assert_weights(path, t, alpha, beta, relative=1e-13):
    """Compare weights and derivatives at one time with functions in 40 digits."""
    time, exact_time = torch.tensor(t, dtype=torch.float64), mpmath.mpf(t)
    for name, weight in (("alpha", alpha), ("beta", beta)):
        value, slope = float(weight(exact_time)), float(mpmath.diff(weight, exact_time))
        assert getattr(path, name)(time).item() == pytest.approx(value, rel=relative, abs=1e-16)
        assert getattr(path, f"{name}_derivative")(time).item() == pytest.approx(
            slope, rel=relative, abs=1e-15
        )
        product = getattr(path, f"half_{name}_squared_derivative")(time).item()
        assert product == pytest.approx(value * slope, rel=relative, abs=1e-15)


@pytest.mark.parametrize("t", [1e-6, 0.2, 0.5, 0.77, 1 - 1e-6])
def test_trigonometric_is_the_quarter_circle(t):
    # Relative: both weights keep their digits where they are small.
    assert_weights(
        Trigonometric(), t, lambda s: mpmath.cos(mpmath.pi * s / 2), lambda s: mpmath.sin(mpmath.pi * s / 2)
    )


@pytest.mark.parametrize("t", [1e-6, 0.2, 0.4999, 0.5001, 0.77, 1 - 1e-6])
def test_encoding_decoding_is_the_cosine_squared_and_its_mirror_image(t):
    def early(s):
        return mpmath.cos(mpmath.pi * s) ** 2 if s < 0.5 else mpmath.mpf(0)

    assert_weights(EncodingDecoding(), t, early, lambda s: early(1 - s))


def test_encoding_decoding_is_standard_normal_in_the_middle():
    t = torch.tensor(0.5, dtype=torch.float64)
    path = EncodingDecoding()
    assert path.gamma == SineSquared()
    assert [f(t).item() for f in (path.alpha, path.beta, path.gamma)] == [0.0, 0.0, 1.0]
    assert path.alpha(torch.tensor([0.6, 0.9])).tolist() == [0.0, 0.0]
    assert path.beta(torch.tensor([0.1, 0.4])).tolist() == [0.0, 0.0]
    assert path.kinks == (0.5,)
    assert Linear().kinks == ()


def shifted_signal(t, rate_min, rate_max):
    """sqrt(alpha-bar) at diffusion time 1 - t, shifted and scaled to end at 0 (arXiv 2305.08891, Alg. 1)."""

    def signal(tau):
        integral, _ = scipy.integrate.quad(lambda s: rate_min + s * (rate_max - rate_min), 0, tau)
        return math.sqrt(math.exp(-integral))

    first, last = signal(0.0), signal(1.0)
    return (signal(1 - t) - last) * first / (first - last)


@pytest.mark.parametrize("rates", [(0.1, 20.0), (0.5, 0.5), (1.0, 7.0)])
@pytest.mark.parametrize("t", [0.05, 0.3, 0.49, 0.5, 0.51, 0.8, 0.97])
def test_variance_preserving_is_the_shifted_noise_schedule(t, rates):
    path, time = VariancePreserving(*rates), torch.tensor(t, dtype=torch.float64)
    beta = shifted_signal(t, *rates)
    # Gauss-Kronrod quadrature of a line errs by rounding; subtracting the last signal costs two digits.
    assert path.beta(time).item() == pytest.approx(beta, rel=1e-11)
    assert path.alpha(time).item() == pytest.approx(math.sqrt(1 - beta**2), rel=1e-11)

    def exact_beta(s):
        def signal(tau):
            return mpmath.exp(-(rates[0] * tau + mpmath.mpf(rates[1] - rates[0]) * tau**2 / 2) / 2)

        return (signal(1 - s) - signal(1)) / (1 - signal(1))

    assert_weights(path, t, lambda s: mpmath.sqrt(1 - exact_beta(s) ** 2), exact_beta, relative=1e-12)


@pytest.mark.parametrize("t", [1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9])
def test_variance_preserving_loses_no_digits_near_the_ends(t):
    def signal(tau):
        return mpmath.exp(-(tau / 10 + mpmath.mpf("19.9") * tau**2 / 2) / 2)

    beta = (signal(1 - mpmath.mpf(t)) - signal(1)) / (1 - signal(1))
    path, time = VariancePreserving(), torch.tensor(t, dtype=torch.float64)
    assert path.beta(time).item() == pytest.approx(float(beta), rel=1e-13)
    assert path.alpha(time).item() == pytest.approx(float(mpmath.sqrt(1 - beta**2)), rel=1e-13)


@pytest.mark.parametrize("rate_max", [800.0, 4000.0])
def test_variance_preserving_takes_large_rates_in_single_precision(rate_max):
    t = torch.tensor([0.2, 0.4, 0.6, 0.9, 1.0])
    path = VariancePreserving(0.1, rate_max)
    integral = [(1 - s) * (0.05 + (1 - s) * (rate_max - 0.1) / 4) for s in t.double().tolist()]
    expected = torch.tensor([math.exp(-b) for b in integral])
    # Beside weights of order 1, a few single-precision roundings.
    torch.testing.assert_close(path.beta(t), expected, rtol=0, atol=4 * torch.finfo(torch.float32).eps)
    assert path.alpha(t).isfinite().all()


def test_products_are_finite_where_a_derivative_is_not():
    path = VariancePreserving()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.alpha_derivative(ends)[1] == -torch.inf
    # At the data, beta' = rate_min / 2 / (1 - e^-B(1)) with B(1) = 5.025, and beta = 1.
    expected = 0.05 / (1 - math.exp(-5.025))
    products = path.half_alpha_squared_derivative(ends), path.half_beta_squared_derivative(ends)
    assert products[0].tolist() == pytest.approx([0.0, -expected], abs=1e-15)
    assert products[1].tolist() == pytest.approx([0.0, expected], abs=1e-15)


def test_linear_is_the_straight_line(generator):
    x0, x1, _ = batch((4, 3), generator)
    sample = Linear().sample(0.25, x0, x1)
    torch.testing.assert_close(sample.xt, 0.75 * x0 + 0.25 * x1, rtol=1e-15, atol=1e-15)
    assert torch.equal(sample.xt_dot, x1 - x0)


def test_mirror_moves_by_its_noise_alone(generator):
    x0, x1, z = batch((4, 3), generator)
    sample = Mirror(Quadratic()).sample(0.25, x0, x1, z)
    torch.testing.assert_close(sample.xt, x1 + 0.1875 * z, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(sample.xt_dot, 0.5 * z, rtol=1e-15, atol=1e-15)


def test_affine_uses_the_functions_it_is_given():
    path = Affine(lambda t: (1 - t) ** 2, lambda t: t**3, Brownian())
    t = torch.tensor([0.2, 0.5], dtype=torch.float64)
    assert path.alpha(t).tolist() == pytest.approx([0.64, 0.25], rel=1e-14)
    assert path.beta(t).tolist() == pytest.approx([0.008, 0.125], rel=1e-14)
    assert path.alpha_derivative(t).tolist() == pytest.approx([-1.6, -1.0], rel=1e-14)
    assert path.beta_derivative(t).tolist() == pytest.approx([0.12, 0.75], rel=1e-14)
    assert path.half_beta_squared_derivative(t).tolist() == pytest.approx([0.00096, 0.09375], rel=1e-14)
    assert path.gamma == Brownian()


def test_weights_may_be_constants():
    one_sided = Affine(lambda t: 0.0, lambda t: 1.0, Quadratic())
    sample = one_sided.sample(0.5, torch.zeros(2, 1), torch.ones(2, 1), torch.ones(2, 1))
    assert sample.xt.flatten().tolist() == [1.25, 1.25]
    assert sample.xt_dot.flatten().tolist() == [0.0, 0.0]


# ---- subclasses


def test_a_circle_is_followed_at_constant_speed(generator):
    class Circle(Interpolant):
        def interpolate(self, t, x0, x1):
            centre, radius = (x0 + x1) / 2, (x0 - x1) / 2
            angle = torch.pi * t.reshape(-1, 1)
            turned = torch.stack([-radius[:, 1], radius[:, 0]], dim=1)
            return centre + angle.cos() * radius + angle.sin() * turned

    x0, x1, _ = batch((6, 2), generator)
    sample = Circle().sample(torch.linspace(0, 1, 6, dtype=torch.float64), x0, x1)
    arm, radius = sample.xt - (x0 + x1) / 2, (x0 - x1).norm(dim=1) / 2
    # Roundings only. Half a turn in unit time, anticlockwise: xt_dot is pi times the arm turned left.
    torch.testing.assert_close(arm.norm(dim=1), radius, rtol=1e-14, atol=0)
    left = torch.stack([-arm[:, 1], arm[:, 0]], dim=1)
    torch.testing.assert_close(sample.xt_dot, torch.pi * left, rtol=1e-13, atol=1e-13)


def test_a_two_line_subclass_takes_latent_noise():
    path = Cubic(gamma=Brownian())
    assert path.gamma == Brownian()
    assert Cubic().gamma == Zero()
    sample = path.sample(0.5, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2))
    # 1/8 + 1/2, and 3/4 + 0.
    assert sample.xt.tolist() == [[0.625, 0.625]]
    assert sample.xt_dot.tolist() == [[0.75, 0.75]]


def test_a_class_may_fix_its_gamma():
    class Noisy(Cubic):
        gamma = Brownian(4.0)

    assert Noisy().gamma == Brownian(4.0)
    assert Noisy(Zero()).gamma == Zero()


def test_a_learnable_path_receives_gradients_through_a_loss(generator):
    path = Mine(Brownian())
    x0, x1, _ = batch((16, 2), generator)
    Regression(path)(lambda t, x: x, x0, x1, generator=generator).backward()
    assert path.bend.grad.isfinite()
    assert path.bend.grad != 0


def test_the_gradient_of_a_learnable_path_is_the_finite_difference(generator):
    path = Mine()
    x0, x1, _ = batch((16, 2), generator)
    loss = Regression(path)
    draw = loss.draw(x0, x1, generator=generator)

    def value():
        return loss.evaluate(lambda t, x: x.sin(), draw).mean()

    (gradient,) = torch.autograd.grad(value(), path.bend)
    step = 1e-6
    with torch.no_grad():
        path.bend += step
        late = value()
        path.bend -= 2 * step
        early = value()
    # Central differences: step^2 and eps / step, both below 1e-9.
    assert gradient.item() == pytest.approx(((late - early) / (2 * step)).item(), rel=1e-7)


def test_a_learnable_gamma_is_not_hidden_by_the_default(generator):
    path = Mine(LearnableGamma())
    assert isinstance(path.gamma, LearnableGamma)
    assert {name for name, _ in path.named_parameters()} == {"bend", "gamma.scale"}
    x0, x1, z = batch((16, 2), generator)
    sample = path.sample(0.5, x0, x1, z)
    # gamma(1/2) = 2 / 4, and gamma' is 0 there.
    expected = path.interpolate(torch.tensor(0.5, dtype=torch.float64), x0, x1) + z / 2
    torch.testing.assert_close(sample.xt, expected, rtol=1e-14, atol=1e-14)
    Regression(path)(lambda t, x: x, x0, x1, generator=generator).backward()
    assert path.gamma.scale.grad.isfinite()
    assert path.gamma.scale.grad != 0


def test_a_plain_gamma_is_kept_by_a_module():
    path = Mine(Brownian(3.0))
    assert path.gamma == Brownian(3.0)
    assert Mine().gamma == Zero()


# ---- statistics


@pytest.mark.parametrize("family", LINEAR_FAMILIES)
def test_gaussian_ends_give_the_closed_form_marginal(family, gamma, generator):
    interpolant = FAMILIES[family](gamma)
    n, t = 40_000, 0.3
    means = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    factors = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.5, 0.0], [-1.0, 1.2]]], dtype=torch.float64)
    noise = torch.randn((2, n, 2), generator=generator, dtype=torch.float64)
    x0, x1 = means[:, None] + noise @ factors.mT
    time = torch.tensor(t, dtype=torch.float64)
    alpha, beta, amplitude = (f(time) for f in (interpolant.alpha, interpolant.beta, interpolant.gamma))
    mean = alpha * means[0] + beta * means[1]
    covariance = (
        alpha**2 * factors[0] @ factors[0].T
        + beta**2 * factors[1] @ factors[1].T
        + amplitude**2 * torch.eye(2, dtype=torch.float64)
    )
    xt = interpolant.sample(t, x0, x1, generator=generator).xt
    # Five standard errors of each of the five estimators: chance exceeds one of them 3e-6 of the time,
    # once for this seed. That of a covariance is sqrt((C_ii C_jj + C_ij^2) / n) for Gaussians.
    assert ((xt.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    variances = covariance.diagonal()
    error = ((variances[:, None] * variances + covariance**2) / n).sqrt()
    assert ((xt.T.cov() - covariance).abs() < 5 * error).all()


# ---- values and mistakes


def test_families_are_values():
    for make in (Linear, Trigonometric, EncodingDecoding, VariancePreserving, lambda: Mirror(Brownian())):
        path = make()
        assert path == make()
        assert hash(path) == hash(make())
        assert pickle.loads(pickle.dumps(path)) == path
    assert Linear() != Linear(Brownian())
    assert repr(Linear(gamma=Brownian())) == "Linear(gamma=Brownian(a=1.0))"
    alpha, beta = math.cos, math.sin
    assert Affine(alpha, beta) == Affine(alpha, beta) != Affine(beta, alpha)
    with pytest.raises(FrozenInstanceError):
        Linear().gamma = Brownian()


def test_an_interpolant_without_a_path_cannot_be_built():
    class Empty(Interpolant):
        pass

    class OneWeight(SpatiallyLinear):
        def alpha(self, t):
            return 1 - t

    with pytest.raises(TypeError, match="interpolate"):
        Empty()
    with pytest.raises(TypeError, match="beta"):
        OneWeight()


@pytest.mark.parametrize(
    "build",
    [
        lambda gamma: Linear(gamma),
        lambda gamma: Trigonometric(gamma=gamma),
        lambda gamma: EncodingDecoding(gamma),
        lambda gamma: VariancePreserving(gamma=gamma),
        Mirror,
        lambda gamma: Affine(lambda t: 1 - t, lambda t: t, gamma),
        lambda gamma: Cubic(gamma),
        lambda gamma: Arc(gamma=gamma),
    ],
)
@pytest.mark.parametrize("gamma", [0.5, Brownian, "brownian"])
def test_gamma_must_be_a_gamma(build, gamma):
    with pytest.raises(TypeError, match=r"gamma must be a Gamma, such as Brownian\(\); got"):
        build(gamma)


def test_affine_needs_functions():
    with pytest.raises(TypeError, match="alpha must be a function of time; got float"):
        Affine(1.0, lambda t: t)
    with pytest.raises(TypeError, match="beta must be a function of time; got Tensor"):
        Affine(lambda t: 1 - t, torch.ones(3))


@pytest.mark.parametrize(
    "rates", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0), (0.1, math.nan)]
)
def test_variance_preserving_needs_rates_in_order(rates):
    with pytest.raises(ValueError, match="needs 0 < rate_min <= rate_max < infinity; got"):
        VariancePreserving(*rates)


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("x0", "x1", "z", "kind", "fragment"),
    [
        (X.long(), X.long(), None, TypeError, "x0 must be a floating-point tensor; got torch.int64"),
        (X, X.long(), None, TypeError, "x1 must be a floating-point tensor; got torch.int64"),
        (X.tolist(), X, None, TypeError, "x0 must be a floating-point tensor; got list"),
        (X.cfloat(), X.cfloat(), None, TypeError, "x0 must be a floating-point tensor; got torch.complex64"),
        (X, X.double(), None, TypeError, "x0 and x1 must share a dtype; got torch.float32 and torch.float64"),
        (X, X[:3], None, ValueError, r"x0 and x1 must share a shape \(B, \*D\); got \(4, 3\) and \(3, 3\)"),
        (X, X[:, :1], None, ValueError, "x0 and x1 must share a shape"),
        (X[0, 0], X[0, 0], None, ValueError, "x0 and x1 must share a shape"),
        (X, X.to("meta"), None, ValueError, "x0 and x1 must be on one device; got cpu and meta"),
        (X, X, X.double(), TypeError, "x0 and z must share a dtype"),
        (X, X, X[:1], ValueError, "x0 and z must share a shape"),
        (X, X, X.long(), TypeError, "z must be a floating-point tensor; got torch.int64"),
    ],
)
@pytest.mark.parametrize("path", [Linear(), Linear(Brownian()), Arc()])
def test_points_must_be_alike(path, x0, x1, z, kind, fragment):
    with pytest.raises(kind, match=fragment):
        path.sample(0.5, x0, x1, z)


@pytest.mark.parametrize("t", [-1e-9, 1.0000001, 2, math.nan, math.inf])
def test_a_float_time_must_lie_between_zero_and_one(t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]; got"):
        Linear().sample(t, X, X)


@pytest.mark.parametrize("t", ["0.5", None, [0.5] * 4, 0.5j])
def test_a_time_must_be_a_number_or_a_tensor(t):
    with pytest.raises(TypeError, match="t must be a float or a tensor; got"):
        Linear().sample(t, X, X)


@pytest.mark.parametrize("shape", [(3,), (1,), (4, 1), (4, 3), (1, 4)])
def test_a_tensor_of_times_must_be_one_time_or_one_per_example(shape):
    with pytest.raises(
        ValueError, match=r"t must be a float, a \(\) tensor or one time per example, shape \(4,\)"
    ):
        Linear().sample(torch.zeros(shape), X, X)


def test_points_of_one_number_each_are_a_batch():
    sample = Linear(Brownian()).sample(
        torch.tensor([0.25, 0.5]), torch.zeros(2), torch.ones(2), torch.ones(2)
    )
    # t + sqrt(t (1 - t)).
    assert sample.xt.tolist() == pytest.approx([0.25 + math.sqrt(0.1875), 1.0], rel=1e-6)
