"""Minibatches are found again where a training stopped."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interpolants import MLP, Linear, Regression, Trainer
from interpolants.training import Checkpoints
from interpolants.training.feed import Feed


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Dropping(nn.Module):
    """A network that draws from torch's global generator, like the loaders do."""

    def __init__(self):
        super().__init__()
        self.inner = MLP(2, width=8, depth=1, generator=seeded(1))

    def forward(self, t, x):
        return self.inner(t, nn.functional.dropout(x, 0.2))


POINTS = torch.randn(64, 2, generator=seeded(3))


def shuffled(_):
    return DataLoader(TensorDataset(POINTS, POINTS + 2), 16, shuffle=True)


def shuffled_by_the_trainings_generator(generator):
    return DataLoader(TensorDataset(POINTS, POINTS + 2), 16, shuffle=True, generator=generator)


def shuffled_by_its_own_generator(_):
    return DataLoader(TensorDataset(POINTS, POINTS + 2), 16, shuffle=True, generator=seeded(9))


class ByHand:
    """Orders from NumPy's and Python's generators."""

    def __iter__(self):
        order = np.random.permutation(64)  # noqa: NPY002
        shift = random.random()
        for k in range(0, 64, 16):
            rows = order[k : k + 16]
            yield POINTS[rows], POINTS[rows] + shift


LOADERS = {
    "shuffled": shuffled,
    "by the training's generator": shuffled_by_the_trainings_generator,
    "by its own generator": shuffled_by_its_own_generator,
    "by hand": lambda _: ByHand(),
}


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("stop", [0, 3, 4, 7])
def test_loaders_that_shuffle_continue_bit_for_bit_whatever_the_new_seed(loader, stop, tmp_path):
    def make():
        generator = seeded()
        batches = LOADERS[loader](generator)
        return Trainer(Dropping(), Regression(Linear()), batches, steps=10, generator=generator)

    seed_all(0)
    straight = [float(step.loss) for step in make()]
    seed_all(0)
    stopped = make()
    losses = [float(next(stopped).loss) for _ in range(stop)]
    stopped.save(Checkpoints(tmp_path))
    seed_all(5)
    continued = make()
    assert continued.resume(Checkpoints(tmp_path)) == stop
    losses += [float(step.loss) for step in continued]
    assert losses == straight


def test_a_continued_training_is_stopped_and_continued_again(tmp_path):
    def make():
        return Trainer(Dropping(), Regression(Linear()), shuffled(None), steps=12, generator=seeded())

    seed_all(0)
    straight = [float(step.loss) for step in make()]
    seed_all(0)
    losses = []
    for seed in range(6):
        trainer = make()
        trainer.resume(Checkpoints(tmp_path))
        losses += [float(next(trainer).loss) for _ in range(2)]
        trainer.save(Checkpoints(tmp_path))
        seed_all(seed)
    assert losses == straight


def test_minibatches_are_counted_so_that_another_accumulation_continues(tmp_path):
    batches = [(torch.full((2, 1), float(k)), torch.full((2, 1), float(k))) for k in range(7)]

    def make(accumulate):
        network = MLP(1, width=4, depth=1, generator=seeded())
        return Trainer(network, Regression(Linear()), batches, steps=9, accumulate=accumulate)

    first = make(3)
    next(first)
    first.save(Checkpoints(tmp_path))
    second = make(1)
    second.resume(Checkpoints(tmp_path))
    assert second._feed.take()[0][0] == 3


def test_going_back_begins_again_from_the_beginning():
    feed = Feed([(k,) for k in range(5)], None)
    for _ in range(7):
        feed.take()
    state = feed.state()
    assert state == {"batches": None, "taken": 7, "begun": 2}
    for _ in range(6):
        feed.take()
    feed.restore(state, {}, None)
    assert [feed.take()[0] for _ in range(4)] == [2, 3, 4, 0]


def test_an_iterator_goes_forward_but_says_that_it_cannot_go_back():
    feed = Feed(iter([(k,) for k in range(9)]), None)
    state = feed.state() | {"taken": 4}
    feed.restore(state, {}, None)
    assert feed.take() == (4,)
    feed.restore(state | {"taken": 7}, {}, None)
    assert feed.take() == (7,)
    with pytest.warns(UserWarning, match="an iterator, which cannot go back"):
        feed.restore(state, {}, None)
    assert feed.take() == (8,)


class Counting(list):
    """Minibatches that know their place."""

    def state_dict(self):
        return {"place": "here"}

    def load_state_dict(self, state):
        self.loaded = state


def test_batches_that_know_their_place_are_not_gone_through():
    taken = []
    batches = Counting([(1,), (2,)])
    feed = Feed(batches, None)
    feed.take()
    later = Counting([(1,), (2,)])
    other = Feed(later, None)
    other.restore(feed.state(), {}, None)
    taken.append(other.take())
    assert later.loaded == {"place": "here"}
    assert taken == [(1,)]
    assert other.state() == {"batches": {"place": "here"}, "taken": 2, "begun": 0}


def test_a_state_that_json_cannot_hold_is_refused_in_words(tmp_path):
    class Odd(Counting):
        def state_dict(self):
            return {"place": torch.ones(1)}

    batches = Odd([(torch.zeros(4, 1), torch.ones(4, 1))])
    trainer = Trainer(MLP(1, width=4, depth=1), Regression(Linear()), batches, steps=1)
    with pytest.raises(TypeError, match=r"the state of batches.* must consist of numbers"):
        trainer.save(Checkpoints(tmp_path))


def test_lists_do_not_cost_a_look_at_the_generators():
    feed = Feed([(1,)], seeded())
    for _ in range(3):
        feed.take()
    assert feed.beginning() == ({}, None)


def test_a_checkpoint_from_before_minibatches_were_counted_is_continued():
    import json

    def make():
        batches = [(torch.full((2, 1), float(k)), torch.full((2, 1), 1.0)) for k in range(7)]
        network = MLP(1, width=4, depth=1, generator=seeded())
        return Trainer(network, Regression(Linear()), batches, steps=9, accumulate=2, averages=(0.9,))

    first = make()
    next(first)
    next(first)
    tensors, text = first.state()
    values = json.loads(text)
    for name in ("taken", "begun", "made_with", "decays"):
        del values[name]
    second = make()
    second.restore(tensors, json.dumps(values))
    assert second._feed.take()[0][0] == 4
    assert second.averages[0.9].updates == 2
