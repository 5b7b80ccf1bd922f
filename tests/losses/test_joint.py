import pytest
import torch

from interpolants import (
    MLP,
    Brownian,
    Denoiser,
    GaussianMixture,
    Heads,
    Joint,
    LearnedField,
    Linear,
    MixtureOracle,
    Quadratic,
    Regression,
    Trainer,
    Velocity,
)

PATH = Linear(gamma=Brownian())
BOTH = Joint(velocity=Velocity(), denoiser=Denoiser())


def ends(n=64, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 3, dtype=dtype, generator=generator) for _ in range(2))


def heads(t, x):
    return {"velocity": 2 * x, "denoiser": torch.sin(x) + t[:, None]}


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", [Regression, Quadratic])
def test_the_joint_loss_is_the_sum_of_the_losses_of_the_heads_on_one_draw(kind, antithetic):
    x0, x1 = ends()
    joint = kind(PATH, BOTH, antithetic=antithetic)
    draw = joint.draw(x0, x1, generator=torch.Generator().manual_seed(2))
    parts = [
        kind(PATH, target, antithetic=antithetic).evaluate(lambda t, x, n=name: heads(t, x)[n], draw)
        for name, target in (("velocity", Velocity()), ("denoiser", Denoiser()))
    ]
    # Another order of the same additions: rounding of sums of six terms.
    torch.testing.assert_close(joint.evaluate(heads, draw), sum(parts), rtol=1e-12, atol=1e-12)


def test_the_network_is_evaluated_once():
    calls = []

    def network(t, x):
        calls.append(len(x))
        return heads(t, x)

    Regression(PATH, BOTH, antithetic=True)(network, *ends())
    assert calls == [128]


def test_gap_and_calibration_vanish_for_the_exact_heads():
    normal = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None]).to(torch.float64)
    target = GaussianMixture(torch.ones(1), torch.ones(1, 3), 0.5 * torch.eye(3)[None]).to(torch.float64)
    oracle = MixtureOracle(PATH, normal, target)
    generator = torch.Generator().manual_seed(3)
    x0, x1 = (end.sample(4000, generator=generator) for end in (normal, target))

    def exact(t, x):
        return oracle.together(("velocity", "denoiser"), t, x)

    loss = Quadratic(PATH, BOTH, antithetic=True)
    assert loss.gap(exact, exact, x0, x1, generator=generator).value != 0
    for estimate in (
        loss.gap(exact, exact, x0, x1, generator=generator),
        loss.calibration(exact, x0, x1, generator=generator),
    ):
        # Five standard errors: once in a million.
        assert abs(estimate.value) < 5 * estimate.standard_error


def test_a_two_headed_network_is_trained_and_makes_a_field():
    generator = torch.Generator().manual_seed(0)
    network = Heads(MLP(dim=3, width=16, depth=1, out_dim=6, generator=generator))
    batches = [tuple(end.float() for end in ends(128))]
    trainer = Trainer(
        network, Regression(PATH, BOTH, antithetic=True), batches, steps=60, generator=generator
    )
    losses = [float(step.loss) for step in trainer]
    assert sum(losses[-10:]) < sum(losses[:10])
    field = LearnedField(PATH, velocity=network, denoiser=network)
    x = torch.randn(5, 3, generator=generator)
    answer = network(torch.full((5,), 0.25), x)
    assert torch.equal(field.velocity(0.25, x), answer["velocity"])
    # gamma(1/4) = sqrt(3)/4; one rounding of a quotient.
    torch.testing.assert_close(field.score(0.25, x), -answer["denoiser"] / (3**0.5 / 4))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda t, x: x, "must return a mapping with velocity, denoiser; got Tensor"),
        (
            lambda t, x: {"velocity": x},
            "must return a mapping with velocity, denoiser; got one with velocity",
        ),
        (lambda t, x: {"velocity": x, "denoiser": 1.0}, "must return a tensor; got float"),
    ],
)
def test_an_answer_of_another_kind_is_refused(answer, message):
    with pytest.raises(TypeError, match=message):
        Regression(PATH, BOTH)(answer, *ends())


def test_a_head_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"the shape of x, \(64, 3\); got \(64, 2\)"):
        Regression(PATH, BOTH)(lambda t, x: {"velocity": x, "denoiser": x[:, :2]}, *ends())


def test_what_is_no_target_or_does_not_suit_the_path_is_refused():
    with pytest.raises(TypeError, match="velocity must be a Target"):
        Joint(velocity=Velocity)
    with pytest.raises(ValueError, match="at least one target"):
        Joint()
    with pytest.raises(ValueError, match="needs latent noise"):
        Regression(Linear(), BOTH)
