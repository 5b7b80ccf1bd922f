"""A training that is stopped and continued is the one that was not stopped."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from interpolants import MLP, Linear, OptimalTransport, Quadratic, Regression, SpatiallyLinear, Trainer
from interpolants.data import RandomPairs
from interpolants.gammas import Brownian
from interpolants.training import Checkpoints, WarmUp


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Noisy(nn.Module):
    """A network with dropout, a buffer, and numbers from every global generator."""

    def __init__(self):
        super().__init__()
        self.inner = MLP(2, width=8, depth=2, generator=seeded(1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, t, x):
        self.calls += 1
        x = nn.functional.dropout(x, 0.2, training=self.training)
        return self.inner(t, x) + np.random.rand() + random.random() + random.gauss(0, 1)  # noqa: NPY002


def everything(trainer):
    """All that a later step depends on, as one list of tensors."""
    tensors, text = trainer.state()
    return {name: tensors[name] for name in sorted(tensors)}, text


def same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    assert [name for name in one[0] if not torch.equal(one[0][name], other[0][name])] == []


def with_shared_generator(steps):
    generator = seeded()
    points = torch.randn(64, 2, generator=seeded(3))
    return Trainer(
        Noisy(),
        Quadratic(Linear(Brownian()), antithetic=True),
        RandomPairs(points, points + 2, 16, generator=generator),
        steps=steps,
        generator=generator,
    )


def with_everything(steps):
    points = torch.randn(48, 2, generator=seeded(3))
    finite = [(points[k : k + 16], points[k : k + 16] + 2) for k in range(0, 48, 16)]
    return Trainer(
        Noisy(),
        Regression(Linear(), coupling=OptimalTransport()),
        finite,
        steps=steps,
        generator=seeded(),
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
        schedule=WarmUp(3, steps=20, floor=0.1),
        accumulate=2,
        clip=0.5,
        averages=(0.9, 0.99),
    )


class Bent(nn.Module, SpatiallyLinear):
    def __init__(self):
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.1))

    def alpha(self, t): return 1 - t  # fmt: skip

    def beta(self, t): return t + self.bend * t * (1 - t)  # fmt: skip


def with_a_learnable_path_and_momentum(steps):
    points = torch.randn(64, 2, generator=seeded(3))
    generator = seeded()
    return Trainer(
        MLP(2, width=8, depth=1, generator=seeded(1)),
        Regression(Bent()),
        RandomPairs(points, points, 8, generator=generator),
        steps=steps,
        generator=generator,
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    )


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 2, 3, padding=1))
        nn.init.normal_(self.layers[0].weight, generator=seeded(1))
        nn.init.normal_(self.layers[2].weight, generator=seeded(2))
        self.to(memory_format=torch.channels_last)

    def forward(self, t, x):
        return self.layers(x)


def with_channels_last(steps):
    points = torch.randn(64, 2, 4, 4, generator=seeded(3))
    generator = seeded()
    return Trainer(
        Convolutions(),
        Regression(Linear()),
        RandomPairs(points, points + 2, 8, generator=generator),
        steps=steps,
        generator=generator,
        averages=(0.9,),
    )


MAKERS = (with_shared_generator, with_everything, with_a_learnable_path_and_momentum, with_channels_last)


def seed_the_global_generators(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_training_continued_equals_one_that_was_not_bit_for_bit(make, stop, tmp_path):
    seed_the_global_generators(0)
    straight = make(10)
    losses = [step.loss for step in straight]

    seed_the_global_generators(0)
    stopped = make(10)
    before = [step.loss for step in itertools.islice(stopped, stop)]
    stopped.save(Checkpoints(tmp_path))
    seed_the_global_generators(123)  # Another process has other numbers in its generators.
    random.gauss(0, 1)
    continued = make(10)
    assert continued.resume(Checkpoints(tmp_path)) == stop
    after = [step.loss for step in continued]

    assert torch.equal(torch.stack([*before, *after]), torch.stack(losses))
    same(everything(continued), everything(straight))


def test_saving_does_not_disturb_the_training(tmp_path):
    results = []
    for save in (False, True):
        seed_the_global_generators(0)
        trainer = with_everything(8)
        for _ in trainer:
            if save:
                trainer.save(Checkpoints(tmp_path))
        results.append(everything(trainer))
    same(*results)


def test_without_a_checkpoint_a_training_begins(tmp_path):
    trainer = with_shared_generator(3)
    assert trainer.resume(Checkpoints(tmp_path / "none")) == 0
    assert len(list(trainer)) == 3


def test_the_settings_of_the_optimiser_are_those_of_now(tmp_path):
    def make(rate):
        optimizer = lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9)  # noqa: E731
        batches = [(torch.zeros(4, 1), torch.ones(4, 1))]
        network = MLP(1, width=4, depth=1, generator=seeded())
        return Trainer(
            network, Regression(Linear()), batches, steps=5, optimizer=optimizer, generator=seeded()
        )

    first = make(0.1)
    next(first)
    first.save(Checkpoints(tmp_path))
    second = make(0.25)
    second.resume(Checkpoints(tmp_path))
    assert second.optimizer.param_groups[0]["lr"] == 0.25


class Prodigal(torch.optim.SGD):
    """An optimiser that keeps its own count and rate among its settings, as Prodigy does."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            group["lr"] = torch.as_tensor(0.1 / group["count"])
            group["pair"] = (group["count"], 0.5)
        return super().step(closure)


