"""Averages of weights: the law written out, and whatever a network is made of."""

import copy

import pytest
import torch
from torch import nn

from interpolants.training import Average


class Weight(nn.Module):
    """A network of one number, and a buffer."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.weight * x

    def become(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
            self.seen.fill_(value)
        return self


def test_an_average_is_the_recurrence_written_out():
    network = Weight(5.0)
    average = Average(network, 0.4)
    expected = None
    for n, value in enumerate((3.0, -1.0, 7.0, 2.0, 11.0, 4.0, 8.0, 6.0)):
        average.update_parameters(network.become(value))
        decay = (0, 1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4)[n]
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-14)
    assert average.updates == 8
    assert int(average.n_averaged) == 8


def test_a_decay_of_zero_is_the_network_itself():
    network = Weight()
    average = Average(network, 0.0)
    for value in (1.0, 2.0, 5.0):
        average.update_parameters(network.become(value))
        assert average.module.weight.item() == value


def test_after_many_updates_the_weights_count_as_powers_of_the_decay():
    network = Weight()
    average = Average(network, 0.9)
    average.updates = 10_000
    average.module.become(1.0)
    for _ in range(5):
        average.update_parameters(network.become(0.0))
    assert average.module.weight.item() == pytest.approx(0.9**5, rel=1e-14)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_outside_the_unit_interval_are_refused(decay):
    with pytest.raises(ValueError, match="a decay must lie in"):
        Average(Weight(), decay)


def test_buffers_are_the_network_s_own():
    network = Weight()
    average = Average(network, 0.9)
    for value in (1.0, 4.0):
        average.update_parameters(network.become(value))
        assert average.module.seen.item() == value
    assert average.module.seen is not network.seen


def test_a_network_in_training_is_left_alone():
    network = Weight(2.0)
    average = Average(network, 0.5)
    average.update_parameters(network)
    average.update_parameters(network.become(4.0))
    assert network.weight.item() == 4.0
    assert network.weight.requires_grad
    assert not any(p.requires_grad for p in average.parameters())
    assert not average(torch.ones(1, dtype=torch.float64)).requires_grad


class Cached(nn.Module):
    """A network that makes buffers when it is called, and enlarges them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("grown", torch.ones(1), persistent=False)
        self.inner = nn.Module()

    def forward(self, x):
        if len(self.grown) < len(x):
            self.grown = torch.arange(float(len(x)))
            self.inner.register_buffer("made", torch.full((2,), 3.0), persistent=False)
        return self.scale * self.grown[: len(x)] * x


def test_buffers_made_or_enlarged_in_a_call_are_followed():
    network = Cached()
    average = Average(network, 0.9)
    average.update_parameters(network)
    network(torch.ones(5))
    average.update_parameters(network)
    assert torch.equal(average.module.grown, network.grown)
    assert torch.equal(average.module.inner.made, network.inner.made)
    network.inner.made.zero_()
    assert average.module.inner.made.sum() == 6
    assert average.module.state_dict().keys() == network.state_dict().keys() == {"scale"}


def test_shared_complex_low_precision_and_whole_numbers_are_averaged_or_kept():
    network = nn.Module()
    network.a = nn.Linear(2, 2)
    network.b = nn.Linear(2, 2)
    network.b.weight = network.a.weight
    network.low = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    network.turned = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    network.codes = nn.Parameter(torch.tensor([1, 2], dtype=torch.int8), requires_grad=False)
    average = Average(network, 0.5)
    average.update_parameters(network)
    first = copy.deepcopy(network.a.weight)
    with torch.no_grad():
        network.low.fill_(2.0)
        network.turned.fill_(1j)
        network.a.weight.add_(1.0)
    average.update_parameters(network)
    assert average.module.a.weight is average.module.b.weight
    # At the second update a tenth is kept.
    torch.testing.assert_close(average.module.a.weight, first + 0.9, rtol=1e-6, atol=1e-6)
    assert torch.equal(average.module.low, torch.full((2,), 1.8, dtype=torch.bfloat16))
    torch.testing.assert_close(average.module.turned, torch.full((2,), 0.9j))
    assert average.module.codes.tolist() == [1, 2]


def test_an_average_does_not_drop_anything():
    network = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))
    average = Average(network, 0.9)
    average.update_parameters(network)
    x = torch.ones(3, 4)
    assert network.training
    assert torch.equal(average(x), average(x))
