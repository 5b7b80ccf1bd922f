import pytest
import torch
from torch import nn

from interpolants import (
    MLP,
    Gamma,
    LearnedField,
    Linear,
    ODESampler,
    Quadratic,
    Regression,
    SpatiallyLinear,
    Trainer,
)
from interpolants.gammas import Brownian


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**options):
    return MLP(2, width=8, depth=2, generator=seeded(1), **options).double()


def batches(count=3, n=16, dtype=torch.float64):
    generator = seeded(2)
    return [
        (
            torch.randn(n, 2, dtype=dtype, generator=generator),
            1 + torch.randn(n, 2, dtype=dtype, generator=generator),
        )
        for _ in range(count)
    ]


def vector(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, t, x, *, label):
        return self.scale[label, None] * self.inner(t, x)


# ----------------------------------------------------------------------------------------------------- steps


def test_steps_are_those_written_by_hand():
    loss, data, steps = Regression(Linear()), batches(), 3
    network, twin = small(), small()
    generator, same = seeded(), seeded()
    figures = list(Trainer(network, loss, data, steps=steps, generator=generator))
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, fused=True)
    for k, (x0, x1) in enumerate(data):
        optimizer.zero_grad()
        t = loss.times.sample(len(x0), x0, generator=same)
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        value = (twin(t, xt) - (x1 - x0)).square().sum(1).mean()
        value.backward()
        optimizer.step()
        assert figures[k].index == k + 1
        # The path may be blended in one kernel or in two.
        assert figures[k].loss.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(vector(network), vector(twin), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    ],
    ids=["Adam", "SGD", "AdamW"],
)
def test_steps_are_those_of_the_plain_loop_bit_for_bit(optimizer):
    loss, data = Quadratic(Linear(Brownian()), antithetic=True), batches()
    network, twin = small(), small()
    generator, same = seeded(), seeded()
    for _ in Trainer(network, loss, data, steps=3, optimizer=optimizer, generator=generator):
        pass
    hand = optimizer(list(twin.parameters()))
    for x0, x1 in data:
        hand.zero_grad()
        loss(twin, x0, x1, generator=same).backward()
        hand.step()
    assert torch.equal(vector(network), vector(twin))


def test_figures_count_from_one_and_are_detached_scalars():
    trainer = Trainer(small(), Regression(Linear()), batches(), steps=4)
    figures = list(trainer)
    assert [step.index for step in figures] == [1, 2, 3, 4]
    assert all(step.loss.shape == () and not step.loss.requires_grad for step in figures)
    assert trainer.index == 4
    assert list(trainer) == []
    assert list(Trainer(small(), Regression(Linear()), batches(), steps=0)) == []


def test_the_loss_is_that_before_the_step():
    network, twin, data = small(), small(), batches(1)
    step = next(Trainer(network, Regression(Linear()), data, steps=1, generator=seeded()))
    expected = Regression(Linear())(twin, *data[0], generator=seeded())
    assert torch.equal(step.loss, expected.detach())


def test_training_is_reproduced_by_the_generator_and_leaves_the_global_one_alone():
    state, results = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        network = small()
        torch.set_rng_state(state)  # nn.Linear draws from it
        for _ in Trainer(network, Regression(Linear()), batches(), steps=3, generator=seeded(seed)):
            pass
        assert torch.equal(state, torch.get_rng_state())
        results.append(vector(network))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# --------------------------------------------------------------------------------------------------- batches


def firsts(trainer, data):
    """Which batch each step used, from the draws of its loss."""
    seen, original = [], trainer.loss.draw

    def draw(x0, x1, *, generator=None, shard=None):
        seen.append(next(k for k, (a, _) in enumerate(data) if torch.equal(a, x0)))
        return original(x0, x1, generator=generator, shard=shard)

    object.__setattr__(trainer.loss, "draw", draw)
    return seen


def test_a_finite_list_of_batches_is_begun_again():
    data = batches(3)
    trainer = Trainer(small(), Regression(Linear()), data, steps=7)
    seen = firsts(trainer, data)
    assert len(list(trainer)) == 7
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_iterating_again_after_a_break_continues():
    data = batches(3)
    trainer = Trainer(small(), Regression(Linear()), data, steps=5)
    seen = firsts(trainer, data)
    for step in trainer:
        if step.index == 2:
            break
    assert [step.index for step in trainer] == [3, 4, 5]
    assert seen == [0, 1, 2, 0, 1]


def test_a_generator_of_batches_may_be_endless():
    def endless():
        while True:
            yield batches(1)[0]

    assert len(list(Trainer(small(), Regression(Linear()), endless(), steps=4))) == 4