def plain(optimizer, steps=9, **options):
    points = torch.randn(48, 2, generator=seeded(3))
    finite = [(points[k : k + 16], points[k : k + 16] + 2) for k in range(0, 48, 16)]
    network = options.pop("network", None) or MLP(2, width=8, depth=1, generator=seeded(1))
    return Trainer(
        network,
        Regression(Linear()),
        finite,
        steps=steps,
        generator=seeded(),
        optimizer=optimizer,
        **options,
    )


def test_settings_that_an_optimiser_or_the_loop_changed_are_carried_over(tmp_path):
    def run(trainer, losses, until=9):
        for step in trainer:
            trainer.optimizer.param_groups[0]["momentum"] = 0.9 - 0.1 * step.index
            losses.append(float(step.loss))
            if step.index == until:
                return

    def make():
        return plain(lambda p: Prodigal(p, lr=torch.tensor(0.1), momentum=0.9))

    straight, losses = [], []
    run(make(), straight)
    stopped = make()
    run(stopped, losses, 4)
    stopped.save(Checkpoints(tmp_path))
    continued = make()
    continued.resume(Checkpoints(tmp_path))
    group = continued.optimizer.param_groups[0]
    assert (group["count"], group["momentum"]) == (4, 0.9 - 0.1 * 4)
    assert isinstance(group["lr"], torch.Tensor)
    run(continued, losses)
    assert losses == straight


def test_without_its_schedule_a_training_has_the_rate_it_was_made_with(tmp_path):
    def make(**options):
        return plain(lambda p: torch.optim.SGD(p, lr=0.1), **options)

    first = make(steps=4, schedule=WarmUp(1, steps=4))
    list(first)
    assert first.optimizer.param_groups[0]["lr"] < 0.05
    first.save(Checkpoints(tmp_path))
    second = make(steps=6)
    second.resume(Checkpoints(tmp_path))
    assert second.optimizer.param_groups[0]["lr"] == 0.1


