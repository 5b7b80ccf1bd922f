import math

import pytest
import torch
from torch import nn

from interpolants import MLP


def test_default_for_the_plane_has_4_hidden_layers_of_64():
    network = MLP(dim=2)
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (3, 64), (64, 64), (64, 64), (64, 64), (64, 2),
    ]  # fmt: skip
    assert sum(isinstance(layer, nn.ReLU) for layer in network.layers) == 4
    # 3*64 + 64 = 256, three times 64*64 + 64 = 4160, and 64*2 + 2 = 130.
    assert sum(p.numel() for p in network.parameters()) == 256 + 3 * 4160 + 130 == 12866


@pytest.mark.parametrize(("shape", "dim"), [((5, 2), 2), ((5, 1), 1), ((4, 3, 2, 2), 12), ((1, 6, 1), 6)])
def test_the_answer_has_the_shape_of_x(shape, dim, generator):
    network = MLP(dim, width=8, depth=2)
    x, t = torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator)
    answer = network(t, x)
    assert answer.shape == shape
    torch.testing.assert_close(answer.flatten(1), network(t, x.flatten(1)), rtol=0, atol=0)


def test_another_out_dim_gives_rows_of_it():
    network = MLP(4, width=8, depth=1, out_dim=3)
    assert network(torch.zeros(5), torch.zeros(5, 1, 2, 2)).shape == (5, 3)


def test_the_network_is_its_layers_after_position_and_time(generator):
    network = MLP(2, width=5, depth=1, activation=nn.Tanh, frequencies=2, generator=generator)
    t, x = torch.tensor([0.1, 0.7]), torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    features = [
        [*row, s] + [f(2 * math.pi * k * s) for f in (math.sin, math.cos) for k in (1, 2)]
        for row, s in zip(x.tolist(), t.tolist(), strict=True)
    ]
    first, last = network.layers[0], network.layers[2]
    assert first.in_features == 7
    expected = last(torch.tanh(first(torch.tensor(features))))
    # Single precision.
    torch.testing.assert_close(network(t, x), expected, rtol=1e-5, atol=1e-6)


def test_without_frequencies_time_itself_is_the_last_feature(generator):
    network = MLP(2, width=5, depth=1, generator=generator)
    first, _, last = network.layers
    features = torch.tensor([[0.3, -1.0, 0.1]])
    expected = last(torch.relu(first(features)))
    torch.testing.assert_close(network(torch.tensor([0.1]), features[:, :2]), expected, rtol=0, atol=0)


def test_initial_weights_are_reproduced_by_the_generator_and_leave_the_global_one_alone():
    def draw(seed):
        return nn.utils.parameters_to_vector(
            MLP(2, generator=torch.Generator().manual_seed(seed)).parameters()
        ).detach()

    # nn.Linear draws its own weights from the global generator before they are drawn again.
    state = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.get_rng_state())


def test_initial_weights_follow_the_law_of_linear_layers():
    network = MLP(2, width=400, depth=2, generator=torch.Generator().manual_seed(0))
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in (layer.weight, layer.bias):
                assert parameter.abs().max() <= bound
                if parameter.numel() > 300:
                    # The largest of 300 uniform draws is below 0.95 of the bound once in 5 million.
                    assert parameter.abs().max() > 0.95 * bound


def test_double_precision_is_kept(generator):
    network = MLP(2, frequencies=3, generator=generator).double()
    t, x = torch.rand(4, dtype=torch.float64, generator=generator), torch.ones(4, 2, dtype=torch.float64)
    assert network(t, x).dtype == torch.float64
    assert network(t.float(), x).dtype == torch.float64


@pytest.mark.parametrize("sizes", [{"dim": 0}, {"width": 0}, {"depth": 0}, {"frequencies": -1}, {"dim": -2}])
def test_sizes_out_of_range_are_refused(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must (be at least 1|not be negative)"):
        MLP(**{"dim": 2, **sizes})


@pytest.mark.parametrize("out_dim", [0, -1])
def test_an_answer_of_no_elements_is_refused(out_dim):
    with pytest.raises(ValueError, match="out_dim"):
        MLP(2, out_dim=out_dim)


@pytest.mark.parametrize("shape", [(4, 3), (2,), (4, 2, 2)])
def test_rows_of_another_length_are_refused(shape):
    with pytest.raises(ValueError, match="2 elements a row"):
        MLP(2)(torch.zeros(4), torch.zeros(shape))