def test_empty_and_exhausted_batches_are_reported():
    with pytest.raises(ValueError, match="no minibatch"):
        next(Trainer(small(), Regression(Linear()), [], steps=1))
    trainer = Trainer(small(), Regression(Linear()), iter(batches(2)), steps=3)
    next(trainer)
    next(trainer)
    with pytest.raises(ValueError, match=r"no minibatch.*run out"):
        next(trainer)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((torch.zeros(4, 2),), "a tuple of Tensor"),
        ((torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4)), "a tuple of Tensor, Tensor, Tensor"),
        ({"x0": torch.zeros(4, 2)}, "a dict"),
        (torch.zeros(2, 4, 2), "a Tensor"),
    ],
)
def test_what_is_no_minibatch_is_said_to_be_none(batch, found):
    trainer = Trainer(small(), Regression(Linear()), [batch], steps=1)
    with pytest.raises(TypeError, match=rf"\(x0, x1, conditions\).*got {found}$"):
        next(trainer)


def test_a_class_in_place_of_a_network_or_a_loss_is_named():
    with pytest.raises(TypeError, match=r"loss must be a Loss, such as Regression.*got the class Regression"):
        Trainer(small(), Regression, batches(), steps=1)
    with pytest.raises(TypeError, match=r"network must be a Module, such as MLP.*got the class MLP"):
        Trainer(MLP, Regression(Linear()), batches(), steps=1)
    with pytest.raises(TypeError, match=r"velocity must be a network.*got the class MLP"):
        LearnedField(Linear(), velocity=MLP)


def test_conditions_of_a_batch_reach_the_network():
    network, seen = Conditioned(), []
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["label"]), with_kwargs=True)
    x0, x1 = batches(1)[0]
    label = torch.arange(16) % 3
    list(Trainer(network, Regression(Linear()), [(x0, x1, {"label": label})], steps=2))
    assert len(seen) == 2
    assert torch.equal(seen[0], label)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        Trainer(small(), Regression(Linear()), batches(), steps=-1)
    with pytest.raises(ValueError, match="no parameters"):
        Trainer(nn.Identity(), Regression(Linear()), batches(), steps=1)
    frozen = small().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters"):
        Trainer(frozen, Regression(Linear()), batches(), steps=1)


# ----------------------------------------------------------------------------------------- what is trained


def test_frozen_parameters_are_left_alone():
    network, reference = small(), small()
    network.layers[0].requires_grad_(False)
    list(Trainer(network, Regression(Linear()), batches(), steps=3))
    assert torch.equal(network.layers[0].weight, reference.layers[0].weight)
    assert network.layers[0].weight.grad is None
    assert not torch.equal(network.layers[2].weight, reference.layers[2].weight)


class Learnable(nn.Module, SpatiallyLinear):
    def __init__(self):
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t + self.bend * t * (1 - t)


def test_a_learnable_interpolant_is_trained_too():
    path, network = Learnable(), small()
    before = vector(network)
    list(Trainer(network, Regression(path), batches(), steps=3, generator=seeded()))
    # Adam's first steps are of the learning rate, 1e-3, whatever the gradient.
    assert 1e-4 < abs(path.bend.item() - 0.1) < 1e-2
    assert not torch.equal(vector(network), before)


def test_a_learnable_interpolant_alone_is_enough():
    path = Learnable()
    list(Trainer(small().requires_grad_(False), Regression(path), batches(), steps=1))
    assert path.bend.item() != 0.1


class Squares(SpatiallyLinear):
    def alpha(self, t): return (1 - t) ** 2  # fmt: skip

    def beta(self, t): return t**2  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("objective", [Regression, Quadratic])
def test_an_interpolant_of_two_lines_trains_and_samples(objective):
    def train():
        generator, path, optimizers = seeded(), Squares(), []
        network = MLP(2, generator=generator)
        mean, spread = torch.tensor([2.0, -1.0]), 0.5

        def endless():
            while True:
                x0, x1 = (torch.randn(256, 2, generator=generator) for _ in range(2))
                yield x0, mean + spread * x1

        trainer = Trainer(
            network,
            objective(path),
            endless(),
            steps=1500,
            optimizer=lambda p: optimizers.append(torch.optim.Adam(p, lr=4e-3)) or optimizers[0],
            generator=generator,
        )
        losses = []
        for step in trainer:  # The body of the loop may do as it likes: here the learning rate falls to 0.
            optimizers[0].param_groups[0]["lr"] = 4e-3 * (1 - step.index / 1500)
            losses.append(step.loss)
        return path, network, torch.stack(losses)

    path, network, losses = train()
    x0 = torch.randn(4000, 2, generator=seeded(5))
    x1 = ODESampler("midpoint", steps=30).sample(LearnedField(path, velocity=network), x0).final
    # The seed is fixed; a network this long trained is within a twentieth, and sampling errs by 0.02.
    assert ((x1.mean(0) - torch.tensor([2.0, -1.0])).abs() < 0.1).all()
    assert ((x1.std(0) - 0.5).abs() < 0.1).all()
    assert losses[-100:].mean() < losses[:10].mean() - 1


