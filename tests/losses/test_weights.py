import pytest
import torch

from interpolants import Brownian, Denoiser, Joint, Linear, Quadratic, Regression, Velocity
from interpolants.gammas import Zero
from interpolants.losses import InverseVariance, Weighted

PATH = Linear(gamma=Brownian(0.5))


def weight(t):
    return 1 + t**2


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", [Regression, Quadratic])
def test_a_weighted_target_is_the_loss_times_the_weight(kind, antithetic):
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(50, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    inside = kind(PATH, Weighted(Velocity(), weight), antithetic=antithetic)
    outside = kind(PATH, weight=weight, antithetic=antithetic)
    draw = inside.draw(x0, x1, generator=generator)
    values = [loss.evaluate(lambda t, x: torch.sin(x), draw) for loss in (inside, outside)]
    # The root of the weight, squared: two roundings.
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)


def test_one_head_is_weighted_and_the_other_is_not():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(50, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    joint = Regression(PATH, Joint(velocity=Weighted(Velocity(), weight), denoiser=Denoiser()))
    draw = joint.draw(x0, x1, generator=generator)
    total = joint.evaluate(lambda t, x: {"velocity": x, "denoiser": 2 * x}, draw)
    velocity = Regression(PATH, weight=weight).evaluate(lambda t, x: x, draw)
    denoiser = Regression(PATH, Denoiser()).evaluate(lambda t, x: 2 * x, draw)
    torch.testing.assert_close(total, velocity + denoiser, rtol=1e-12, atol=1e-12)


def test_the_inverse_variance_makes_the_variance_of_the_target_constant():
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    # gamma' of sqrt(a t (1 - t)), written out.
    slope = 0.5 * (1 - 2 * t) / (2 * (0.5 * t * (1 - t)).sqrt())
    torch.testing.assert_close(InverseVariance(Brownian(0.5), 0.25)(t) * (0.25 + slope**2), 0.25 + 0 * t)
    assert torch.equal(InverseVariance(Brownian())(torch.tensor([0.0, 1.0])), torch.zeros(2))
    assert torch.equal(InverseVariance(Zero())(t), torch.ones_like(t))


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="gamma must be a Gamma"):
        InverseVariance(Brownian)
    with pytest.raises(ValueError, match="rest must be positive and finite; got 0"):
        InverseVariance(Brownian(), 0)
    with pytest.raises(TypeError, match="target must be a Target"):
        Weighted(Velocity, weight)
    with pytest.raises(TypeError, match="weight must be a function of time; got float"):
        Weighted(Velocity(), 1.0)
    with pytest.raises(ValueError, match="needs latent noise"):
        Regression(Linear(), Weighted(Denoiser(), weight))


@pytest.mark.parametrize("count", [2, 6])
def test_a_weight_of_a_joint_target_is_that_of_every_head(count):
    # Also with as many examples as heads, where a wrong dimension would pass.
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(count, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    heads = {"velocity": Velocity(), "denoiser": Denoiser()}
    outside = Regression(PATH, Weighted(Joint(**heads), weight))
    inside = Regression(PATH, Joint(**{name: Weighted(head, weight) for name, head in heads.items()}))
    draw = inside.draw(x0, x1, generator=generator)
    values = [
        loss.evaluate(lambda t, x: {"velocity": x, "denoiser": 2 * x}, draw) for loss in (outside, inside)
    ]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)


def test_a_weight_may_be_one_number():
    x0, x1 = torch.zeros(4, 2), torch.ones(4, 2)
    assert Regression(Linear(), Weighted(Velocity(), lambda t: 4.0))(lambda t, x: 0 * x, x0, x1) == 8


def test_heads_of_heads_are_refused():
    with pytest.raises(TypeError, match="cannot be Joint itself; both is"):
        Joint(both=Joint(velocity=Velocity()))