class Precise(torch.optim.Optimizer):
    """An optimiser with states of other types than the parameters."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state |= {"mean": torch.zeros_like(p, dtype=torch.float64), "calls": 0}
                state["codes"] = torch.zeros(3, dtype=torch.uint8)
            state["mean"].lerp_(p.grad.double(), 0.1)
            state["codes"] += 1
            state["calls"] += 1
            p.sub_(0.01 * state["mean"].to(p.dtype))


OPTIMIZERS = {
    "of other types": Precise,
    "with a product in single precision": torch.optim.NAdam,
    "with averages": torch.optim.ASGD,
    "factored": torch.optim.Adafactor,
    "without a state": lambda p: torch.optim.SGD(p, lr=1e-2),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optimisers_are_carried_over_in_their_own_types(name, dtype, tmp_path):
    class Typed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = MLP(2, width=8, depth=1, generator=seeded(1)).to(dtype)
            self.scale = nn.Parameter(torch.ones((), dtype=dtype))
            self.idle = nn.Parameter(torch.ones(3, dtype=dtype))  # Never has a gradient.
            self.turn = nn.Parameter(torch.ones(2, dtype=torch.complex64))

        def forward(self, t, x):
            return (self.scale * self.inner(t.to(dtype), x.to(dtype))).float() * self.turn.real

    def make():
        def optimizers(parameters):
            return OPTIMIZERS[name]([p for p in parameters if not p.is_complex()])

        return plain(optimizers, network=Typed(), averages=(0.9,))

    straight = make()
    list(straight)
    stopped = make()
    for _ in itertools.islice(stopped, 4):
        pass
    stopped.save(Checkpoints(tmp_path))
    continued = make()
    continued.resume(Checkpoints(tmp_path))
    list(continued)
    same(everything(continued), everything(straight))
    types = [[t.dtype for t in everything(trainer)[0].values()] for trainer in (continued, straight)]
    assert types[0] == types[1]


def test_a_state_is_a_copy_that_can_be_gone_back_to_again_and_again():
    trainer = plain(lambda p: torch.optim.Adam(p, lr=1e-2), averages=(0.9,))
    next(trainer)
    state = trainer.state()
    kept = {name: value.clone() for name, value in state[0].items()}
    expected = [float(next(trainer).loss) for _ in range(3)]
    for _ in range(2):
        trainer.restore(*state)
        assert [float(next(trainer).loss) for _ in range(3)] == expected
    assert all(torch.equal(kept[name], value) for name, value in state[0].items())


def test_averages_are_found_by_their_decay_and_new_ones_begin_with_the_weights(tmp_path):
    first = plain(torch.optim.SGD, averages=(0.9, 0.8))
    for _ in itertools.islice(first, 5):
        pass
    first.averages[0.8].updates = 3
    first.save(Checkpoints(tmp_path))
    second = plain(torch.optim.SGD, averages=(0.7, 0.8, 0.9))
    second.resume(Checkpoints(tmp_path))
    assert {decay: average.updates for decay, average in second.averages.items()} == {0.7: 1, 0.8: 3, 0.9: 5}
    assert int(second.averages[0.9].n_averaged) == 5
    pairs = [(second.averages[d], first.averages[d].module) for d in (0.9, 0.8)]
    for average, other in [*pairs, (second.averages[0.7], first.network)]:
        for one, two in zip(average.module.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)


def test_masks_of_infinities_are_kept_and_broken_numbers_are_not(tmp_path):
    def make():
        network = MLP(2, width=8, depth=1, generator=seeded(1))
        network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        network.turn = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        return plain(lambda p: torch.optim.SGD(p, lr=1e-2), network=network, averages=(0.9,))

    trainer, checkpoints = make(), Checkpoints(tmp_path)
    next(trainer)
    path = trainer.save(checkpoints)
    make().resume(checkpoints)
    broken = {
        "network.mask": trainer.network.mask,
        "network.turn": trainer.network.turn,
        "layers.0.bias": trainer.averages[0.9].module.layers[0].bias,
    }
    for name, tensor in broken.items():
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[0] = torch.nan
        with pytest.raises(ValueError, match=rf"{name} holds a NaN"):
            trainer.save(checkpoints)
        with torch.no_grad():
            tensor.copy_(kept)
    with torch.no_grad():
        trainer.network.layers[0].bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"layers\.0\.bias holds a NaN or an infinity"):
        trainer.save(checkpoints)
    assert checkpoints.paths() == [path]


def test_written_again_a_checkpoint_is_as_good_as_it_was(tmp_path):
    trainer, checkpoints = plain(torch.optim.SGD), Checkpoints(tmp_path, keep=1)
    next(trainer)
    path = trainer.save(checkpoints, figure=0.5)
    trainer.save(checkpoints)
    assert checkpoints.best() == path
    next(trainer)
    trainer.save(checkpoints)
    assert checkpoints.best() == path
    # A file of another training says nothing about this one.
    other = plain(torch.optim.SGD)
    next(other)
    other.save(checkpoints)
    assert checkpoints.best() is None
    with pytest.raises(ValueError, match="'training' is the trainer's own"):
        other.save(checkpoints, metadata={"training": ""})


def test_parameters_that_are_shared_stay_shared(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

        def forward(self, t, x):
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    first = plain(lambda p: torch.optim.Adam(p, lr=1e-2), network=Tied(), averages=(0.9,))
    for _ in itertools.islice(first, 3):
        pass
    first.save(Checkpoints(tmp_path))
    second = plain(lambda p: torch.optim.Adam(p, lr=1e-2), network=Tied(), averages=(0.9,))
    second.resume(Checkpoints(tmp_path))
    assert second.network.a.weight is second.network.b.weight
    list(first)
    list(second)
    same(everything(first), everything(second))


def test_batches_that_know_their_state_are_asked_for_it(tmp_path):
    class Counting:
        def __init__(self):
            self.count = 0

        def __iter__(self):
            while True:
                self.count += 1
                yield torch.full((4, 1), float(self.count)), torch.ones(4, 1)

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    def make(batches):
        return Trainer(
            MLP(1, width=4, depth=1, generator=seeded()),
            Regression(Linear()),
            batches,
            steps=9,
            generator=seeded(),
        )

    first = make(Counting())
    for _ in itertools.islice(first, 5):
        pass
    first.save(Checkpoints(tmp_path))
    batches = Counting()
    second = make(batches)
    second.resume(Checkpoints(tmp_path))
    assert batches.count == 5
    next(second)
    assert batches.count == 6


@pytest.mark.slow
def test_a_compiled_training_continues_too(tmp_path):
    def make(compiled=True):
        generator = seeded()
        points = torch.randn(64, 2, generator=seeded(3))
        return Trainer(
            MLP(2, width=8, depth=1, generator=seeded(1)),
            Regression(Linear()),
            RandomPairs(points, points + 2, 16, generator=generator),
            steps=8,
            generator=generator,
            compile=compiled,
            schedule=WarmUp(2, steps=8),
            clip=1.0,
            accumulate=2,
            averages=(0.9,),
        )

    straight = make()
    rates = []
    for _ in straight:
        rates.append(float(straight.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([1e-3 * WarmUp(2, steps=8)(k) for k in range(8)])
    stopped = make()
    for _ in itertools.islice(stopped, 3):
        pass
    stopped.save(Checkpoints(tmp_path))
    continued = make()
    continued.resume(Checkpoints(tmp_path))
    list(continued)
    same(everything(continued), everything(straight))
    plain = make(compiled=False)
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, this one of \[4\]: was it compiled"):
        plain.restore(*straight.state())
    plain = make(compiled=False)
    norms = [float(step.gradient_norm) for step in plain]
    # Some gradients are clipped and some are not, so both are compared. Single precision, eight steps.
    assert min(norms) < 1.0 < max(norms) or max(norms) > 1.0
    for one, other in zip(plain.network.parameters(), straight.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(plain.averages[0.9].parameters(), straight.averages[0.9].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    def make(width, depth=1):
        batches = [(torch.zeros(4, 1), torch.ones(4, 1))]
        return Trainer(MLP(1, width=width, depth=depth), Regression(Linear()), batches, steps=2)

    first = make(4)
    next(first)
    first.save(Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"another network: .* has shape \(4, 2\) in it, here \(5, 2\)"):
        make(5).resume(Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"another network: .* is in one of them only"):
        make(4, depth=2).resume(Checkpoints(tmp_path))


def test_a_state_with_a_nan_is_not_written(tmp_path):
    trainer = with_shared_generator(3)
    next(trainer)
    with torch.no_grad():
        trainer.network.inner.layers[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"network\.inner\.layers\.0\.weight holds a NaN"):
        trainer.save(Checkpoints(tmp_path))
    assert list(tmp_path.iterdir()) == []