def test_the_same_seed_trains_the_same_network_on_an_own_interpolant():
    results = []
    for _ in range(2):
        network = small()
        list(Trainer(network, Quadratic(Squares()), batches(), steps=5, generator=seeded()))
        results.append(vector(network))
    assert torch.equal(*results)


# --------------------------------------------------------------------------------------------------- compiled

OPTIMIZERS = {
    "default": None,
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.5, 0.75), fused=True),
}
# Compiled, torch's Adam corrects its bias by 1 - beta^k in single precision. With beta = 0.999 that is 6e-5
# of the first step, and 30 steps are of 1e-3 each; powers of 0.5 and 0.75 are exact for long, and then
# 30 steps of 1e-2 err by 6e-8. Otherwise there are only sums in another order, in double precision.
TOLERANCES = {"default": 30 * 1e-3 * 6e-5, "momentum": 1e-10, "fused": 30 * 1e-2 * 6e-8 * 2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_compiled_step_is_the_eager_one(kind):
    optimizer, results = OPTIMIZERS[kind], []
    data = [(*pair, {"label": torch.arange(16) % 3}) for pair in batches()]
    loss = Quadratic(Linear(Brownian()), antithetic=True)
    for compiled in (False, True):
        network = Conditioned()
        own = dict(network.named_parameters())
        before = {name: p.detach().clone() for name, p in own.items()}
        trainer = Trainer(
            network, loss, data, steps=30, optimizer=optimizer, generator=seeded(), compile=compiled
        )
        losses = torch.stack([step.loss for step in trainer])
        assert not losses.requires_grad
        # The network's own parameters are trained, and saved and loaded as ever.
        assert all(p is own[name] for name, p in network.named_parameters())
        assert not any(torch.equal(p, before[name]) for name, p in own.items())
        copy = Conditioned()
        copy.load_state_dict(network.state_dict())
        assert torch.equal(vector(copy), vector(network))
        results.append((losses, vector(network)))
    tolerance = TOLERANCES[kind]
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=tolerance)
    # The loss changes by at most its gradient, whose norm is about ten here, times that of all 140 changes.
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=100 * tolerance)


@pytest.mark.slow
def test_a_compiled_step_gives_an_optimiser_with_groups_its_own_parameters():
    def decayed(parameters):
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 10.0}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-2)

    trained = []
    for compiled in (False, True):
        generator = torch.Generator().manual_seed(0)
        network = MLP(1, width=8, depth=1, generator=generator)
        batches = [(torch.zeros(16, 1), torch.ones(16, 1))]
        trainer = Trainer(
            network,
            Regression(Linear()),
            batches,
            steps=10,
            optimizer=decayed,
            generator=generator,
            compile=compiled,
        )
        for _ in trainer:
            pass
        trained.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    # Single precision, and Adam's first steps divide by numbers near 0; without decay they differ by 0.1.
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_a_learnable_gamma_inside_a_family_is_trained():
    class Learnable(Gamma, torch.nn.Module):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.scale = torch.nn.Parameter(torch.tensor(0.1))

        def squared(self, t):
            return self.scale.exp() * t * (1 - t)

    gamma = Learnable()
    batches = [(torch.zeros(16, 1), torch.ones(16, 1))]
    for _ in Trainer(MLP(1, width=8, depth=1), Quadratic(Linear(gamma)), batches, steps=2):
        pass
    assert gamma.scale != 0.1


@pytest.mark.slow
def test_a_step_that_cannot_be_compiled_says_so_in_a_line():
    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
            )

        def forward(self, t, x):
            return self.layers(x)

    batches = [(torch.zeros(16, 1), torch.ones(16, 1))]
    trainer = Trainer(Normalised(), Regression(Linear()), batches, steps=1, compile=True)
    with pytest.raises(RuntimeError, match=r"cannot be compiled into one graph .*; use compile=False"):
        next(trainer)


@pytest.mark.slow
def test_a_process_compiles_as_many_trainings_as_it_likes():
    with torch._dynamo.config.patch(recompile_limit=1):  # By default torch stops at the ninth.
        for _ in range(2):
            next(Trainer(small(), Regression(Linear()), batches(), steps=1, compile=True))


@pytest.mark.slow
def test_a_network_of_one_parameter_can_be_compiled():
    class Single(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.eye(2))

        def forward(self, t, x):
            return x @ self.matrix

    network = Single()
    batches = [(torch.zeros(16, 2), torch.ones(16, 2))]
    for _ in Trainer(network, Regression(Linear()), batches, steps=2, compile=True):
        pass
    # Adam moves every element by its learning rate at first, here upwards: the answer t x is too small.
    torch.testing.assert_close(network.matrix.detach(), torch.eye(2) + 2e-3, rtol=0, atol=2e-4)
